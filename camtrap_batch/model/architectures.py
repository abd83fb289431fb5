"""Networks by name, from torchvision or timm, with a head for our classes."""

from __future__ import annotations

import difflib
import functools
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit
from urllib.request import getproxies

import safetensors
import safetensors.torch
import torch
import torchvision.models
import torchvision.transforms
from torch import nn

from camtrap_batch.errors import InputError, JobError
from camtrap_batch.images.framing import Framing, Interpolation, Resize
from camtrap_batch.model.names import check_architecture

_PATIENCE_S = 10.0
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

_OPTIONS: dict[str, dict[str, Any]] = {
    # Without auxiliary heads the answer is a single tensor; the input is normalised as for the others.
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": True},
}
_CROP_MODES: dict[str, Resize] = {"center": "crop", "squash": "squash", "border": "letterbox"}
"""timm's names for what `Framing` can do."""

_INTERPOLATION: dict[str, Interpolation] = {name: name for name in get_args(Interpolation)}

_PLAIN: list[Any] = [
    set,
    torchvision.transforms.InterpolationMode,
    torchvision.transforms.CenterCrop,
    torchvision.transforms.Compose,
    torchvision.transforms.Normalize,
    torchvision.transforms.Resize,
    torchvision.transforms.ToTensor,
]
"""Plain classes that weights files may hold besides tensors: how pictures were prepared, as in
DeepFaune's."""

_NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs store the weights in a file that holds more."""


@functools.cache
def known_architectures() -> tuple[str, ...]:
    """Names that `train.arch` may have: torchvision's classification models, then timm's, sorted."""
    import timm

    names = torchvision.models.list_models(module=torchvision.models)
    return tuple(sorted({*names, *timm.list_models()}))


def create_model(
    arch: str, n_classes: int, weights: str = "none", size: int = 224, pool: str | None = None
) -> nn.Module:
    """A network that answers `n_classes` logits to images of `size` x `size` pixels.

    Parameters
    ----------
    arch
        One of `known_architectures()`, or a timm name with its tag, such as "resnet34.a1_in1k".
    n_classes
        Outputs of the head.
    weights
        "none" (random), "imagenet" (downloaded), or a file: .safetensors, or a torch state dict, which is
        read without running code. The head is left random if it doesn't fit.
    size
        Side of the square input, in pixels.
    pool
        What the last layer of a timm network reads (its `global_pool`); None: as timm builds it.

    Raises
    ------
    JobError
        The name is not known, or the network can't take images of this size, or be read in this way.
    InputError
        The weights can't be downloaded or read, or are another network's.
    """
    check_architecture(arch)
    try:
        network = _build(arch, n_classes, size, pool)
        _try(network, n_classes, size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        if pool is not None:
            raise JobError(f"train.pool: {arch} can't be built with the pool {pool!r}: {reason}") from None
        raise JobError(f"train.size: {arch} can't take images of {size} x {size} pixels: {reason}") from None
    if weights == "imagenet":
        _fit(network, published_state(arch, size), f"train.weights: imagenet for {arch}")
    elif weights != "none":
        _fit(network, read_state(Path(weights), "train.weights: "), f"train.weights: {weights}")
    return network


@dataclass(frozen=True)
class Evaluation:
    """How a network's published weights were evaluated: `framing`, mean and std per channel (0 to 1)."""

    framing: Framing
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD


def evaluation(arch: str, size: int | None = None) -> Evaluation:
    """How torchvision or timm evaluates a network's published weights.

    If neither has weights for it: the whole picture squeezed to 224 pixels, ImageNet's mean and std.

    Parameters
    ----------
    size
        Side of the square, if it should differ from the published one.
    """
    if _in_torchvision(arch):
        weights = next(iter(reversed(list(torchvision.models.get_model_weights(arch)))), None)
        if weights is None:
            return Evaluation(Framing(size or 224))
        how = weights.transforms()
        cut, resized = int(how.crop_size[0]), int(how.resize_size[0])
        framing = Framing(size or cut, "crop", cut / resized, _INTERPOLATION[how.interpolation.value])
        return Evaluation(framing, tuple(how.mean), tuple(how.std))
    import timm

    published = timm.get_pretrained_cfg(arch)
    if published is None:
        return Evaluation(Framing(size or 224))
    framing = Framing(
        size or int(published.input_size[-1]),
        _CROP_MODES[published.crop_mode],
        float(published.crop_pct),
        _INTERPOLATION.get(published.interpolation, "bicubic"),  # "random" in training
    )
    return Evaluation(framing, tuple(map(float, published.mean)), tuple(map(float, published.std)))


def head_parameters(network: nn.Module) -> set[str]:
    """Names of the parameters of the last layer, the one that depends on the classes."""
    if hasattr(network, "get_classifier"):  # timm's; several layers in distilled networks
        found: Any = network.get_classifier()  # type: ignore[operator]
        layers = list(found) if isinstance(found, tuple | list) else [found]
    else:
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1:]
    ours = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return {name for name, parameter in network.named_parameters() if id(parameter) in ours}


def recipe(arch: str, size: int) -> tuple[str, dict[str, Any]]:
    """Which library builds a network, "torchvision" or "timm", and with which options besides its classes."""
    if not _in_torchvision(arch):
        return "timm", _fixed_size(arch, size)
    options = dict(_OPTIONS.get(arch, {}))
    if arch.startswith("vit_"):
        options["image_size"] = size
    elif arch.startswith("maxvit"):
        options["input_size"] = (size, size)
    return "torchvision", options


def read_state(path: Path, what: str = "") -> Mapping[str, torch.Tensor]:
    """The tensors of a .safetensors file or a torch state dict by name; no code in the file is run.

    A state dict may be under a key of its own, as training programs store it along with other things. `what`
    begins the messages.

    Raises
    ------
    InputError
        There is no such file, or it holds anything other than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(_PLAIN):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{what}{path}: no such file") from None
    except Exception as problem:  # a wrong file fails anywhere in zip, pickle or tensor reading
        # torch's own text advises loading the file as code: not repeated here.
        raise InputError(
            f"{what}{path}: not a file of weights ({type(problem).__name__}):"
            " should be .safetensors, or a torch state dict that holds only tensors"
        ) from None
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise InputError(f"{what}{path}: should hold a state dict, it holds a {type(state).__name__}")
    return {
        str(name).removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def without_prefix(
    state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """The tensors without a common prefix of their names, as for a network inside another one
    (`base_model.`)."""
    first = next(iter(own))
    for name in state:
        if name.endswith(f".{first}"):
            prefix = name.removesuffix(first)
            if all(other.startswith(prefix) for other in state):
                return {other.removeprefix(prefix): value for other, value in state.items()}
    return state


def nearest(
    name: str,
    value: torch.Tensor,
    there: Mapping[str, torch.Tensor],
    known: Mapping[str, torch.Tensor],
) -> str:
    """What exists instead of the tensor `name`: the tensor of its shape with the most similar name."""
    free = [other for other in there if other not in known and there[other].shape == value.shape]
    near = difflib.get_close_matches(name, free, n=1, cutoff=0.0)
    return f"; the nearest of its shape {tuple(value.shape)} is {near[0]}" if near else ""


def _in_torchvision(arch: str) -> bool:
    return arch in torchvision.models.list_models(module=torchvision.models)


def _build(arch: str, n_classes: int, size: int, pool: str | None) -> nn.Module:
    library, options = recipe(arch, size)
    if library == "torchvision":
        if pool is not None:
            raise ValueError("torchvision's networks have only one way")
        network: nn.Module = torchvision.models.get_model(
            arch, weights=None, num_classes=n_classes, **options
        )
        return network
    import timm

    if pool is not None:
        options["global_pool"] = pool
    return timm.create_model(arch, num_classes=n_classes, **options)


def _fixed_size(arch: str, size: int) -> dict[str, Any]:
    """timm's networks that are built for one input size must be told which."""
    import timm

    published = timm.get_pretrained_cfg(arch)
    return {"img_size": size} if published is not None and published.fixed_input_size else {}


def _try(network: nn.Module, n_classes: int, size: int) -> None:
    network.eval()
    with torch.inference_mode():
        answer = network(torch.zeros(1, 3, size, size))
    if tuple(answer.shape) != (1, n_classes):
        raise ValueError(f"the answer has shape {tuple(answer.shape)}")


def check_published(arch: str) -> None:
    """Raise InputError if the published weights of a network are neither on this machine nor available.

    Nothing is downloaded: this checks whether they were before, or else whether their server can be reached.
    """
    remedy = "use weights: none, or a FILE of weights"
    if _in_torchvision(arch):
        published = next(iter(reversed(list(torchvision.models.get_model_weights(arch)))), None)
        if published is None:
            raise InputError(f"train.weights: torchvision has no weights for {arch}; {remedy}")
        url = str(published.url)
        folder, name = Path(torch.hub.get_dir(), "checkpoints"), Path(urlsplit(url).path).name
        is_here = (folder / name).is_file()
    else:
        import timm
        from huggingface_hub import constants

        if not timm.list_pretrained(f"{arch.partition('.')[0]}.*"):
            raise InputError(f"train.weights: timm has no weights for {arch}; {remedy}")
        config = timm.get_pretrained_cfg(arch)
        source = (config.hf_hub_id or "") if config is not None else ""
        url, folder = constants.ENDPOINT, Path(constants.HF_HUB_CACHE)
        is_here = bool(source) and (folder / f"models--{source.replace('/', '--')}").is_dir()
    if is_here or getproxies():  # only a proxy knows what it can reach
        return
    host = urlsplit(url).hostname or ""
    try:
        socket.create_connection((host, urlsplit(url).port or 443), timeout=_PATIENCE_S).close()
    except OSError as problem:
        raise InputError(
            f"train.weights: imagenet for {arch}: not in {folder}, and {host} can't be reached: "
            f"{problem.strerror or problem}; {remedy}"
        ) from None


def published_state(
    arch: str, size: int, what: str = "train.weights: imagenet"
) -> Mapping[str, torch.Tensor]:
    """The published weights of a network, downloaded. Raises InputError, beginning with `what`."""
    remedy = "use weights: none, or a FILE of weights"
    try:
        if _in_torchvision(arch):
            published = next(iter(reversed(list(torchvision.models.get_model_weights(arch)))), None)
            if published is None:
                raise InputError(f"train.weights: torchvision has no weights for {arch}; {remedy}")
            state: Mapping[str, torch.Tensor] = published.get_state_dict(progress=False, check_hash=True)
            return state
        import timm

        if not timm.list_pretrained(f"{arch.partition('.')[0]}.*"):
            raise InputError(f"train.weights: timm has no weights for {arch}; {remedy}")
        # Built with its own head, so that timm resizes position embeddings but keeps the tensors' names.
        pretrained: nn.Module = timm.create_model(arch, pretrained=True, **_fixed_size(arch, size))
        return pretrained.state_dict()
    except InputError:
        raise
    except Exception as problem:  # each library and its HTTP client has its own errors for "no network"
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise InputError(f"{what} for {arch} can't be downloaded: {reason}; {remedy}") from None


def _fit(network: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load into `network` what fits; only the head may not."""
    own = network.state_dict()
    state = without_prefix(state, own)
    head = head_parameters(network)
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    for name in own:
        if name in fitting or name in head or name.endswith("num_batches_tracked"):
            continue
        has = f"has shape {tuple(state[name].shape)}" if name in state else "is not there"
        raise InputError(
            f"{what}: weights of another network or input size: {name} {has},"
            f" should have shape {tuple(own[name].shape)}"
            + ("" if name in state else nearest(name, own[name], state, own))
        )
    if not head.issubset(fitting):
        fitting = {name: value for name, value in fitting.items() if name not in head}
    network.load_state_dict(fitting, strict=False)
