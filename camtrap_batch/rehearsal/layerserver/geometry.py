"""Geometries as ArcGIS writes them: checked against the layer's type, converted to its spatial reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from camtrap_batch.rehearsal.layerserver.answers import Json, Refused, RowRefused, encode, parse

WEB_MERCATOR, WGS84 = 3857, 4326
_SAME = {102100: WEB_MERCATOR, 102113: WEB_MERCATOR, 900913: WEB_MERCATOR}
_RADIUS_M = 6378137.0
_HIGHEST_DEG = 89.99
"""Beyond this latitude Web Mercator has no useful place."""
_PARTS = {
    "esriGeometryPoint": None,
    "esriGeometryMultipoint": "points",
    "esriGeometryPolyline": "paths",
    "esriGeometryPolygon": "rings",
}
GEOMETRY_TYPES = tuple(_PARTS)


@dataclass(frozen=True, slots=True)
class Place:
    """A checked geometry: its JSON without spatial reference, and its envelope (xmin, ymin, xmax, ymax)."""

    json: str
    envelope: tuple[float, float, float, float]


def spatial_reference(wkid: int) -> Json:
    if wkid == WEB_MERCATOR:
        return {"wkid": 102100, "latestWkid": WEB_MERCATOR}
    return {"wkid": wkid, "latestWkid": wkid}


def read_wkid(reference: object, otherwise: int) -> int:
    """The well-known id of `{"wkid": ...}` or of a bare number.

    Raises:
        ValueError: neither Web Mercator nor WGS 84, and not `otherwise`.
    """
    if isinstance(reference, dict):
        reference = reference.get("latestWkid") or reference.get("wkid") or reference.get("wkt")
    if reference in (None, ""):
        return otherwise
    try:
        number = int(str(reference))
    except ValueError:
        raise ValueError(f"spatial reference '{reference}' is not known, only 4326 and 3857") from None
    number = _SAME.get(number, number)
    if number not in (WEB_MERCATOR, WGS84, otherwise):
        raise ValueError(f"spatial reference {number} is not known, only 4326 and 3857")
    return number


def project(x: float, y: float, source: int, target: int) -> tuple[float, float]:
    """Degrees to metres of Web Mercator or back.

    Raises:
        ValueError: the point has no place in the target, or there is no conversion between the two.
    """
    if source == target:
        return x, y
    if (source, target) == (WGS84, WEB_MERCATOR):
        if abs(y) > _HIGHEST_DEG or abs(x) > 360:
            raise ValueError(f"longitude {x}, latitude {y} has no place in Web Mercator")
        return math.radians(x) * _RADIUS_M, math.asinh(math.tan(math.radians(y))) * _RADIUS_M
    if (source, target) == (WEB_MERCATOR, WGS84):
        if abs(y) / _RADIUS_M > 700:
            raise ValueError(f"{y} m is far beyond the pole")
        return math.degrees(x / _RADIUS_M), math.degrees(math.atan(math.sinh(y / _RADIUS_M)))
    raise ValueError(f"there is no way from spatial reference {source} to {target}")


def check_geometry(geometry: object, geometry_type: str, wkid: int) -> Place | None:
    """A geometry of an edit, for a layer of this type and spatial reference; None if it is empty.

    Raises:
        RowRefused: with code 1015.
    """
    if geometry is None or geometry == {}:
        return None
    part = _PARTS[geometry_type]
    try:
        if not isinstance(geometry, dict):
            raise ValueError("it is not a JSON object")
        source = read_wkid(geometry.get("spatialReference"), wkid)

        def convert(x: float, y: float) -> tuple[float, float]:
            return project(x, y, source, wkid)

        if part is None:
            if "x" not in geometry or "y" not in geometry:
                raise ValueError("a point with x and y is needed")
            x, y = geometry["x"], geometry["y"]
            if x in (None, "NaN") and y in (None, "NaN"):  # how ArcGIS writes an empty point
                return None
            x, y = convert(_coordinate(x), _coordinate(y))
            return Place(f'{{"x":{x!r},"y":{y!r}}}', (x, y, x, y))
        if not isinstance(geometry.get(part), list):
            raise ValueError(f"'{part}' is needed, as a list")
        moved = _move(geometry[part], convert, 1 if part == "points" else 2)
        points = list(_points(moved))
    except ValueError as problem:
        raise RowRefused(1015, f"Geometry could not be set: {problem}") from None
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Place(encode({part: moved}).decode(), (min(xs), min(ys), max(xs), max(ys)))


def project_json(geometry: str, source: int, target: int) -> Json:
    """A stored geometry in another spatial reference."""
    found: Json = parse(geometry, "geometry")

    def convert(x: float, y: float) -> tuple[float, float]:
        return project(x, y, source, target)

    if "x" in found:
        x, y = convert(found["x"], found["y"])
        return {"x": x, "y": y}
    return {part: _move(points, convert, 1 if part == "points" else 2) for part, points in found.items()}


def read_envelope(text: str, geometry_type: str, in_sr: str, wkid: int) -> tuple[float, float, float, float]:
    """The envelope of a query's `geometry`, in the layer's spatial reference.

    Raises:
        Refused: it is neither an envelope nor a point, or is not understood.
    """
    try:
        given: Any = parse(text, "geometry") if text.lstrip().startswith("{") else text.split(",")
        if isinstance(given, list):
            corners = [_coordinate(float(part)) for part in given]
            reference: object = None
        elif "xmin" in given:
            corners = [_coordinate(given[key]) for key in ("xmin", "ymin", "xmax", "ymax")]
            reference = given.get("spatialReference")
        elif geometry_type == "esriGeometryPoint":
            corners = [_coordinate(given["x"]), _coordinate(given["y"])]
            reference = given.get("spatialReference")
        else:
            raise ValueError("only an envelope or a point can be asked for")
        if len(corners) == 2:
            corners *= 2
        if len(corners) != 4:
            raise ValueError("an envelope has four corners")
        stated: object = parse(in_sr, "inSR") if in_sr.lstrip().startswith("{") else in_sr
        source = read_wkid(stated or reference, wkid)
        xmin, ymin, xmax, ymax = corners
        low, high = project(xmin, ymin, source, wkid), project(xmax, ymax, source, wkid)
    except (ValueError, KeyError, TypeError) as problem:
        raise Refused(
            400, "Cannot perform query. Invalid query parameters.", [f"geometry: {problem}"]
        ) from None
    return (*low, *high)


def _coordinate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a coordinate")
    return float(value)


def _move(points: Any, convert: Callable[[float, float], tuple[float, float]], depth: int) -> list[Any]:
    if depth:
        if not isinstance(points, list):
            raise ValueError("points are missing")
        return [_move(part, convert, depth - 1) for part in points]
    if not isinstance(points, list) or len(points) < 2:
        raise ValueError(f"{points!r} is not a point")
    return list(convert(_coordinate(points[0]), _coordinate(points[1])))


def _points(parts: list[Any]) -> Iterator[tuple[float, float]]:
    for part in parts:
        if part and isinstance(part[0], list):
            yield from _points(part)
        elif part:
            yield part[0], part[1]
