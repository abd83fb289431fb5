"""Which sequences people should review first.

`useful` asks what a review does to the list of species at each camera. Let a record be "species s was at
camera c", claimed if a sequence there has the label s. A claimed record is wrong if none of its sequences
shows the species; all of them must be reviewed to remove it, so that reviewing one removes its share. A
record that is not claimed is wrong if the species was there after all, and reviewing the sequence that shows
it removes that error. The value of a review is the sum of both, in wrong records. The probabilities are the
calibrated ones of `infer`, weighted by what the camera's other sequences say (see `_records`).

What was seen changes what is worth looking at next: `after_looks` puts it in place of what the machine says.
The order (`priorities`) looks ahead that far: of a record's sequences the most probable one comes first, and
the following ones count only as far as those before them leave the record open (an index of gain over cost,
as for other such searches: Gittins 1979, Journal of the Royal Statistical Society B 41, 148-177).

`disagree` finds labels of the metadata that are wrong by confident learning (Northcutt, Jiang and Chuang
2021, Journal of Artificial Intelligence Research 70, 1373-1411).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, encode
from camtrap_batch.vocabulary import PERSONS, UNCERTAIN

Order = Literal["useful", "least-sure", "disagree", "rare", "people", "random"]

ORDERS: tuple[str, ...] = get_args(Order)

HELP: dict[str, str] = {
    "useful": "those whose review changes the species list of a camera most",
    "least-sure": "the lowest confidence first",
    "disagree": "labels of the metadata that look wrong, by confident learning, the most certain first",
    "rare": "labels with the fewest sequences first",
    "people": "what may show a person, the most confident first",
    "random": "a random order, the same each time",
}

_ROUNDS = 15

_PERSONS = pa.array(PERSONS)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known about n sequences.

    Attributes
    ----------
    location, label : (n,) text; null for none
    confidence : (n,) float, confidence of the label; NaN if there is none
    claims : (n,) bool, whether the label is a species: neither empty nor uncertain nor a group
    sequence, species, probability : (m,) what else a sequence may show: its number, a species, how probable
    """

    location: pa.Array
    label: pa.Array
    confidence: Floats
    claims: npt.NDArray[np.bool_]
    sequence: Ints
    species: pa.Array
    probability: Floats


@dataclass(frozen=True)
class _Records:
    """What sequences say about species at cameras: an entry for each sequence and species that it may show.

    Attributes
    ----------
    sequence, record : (entries,) number of the sequence, and of the record
    p : (entries,) probability that it shows the species, if that is at the camera at all
    is_claim : (entries,) whether the species is its label
    present : (records,) probability that the species is at the camera
    """

    sequence: Ints
    record: Ints
    p: Floats
    is_claim: npt.NDArray[np.bool_]
    present: Floats


def usefulness(known: Evidence) -> tuple[Floats, float]:
    """How many wrong species-at-camera records reviewing each sequence removes, and how many are expected.

    Returns
    -------
    (n,) value of each sequence, and the expected number of wrong records before any review
    """
    value = np.zeros(len(known.label))
    found = _records(known)
    n = len(found.present)
    if not n:
        return value, 0.0
    claims = np.bincount(found.record[found.is_claim], minlength=n)
    nothing = np.bincount(found.record, np.log1p(-found.p), n)
    nothing_claimed = np.bincount(found.record[found.is_claim], np.log1p(-found.p[found.is_claim]), n)
    # Claimed, and no claiming sequence is right: all of them must be reviewed.
    wrong = np.where(claims > 0, 1 - found.present * (1 - np.exp(nothing_claimed)), 0)
    np.add.at(
        value,
        found.sequence[found.is_claim],
        (wrong / np.maximum(claims, 1))[found.record[found.is_claim]],
    )
    # Not claimed, but present: the sequence that shows it must be found.
    missed = np.where(claims == 0, found.present * (1 - np.exp(nothing)), 0)
    is_new = claims[found.record] == 0
    finds = found.present[found.record] * found.p
    np.add.at(value, found.sequence[is_new], finds[is_new])
    return value, float(wrong.sum() + missed.sum())


def priorities(known: Evidence) -> Floats:
    """(n,) how early to look at each sequence: wrong records removed per look."""
    value = np.zeros(len(known.label))
    found = _records(known)
    n = len(found.present)
    if not n:
        return value
    # The most probable sequence of each record first; its claims apart from other sequences that may show it.
    order = np.lexsort((-found.p, ~found.is_claim, found.record))
    record, is_claim = found.record[order], found.is_claim[order]
    p, present = found.p[order], found.present[found.record[order]]
    claims = np.bincount(record[is_claim], minlength=n)[record]
    left = _left_open(record * 2 + is_claim, p)
    nothing = np.bincount(record[is_claim], np.log1p(-p[is_claim]), n)[record]
    wrong = 1 - present * (1 - np.exp(nothing))
    # If no claim is right, all are looked at; otherwise one after the other until one is.
    mean = np.bincount(record[is_claim], p[is_claim], n)[record] / np.maximum(claims, 1)
    until_right = np.minimum(1 / np.maximum(mean, 1e-9), claims)
    looks = np.maximum(wrong * claims + (1 - wrong) * until_right, 1)
    still_open = wrong + (1 - wrong) * left
    gain = np.where(is_claim, wrong / looks * still_open, np.where(claims == 0, present * p * left, 0))
    np.add.at(value, found.sequence[order], gain)
    return value


def _left_open(group: Ints, p: Floats) -> Floats:
    """For sorted groups: the probability that no earlier row of its group shows the species."""
    log = np.log1p(-p)
    before = np.cumsum(log) - log
    starts = np.r_[True, group[1:] != group[:-1]]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(p)), 0))
    return np.asarray(np.exp(before - before[first]), np.float64)


def after_looks(known: Evidence, seen: Mapping[int, Sequence[str]], empty: str) -> Evidence:
    """What is known once people have said what some sequences show.

    Parameters
    ----------
    seen : number of a sequence -> labels that people gave it
    empty : the label that means that there is no animal
    """
    if not seen:
        return known
    label, confidence, claims = known.label.to_pylist(), known.confidence.copy(), known.claims.copy()
    further: list[tuple[int, str]] = []
    for number, labels in seen.items():
        first, *others = labels or (empty,)
        label[number], confidence[number], claims[number] = first, 1.0, first not in (empty, UNCERTAIN)
        further += [(number, other) for other in others if other != empty]
    numbers = np.fromiter(seen, np.int64, len(seen))
    kept = ~np.isin(known.sequence, numbers)
    species = [*known.species.filter(pa.array(kept)).to_pylist(), *(name for _, name in further)]
    return Evidence(
        known.location,
        pa.array(label, pa.string()),
        confidence,
        claims,
        np.concatenate([known.sequence[kept], np.array([number for number, _ in further], np.int64)]),
        pa.array(species, pa.string()),
        np.concatenate([known.probability[kept], np.ones(len(further))]),
    )


def _records(known: Evidence) -> _Records:
    """Weight what each sequence says by what the others at its camera say: a species is there, or is not.

    If it is there, it has a share of the camera's sequences; if not, none of them shows it. Share and
    probability of presence are found together by expectation maximisation, like the classes of a latent class
    model (Dempster, Laird and Rubin 1977, Journal of the Royal Statistical Society B 39, 1-38).
    """
    n = len(known.label)
    camera = encode(known.location)[0] + 1
    rows = np.flatnonzero(known.claims)
    species = encode(pa.concat_arrays([known.label.take(pa.array(rows)), known.species]))[0]
    sequence = np.concatenate([rows, known.sequence])
    p = np.concatenate([np.nan_to_num(known.confidence[rows]), known.probability])
    is_claim = np.arange(len(sequence)) < len(rows)
    # A label is also among the most likely classes: once is enough.
    pair = sequence * (int(species.max(initial=0)) + 1) + species
    first = np.unique(pair, return_index=True)[1]
    sequence, species, is_claim, p = sequence[first], species[first], is_claim[first], p[first]
    p = np.clip(p, 1e-6, 1 - 1e-6)
    n_species = int(species.max(initial=-1)) + 1
    keys, record = np.unique(camera[sequence] * n_species + species, return_inverse=True)
    if not len(keys):
        return _Records(sequence, record, p, is_claim, np.zeros(0))
    of = keys % n_species
    n_here = np.bincount(camera)[keys // n_species].astype(float)
    n_cameras = len(np.unique(camera))
    prior = np.clip(np.bincount(species, p, n_species) / n, 1e-6, 0.5)[species]
    factor = p / (1 - p) * (1 - prior) / prior
    silent = n_here - np.bincount(record, minlength=len(keys))
    share = np.clip(np.bincount(record, p, len(keys)) / n_here, 0.5 / n_here, 0.99)
    there = np.full(n_species, 0.3)
    present = np.ones(len(keys))
    shows = p
    for _ in range(_ROUNDS):
        of_entry = share[record]
        mixed = 1 - of_entry + of_entry * factor
        shows = of_entry * factor / mixed
        evidence = np.bincount(record, np.log(mixed), len(keys)) + silent * np.log1p(-share)
        # A fitted share explains too well: subtract the price of one parameter (Schwarz 1978).
        odds = np.log(there[of]) - np.log1p(-there[of]) + evidence - 0.5 * np.log(n_here)
        present = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        share = np.clip(np.bincount(record, shows, len(keys)) / n_here, 0.5 / n_here, 0.99)
        there = (np.bincount(of, present, n_species) + 0.5) / (n_cameras + 1)
    return _Records(sequence, record, np.clip(shows, 0, 1 - 1e-9), is_claim, present)


def label_errors(known: Evidence, truth: pa.Array) -> Floats:
    """How right each sequence's label in the metadata looks; a lower value means that it is more likely
    wrong.

    A label is doubted if another class is more probable than that class is on average when it is the label,
    its threshold. Doubted labels are ranked by the margin between both classes, from -1 up, and are below 0;
    if the model's label differs but no threshold is passed, the value is between 1 and 2; without any doubt
    it is 3.

    Parameters
    ----------
    truth : (n,) what the metadata say each sequence shows; null if they do not
    """
    n = len(known.label)
    codes = encode(pa.concat_arrays([truth, known.label, known.species]))[0]
    given, label, species = codes[:n], codes[n : 2 * n], codes[2 * n :]
    own = np.zeros(n)
    is_own = species == given[known.sequence]
    own[known.sequence[is_own]] = known.probability[is_own]
    sure = np.nan_to_num(known.confidence)
    own = np.where((label == given) & (given >= 0), np.maximum(own, sure), own)
    size = int(codes.max(initial=-1)) + 1
    told = given >= 0
    times = np.bincount(given[told], minlength=size)
    threshold = np.bincount(given[told], own[told], size) / np.maximum(times, 1)
    threshold[times == 0] = 1.0  # a label that the metadata never use has no threshold
    other = np.zeros(n)
    rows = np.concatenate([known.sequence, np.arange(n)])
    what = np.concatenate([species, label])
    p = np.concatenate([known.probability, sure])
    counts = (what >= 0) & (what != given[rows]) & told[rows]
    counts &= p >= threshold[np.maximum(what, 0)]
    np.maximum.at(other, rows[counts], p[counts])
    differs = told & (label != given) & (label >= 0)
    return np.where((other > 0) & (other > own), own - other, np.where(differs, 2 - sure, 3.0))


def rank(order: Order, known: Evidence, truth: pa.Array, seed: int = 0) -> Ints:
    """Numbers of the sequences, in the order in which to review them.

    Parameters
    ----------
    truth : (n,) what the metadata say each sequence shows; null if they do not
    """
    n = len(known.label)
    shuffled = np.random.default_rng(seed).permutation(n)
    sure = np.nan_to_num(known.confidence)
    if order == "random":
        return shuffled
    if order == "least-sure":
        key = sure
    elif order == "useful":
        key = -priorities(known)
    elif order == "disagree":
        key = label_errors(known, truth)
    elif order == "rare":
        code = encode(known.label)[0] + 1
        key = np.where(known.claims, np.bincount(code)[code], n + 1).astype(float)
    else:
        people = pc.is_in(pc.utf8_lower(known.label), _PERSONS).to_numpy(zero_copy_only=False) * (1 + sure)
        also = pc.is_in(pc.utf8_lower(known.species), _PERSONS).to_numpy(zero_copy_only=False)
        np.maximum.at(people, known.sequence[also], known.probability[also])
        key = -people
    # Ties in a fixed, arbitrary order.
    return shuffled[np.argsort(key[shuffled], kind="stable")]


def looks_until(known: Evidence, numbers: Ints, wrong: float) -> int:
    """How many of the sequences, in order, to review until fewer than `wrong` wrong records are expected."""
    value, expected = usefulness(known)
    left = expected - np.cumsum(value[numbers])
    return int(np.argmax(left < wrong)) + 1 if (left < wrong).any() else len(numbers)
