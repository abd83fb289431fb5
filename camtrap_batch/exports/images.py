"""What every export is made from: the images of a run, their predictions, and what they belong to.

Rows are read in blocks. Of the predictions, only numbers are held in memory; each text is held once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints
from camtrap_batch.detection.people import people_in
from camtrap_batch.errors import InputError, Interrupted
from camtrap_batch.events.codes import Bools, Floats
from camtrap_batch.model.info import CARD, parse_info
from camtrap_batch.selection.classes import empty_class, empty_of_data_set
from camtrap_batch.store import snapshots
from camtrap_batch.store.corrections import read_corrections, standing
from camtrap_batch.store.manifest import categories_of
from camtrap_batch.store.merged import MergeResult, list_merged
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import FRAMES
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import Table
from camtrap_batch.survey.places import Sensitive, Shown, sensitive_of, shown_locations
from camtrap_batch.vocabulary import DATE_FINDINGS, EMPTY, FROM_METADATA, NO_MODEL, PEOPLE, USABLE

BLOCK = 16_384
"""Rows read and written at a time."""

BOX = ("x", "y", "w", "h")
"""Columns of the table `detections`: upper left corner, width and height, as fractions of the picture's."""

_DETECTIONS, _CROPS = "detections", "crops"
"""Categories of boxes that are not classified, as they already say what is in them."""
_OF_BOX = [*BOX, "category", "confidence", "repeat"]
_OF_LABEL = ["label", "label_confidence"]
_OF_CROP = ["box", "label", "confidence"]
_BELONGING = ("seq_id", "event_id", "label", "confidence")
_OF_TOLD = (
    "label", "count", "event_id", "sex", "life_stage", "behaviour", "individual", "classified_by",
    "classified_at",
)  # fmt: skip
_TOLD = ("label_source", *_OF_TOLD, "more")
_HUMAN = "human"


@dataclass(frozen=True)
class ExportInput:
    """What is exported: a snapshot of the predictions, and the result of `merge` made from it, if any."""

    predictions: Snapshot
    merged: MergeResult | None

    @classmethod
    def find(cls, run: Run, number: int | None = None) -> ExportInput:
        """The result of merge with this number; by default the current predictions and their newest result.

        Raises
        ------
        InputError
            There is no such result, or there are no predictions yet.
        """
        if number is not None:
            merged = MergeResult.find(run, number)
            return cls(run.snapshot("predictions", merged.snapshot.inputs["predictions"]), merged)
        predictions = run.snapshot("predictions")
        made = (one for one in list_merged(run) if one.snapshot.inputs["predictions"] == predictions.number)
        return cls(predictions, next(made, None))

    def empty(self, run: Run) -> str:
        """The label that means that there is no animal. Without a result of merge, as job file and model now
        say."""
        if self.merged is not None:
            return str(self.merged.snapshot.meta["empty"])
        if self.predictions.inputs["model"] == NO_MODEL:
            manifest = run.snapshot("manifest", int(self.predictions.inputs["manifest"]))
            catalog = run.snapshot("catalog", int(manifest.inputs["catalog"]))
            return empty_of_data_set(run.job, categories_of(catalog.meta))
        card = f"models/{self.predictions.inputs['model']}/{CARD}"
        try:
            content = json.loads(run.folder.read(card))
            content.pop("format", None)
            info = parse_info(content)
        except FileNotFoundError:
            raise InputError(f"{run.folder.url}/{card}: no such file; run infer, or merge, first") from None
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise InputError(f"{run.folder.url}/{card}: not a model's description: {problem}") from None
        return empty_class(run.job, info)


@dataclass(frozen=True)
class Predictions:
    """Predictions as numbers, in the order of their table.

    Attributes
    ----------
    labels : distinct labels, ascending
    label : (n,) number of the label; -1 if the image could not be classified
    confidence : (n,) its probability; NaN if there is no label
    top_begin : (n + 1,) where each image's most probable classes begin in `top_label` and `top_p`
    top_label, top_p : number and probability of each, descending within an image
    """

    labels: tuple[str, ...]
    label: npt.NDArray[np.int32]
    confidence: Floats
    top_begin: Ints
    top_label: npt.NDArray[np.int32]
    top_p: Floats


class Block(NamedTuple):
    """Some images.

    Attributes
    ----------
    rows : columns of the manifest, `status` as text
    predicted : (n,) row in `Images.predictions` and `Images.frames`; -1 if the image is not usable
    label : what a person says, otherwise what was predicted; null where neither is known
    confidence : probability of what was predicted; null if nothing was, and of what a person says
    boxes : index of an image among these -> its boxes, rows of the table `detections`, without repeats, each
        with `label` and `label_confidence`, null if it was not classified
    machine, machine_p : predicted label and probability, whatever people say
    human : (n,) whether the label is a person's
    told : index among these of an image that a person labelled -> what was said about each species, the first
        one first: `label`, `count`, `event_id`, `sex`, ..., `classified_by`, `classified_at`
    """

    rows: pa.Table
    predicted: Ints
    label: pa.Array
    confidence: pa.Array
    boxes: dict[int, list[dict[str, Any]]]
    machine: pa.Array
    machine_p: pa.Array
    human: Bools
    told: dict[int, list[dict[str, Any]]]


class Images:
    """All images of a run's catalog, with the predictions of one snapshot and what belongs to it.

    Parameters
    ----------
    run, source
    stop
        Once it is set, `blocks` raises Interrupted.
    exact_places
        Include exact positions of sensitive species (`publish.sensitive`): for those who may know them.
    """

    def __init__(
        self,
        run: Run,
        source: ExportInput,
        *,
        stop: threading.Event | None = None,
        exact_places: bool = False,
    ) -> None:
        self.run = run
        self._exact_places = exact_places
        self.snapshot = source.predictions
        self.manifest = run.snapshot("manifest", int(self.snapshot.inputs["manifest"]))
        model = str(self.snapshot.inputs["model"])
        self.made_by: str | None = self.snapshot.meta.get("made_by")
        self.model_id = self.made_by or model
        self.is_by_metadata = bool(self.snapshot.meta.get(FROM_METADATA))
        self._merged = source.merged
        self._empty = {source.empty(run), EMPTY}
        self._stop = stop or threading.Event()
        number = self.snapshot.inputs.get(_DETECTIONS)
        self._detections = None if number is None else run.table(_DETECTIONS, number)
        crops = self.snapshot.inputs.get(_CROPS)
        self._crops = None if crops is None else run.table(_CROPS, crops)

    def __len__(self) -> int:
        return len(self._usable[0])

    @property
    def classifier(self) -> str:
        """Whose the labels are, apart from people's: the model, or the program named in results."""
        if self.model_id == NO_MODEL:
            return "people"
        return self.made_by or f"camtrap-batch {self.model_id}"

    @cached_property
    def predictions(self) -> Predictions:
        """The predictions. Raises InputError if they do not match their manifest's images."""
        return self._read_predictions(self._usable[1])

    @property
    def merged(self) -> MergeResult:
        """The result of merge. Raises InputError if `merge` has not been run on these predictions."""
        if self._merged is None:
            raise InputError(
                f"{self.run.folder.url}: there are no sequences and events for snapshot "
                f"{self.snapshot.number} of predictions; run merge first"
            )
        return self._merged

    @property
    def has_merged(self) -> bool:
        """Whether `merge` has been run on these predictions."""
        return self._merged is not None

    @property
    def taxonomy(self) -> dict[str, list[list[str]]]:
        """Label in lower case -> rank and name of each group above it, as `merge` knew them."""
        return {} if self._merged is None else self._merged.snapshot.meta.get("taxonomy") or {}

    @cached_property
    def frames(self) -> pa.Table:
        """seq_id, event_id, label and confidence of the table `frames`: a row for each prediction."""
        table = self.merged.table("frames")
        parts = []
        for rows in chain([table.schema.empty_table()], _blocks(table, list(_BELONGING))):
            # Texts: a number for each image, and each text once.
            texts = {name: rows[name].combine_chunks().dictionary_encode() for name in _BELONGING[:3]}
            parts.append(pa.table({**texts, "confidence": rows["confidence"]}))
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks()

    @cached_property
    def events(self) -> pa.Table:
        return self.merged.table("events").to_table()

    @cached_property
    def people(self) -> pa.Array:
        """Ids of the images of which a label says that they show people or their vehicles."""
        return people_in(self.merged)

    @property
    def locations(self) -> pa.Table:
        """The table `locations` with the positions that may leave: see `survey.places`."""
        return self.shown.locations

    @cached_property
    def shown(self) -> Shown:
        """Locations, and which of them are shown on a grid."""
        return self.show()

    def show(self, also: Collection[str] = ()) -> Shown:
        """Like `shown`, if something sensitive was also seen at the locations `also`."""
        if self._exact_places:
            locations = self.merged.table("locations").to_table()
            return Shown(locations, np.zeros(locations.num_rows))
        return shown_locations(self.merged, also=also)

    @property
    def sensitive(self) -> Sensitive | None:
        """Species whose exact positions may not leave; None if there are none, or all may know."""
        return None if self._exact_places else sensitive_of(self.run.job)

    @cached_property
    def event(self) -> Ints:
        """Row of `events` that each prediction's image belongs to; -1: none."""
        coded = self.frames["event_id"].combine_chunks()
        row = pc.index_in(coded.dictionary, self.events["event_id"].combine_chunks())
        rows = np.append(np.asarray(row.to_numpy(), np.int64), -1)
        return np.asarray(rows[coded.indices.fill_null(-1).to_numpy()])

    def event_row(self, event_id: str | None) -> int:
        """Row of `events`; -1: none."""
        return -1 if event_id is None else self._row_of_event[event_id]

    @cached_property
    def _row_of_event(self) -> dict[str, int]:
        return {id_: row for row, id_ in enumerate(self.events["event_id"].to_pylist())}

    @property
    def has_told(self) -> bool:
        """Whether labels of people are in the result of `merge`."""
        return bool(self._told.labels)

    @cached_property
    def said(self) -> pa.Table | None:
        """What people said about usable images, as it stands now (`store.corrections.standing`); None:
        nothing.

        Besides its columns: `row`, the image's in the manifest, by which it is sorted, and `of_event`, the
        row of `events` that the image belongs to with this label, -1: none.
        """
        corrections = read_corrections(self.run)
        if not corrections.num_rows:
            return None
        table = self.run.table("manifest", self.manifest.number)
        found = standing(corrections, table.to_table(columns=["image_id", "sha256"]))
        predicted = self._usable[0][found["row"].to_numpy()]
        event = _at(self.event, predicted.astype(np.int64))
        _, told = self._told.of(predicted.astype(np.int64))
        labels = found["label"].to_pylist()
        for at, some in told.items():
            of_label = {one["label"]: one["event_id"] for one in some}
            event[at] = self.event_row(of_label.get(labels[at], some[0]["event_id"]))
        found = found.append_column("of_event", pa.array(event))
        found = found.filter(pa.array(predicted >= 0))
        return found if found.num_rows else None

    @property
    def has_boxes(self) -> bool:
        return self._detections is not None

    @cached_property
    def is_searched(self) -> Bools:
        """Which rows of the predictions are of images in which a detector looked for boxes."""
        table = self.run.table("predictions", self.snapshot.number)
        if not self.has_boxes or "n_boxes" not in table.schema.names:
            return np.zeros(self.snapshot.rows, np.bool_)
        n_boxes = table.to_table(columns=["n_boxes"])["n_boxes"]
        return np.asarray(n_boxes.is_valid().combine_chunks().to_numpy(zero_copy_only=False), np.bool_)

    def is_empty(self, label: str) -> bool:
        return label in self._empty

    def counting(self, boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The boxes of an image from which its label may come, each with a label.

        They are boxes with an animal in them, according to the model; and those of people and vehicles,
        according to the detector, from the threshold that `merge` went by.
        """
        threshold = self.snapshot.meta[_DETECTIONS]["threshold"] if boxes else 0
        found = []
        for box in boxes:
            if box["label"] is not None:
                if not self.is_empty(box["label"]):
                    found.append(box)
            elif _is_named(box["category"]) and box["confidence"] >= threshold:
                found.append(box | {"label": box["category"], "label_confidence": box["confidence"]})
        return found

    def check_stop(self) -> None:
        """Raises Interrupted once the command is to stop."""
        if self._stop.is_set():
            raise Interrupted("export: interrupted; nothing was written")

    def labels(self) -> set[str]:
        """Every label that images and boxes may have."""
        labels = set(self.predictions.labels) | self._told.labels
        for table in (self._detections, self._crops):
            if table is None:
                continue
            for rows in _blocks(
                table, [name for name in ("label", "category") if name in table.schema.names]
            ):
                for name in rows.column_names:
                    values = rows[name].drop_null().unique().to_pylist()
                    labels.update(value for value in values if name == "label" or _is_named(value))
        return labels

    def blocks(self, columns: list[str], *, boxes: bool = False) -> Iterator[Block]:
        """The images in the manifest's order, with these columns of it, and their boxes if wanted."""
        start = 0
        labels = pa.array(self.predictions.labels, pa.string())
        detections = _Boxes(self._detections, self._crops) if boxes else _Boxes(None, None)
        read = list(dict.fromkeys([*columns, "image_id"])) if boxes else columns
        for rows in _blocks(self.run.table("manifest", self.manifest.number), read):
            self.check_stop()
            if "status" in columns:
                at = rows.schema.get_field_index("status")
                rows = rows.set_column(at, "status", rows["status"].cast(pa.string()))
            predicted = self._usable[0][start : start + rows.num_rows].astype(np.int64)
            label = np.where(predicted < 0, -1, _at(self.predictions.label, predicted))
            confidence = _at(self.predictions.confidence, predicted)
            human, told = self._told.of(predicted)
            is_human = pa.array(human)
            machine = take(labels, label)
            # Only significant digits; a float32 has noise after them.
            machine_p = pc.round(pa.array(confidence.astype(float), mask=label < 0), 4)
            own = [told[row][0]["label"] if row in told else None for row in range(len(human))]
            yield Block(
                rows,
                predicted,
                pc.if_else(is_human, pa.array(own, pa.string()), machine),
                pc.if_else(is_human, None, machine_p),
                detections.of(rows["image_id"]) if boxes else {},
                machine,
                machine_p,
                human,
                told,
            )
            start += rows.num_rows
        if not detections.is_done():
            raise InputError(f"{self.run.folder.url}: detections of images that are not in the manifest")

    def doubted_dates(self) -> pa.Array:
        """Ids of the images with a finding about their date."""
        for number in reversed(snapshots.numbers(self.run.folder, "findings")):
            found = snapshots.load(self.run.folder, "findings", number)
            if found.meta.get("manifest_plan") == self.manifest.plan_id:
                rows = self.run.table("findings", number).to_table(columns=["image_id", "kind"])
                ids = rows.filter(pc.is_in(rows["kind"], pa.array(DATE_FINDINGS)))["image_id"]
                return ids.unique()
        return pa.array([], pa.string())

    @cached_property
    def _told(self) -> _Told:
        """What people said about the images, as used by `merge`."""
        nothing = _Told(pa.array([], pa.int64()), FRAMES.empty_table().select(_TOLD))
        if self._merged is None:
            return nothing
        table = self._merged.table("frames")
        if _TOLD[0] not in table.schema.names:  # of an older version
            return nothing
        known = [name for name in _TOLD if name in table.schema.names]
        rows, parts, start = [], [table.schema.empty_table().select(known)], 0
        for block in _blocks(table, known):
            mask = pc.fill_null(pc.equal(block["label_source"], _HUMAN), False)
            rows.append(start + np.flatnonzero(mask.to_numpy()))
            parts.append(block.filter(mask))
            start += block.num_rows
        return _Told(pa.array(_joined(rows, np.int64)), pa.concat_tables(parts))

    @cached_property
    def _usable(self) -> tuple[npt.NDArray[np.int32], pa.ChunkedArray]:
        """For each image its index among the usable ones, -1 if it is not usable; and the ids of those."""
        usable, ids = [], []
        for rows in _blocks(self.run.table("manifest", self.manifest.number), ["image_id", "status"]):
            mask = pc.is_in(rows["status"].cast(pa.string()), pa.array(USABLE))
            usable.append(np.asarray(mask.to_numpy(), bool))
            ids += rows["image_id"].filter(mask).chunks
        if not usable:
            raise InputError(f"{self.run.folder.url}: the manifest has no images")
        is_usable = np.concatenate(usable)
        index = np.where(is_usable, np.cumsum(is_usable) - 1, -1)
        return index.astype(np.int32), pa.chunked_array(ids, pa.string())

    def _read_predictions(self, usable_ids: pa.ChunkedArray) -> Predictions:
        codes: dict[str, int] = {}

        def encode(column: pa.Array) -> npt.NDArray[np.int32]:
            coded = column.dictionary_encode()
            known = [codes.setdefault(text, len(codes)) for text in coded.dictionary.to_pylist()]
            numbers = np.array([*known, -1], np.int32)
            indices = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            return np.asarray(numbers[indices])

        ids, label, confidence, lengths, top_label, top_p = ([] for _ in range(6))
        columns = ["image_id", "label", "confidence", "top5"]
        for rows in _blocks(self.run.table("predictions", self.snapshot.number), columns):
            rows = rows.combine_chunks()
            top = rows["top5"].combine_chunks()
            entries = top.flatten()
            ids += rows["image_id"].chunks
            label.append(encode(rows["label"].combine_chunks()))
            confidence.append(rows["confidence"].to_numpy().astype(np.float32))
            lengths.append(pc.list_value_length(top).fill_null(0).to_numpy(zero_copy_only=False))
            top_label.append(encode(entries.field("label")))
            top_p.append(entries.field("p").to_numpy(zero_copy_only=False).astype(np.float32))
        if not pa.chunked_array(ids, pa.string()).equals(usable_ids):
            raise InputError(
                f"{self.run.folder.url}: the predictions do not match the manifest's images; run infer first"
            )
        names = sorted(codes)
        rank = np.empty(len(names) + 1, np.int32)
        rank[[codes[name] for name in names]] = np.arange(len(names))
        rank[-1] = -1  # no label stays no label
        return Predictions(
            tuple(names),
            rank[_joined(label, np.int32)],
            _joined(confidence, np.float32),
            np.append(0, np.cumsum(_joined(lengths, np.int64))),
            rank[_joined(top_label, np.int32)],
            _joined(top_p, np.float32),
        )


class _Told:
    """What people said about images.

    Parameters
    ----------
    rows : row numbers in the table frames, ascending
    told : these rows of it
    """

    def __init__(self, rows: pa.Array, told: pa.Table) -> None:
        self._rows, self._told = rows.to_numpy(zero_copy_only=False), told
        self.labels = {label for label in told["label"].to_pylist() if label is not None}
        if "more" in told.column_names:
            more = pc.list_flatten(told["more"].combine_chunks())
            self.labels.update(pc.struct_field(more, "label").drop_null().to_pylist() if len(more) else ())

    def of(self, rows: Ints) -> tuple[Bools, dict[int, list[dict[str, Any]]]]:
        """Whether each row was labelled by a person; and what was said, by index."""
        at = np.searchsorted(self._rows, rows)
        found = np.append(self._rows, -2)[np.minimum(at, len(self._rows))] == rows
        indices = np.flatnonzero(found)
        told = self._told.take(pa.array(at[indices])).to_pylist()
        return found, {
            index: [{name: one.get(name) for name in _OF_TOLD} for one in (row, *(row.get("more") or ()))]
            for index, row in zip(indices.tolist(), told, strict=True)
        }


class _Boxes:
    """The rows of `detections`, and of `crops` beside them, handed out as the images are read.

    Snapshots of earlier versions have the labels in `detections`.
    """

    def __init__(self, detections: Table | None, crops: Table | None) -> None:
        labelled = detections is not None and "label" in detections.schema.names
        self._detections = _Rows(detections, [*_OF_BOX, *(_OF_LABEL if labelled else [])])
        self._crops = _Rows(crops, _OF_CROP)

    def of(self, image_ids: pa.ChunkedArray) -> dict[int, list[dict[str, Any]]]:
        """Boxes of the next images that are not repeats, by the image's index."""
        crops = self._crops.of(image_ids)
        found: dict[int, list[dict[str, Any]]] = {}
        for at, boxes in self._detections.of(image_ids).items():
            labels = {crop["box"]: crop for crop in crops.get(at, ())}
            for number, box in enumerate(boxes):
                if box["repeat"] is None:
                    crop = labels.get(number, {})
                    label = {"label": crop.get("label"), "label_confidence": crop.get("confidence")}
                    found.setdefault(at, []).append(label | box)
        return found

    def is_done(self) -> bool:
        """Whether every row was handed out."""
        return self._detections.is_done() and self._crops.is_done()


class _Rows:
    """The rows of a table in the order of the images, handed out as these are read."""

    def __init__(self, table: Table | None, columns: list[str]) -> None:
        self._columns = columns
        self._tables = iter(()) if table is None else _blocks(table, ["image_id", *columns])
        self._waiting = next(self._tables, None)

    def of(self, image_ids: pa.ChunkedArray) -> dict[int, list[dict[str, Any]]]:
        """Rows of the next images, by the image's index."""
        found: dict[int, list[dict[str, Any]]] = {}
        while self._waiting is not None:
            index = pc.index_in(self._waiting["image_id"], image_ids.combine_chunks()).combine_chunks()
            others = np.flatnonzero(index.is_null().to_numpy(zero_copy_only=False))
            n = int(others[0]) if len(others) else self._waiting.num_rows
            rows = self._waiting[:n].select(self._columns).to_pylist()
            for at, row in zip(index[:n].to_pylist(), rows, strict=True):
                found.setdefault(at, []).append(row)
            if n < self._waiting.num_rows:
                self._waiting = self._waiting[n:]
                break
            self._waiting = next(self._tables, None)
        return found

    def is_done(self) -> bool:
        """Whether every row was handed out."""
        return self._waiting is None


def _is_named(category: str) -> bool:
    """Whether boxes of a category already say what is in them."""
    return category.casefold() in PEOPLE


def _blocks(table: Table, columns: list[str]) -> Iterator[pa.Table]:
    """A table's rows in pieces of `BLOCK` rows, or a little more."""
    waiting: list[pa.RecordBatch] = []
    n = 0
    for batch in table.to_batches(columns=columns, batch_size=BLOCK, batch_readahead=2, fragment_readahead=4):
        waiting.append(batch)
        n += batch.num_rows
        if n >= BLOCK:
            yield pa.Table.from_batches(waiting)
            waiting, n = [], 0
    if n:
        yield pa.Table.from_batches(waiting)


def take(values: pa.Array, rows: npt.NDArray[Any]) -> pa.Array:
    """Values at the given indices; null if an index is -1."""
    return values.take(pa.array(rows, mask=rows < 0))


def _at(values: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """Values at the given indices; arbitrary if an index is -1."""
    return values[rows] if len(values) else np.zeros(len(rows), values.dtype)


def _joined(parts: list[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)
