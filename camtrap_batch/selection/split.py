"""Train, valid and test: what must not be divided between them, and how the rest is divided."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import encode
from camtrap_batch.errors import JobError, MissingExtra
from camtrap_batch.job import Split

DUPLICATES = ("exact_duplicate", "near_duplicate")
"""Kinds of findings that tie two images together."""

_SPLITS_TRIED = 20
_CANDIDATES, _FEW_CANDIDATES = 15, 4
_MANY_GROUPS, _MOST_GROUPS, _MOST_MOVES = 500, 5000, 300
_LOCATIONS_COUNT = 0.25  # weight; all classes together have 1
_NONE, _NO_BETTER = 1e-9, 1e-6  # below the share of any image; below any change that matters
_MOST_LOCATIONS_OF_A_SEQUENCE = 5
_MOST_NAMED = 30


def duplicate_pairs(
    image_ids: pa.ChunkedArray, findings: pa.Table | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows of images that are exact or near duplicates of another, and of that other one."""
    if findings is None:
        return np.array([], np.int64), np.array([], np.int64)
    found = findings.filter(pc.is_in(findings["kind"], pa.array(DUPLICATES)))
    copies, others = (
        pc.fill_null(pc.index_in(found[name], image_ids.combine_chunks()), -1).to_numpy()
        for name in ("image_id", "other_image_id")
    )
    both = (copies >= 0) & (others >= 0)
    return copies[both], others[both]


def groups_of(
    rows: pa.Table, kept: np.ndarray[Any, Any], pairs: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> np.ndarray[Any, Any]:
    """Number of each kept row's group, which must not be divided between train, valid and test.

    A group is a location, with the locations that share a sequence or duplicates with it. Images with an
    unknown location are held together by deployment, otherwise by sequence; those with none of the three form
    one group. A `seq_id` at more than five locations names many sequences, so it joins nothing.

    Parameters
    ----------
    rows : rows of the catalog: location, deployment, seq_id
    kept : indices into `rows`
    pairs : indices into `rows` of images that are duplicates of each other, whether kept or not
    """
    some = rows.take(pa.array(kept))
    location, deployment, sequence = (encode(some[name])[0] for name in ("location", "deployment", "seq_id"))
    # Numbered in the order of their names, so that the order of rows does not affect a split.
    site = location.copy()
    for codes in (deployment, sequence):
        site = np.where((site < 0) & (codes >= 0), codes + site.max(initial=-1) + 1, site)
    site[site < 0] = site.max(initial=-1) + 1
    known = np.flatnonzero((location >= 0) & (sequence >= 0))
    uses = np.unique(np.stack([sequence[known], location[known]]), axis=1)[0]
    is_reused = np.bincount(uses, minlength=sequence.max(initial=-1) + 1) > _MOST_LOCATIONS_OF_A_SEQUENCE
    burst = np.flatnonzero(sequence >= 0)
    burst = burst[~is_reused[sequence[burst]]]
    n_rows, n_sites = rows.num_rows, int(site.max(initial=-1)) + 1
    n_nodes = n_rows + n_sites + int(sequence.max(initial=-1)) + 1
    tied = np.concatenate([kept, kept[burst], pairs[0]])
    to = np.concatenate([n_rows + site, n_rows + n_sites + sequence[burst], pairs[1]])
    try:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError:
        raise MissingExtra("train", "splitting by location") from None
    graph = coo_array((np.ones(len(tied), bool), (tied, to)), shape=(n_nodes, n_nodes))
    group = connected_components(graph, directed=False)[1][kept]
    first: np.ndarray[Any, Any] = np.full(n_nodes, n_sites)
    np.minimum.at(first, group, site)
    numbers: np.ndarray[Any, Any] = first[group]
    return numbers


def split(
    label: np.ndarray[Any, Any], group: np.ndarray[Any, Any], how: Split, seed: int
) -> np.ndarray[Any, Any]:
    """train, valid or test for each image.

    `by: location` puts every group (see `groups_of`) on one side, with classes in proportion as far as whole
    groups allow; `by: random` divides single images, and leaves every class at least one to train on.

    Raises
    ------
    JobError
        A class has too few locations to be on every side, or a split is empty.
    """
    side = np.full(len(label), "train", object)
    wanted = {name: part for name, part in (("test", how.test), ("valid", how.valid)) if part > 0}
    if how.by == "random":
        order = np.random.default_rng(seed).permutation(len(label))
        n_valid, n_test = round(len(label) * how.valid), round(len(label) * how.test)
        side[order[:n_valid]] = "valid"
        side[order[n_valid : n_valid + n_test]] = "test"
        for name in set(label) - set(label[side == "train"]):
            side[np.flatnonzero(label == name)[0]] = "train"
        _require_sides(side, wanted)
        return side
    _require_locations(label, group, 1 + len(wanted))
    codes = pd.factorize(label, sort=True)[0]
    group = _bundled(pd.factorize(group, sort=True)[0], codes, seed)
    left = 1.0
    for name, part in wanted.items():
        rest = np.flatnonzero(side == "train")
        side[rest[_hold_out(codes[rest], group[rest], part / left, seed, name)]] = name
        left -= part
    _require_sides(side, wanted)
    return side


def _bundled(group: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Fewer groups if there are very many (images without locations): small ones are joined at random.

    The time of StratifiedGroupKFold grows with groups, folds and classes.
    """
    sizes = np.bincount(group)
    if len(sizes) <= _MOST_GROUPS:
        return group
    # The first group of each class stays separate, so that no class ends up in a single group.
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    first = np.unique(codes, return_index=True)[1]
    order = np.concatenate([group[first], order])
    order = order[np.sort(np.unique(order, return_index=True)[1])]
    bundle = np.empty(len(sizes), np.int64)
    alone = min(len(sizes), max(_MOST_GROUPS // 2, len(first)))
    bundle[order[:alone]] = np.arange(alone)
    bundle[order[alone:]] = alone + np.arange(len(sizes) - alone) % (_MOST_GROUPS // 2)
    bundled: np.ndarray[Any, Any] = bundle[group]
    return bundled


def _hold_out(
    codes: np.ndarray[Any, Any], group: np.ndarray[Any, Any], part: float, seed: int, name: str
) -> np.ndarray[Any, Any]:
    """Indices of the images of whole groups that come closest to `part` of every class.

    The best of some folds of StratifiedGroupKFold, then groups are moved one by one as long as that helps:
    folds have similar classes, but any size if one camera has a quarter of all images.
    """
    group = np.unique(group, return_inverse=True)[1]
    codes = np.unique(codes, return_inverse=True)[1]
    n_groups, n_classes = int(group.max()) + 1, int(codes.max()) + 1
    counts = np.bincount(group * n_classes + codes, minlength=n_groups * n_classes)
    counts = counts.reshape(n_groups, n_classes)
    # The last column has the same part of the locations held out, not a few with very many images.
    shares = np.hstack([counts / counts.sum(axis=0), np.full((n_groups, 1), 1 / n_groups)])
    weights = np.append(np.ones(n_classes), n_classes * _LOCATIONS_COUNT)

    def score(held: np.ndarray[Any, Any]) -> float:
        found = shares[held].sum(axis=0)
        never_trained, never_held = np.count_nonzero(found > 1 - _NONE), np.count_nonzero(found < _NONE)
        distance = float(np.average(np.abs(found - part), weights=weights))
        return never_trained * n_classes + never_held + distance

    best, best_score = np.zeros(n_groups, bool), np.inf
    # With many groups, folds are slow to make and one is as good as the next.
    enough = _CANDIDATES if n_groups <= _MANY_GROUPS else _FEW_CANDIDATES
    for number, held in enumerate(_candidates(codes, group, part, seed)):
        for way in (held, _moved(held, shares, part, weights)) if number < _FEW_CANDIDATES else (held,):
            if (found := score(way)) < best_score:
                best, best_score = way, found
        if number >= enough and best_score < n_classes:
            break
    if best_score >= n_classes:
        raise JobError(
            f"select.split: every {name} split by location leaves some class nothing to train on; "
            "choose classes with more locations, or split: {by: random}"
        )
    return np.flatnonzero(best[group])


def _moved(
    held: np.ndarray[Any, Any], shares: np.ndarray[Any, Any], part: float, weights: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Groups moved in or out, one at a time, as long as the squared distance of all classes from `part`
    falls.

    Parameters
    ----------
    held : (groups,) bool, where to begin
    shares : (groups, classes) part of each class that a group has
    weights : (classes,) weights of the distances
    """
    held, shares, weights = held.copy(), shares.astype(np.float32), weights.astype(np.float32)
    squares = shares**2 @ weights
    for _ in range(_MOST_MOVES):
        found = shares[held].sum(axis=0)
        change = 2 * (shares @ (weights * (found - part)))
        change = np.where(held, -change, change) + squares
        best = int(change.argmin())
        if change[best] >= -_NO_BETTER:
            break
        held[best] = not held[best]
    return held


def _candidates(
    codes: np.ndarray[Any, Any], group: np.ndarray[Any, Any], part: float, seed: int
) -> Iterator[np.ndarray[Any, Any]]:
    """Groups to hold out: several folds together, (groups,) bool."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise MissingExtra("train", "splitting by location") from None
    share = Fraction(part).limit_denominator(10)
    n_groups = int(group.max()) + 1
    folds = min(max(2, share.denominator), n_groups, int(np.bincount(codes).max()))
    held_folds = max(1, round(part * folds))
    for attempt in range(_SPLITS_TRIED):
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        fold = np.zeros(n_groups, np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about classes with fewer images than folds
            for number, (_, images) in enumerate(cutter.split(np.zeros(len(codes)), codes, group)):
                fold[group[images]] = number
        for first in range(folds):
            yield (fold - first) % folds < held_folds


def _require_locations(label: np.ndarray[Any, Any], group: np.ndarray[Any, Any], sides: int) -> None:
    groups = pd.DataFrame({"label": label, "group": group}).drop_duplicates().groupby("label").size()
    few = groups[groups < sides]
    if len(few):
        named = ", ".join(f"{name} ({number})" for name, number in few.head(_MOST_NAMED).items())
        more = f" and {len(few) - _MOST_NAMED} more" if len(few) > _MOST_NAMED else ""
        raise JobError(
            f"select.split: by location needs at least {sides} locations per class (those that share a "
            f"sequence or duplicates count as one); too few have: {named}{more}; leave these classes out, or "
            "split: {by: random}"
        )


def _require_sides(side: np.ndarray[Any, Any], wanted: dict[str, float]) -> None:
    for name, part in wanted.items():
        if not (side == name).any():
            raise JobError(
                f"select.split.{name}: {part:g} of {len(side)} selected images comes to none; select more "
                "images, or raise it"
            )
