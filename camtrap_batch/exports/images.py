"""What every export is made of: the images of a run, what was predicted of them, and what they belong to.

Rows are read in blocks. Of the predictions, numbers alone are held in memory; texts are held once each.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camtrap_batch.errors import InputError, Interrupted
from camtrap_batch.events.codes import Bools, Floats, Ints
from camtrap_batch.exports.belonging import event_rows, sequence_rows
from camtrap_batch.store import schemas, snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import EMPTY, USABLE
from camtrap_batch.store.snapshots import Snapshot

BLOCK = 16_384
"""Rows read and written at a time."""

BOX = ("x", "y", "w", "h")
"""Columns of the table `detections`: upper left corner, width and height, as parts of the picture's."""

_DETECTIONS = "detections"
_WRONG_DATES = ("date_before_camera", "date_in_future", "date_out_of_order", "clock_reset")
_MERGED = ("locations", "sequences", "events")


@dataclass(frozen=True)
class Predictions:
    """Predictions as numbers, in the order of their table.

    Attributes
    ----------
    labels : distinct labels, ascending
    label : (n,) number of the label; -1 where the image could not be classified
    confidence : (n,) its probability; NaN where there is no label
    top_begin : (n + 1,) where each image's most probable classes begin in `top_label` and `top_p`
    top_label, top_p : number and probability of each, descending within an image
    """

    labels: tuple[str, ...]
    label: npt.NDArray[np.int32]
    confidence: Floats
    top_begin: Ints
    top_label: npt.NDArray[np.int32]
    top_p: Floats


@dataclass(frozen=True)
class Merged:
    """What `merge` made of the predictions, and the row of it that each image belongs to; -1: none.

    Attributes
    ----------
    sequences, events, locations : tables of the store's schemas
    sequence, event : (images,) int32
    """

    sequences: pa.Table
    events: pa.Table
    locations: pa.Table
    sequence: npt.NDArray[np.int32]
    event: npt.NDArray[np.int32]


class Block(NamedTuple):
    """Some images.

    Attributes
    ----------
    rows : columns of the manifest, `status` as text
    start : number of the first image
    predicted : (n,) row in `Images.predictions`; -1 where the image was not to be classified
    label, confidence : what was predicted; null where nothing was
    """

    rows: pa.Table
    start: int
    predicted: Ints
    label: pa.Array
    confidence: pa.Array

    @property
    def stop(self) -> int:
        return self.start + int(self.rows.num_rows)


class Images:
    """All images of a run's catalog, with the predictions of one snapshot and what belongs to it.

    Parameters
    ----------
    run
    number
        Snapshot of the predictions; default: the current one.
    empty
        The model's label for: no animal.
    stop
        Once it is set, `blocks` raises Interrupted.

    Raises
    ------
    InputError
        There is no such snapshot, or it is of other images than its manifest.
    """

    def __init__(
        self, run: Run, number: int | None = None, *, empty: str, stop: threading.Event | None = None
    ) -> None:
        self.run = run
        self.snapshot = run.snapshot("predictions", number)
        self.manifest = run.snapshot("manifest", int(self.snapshot.inputs["manifest"]))
        self.model_id = str(self.snapshot.inputs["model"])
        self._empty = {empty, EMPTY}
        self._stop = stop or threading.Event()
        usable, about = self._usable([])
        self._predicted = np.full(len(usable), -1, np.int32)
        self.predictions, self._predicted[usable] = self._read_predictions(about["image_id"])

    def __len__(self) -> int:
        return len(self._predicted)

    @cached_property
    def merged(self) -> Merged:
        """Raises InputError where `merge` was not run on these predictions."""
        made = _merged_snapshots(self.run, self.snapshot)
        tables = {name: self.run.table(name, made[name].number).to_table() for name in _MERGED}
        usable, about = self._usable(["location", "seq_id", "datetime"])
        sequence, event = (np.full(len(usable), -1, np.int32) for _ in range(2))
        sequence[usable] = sequence_rows(about, tables["sequences"])
        labels = take(tables["sequences"]["label"].combine_chunks(), sequence[usable])
        event[usable] = event_rows(about["location"], labels, about["datetime"], tables["events"])
        return Merged(**tables, sequence=sequence, event=event)

    def is_empty(self, label: str) -> bool:
        return label in self._empty

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """The images in the manifest's order, with these columns of it."""
        start = 0
        labels = pa.array(self.predictions.labels, pa.string())
        for rows in read_blocks(self.run.folder, self.manifest, columns):
            if self._stop.is_set():
                raise Interrupted("export: interrupted; nothing was written")
            if "status" in columns:
                at = rows.schema.get_field_index("status")
                rows = rows.set_column(at, "status", rows["status"].cast(pa.string()))
            predicted = self._predicted[start : start + rows.num_rows].astype(np.int64)
            label = np.where(predicted < 0, -1, _at(self.predictions.label, predicted))
            confidence = _at(self.predictions.confidence, predicted)
            yield Block(
                rows,
                start,
                predicted,
                take(labels, label),
                # As many digits as mean something; a float32 has noise after them.
                pc.round(pa.array(confidence.astype(float), mask=label < 0), 4),
            )
            start += rows.num_rows

    def detections(self) -> Detections | None:
        """Boxes of animals in the images; None where the run has none."""
        if _DETECTIONS not in schemas.SCHEMAS:
            return None
        found = _of_plan(self.run, _DETECTIONS, self.snapshot.plan_id)
        if found is None:
            return None
        rows = self.run.table(_DETECTIONS, found.number).to_table()
        image = pc.index_in(rows["image_id"], self._image_ids())
        if image.null_count:
            raise InputError(f"{self.run.folder.url}: detections of images that the manifest does not have")
        image = np.asarray(image.to_numpy(), np.int64)
        order = np.argsort(image, kind="stable")
        return Detections(rows.drop_columns("image_id").take(pa.array(order)), image[order])

    def doubted_dates(self) -> pa.Array:
        """Ids of the images about whose date there is a finding."""
        for number in reversed(snapshots.numbers(self.run.folder, "findings")):
            found = snapshots.load(self.run.folder, "findings", number)
            if found.meta.get("manifest_plan") == self.manifest.plan_id:
                rows = self.run.table("findings", number).to_table(columns=["image_id", "kind"])
                ids = rows.filter(pc.is_in(rows["kind"], pa.array(_WRONG_DATES)))["image_id"]
                return ids.unique()
        return pa.array([], pa.string())

    def _image_ids(self) -> pa.Array:
        blocks = read_blocks(self.run.folder, self.manifest, ["image_id"])
        return pa.concat_tables(blocks)["image_id"].combine_chunks()

    def _usable(self, columns: list[str]) -> tuple[Bools, pa.Table]:
        """Which images are usable; image_id and `columns` of those."""
        usable, kept = [], []
        for rows in read_blocks(self.run.folder, self.manifest, ["image_id", "status", *columns]):
            mask = pc.is_in(rows["status"].cast(pa.string()), pa.array(USABLE))
            usable.append(np.asarray(mask.to_numpy(), bool))
            kept.append(rows.drop_columns("status").filter(mask))
        if not kept:
            raise InputError(f"{self.run.folder.url}: the manifest has no images")
        return np.concatenate(usable), pa.concat_tables(kept)

    def _read_predictions(self, usable_ids: pa.ChunkedArray) -> tuple[Predictions, Ints]:
        """The predictions, and which of them is that of each usable image."""
        codes: dict[str, int] = {}

        def encode(column: pa.Array) -> npt.NDArray[np.int32]:
            coded = column.dictionary_encode()
            known = [codes.setdefault(text, len(codes)) for text in coded.dictionary.to_pylist()]
            numbers = np.array([*known, -1], np.int32)
            indices = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            return np.asarray(numbers[indices])

        ids, label, confidence, lengths, top_label, top_p = ([] for _ in range(6))
        columns = ["image_id", "label", "confidence", "top5"]
        for rows in read_blocks(self.run.folder, self.snapshot, columns):
            rows = rows.combine_chunks()
            top = rows["top5"].combine_chunks()
            entries = top.flatten()
            ids += rows["image_id"].chunks
            label.append(encode(rows["label"].combine_chunks()))
            confidence.append(rows["confidence"].to_numpy().astype(np.float32))
            lengths.append(pc.list_value_length(top).fill_null(0).to_numpy(zero_copy_only=False))
            top_label.append(encode(entries.field("label")))
            top_p.append(entries.field("p").to_numpy(zero_copy_only=False).astype(np.float32))
        known = pa.chunked_array(ids, pa.string()).combine_chunks()
        row = pc.index_in(usable_ids, known)
        if row.null_count or len(known) != len(usable_ids):
            raise InputError(
                f"{self.run.folder.url}: the predictions are of other images than the manifest's; run infer "
                "first"
            )
        names = sorted(codes)
        rank = np.empty(len(names) + 1, np.int32)
        rank[[codes[name] for name in names]] = np.arange(len(names))
        rank[-1] = -1  # no label stays no label
        predictions = Predictions(
            tuple(names),
            rank[_joined(label, np.int32)],
            _joined(confidence, np.float32),
            np.append(0, np.cumsum(_joined(lengths, np.int64))),
            rank[_joined(top_label, np.int32)],
            _joined(top_p, np.float32),
        )
        return predictions, np.asarray(row.to_numpy(), np.int64)


class Detections:
    """Boxes in images: `rows` are columns of the table `detections`, in the order of the images."""

    def __init__(self, rows: pa.Table, image: Ints) -> None:
        self.rows, self._image = rows, image

    def of(self, block: Block) -> dict[int, list[dict[str, object]]]:
        """Boxes of a block's images that are no repeats, by the image's place in the block."""
        first, last = np.searchsorted(self._image, [block.start, block.stop])
        found: dict[int, list[dict[str, object]]] = {}
        for place, row in zip(
            (self._image[first:last] - block.start).tolist(),
            self.rows.slice(first, last - first).to_pylist(),
            strict=True,
        ):
            boxes = found.setdefault(place, [])
            if not row["repeat"]:
                boxes.append(row)
        return found


def read_blocks(folder: Folder, snapshot: Snapshot, columns: list[str]) -> Iterator[pa.Table]:
    """A snapshot's rows in their order, in pieces of `BLOCK` rows or a little more.

    A dataset would keep the footer of each file that it has read: of thousands of files, that is more memory
    than all else here.
    """
    waiting: list[pa.RecordBatch] = []
    n = 0
    for file in snapshot.files:
        with folder.arrow.open_input_file(file.file) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(BLOCK, columns=columns, use_threads=False):
                waiting.append(batch)
                n += batch.num_rows
                if n >= BLOCK:
                    yield pa.Table.from_batches(waiting)
                    waiting, n = [], 0
    if n:
        yield pa.Table.from_batches(waiting)


def take(values: pa.Array, rows: npt.NDArray[Any]) -> pa.Array:
    """Values at some places; null where the place is -1."""
    return values.take(pa.array(rows, mask=rows < 0))


def _at(values: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """Values at some places; anything where the place is -1."""
    return values[rows] if len(values) else np.zeros(len(rows), values.dtype)


def _joined(parts: list[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _merged_snapshots(run: Run, predictions: Snapshot) -> dict[str, Snapshot]:
    """The newest sequences, events and locations that were made of a snapshot of the predictions."""
    for number in reversed(snapshots.numbers(run.folder, _MERGED[0])):
        first = snapshots.load(run.folder, _MERGED[0], number)
        if first.inputs.get("predictions") == predictions.number:
            found = {name: _of_plan(run, name, first.plan_id) for name in _MERGED[1:]}
            whole = {name: snapshot for name, snapshot in found.items() if snapshot is not None}
            if len(whole) == len(found):
                return {_MERGED[0]: first, **whole}
    raise InputError(
        f"{run.folder.url}: no sequences and events of snapshot {predictions.number} of predictions are "
        "there; run merge first"
    )


def _of_plan(run: Run, table: str, plan_id: str) -> Snapshot | None:
    """The newest snapshot of a table that a plan made."""
    for number in reversed(snapshots.numbers(run.folder, table)):
        found = snapshots.load(run.folder, table, number)
        if found.plan_id == plan_id:
            return found
    return None
