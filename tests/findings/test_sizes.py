from __future__ import annotations

import pyarrow as pa

from camtrap_batch.findings import find_other_sizes


def sizes(*pairs: tuple[int | None, int | None]) -> pa.Table:
    width, height = zip(*pairs, strict=True)
    return pa.table({"width": pa.array(width, pa.int32()), "height": pa.array(height, pa.int32())})


def test_other_sizes_are_found_and_turned_or_unknown_ones_are_not() -> None:
    said = sizes((640, 480), (480, 640), (1920, 1080), (640, 480), (None, 480), (640, 640))
    files = sizes((640, 480), (640, 480), (2048, 1536), (None, None), (1, 1), (640, 480))
    found = find_other_sizes(said, files)
    assert found.rows.tolist() == [2, 5]
    assert found.detail[0].as_py() == "the metadata says 1920 x 1080 pixels, the file has 2048 x 1536"
