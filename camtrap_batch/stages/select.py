"""select: which images to train on, in which split, and why not the others. Runs on the driver."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import JobError, MissingExtra
from camtrap_batch.job import Split
from camtrap_batch.stages.catalog import categories_of
from camtrap_batch.stages.classes import Classes, choose_classes
from camtrap_batch.stages.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.stages.findings import require_findings
from camtrap_batch.store.schemas import SELECTION
from camtrap_batch.store.tables import open_table

VERSION = 1

KEPT = "kept"
VIDEO = "video"
NO_ANNOTATION = "no annotation"
SEVERAL_CLASSES = "several classes"
NOT_CHOSEN = "class not chosen"
THINNED = "empty, thinned out"
REASONS = (KEPT, VIDEO, NO_ANNOTATION, SEVERAL_CLASSES, NOT_CHOSEN, THINNED)
"""Reasons of a selection's rows; beside them `status: ...` for images whose status is not selected, and
`finding: ...` for those of a kind in `select.drop`."""

_VIDEO = r"\.(avi|mp4|m4v|mov|mkv|mpg|mpeg|wmv|mts|3gp|asf|webm)$"
_HEAVIEST = 10.0
_SPLITS_TRIED = 20
_CANDIDATES = 15


def run(context: Context) -> StageResult:
    """Choose training images from `catalog` and `manifest` into the table `selection`.

    Raises
    ------
    JobError
        A chosen class has no usable image, or too few locations to be split by location.
    """
    job, store = context.job, context.run
    catalog, manifest = store.snapshot("catalog"), store.snapshot("manifest")
    classes = choose_classes(job, categories_of(catalog.meta))
    drop = job.select.drop
    findings = require_findings(store) if drop else None
    # Without `drop` findings do not count: a selection from before there were any still holds.
    what = job.select.model_dump(mode="json", by_alias=True, exclude=None if drop else {"drop"})
    made_from = [snapshot.plan_id for snapshot in (catalog, manifest, findings) if snapshot]
    id_ = shard_id("select", VERSION, "selection", what, *made_from)

    selected: set[str] = set()

    def make() -> dict[str, pa.Table]:
        rows = open_table(store.folder, catalog).to_table(
            columns=["image_id", "file_name", "location", "labels"]
        )
        statuses = open_table(store.folder, manifest).to_table(columns=["status"])["status"]
        label, reason = choose(rows, statuses.cast(pa.string()), classes, job.select.statuses)
        if findings is not None:
            drop_found(label, reason, rows["image_id"], open_table(store.folder, findings).to_table(), drop)
        rng = np.random.default_rng(job.select.seed)
        thin_out(label, reason, classes.empty, job.select.empty.fraction, rng)
        kept = label != ""
        location = rows["location"].fill_null("").to_numpy(zero_copy_only=False)
        selected.update(label[kept])
        _require_images(selected, classes, are_named=job.select.classes is not None)
        side = np.full(len(label), "", object)
        split_seed = job.select.seed if job.select.split.seed is None else job.select.split.seed
        side[kept] = split(label[kept], location[kept], job.select.split, split_seed)
        weight = np.full(len(label), np.nan, np.float32)
        weight[kept] = balanced_weights(label[kept])
        table = {
            "image_id": rows["image_id"],
            "label": _nullable(label),
            "split": _nullable(side),
            "weight": pa.array(weight, from_pandas=True),
            "reason": pa.array(reason, pa.string()),
        }
        return {"selection": pa.table(table).cast(SELECTION)}

    inputs = {"catalog": catalog.number, "manifest": manifest.number}
    if findings is not None:
        inputs["findings"] = findings.number
    result = do_on_driver(
        context,
        "select",
        id_,
        make,
        ("selection",),
        inputs=inputs,
        meta=lambda: {
            "ids_by_label": {name: ids for name, ids in classes.ids_by_label.items() if name in selected},
            "empty": classes.empty,
            "split_by": job.select.split.by,
        },
    )
    if not context.dry_run:
        result.counts = reason_counts(context)
    return result


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


def balanced_weights(label: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weight of each image so that every class weighs the same in all, none above 10."""
    _, index, counts = np.unique(label.astype(str), return_inverse=True, return_counts=True)
    weight = len(label) / (len(counts) * counts)
    return np.minimum(weight, _HEAVIEST)[index].astype(np.float32)


def split(
    label: np.ndarray[Any, Any], location: np.ndarray[Any, Any], how: Split, seed: int
) -> np.ndarray[Any, Any]:
    """train, valid or test for each image.

    `by: location` puts every location on one side, classes in proportion as far as whole locations allow;
    `by: random` divides single images, and leaves every class one to train on.

    Raises
    ------
    JobError
        A class has too few locations to be on every side.
    """
    side = np.full(len(label), "train", object)
    if how.by == "random":
        order = np.random.default_rng(seed).permutation(len(label))
        n_valid, n_test = round(len(label) * how.valid), round(len(label) * how.test)
        side[order[:n_valid]] = "valid"
        side[order[n_valid : n_valid + n_test]] = "test"
        for name in set(label) - set(label[side == "train"]):
            side[np.flatnonzero(label == name)[0]] = "train"
        return side
    wanted = {name: part for name, part in (("test", how.test), ("valid", how.valid)) if part > 0}
    _require_locations(label, location, 1 + len(wanted))
    left = 1.0
    for name, part in wanted.items():
        rest = np.flatnonzero(side == "train")
        side[rest[_hold_out(label[rest], location[rest], part / left, seed, name)]] = name
        left -= part
    return side


def _hold_out(
    label: np.ndarray[Any, Any], location: np.ndarray[Any, Any], part: float, seed: int, name: str
) -> np.ndarray[Any, Any]:
    """Indices of the images of whole locations that come nearest to `part` of every class."""
    codes = np.unique(label.astype(str), return_inverse=True)[1]
    total = np.bincount(codes)
    best, best_score = np.array([], int), np.inf
    for number, held in enumerate(_candidates(codes, location, part, seed)):
        counts = np.bincount(codes[held], minlength=len(total))
        never_trained, never_held = np.count_nonzero(counts == total), np.count_nonzero(counts == 0)
        score = never_trained * len(total) + never_held + float(np.abs(counts / total - part).mean())
        if score < best_score:
            best, best_score = held, score
        if number >= _CANDIDATES and best_score < 1:
            break
    if best_score >= len(total):
        raise JobError(
            f"select.split: every {name} split by location leaves some class nothing to train on; "
            "choose classes with more locations, or split: {by: random}"
        )
    return best


def _candidates(
    codes: np.ndarray[Any, Any], location: np.ndarray[Any, Any], part: float, seed: int
) -> Iterator[np.ndarray[Any, Any]]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise MissingExtra("train", "splitting by location") from None
    share = Fraction(part).limit_denominator(10)
    folds = min(max(2, share.denominator), len(set(location)), int(np.bincount(codes).max()))
    held_folds = max(1, round(part * folds))
    for attempt in range(_SPLITS_TRIED):
        cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + attempt)
        parts = [held for _, held in cutter.split(np.zeros(len(codes)), codes, location)]
        for first in range(folds):
            yield np.concatenate([parts[(first + other) % folds] for other in range(held_folds)])


def _require_images(selected: set[str], classes: Classes, *, are_named: bool) -> None:
    # The class without an animal is there by default, not by name.
    absent = [name for name in classes.ids_by_label if name not in selected and name != classes.empty]
    if len(selected) < 2:
        raise JobError(
            f"select.classes: {len(selected)} classes have usable images; training needs at least 2"
        )
    if absent and are_named:
        raise JobError(f"select.classes: no usable image of: {', '.join(absent)}; leave these classes out")


def _require_locations(label: np.ndarray[Any, Any], location: np.ndarray[Any, Any], sides: int) -> None:
    places = pd.DataFrame({"label": label, "location": location}).drop_duplicates().groupby("label").size()
    few = places[places < sides]
    if len(few):
        named = ", ".join(f"{name} ({number})" for name, number in few.items())
        raise JobError(
            f"select.split: by location needs at least {sides} locations a class; too few have: {named}; "
            "leave these classes out, or split: {by: random}"
        )


def _nullable(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(values, pa.string(), mask=values == "")
