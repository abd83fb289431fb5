"""Camera tables and outages as files, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from camtrap_batch.catalog.cameras import read_outages, read_periods

HEADER = "location,latitude,longitude,start,end"

IMAGES = pa.schema(
    [
        ("location", pa.string()),
        ("deployment", pa.string()),
        ("datetime", pa.timestamp("us")),
        ("utc_offset_minutes", pa.int32()),
    ]
)
"""What effort needs to know of images."""


def cameras(folder: Path, *rows: str, header: str = HEADER, **options: Any) -> pa.Table:
    path = folder / "cameras.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return read_periods(str(path), **options)


def outages(folder: Path, *rows: str, **options: Any) -> pa.Table:
    path = folder / "outages.csv"
    path.write_text("\n".join(("location,start,end", *rows)) + "\n")
    return read_outages(str(path), **options)
