"""Positions on a grid, which reveal no more than their cell: for maps and layers that anyone may see."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

KM_PER_DEGREE = 111.195
"""Length of a degree of latitude, on a sphere of 6,371 km radius."""

Floats = npt.NDArray[np.float64]


def snap(longitude: Floats, latitude: Floats, blur_km: float) -> tuple[Floats, Floats]:
    """Degrees, moved to the nearest crossing of a grid of `blur_km`; unchanged if that is 0."""
    if blur_km <= 0:
        return longitude, latitude
    step = min(blur_km / KM_PER_DEGREE, 90.0)
    y = np.clip(np.round(latitude / step) * step, -90, 90)
    x_step = np.minimum(step / np.maximum(np.cos(np.radians(y)), 1e-6), 180.0)
    return np.clip(np.round(longitude / x_step) * x_step, -180, 180), y
