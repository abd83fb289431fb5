"""Networks that timm and torchvision publish, as model folders that give the answers of the original.

What is written is held against the original, seen through its library's own transforms, before it is called
done. No code of a weights file is run.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import nn

from camtrap_batch.errors import InputError, choices
from camtrap_batch.model.architectures import evaluation, published_state, read_state, recipe
from camtrap_batch.model.imports import describe_model, import_state
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.predictor import Predictor

Library = Literal["timm", "torchvision"]

SAME_TOP1 = 0.95
"""The part of the test pictures on which the import's top class has to be the original's."""

MOST_DIFFERENCE = 0.03
"""Most that the confidence of the original's top class may differ, on average."""


@dataclass(frozen=True)
class Comparison:
    """An import beside its original.

    Attributes
    ----------
    n : pictures compared
    same : of them, those with the same top class
    difference : of the confidence of the original's top class, mean
    """

    n: int
    same: int
    difference: float

    @property
    def agrees(self) -> bool:
        return self.same >= SAME_TOP1 * self.n and self.difference <= MOST_DIFFERENCE

    def __str__(self) -> str:
        return (
            f"the original's top class on {self.same} of {self.n} pictures, "
            f"confidence {self.difference:.3f} apart on average"
        )


def import_published(
    library: Library,
    name: str,
    weights: Path | None,
    classes: Sequence[str] | None,
    parent: str | Path,
    pictures: Sequence[bytes],
) -> tuple[ModelInfo, Comparison]:
    """Write a network of timm's or torchvision's as a model folder `<parent>/<model id>`.

    Parameters
    ----------
    name
        As the library calls it; timm's may have a tag, such as "resnet34.a1_in1k".
    weights
        File of weights (.safetensors, or a torch state dict); None: those that the library publishes, which
        are downloaded.
    classes
        Labels, in the order of the outputs; None: those that the weights are published with (ImageNet's).
    pictures
        Image files' bytes to compare on, two or more.

    Raises
    ------
    InputError
        The name, the weights or the classes are not what they should be, or don't fit each other; or what
        was written answers otherwise than the original.
    """
    arch = _arch(library, name)
    where = str(weights) if weights is not None else f"{library}'s {name}"
    if weights is not None:
        state = read_state(weights)
    else:
        state = published_state(arch, evaluation(arch).framing.size, f"{library}: the weights")
    labels = list(classes) if classes is not None else _published_classes(library, arch)
    content = {
        "arch": arch,
        "classes": labels,
        "provenance": {"library": library, "name": name, "weights": weights.name if weights else "published"},
    }
    info = describe_model(where, content)
    info = import_state("--classes", info, state, where, parent)
    folder = Path(parent) / info.model_id
    theirs = _original(library, arch, state, len(labels), pictures)
    ours = Predictor(folder, "cpu", precision=torch.float32).predict(pictures)
    rows, top = np.arange(len(pictures)), theirs.argmax(1)
    compared = Comparison(
        len(pictures),
        int((ours.argmax(1) == top).sum()),
        float(np.abs(ours[rows, top] - theirs[rows, top]).mean()),
    )
    if not compared.agrees:
        raise InputError(f"{where}: what was written does not answer as the original does: {compared}")
    return info, compared


def _arch(library: Library, name: str) -> str:
    """The name under which `model.json` finds the network: torchvision's where both have one of that name."""
    if library == "torchvision":
        from torchvision import models
        from torchvision.models import list_models

        known = list_models(module=models)
        if name not in known:
            raise InputError(f"torchvision has no classifier {name!r}; {choices(name, known)}")
        return name
    import timm

    published = timm.get_pretrained_cfg(name)
    if name.partition(".")[0] not in timm.list_models():
        raise InputError(f"timm has no network {name!r}; {choices(name, timm.list_models())}")
    if recipe(name, 224)[0] == "timm":
        return name
    if published is None or not published.tag:
        raise InputError(f"timm: {name} has no tag, and torchvision has a {name} too: import it from there")
    return f"{name}.{published.tag}"


def _published_classes(library: Library, arch: str) -> list[str]:
    if library == "torchvision":
        from torchvision.models import get_model_weights

        return list(next(iter(reversed(list(get_model_weights(arch))))).meta["categories"])
    import timm
    import timm.data.imagenet_info

    published = timm.get_pretrained_cfg(arch)
    if published is None or published.num_classes != 1000:
        raise InputError(f"timm does not say which classes {arch} has: give --classes FILE")
    known = timm.data.imagenet_info.ImageNetInfo()
    names = [known.index_to_description(number).partition(",")[0] for number in range(1000)]
    twice = Counter(names)
    return [
        label if twice[label] == 1 else f"{label} ({known.index_to_label_name(number)})"
        for number, label in enumerate(names)
    ]


def _original(
    library: Library,
    arch: str,
    state: Mapping[str, torch.Tensor],
    n_classes: int,
    pictures: Sequence[bytes],
) -> npt.NDArray[np.float32]:
    """Probabilities (pictures, classes) of the library's own network behind its own transforms."""
    network: nn.Module
    transform: Any
    if library == "torchvision":
        from torchvision.models import get_model, get_model_weights

        _, options = recipe(arch, 224)
        network = get_model(arch, weights=None, num_classes=n_classes, **options)
        transform = next(iter(reversed(list(get_model_weights(arch))))).transforms()
    else:
        import timm
        import timm.data

        network = timm.create_model(arch, pretrained=False, num_classes=n_classes)
        library_data: Any = timm.data
        settings = library_data.resolve_model_data_config(network)
        transform = library_data.create_transform(**settings, is_training=False)
    network.load_state_dict(
        {name: state[name] for name in network.state_dict() if name in state}, strict=False
    )
    network.eval()
    found = []
    with torch.inference_mode():
        for data in pictures:
            with Image.open(io.BytesIO(data)) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
            found.append(torch.softmax(network(transform(picture)[None])[0], 0).numpy())
    return np.stack(found)
