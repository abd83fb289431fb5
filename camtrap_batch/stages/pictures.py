"""The pixels of manifest rows: thumbnails where they are large enough, else the original files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from camtrap_batch.images import ImageRoot
from camtrap_batch.store.folder import Folder

Source = Literal["thumbnail", "original"]

COLUMNS = ["image_id", "file_name", "thumbnail_file", "thumbnail_row"]
"""What of the manifest `read_pictures` wants."""


def read_pictures(
    folder: Folder, root: ImageRoot, rows: pa.Table, *, use_thumbnails: bool
) -> Iterator[tuple[int, bytes | None, Source]]:
    """Index in `rows`, JPEG (or other image file) and source of each row, in any order.

    A row without a thumbnail is read from the image root; None where that fails.
    """
    files = rows["thumbnail_file"].to_pylist()
    places = rows["thumbnail_row"].to_pylist()
    by_file: dict[str, list[int]] = {}
    originals: list[int] = []
    for index, file in enumerate(files):
        if file is not None and use_thumbnails:
            by_file.setdefault(file, []).append(index)
        else:
            originals.append(index)
    for file, indices in by_file.items():
        yield from _from_thumbnails(folder, file, indices, [places[index] for index in indices])
    names = rows["file_name"]
    for index in originals:
        try:
            yield index, root.read(names[index].as_py()), "original"
        except (OSError, ValueError):
            yield index, None, "original"


def _from_thumbnails(
    folder: Folder, file: str, indices: list[int], places: list[int]
) -> Iterator[tuple[int, bytes, Source]]:
    with folder.open(file) as handle:
        parquet = pq.ParquetFile(handle, pre_buffer=False)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        group_of = np.searchsorted(starts, places, side="right") - 1
        for group in np.unique(group_of):
            jpegs = parquet.read_row_group(int(group), columns=["jpeg"])["jpeg"]
            for member in np.flatnonzero(group_of == group):
                yield indices[member], jpegs[places[member] - int(starts[group])].as_py(), "thumbnail"
