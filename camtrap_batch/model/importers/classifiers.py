"""A classifier in an ONNX file: its folder, and how that compares with the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from camtrap_batch.errors import InputError
from camtrap_batch.model.importers.base import Comparison
from camtrap_batch.model.importers.originals import as_described, open_upright
from camtrap_batch.model.info import CLASSIFIER, ONNX_FILE, ModelInfo
from camtrap_batch.model.onnx import answers, arrange
from camtrap_batch.model.predictor import Predictor
from camtrap_batch.runtime import open_network, read_onnx


def write_classifier(out: Path, file: Path, info: ModelInfo) -> Path:
    """A folder of an ONNX file and its `classifier.json`, the form that `infer.model` accepts."""
    out.mkdir()
    shutil.copyfile(file, out / ONNX_FILE)
    card = {
        "file": ONNX_FILE,
        "classes": list(info.classes),
        "size": info.size,
        "resize": info.resize,
        "crop_pct": info.crop_pct,
        "interpolation": info.interpolation,
        "antialias": info.antialias,
        "boxes": info.boxes,
        "trim": list(info.trim),
        "mean": list(info.mean),
        "std": list(info.std),
        "outputs": info.outputs,
        "temperature": info.temperature,
        "provenance": info.provenance,
    }
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (out / CLASSIFIER).write_text(text, encoding="utf-8")
    return out


def said(info: ModelInfo) -> str:
    """How a model sees pictures, so that people can check assumptions."""
    numbers = [" ".join(f"{value:g}" for value in values) for values in (info.mean, info.std)]
    antialias = "" if info.antialias else ", without antialias"
    cut = f", {info.crop_pct:.3g} of it" if info.resize == "crop" else ""
    return (
        f"it sees {info.size} x {info.size} pixels, {info.resize}{cut}, {info.interpolation}{antialias}; "
        f"mean {numbers[0]}, std {numbers[1]}: if it was trained on others, say so with --resize, --mean, ..."
    )


def compare_onnx(folder: Path, file: Path, info: ModelInfo, pictures: Sequence[bytes]) -> Comparison:
    """Compare a model folder, as workers run it, with its file on pictures prepared by Pillow and
    torchvision."""
    transform = as_described(info)
    run = _plain_session(file)
    network = read_onnx(file)
    n = network.inputs[0].shape[0] or 1
    found = []
    for data in pictures:
        pixels = arrange(transform(open_upright(data))[None].numpy(), network)
        output = answers(run(np.repeat(pixels, n, axis=0)), len(info.classes))
        if output is None:
            raise InputError(f"{file}: its outputs changed their shapes")
        found.append(output[0])
    theirs: npt.NDArray[np.float32] = np.stack(found).astype(np.float32)
    if info.outputs == "logits":
        theirs = torch.softmax(torch.from_numpy(theirs) / info.temperature, 1).numpy()
    ours = Predictor(folder, "cpu", precision=torch.float32).predict(pictures)
    return Comparison.of(ours, theirs)


def _plain_session(file: Path) -> Any:
    """ONNX Runtime if it is installed, since most people would use it; otherwise whichever runtime is."""
    if find_spec("onnxruntime") is None:
        return open_network(file, "cpu", 1, "float32").run
    return open_network(file, "cpu", 1, "float32", runtime="onnxruntime").run
