from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from camtrap_batch.images import ImageRoot
from camtrap_batch.stages.train.selected import Pictures
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.tables import write_table

N_FILES, ROWS = 3, 600  # row groups of 256, 256 and 88


@pytest.fixture
def rows(folder: Folder, tmp_path: Path) -> pa.Table:
    """Of a manifest: every third image of a file is not wanted, every 40th wanted one has no thumbnail."""
    files, places, names = [], [], []
    for number in range(N_FILES):
        table = {
            "image_id": [f"{number}-{row}" for row in range(ROWS)],
            "jpeg": [picture(number, row) for row in range(ROWS)],
            "width": [1] * ROWS,
            "height": [1] * ROWS,
            "scale": [1.0] * ROWS,
        }
        name = f"tables/thumbnails/plan/{number}.parquet"
        write_table(folder, "thumbnails", name, pa.table(table))
        for row in range(ROWS):
            if row % 3:
                is_there = len(names) % 40 > 0
                files.append(name if is_there else None)
                places.append(row if is_there else None)
                names.append(f"{number}-{row}.jpg")
    (tmp_path / "images").mkdir()
    for name, file in zip(names, files, strict=True):
        if file is None:
            (tmp_path / "images" / name).write_bytes(b"original of " + name.encode())
    return pa.table(
        {
            "image_id": names,
            "file_name": pa.array(names),
            "thumbnail_file": pa.array(files, pa.string()),
            "thumbnail_row": pa.array(places, pa.int32()),
        }
    )


def picture(file: int, row: int) -> bytes:
    return f"{file}-{row}".encode() * 20


def expected(rows: pa.Table, index: int) -> bytes:
    name = rows["file_name"][index].as_py()
    if rows["thumbnail_file"][index].as_py() is None:
        return b"original of " + name.encode()
    return picture(*map(int, name.removesuffix(".jpg").split("-")))


def open_pictures(folder: Folder, tmp_path: Path, rows: pa.Table, **options: Any) -> Pictures:
    options = {"use_thumbnails": True, "budget": 10**9, **options}
    return Pictures(folder, ImageRoot(str(tmp_path / "images")), rows, **options)


def test_every_image_is_its_own_from_several_threads(folder: Folder, tmp_path: Path, rows: pa.Table) -> None:
    pictures = open_pictures(folder, tmp_path, rows, budget=1)
    order = np.random.default_rng(0).permutation(rows.num_rows).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(order, pool.map(pictures.__getitem__, order), strict=True))
    assert all(found[index] == expected(rows, index) for index in range(rows.num_rows))
    assert pictures[3:5] == [pictures[3], pictures[4]]


def test_no_more_is_held_than_there_is_room_for(
    tmp_path: Path, rows: pa.Table, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camtrap_batch.stages.train.selected._FEWEST_HELD", 2)
    pictures = open_pictures(folder, tmp_path, rows, budget=1)
    read: list[int] = []
    one_group = pictures._read
    monkeypatch.setattr(pictures, "_read", lambda group: read.append(group) or one_group(group))
    for index in range(rows.num_rows):
        _ = pictures[index]
    assert len(read) == 9  # in order, each row group is read once
    assert len(pictures._cache) == pictures.held == 2
    # What is not wanted of a row group is not held.
    held = sum(len(future.result()) for future in pictures._cache.values())
    assert held <= 2 * 256 * 2 / 3
    assert pictures.window == 1


def test_blocks_are_what_is_read_together(folder: Folder, tmp_path: Path, rows: pa.Table) -> None:
    pictures = open_pictures(folder, tmp_path, rows)
    has_thumbnail = rows["thumbnail_file"].is_valid().to_numpy()
    assert len(set(pictures.blocks[has_thumbnail])) == 9
    assert not set(pictures.blocks[has_thumbnail]) & set(pictures.blocks[~has_thumbnail])
    assert pictures.window > len(set(pictures.blocks)), "all fit: the order may be any"
    originals = open_pictures(folder, tmp_path, rows, use_thumbnails=False)
    assert originals[0] == b"original of 0-1.jpg"
    with pytest.raises(OSError, match=r"0-2\.jpg"):
        _ = originals[1]
