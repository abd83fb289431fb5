"""Networks published by timm and torchvision, as model folders that answer like the original.

What is written is compared with the original, with its library's own transforms, before it counts as done. No
code in a weights file is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from camtrap_batch.errors import InputError, JobError, choices
from camtrap_batch.model.architectures import (
    create_model,
    evaluation,
    published_state,
    read_state,
    recipe,
    without_prefix,
)
from camtrap_batch.model.importers.base import Comparison
from camtrap_batch.model.importers.libraries import Library
from camtrap_batch.model.importers.originals import as_described, open_upright
from camtrap_batch.model.imports import describe_model, import_state, require_pool
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.predictor import Predictor


def import_published(
    library: Library,
    name: str,
    weights: Path | None,
    classes: Sequence[str] | None,
    parent: str | Path,
    pictures: Sequence[bytes],
    described: Mapping[str, Any] | None = None,
) -> tuple[ModelInfo, Comparison]:
    """Write a network of timm or torchvision as a model folder `<parent>/<model id>`.

    Parameters
    ----------
    name
        The library's name for it; timm's may have a tag, such as "resnet34.a1_in1k".
    weights
        File of weights (.safetensors, or a torch state dict); None: those that the library publishes, which
        are downloaded.
    classes
        Labels, in the order of the outputs; None: those of the published weights (ImageNet's).
    pictures
        Image files' bytes to compare on, two or more.
    described
        Keys of `model.json` that say how the model needs its pictures, if that differs from the library's own
        evaluation.

    Raises
    ------
    InputError
        The name, the weights or the classes are not what they should be, or don't fit each other; or what was
        written does not answer like the original.
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
        "provenance": {
            "library": library,
            "name": name,
            "weights": weights.name if weights else "published",
            **({} if weights or not (terms := licence_of(library, arch)) else {"licence": terms}),
        },
        **(described or {}),
    }
    info = describe_model(where, content)
    require_pool(info, where)
    ours = _create(arch, len(labels), info, where)
    state = without_prefix(state, ours.state_dict())
    info = import_state("--classes", info, _of_that_size(state, ours), where, parent)
    folder = Path(parent) / info.model_id
    is_own = not set(described or {}) - {"pool"}
    theirs = _original(library, arch, state, info, pictures, is_own=is_own)
    answers = Predictor(folder, "cpu", precision=torch.float32).predict(pictures)
    compared = Comparison.of(answers, theirs)
    compared.require(where)
    return info, compared


def licence_of(library: Library, arch: str) -> str | None:
    """Licence of the weights that timm publishes, as timm gives it; None for torchvision's."""
    if library == "torchvision":
        return None
    import timm

    published = timm.get_pretrained_cfg(arch)
    return published.license if published is not None else None


def _create(arch: str, n_classes: int, info: ModelInfo, where: str) -> nn.Module:
    try:
        return create_model(arch, n_classes, size=info.size, pool=info.pool)
    except JobError as problem:
        raise InputError(f"{where}: {str(problem).removeprefix('train.')}") from None


def _of_that_size(state: Mapping[str, torch.Tensor], network: nn.Module) -> Mapping[str, torch.Tensor]:
    """The state, adapted to the network's size of pictures: position embeddings are resampled as in timm."""
    own = network.state_dict().get("pos_embed")
    given = state.get("pos_embed")
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if own is None or given is None or grid is None or own.shape == given.shape:
        return state

    n_prefix = int(getattr(network, "num_prefix_tokens", 1))
    n_positions = given.shape[1] - (0 if getattr(network, "no_embed_class", False) else n_prefix)
    if given.ndim != 3 or int(n_positions**0.5) ** 2 != n_positions:
        return state
    import timm.layers

    layers: Any = timm.layers
    resampled = layers.resample_abs_pos_embed(
        given, new_size=list(grid), num_prefix_tokens=given.shape[1] - n_positions
    )
    return {**state, "pos_embed": resampled}


def _arch(library: Library, name: str) -> str:
    """The name under which `model.json` finds the network: torchvision's if both libraries have that name."""
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
    import timm.data.imagenet_info as imagenet

    published = timm.get_pretrained_cfg(arch)
    subset = imagenet.infer_imagenet_subset(published) if published is not None else None
    if published is None or subset is None:
        raise InputError(f"timm does not say which classes {arch} has: give --classes FILE")
    known = imagenet.ImageNetInfo(subset)
    numbers = range(published.num_classes)
    names = [known.index_to_description(number).partition(",")[0] for number in numbers]
    twice = Counter(names)
    return [
        label if twice[label] == 1 else f"{label} ({known.index_to_label_name(number)})"
        for number, label in enumerate(names)
    ]


def _original(
    library: Library,
    arch: str,
    state: Mapping[str, torch.Tensor],
    info: ModelInfo,
    pictures: Sequence[bytes],
    *,
    is_own: bool,
) -> npt.NDArray[np.float32]:
    """Probabilities (pictures, classes) of the library's own network after its own transforms.

    If the model needs pictures prepared differently, torchvision's transforms are used for that.
    """
    network: nn.Module
    transform: Any
    if library == "torchvision":
        from torchvision.models import get_model, get_model_weights

        _, options = recipe(arch, info.size)
        network = get_model(arch, weights=None, num_classes=len(info.classes), **options)
        transform = next(iter(reversed(list(get_model_weights(arch))))).transforms()
    else:
        import timm
        import timm.data

        # Built for the size in the file, whatever the pictures' size is.
        options = {"dynamic_img_size": True} if "pos_embed" in state and not is_own else {}
        options |= {} if info.pool is None else {"global_pool": info.pool}
        network = timm.create_model(arch, pretrained=False, num_classes=len(info.classes), **options)
        library_data: Any = timm.data
        settings = library_data.resolve_model_data_config(network)
        transform = library_data.create_transform(**settings, is_training=False)
    if not is_own:
        transform = as_described(info)
    network.load_state_dict(
        {name: state[name] for name in network.state_dict() if name in state}, strict=False
    )
    network.eval()
    found = []
    with torch.inference_mode():
        for data in pictures:
            found.append(torch.softmax(network(transform(open_upright(data))[None])[0], 0).numpy())
    return np.stack(found)
