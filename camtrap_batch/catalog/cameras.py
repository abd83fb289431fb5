"""Where the cameras stand: a .csv or .geojson with a place for each location."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa

from camtrap_batch.errors import InputError

CAMERAS = pa.schema([("location", pa.string()), ("longitude", pa.float64()), ("latitude", pa.float64())])
"""Degrees, WGS 84; each location once."""

_ALIASES = {
    "location": ("location", "location_id", "locationid", "camera", "name"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
}


def read_cameras(path: str) -> pa.Table:
    """Places of camera locations, as `CAMERAS`.

    Raises
    ------
    InputError
        The file is not there, lacks a column, or a place is impossible or given twice; with line.
    """
    try:
        with fsspec.open(path, "rb") as file:
            content = file.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (dataset.cameras)") from None
    except Exception as problem:  # clients of object stores have errors of their own
        raise InputError(f"{path}: can't be read (dataset.cameras): {problem}") from None
    read = _geojson if path.lower().endswith((".geojson", ".json")) else _csv
    places: dict[str, tuple[float, float]] = {}
    for where, location, longitude, latitude in read(path, content):
        if not location:
            raise InputError(f"{where}: location: empty")
        place = (_degrees(where, "longitude", longitude, 180), _degrees(where, "latitude", latitude, 90))
        if places.setdefault(location, place) != place:
            raise InputError(
                f"{where}: location {location!r} has another place further up; it should have one"
            )
    if not places:
        raise InputError(f"{path}: holds no camera (dataset.cameras)")
    return pa.table(
        [
            list(places),
            [longitude for longitude, _ in places.values()],
            [latitude for _, latitude in places.values()],
        ],
        schema=CAMERAS,
    )


Place = tuple[str, str, Any, Any]


def _csv(path: str, content: str) -> Iterator[Place]:
    lines = csv.reader(io.StringIO(content, newline=""))
    try:
        yield from _rows(path, lines)
    except csv.Error as problem:
        raise InputError(f"{path}:{lines.line_num}: not CSV (dataset.cameras): {problem}") from None


def _rows(path: str, lines: Any) -> Iterator[Place]:
    header = [name.strip().lower() for name in next(lines, [])]
    at: dict[str, int] = {}
    for name, aliases in _ALIASES.items():
        found = next((alias for alias in aliases if alias in header), None)
        if found is None:
            raise InputError(f"{path}:1: no column {name}; the columns are: {', '.join(header) or 'none'}")
        at[name] = header.index(found)
    for row in lines:
        if any(cell.strip() for cell in row):
            where = f"{path}:{lines.line_num}"
            if len(row) <= max(at.values()):
                raise InputError(f"{where}: {len(row)} values, the first line names {len(header)} columns")
            yield where, row[at["location"]].strip(), row[at["longitude"]], row[at["latitude"]]


def _geojson(path: str, content: str) -> Iterator[Place]:
    try:
        features = json.loads(content)["features"]
        for number, feature in enumerate(features):
            where = f"{path}: features[{number}]"
            properties = feature.get("properties") or {}
            given = (properties.get(alias) for alias in (*_ALIASES["location"], "id"))
            location = next((value for value in given if value is not None), feature.get("id"))
            geometry = feature.get("geometry") or {}
            if geometry.get("type") != "Point":
                raise InputError(
                    f"{where}: should be a Point, it is {geometry.get('type') or 'without a geometry'}"
                )
            longitude, latitude, *_ = geometry["coordinates"]
            yield where, "" if location is None else str(location), longitude, latitude
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise InputError(f"{path}: not GeoJSON with point features: {problem}") from None


def _degrees(where: str, name: str, value: Any, most: int) -> float:
    try:
        degrees = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {name}: {value!r} should be degrees") from None
    if not -most <= degrees <= most:
        raise InputError(f"{where}: {name}: {degrees:g} should be between {-most} and {most}")
    return degrees
