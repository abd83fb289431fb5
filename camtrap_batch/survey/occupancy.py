"""Single-season occupancy: the fraction of stations that a species uses, though it is not always seen there.

Model and likelihood: MacKenzie, Nichols, Lachman, Droege, Royle & Langtimm (2002), Estimating site occupancy
rates when detection probabilities are less than one, Ecology 83: 2248-2255, with constant occupancy and one
rate of detection. In an occasion in which a camera worked for e days a species that is present is detected
with probability 1 - exp(-rate e); with the same effort everywhere that is the paper's constant p. Intervals
are those of the profile likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from camtrap_batch.survey.numerics import scipy

Doubles = npt.NDArray[np.float64]

FEWEST_STATIONS = 10
FEWEST_WITH = 5
"""Minimum number of stations, and of stations with the species, for an estimate without a warning."""

_LOGIT_END = 12.0  # 1 - 6e-6: the largest occupancy considered
_RATE_ENDS = (-14.0, 5.0)  # logarithm of the rate per unit of effort


@dataclass(frozen=True)
class Occupancy:
    """An estimate; unavailable figures are NaN, and `reason` says why.

    Attributes
    ----------
    stations, occasions : numbers with effort; occasions of all stations together
    naive : fraction of the stations with a detection
    psi, psi_low, psi_high : occupancy, and its 95 % interval
    p, p_low, p_high : probability of detecting a present species in an occasion of mean effort
    log_likelihood : at the estimate
    warnings : why it should be treated with caution
    reason : why nothing was fitted; None if it was
    """

    stations: int
    occasions: int
    naive: float
    psi: float = np.nan
    psi_low: float = np.nan
    psi_high: float = np.nan
    p: float = np.nan
    p_low: float = np.nan
    p_high: float = np.nan
    log_likelihood: float = np.nan
    warnings: tuple[str, ...] = field(default=())
    reason: str | None = None


def fit_occupancy(history: Doubles, effort: Doubles | None = None) -> Occupancy:
    """Fit occupancy to a detection history.

    Parameters
    ----------
    history : (stations, occasions) above 0: detected; 0: not; NaN: no camera worked
    effort : (stations, occasions) days on which a camera worked; None: all occasions are alike
    """
    seen = np.where(np.isnan(history), np.nan, history > 0)
    exposure = np.where(np.isnan(seen), 0.0, 1.0 if effort is None else np.nan_to_num(effort))
    watched = (exposure > 0).any(axis=1)
    seen, exposure = np.nan_to_num(seen[watched]).astype(bool) & (exposure[watched] > 0), exposure[watched]
    n, with_it = len(seen), int(seen.any(axis=1).sum())
    occasions = int((exposure > 0).sum())
    naive = with_it / n if n else np.nan
    known = Occupancy(n, occasions, naive)
    if (reason := _why_not(seen, exposure)) is not None:
        return Occupancy(n, occasions, naive, reason=reason)
    mean = float(exposure[exposure > 0].mean())
    exposure = exposure / mean  # one unit is the effort of a mean occasion
    loss = _negative_log_likelihood(seen, exposure)
    best = min(
        (
            scipy().optimize.minimize(
                lambda x: loss(x[0], x[1]), (logit, rate), method="Nelder-Mead", options=_PRECISE
            )
            for logit in (-1.0, 1.0, 4.0)
            for rate in (-2.0, 0.0)
        ),
        key=lambda found: float(found.fun),
    )
    logit, rate = float(np.clip(best.x[0], -_LOGIT_END, _LOGIT_END)), float(best.x[1])
    least = loss(logit, rate)
    drop = float(scipy().stats.chi2.ppf(0.95, 1)) / 2

    def of_logit(value: float) -> float:
        return _least(lambda other: loss(value, other), *_RATE_ENDS)

    def of_rate(value: float) -> float:
        return _least(lambda other: loss(other, value), -_LOGIT_END, _LOGIT_END)

    low, high = _profile(of_logit, logit, least + drop, (-_LOGIT_END, _LOGIT_END))
    slow, fast = _profile(of_rate, rate, least + drop, _RATE_ENDS)
    psi, p = float(scipy().special.expit(logit)), _detected(rate)
    return Occupancy(
        n,
        occasions,
        naive,
        psi,
        0.0 if low is None else float(scipy().special.expit(low)),
        1.0 if high is None else float(scipy().special.expit(high)),
        p,
        0.0 if slow is None else _detected(slow),
        1.0 if fast is None else _detected(fast),
        -least,
        _warnings(known, with_it, psi, p, high),
    )


_PRECISE = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}


def _negative_log_likelihood(
    seen: npt.NDArray[np.bool_], exposure: Doubles
) -> Callable[[float, float], float]:
    """Likelihood as a function of the logit of occupancy and the logarithm of the rate of detection."""
    has_it = seen.any(axis=1)
    of_seen = exposure[seen]  # effort of the occasions with a detection
    missed = np.where(seen, 0.0, exposure).sum(axis=1)  # of those without, by station

    def loss(logit: float, log_rate: float) -> float:
        rate = np.exp(log_rate)
        log_psi, log_absent = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
        with_it = np.log(-np.expm1(-rate * of_seen)).sum() + (log_psi - rate * missed[has_it]).sum()
        without = np.logaddexp(log_psi - rate * missed[~has_it], log_absent).sum()
        return -float(with_it + without)

    return loss


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    found = scipy().optimize.minimize_scalar(
        function, bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.fun)


def _profile(
    function: Callable[[float], float], best: float, limit: float, ends: tuple[float, float]
) -> tuple[float | None, float | None]:
    """Where a profile crosses a limit on both sides of its minimum; None: nowhere before the end."""
    found: list[float | None] = []
    for end in ends:
        if function(end) <= limit or abs(end - best) < 1e-6:
            found.append(None)
        else:
            found.append(
                float(scipy().optimize.brentq(lambda value: function(value) - limit, best, end, xtol=1e-7))
            )
    return found[0], found[1]


def _detected(log_rate: float) -> float:
    return float(-np.expm1(-np.exp(log_rate)))


def _why_not(seen: npt.NDArray[np.bool_], exposure: Doubles) -> str | None:
    """Why the model's conditions are not met."""
    if not len(seen):
        return "no station has an occasion with effort"
    if ((exposure > 0).sum(axis=1) < 2).all():
        return "no station has two occasions: detection can't be told from occupancy"
    with_it = seen.any(axis=1)
    if not with_it.any():
        return "no detection"
    repeats = seen.sum(axis=1)
    if (repeats <= 1).all():
        return "no station has two detections: detection can't be told from occupancy"
    if with_it.sum() < 2:
        return "detected at only one station"
    return None


def _warnings(known: Occupancy, with_it: int, psi: float, p: float, high: float | None) -> tuple[str, ...]:
    found = []
    if known.stations < FEWEST_STATIONS:
        found.append(f"{known.stations} stations: fewer than {FEWEST_STATIONS}")
    if with_it < FEWEST_WITH:
        found.append(f"detected at {with_it} stations: fewer than {FEWEST_WITH}")
    if p < 0.1:
        found.append(f"detection is rare ({p:.2f} in an occasion): occupancy may be far too high")
    if psi > 0.99 and known.naive < 0.99:
        found.append("the estimate is at its upper end")
    elif high is None:
        found.append("the data give no upper end")
    return tuple(found)
