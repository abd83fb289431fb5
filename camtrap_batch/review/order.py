"""Which sequences a person should look at first.

`useful` asks what a look does to the list of species of each camera. Let a record be "species s was at camera
c", claimed where a sequence there has the label s. A claimed record is wrong with the probability that all of
its sequences are wrong, the product of 1 - p. Looked at from the surest on, the first right one settles it;
what the looks remove is the record's probability of being wrong, what they cost is their expected number.
A record that is not claimed is wrong where the species was there after all: a look at a sequence that shows
s with probability p finds that with probability p. The value of a look is the sum of both, in wrong records
per look. The probabilities are the calibrated ones of `infer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, encode

Order = Literal["useful", "least-sure", "disagree", "rare", "people", "random"]

ORDERS: tuple[str, ...] = get_args(Order)

HELP: dict[str, str] = {
    "useful": "those that change the species list of a camera most, per look",
    "least-sure": "the lowest confidence first",
    "disagree": "where the model and the metadata's label differ, the surest first",
    "rare": "labels with the fewest sequences first",
    "people": "what may show a person, the surest first",
    "random": "a random order, the same each time",
}

_PEOPLE = pa.array(["person", "human", "people"])

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known of n sequences.

    Attributes
    ----------
    location, label : (n,) text; null for none
    confidence : (n,) float, of the label; NaN where there is none
    claims : (n,) bool, whether the label is of a species: neither empty nor uncertain nor a group
    sequence, species, probability : (m,) what else a sequence may show: its number, a species, how probable
    """

    location: pa.Array
    label: pa.Array
    confidence: Floats
    claims: npt.NDArray[np.bool_]
    sequence: Ints
    species: pa.Array
    probability: Floats


def usefulness(known: Evidence) -> tuple[Floats, float]:
    """How many wrong species-at-camera records a look at each sequence removes, and how many are expected.

    Returns
    -------
    (n,) value of each sequence, and the expected number of wrong records before anyone looks
    """
    camera = encode(known.location)[0] + 1
    species = encode(pa.concat_arrays([known.label, known.species]))[0] + 1
    own, other = species[: len(known.label)], species[len(known.label) :]
    n_species = int(species.max(initial=-1)) + 1
    value = np.zeros(len(camera))
    rows = np.flatnonzero(known.claims)
    record = camera[rows] * n_species + own[rows]
    sure = np.clip(np.nan_to_num(known.confidence[rows]), 1e-6, 1 - 1e-6)
    # The surest of each record first.
    order = np.lexsort((-sure, record))
    rows, record, sure = rows[order], record[order], sure[order]
    starts = np.flatnonzero(np.r_[True, record[1:] != record[:-1]]) if len(record) else np.array([], int)
    lengths = np.diff(np.r_[starts, len(record)])
    wrong = np.zeros(len(starts))
    if len(starts):
        logs = np.log1p(-sure)
        wrong = np.exp(np.add.reduceat(logs, starts))
        # Looks until the first right one: 1, and one more for each that turns out wrong.
        before = np.cumsum(logs) - logs
        looks = np.add.reduceat(np.exp(before - np.repeat(before[starts], lengths)), starts)
        rate = wrong / looks
        # Those after the surest are looked at only if it is wrong.
        rank = np.arange(len(record)) - np.repeat(starts, lengths)
        value[rows] += np.where(rank == 0, np.repeat(rate, lengths), 0)
    claimed = np.unique(record)
    may_be = camera[known.sequence] * n_species + other
    is_new = ~np.isin(may_be, claimed)
    p = np.clip(known.probability[is_new], 0, 1 - 1e-6)
    np.add.at(value, known.sequence[is_new], p)
    missed = 0.0
    if is_new.any():
        keys, index = np.unique(may_be[is_new], return_inverse=True)
        nothing = np.zeros(len(keys))
        np.add.at(nothing, index, np.log1p(-p))
        missed = float((1 - np.exp(nothing)).sum())
    return value, float(wrong.sum()) + missed


def rank(order: Order, known: Evidence, truth: pa.Array, seed: int = 0) -> Ints:
    """Numbers of the sequences, the one to look at first first.

    Parameters
    ----------
    truth : (n,) what the metadata say each sequence shows; null where they do not
    """
    n = len(known.label)
    shuffled = np.random.default_rng(seed).permutation(n)
    sure = np.nan_to_num(known.confidence)
    if order == "random":
        return shuffled
    if order == "least-sure":
        key = sure
    elif order == "useful":
        key = -usefulness(known)[0]
    elif order == "disagree":
        differs = pc.fill_null(pc.not_equal(truth, known.label), False).to_numpy(zero_copy_only=False)
        key = np.where(differs, -sure, 2.0)
    elif order == "rare":
        code = encode(known.label)[0] + 1
        key = np.where(known.claims, np.bincount(code)[code], n + 1).astype(float)
    else:
        people = pc.is_in(known.label, _PEOPLE).to_numpy(zero_copy_only=False) * (1 + sure)
        also = pc.is_in(known.species, _PEOPLE).to_numpy(zero_copy_only=False)
        np.maximum.at(people, known.sequence[also], known.probability[also])
        key = -people
    # Ties in an order that is always the same, and follows nothing.
    return shuffled[np.argsort(key[shuffled], kind="stable")]
