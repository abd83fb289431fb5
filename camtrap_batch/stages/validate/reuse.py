"""Files that have not changed since the current manifest are not read again: what is known about them is
copied.

This saves nothing for a wholly unchanged shard, which has its receipt. It helps if a shard contains a file
that is new, has changed, or is to be tried again, and if only the metadata of images have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import Damaged
from camtrap_batch.images import Thumbnail, Verdict
from camtrap_batch.store import redo
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import THUMBNAILS
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_file, read_whole_files

FILE, ROW = "known_file", "known_row"
"""Columns that say where a row's verdict is: a manifest file of the run folder, and the row in it."""

_MOST_FILES = 8  # opened per shard; rows in further files, as after reordering, are read from the images
_OF_VERDICT = [
    field.name for field in fields(Verdict) if field.name not in ("thumbnail", "exif_offset_minutes")
]
_OF_THUMBNAIL = [name for name in THUMBNAILS.names if name != "image_id"]


def point_at_known(folder: Folder, manifest: Snapshot, rows: pa.Table, again: Collection[str]) -> pa.Table:
    """`rows` with the columns `FILE` and `ROW`, null if the image must be read.

    Parameters
    ----------
    manifest : the snapshot to look in
    rows : with the columns file_name, video_s, listed_bytes and modified
    again : statuses that are not taken from the manifest
    """
    known, files = read_whole_files(
        folder,
        manifest,
        ["file_name", "video_s", "bytes", "modified", "status"],
        but_shards=redo.asked(folder, "validate"),
    )
    row = pc.index_in(_picture(rows), value_set=_picture(known).combine_chunks())
    same = pc.and_(
        pc.equal(known["bytes"].take(row), rows["listed_bytes"]),
        pc.equal(known["modified"].take(row), rows["modified"]),
    )
    is_wanted = pc.invert(pc.is_in(known["status"].take(row).cast(pa.string()), pa.array(sorted(again))))
    holds = pc.fill_null(pc.and_(pc.and_(same, is_wanted), pc.not_equal(rows["modified"], "")), False)
    sizes = [file.rows for file in files]
    file_of = pa.array(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    row_of = pa.array(np.arange(sum(sizes)) - np.repeat(np.cumsum([0, *sizes])[:-1], sizes), pa.int32())
    row = pc.if_else(holds, row, pa.scalar(None, pa.int32()))
    names = pa.array([file.file for file in files], pa.string())
    return rows.append_column(FILE, names.take(file_of.take(row))).append_column(ROW, row_of.take(row))


def _picture(rows: pa.Table) -> pa.ChunkedArray:
    """What identifies a picture: its file, and for a video's frame its time."""
    if rows["video_s"].null_count == rows.num_rows:
        return rows["file_name"]
    times = rows["video_s"].cast(pa.string())
    of_frames = pc.binary_join_element_wise(rows["file_name"], times, "\x1f")
    return pc.coalesce(of_frames, rows["file_name"])


def known_verdicts(folder: Folder, rows: pa.Table) -> dict[int, Verdict]:
    """The verdicts, by row, of those rows of a shard that `point_at_known` found; on a worker."""
    if FILE not in rows.column_names:
        return {}
    wanted: dict[str, list[tuple[int, int]]] = {}
    for row, (file, at) in enumerate(zip(rows[FILE].to_pylist(), rows[ROW].to_pylist(), strict=True)):
        if file is not None:
            wanted.setdefault(file, []).append((row, at))
    found: dict[int, Verdict] = {}
    for file, _ in Counter({file: len(each) for file, each in wanted.items()}).most_common(_MOST_FILES):
        try:
            found |= _read_verdicts(folder, file, wanted[file])
        except (Damaged, FileNotFoundError):  # the images are read again
            continue
    return found


def _read_verdicts(folder: Folder, file: str, wanted: list[tuple[int, int]]) -> dict[int, Verdict]:
    columns = [*_OF_VERDICT, "thumbnail_file", "thumbnail_row", "datetime_source", "utc_offset_minutes"]
    table = read_file(folder, file)  # which lacks some columns, if an earlier version wrote it
    table = table.select([name for name in columns if name in table.column_names])
    records = table.take([at for _, at in wanted]).to_pylist()
    thumbnail_files = {record["thumbnail_file"] for record in records} - {None}
    thumbnails = {name: read_file(folder, name, _OF_THUMBNAIL) for name in thumbnail_files}
    verdicts = {}
    for (row, _), record in zip(wanted, records, strict=True):
        name, at = record.pop("thumbnail_file"), record.pop("thumbnail_row")
        source, offset = record.pop("datetime_source"), record.pop("utc_offset_minutes")
        record["exif_offset_minutes"] = offset if source == "exif" else None
        verdicts[row] = Verdict(**record, thumbnail=_thumbnail(thumbnails[name], at) if name else None)
    return verdicts


def _thumbnail(table: pa.Table, at: int) -> Thumbnail:
    record: dict[str, Any] = table.slice(at, 1).to_pylist()[0]
    return Thumbnail(**record)
