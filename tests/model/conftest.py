"""Drawn shapes to learn, and a model that has learnt them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageDraw

pytest.importorskip("fastai", reason="the extra 'train' is not installed")

import torch

from camtrap_batch.model import Samples, TrainConfig, TrainResult, train

# Two threads that share busy cores with other programs wait for each other at every layer.
torch.set_num_threads(1)

LABELS = ("cross", "disc", "frame")
CONFIG = TrainConfig(
    arch="resnet18", weights="none", size=48, epochs=8, batch=32, lr=4e-3, threads=1, device="cpu"
)


def draw(label: str, random: np.random.Generator, night: bool) -> bytes:
    ground = tuple(int(value) for value in random.integers(40, 130, 3))
    colour = tuple(int(value) for value in random.integers(170, 255, 3))
    picture = Image.new("RGB", (96, 72), ground)
    pen = ImageDraw.Draw(picture)
    x, y, r = int(random.integers(24, 72)), int(random.integers(22, 50)), int(random.integers(12, 20))
    if label == "disc":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif label == "frame":
        pen.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=4)
    else:
        pen.line((x - r, y - r, x + r, y + r), fill=colour, width=5)
        pen.line((x - r, y + r, x + r, y - r), fill=colour, width=5)
    return simplejpeg.encode_jpeg(np.asarray(picture.convert("L").convert("RGB") if night else picture), 90)


def make_samples(n: int = 360, seed: int = 0, **changes: Any) -> Samples:
    random = np.random.default_rng(seed)
    labels = [LABELS[index % 3] for index in range(n)]
    locations = [f"L{index // 3 % 10}" for index in range(n)]
    splits = {"L0": "valid", "L1": "valid", "L2": "test"}
    night = random.random(n) < 0.3
    columns: dict[str, Any] = {
        "image_ids": [f"image-{index}" for index in range(n)],
        "labels": labels,
        "splits": [splits.get(location, "train") for location in locations],
        "weights": np.ones(n, np.float32),
        "locations": locations,
        "is_night": night,
        "category_ids": {"disc": [1], "cross": [3, 4], "frame": [2]},
        "jpegs": [draw(label, random, dark) for label, dark in zip(labels, night, strict=True)],
    }
    return Samples(**{**columns, **changes})


@pytest.fixture(scope="session")
def make() -> Callable[..., Samples]:
    """Makes samples: `make(n, seed, **columns)`."""
    return make_samples


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    return CONFIG


@pytest.fixture(scope="session")
def samples() -> Samples:
    return make_samples()


@pytest.fixture(scope="session")
def trained(
    samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult, list[dict[str, Any]]]:
    """A model folder, what training returned, and what it told on the way."""
    told: list[dict[str, Any]] = []
    folder = tmp_path_factory.mktemp("models")
    result = train(samples, CONFIG, folder, {"job": "shapes", "selection": 3}, told.append)
    return folder / result.model_id, result, told
