"""The classifier: train it, judge it, keep it as a folder, classify with it. Independent of Dask.

Names are loaded when they are used: importing the package imports neither torch nor fastai.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from camtrap_batch.errors import MissingExtra

if TYPE_CHECKING:
    from camtrap_batch.model.architectures import check_published, known_architectures
    from camtrap_batch.model.config import TrainConfig
    from camtrap_batch.model.dlpk import describe, write_package
    from camtrap_batch.model.imports import import_model, import_onnx_folder
    from camtrap_batch.model.info import ModelInfo, read_info
    from camtrap_batch.model.learner import TrainResult, join, train
    from camtrap_batch.model.names import check_architecture
    from camtrap_batch.model.package import load_model, save_model
    from camtrap_batch.model.predictor import Predictor, load_predictor
    from camtrap_batch.model.samples import Samples

__all__ = [
    "TrainConfig",
    "Samples",
    "train",
    "join",
    "TrainResult",
    "Predictor",
    "load_predictor",
    "ModelInfo",
    "read_info",
    "load_model",
    "save_model",
    "import_model",
    "import_onnx_folder",
    "write_package",
    "describe",
    "check_architecture",
    "check_published",
    "known_architectures",
]

_MODULES = {
    "TrainConfig": "config",
    "Samples": "samples",
    "train": "learner",
    "join": "learner",
    "TrainResult": "learner",
    "Predictor": "predictor",
    "load_predictor": "predictor",
    "ModelInfo": "info",
    "read_info": "info",
    "load_model": "package",
    "save_model": "package",
    "import_model": "imports",
    "import_onnx_folder": "imports",
    "write_package": "dlpk",
    "describe": "dlpk",
    "check_architecture": "names",
    "check_published": "architectures",
    "known_architectures": "architectures",
}
EXTRA_MODULES = ("fastai", "fastcore", "safetensors", "scipy", "sklearn", "timm", "torch", "torchvision")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as problem:
        if (problem.name or "").partition(".")[0] in EXTRA_MODULES:
            raise MissingExtra("train", "training and classifying") from problem
        raise
