"""A random sample of a data set, and what it says about the whole: estimates that do not depend on the model.

Sequences are drawn at random within strata by the machine's label and confidence, so that each has a known
probability of being reviewed. Whatever the model got wrong, the sample shows in proportion: the estimates are
those of stratified random sampling (Cochran 1977, Sampling Techniques, chapters 5, 5A and 6), as Olofsson et
al. 2014 (Remote Sensing of Environment 148, 42-57) set out for error matrices. Shares have Wilson's interval
at the effective sample size (Dean and Pagano 2015, Journal of Survey Statistics and Methodology 3, 484-503),
since the usual one is far too narrow where nearly everything is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from camtrap_batch.codes import Ints

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVEL = 0.95
BINS = (0.5, 0.8, 0.95)
"""Confidences that bound the strata of a label."""

_FEWEST = 2
"""Minimum number drawn from a stratum: a single unit says nothing about variance."""

_PSEUDO = 0.25
"""Additional units, distributed like the whole, that a stratum is assumed to have if all in it are alike."""

_PER_BIN = 6
"""A label is divided by confidence if at least this many would be drawn from each part."""


@dataclass(frozen=True)
class Strata:
    """Units cut into strata.

    Attributes
    ----------
    of : (units,) number of each unit's stratum
    names : names of the strata
    sizes : (strata,) units in each
    drawn : (strata,) how many of them are to be reviewed
    """

    of: Ints
    names: tuple[str, ...]
    sizes: Ints
    drawn: Ints


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; NaN if the sample is insufficient. `n`: number of units it rests on."""

    value: float
    low: float
    high: float
    n: int


def make_strata(label: Sequence[str], confidence: Doubles, n: int) -> Strata:
    """Stratify units by label and confidence, and say how many of each stratum to review.

    They are drawn in proportion to their number, and more if the model is less sure (Neyman's allocation,
    with the confidence as the share that is right). Rare labels share a stratum if there are too many of
    them.

    Parameters
    ----------
    label : (units,) what the machine says; blank for nothing
    confidence : (units,) its confidence
    n : how many to review in all
    """
    units = len(label)
    n = min(n, units)
    names, code = np.unique(np.asarray(label, str), return_inverse=True)
    counts = np.bincount(code)
    # Rare labels have their own stratum as long as half of the sample is left for the others.
    order = np.argsort(-counts, kind="stable")
    own = np.zeros(len(names), bool)
    own[order[: max(1, n // (2 * _FEWEST))]] = True
    part = np.digitize(np.nan_to_num(confidence), BINS)
    keys = np.empty(units, object)
    for number, name in enumerate(names):
        rows = np.flatnonzero(code == number)
        if not own[number]:
            keys[rows] = "rare labels"
            continue
        bins = np.unique(part[rows])
        share = n * len(rows) / units
        is_cut = share >= _PER_BIN * len(bins)
        keys[rows] = [f"{name} {_range(at)}" if is_cut else name for at in part[rows]]
    found, of = np.unique(keys.astype(str), return_inverse=True)
    sizes = np.bincount(of)
    sure = np.bincount(of, np.clip(np.nan_to_num(confidence), 0.02, 0.98)) / sizes
    return Strata(of, tuple(found.tolist()), sizes, allocate(sizes, np.sqrt(sure * (1 - sure)), n))


def allocate(sizes: Ints, spread: Doubles, n: int) -> Ints:
    """How many to draw from each stratum: in proportion to size and spread, at least two, at most all."""
    drawn = np.minimum(sizes, _FEWEST)
    for _ in range(len(sizes) + 1):
        left = n - int(drawn.sum())
        room = sizes - drawn
        if left <= 0 or not room.any():
            break
        # Half by size, so that the unexpected is found as well.
        varied = sizes * spread
        wanted = np.where(room > 0, sizes / sizes.sum() + varied / varied.sum(), 0)
        ideal = np.maximum(wanted / wanted.sum() * n - drawn, 0)
        if not ideal.any():
            ideal = wanted
        more = np.minimum(np.floor(ideal / ideal.sum() * left).astype(np.int64), room)
        if not more.any():
            first = np.argsort(-np.where(room > 0, ideal + wanted, -1), kind="stable")[:left]
            more[first[room[first] > 0]] = 1
        drawn = drawn + more
    return drawn


def draw(strata: Strata, seed: int) -> Ints:
    """The units to review, in random order: the given number per stratum, all with equal probability."""
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(strata.of == number), int(n), replace=False)
        for number, n in enumerate(strata.drawn)
    ]
    return random.permutation(np.concatenate(chosen)) if chosen else np.array([], np.int64)


@dataclass(frozen=True)
class Sample:
    """Units that were reviewed.

    Attributes
    ----------
    stratum : (n,) number of each one's stratum
    sizes : (strata,) units in each stratum, in the whole data set
    """

    stratum: Ints
    sizes: Ints

    def total(self, y: Doubles) -> tuple[float, float]:
        """The sum of `y` (n,) over all units, and its variance (Cochran 1977, equations 5.1 and 5.11)."""
        n = np.bincount(self.stratum, minlength=len(self.sizes))
        seen = n > 0
        mean = np.bincount(self.stratum, y, len(self.sizes)) / np.maximum(n, 1)
        # The other strata stand in for a stratum that nobody reviewed.
        whole = float(self.sizes[seen].sum())
        scale = self.sizes.sum() / whole if whole else np.nan
        left = (y - mean[self.stratum]) ** 2
        spread = np.bincount(self.stratum, left, len(self.sizes)) / np.maximum(n - 1, 1)
        pooled = left.sum() / max(int((n[seen] - 1).sum()), 1)
        spread = np.where(n > 1, spread, pooled)
        size = self.sizes.astype(float)
        variance = np.where(seen, size**2 * (1 - n / np.maximum(size, 1)) * spread / np.maximum(n, 1), 0)
        return float((size * mean)[seen].sum() * scale), float(variance.sum() * scale**2)

    @property
    def freedom(self) -> int:
        """Degrees of freedom: units minus strata."""
        return max(len(self.stratum) - len(np.unique(self.stratum)), 1)

    def share(self, y: Bools, of: Bools | None = None) -> Estimate:
        """The share of units with `y` among those with `of` (all): a ratio of totals (Cochran 1977, 6.2)."""
        domain = np.ones(len(y), bool) if of is None else of
        n = int(domain.sum())
        if not n:
            return Estimate(np.nan, np.nan, np.nan, 0)
        hits = y & domain
        part, whole = self.total(hits.astype(float))[0], self.total(domain.astype(float))[0]
        share = part / whole
        _, variance = self.total(hits - share * domain)
        variance /= whole**2
        variance += self._hidden(hits, domain, share, whole)
        low, high = wilson(share, variance, n, self.freedom)
        return Estimate(share, low, high, n)

    def _hidden(self, hits: Bools, domain: Bools, share: float, whole: float) -> float:
        """Variance hidden by strata in which all units are alike (see `_PSEUDO`)."""
        n = np.bincount(self.stratum, minlength=len(self.sizes))
        x = np.bincount(self.stratum[hits], minlength=len(self.sizes))
        within = np.bincount(self.stratum[domain], minlength=len(self.sizes))
        is_alike = (n > 0) & (within == n) & ((x == 0) | (x == n))
        p = (x + _PSEUDO * share) / (n + _PSEUDO)
        spread = np.where(is_alike, p * (1 - p), 0) / np.maximum(n, 1)
        left = 1 - n / np.maximum(self.sizes, 1)
        return float((self.sizes.astype(float) ** 2 * left * spread).sum()) / whole**2

    def sum(self, y: Doubles) -> Estimate:
        """The sum of `y`, not negative, over all units; the interval is on a logarithmic scale."""
        value, variance = self.total(y)
        n = int(np.count_nonzero(y))
        if not n:
            return Estimate(0.0, 0.0, self._most_unseen(), 0)
        width = t_quantile(self.freedom) * np.sqrt(variance) / value
        return Estimate(value, value * np.exp(-width), value * np.exp(width), n)

    def _most_unseen(self) -> float:
        """How many there may be of something never seen: the rule of three (Hanley and Lippman-Hand 1983)."""
        return float(3 / max(len(self.stratum), 1) * self.sizes.sum())


def wilson(share: float, variance: float, n: int, freedom: int) -> tuple[float, float]:
    """Wilson's 95 % interval at the effective sample size, that of a simple sample with this variance."""
    effective = share * (1 - share) / variance if variance > 0 and 0 < share < 1 else float(n)
    effective = min(effective, 1e9)
    quantile = t_quantile(freedom)
    square = quantile**2
    middle = (share + square / (2 * effective)) / (1 + square / effective)
    reach = (
        quantile
        * np.sqrt(share * (1 - share) / effective + square / (4 * effective**2))
        / (1 + square / effective)
    )
    return max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def t_quantile(freedom: int) -> float:
    """Student's t within which 95 % lie, on either side (Abramowitz and Stegun 1964, 26.7.5).

    >>> [round(t_quantile(freedom), 2) for freedom in (3, 10, 100)]
    [3.18, 2.23, 1.98]
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def _range(at: int) -> str:
    bounds = (0.0, *BINS, 1.0)
    return f"{bounds[at]:g}-{bounds[at + 1]:g}"
