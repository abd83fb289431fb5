"""Models trained by other programs: weights beside a `model.json` that says what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camtrap_batch.errors import InputError, JobError, choices
from camtrap_batch.images.framing import Framing
from camtrap_batch.model.architectures import (
    Evaluation,
    create_model,
    evaluation,
    head_parameters,
    nearest,
    read_state,
)
from camtrap_batch.model.info import (
    CARD,
    CLASSIFIER,
    FORMAT,
    ONNX_ARCH,
    ModelInfo,
    parse_info,
    read_card,
)
from camtrap_batch.model.names import check_architecture
from camtrap_batch.model.onnx import look, side_of
from camtrap_batch.model.package import save_model, save_onnx
from camtrap_batch.runtime import needs_code, read_onnx

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_KEYS = (
    "format", "arch", "classes", "category_ids", "size", "mean", "std", "temperature", "provenance",
    "versions", "metrics", "weights", "resize", "crop_pct", "interpolation", "antialias", "boxes", "trim",
    "on", "pool",
)  # fmt: skip
_ONNX_KEYS = (
    "classes", "category_ids", "size", "mean", "std", "temperature", "outputs", "resize", "crop_pct",
    "interpolation", "antialias", "boxes", "trim", "provenance", "file",
)  # fmt: skip
_MOST_NAMED = 3
_READ_TWO_WAYS = ("dinov3", "eupe")
"""Parts of names of timm networks that their makers read differently from how timm builds them."""
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")
"""Parts of GoogLeNet and Inception that are used only in training."""


def import_model(folder: str | Path, parent: str | Path) -> ModelInfo:
    """Write weights from elsewhere as a model folder `<parent>/<model id>`.

    Parameters
    ----------
    folder
        Holds a `model.json` with at least `arch` and `classes` (labels, in the order of the outputs), and one
        file of weights: .safetensors, or a torch state dict. `weights` in `model.json` names the file if
        there are several. Other keys of a model folder's `model.json` may be given; without them, pictures
        are resized, cut and normalised as for the evaluation of the architecture's published weights, and the
        temperature is 1.
    parent
        Folder of models; created if it is missing.

    Returns
    -------
    What is known about the model, with its id.

    Raises
    ------
    InputError
        `model.json` or the weights are missing, are not what they should be, or don't fit each other.
        A file that would run code is refused.
    """
    folder = Path(folder)
    card = folder / CARD
    content = read_card(folder)
    info = describe_model(card, content)
    path = _weights_file(folder, content.get("weights"))
    return import_state(card, info, read_state(path), str(path), parent)


def import_state(
    card: str | Path, info: ModelInfo, state: Mapping[str, torch.Tensor], where: str, parent: str | Path
) -> ModelInfo:
    """Write tensors as a model folder `<parent>/<model id>`; `card` and `where` are for messages.

    Raises InputError if they are not a complete network of `info.arch` with finite numbers.
    """
    require_pool(info, where)
    try:
        network = create_model(info.arch, len(info.classes), size=info.size, pool=info.pool)
    except JobError as problem:
        raise InputError(f"{card}: {str(problem).removeprefix('train.')}") from None
    _load(network, state, f"{where}: not the weights of a {info.arch}", info, card)
    return save_model(parent, network, info, info.metrics, [])


def require_pool(info: ModelInfo, where: str) -> None:
    """Raise InputError if neither the weights themselves nor `info` say what the last layer reads."""
    if info.pool is None and any(part in info.arch for part in _READ_TWO_WAYS):
        raise InputError(
            f"{where}: the last layer of {info.arch} may read the class token, as its makers do, or the mean "
            "of all patches, as timm builds it, and the weights fit both: say which it was trained with, "
            "pool: token or avg (--pool)"
        )


def describe_model(card: str | Path, content: Mapping[str, Any]) -> ModelInfo:
    """What a `model.json` says about a model from elsewhere; what it leaves out is as published.

    Raises InputError, beginning with `card`, if something in it is wrong.
    """
    for key in content:
        if key not in _KEYS:
            raise InputError(f"{card}: unknown key {key!r}; {choices(key, _KEYS)}")
    if content.get("format", FORMAT) != FORMAT:
        raise InputError(f'{card}: should say "format": {FORMAT}, or leave it out')
    if not content.get("arch"):
        raise InputError(f"{card}: should have 'arch': an architecture of torchvision or timm")
    arch = content["arch"]
    if not isinstance(arch, str):
        raise InputError(f"{card}: arch should be a name, it is {arch!r}")
    classes = check_classes(card, content.get("classes"))
    try:
        check_architecture(arch)
    except JobError as problem:
        raise InputError(f"{card}: {str(problem).removeprefix('train.')}") from None
    described = {key: value for key, value in content.items() if key not in ("format", "weights")}
    given = described.get("size")
    published = evaluation(arch, given if isinstance(given, int) and given > 0 else None)
    return _parse(
        card,
        {
            "category_ids": [[] for _ in classes],
            **asdict(published.framing),
            "mean": published.mean,
            "std": published.std,
            "temperature": 1.0,
            **described,
            "model_id": "",
        },
    )


def import_onnx(
    file: str | Path, content: Mapping[str, Any], parent: str | Path, card: str | Path
) -> ModelInfo:
    """Write an ONNX file as a model folder `<parent>/<model id>`.

    Parameters
    ----------
    content
        Content of a `classifier.json`: `classes` at least, and `size` if the file takes any. By default
        pictures are squeezed to the square, and normalised with ImageNet's mean and std; whether `outputs`
        are probabilities is tested.
    card
        Where the content is from, for messages.

    Raises
    ------
    InputError
        The file is not a classifier, or the numbers of classes and outputs differ.
    MissingExtra
        No runtime is installed.
    """
    file = Path(file)
    if file.is_file() and needs_code(file):
        raise InputError(f"{file}: {code_advice(file)}")
    network = read_onnx(file)
    info = describe_onnx(card, content, side_of(network, str(file)))
    found = look(file, network, info.size, len(info.classes), f"{file} with the classes of {card}")
    if content.get("outputs") is None:
        info = replace(info, outputs=found)
    elif info.outputs == "probabilities" != found:
        raise InputError(f"{card}: outputs: what {file.name} returns are not probabilities; should be logits")
    return save_onnx(parent, file.read_bytes(), info)


def describe_onnx(card: str | Path, content: Mapping[str, Any], side: int | None) -> ModelInfo:
    """What a `classifier.json` says; `side`: side of the pictures that the file takes, None for any.

    Raises InputError, beginning with `card`, if something in it is wrong.
    """
    for key in content:
        if key not in _ONNX_KEYS:
            raise InputError(f"{card}: unknown key {key!r}; {choices(key, _ONNX_KEYS)}")
    classes = check_classes(card, content.get("classes"))
    size = content.get("size", side)
    if not isinstance(size, int):
        raise InputError(
            f"{card}: should have 'size': the side of the square that the network sees, in pixels"
        )
    if side not in (None, size):
        raise InputError(f"{card}: size {size}: the network takes only pictures of {side} x {side}")
    published = Evaluation(Framing(size))
    described = {key: value for key, value in content.items() if key != "file" and value is not None}
    return _parse(
        card,
        {
            "category_ids": [[] for _ in classes],
            "mean": published.mean,
            "std": published.std,
            "temperature": 1.0,
            **described,
            "size": size,
            "arch": ONNX_ARCH,
            "model_id": "",
        },
    )


def import_onnx_folder(folder: str | Path, file: str | None, parent: str | Path) -> ModelInfo:
    """Write an ONNX file beside a `classifier.json` as a model folder; see `import_onnx`.

    Parameters
    ----------
    file
        Its name; None: the card's `file`, or the only ONNX file.
    """
    folder = Path(folder)
    card = folder / CLASSIFIER
    content = read_card(folder, CLASSIFIER)
    named = file or content.get("file")
    if named is None:
        found = sorted(path.name for path in folder.iterdir() if path.suffix == ".onnx")
        if len(found) != 1:
            names = ", ".join(found) or "none"
            raise InputError(f"{card}: should name one ONNX file beside it as file; there are {names}")
        named = found[0]
    if not isinstance(named, str) or Path(named).name != named:
        raise InputError(f"{card}: file should be the name of an ONNX file beside it, not {named!r}")
    return import_onnx(folder / named, content, parent, card)


def code_advice(path: Path) -> str:
    """The advice about a file that would run code when it is loaded."""
    name = path.name.lower()
    if "always_crop" in name or "full_image" in name:
        how = f"camtrap model import speciesnet {path.parent}"
    elif name.startswith("md"):
        how = f"camtrap model import megadetector {path}"
    else:
        how = f"camtrap model import timm|torchvision NAME {path}, or ultralytics {path}"
    return (
        "PyTorch weights, which run code of their own when loaded; should be a model folder or an ONNX "
        f"file, which this command writes: {how}"
    )


def check_classes(where: str | Path, classes: Any) -> list[str]:
    """The labels, which must be two or more different texts. Raises InputError."""
    if not classes:
        raise InputError(f"{where}: should have 'classes': a list of labels")
    if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
        raise InputError(
            f"{where}: classes should be a list of labels, in the order of the network's outputs"
        )
    if len(classes) < 2:
        raise InputError(f"{where}: classes should be two labels or more")
    twice = [label for label, number in Counter(classes).items() if number > 1]
    if twice:
        more = f", and {len(twice) - _MOST_NAMED} more" if len(twice) > _MOST_NAMED else ""
        named = ", ".join(map(repr, twice[:_MOST_NAMED]))
        raise InputError(f"{where}: classes should be all different; more than once: {named}{more}")
    return classes


def _parse(card: str | Path, content: dict[str, Any]) -> ModelInfo:
    try:
        info = parse_info(content)
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"{card}: not a model's description: {type(problem).__name__}: {problem}") from None
    if info.size < 1 or info.temperature <= 0 or min(info.std) <= 0:
        raise InputError(f"{card}: size, temperature and std should be above 0")
    return info


def _weights_file(folder: Path, name: Any) -> Path:
    if name is not None:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{folder / CARD}: weights should be the name of a file beside it, not {name!r}")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file, which {CARD} names as weights")
        return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    if not found:
        raise InputError(f"{folder}: no weights beside {CARD}; a file should end in {', '.join(_ENDINGS)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder / CARD}: name one file as weights, there are {names}")
    return found[0]


def _load(
    network: nn.Module, state: Mapping[str, torch.Tensor], what: str, info: ModelInfo, card: str | Path
) -> None:
    own, head = network.state_dict(), head_parameters(network)
    for name, value in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):
                continue
            raise InputError(f"{what}: {name} is not there{nearest(name, value, state, own)}")
        if state[name].shape != value.shape:
            of_classes = f", for the {len(info.classes)} classes of {Path(card).name}" if name in head else ""
            raise InputError(
                f"{what}: {name} has shape {tuple(state[name].shape)}, should have"
                f" {tuple(value.shape)}{of_classes}"
            )
        if not torch.isfinite(state[name]).all():
            raise InputError(f"{what}: {name} holds values that are not finite numbers")
    for name in state:
        if name not in own and not name.startswith(_TRAINING_ONLY):
            raise InputError(f"{what}: it has no {name}{nearest(name, state[name], own, state)}")
    network.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
