"""When animals are active: circular kernel densities of the time of day, and how far two of them overlap.

Ridout & Linkie (2009), Estimating overlap of daily activity patterns from camera trap data, Journal of
Agricultural, Biological and Environmental Statistics 14: 322-337: von Mises kernels, whose concentration is
Taylor's (2008, Computational Statistics & Data Analysis 52: 3493-3500) with the largest of three estimates of
the data's own concentration; overlap by Dhat1 or Dhat4, with the smoothing that their simulations recommend;
a smoothed bootstrap. Times are those of the cameras' clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camtrap_batch.survey.numerics import scipy

Doubles = npt.NDArray[np.float64]

GRID = 512
"""Number of points of the day at which densities are kept."""

FEWEST = 20
"""Minimum number of a species' events for a density."""

FEW = 50
"""With fewer events in the smaller sample Dhat1 is best, from 75 on Dhat4; in between, either."""

_MOST_KAPPA = 1e6
_BOUNDS = (0.025, 0.975)  # of an interval, as quantiles


@dataclass(frozen=True)
class Overlap:
    """How far two activities overlap.

    Attributes
    ----------
    value : coefficient of overlap, 0 to 1
    low, high : 95 % interval of the bootstrap, shifted by its bias (basic0 of R's overlap)
    method : Dhat1 or Dhat4
    """

    value: float
    low: float
    high: float
    method: str


def density(times: Doubles, adjust: float = 1.0) -> Doubles:
    """Density of activity at `GRID` points of the day, from midnight, per radian; its integral is 1.

    Parameters
    ----------
    times : (n,) times of day in radians, 0 to 2 pi
    adjust : divides the kernel's concentration: above 1 means smoother
    """
    return _smooth(_histogram(times), concentration(times) / adjust)


def concentration(times: Doubles) -> float:
    """Concentration of the kernels for a sample (Taylor 2008, eq. 7, with kappa as in Ridout & Linkie)."""
    n = len(times)
    kappa = max(_kappa(times, k) for k in (1, 2, 3))
    # The Bessel functions are scaled by exp(-|x|); in their ratio the scaling cancels (2 kappa - 2 kappa).
    ratio = scipy().special.ive(2, 2 * kappa) / scipy().special.ive(0, kappa) ** 2
    return float((3 * n * kappa**2 * ratio / (4 * np.sqrt(np.pi))) ** 0.4)


def overlap(first: Doubles, second: Doubles, *, draws: int = 1000) -> Overlap:
    """Coefficient of overlap of two samples of times of day, in radians, with a 95 % interval.

    Raises
    ------
    ValueError
        A sample has fewer than `FEWEST` times.
    """
    if min(len(first), len(second)) < FEWEST:
        raise ValueError(f"fewer than {FEWEST} events")
    method = "Dhat1" if min(len(first), len(second)) < FEW else "Dhat4"
    value = _overlap(first, second, method)
    rng = np.random.default_rng(0)
    kernels = concentration(first), concentration(second)
    found = np.empty(draws)
    for number in range(draws):
        again = [
            (rng.choice(times, len(times)) + rng.vonmises(0, kernel, len(times))) % (2 * np.pi)
            for times, kernel in zip((first, second), kernels, strict=True)
        ]
        found[number] = _overlap(again[0], again[1], method)
    edges = np.quantile(found, _BOUNDS) - found.mean() + value
    low, high = np.clip(edges, 0, 1)
    return Overlap(value, float(low), float(high), method)


def interval(times: Doubles, *, draws: int = 200) -> tuple[Doubles, Doubles]:
    """Pointwise 95 % interval of `density`: quantiles over samples redrawn with replacement."""
    rng = np.random.default_rng(0)
    found = np.stack([density(rng.choice(times, len(times))) for _ in range(draws)])
    low, high = np.quantile(found, _BOUNDS, axis=0)
    return low, high


def _overlap(first: Doubles, second: Doubles, method: str) -> float:
    if method == "Dhat1":
        both = np.minimum(density(first, 0.8), density(second, 0.8))
        return float(both.mean() * 2 * np.pi)
    densities = density(first), density(second)
    parts = []
    for times, own, other in ((first, *densities), (second, *densities[::-1])):
        ratio = _at(other, times) / _at(own, times)
        parts.append(float(np.minimum(1, ratio).mean()))
    return sum(parts) / 2


def _kappa(times: Doubles, k: int) -> float:
    """Concentration of the von Mises distribution with the sample's k-th moment about its mean."""
    mean = np.angle(np.exp(1j * times).sum())
    moment = float(np.cos(k * (times - mean)).mean())
    moment = abs(moment)

    def off(kappa: float) -> float:
        return float(scipy().special.ive(k, kappa) / scipy().special.ive(0, kappa)) - moment

    if moment <= 0 or off(_MOST_KAPPA) < 0:
        return 0.0 if moment <= 0 else _MOST_KAPPA
    return float(scipy().optimize.brentq(off, 0, _MOST_KAPPA, xtol=1e-9))


def _histogram(times: Doubles) -> Doubles:
    """Share of the sample at each grid point; a time between two points counts at both, by nearness."""
    cell = times / (2 * np.pi) * GRID
    left = np.floor(cell).astype(np.int64)
    share = cell - left
    counts = np.bincount(left % GRID, 1 - share, GRID) + np.bincount((left + 1) % GRID, share, GRID)
    return counts / len(times)


def _smooth(parts: Doubles, kappa: float) -> Doubles:
    """Shares at the grid points -> their mixture of von Mises densities."""
    angles = np.arange(GRID) * 2 * np.pi / GRID
    kernel = np.exp(kappa * (np.cos(angles) - 1)) / (2 * np.pi * scipy().special.ive(0, kappa))
    kernel /= kernel.sum() * 2 * np.pi / GRID  # a coarse grid misses part of very narrow kernels
    smooth = np.fft.irfft(np.fft.rfft(parts) * np.fft.rfft(kernel), GRID)
    return np.maximum(smooth, 1e-12)


def _at(values: Doubles, times: Doubles) -> Doubles:
    """Values at given times, interpolated linearly between grid points."""
    cell = times / (2 * np.pi) * GRID
    left = np.floor(cell).astype(np.int64)
    share = cell - left
    return values[left % GRID] * (1 - share) + values[(left + 1) % GRID] * share
