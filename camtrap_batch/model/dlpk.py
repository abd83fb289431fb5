"""A model as a Deep Learning Package (.dlpk), which ArcGIS installs: its definition, weights and function."""

from __future__ import annotations

import colorsys
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camtrap_batch.errors import InputError
from camtrap_batch.model import raster_function
from camtrap_batch.model.architectures import recipe
from camtrap_batch.model.info import CARD, METRICS, ONNX_ARCH, ModelInfo
from camtrap_batch.model.package import load_model

FUNCTION = "CamtrapObjectClassifier.py"
IN_ARCGIS = "torchvision"
"""The library whose architectures are in ArcGIS's deep learning libraries; others are stored as
TorchScript."""

LEAST: dict[bool, dict[str, str]] = {True: {"torch": "1.13", "torchvision": "0.14"}, False: {"torch": "2.0"}}
"""Whether a model uses that library -> minimum versions: for a state dict read without running code, with all
the classification models of torchvision; for TorchScript."""

_DATE = (1980, 1, 1, 0, 0, 0)  # date of every file in the zip, so that the same model gives the same bytes


def write_package(folder: str | Path, name: str) -> bytes:
    """The package made from a model folder: a flat zip; the same model and name give the same bytes.

    Parameters
    ----------
    folder
        Model folder.
    name
        What the model is called in ArcGIS; its files are named after it.

    Raises
    ------
    InputError
        The folder holds no intact model, or one for which the raster function can't prepare pictures.
    """
    folder = Path(folder)
    network, info = load_model(folder)
    if info.arch == ONNX_ARCH:
        raise InputError(f"{folder}: the model is an ONNX file, which the raster function can't run")
    if not info.framing.antialias:
        raise InputError(
            f"{folder}: the model was evaluated on pictures resized without antialias, which the raster "
            "function can't do: export it as safetensors"
        )
    name = re.sub(r"[^\w.-]+", "_", name)
    weights = io.BytesIO()
    if recipe(info.arch, info.size)[0] == IN_ARCGIS:
        torch.save(network.state_dict(), weights)
    else:
        weights.write(_traced(network, info, folder))
    files = {
        f"{name}.emd": json.dumps(definition(info, name), indent=1, ensure_ascii=False).encode() + b"\n",
        f"{name}.pth": weights.getvalue(),
        FUNCTION: Path(raster_function.__file__).read_bytes(),
        CARD: (folder / CARD).read_bytes(),
    }
    if (folder / METRICS).exists():
        files[METRICS] = (folder / METRICS).read_bytes()
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        for file, content in files.items():
            # Weights hardly compress: they are stored as they are.
            packing = zipfile.ZIP_STORED if file.endswith(".pth") else zipfile.ZIP_DEFLATED
            entry = zipfile.ZipInfo(file, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, packing)
    return package.getvalue()


def _traced(network: torch.nn.Module, info: ModelInfo, folder: Path) -> bytes:
    """A network as TorchScript, which needs no library with its architecture.

    Raises InputError if the trace does not behave like the network.
    """
    network = network.eval()
    example = torch.linspace(-2, 2, 2 * 3 * info.size**2).view(2, 3, info.size, info.size)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, but it is all that ArcGIS's torch can read
        try:
            script: Any = torch.jit
            script.save(script.trace(network, example, check_trace=False), (file := io.BytesIO()))
            read = script.load(io.BytesIO(file.getvalue()))
            # One picture, and more pictures than it was traced with.
            near = all(
                torch.allclose(read(pictures), network(pictures), atol=1e-4)
                for pictures in (example[:1], torch.cat([example.flip(3), example[:1]]))
            )
        except Exception as problem:  # a network may raise anything when it is traced
            reason = str(problem).strip().splitlines()[0][:200]
        else:
            if near:
                return file.getvalue()
            reason = "TorchScript gives other answers"
    raise InputError(
        f"{folder}: ArcGIS's libraries do not have {info.arch}, and it can't be TorchScript: {reason}; "
        "an architecture of torchvision can be published"
    )


def definition(info: ModelInfo, name: str) -> dict[str, Any]:
    """The Esri model definition (.emd) of a model whose files are called `name`."""
    library, options = recipe(info.arch, info.size)
    return {
        "Framework": "PyTorch",
        "ModelConfiguration": "CamtrapObjectClassifier",
        "ModelType": "ObjectClassification",
        "ModelName": name,
        "Description": describe(info),
        "InferenceFunction": FUNCTION,
        "ModelFile": f"{name}.pth",
        "ModelFormat": "NCHW",
        "ExtractBands": [0, 1, 2],
        "DataRange": [0, 255],
        "ImageHeight": info.size,
        "ImageWidth": info.size,
        "ImageSpaceUsed": "PIXEL_SPACE",
        # A photo is not a raster tile: the whole photo is classified, whatever its size.
        "CropSizeFixed": 0,
        "BlackenAroundFeature": 0,
        "MetaDataMode": "Imagenet",
        "Classes": [
            {"Value": number, "Name": label, "Color": _colour(number, len(info.classes))}
            for number, label in enumerate(info.classes, 1)
        ],
        "ModelParameters": {
            "backend": "pytorch",
            "backbone": info.arch,
            "library": library if library == IN_ARCGIS else "torchscript",
            "least": LEAST[library == IN_ARCGIS],
            "options": options,
            "size": info.size,
            "mean": info.mean,
            "std": info.std,
            "temperature": info.temperature,
            **_framing(info),
        },
        **_expected(info),
        "CamtrapModelId": info.model_id,
        "CamtrapBatchVersion": info.versions.get("camtrap-batch", version("camtrap-batch")),
    }


def _framing(info: ModelInfo) -> dict[str, Any]:
    """What the raster function must know if pictures are not squeezed as for models trained here."""
    how = info.framing
    if how.is_ours:
        return {}
    return {"resize": how.resize, "side": how.side, "interpolation": how.interpolation}


def _expected(info: ModelInfo) -> dict[str, Any]:
    """Which pictures a model of crops expects; nothing for whole frames."""
    if info.on == "frames":
        return {}
    return {
        "CamtrapExpects": {
            "on": "crops",
            "margin": 0.0,
            "square": "the longer side of a detector's box, around its middle, moved into the picture",
        }
    }


def describe(info: ModelInfo) -> str:
    """A line about a model: what it is, and how good it is on cameras that it has not seen."""
    text = f"Camera-trap classifier: {info.arch}, {len(info.classes)} classes, model {info.model_id}."
    if info.on == "crops":
        text += " It expects crops: the square of the longer side of a detector's box, without a margin."
    split, figures = _judged(info)
    if figures:
        text += (
            f" On {figures['n_images']:,} images of {figures['n_locations']:,} locations (split {split}):"
            f" accuracy {figures['accuracy']:.1%}, balanced accuracy {figures['balanced_accuracy']:.1%},"
            f" calibration error {figures['ece']:.3f}."
        )
    return text


def _judged(info: ModelInfo) -> tuple[str, Mapping[str, Any]]:
    split = "test" if info.metrics.get("test") else "valid"
    figures = info.metrics.get(split) or {}
    needed = ("n_images", "n_locations", "accuracy", "balanced_accuracy", "ece")
    return split, figures if all(name in figures for name in needed) else {}


def _colour(number: int, of: int) -> list[int]:
    return [round(255 * part) for part in colorsys.hsv_to_rgb(number / of, 0.65, 0.8)]
