"""Points as geometries of files, and the SQL functions that a GeoPackage's spatial index calls.

StandardGeoPackageBinary (OGC 12-128r18, clause 2.1.3): "GP", version, flags (bit 0: little endian, bits 1 to
3: kind of envelope, bit 4: empty), srs_id, envelope, WKB.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SRS = 4326
"""EPSG code of WGS 84, which all our layers use."""

_HEADER = b"GP\x00\x01" + SRS.to_bytes(4, "little")
_ENVELOPE_BYTES = (0, 32, 48, 48, 64, 0, 0, 0)


def encode_points(x: pa.Array, y: pa.Array) -> list[bytes | None]:
    """Geometries from longitudes and latitudes, degrees; None if either is null."""
    import shapely

    is_known = x.is_valid().to_numpy(zero_copy_only=False) & y.is_valid().to_numpy(zero_copy_only=False)
    degrees = [column.filter(pa.array(is_known)).to_numpy() for column in (x, y)]
    blobs = np.full(len(x), None, object)
    blobs[is_known] = [_HEADER + wkb for wkb in shapely.to_wkb(shapely.points(*degrees), byte_order=1)]
    return list(blobs)


def decode_points(blobs: Sequence[object]) -> tuple[pa.Array, pa.Array]:
    """Longitudes and latitudes; null if there is no geometry, or it is not a point."""
    import shapely

    points = shapely.from_wkb(np.array([_wkb(blob) for blob in blobs], object), on_invalid="ignore")
    x, y = (pa.array(get(points), pa.float64(), from_pandas=True) for get in (shapely.get_x, shapely.get_y))
    return x, y


_WKB = np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""A point as well-known binary, little endian (OGC 06-103r4, clause 8)."""


def encode_wkb(x: pa.ChunkedArray, y: pa.ChunkedArray) -> pa.Array:
    """Points as WKB, from longitudes and latitudes; null if either is null."""
    known = pc.and_(x.is_valid(), y.is_valid()).to_numpy()
    points = np.zeros(int(known.sum()), _WKB)
    points["order"], points["kind"] = 1, 1
    points["x"] = x.filter(pa.array(known)).to_numpy()
    points["y"] = y.filter(pa.array(known)).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(known)]).astype(np.int32) * _WKB.itemsize
    valid = pa.array(known).buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(known), [valid, pa.py_buffer(offsets), pa.py_buffer(points.tobytes())]
    )


def decode_wkb(geometry: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Longitudes and latitudes from WKB; null if there is none, or it is not such a point."""
    is_point = pc.equal(pc.binary_length(geometry), _WKB.itemsize).fill_null(False).to_numpy()
    blobs = b"".join(geometry.filter(pa.array(is_point)).to_pylist())
    points = np.frombuffer(blobs, _WKB)
    is_right = (points["order"] == 1) & (points["kind"] == 1)
    columns = []
    for side in ("x", "y"):
        values, there = np.zeros(len(is_point)), np.zeros(len(is_point), bool)
        values[is_point], there[is_point] = points[side], is_right
        columns.append(pa.array(values, mask=~there))
    return columns[0], columns[1]


def register_functions(db: sqlite3.Connection) -> None:
    """ST_IsEmpty, ST_MinX, ST_MaxX, ST_MinY and ST_MaxY, for a spatial index's triggers (annex F.3)."""
    db.create_function("ST_IsEmpty", 1, lambda blob: _bounds(blob) is None, deterministic=True)
    for name, side in (("ST_MinX", 0), ("ST_MinY", 1), ("ST_MaxX", 2), ("ST_MaxY", 3)):
        db.create_function(name, 1, functools.partial(_side, side), deterministic=True)


def _side(side: int, blob: object) -> float | None:
    bounds = _bounds(blob)
    return bounds[side] if bounds else None


@functools.lru_cache(maxsize=4096)  # a camera's events and photos are all at one point
def _bounds(blob: object) -> tuple[float, float, float, float] | None:
    """min x, min y, max x, max y; None if there is nothing."""
    import shapely

    geometry = shapely.from_wkb(_wkb(blob), on_invalid="ignore")
    if geometry is None or geometry.is_empty:
        return None
    left, bottom, right, top = geometry.bounds
    return left, bottom, right, top


def _wkb(blob: object) -> bytes | None:
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or len(blob) < 8:
        return None
    return blob[8 + _ENVELOPE_BYTES[(blob[3] >> 1) & 7] :]
