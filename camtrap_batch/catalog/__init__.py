"""Readers of whatever describes a data set -> one catalog table.

`base` says what a reader is; each format is a module: `cct` reads COCO Camera Traps JSON, `csv` a table of
files, `camtrap_dp` a data package, `folder` paths alone, `feature_layer` points of ArcGIS with photos
attached. `cameras` reads where the cameras stand.
"""

from __future__ import annotations

import pyarrow as pa

from camtrap_batch.catalog.base import READERS, Reader, reader_of
from camtrap_batch.catalog.cameras import read_cameras
from camtrap_batch.catalog.table import Catalog
from camtrap_batch.job import Dataset

__all__ = [
    "READERS",
    "Catalog",
    "Reader",
    "read_cameras",
    "read_dataset_cameras",
    "reader_of",
]


def read_dataset_cameras(dataset: Dataset) -> pa.Table | None:
    """Coordinates of a data set's locations, as `cameras.CAMERAS`; None where nothing has them."""
    if dataset.cameras is not None:
        return read_cameras(dataset.cameras)
    return reader_of(dataset).cameras()
