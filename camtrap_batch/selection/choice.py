"""Which images to train on, and why not the others: rows of the table `selection`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import encode
from camtrap_batch.errors import JobError
from camtrap_batch.job import Select
from camtrap_batch.selection.classes import Classes
from camtrap_batch.selection.crops import KEPT_FOR_BOXES, species_of
from camtrap_batch.selection.split import duplicate_pairs, groups_of, split
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import SELECTION
from camtrap_batch.vocabulary import VIDEO_ENDINGS, plural

KEPT = "kept"
VIDEO = "video"
NO_ANNOTATION = "no annotation"
MACHINE = "labelled by a machine alone"
SEVERAL_CLASSES = "several classes"
NOT_CHOSEN = "class not chosen"
THINNED = "empty, thinned out"
OVER_CLASS = "class over its cap"
OVER_LOCATION = "location over its cap"
REVIEWED = "labelled in review alone, not judged on"
"""Reasons in a selection's rows, beside `KEPT_FOR_BOXES`; others are `status: ...` for images whose status is
not selected, and `finding: ...` for those with a kind in `select.drop`."""

_VIDEO = "(" + "|".join(sorted(map(re.escape, VIDEO_ENDINGS))) + ")$"
_HEAVIEST = 10.0
_MOST_LINES, _MOST_LACKING = 30, 12


def select(
    rows: pa.Table,
    statuses: pa.ChunkedArray,
    classes: Classes,
    findings: pa.Table | None,
    how: Select,
    *,
    for_crops: bool = False,
    reviewed: Reviewed | None = None,
    named: Named | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """The table `selection`, and what its snapshot says about it.

    Parameters
    ----------
    rows : rows of the catalog (see `of_people`): image_id, file_name, location, deployment, seq_id, labels,
        labelled_by, video_s
    statuses : status of each row
    findings : the table of that name, None if there is none
    for_crops : whether crops of the images are trained on: then the counts in their labels are kept
    reviewed : what people said in addition to the data set's own labels; it is already in `rows`
    named : boxes with a known label, if crops are trained on
    """
    label, reason = choose(rows, statuses, classes, how.statuses, named)
    if findings is not None:
        drop_found(label, reason, rows["image_id"], findings, how.drop)
    rng = np.random.default_rng(how.seed)
    thin_out(label, reason, classes.empty, how.empty.fraction, rng)
    location = encode(rows["location"])[0]
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
    if reviewed is not None and reviewed.is_new[kept].any():
        kept = _leave_out_reviewed(label, side, reason, kept, reviewed)
        selected = set(label[kept])
    weight = np.full(len(label), np.nan, np.float32)
    weight[kept] = balanced_weights(label[kept])
    table = {
        "image_id": rows["image_id"],
        "label": _nullable(label),
        "split": _nullable(side),
        "weight": pa.array(weight, from_pandas=True),
        "reason": pa.array(reason, pa.string()),
    }
    for name in ("species", "animals", "told"):
        table[name] = pa.nulls(len(label), SELECTION.field(name).type)
    if named is not None and named.told:
        table["told"] = pa.array([named.told.get(row) for row in range(len(label))], table["told"].type)
    if for_crops:
        table["species"], table["animals"] = _counted(rows["labels"], kept, classes.empty)
    meta = {
        "ids_by_label": {name: ids for name, ids in classes.ids_by_label.items() if name in selected},
        "empty": classes.empty,
        "split_by": how.split.by,
        **({} if reviewed is None else {"reviewed": reviewed.meta(kept, reason)}),
        "kept_for_boxes": int((reason[kept] == KEPT_FOR_BOXES).sum()),
        "of_machine": int((reason == MACHINE).sum()),
        **count(label[kept], side[kept], location[kept], encode(rows["seq_id"])[0][kept]),
    }
    return pa.table(table).cast(SELECTION), meta


@dataclass(frozen=True)
class Named:
    """Boxes with a known label, by row: their crops can be learnt from, whatever else the image shows.

    Attributes
    ----------
    drawn : labels of boxes in the data set's metadata
    told : what people said in review; see the column `told` of the table selection
    """

    drawn: Mapping[int, Collection[str]]
    told: Mapping[int, Collection[Mapping[str, Any]]]

    def rows_with(self, labels: Collection[str]) -> npt.NDArray[np.int64]:
        """Rows with a box of one of these labels, ascending."""
        wanted = {label.casefold() for label in labels}
        found = {row for row, names in self.drawn.items() if any(name.casefold() in wanted for name in names)}
        for row, said in self.told.items():
            if any(one["box"] is not None and one["label"].casefold() in wanted for one in said):
                found.add(row)
        return np.array(sorted(found), np.int64)


@dataclass(frozen=True)
class Reviewed:
    """Which rows have labels that people gave them in review.

    Attributes
    ----------
    is_said : (n,) their label is one that a person gave
    is_new : (n,) without that label they would have none to learn from
    is_drawn : (n,) they were drawn at random to be reviewed, whatever a model says about them
    """

    is_said: np.ndarray[Any, Any]
    is_new: np.ndarray[Any, Any]
    is_drawn: np.ndarray[Any, Any]

    def meta(self, kept: np.ndarray[Any, Any], reason: np.ndarray[Any, Any]) -> dict[str, int]:
        """What a snapshot keeps about them."""
        return {
            "kept": int(self.is_said[kept].sum()),
            "new": int(self.is_new[kept].sum()),
            "left_out": int((reason == REVIEWED).sum()),
        }


def _leave_out_reviewed(
    label: np.ndarray[Any, Any],
    side: np.ndarray[Any, Any],
    reason: np.ndarray[Any, Any],
    kept: np.ndarray[Any, Any],
    reviewed: Reviewed,
) -> np.ndarray[Any, Any]:
    """Drop, in place, what would judge the model and is there only because of review; returns the rest.

    What people look at first is what a model was least sure about: figures on it are not those of the data
    set. A random sample stays, and so does everything if there is nothing else to judge a model on.
    """
    is_judged = side[kept] != "train"
    is_new = (reviewed.is_new & ~reviewed.is_drawn)[kept]
    for name in set(side[kept][is_judged]):
        mine = side[kept] == name
        if len(set(label[kept][mine & ~is_new])) < 2:
            return kept
    out = kept[is_judged & is_new]
    label[out] = side[out] = ""
    reason[out] = REVIEWED
    rest: np.ndarray[Any, Any] = kept[~(is_judged & is_new)]
    return rest


def _counted(
    labels: pa.ChunkedArray, kept: np.ndarray[Any, Any], empty: str | None
) -> tuple[pa.Array, pa.Array]:
    """Species and animals of the kept rows, see `crops.species_of`; null in the others."""
    position = np.full(len(labels), -1)
    position[kept] = np.arange(len(kept))
    where = pa.array(position, mask=position < 0)
    species, animals = species_of(labels.take(pa.array(kept)), empty)
    return species.take(where), animals.take(where)


def reason_counts(run: Run) -> dict[str, int]:
    """Rows of the current selection by reason, most frequent first."""
    reasons = run.table("selection").to_table(columns=["reason"])["reason"]
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons).to_pylist()}


def of_people(rows: pa.Table) -> pa.Table:
    """Rows of the catalog without labels that only a machine gave, if people gave labels to others.

    Whoever learns from both learns the machine's mistakes, and is judged by them.
    """
    labels, of_machine = rows["labels"].combine_chunks(), rows["labelled_by"].is_valid().to_numpy()
    is_labelled = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False) > 0
    if not of_machine.any() or not (is_labelled & ~of_machine).any():
        return rows
    kept = labels.take(pa.array(np.arange(len(labels)), mask=of_machine))
    return rows.set_column(rows.schema.get_field_index("labels"), "labels", kept)


def choose(
    rows: pa.Table,
    statuses: pa.ChunkedArray,
    classes: Classes,
    allowed: list[str],
    named: Named | None = None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Label ('' where dropped) and reason of each row, before empties are thinned.

    An image counts as empty only if that is all its annotations say. One that shows exactly one chosen
    species is kept for that, whatever it shows besides that was not chosen. One that shows several is kept,
    under the rarest of them, if boxes show which is where.
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
    several = different > 1
    reason[several] = SEVERAL_CLASSES
    if named is not None:
        boxed = np.zeros(n, bool)
        boxed[named.rows_with(set(species["label"]))] = True
        boxed &= several
        alone = species.loc[~several[species["row"]], "label"].value_counts()
        rarest = species[boxed[species["row"]]].assign(n=lambda mine: mine["label"].map(alone).fillna(0))
        rarest = rarest.sort_values(["row", "n", "label"]).drop_duplicates("row")
        label[rarest["row"]] = rarest["label"]
        reason[boxed] = KEPT_FOR_BOXES
    reason[~annotated] = NO_ANNOTATION
    reason[~annotated & rows["labelled_by"].is_valid().to_numpy()] = MACHINE
    status = statuses.to_numpy(zero_copy_only=False)
    usable = np.isin(status.astype(str), allowed)
    reason[~usable] = "status: " + status[~usable]
    is_video = pc.match_substring_regex(rows["file_name"], _VIDEO, ignore_case=True)
    if "video_s" in rows.column_names:  # frames of videos count as images
        is_video = pc.and_(is_video, rows["video_s"].is_null())
    reason[is_video.to_numpy()] = VIDEO
    label[~np.isin(reason, (KEPT, KEPT_FOR_BOXES))] = ""
    return label, reason


def drop_found(
    label: np.ndarray[Any, Any],
    reason: np.ndarray[Any, Any],
    image_ids: pa.ChunkedArray,
    findings: pa.Table,
    kinds: list[str],
) -> None:
    """Drop, in place, the rows kept so far that have a finding of one of `kinds`.

    An image with several is dropped for the first of them in `kinds`.
    """
    kept = np.flatnonzero(label != "")
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
    """Keep at most `most` random rows of those kept for each code, in place; a code below 0 has no cap."""
    rows = rng.permutation(np.flatnonzero((label != "") & (codes >= 0)))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    dropped = rows[rank >= most]
    label[dropped] = ""
    reason[dropped] = why


def balanced_weights(label: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weight of each image, so that all classes have the same total weight; no weight exceeds 10."""
    index = pd.factorize(label)[0]
    counts = np.bincount(index)
    weight = len(label) / (len(counts) * counts)
    return np.minimum(weight, _HEAVIEST)[index].astype(np.float32)


def count(
    label: np.ndarray[Any, Any],
    side: np.ndarray[Any, Any],
    location: np.ndarray[Any, Any],
    sequence: np.ndarray[Any, Any],
) -> dict[str, Any]:
    """What a selection contains; codes of location and sequence are below 0 if unknown.

    Returns
    -------
    `by_class`: label -> split -> images, sequences, locations; `across`: sequences and locations with images
    in more than one split, and their totals; `without_location`: images. A sequence belongs to one location,
    as in the table sequences.
    """
    # One number for each sequence of a location, NaN if there is none: not counted.
    burst = np.where(sequence >= 0, sequence + (location + 1.0) * (sequence.max(initial=0) + 1), np.nan)
    site = np.where(location >= 0, location, np.nan)
    frame = pd.DataFrame({"label": label, "split": side, "sequence": burst, "location": site})
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
        lines.append(
            f"and {plural(len(by_class) - _MOST_LINES, 'more class', 'more classes')}: see the report"
        )
    if meta["split_by"] == "random":
        lines.append(
            "split by image, at random: leaky, {} of {} sequences and {} of {} locations are on several "
            "sides; what it measures is optimistic".format(*across["sequences"], *across["locations"])
        )
    elif meta["without_location"]:
        unplaced = plural(meta["without_location"], "image has", "images have")
        lines.append(
            f"{unplaced} no location: kept together by deployment or sequence; that "
            "their cameras are not seen in training can't be promised"
        )
    lacking = []
    for name in sorted(by_class):
        if without := [side for side in sides if not _images(by_class[name], side)]:
            shared = " / ".join(f"{_images(by_class[name], side):,} {side}" for side in sides)
            lacking.append(f"no {' or '.join(without)} image of {name} ({shared})")
    if len(lacking) > _MOST_LACKING:
        lacking[_MOST_LACKING:] = [
            f"and {plural(len(lacking) - _MOST_LACKING, 'more such class', 'more such classes')}"
        ]
    if several := meta.get("kept_for_boxes"):
        lines.append(
            f"{plural(several, 'image shows', 'images show')} several of the classes, and boxes say which is "
            "where: training uses crops of these, and their images' labels are not judged"
        )
    if of_machine := meta.get("of_machine"):
        lines.append(f"{plural(of_machine, 'image')} with the label of a machine alone: left out")
    return lines + lacking + _reviewed_lines(meta.get("reviewed"))


def _images(sides: dict[str, list[int]], side: str) -> int:
    return sides.get(side, [0])[0]


def _reviewed_lines(found: dict[str, int] | None) -> list[str]:
    if not found or not any(found.values()):
        return []
    line = f"{plural(found['kept'], 'image has', 'images have')} the label that people gave in review"
    if found["new"]:
        line += f", {found['new']:,} of them no other label"
    if found["left_out"]:
        line += (
            f"; {found['left_out']:,} more of those are at cameras to be judged on and left out, as they are "
            "no random sample"
        )
    return [line]


def _require_images(selected: set[str], classes: Classes, *, are_named: bool) -> None:
    # The class without an animal is included by default, not by name.
    absent = [name for name in classes.ids_by_label if name not in selected and name != classes.empty]
    if len(selected) < 2:
        raise JobError(
            f"select.classes: {len(selected)} {'class has' if len(selected) == 1 else 'classes have'} usable "
            "images; training needs at least 2; or set infer.model to a model folder or id, or to none (the "
            "labels of people are the result)"
        )
    if absent and are_named:
        raise JobError(f"select.classes: no usable image of: {', '.join(absent)}; leave these classes out")


def _nullable(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(values, pa.string(), mask=values == "")
