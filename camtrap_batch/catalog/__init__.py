"""Readers of whatever describes a data set -> one catalog table.

`cct` reads COCO Camera Traps JSON, `csv` a table of files, `camtrap_dp` a data package, `folder` paths alone,
`feature_layer` points of ArcGIS with photos attached; `cameras` reads their places.
"""

from __future__ import annotations

import hashlib
from typing import Any

import fsspec
import pyarrow as pa

from camtrap_batch.catalog.cameras import read_cameras
from camtrap_batch.catalog.camtrap_dp import package_files, read_camtrap_dp, read_places
from camtrap_batch.catalog.cct import read_cct
from camtrap_batch.catalog.csv import read_csv
from camtrap_batch.catalog.feature_layer import layer_fingerprint, read_feature_layer, read_layer_cameras
from camtrap_batch.catalog.folder import read_folder
from camtrap_batch.catalog.paths import location_of_path
from camtrap_batch.catalog.table import Catalog
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Dataset
from camtrap_batch.remote import plain, shown

__all__ = ["Catalog", "read_cameras", "read_catalog", "read_dataset_cameras", "source_fingerprint"]


def read_catalog(dataset: Dataset) -> Catalog:
    """The catalog of a job's data set. Raises InputError where what describes it can't be read."""
    how = dataset.location
    location_of = location_of_path(*((how.level, how.regex) if how else (None, None)))
    if dataset.format == "cct":
        return read_cct(str(dataset.metadata), utc_offset=dataset.utc_offset)
    if dataset.format == "camtrap-dp":
        images = ImageRoot(str(dataset.images), dataset.storage_options)
        return read_camtrap_dp(str(dataset.metadata), images, utc_offset=dataset.utc_offset)
    if dataset.format == "feature-layer":
        return read_feature_layer(dataset)
    if dataset.format == "csv":
        catalog = read_csv(str(dataset.metadata), location_of, utc_offset=dataset.utc_offset)
    else:
        folder = str(dataset.images)
        names = ImageRoot(folder, dataset.storage_options).walk()
        catalog = read_folder(names, location_of, where=shown(folder), utc_offset=dataset.utc_offset)
    if how is not None and catalog.table["location"].null_count == catalog.table.num_rows:
        first = catalog.table["file_name"][0].as_py()
        raise InputError(
            f"dataset.location: {how.regex or f'level {how.level}'} finds a location in none of the paths, "
            f"such as {first!r}"
        )
    return catalog


def read_dataset_cameras(dataset: Dataset) -> pa.Table | None:
    """Places of a data set's locations, as `read_cameras` gives them; None where nothing has them."""
    if dataset.cameras is not None:
        return read_cameras(dataset.cameras)
    if dataset.format == "feature-layer":
        return read_layer_cameras(dataset)
    return read_places(str(dataset.metadata)) if dataset.format == "camtrap-dp" else None


def source_fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Tells cheaply that the source is the same as before: size and time of a file, names in a folder."""
    if dataset.format == "folder":
        names = "\n".join(ImageRoot(str(dataset.images), dataset.storage_options).walk())
        return {"names": hashlib.sha256(names.encode()).hexdigest()}
    if dataset.format == "feature-layer":
        return {"layer": layer_fingerprint(dataset)}
    if dataset.format == "camtrap-dp":
        # By which names the image root has the files is part of the catalog.
        files = [_version(path) for path in package_files(str(dataset.metadata))]
        return {"files": files, "images": dataset.images}
    return _version(str(dataset.metadata))


def _version(path: str) -> dict[str, Any]:
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        info = filesystem.info(inner)
    except FileNotFoundError:
        raise InputError(f"{shown(path)}: no such file (dataset.metadata)") from None
    except Exception as problem:  # clients of object stores have errors of their own
        raise InputError(f"{shown(path)}: can't be read (dataset.metadata): {plain(problem)}") from None
    if info.get("type") == "directory":
        raise InputError(f"{path}: is a folder (dataset.metadata); it should be a file")
    version = next(
        (info[key] for key in ("mtime", "ETag", "etag", "LastModified", "updated") if info.get(key)), ""
    )
    return {"bytes": info.get("size"), "version": str(version)}
