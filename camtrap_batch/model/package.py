"""A model as a folder: saved completely or not at all, loaded without running code. See `info` for its
files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors.torch
import torch
from torch import nn

from camtrap_batch.errors import InputError, JobError, StorageError
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.info import (
    CARD,
    HISTORY,
    LR_FIND,
    METRICS,
    ONNX_ARCH,
    ModelInfo,
    model_id,
    read_info,
)
from camtrap_batch.model.onnx import OnnxClassifier

_LIBRARIES = ("camtrap-batch", "torch", "torchvision", "timm", "fastai", "numpy", "pillow", "simplejpeg")


def save_model(
    parent: str | Path,
    network: nn.Module,
    info: ModelInfo,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    lr_find: Sequence[Mapping[str, Any]] = (),
    pictures: Mapping[str, str] = MappingProxyType({}),
) -> ModelInfo:
    """Write a model folder `<parent>/<model id>`, completely or not at all.

    Parameters
    ----------
    parent
        Folder of models; created if it is missing.
    network
        The network; its weights are written in float32.
    info
        What is known about it; `model_id` and `versions` are filled in here.
    metrics, history, lr_find
        Contents of metrics.json, history.csv and lr_find.csv (left out if empty).
    pictures
        File name -> SVG.

    Returns
    -------
    `info` with the model id. An existing folder with this id is left as it is.

    Raises
    ------
    StorageError
        The folder can't be written.
    """
    state = {
        name: (value.float() if value.is_floating_point() else value)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    return _save(Path(parent), safetensors.torch.save(state), info, metrics, history, lr_find, pictures)


def save_onnx(parent: str | Path, network: bytes, info: ModelInfo) -> ModelInfo:
    """Write a model folder whose network is an ONNX file; otherwise like `save_model`."""
    return _save(Path(parent), network, info, info.metrics, [])


def _save(
    parent: Path,
    weights: bytes,
    info: ModelInfo,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    lr_find: Sequence[Mapping[str, Any]] = (),
    pictures: Mapping[str, str] = MappingProxyType({}),
) -> ModelInfo:
    info = dataclasses.replace(info, versions=_versions())
    info = dataclasses.replace(info, model_id=model_id(hashlib.sha256(weights).hexdigest(), info))
    final = parent / info.model_id
    temporary: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            return read_info(final)
        # Beside its final place, so that the rename stays within one file system.
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=parent))
        temporary.chmod(0o755)
        (temporary / info.weights).write_bytes(weights)
        (temporary / CARD).write_text(info.to_json(), encoding="utf-8")
        (temporary / METRICS).write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", "utf-8")
        _write_csv(temporary / HISTORY, history)
        if lr_find:
            _write_csv(temporary / LR_FIND, lr_find)
        for name, picture in pictures.items():
            (temporary / name).write_text(picture, encoding="utf-8")
        try:
            temporary.rename(final)
        except OSError:
            if not final.exists():  # otherwise another process was first, with the same content
                raise
    except OSError as problem:
        raise StorageError(f"{final}: the model can't be written: {problem}") from problem
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return info


def load_model(folder: str | Path) -> tuple[nn.Module, ModelInfo]:
    """The network of a model folder, in evaluation mode on the CPU, and what is known about it.

    Raises
    ------
    InputError
        A file is missing, was changed since the model was saved, or does not hold this network's weights.
    """
    folder = Path(folder)
    info = read_info(folder)
    path = folder / info.weights
    try:
        weights = path.read_bytes()
    except OSError as problem:
        raise InputError(f"{path}: can't be read: {problem.strerror}") from None
    found = model_id(hashlib.sha256(weights).hexdigest(), info)
    if found != info.model_id:
        raise InputError(
            f"{folder}: {info.weights} or {CARD} was changed: the content's id is {found}, {CARD} says"
            f" {info.model_id}; copy the folder again, or train again"
        )
    if info.arch == ONNX_ARCH:
        return OnnxClassifier(path, info).eval(), info
    try:
        network = create_model(info.arch, len(info.classes), size=info.size, pool=info.pool)
        network.load_state_dict(safetensors.torch.load(weights))
    except (JobError, RuntimeError, safetensors.SafetensorError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise InputError(f"{path}: not the weights of a {info.arch} in this installation: {reason}") from None
    return network.eval(), info


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
