"""Classifies camera-trap photos in ArcGIS: the Python raster function of a Deep Learning Package.

The package holds this file as CamtrapObjectClassifier.py, beside its .emd and its weights. It is
self-contained: it imports only numpy, Pillow, torch, and torchvision if that has the network's architecture.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

_POLYGON = 4
_BAR = 114  # grey of the bars of a letterbox
_INHERIT = 2 | 4 | 8  # pixel type, no data and dimensions, statistics: as the input has them

_FIELDS = [
    {"name": "OID", "type": "esriFieldTypeOID", "alias": "OID"},
    {"name": "Confidence", "type": "esriFieldTypeDouble", "alias": "Confidence"},
    {"name": "Shape", "type": "esriFieldTypeGeometry", "alias": "Shape"},
    {"name": "Label", "type": "esriFieldTypeString", "alias": "Label"},
]


class CamtrapObjectClassifier:
    """The object that ArcGIS uses; it calls, in this order, initialize, getParameterInfo, getConfiguration,
    vectorize."""

    def __init__(self) -> None:
        self.name = "Camera-trap classifier"
        self.description = "Says which species a camera-trap photo shows, or that it is empty"
        self.batch_size = 4

    def initialize(self, **kwargs: Any) -> None:
        """Read the model definition and load the weights.

        `model` is the path of the .emd file, or its text; `device` a GPU's number, -1 for the CPU, -2 for
        whichever there is.
        """
        if "model" not in kwargs:
            return
        self.json_info, folder = _read_definition(kwargs["model"])
        self.device = _device(kwargs.get("device"))
        parameters = self.json_info["ModelParameters"]
        _require_versions(parameters.get("least", {}))
        weights = folder / self.json_info["ModelFile"]
        network: Any
        if parameters["library"] == "torchscript":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions would prefer another format
                network = torch.jit.load(str(weights), map_location="cpu")  # type: ignore[no-untyped-call]
        else:
            network = _build(parameters, len(self.json_info["Classes"]))
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network = network.eval().to(self.device)
        self.mean = 255 * torch.tensor(parameters["mean"]).view(1, 3, 1, 1)
        self.std = 255 * torch.tensor(parameters["std"]).view(1, 3, 1, 1)
        self.temperature = float(parameters["temperature"])

    def getParameterInfo(self) -> list[dict[str, Any]]:  # noqa: N802
        return [
            {
                "name": "rasters",
                "dataType": "rasters",
                "value": None,
                "required": True,
                "displayName": "Rasters",
                "description": "The photos, or the parts of rasters, to classify",
            },
            {
                "name": "model",
                "dataType": "string",
                "required": True,
                "displayName": "Input Model Definition (EMD) File",
                "description": "The model definition: a file, or its JSON text",
            },
            {
                "name": "device",
                "dataType": "numeric",
                "required": False,
                "displayName": "Device ID",
                "description": "Number of a GPU, or -1 for the CPU",
            },
            {
                "name": "batch_size",
                "dataType": "numeric",
                "value": self.batch_size,
                "required": False,
                "displayName": "Batch Size",
                "description": "Photos that are classified at a time",
            },
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:  # noqa: N802
        self.batch_size = max(1, int(scalars.get("batch_size", self.batch_size)))
        return {
            "extractBands": tuple(self.json_info["ExtractBands"]),
            "tx": int(self.json_info["ImageWidth"]),
            "ty": int(self.json_info["ImageHeight"]),
            "batch_size": self.batch_size,
            "CropSizeFixed": int(self.json_info["CropSizeFixed"]),
            "BlackenAroundFeature": int(self.json_info["BlackenAroundFeature"]),
            "dataRange": tuple(self.json_info["DataRange"]),
            "inheritProperties": _INHERIT,
            "inputMask": True,
        }

    def getFields(self) -> str:  # noqa: N802
        return json.dumps({"fields": _FIELDS})

    def getGeometryType(self) -> int:  # noqa: N802
        return _POLYGON

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:  # noqa: N803
        """Classify rasters.

        `rasters_pixels` holds an array (bands, height, width) for each, `rasters_mask` its valid pixels. Each
        gives a feature with its outline in pixels, a label and a confidence between 0 and 1.
        """
        rasters = list(pixelBlocks["rasters_pixels"])
        masks = pixelBlocks.get("rasters_mask")
        masks = [None] * len(rasters) if masks is None else list(masks)
        parameters = self.json_info["ModelParameters"]
        names = [entry["Name"] for entry in self.json_info["Classes"]]
        features: list[dict[str, Any]] = []
        for start in range(0, len(rasters), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(rasters)))
            squares = np.stack([_square(rasters[row], masks[row], parameters) for row in rows])
            confidences, labels = self._classify(squares).max(dim=1)
            for at, row in enumerate(rows):
                features.append(
                    {
                        "attributes": {
                            "OID": row + 1,
                            "Confidence": float(confidences[at]),
                            "Label": names[int(labels[at])],
                        },
                        "geometry": {"rings": [_outline(*rasters[row].shape[-2:])]},
                    }
                )
        answer = {
            "displayFieldName": "",
            "fieldAliases": {field["name"]: field["alias"] for field in _FIELDS},
            "geometryType": "esriGeometryPolygon",
            "fields": _FIELDS,
            "features": features,
        }
        return {"output_vectors": json.dumps(answer)}

    def _classify(self, squares: np.ndarray[Any, Any]) -> torch.Tensor:
        """Probabilities (n, classes) of pixels (n, size, size, 3), uint8."""
        images = torch.from_numpy(squares).permute(0, 3, 1, 2).float()
        images = ((images - self.mean) / self.std).to(self.device)
        with torch.no_grad():
            logits: torch.Tensor = self.network(images)
        return torch.softmax(logits.float().cpu() / self.temperature, dim=1)


def _read_definition(model: str) -> tuple[dict[str, Any], Path]:
    """The content of the .emd, and the folder that holds its other files."""
    try:
        if model.lstrip().startswith("{"):
            return json.loads(model), Path(__file__).absolute().parent
        path = Path(model).absolute()
        return json.loads(path.read_text(encoding="utf-8")), path.parent
    except (OSError, ValueError) as problem:
        raise ValueError(f"model: should be the path of an .emd file, or its JSON text: {problem}") from None


def _device(number: Any) -> torch.device:
    if number is None or int(number) == -1 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", max(0, int(number)))


def _require_versions(least: dict[str, str]) -> None:
    """Raise RuntimeError if a library is older than the model needs."""
    for library, version in least.items():
        found = str(__import__(library).__version__)
        if _numbers(found) < _numbers(version):
            raise RuntimeError(
                f"this model needs {library} {version} or newer, ArcGIS has {found}: install newer deep "
                "learning libraries"
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The first two parts of a version such as 2.0.1+cu118."""
    parts = ("".join(letter for letter in part if letter.isdigit()) for part in version.split("."))
    return tuple(int(part or 0) for part in parts)[:2]


def _build(parameters: dict[str, Any], n_classes: int) -> torch.nn.Module:
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in parameters["options"].items()
    }
    from torchvision.models import get_model

    network: torch.nn.Module = get_model(
        parameters["backbone"], weights=None, num_classes=n_classes, **options
    )
    return network


def _square(raster: Any, mask: Any, parameters: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A raster in the form the network needs: RGB, (size, size, 3), resized as in its model's evaluation."""
    pixels = np.array(raster)
    if mask is not None:
        pixels[np.broadcast_to(np.asarray(mask) == 0, pixels.shape)] = 0
    if pixels.shape[0] < 3:  # grey, as infrared photos are
        pixels = np.repeat(pixels[:1], 3, axis=0)
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(np.nan_to_num(pixels.astype(np.float32))), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels[:3], 0, -1)))
    size = int(parameters["size"])
    if "side" not in parameters:
        return _squeezed(image, size)
    side, filter_ = int(parameters["side"]), Image.Resampling[parameters["interpolation"].upper()]
    if parameters["resize"] == "squash":
        wanted = (side, side)
    else:
        fixed = (min if parameters["resize"] == "crop" else max)(image.size)
        wanted = (max(1, side * image.width // fixed), max(1, side * image.height // fixed))
    square = Image.new("RGB", (size, size), (_BAR, _BAR, _BAR))
    left, top = (round((extent - size) / 2) for extent in wanted)
    square.paste(image.resize(wanted, filter_), (-left, -top))
    return np.asarray(square)


def _squeezed(image: Image.Image, size: int) -> np.ndarray[Any, Any]:
    """The whole picture, squeezed to a square: what models trained here have learnt from.

    Halved as long as at least 1.5 times the needed size remains, then resampled: the same as reading a JPEG
    file at a reduced scale, as in training.
    """
    factor = 1
    while factor < 8 and min(-(-side // (2 * factor)) for side in image.size) >= int(1.5 * size):
        factor *= 2
    return np.asarray(image.reduce(factor).resize((size, size), Image.Resampling.BILINEAR))


def _outline(height: int, width: int) -> list[list[int]]:
    """The raster's corners as x and y in pixels, closed."""
    right, bottom = width - 1, height - 1
    return [[0, 0], [right, 0], [right, bottom], [0, bottom], [0, 0]]
