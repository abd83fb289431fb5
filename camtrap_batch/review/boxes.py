"""What a label that people gave a single box says about its image.

It speaks for that box alone. A box that is empty takes an animal away, and the image's other boxes decide by
the rules for boxes (docs/inference.md). An animal in a box is one in the image, beside those that the
classifier calls the same in boxes that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import one_chunk
from camtrap_batch.detection.boxes import make_rules
from camtrap_batch.detection.repeats import SAME_BOX, overlap
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import take_rows
from camtrap_batch.vocabulary import EMPTY

_SIDES = ("x", "y", "w", "h")

Row = dict[str, Any]


@dataclass(frozen=True)
class Rest:
    """What a machine says of an image without the boxes that people found empty.

    Attributes
    ----------
    label, confidence, top5 : as in predictions; None where no box has a label
    n_boxes : animal boxes that are left
    """

    label: str | None
    confidence: float | None
    top5: list[Row] | None
    n_boxes: int


@dataclass(frozen=True)
class Settled:
    """What people said, and what is left to the machine.

    Attributes
    ----------
    said : as given, without the labels that leave their image to its other boxes
    rest : number of such an image -> what those boxes say
    """

    said: pa.Table
    rest: dict[int, Rest] = field(default_factory=dict)


def settle_boxes(
    run: Run, said: pa.Table, image_ids: pa.ChunkedArray, empty: str | None, *, classified: bool = True
) -> Settled:
    """What people's labels of boxes mean for their images.

    Parameters
    ----------
    said : as `store.corrections.standing` gives it
    image_ids : ids of the images that `row` counts
    empty : label of images without an animal
    classified : whether what the classifier says of the other boxes counts
    """
    blank = {EMPTY, (empty or EMPTY).casefold()}
    of_box = one_chunk(pc.equal(said["scope"], "box")).to_numpy(zero_copy_only=False)
    row = said["row"].to_numpy()
    alone = np.setdiff1d(row[of_box], row[~of_box])
    found = _Found.of(run, image_ids, alone, blank, classified) if len(alone) else None
    if found is None:
        return Settled(said)
    label, box, count = (said[name].to_pylist() for name in ("label", "box", "count"))
    kept, rest = np.ones(len(row), bool), dict[int, Rest]()
    for image in alone.tolist():
        mine = range(*np.searchsorted(row, [image, image + 1]).tolist())
        others = found.others(image, [box[at] for at in mine])
        names = {label[at] for at in mine if label[at].casefold() not in blank}
        if not names and (left := others.rest()) is not None:
            kept[mine.start : mine.stop] = False
            rest[image] = left
        for name in names:
            first = next(at for at in mine if label[at] == name)
            count[first] = (count[first] or 1) + others.number_of(name)
    column = pa.array(count, said.schema.field("count").type)
    said = said.set_column(said.column_names.index("count"), "count", column)
    return Settled(said.filter(pa.array(kept)), rest)


def with_rest(frames: pa.Table, rest: dict[int, Rest]) -> pa.Table:
    """Images with label, confidence and count, some of them with those that are left."""
    for name, of_rest in (("label", "label"), ("confidence", "confidence"), ("count", "n_boxes")):
        if not rest or name not in frames.column_names:
            continue
        values = [getattr(one, of_rest) for one in rest.values()]
        at = np.full(frames.num_rows, -1)
        at[list(rest)] = np.where([value is not None for value in values], np.arange(len(values)), -1)
        new = pa.array(values, frames.schema.field(name).type).take(pa.array(at, mask=at < 0))
        column = pc.if_else(pa.array(at >= 0), new, one_chunk(frames[name]))
        frames = frames.set_column(frames.column_names.index(name), name, column)
    return frames


def scores_with_rest(batches: Iterable[pa.RecordBatch], rest: dict[int, Rest]) -> Iterator[pa.RecordBatch]:
    """Batches of top5 and probs, in the order of images, some of them with the top5 that is left."""
    changed = {image: one for image, one in rest.items() if one.label is not None}
    start = 0
    for batch in batches:
        here = {image - start: changed[image] for image in changed if 0 <= image - start < batch.num_rows}
        start += batch.num_rows
        if here:
            columns = {}
            for name in batch.schema.names:
                values = batch[name].to_pylist()
                for at, one in here.items():
                    values[at] = one.top5 if name == "top5" else None
                columns[name] = pa.array(values, batch.schema.field(name).type)
            batch = pa.record_batch(columns, schema=batch.schema)
        yield batch


@dataclass(frozen=True)
class _Others:
    """The boxes of an image that count, and about which nobody said anything.

    Attributes
    ----------
    boxes : rows of `detections`, each with is_animal and is_empty, and of `crops`, if there is one
    """

    boxes: list[Row]

    def rest(self) -> Rest | None:
        """What they say by the rules for boxes; None: that the image is empty."""
        if not self.boxes:
            return None
        animals = [one for one in self.boxes if one["is_animal"] and not one["is_empty"]]
        surest = max(self.boxes, key=lambda one: (one["confidence"], one["is_animal"]))
        if not surest["is_animal"]:
            name, p = surest["category"], surest["confidence"]
            return Rest(name, p, [{"label": name, "p": p}], len(animals))
        if not animals:
            return None
        named = [one for one in animals if one.get("label") is not None]
        if not named:
            return Rest(None, None, None, len(animals))
        best = max(named, key=lambda one: one["confidence"] * one["p"])
        return Rest(best["label"], best["p"], best["top5"], len(animals))

    def number_of(self, label: str) -> int:
        """How many of them the classifier calls that."""
        return sum(one["is_animal"] and one.get("label") == label for one in self.boxes)


@dataclass(frozen=True)
class _Found:
    """Boxes that count in some images, by the image's number."""

    boxes: dict[int, list[Row]]

    @classmethod
    def of(
        cls,
        run: Run,
        image_ids: pa.ChunkedArray,
        images: npt.NDArray[np.int64],
        blank: set[str],
        classified: bool,
    ) -> _Found | None:
        """Reads the boxes of these images; None if there are none, or if they are not the
        ones that were classified."""
        predictions, detected, detections = map(run.current, ("predictions", "detected", "detections"))
        if run.job.detection is None or detected is None or detections is None:
            return None
        if detections.meta.get("of") != detected.plan_id:
            return None
        if classified and (predictions is None or predictions.inputs.get("detections") != detections.number):
            return None
        of_images = run.table("detected").to_table(columns=["image_id", "n_boxes"])
        ids = image_ids.take(pa.array(images))
        at = pc.index_in(ids, value_set=one_chunk(of_images["image_id"])).to_pylist()
        rules = make_rules(run.job.detection[0], detected.meta["categories"], "")
        threshold = detections.meta["repeats"]["threshold"]
        n = one_chunk(of_images["n_boxes"]).to_pylist() if at else []
        ends = np.cumsum(of_images["n_boxes"].fill_null(0).to_numpy().astype(np.int64)).tolist()
        columns = ["image_id", *_SIDES, "category", "confidence", "repeat"]
        boxes: dict[int, list[Row]] = {}
        crops = _crops(run, predictions, ids) if classified else {}
        rows_of = {
            image: at_row for image, at_row in zip(images.tolist(), at, strict=True) if at_row is not None
        }
        wanted = {at_row: range(ends[at_row] - (n[at_row] or 0), ends[at_row]) for at_row in rows_of.values()}
        rows = sorted(set(chain(*wanted.values())))
        of = dict(zip(rows, take_rows(run.table("detections"), rows, columns).to_pylist(), strict=True))
        for image, at_row in rows_of.items():
            if n[at_row] is None:
                continue
            boxes[image] = []
            for number, row in enumerate(wanted[at_row]):
                one = of[row] | crops.get((of[row]["image_id"], number), {})
                one["is_animal"] = one["category"] == rules.categories[rules.animal]
                one["is_empty"] = (one.get("label") or "").casefold() in blank
                if one["confidence"] >= threshold and one["repeat"] is None:
                    boxes[image].append(one)
        return cls(boxes)

    def others(self, image: int, said: list[list[float]]) -> _Others:
        """The boxes that are none of these."""
        boxes = list(self.boxes.get(image, ()))
        sides = np.array([[one[side] for side in _SIDES] for one in boxes], np.float32).reshape(-1, 4)
        taken: set[int] = set()
        for box in np.array(said, np.float32).reshape(-1, 4):
            same = overlap(sides, box)
            if len(same) and same.max() >= SAME_BOX:
                taken.add(int(same.argmax()))
        return _Others([one for at, one in enumerate(boxes) if at not in taken])


def _crops(run: Run, predictions: Snapshot | None, ids: pa.ChunkedArray) -> dict[tuple[str, int], Row]:
    """What the classifier says of boxes: image id and number of the box -> label, p, top5."""
    current = run.current("crops")
    if current is None or predictions is None or current.plan_id != predictions.plan_id:
        return {}
    rows = run.table("crops").to_table(filter=pc.field("image_id").isin(one_chunk(ids))).to_pylist()
    return {
        (one["image_id"], one["box"]): {"label": one["label"], "p": one["confidence"], "top5": one["top5"]}
        for one in rows
    }
