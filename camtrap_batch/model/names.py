"""Names of networks, checked without torch if they are usual ones: loading it takes a driver 5 s."""

from __future__ import annotations

import difflib

from camtrap_batch.errors import JobError, choices

USUAL = ("convnext_tiny", "efficientnet_v2_s", "resnet18", "resnet34", "resnet50")


def check_architecture(arch: str) -> None:
    """Refuse a name that neither torchvision nor timm knows, without building anything.

    Raises
    ------
    JobError
        The name is unknown; the message has the nearest known one. Names that would fetch a model's code or
        description from elsewhere (`hf-hub:...`) count as unknown.
    """
    if arch in USUAL:
        return
    from camtrap_batch.model import known_architectures

    known = known_architectures()
    if arch in known:
        return
    import timm

    if arch not in timm.list_pretrained():
        near = difflib.get_close_matches(arch, known, n=6)
        raise JobError(
            f"train.arch: {arch!r} is not one of the {len(known)} architectures that torchvision and timm "
            f"know; {choices(arch, [*near, *USUAL])}, ..."
        )
