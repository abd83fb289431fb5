"""The pixels of manifest rows: thumbnails where they are large enough, otherwise the original files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from camtrap_batch.images import ImageRoot, Limits, read_files
from camtrap_batch.store.folder import Folder

Source = Literal["thumbnail", "original"]

COLUMNS = ["image_id", "file_name", "thumbnail_file", "thumbnail_row", "video_s", "bytes"]
"""The manifest's columns that `read_pictures` needs."""


def read_pictures(
    folder: Folder,
    root: ImageRoot,
    rows: pa.Table,
    *,
    use_thumbnails: bool | npt.NDArray[np.bool_],
    timeout_s: float = Limits.timeout_s,
) -> Iterator[tuple[int, bytes | None, Source]]:
    """Index in `rows`, JPEG (or other image file) and source of each row.

    Thumbnails come first, file by file, then originals, which are read ahead on as many threads as the root
    can use, then frames of videos, whose files are uncompressed. The order is the same in every run. A
    row without a thumbnail is read from the image root; None if that fails.

    Parameters
    ----------
    use_thumbnails : whether thumbnails will do, for all rows or for each, shape (n,)
    timeout_s : maximum seconds for one original
    """
    wanted = np.broadcast_to(use_thumbnails, rows.num_rows)
    files = rows["thumbnail_file"].to_pylist()
    thumbnail_rows = rows["thumbnail_row"].to_pylist()
    seconds = rows["video_s"].to_pylist() if "video_s" in rows.column_names else [None] * rows.num_rows
    by_file: dict[str, list[int]] = {}
    originals: list[int] = []
    frames: list[int] = []
    for index, file in enumerate(files):
        if file is not None and wanted[index]:
            by_file.setdefault(file, []).append(index)
        elif seconds[index] is not None:
            frames.append(index)
        else:
            originals.append(index)
    for file, indices in by_file.items():
        yield from _from_thumbnails(folder, file, indices, [thumbnail_rows[index] for index in indices])
    if originals:
        names: list[str] = rows["file_name"].take(pa.array(originals)).to_pylist()
        contents = read_files(root, names, Limits(timeout_s=timeout_s))
        for index, content in zip(originals, contents, strict=True):
            yield index, content if isinstance(content, bytes) else None, "original"
    if frames:
        from camtrap_batch.images.video_frames import Frame, frame_file, read_video_frames

        of = rows.take(pa.array(frames))
        found = read_video_frames(
            root,
            of["file_name"].to_pylist(),
            of["video_s"].to_pylist(),
            timeout_s,
            sizes=[-1 if size is None else size for size in of["bytes"].to_pylist()],
        )
        for index, frame in zip(frames, found, strict=True):
            yield index, frame_file(frame.pixels) if isinstance(frame, Frame) else None, "original"


def _from_thumbnails(
    folder: Folder, file: str, indices: list[int], thumbnail_rows: list[int]
) -> Iterator[tuple[int, bytes, Source]]:
    with folder.open(file) as handle:
        parquet = pq.ParquetFile(handle, pre_buffer=False, page_checksum_verification=True)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        starts: npt.NDArray[Any] = np.cumsum([0, *sizes])
        group_of = np.searchsorted(starts, thumbnail_rows, side="right") - 1
        for group in np.unique(group_of):
            jpegs = parquet.read_row_group(int(group), columns=["jpeg"])["jpeg"]
            for member in np.flatnonzero(group_of == group):
                yield indices[member], jpegs[thumbnail_rows[member] - int(starts[group])].as_py(), "thumbnail"
