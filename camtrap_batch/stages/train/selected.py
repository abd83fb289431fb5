"""The images of a selection, read during training: thumbnails by row group, or originals."""

from __future__ import annotations

import errno
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camtrap_batch.detection.boxes import Rules, read_boxes
from camtrap_batch.detection.crops import margin_of
from camtrap_batch.detection.stored import SIDES
from camtrap_batch.errors import BrokenPromise
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.selection.choice import balanced_weights
from camtrap_batch.selection.crops import BACKGROUND, KEPT_FOR_BOXES, KNOWN, label_crops
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table

if TYPE_CHECKING:
    from camtrap_batch.model import Samples
    from camtrap_batch.model.samples import Frames

_FOOTERS_AT_ONCE = 16
_FEWEST_HELD = 8
_ORIGINALS_A_BLOCK = 256
NO_CROPS = "nothing of {} to learn from"
_WINDOW = 0.8
"""Fraction of the cache used by the order of training; the rest is for reading ahead and judging."""


class Pictures(Sequence[bytes]):
    """Image files' bytes, by index; safe to read from several threads.

    A row group of thumbnails is read whole, and the needed part of it is cached until others need the room:
    images that are used together should come from few `blocks`. Originals are read one by one, and not
    cached.

    Parameters
    ----------
    folder, root
        Where thumbnails and originals are.
    rows
        Rows of the manifest, with the columns `COLUMNS`.
    use_thumbnails
        False: use originals even if there are thumbnails.
    budget
        Memory for thumbnails, in bytes.
    """

    def __init__(
        self, folder: Folder, root: ImageRoot, rows: pa.Table, *, use_thumbnails: bool, budget: int
    ) -> None:
        self._folder, self._root = folder, root
        self._originals = rows.combine_chunks()
        encoded = rows["thumbnail_file"].combine_chunks().dictionary_encode()
        self._files: list[str] = encoded.dictionary.to_pylist()
        file = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
        if not use_thumbnails:
            file[:] = -1
        row = pc.fill_null(rows["thumbnail_row"], 0).to_numpy()
        self._footers = self._read_footers(np.unique(file[file >= 0]))
        self._group_file: list[int] = []
        self._group_number: list[int] = []
        self._group = np.full(len(file), -1, np.int64)
        self._wanted: list[npt.NDArray[np.int64]] = []
        self._row = np.zeros(len(file), np.int64)
        size = self._assign(file, row)
        n_groups = len(self._wanted)
        fits = size <= budget or not n_groups
        self.held = n_groups if fits else max(_FEWEST_HELD, int(budget / (size / n_groups)))
        """Number of row groups that can be cached."""
        self._cache: OrderedDict[int, Future[pa.BinaryArray]] = OrderedDict()
        self._lock = Lock()

    @property
    def blocks(self) -> npt.NDArray[np.int64]:
        """Which images are read together, see `Samples.blocks`."""
        numbers = np.arange(len(self._group)) // _ORIGINALS_A_BLOCK + len(self._wanted)
        return np.where(self._group < 0, numbers, self._group)

    @property
    def window(self) -> int:
        """How many blocks training may have in use."""
        n_originals = int(np.count_nonzero(self._group < 0))
        if self.held >= len(self._wanted):
            return len(self._wanted) + n_originals + 1
        return max(1, int(self.held * _WINDOW))

    def __len__(self) -> int:
        return len(self._group)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        group = int(self._group[index])
        if group < 0:
            return self._original(self._originals.slice(index, 1))
        data: bytes = self._hold(group)[int(self._row[index])].as_py()
        return data

    def _original(self, row: pa.Table) -> bytes:
        name: str = row["file_name"][0].as_py()
        if "video_s" not in row.column_names or not row["video_s"][0].is_valid:
            return self._root.read(name)
        ((_, content, _),) = read_pictures(self._folder, self._root, row, use_thumbnails=False)
        if content is None:
            raise OSError(errno.EIO, "this frame of it can no longer be decoded", name)
        return content

    def _read_footers(self, files: npt.NDArray[np.int64]) -> dict[int, pq.FileMetaData]:
        def read(number: int) -> pq.FileMetaData:
            with self._folder.open(self._files[number]) as handle:
                return pq.read_metadata(handle)

        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            return dict(zip(files.tolist(), pool.map(read, files.tolist()), strict=True))

    def _assign(self, file: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> float:
        """Find each image's row group; returns the total bytes of everything needed from them."""
        size = 0.0
        order = np.argsort(file, kind="stable")
        starts = np.searchsorted(file[order], list(self._footers))
        ends = np.searchsorted(file[order], list(self._footers), side="right")
        for (number, footer), start, end in zip(self._footers.items(), starts, ends, strict=True):
            images = order[start:end]
            sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
            first = np.cumsum([0, *sizes])
            group_of = np.searchsorted(first, row[images], side="right") - 1
            for group in np.unique(group_of).tolist():
                members = images[group_of == group]
                self._group[members] = len(self._wanted)
                self._row[members] = np.arange(len(members))
                self._wanted.append(row[members] - first[group])
                self._group_file.append(number)
                self._group_number.append(group)
                size += footer.row_group(group).total_byte_size * len(members) / sizes[group]
        return size

    def _hold(self, group: int) -> pa.BinaryArray:
        with self._lock:
            found = self._cache.get(group)
            if found is not None:
                self._cache.move_to_end(group)
            else:
                mine: Future[pa.BinaryArray] = Future()
                self._cache[group] = mine
                if len(self._cache) > self.held:
                    self._cache.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(self._read(group))
        except BaseException as problem:
            with self._lock:
                self._cache.pop(group, None)
            mine.set_exception(problem)
        return mine.result()

    def _read(self, group: int) -> pa.BinaryArray:
        number = self._group_file[group]
        with self._folder.open(self._files[number]) as handle:
            parquet = pq.ParquetFile(
                handle,
                metadata=self._footers[number],
                pre_buffer=False,
                page_checksum_verification=True,
            )
            jpegs = parquet.read_row_group(self._group_number[group], columns=["jpeg"])["jpeg"]
            # Copied, so that what is not needed is not kept.
            return jpegs.combine_chunks().take(pa.array(self._wanted[group]))


def read_samples(
    folder: Folder,
    root: ImageRoot,
    selection: Snapshot,
    manifest: Snapshot,
    *,
    use_thumbnails: bool,
    budget: int,
) -> Samples:
    """The selected images, for training; their pixels are read when they are needed."""
    from camtrap_batch.model import Samples

    chosen = open_table(folder, selection).to_table(columns=["image_id", "label", "split", "weight"])
    rows = open_table(folder, manifest).to_table(columns=[*COLUMNS, "location", "is_night"])
    is_chosen = chosen["label"].is_valid()
    chosen, rows = chosen.filter(is_chosen), rows.filter(is_chosen)
    pictures = Pictures(folder, root, rows, use_thumbnails=use_thumbnails, budget=budget)
    meta: dict[str, Any] = selection.meta
    return Samples(
        image_ids=chosen["image_id"].to_pylist(),
        labels=chosen["label"].to_pylist(),
        splits=chosen["split"].to_pylist(),
        weights=chosen["weight"].to_numpy().astype(np.float32),
        locations=rows["location"].fill_null("").to_pylist(),
        is_night=pc.fill_null(rows["is_night"], False).to_numpy(),
        category_ids=meta["ids_by_label"],
        jpegs=pictures,
        blocks=pictures.blocks,
        window=pictures.window,
    )


@dataclass(frozen=True)
class BoxTables:
    """The boxes that crops were cut by.

    Attributes
    ----------
    detected, detections, boxes : snapshots of the tables
    rules : how boxes make an image's label
    """

    detected: Snapshot
    detections: Snapshot
    boxes: Snapshot
    rules: Rules


@dataclass(frozen=True)
class Crops:
    """What is trained on, as left by the parts of the stage, and what is known about it.

    Attributes
    ----------
    images, crops : snapshots of training_images and training_crops, or of featured and features
    of_boxes : None if whole frames are trained on
    named : whether the job names its classes
    size : side of the squares in training_crops, in pixels; 0 for features
    """

    images: Snapshot
    crops: Snapshot
    of_boxes: BoxTables | None
    named: bool
    size: int = 0


def read_crops(
    folder: Folder,
    root: ImageRoot,
    selection: Snapshot,
    manifest: Snapshot,
    source: Crops,
    *,
    budget: int,
) -> tuple[Samples, Counter[str]]:
    """Crops of the selected images, for training, and how many of them are in doubt, and why.

    Crops in doubt take part in judging their images. A class without any crop to learn from, such as people
    whom the detector finds, is left out unless the job names it.
    """
    from camtrap_batch.model import Samples

    columns = ["image_id", "label", "split", "reason", "species", "animals", "told"]
    chosen = open_table(folder, selection).to_table(columns=columns)
    rows = open_table(folder, manifest).to_table(columns=[*COLUMNS, "location", "is_night"])
    is_chosen = chosen["label"].is_valid()
    chosen, rows = chosen.filter(is_chosen), rows.filter(is_chosen)
    cut = open_table(folder, source.images).to_table()
    if not cut["image_id"].equals(chosen["image_id"]):
        raise BrokenPromise(f"{source.images.table} does not match the selection; run train again")
    image = np.repeat(np.arange(cut.num_rows), cut["n_crops"].to_numpy())
    meta: dict[str, Any] = selection.meta
    found = _described(folder, source, chosen["image_id"], image)
    label, reasons = label_crops(chosen, found, sorted(meta["ids_by_label"]), meta["empty"])
    split = chosen["split"].to_numpy(zero_copy_only=False)
    ids_by_label = dict(meta["ids_by_label"])
    for name in set() if source.named else set(ids_by_label) - set(label[split[image] == "train"]):
        del ids_by_label[name]
        reasons[NO_CROPS.format(name)] = n = int(np.count_nonzero(label == name))
        reasons[KNOWN] -= n
        label[label == name] = ""
    known = label != ""
    weights = np.zeros(len(label), np.float32)
    weights[known] = balanced_weights(label[known])
    location = rows["location"].fill_null("").to_numpy(zero_copy_only=False)
    is_night = pc.fill_null(rows["is_night"], False).to_numpy(zero_copy_only=False)
    files = _rows_in_files(source.crops) if source.size else rows.take(pa.array(image))
    pictures = Pictures(folder, root, files, use_thumbnails=True, budget=budget)
    frames = None
    if source.of_boxes is not None:
        is_judged = np.isin(chosen["label"].to_numpy(zero_copy_only=False).astype(str), list(ids_by_label))
        is_judged &= pc.not_equal(chosen["reason"], KEPT_FOR_BOXES).to_numpy(zero_copy_only=False)
        frames = _frames(
            folder, source.of_boxes, chosen, cut, is_judged, image, found["what"], location, is_night
        )
    samples = Samples(
        image_ids=chosen["image_id"].to_numpy(zero_copy_only=False)[image].tolist(),
        labels=label.tolist(),
        splits=split[image].tolist(),
        weights=weights,
        locations=location[image].tolist(),
        is_night=is_night[image],
        category_ids=ids_by_label,
        jpegs=pictures,
        blocks=pictures.blocks,
        window=pictures.window,
        margin=margin_of(source.size),
        frames=frames,
    )
    return samples, reasons


def _described(
    folder: Folder, source: Crops, image_ids: pa.ChunkedArray, image: npt.NDArray[np.int64]
) -> pa.Table:
    """What `label_crops` needs to know about each crop."""
    crops = open_table(folder, source.crops).to_table(columns=["box", "what"])
    tables = source.of_boxes
    if tables is None:
        n = crops.num_rows
        nothing = {name: np.zeros(n, np.float32) for name in ("confidence", *SIDES)}
        return pa.table({"image": image, "what": crops["what"], **nothing, "label": pa.nulls(n, pa.string())})
    detected = open_table(folder, tables.detected).to_table(columns=["image_id", "n_boxes"])
    starts = np.cumsum([0, *detected["n_boxes"].fill_null(0).to_numpy()])
    of_image = pc.index_in(image_ids, value_set=detected["image_id"].combine_chunks()).to_numpy()
    box = crops["box"].fill_null(-1).to_numpy()
    row = pa.array(starts[of_image[image]] + box, mask=box < 0)
    boxes = open_table(folder, tables.detections).to_table(columns=["confidence", *SIDES])
    own = open_table(folder, tables.boxes).to_table(columns=["label"])["label"]
    return pa.table(
        {
            "image": image,
            "what": crops["what"],
            **{name: boxes[name].take(row).fill_null(0.0) for name in boxes.column_names},
            "label": own.take(row),
        }
    )


def _frames(
    folder: Folder,
    tables: BoxTables,
    chosen: pa.Table,
    cut: pa.Table,
    is_judged: npt.NDArray[np.bool_],
    image: npt.NDArray[np.int64],
    what: pa.ChunkedArray,
    location: npt.NDArray[Any],
    is_night: npt.NDArray[np.bool_],
) -> Frames:
    """The images of learnt classes that could be read, with those of their crops that a job classifies."""
    from camtrap_batch.model.samples import Frames

    there = np.flatnonzero(pc.equal(cut["status"], "ok").to_numpy(zero_copy_only=False) & is_judged)
    classified = np.flatnonzero(pc.not_equal(what, BACKGROUND).to_numpy(zero_copy_only=False))
    borders = np.searchsorted(image[classified], np.arange(cut.num_rows + 1))
    some = chosen.take(pa.array(there))
    column = read_boxes(folder, tables.detected, tables.detections, some["image_id"])
    return Frames(
        image_ids=some["image_id"].to_pylist(),
        labels=some["label"].to_pylist(),
        splits=some["split"].to_pylist(),
        locations=location[there].tolist(),
        is_night=is_night[there],
        boxes=column,
        crops=[classified[borders[row] : borders[row + 1]] for row in there.tolist()],
        rules=tables.rules,
    )


def _rows_in_files(crops: Snapshot) -> pa.Table:
    """The rows of training_crops, in the form in which `Pictures` needs their positions."""
    files = [file.file for file in crops.files for _ in range(file.rows)]
    rows = [np.arange(file.rows, dtype=np.int32) for file in crops.files]
    return pa.table(
        {
            "file_name": pa.nulls(len(files), pa.string()),
            "thumbnail_file": pa.chunked_array([pa.array(files, pa.string())]),
            "thumbnail_row": pa.chunked_array([np.concatenate([np.empty(0, np.int32), *rows])]),
        }
    )
