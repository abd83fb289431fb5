"""What a model folder says about its model; readable without torch.

A model folder holds

- `model.safetensors`: the network's weights; or `model.onnx`, the network itself, if `arch` is onnx
- `model.json`: everything else that predictions depend on, where the model came from, how good it is
- `metrics.json`: the figures in full: per class, per location, confusion, reliability
- `history.csv`: one row per epoch; `lr_find.csv`: the search for a learning rate, if there was one
- `*.svg`: figures for people
- `openvino-float32` and `openvino-int8` (`.xml`, `.bin`), if a job has made them: see `on_openvino`

The model id is a hash of the weights and of those parts of `model.json` that change a prediction: repeating a
training gives the same id, and a changed file is detected.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from camtrap_batch.errors import InputError, choices
from camtrap_batch.images.framing import (
    BOXES,
    INTERPOLATION,
    RESIZE,
    Boxes,
    Framing,
    Interpolation,
    Resize,
)

FORMAT = 1
LearntFrom = Literal["frames", "crops"]
LEARNT_FROM: tuple[str, ...] = get_args(LearntFrom)
WEIGHTS, CARD, METRICS = "model.safetensors", "model.json", "metrics.json"
ONNX_ARCH, ONNX_FILE = "onnx", "model.onnx"
CLASSIFIER = "classifier.json"  # lies beside an ONNX file from elsewhere
HISTORY, LR_FIND = "history.csv", "lr_find.csv"
BATCH, RESULTS = "batch.svg", "results.svg"

Outputs = Literal["logits", "probabilities"]
OUTPUTS: tuple[str, ...] = get_args(Outputs)


@dataclass(frozen=True)
class ModelInfo:
    """A model's identity and origin: the content of `model.json`.

    Attributes
    ----------
    model_id
        16 hexadecimal digits.
    arch
        torchvision or timm architecture; onnx: the network is an ONNX file.
    classes
        Labels, in the order of the network's outputs.
    category_ids
        The data set's category ids of each class.
    size
        Side of the square input, in pixels.
    mean, std
        Normalisation of pixel values between 0 and 1, per channel.
    temperature
        Divisor of logits before the softmax.
    provenance
        What the caller said about the model's origin.
    versions
        Libraries it was trained with.
    metrics
        The main figures; all of them are in `metrics.json`.
    resize, crop_pct, interpolation, antialias, boxes, trim
        How a picture becomes the square, see `images.framing.Framing`.
    on
        What it has learnt from and expects: whole frames or crops. A crop is the square around a detector's
        box with its longer side, without a margin (`detection.crops.square_around`).
    outputs
        What the network gives, logits or probabilities.
    pool
        What the last layer of a timm network reads, if it differs from what timm builds: avg, token, ...
    """

    model_id: str
    arch: str
    classes: tuple[str, ...]
    category_ids: tuple[tuple[int, ...], ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float
    provenance: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    resize: Resize = "squash"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    on: LearntFrom = "frames"
    boxes: Boxes = "square"
    trim: tuple[float, int] = (0.0, 0)
    outputs: Outputs = "logits"
    pool: str | None = None

    @property
    def framing(self) -> Framing:
        """How a picture becomes the square that the network sees."""
        return Framing(
            self.size,
            self.resize,
            self.crop_pct,
            self.interpolation,
            self.antialias,
            self.boxes,
            self.trim,
        )

    @property
    def weights(self) -> str:
        """The name of the file that holds the weights."""
        return ONNX_FILE if self.arch == ONNX_ARCH else WEIGHTS

    def to_json(self) -> str:
        """The text of `model.json`."""
        content = {"format": FORMAT, **asdict(self)}
        if self.pool is None:
            del content["pool"]
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_info(folder: str | Path) -> ModelInfo:
    """The model in a folder; the weights are not examined.

    Raises
    ------
    InputError
        There is no `model.json`, or it is not one of ours.
    """
    path = Path(folder) / CARD
    content = read_card(folder)
    if content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: should say \"format\": {FORMAT}; another version's file, or not a model's")
    try:
        return parse_info(content)
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"{path}: not a model's description: {type(problem).__name__}: {problem}") from None


def read_card(folder: str | Path, name: str = CARD) -> dict[str, Any]:
    """The content of `model.json`, or of another card, whoever wrote it.

    Raises
    ------
    InputError
        There is none, or it is not a JSON object.
    """
    path = Path(folder) / name
    beside = WEIGHTS if name == CARD else "an ONNX file"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a model folder holds {name} and {beside}") from None
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read as a model's description: {problem}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: should be a JSON object with {'format, arch, ' if name == CARD else ''}classes, ..."
        )
    return content


def model_id(weights: str, info: ModelInfo) -> str:
    """Identity of a model: hash of what its predictions depend on.

    Parameters
    ----------
    weights
        sha256 of the weights file, hexadecimal.
    info
        Only its architecture, classes, input size, framing, normalisation and temperature count.
    """
    content = {
        "weights": weights,
        "arch": info.arch,
        "classes": info.classes,
        "category_ids": info.category_ids,
        "size": info.size,
        "mean": info.mean,
        "std": info.std,
        "temperature": info.temperature,
    }
    if not info.framing.is_ours:  # models from before there was a choice keep their ids
        # Later additions count only if they differ from the original behaviour.
        later = {"boxes": "square", "trim": (0.0, 0)}
        framing = asdict(info.framing).items()
        content["framing"] = {key: value for key, value in framing if later.get(key) != value}
    if info.outputs != "logits":
        content["outputs"] = info.outputs
    if info.pool is not None:
        content["pool"] = info.pool
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_info(content: dict[str, Any]) -> ModelInfo:
    """A `ModelInfo` from the content of a `model.json` without its format.

    Raises KeyError, TypeError or ValueError if something is missing, unknown or of the wrong kind.
    """
    if unknown := set(content) - {part.name for part in fields(ModelInfo)}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    info = ModelInfo(
        **{
            **content,
            "model_id": str(content["model_id"]),
            "arch": str(content["arch"]),
            "classes": tuple(str(label) for label in content["classes"]),
            "category_ids": tuple(tuple(int(number) for number in ids) for ids in content["category_ids"]),
            "size": int(content["size"]),
            "mean": tuple(float(value) for value in content["mean"]),
            "std": tuple(float(value) for value in content["std"]),
            "temperature": float(content["temperature"]),
            "crop_pct": float(content.get("crop_pct", 1.0)),
            "antialias": bool(content.get("antialias", True)),
            "trim": _trim(content.get("trim", (0.0, 0))),
            "pool": None if content.get("pool") is None else str(content["pool"]),
        }
    )
    if len(info.classes) != len(info.category_ids) or len(info.mean) != 3 or len(info.std) != 3:
        raise ValueError("classes and category_ids should have the same length, mean and std 3 values")
    for key, value, known in (
        ("resize", info.resize, RESIZE),
        ("interpolation", info.interpolation, INTERPOLATION),
        ("on", info.on, LEARNT_FROM),
        ("boxes", info.boxes, BOXES),
        ("outputs", info.outputs, OUTPUTS),
    ):
        if value not in known:
            raise ValueError(f"{key}: {value!r} is not possible; {choices(str(value), known)}")
    if not 0 < info.crop_pct <= 1:
        raise ValueError(f"crop_pct: {info.crop_pct} should be above 0, and 1 or less")
    if not info.antialias and info.interpolation != "bilinear":
        raise ValueError(f"antialias: false requires bilinear; interpolation is {info.interpolation}")
    return info


def _trim(value: Any) -> tuple[float, int]:
    part, pixels = (float(value[0]), int(value[1])) if len(value) == 2 else (1.0, 0)
    if not 0 <= part < 1 or pixels < 0:
        raise ValueError(f"trim: {value} should be a part of the height below 1, and a number of pixels")
    return part, pixels
