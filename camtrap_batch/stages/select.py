"""select: which images to train on, in which split, and why not the others. Runs on the driver."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import JobError, MissingExtra
from camtrap_batch.job import Select, Split
from camtrap_batch.pipeline.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.selection.classes import Classes, choose_classes
from camtrap_batch.stages.catalog import categories_of
from camtrap_batch.stages.validate.findings import current_findings, require_findings
from camtrap_batch.store.schemas import SELECTION
from camtrap_batch.store.tables import open_table
from camtrap_batch.vocabulary import VIDEO_ENDINGS

VERSION = 2

KEPT = "kept"
VIDEO = "video"
NO_ANNOTATION = "no annotation"
SEVERAL_CLASSES = "several classes"
NOT_CHOSEN = "class not chosen"
THINNED = "empty, thinned out"
OVER_CLASS = "class over its cap"
OVER_LOCATION = "location over its cap"
REASONS = (KEPT, VIDEO, NO_ANNOTATION, SEVERAL_CLASSES, NOT_CHOSEN, THINNED, OVER_CLASS, OVER_LOCATION)
"""Reasons of a selection's rows; beside them `status: ...` for images whose status is not selected, and
`finding: ...` for those of a kind in `select.drop`."""

_VIDEO = "(" + "|".join(sorted(map(re.escape, VIDEO_ENDINGS))) + ")$"
_HEAVIEST = 10.0
_SPLITS_TRIED = 20
_CANDIDATES, _FEW_CANDIDATES = 15, 4
_MANY_GROUPS, _MOST_GROUPS, _MOST_MOVES = 500, 5000, 300
_LOCATIONS_COUNT = 0.25  # beside 1 for all classes together
_NONE, _NO_BETTER = 1e-9, 1e-6  # less than the share of any image; than a change that matters
_MOST_PLACES_OF_A_SEQUENCE = 5
_MOST_LINES = 30

DUPLICATES = ("exact_duplicate", "near_duplicate")
"""Kinds of findings that tie two images together."""


def run(context: Context) -> StageResult:
    """Choose training images from `catalog` and `manifest` into the table `selection`.

    Raises
    ------
    JobError
        A chosen class has no usable image, or too few locations to be split by location; a split is empty.
    """
    job, store = context.job, context.run
    catalog, manifest = store.snapshot("catalog"), store.snapshot("manifest")
    classes = choose_classes(job, categories_of(catalog.meta))
    # Duplicates tie images together, which a split by image does not heed.
    is_split_by_location = job.select.split.by == "location"
    findings = current_findings(store) if is_split_by_location else None
    if job.select.drop:
        findings = require_findings(store)
    what = job.select.model_dump(mode="json", by_alias=True)
    made_from = [snapshot.plan_id for snapshot in (catalog, manifest, findings) if snapshot]
    id_ = shard_id("select", VERSION, "selection", what, *made_from)
    meta: dict[str, Any] = {}

    def make() -> dict[str, pa.Table]:
        rows = open_table(store.folder, catalog).to_table(
            columns=["image_id", "file_name", "location", "deployment", "seq_id", "labels"]
        )
        statuses = open_table(store.folder, manifest).to_table(columns=["status"])["status"]
        found = open_table(store.folder, findings).to_table() if findings else None
        table, more = select(rows, statuses.cast(pa.string()), classes, found, job.select)
        meta.update(more)
        return {"selection": table}

    inputs = {"catalog": catalog.number, "manifest": manifest.number}
    if findings is not None:
        inputs["findings"] = findings.number
    result = do_on_driver(context, "select", id_, make, ("selection",), inputs=inputs, meta=lambda: meta)
    if not context.dry_run:
        result.counts = reason_counts(context)
        meta = store.snapshot("selection").meta
    if meta:
        result.notes += describe(meta)
    return result


def select(
    rows: pa.Table, statuses: pa.ChunkedArray, classes: Classes, findings: pa.Table | None, how: Select
) -> tuple[pa.Table, dict[str, Any]]:
    """The table `selection`, and what its snapshot says of it.

    Parameters
    ----------
    rows : of the catalog: image_id, file_name, location, deployment, seq_id, labels
    statuses : status of each row
    findings : the table of that name, None where there is none
    """
    label, reason = choose(rows, statuses, classes, how.statuses)
    if findings is not None:
        drop_found(label, reason, rows["image_id"], findings, how.drop)
    rng = np.random.default_rng(how.seed)
    thin_out(label, reason, classes.empty, how.empty.fraction, rng)
    location = encode(rows["location"])
    if how.max_per_location is not None:
        cap(label, reason, location, how.max_per_location, OVER_LOCATION, rng)
    if how.max_per_class is not None:
        cap(label, reason, pd.factorize(label)[0], how.max_per_class, OVER_CLASS, rng)
    kept = np.flatnonzero(label != "")
    selected = set(label[kept])
    _require_images(selected, classes, are_named=how.classes is not None)
    pairs = duplicate_pairs(rows["image_id"], findings)
    group = groups_of(rows, kept, pairs)
    side = np.full(len(label), "", object)
    seed = how.seed if how.split.seed is None else how.split.seed
    side[kept] = split(label[kept], group, how.split, seed)
    weight = np.full(len(label), np.nan, np.float32)
    weight[kept] = balanced_weights(label[kept])
    table = {
        "image_id": rows["image_id"],
        "label": _nullable(label),
        "split": _nullable(side),
        "weight": pa.array(weight, from_pandas=True),
        "reason": pa.array(reason, pa.string()),
    }
    meta = {
        "ids_by_label": {name: ids for name, ids in classes.ids_by_label.items() if name in selected},
        "empty": classes.empty,
        "split_by": how.split.by,
        **count(label[kept], side[kept], location[kept], encode(rows["seq_id"])[kept]),
    }
    return pa.table(table).cast(SELECTION), meta


def reason_counts(context: Context) -> dict[str, int]:
    """Rows of the current selection by reason, most frequent first."""
    reasons = context.run.table("selection").to_table(columns=["reason"])["reason"]
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist()}


def choose(
    rows: pa.Table, statuses: pa.ChunkedArray, classes: Classes, allowed: list[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Label ('' where dropped) and reason of each row, before empties are thinned.

    An image counts as empty only where that is all its annotations say; one that shows exactly one chosen
    species is kept for it, whatever else it shows that was not chosen.
    """
    n = rows.num_rows
    labels = rows["labels"].combine_chunks()
    annotated = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False) > 0
    marks = pd.DataFrame(
        {
            "row": pc.list_parent_indices(labels).to_numpy(zero_copy_only=False),
            "category": pc.struct_field(pc.list_flatten(labels), "category_id").to_numpy(
                zero_copy_only=False
            ),
        }
    )
    marks["label"] = marks["category"].map(classes.labels)
    empty_ids = {number for number, label in classes.labels.items() if label == classes.empty}
    is_empty = marks["category"].isin(empty_ids)
    species = marks[~is_empty & marks["label"].notna()].drop_duplicates(["row", "label"])
    label = np.full(n, "", object)
    label[species["row"]] = species["label"]
    different = np.bincount(species["row"], minlength=n)
    only_empty = np.zeros(n, bool)
    only_empty[marks.loc[is_empty, "row"]] = True
    only_empty[marks.loc[~is_empty, "row"]] = False
    label[only_empty] = classes.empty
    reason = np.full(n, KEPT, object)
    reason[label == ""] = NOT_CHOSEN
    reason[different > 1] = SEVERAL_CLASSES
    reason[~annotated] = NO_ANNOTATION
    status = statuses.to_numpy(zero_copy_only=False)
    usable = np.isin(status.astype(str), allowed)
    reason[~usable] = "status: " + status[~usable]
    reason[pc.match_substring_regex(rows["file_name"], _VIDEO, ignore_case=True).to_numpy()] = VIDEO
    label[reason != KEPT] = ""
    return label, reason


def drop_found(
    label: np.ndarray[Any, Any],
    reason: np.ndarray[Any, Any],
    image_ids: pa.ChunkedArray,
    findings: pa.Table,
    kinds: list[str],
) -> None:
    """Drop the rows that are kept so far and have a finding of one of `kinds`, in place.

    An image with several is dropped for the first of them in `kinds`.
    """
    kept = np.flatnonzero(reason == KEPT)
    ids = image_ids.take(pa.array(kept))
    for kind in reversed(kinds):
        found = findings.filter(pc.equal(findings["kind"], kind))["image_id"]
        dropped = kept[pc.is_in(ids, found).to_numpy()]
        label[dropped] = ""
        reason[dropped] = f"finding: {kind}"


def thin_out(
    label: np.ndarray[Any, Any],
    reason: np.ndarray[Any, Any],
    empty: str | None,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    """Keep a random `fraction` of the rows labelled `empty`, in place."""
    empties = np.flatnonzero(label == empty) if empty is not None else np.array([], int)
    dropped = rng.permutation(empties)[round(len(empties) * fraction) :]
    label[dropped] = ""
    reason[dropped] = THINNED


def cap(
    label: np.ndarray[Any, Any],
    reason: np.ndarray[Any, Any],
    codes: np.ndarray[Any, Any],
    most: int,
    why: str,
    rng: np.random.Generator,
) -> None:
    """Keep at most `most` random ones of the kept rows of each code, in place; a code below 0 has no cap."""
    rows = rng.permutation(np.flatnonzero((label != "") & (codes >= 0)))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    dropped = rows[rank >= most]
    label[dropped] = ""
    reason[dropped] = why


def balanced_weights(label: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weight of each image so that every class weighs the same in all, none above 10."""
    index = pd.factorize(label)[0]
    counts = np.bincount(index)
    weight = len(label) / (len(counts) * counts)
    return np.minimum(weight, _HEAVIEST)[index].astype(np.float32)


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
    """Number of the group of each kept row: what must not be divided between train, valid and test.

    A group is a location, and the locations that share a sequence or duplicates with it. Images whose
    location is not known are held together by deployment, else by sequence; those that have none of the
    three are one group. A `seq_id` at more than five locations names many sequences: it joins nothing.

    Parameters
    ----------
    rows : of the catalog: location, deployment, seq_id
    kept : places in `rows`
    pairs : places in `rows` of images that are duplicates of each other, whether kept or not
    """
    some = rows.take(pa.array(kept))
    location, deployment, sequence = (encode(some[name]) for name in ("location", "deployment", "seq_id"))
    # Numbered in the order of their names, so that the order of rows changes no split.
    place = location.copy()
    for codes in (deployment, sequence):
        place = np.where((place < 0) & (codes >= 0), codes + place.max(initial=-1) + 1, place)
    place[place < 0] = place.max(initial=-1) + 1
    known = np.flatnonzero((location >= 0) & (sequence >= 0))
    uses = np.unique(np.stack([sequence[known], location[known]]), axis=1)[0]
    is_reused = np.bincount(uses, minlength=sequence.max(initial=-1) + 1) > _MOST_PLACES_OF_A_SEQUENCE
    burst = np.flatnonzero(sequence >= 0)
    burst = burst[~is_reused[sequence[burst]]]
    n_rows, n_places = rows.num_rows, int(place.max(initial=-1)) + 1
    n_nodes = n_rows + n_places + int(sequence.max(initial=-1)) + 1
    tied = np.concatenate([kept, kept[burst], pairs[0]])
    to = np.concatenate([n_rows + place, n_rows + n_places + sequence[burst], pairs[1]])
    try:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError:
        raise MissingExtra("train", "splitting by location") from None
    graph = coo_array((np.ones(len(tied), bool), (tied, to)), shape=(n_nodes, n_nodes))
    group = connected_components(graph, directed=False)[1][kept]
    first: np.ndarray[Any, Any] = np.full(n_nodes, n_places)
    np.minimum.at(first, group, place)
    numbers: np.ndarray[Any, Any] = first[group]
    return numbers


def split(
    label: np.ndarray[Any, Any], group: np.ndarray[Any, Any], how: Split, seed: int
) -> np.ndarray[Any, Any]:
    """train, valid or test for each image.

    `by: location` puts every group (see `groups_of`) on one side, classes in proportion as far as whole
    groups allow; `by: random` divides single images, and leaves every class one to train on.

    Raises
    ------
    JobError
        A class has too few locations to be on every side; a split is empty.
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


def count(
    label: np.ndarray[Any, Any],
    side: np.ndarray[Any, Any],
    location: np.ndarray[Any, Any],
    sequence: np.ndarray[Any, Any],
) -> dict[str, Any]:
    """What a selection holds; codes of location and sequence are below 0 where they are not known.

    Returns
    -------
    `by_class`: label -> split -> images, sequences, locations; `across`: sequences and locations with images
    in more than one split, and how many there are; `without_location`: images. A sequence is one of a
    location, as in the table sequences.
    """
    # One number for each sequence of a location, NaN where there is none: not counted.
    burst = np.where(sequence >= 0, sequence + (location + 1.0) * (sequence.max(initial=0) + 1), np.nan)
    place = np.where(location >= 0, location, np.nan)
    frame = pd.DataFrame({"label": label, "split": side, "sequence": burst, "location": place})
    grouped = frame.groupby(["label", "split"])
    figures = grouped[["sequence", "location"]].nunique()
    by_class: dict[str, dict[str, list[int]]] = {}
    counted = pd.concat([grouped.size().rename("images"), figures], axis=1).reset_index()
    for name, part, n_images, n_sequences, n_locations in counted.itertuples(index=False, name=None):
        by_class.setdefault(name, {})[part] = [int(n_images), int(n_sequences), int(n_locations)]
    across = {}
    for what in ("sequence", "location"):
        sides = frame.drop_duplicates([what, "split"]).groupby(what).size()
        across[f"{what}s"] = [int((sides > 1).sum()), len(sides)]
    return {"by_class": by_class, "across": across, "without_location": int((location < 0).sum())}


def describe(meta: dict[str, Any]) -> list[str]:
    """Lines for people about a selection, from its snapshot's meta."""
    by_class, across = meta["by_class"], meta["across"]
    sides = [side for side in ("train", "valid", "test") if any(side in row for row in by_class.values())]
    cells = [["images/sequences/locations", *sides]]
    for name in sorted(by_class)[:_MOST_LINES]:
        cells.append(
            [name, *("/".join(f"{n:,}" for n in by_class[name].get(side, (0, 0, 0))) for side in sides)]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
    if len(by_class) > _MOST_LINES:
        lines.append(f"and {len(by_class) - _MOST_LINES} more classes: see the report")
    if meta["split_by"] == "random":
        lines.append(
            "split by image, at random: leaky, {} of {} sequences and {} of {} locations are on several "
            "sides; what it measures is optimistic".format(*across["sequences"], *across["locations"])
        )
    elif meta["without_location"]:
        lines.append(
            f"{meta['without_location']:,} images have no location: kept together by deployment or sequence; "
            "that their cameras are not seen in training can't be promised"
        )
    return lines


def encode(values: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A number for each value, in the order of their names; -1 for null."""
    encoded = values.combine_chunks().dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    return np.where(codes >= 0, rank[codes] if len(rank) else -1, -1)


def _bundled(group: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Fewer groups where there are very many (images without locations): small ones are joined at random.

    The time that StratifiedGroupKFold takes grows with groups, folds and classes.
    """
    sizes = np.bincount(group)
    if len(sizes) <= _MOST_GROUPS:
        return group
    # The first of each class stays alone, so that none is joined into one group.
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
    """Indices of the images of whole groups that come nearest to `part` of every class.

    The best of some folds of StratifiedGroupKFold, then group by group moved for as long as that helps: folds
    are alike in their classes, but of any size where one camera has a quarter of all images.
    """
    group = np.unique(group, return_inverse=True)[1]
    codes = np.unique(codes, return_inverse=True)[1]
    n_groups, n_classes = int(group.max()) + 1, int(codes.max()) + 1
    counts = np.bincount(group * n_classes + codes, minlength=n_groups * n_classes)
    counts = counts.reshape(n_groups, n_classes)
    # The last column: that as large a part of the locations is held out, not a few with very many images.
    shares = np.hstack([counts / counts.sum(axis=0), np.full((n_groups, 1), 1 / n_groups)])
    weights = np.append(np.ones(n_classes), n_classes * _LOCATIONS_COUNT)

    def score(held: np.ndarray[Any, Any]) -> float:
        found = shares[held].sum(axis=0)
        never_trained, never_held = np.count_nonzero(found > 1 - _NONE), np.count_nonzero(found < _NONE)
        distance = float(np.average(np.abs(found - part), weights=weights))
        return never_trained * n_classes + never_held + distance

    best, best_score = np.zeros(n_groups, bool), np.inf
    # Of many groups, folds are slow to cut and each is as good as the next.
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
    """Groups moved in or out, one at a time, while the squared distance of all classes from `part` falls.

    Parameters
    ----------
    held : (groups,) bool, where to begin
    shares : (groups, classes) part of each class that a group has
    weights : (classes,) of the distances
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
    """Groups to hold out: some folds together, (groups,) bool."""
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
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer images than folds
            for number, (_, images) in enumerate(cutter.split(np.zeros(len(codes)), codes, group)):
                fold[group[images]] = number
        for first in range(folds):
            yield (fold - first) % folds < held_folds


def _require_images(selected: set[str], classes: Classes, *, are_named: bool) -> None:
    # The class without an animal is there by default, not by name.
    absent = [name for name in classes.ids_by_label if name not in selected and name != classes.empty]
    if len(selected) < 2:
        raise JobError(
            f"select.classes: {len(selected)} classes have usable images; training needs at least 2"
        )
    if absent and are_named:
        raise JobError(f"select.classes: no usable image of: {', '.join(absent)}; leave these classes out")


def _require_locations(label: np.ndarray[Any, Any], group: np.ndarray[Any, Any], sides: int) -> None:
    places = pd.DataFrame({"label": label, "group": group}).drop_duplicates().groupby("label").size()
    few = places[places < sides]
    if len(few):
        named = ", ".join(f"{name} ({number})" for name, number in few.head(_MOST_LINES).items())
        more = f" and {len(few) - _MOST_LINES} more" if len(few) > _MOST_LINES else ""
        raise JobError(
            f"select.split: by location needs at least {sides} locations a class (those that share a "
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


def _nullable(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(values, pa.string(), mask=values == "")
