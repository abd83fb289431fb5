"""Readers that turn whatever describes a data set into one catalog table.

`base` says what a reader is; each format is a module: `cct` reads COCO Camera Traps JSON, `csv` a table of
files, `camtrap_dp` a data package, `folder` paths alone, `feature_layer` points of ArcGIS with photos
attached. `cameras` reads where the cameras stand.
"""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.base import READERS, Reader, reader_of
from camtrap_batch.catalog.cameras import (
    PERIODS,
    cameras_without_place,
    check_periods,
    columns_of_deployments,
    deployments_to_come,
    read_camera_outages,
    read_cameras,
    read_outages,
    read_periods,
)
from camtrap_batch.catalog.table import Catalog
from camtrap_batch.job import Dataset
from camtrap_batch.vocabulary import counted

__all__ = [
    "READERS",
    "Catalog",
    "Reader",
    "as_photos_have_it",
    "read_camera_names",
    "read_cameras",
    "read_dataset_cameras",
    "read_dataset_periods",
    "reader_of",
]


def read_dataset_periods(dataset: Dataset) -> tuple[pa.Table | None, pa.Table | None, list[str]]:
    """Deployments and outages of a data set, and notes on them, one line each.

    For locations that are in both, the camera table takes precedence over the metadata.

    Returns
    -------
    periods, outages : cameras.PERIODS and cameras.OUTAGES; None if nobody recorded any

    Raises
    ------
    InputError
        A column of times, or a time of an outage, is wrong; an end is before its start, or an outage lies
        outside the deployments.
    """
    notes: Counter[str] = Counter()
    of_cameras = None if dataset.cameras is None else read_periods(dataset.cameras, dataset.dates, notes)
    of_source = reader_of(dataset).periods()
    parts = []
    if of_cameras is not None:
        parts.append(of_cameras)
    if of_source is not None:
        told = pa.array([], pa.string()) if of_cameras is None else of_cameras["location"].combine_chunks()
        parts.append(of_source.filter(pc.invert(pc.is_in(of_source["location"], told))))
    periods = pa.concat_tables(parts) if parts else PERIODS.empty_table()
    outages = None if dataset.outages is None else read_outages(dataset.outages, dataset.dates)
    if dataset.cameras is not None and len(more := read_camera_outages(dataset.cameras, dataset.dates)):
        outages = more if outages is None else pa.concat_tables([outages, more], promote_options="default")
    lines = [counted(n, text) for text, n in notes.items()] + check_periods(periods, outages)
    if dataset.cameras is not None:
        lines += [*cameras_without_place(dataset.cameras), *columns_of_deployments(dataset.cameras)]
    lines += deployments_to_come(periods, dt.datetime.now(dt.UTC).replace(tzinfo=None))
    return periods if periods.num_rows else None, outages, lines


def read_dataset_cameras(dataset: Dataset) -> pa.Table | None:
    """Coordinates of a data set's locations, as `cameras.CAMERAS`; None if nothing gives them."""
    if dataset.cameras is not None:
        return read_cameras(dataset.cameras)
    return reader_of(dataset).cameras()


def as_photos_have_it(table: pa.Table, locations: Callable[[], pa.ChunkedArray]) -> pa.Table:
    """A table of cameras with its locations written like those of the images, if they look the same and
    differ only in how accents are encoded (NFC, NFD) or in blanks around them, as folders' names may have.

    Parameters
    ----------
    table : with a column location
    locations : returns those of the images; called only if the table has any
    """
    given = table["location"].to_pylist()
    if not given:
        return table
    known = {name for name in locations().unique().to_pylist() if name is not None}
    of: dict[str, list[str]] = {}
    for name in known:
        of.setdefault(_looks(name), []).append(name)

    def found(name: str | None) -> str | None:
        same = [] if name is None or name in known else of.get(_looks(name), [])
        return same[0] if len(same) == 1 and same[0] not in given else name

    at = table.schema.get_field_index("location")
    return table.set_column(at, table.schema.field(at), pa.array(map(found, given), pa.string()))


def _looks(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
