"""What a random sample of reviewed sequences says about single locations, with few sampled sequences each.

What people looked at is known. For the other sequences at a location, the sample shows how often sequences
labelled alike, with a similar confidence, show a species anywhere; the expected number is the sum of these
shares (a synthetic estimator; Rao and Molina 2015, Small Area Estimation, chapter 3). That holds if a model
errs in the same way at all locations, which no model does: how much more the errors at one location have in
common than they would by chance is also estimated from the sample, as their correlation. It determines how
far what was sampled at the location itself counts for its other sequences (chapter 4.3 there: unit level
models), and how much the interval is widened (Kish 1965, Survey Sampling, section 5.4: 1 + (n - 1) rho).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camtrap_batch.codes import Ints

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = (0.5, 0.8, 0.95)
"""Bounds of the ranges of confidence within which sequences of a label are taken to be alike."""

_ENOUGH = 8
"""Minimum number of sampled sequences, alike in label and confidence, that speak for others like them."""

_WHOLE = -2
"""In place of a label: a group of which the sample has enough."""

_RHO, _PAIRS = 0.1, 20.0
"""Correlation of errors at one location without evidence, and how many pairs of them that is worth."""

_PSEUDO = 0.25
"""Additional sequences, distributed like the whole, that a group is assumed to have in the sample: if all are
alike, chance is still not zero."""

_NORMAL = 1.959964


@dataclass(frozen=True)
class Units:
    """Sequences of a data set.

    Attributes
    ----------
    location : (n,) number of each one's location
    label : (n,) number of the machine's label; -1: none
    confidence : (n,) confidence in that label; NaN: not known
    part : (n,) how much each counts, such as its share of an event
    known : (n,) whether people said what it shows
    row, shows : (m,) number of a sequence, and number of a label that people saw in it
    """

    location: Ints
    label: Ints
    confidence: Doubles
    part: Doubles
    known: Bools
    row: Ints
    shows: Ints


@dataclass(frozen=True)
class Totals:
    """(locations, labels): how many sequences show a label, and a 95 % interval of whole numbers."""

    value: Doubles
    low: Doubles
    high: Doubles


def location_totals(units: Units, sample: Ints, weight: Doubles, n_locations: int, n_labels: int) -> Totals:
    """How many of each location's sequences show each label.

    Parameters
    ----------
    sample : (k,) numbers of the sequences of a random sample that people looked at
    weight : (k,) how many sequences each stands for: 1 divided by its probability of being drawn
    """
    in_sample = np.full(len(units.label), -1)
    in_sample[sample] = np.arange(len(sample))
    seen = in_sample[units.row] >= 0
    y = np.zeros((len(sample), n_labels))
    y[in_sample[units.row[seen]], units.shows[seen]] = 1
    group, own = _groups(units, sample)
    p, error = _shares(group[sample], own, units.label[sample], weight, y)
    expected_here = p[group[sample]]
    rho = _correlation(units.location[sample], y - expected_here, expected_here, n_locations)

    known = np.zeros((n_locations, n_labels))
    np.add.at(known, (units.location[units.row], units.shows), units.part[units.row])
    left = np.flatnonzero(~units.known)
    key, part = units.location[left] * len(own) + group[left], units.part[left]
    whole, squares = (
        np.bincount(key, one, n_locations * len(own)).reshape(n_locations, len(own))
        for one in (part, part**2)
    )
    total, size = whole.sum(axis=1), squares.sum(axis=1)
    # What a location's own sample says about it, as far as that is more than chance.
    n_here = np.bincount(units.location[sample], minlength=n_locations)
    own_part = n_here * rho / (1 + np.maximum(n_here - 1, 0) * rho)
    off = np.zeros((n_locations, n_labels))
    np.add.at(off, units.location[sample], y - expected_here)
    off *= (own_part / np.maximum(n_here, 1))[:, None]
    design = 1 + np.maximum(total**2 / np.where(size > 0, size, 1) - 1, 0) * rho * (1 - own_part)
    value = known + np.clip(whole @ p + total[:, None] * off, 0, total[:, None])
    variance = whole**2 @ error + design[:, None] * (squares @ (p * (1 - p)))
    reach = _NORMAL * np.sqrt(variance)
    low = np.maximum(np.floor(value - reach + 1e-9), np.floor(known + 1e-9))
    high = np.minimum(np.ceil(value + reach - 1e-9), np.ceil(known + total[:, None] - 1e-9))
    return Totals(value, low, high)


def _groups(units: Units, sample: Ints) -> tuple[Ints, Ints]:
    """The group of similar sequences that each is in, (n,); and for each group `_WHOLE`, or its label if the
    sample has too few of it."""
    label = units.label + 1
    fine = label * (len(BINS) + 1) + np.digitize(np.nan_to_num(units.confidence), BINS)
    n_fine = int(fine.max(initial=0)) + 1
    is_enough = np.bincount(fine[sample], minlength=n_fine) >= _ENOUGH
    found, group = np.unique(np.where(is_enough[fine], fine, n_fine + label), return_inverse=True)
    few = np.bincount(group[sample], minlength=len(found)) < _ENOUGH
    return group, np.where(few, found - n_fine - 1, _WHOLE)


def _shares(group: Ints, own: Ints, label: Ints, weight: Doubles, y: Doubles) -> tuple[Doubles, Doubles]:
    """(groups, labels) share of a group's sequences that show a label, and the variance of that share.

    For groups of which the sample has too few, all of these together show how often the label is right, and
    what else occurs.

    Parameters
    ----------
    group, label, weight : (k,) of the sample
    own : (groups,) as `_groups` gives it
    y : (k, labels) what they show
    """
    n_groups = len(own)
    total, squares = (np.bincount(group, one, n_groups) for one in (weight, weight**2))
    p = np.zeros((n_groups, y.shape[1]))
    np.add.at(p, group, weight[:, None] * y)
    p /= np.where(total > 0, total, 1)[:, None]
    n = total**2 / np.where(squares > 0, squares, 1)
    is_few = own > _WHOLE
    if is_few.any():
        some = np.flatnonzero(is_few[group])
        some = some if len(some) >= _ENOUGH else np.arange(len(group))
        w = weight[some] / weight[some].sum()
        labelled = np.flatnonzero(label[some] >= 0)
        right = y[some][labelled, label[some][labelled]]
        share = w[labelled].sum()
        accuracy = (w[labelled] * right).sum() / share if share else 0.0
        others = y[some].copy()
        others[labelled, label[some][labelled]] = 0
        p[is_few] = w @ others
        named = np.flatnonzero(own >= 0)
        p[named, own[named]] = accuracy
        n[is_few] = 1 / (w**2).sum()
    every = weight @ y / weight.sum()
    near = (n[:, None] * p + _PSEUDO * every) / (n[:, None] + _PSEUDO)
    return p, near * (1 - near) / np.maximum(n, 1)[:, None]


def _correlation(location: Ints, error: Doubles, p: Doubles, n_locations: int) -> float:
    """How much the errors of two sequences at one location have in common, over all labels; 0 to 1."""
    spread = np.sqrt(p * (1 - p))
    sums = np.zeros((2, n_locations, error.shape[1]))
    np.add.at(sums[0], location, error)
    np.add.at(sums[1], location, spread)
    shared = float((sums[0] ** 2).sum() - (error**2).sum())
    possible = float((sums[1] ** 2).sum() - (spread**2).sum())
    prior = 2 * _PAIRS * float((spread**2).sum()) / max(len(error), 1)
    if possible + prior <= 0:
        return _RHO
    return float(np.clip((shared + _RHO * prior) / (possible + prior), 0, 1))
