"""The photos that benchmarks of networks look at."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "real_images"


def pictures(n: int) -> list[bytes]:
    found = [path for path in sorted(PHOTOS.rglob("*")) if path.suffix.lower() == ".jpg"]
    some = [path.read_bytes() for path in found] or list(drawn(8))
    return [some[number % len(some)] for number in range(n)]


def drawn(n: int) -> Iterator[bytes]:
    """Pictures as coarse as photos are, where there are none."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (192, 256, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((2048, 1536), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        yield file.getvalue()
