"""How many species there are, including those that only more stations would have found.

Accumulation: the expected number of species at h of m stations, over all choices of them (Mao Tau; Colwell,
Mao & Chang 2004, Ecology 85: 2717-2727). Chao2: a lower bound for all species, from those seen at one and at
two stations (Chao 1987, Biometrics 43: 783-791), with the variance and the interval of Colwell's EstimateS.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from camtrap_batch.survey.numerics import scipy

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FEWEST_STATIONS = 5
"""With fewer stations, nothing is estimated."""


class Chao2(NamedTuple):
    """Estimated number of all species, its standard error, and its 95 % interval, which begins at the number
    seen."""

    observed: int
    estimate: float
    error: float
    low: float
    high: float


def chao2(incidence: Ints, stations: int) -> Chao2:
    """Chao's second estimator; bias-corrected if no species is at exactly two stations.

    Parameters
    ----------
    incidence : (species,) number of stations at which each was seen, 1 or more
    stations : number of stations in the survey, including those that saw nothing
    """
    observed, m = len(incidence), stations
    once, twice = int((incidence == 1).sum()), int((incidence == 2).sum())
    part = (m - 1) / m
    if twice:
        unseen = part * once**2 / (2 * twice)
        r = once / twice
        variance = twice * (part / 2 * r**2 + part**2 * r**3 + part**2 / 4 * r**4)
    else:
        unseen = part * once * (once - 1) / 2
        estimate = observed + unseen
        variance = (
            part * once * (once - 1) / 2
            + part**2 * once * (2 * once - 1) ** 2 / 4
            - part**2 * once**4 / (4 * estimate if estimate else 1)
        )
    error = float(np.sqrt(max(variance, 0)))
    low = high = float(observed)
    if unseen > 0 and error > 0:
        z = float(scipy().stats.norm.ppf(0.975))
        spread = np.exp(z * np.sqrt(np.log1p(error**2 / unseen**2)))
        low, high = observed + unseen / spread, observed + unseen * spread
    return Chao2(observed, observed + unseen, error, float(low), float(high))


def accumulation(incidence: Ints, stations: int) -> tuple[Doubles, Doubles]:
    """Expected number of species at 1, 2, ... `stations` stations, and its standard deviation.

    Parameters are those of `chao2`. The deviation is over other surveys with as many stations (Colwell et al.
    2004, eq. 6), with Chao2 for all species.
    """
    h = np.arange(1, stations + 1)
    missed = _log_choose(stations - incidence[:, None], h[None, :]) - _log_choose(stations, h)[None, :]
    absent = np.where(stations - incidence[:, None] >= h[None, :], np.exp(missed), 0.0)
    expected = (1 - absent).sum(axis=0)
    total = chao2(incidence, stations).estimate
    variance = ((1 - absent) ** 2).sum(axis=0) - expected**2 / max(total, 1)
    return expected, np.sqrt(np.maximum(variance, 0))


def _log_choose(n: npt.ArrayLike, k: npt.ArrayLike) -> Doubles:
    n, k = np.asarray(n, float), np.asarray(k, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Doubles = (
            scipy().special.gammaln(n + 1)
            - scipy().special.gammaln(k + 1)
            - scipy().special.gammaln(np.maximum(n - k, 0) + 1)
        )
    return found
