"""The models of a run: found by name, checked, kept in the run folder, fetched to this machine."""

from __future__ import annotations

import atexit
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, TypeVar
from xml.etree import ElementTree

from camtrap_batch.errors import InputError, MissingExtra, choices
from camtrap_batch.model.info import (
    CARD,
    CLASSIFIER,
    HISTORY,
    LR_FIND,
    METRICS,
    ONNX_ARCH,
    ONNX_FILE,
    WEIGHTS,
    ModelInfo,
    model_id,
    read_card,
    read_info,
)
from camtrap_batch.notices import say
from camtrap_batch.runtime import installed_runtimes, needs_code
from camtrap_batch.store import copies
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run

_MODEL_FILES = (WEIGHTS, ONNX_FILE, METRICS, HISTORY, LR_FIND, CARD)
"""Files of a model folder; the last one shows that the folder is complete."""

_IS_ID = re.compile("[0-9a-f]{16}")
_T = TypeVar("_T")


def find_model(run: Run, name: str, key: str = "infer.model") -> Folder:
    """The folder of the model that the job names: latest, a model id of this run, a folder, an ONNX file.

    `key`: the key of the job file, for messages.
    """
    trained = run.current("model")
    if name == "latest":
        if trained is None:
            raise InputError(
                f"{run.folder.url}: no model is trained yet; run train first, or set infer.model"
            )
        name = trained.meta["model_id"]
    if run.folder.exists(f"models/{name}/{CARD}"):
        return model_folder(run, name)
    is_ours = trained is not None and name == trained.meta["model_id"]
    if is_ours and not Path(name).exists():
        raise InputError(
            f"{run.folder.url}/models/{name}/{CARD}: is missing; copy the model there again, or have it "
            "trained again: camtrap train"
        )
    path = name if "://" in name else os.path.abspath(name)  # noqa: PTH100
    if path.lower().endswith(".onnx"):
        folder, _, file = path.rpartition("/")
        return as_model_folder(Folder(folder), file)
    if Path(path).is_file():
        from camtrap_batch.model.imports import code_advice

        is_code = needs_code(path)
        how = code_advice(Path(path)) if is_code else "should be a model folder, or end in .onnx"
        raise InputError(f"{key}: {path}: {how}")
    outside = Folder(path)
    if outside.exists(CARD) or outside.exists(CLASSIFIER):
        return as_model_folder(outside)
    if _IS_ID.fullmatch(name):
        possible = choices(name, ["latest", *run.folder.list("models")])
        raise InputError(f"{key}: no model {name!r}; {possible}")
    if "://" not in path and not Path(path).exists():
        what = "no such folder"
    else:
        what = f"it holds neither {CARD} nor {CLASSIFIER}"
    possible = choices(name, ["latest", *run.folder.list("models")])
    raise InputError(f"{key}: no model {path!r}: {what}; a model folder, an .onnx file, or {possible}")


@cache
def as_model_folder(model: Folder, file: str | None = None) -> Folder:
    """A folder of weights with a card, as a model folder: itself, or a copy if it was made elsewhere.

    The copy is kept until the program ends. Making it needs torch on the driver.

    Parameters
    ----------
    file
        Name of the ONNX file in it, if one was named.
    """
    here = fetch_model(model)
    is_onnx = file is not None or not (here / CARD).exists()
    if not is_onnx and "model_id" in read_card(here):
        return model
    from camtrap_batch.model import import_model, import_onnx_folder

    scratch = TemporaryDirectory(prefix="camtrap-model-")
    atexit.register(scratch.cleanup)
    made = import_onnx_folder(here, file, scratch.name) if is_onnx else import_model(here, scratch.name)
    return Folder(f"{scratch.name}/{made.model_id}")


def open_model(run: Run, name: str, key: str = "infer.model") -> tuple[Folder, ModelInfo]:
    """The model that the job names, checked to be complete, and what it says about itself."""
    model = find_model(run, name, key)
    info = read_info(fetch_model(model))
    if info.arch == ONNX_ARCH and not installed_runtimes():
        raise MissingExtra("onnx", f"classifying with {model.url}, a network in an ONNX file,")
    try:
        weights = model.read(info.weights)
    except FileNotFoundError:
        raise InputError(
            f"{model.url}/{info.weights}: no such file; a model folder holds it and {CARD}"
        ) from None
    if model_id(hashlib.sha256(weights).hexdigest(), info) != info.model_id:
        raise InputError(
            f"{model.url}: {info.weights} or {CARD} was changed since the model was saved; copy the folder "
            "again"
        )
    return model, info


def keep_model(run: Run, model: Folder, model_id: str) -> Folder:
    """The model in the run folder; a model from elsewhere is copied, so that the run stays complete."""
    kept = model_folder(run, model_id)
    if not kept.exists(CARD):
        for name in _MODEL_FILES:
            if model.exists(name):
                kept.write(name, model.read(name))
    return kept


def model_folder(run: Run, model_id: str) -> Folder:
    """Where a run keeps a model."""
    return Folder(f"{run.folder.url}/models/{model_id}")


@cache
def fetch_model(model: Folder) -> Path:
    """The model folder on this machine's disk; copied once per process if it is in a bucket."""
    if model.is_local:
        return model.local("")
    here = Path(mkdtemp(prefix="camtrap-model-")) / model.url.rpartition("/")[2]
    here.mkdir()
    for name in model.list(""):
        (here / name).write_bytes(model.read(name))
    return here


def file_model(folder: Folder, model: Path) -> dict[str, str]:
    """Store a model folder from this machine's disk in the run folder, unless it is already there, with
    second copies of its small files; returns the SHA-256 of each file, for the receipt."""
    hashes = {}
    for file in sorted(model.iterdir()):
        if file.name not in _MODEL_FILES and file.suffix != ".svg":
            continue
        data, path = file.read_bytes(), f"models/{model.name}/{file.name}"
        if not folder.is_local:
            folder.write(path, data)
        if file.name not in (WEIGHTS, ONNX_FILE):
            folder.write(copies.path_of(path), data)
        hashes[file.name] = hashlib.sha256(data).hexdigest()
    return hashes


def read_metrics(folder: Folder) -> dict[str, Any]:
    """The content of a model's `metrics.json`; empty if it is missing, or damaged, which is reported."""
    return _read(folder, METRICS, _as_metrics) or {}


def read_numbers(folder: Folder, name: str) -> list[dict[str, Any]]:
    """Rows of a CSV file of numbers; none if it is missing, or damaged, which is reported."""
    return _read(folder, name, _as_numbers) or []


def read_picture(folder: Folder, name: str) -> str | None:
    """An SVG picture; None if it is missing, or damaged, which is reported."""
    return _read(folder, name, _as_picture)


def figure_faults(model: Folder) -> dict[str, str]:
    """Files with figures of a model that can't be read: name -> why."""
    found = {}
    for name in model.list(""):
        parse = _as_picture if name.endswith(".svg") else _FIGURES.get(name)
        if parse is not None:
            try:
                parse(model.read(name))
            except ValueError as problem:
                found[name] = str(problem)
    return found


def _read(folder: Folder, name: str, parse: Callable[[bytes], _T]) -> _T | None:
    if not folder.exists(name):
        return None
    try:
        return parse(folder.read(name))
    except ValueError as problem:
        why = "ignored, as it only holds figures about the model"
        say(f"{folder.url}/{name}: is damaged ({problem}); {why}")
        return None


# Each of these raises ValueError if the content is not what was written.


def _as_metrics(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _as_numbers(data: bytes) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, csv.Error) as problem:
        raise ValueError(str(problem)) from None


def _as_picture(data: bytes) -> str:
    text = data.decode()
    try:
        ElementTree.fromstring(text)  # noqa: S314 - we wrote it
    except ElementTree.ParseError as problem:
        raise ValueError(str(problem)) from None
    return text


_FIGURES: dict[str, Callable[[bytes], Any]] = {
    METRICS: _as_metrics,
    HISTORY: _as_numbers,
    LR_FIND: _as_numbers,
}
