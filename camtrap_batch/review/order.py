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

_SIZES = 4.0 ** np.arange(3)
"""Numbers of sequences that a species may be expected in at a camera."""

_MOST = 0.9
"""Of a camera's sequences, the largest share that a species may be expected in."""

_LEAST = 1e-6
_ROUNDS, _STEPS = 2, 8

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

    The entries of a record follow each other: first the sequences that claim it, then the others, the most
    probable first.

    Attributes
    ----------
    sequence, record : (entries,) number of the sequence, and of the record
    is_claim : (entries,) whether the species is its label
    finds : (entries,) probability that it is the first of its record's sequences that shows the species
    """

    sequence: Ints
    record: Ints
    is_claim: npt.NDArray[np.bool_]
    finds: Floats

    @property
    def claims(self) -> Ints:
        """(entries,) how many sequences claim the entry's record."""
        return np.bincount(self.record, self.is_claim)[self.record].astype(np.int64)

    @property
    def absent(self) -> Floats:
        """(entries,) probability that no sequence shows the species of the entry's record."""
        return np.asarray(1 - np.bincount(self.record, self.finds)[self.record], np.float64)


def usefulness(known: Evidence) -> tuple[Floats, float]:
    """How many wrong species-at-camera records reviewing each sequence removes, and how many are expected.

    Returns
    -------
    (n,) value of each sequence, and the expected number of wrong records before any review
    """
    found = _records(known)
    claims = found.claims
    # A wrong claim goes once all its sequences are reviewed, a species that was missed once one shows it.
    removed = np.where(found.is_claim, found.absent / np.maximum(claims, 1), np.where(claims, 0, found.finds))
    value = np.bincount(found.sequence, removed, len(known.label)).astype(np.float64)
    return value, float(removed.sum())


def priorities(known: Evidence) -> Floats:
    """(n,) how early to look at each sequence: wrong records removed per look."""
    found = _records(known)
    claims, absent = found.claims, found.absent
    n = int(found.record.max(initial=-1)) + 1
    before = np.cumsum(found.finds) - found.finds
    starts = np.searchsorted(found.record, np.arange(n))
    still_open = 1 - (before - before[starts][found.record])
    # A wrong claim is looked at until one is right, or to the end. If none is, but another sequence shows
    # the species, its record goes though it was right.
    looks = np.bincount(found.record, found.is_claim * still_open)[found.record]
    missed = np.bincount(found.record, ~found.is_claim * found.finds)[found.record]
    removed = np.maximum(absent - missed, 0) / np.maximum(looks, 1)
    gain = np.where(found.is_claim, removed * still_open, np.where(claims, 0, found.finds))
    return np.bincount(found.sequence, gain, len(known.label)).astype(np.float64)


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
    """Weight what each sequence says by what the others at its camera say.

    A species is in none of a camera's sequences, or in a share of them, at least in one. How many cameras
    each species is at, and how shares are distributed, is learnt from all records by expectation
    maximisation (Dempster, Laird and Rubin 1977, Journal of the Royal Statistical Society B 39, 1-38). The
    species expected at a camera are then the prior there of what each of its sequences shows, in place of the
    classifier's (Saerens, Latinne and Decaestecker 2002, Neural Computation 14, 21-41), and so forth.
    """
    camera = encode(known.location)[0] + 1
    sequence, species, is_claim, p = _entries(known)
    n_species = int(species.max(initial=-1)) + 1
    key = camera[sequence] * n_species + species
    order = np.argsort(key, kind="stable")
    sequence, species, is_claim = sequence[order], species[order], is_claim[order]
    p, key = p[order], key[order]
    is_start = np.diff(key, prepend=-1) != 0
    starts, record = np.flatnonzero(is_start), np.cumsum(is_start) - 1
    if not len(key):
        return _Records(sequence, record, is_claim, p)
    of, at = species[starts], camera[sequence[starts]]
    n_at = np.bincount(camera).astype(float)
    n_here, n_cameras = n_at[at], np.count_nonzero(n_at)

    n = len(camera)
    prior = np.clip(np.bincount(species, p) / n, _LEAST, 0.5)
    ratio = p / prior[species]
    nothing_else = np.clip(1 - np.bincount(sequence, p, n), _LEAST, 1) / max(1 - prior.sum(), 0.001)

    share = np.minimum(_SIZES[:, None] / n_here, _MOST)
    odds, none = share / (1 - share), n_here * np.log1p(-share)
    there, sizes = np.full(n_species, 0.3), np.full(len(_SIZES), 1 / len(_SIZES))
    lift, shown = np.empty_like(share), np.empty_like(share)
    expected = prior[of]  # part of the camera's sequences that show the species
    for _ in range(_ROUNDS):
        # How much more probable what is seen of the sequence is with the species than with anything else.
        other = np.clip(1 - np.bincount(at, expected, len(n_at)), 0.001, 1)[camera] * nothing_else
        of_entry = expected[record]
        everything = np.bincount(sequence, of_entry * ratio, n) + other
        factor = ratio * (1 - of_entry) / np.maximum(everything[sequence] - of_entry * ratio, _LEAST)
        factor[p >= 1 - _LEAST] = 1 / _LEAST  # seen; a sequence may show several species
        for size, o in enumerate(odds):
            x = o[record] * factor
            lift[size] = np.add.reduceat(np.log1p(x), starts)
            shown[size] = np.add.reduceat(x / (1 + x), starts)
        some = -np.expm1(-lift)
        log = none + lift + np.log(some / -np.expm1(none))
        most = np.maximum(log.max(axis=0), 0)
        if_there, if_not = np.exp(log - most), np.exp(-most)
        for _ in range(_STEPS):
            likelihood, chance = sizes @ if_there, there[of]
            weight = chance / (chance * likelihood + (1 - chance) * if_not)
            posterior = sizes[:, None] * if_there * weight
            sizes = posterior.sum(axis=1) + _LEAST
            sizes /= sizes.sum()
            there = (np.bincount(of, weight * likelihood) + 0.5) / (n_cameras + 1)
        expected = np.clip((posterior / some * shown).sum(axis=0) / n_here, 0.05 / n_here, _MOST)

    # One key instead of three: the fraction is the order among a record's claims, or its other sequences.
    order = np.argsort(2 * record + ~is_claim + 1 / (1 + factor), kind="stable")
    sequence, is_claim, factor = sequence[order], is_claim[order], factor[order]
    finds = np.zeros(len(record))
    for o, weight in zip(odds, posterior / some, strict=True):
        x = o[record] * factor
        log = np.log1p(x)
        before = np.cumsum(log) - log
        finds += weight[record] * x / (1 + x) * np.exp(before[starts][record] - before)
    return _Records(sequence, record, is_claim, finds)


def _entries(known: Evidence) -> tuple[Ints, Ints, npt.NDArray[np.bool_], Floats]:
    """Sequence, code of the species, whether it is the label, and how probable: each pair once."""
    rows = np.flatnonzero(known.claims)
    species = encode(pa.concat_arrays([known.label.take(pa.array(rows)), known.species]))[0]
    sequence = np.concatenate([rows, known.sequence])
    p = np.concatenate([np.nan_to_num(known.confidence[rows]), known.probability])
    # A label is also among the most likely classes: once is enough.
    first = np.unique(sequence * (int(species.max(initial=0)) + 1) + species, return_index=True)[1]
    return sequence[first], species[first], first < len(rows), np.clip(p[first], _LEAST, 1 - _LEAST)


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
