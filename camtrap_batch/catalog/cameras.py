"""Reads `dataset.cameras` and `dataset.outages`: where cameras stood, from when to when, and when not.

A .csv with a header or a .geojson with points. A camera that came back has several rows; if there are two
cameras at one location, a column `camera` besides `location` says which is which. docs/effort.md has the
columns.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from camtrap_batch.catalog.tabular import GivenTable, is_missing, number, read_table
from camtrap_batch.dates import Order, are_too_many, check_orders, is_date_only, parse_date, parse_dates
from camtrap_batch.errors import InputError

CAMERAS = pa.schema([("location", pa.string()), ("longitude", pa.float64()), ("latitude", pa.float64())])
"""Degrees, WGS 84; each location once."""

PERIODS = pa.schema(
    [
        ("location", pa.string()),
        ("camera", pa.string()),
        ("deployment", pa.string()),
        ("start", pa.timestamp("us")),
        ("end", pa.timestamp("us")),
        ("utc_offset_minutes", pa.int32()),
        ("source", pa.string()),
        ("where", pa.string()),
    ]
)
"""Deployments as recorded: start and end in local time, null if there is none; the offset of that time,
null if it is the cameras' own; `source` is metadata or cameras; `where` is file and line."""

OUTAGES = pa.schema(
    [
        ("location", pa.string()),
        ("camera", pa.string()),
        ("start", pa.timestamp("us")),
        ("end", pa.timestamp("us")),
        ("where", pa.string()),
    ]
)
"""When cameras stood there without working, local camera time; if `camera` is null: all at the location."""

_ALIASES = {
    "location": (
        *("location", "location_id", "locationid", "camera", "name"),
        *("station", "station_id", "site", "site_id", "site_name", "deployment_id", "deploymentid"),
        *("placename", "camera_id", "camera_name"),
    ),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
}
_OPTIONAL = {
    "start": ("start", "setup", "setup_date", "deployment_start", "deploymentstart"),
    "end": ("end", "retrieval", "retrieval_date", "deployment_end", "deploymentend"),
    "camera": ("camera", "camera_id", "cameraid"),
    "deployment": ("deployment", "deployment_id", "deploymentid"),
}
_OUTAGE = {
    "location": _ALIASES["location"],
    "start": ("start", "from"),
    "end": ("end", "to"),
}
_NEVER_COVARIATES = frozenset({"location", "location_id", "locationid", "camera", "name"})
_LIKELY = {
    "start": ("start_date", "startdate", "date_start", "date_deployed", "deployed", "installed", "setup_day"),
    "end": ("end_date", "enddate", "date_end", "date_retrieved", "retrieved", "removed", "retrieval_day"),
}
"""What may be when a camera stood there, and is left alone: role -> names of columns."""

_CAMERAS_KEY, _OUTAGES_KEY = "dataset.cameras", "dataset.outages"
_NUMBERS_FIRST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(.*)", re.DOTALL)
_NOON = dt.timedelta(hours=12)


@dataclass(frozen=True)
class Site:
    """A row of the camera table.

    Attributes
    ----------
    where : file and line, or feature
    location, longitude, latitude : degrees, WGS 84; None if both cells are empty
    cells : everything else in the row, by the file's own column names
    roles : start, end, camera, deployment -> the name of the cell that holds it
    named_by : the name of the cell that holds the location
    """

    where: str
    location: str
    longitude: float | None
    latitude: float | None
    cells: Mapping[str, Any]
    roles: Mapping[str, str]
    named_by: str = "location"

    def text(self, role: str) -> str | None:
        """The row's start, end, camera or deployment; None if it has none."""
        value = self.cells.get(self.roles.get(role, ""))
        return None if value is None or is_missing(str(value)) else str(value).strip()


def read_cameras(path: str) -> pa.Table:
    """Coordinates of camera locations, as `CAMERAS`; without locations that have none.

    Raises
    ------
    InputError
        The file is missing or lacks a column, or coordinates are impossible or given twice; with the line.
    """
    points = {
        site.location: (site.longitude, site.latitude)
        for site in read_sites(path)
        if site.latitude is not None
    }
    return pa.table(
        [
            list(points),
            [longitude for longitude, _ in points.values()],
            [latitude for _, latitude in points.values()],
        ],
        schema=CAMERAS,
    )


def read_camera_names(path: str) -> pa.ChunkedArray:
    """The locations of a camera table, including those without coordinates. Raises like `read_cameras`."""
    return pa.chunked_array([list(dict.fromkeys(site.location for site in read_sites(path)))], pa.string())


def cameras_without_place(path: str) -> list[str]:
    """A note on cameras without coordinates, with the row of the first. Raises like `read_cameras`."""
    without = {site.location: site.where for site in read_sites(path) if site.latitude is None}
    if not without:
        return []
    location, where = next(iter(without.items()))
    return [
        f"{where}: {location!r} has no coordinates (cameras without: {len(without):,}); it is left out of "
        "maps and data packages"
    ]


def columns_left_alone(path: str) -> list[str]:
    """One line for each column that may hold the start or the end of deployments under another name."""
    first = read_sites(path)[0]
    return [
        f"{path}: the column {name} is left alone; if deployments {role} there, call it {role}"
        for role, names in _LIKELY.items()
        if role not in first.roles
        for name in names
        if name in first.cells
    ]


def read_periods(path: str, order: Order | None = None, notes: Counter[str] | None = None) -> pa.Table:
    """Deployments of the camera table, as `PERIODS`: one for each of its rows with a start or an end.

    Parameters
    ----------
    order : order of day and month in ambiguous dates, if no other date of the table settles it
    notes : gets unreadable starts and ends, which are taken as unknown, up to a fraction of a column, as in
        any table; without `notes`, each is refused

    Raises
    ------
    InputError
        As for `read_cameras`; or a start or an end is not a date, or an end is not after its start.
    """
    rows = []
    sites = read_sites(path)
    columns = {name: [site.text(name) for site in sites] for name in ("start", "end")}
    order = _order_of_dates(columns.values(), order)
    wheres = [site.where for site in sites]
    starts, ends = (_moments(wheres, name, texts, order, notes) for name, texts in columns.items())
    for site, start, end in zip(sites, starts, ends, strict=True):
        if start is None and end is None:
            continue
        check_order(site.where, start, end)
        rows.append(
            {
                "location": site.location,
                "camera": site.text("camera"),
                "deployment": site.text("deployment"),
                "start": start,
                "end": end,
                "source": "cameras",
                "where": site.where,
            }
        )
    return pa.Table.from_pylist(rows, schema=PERIODS)


def read_outages(path: str, order: Order | None = None) -> pa.Table:
    """The file `dataset.outages`, as `OUTAGES`: a .csv of location, start, end and optional camera.

    Raises
    ------
    InputError
        The file is missing or lacks a column, or a start or an end is missing, not a date, or out of order.
    """
    rows = []
    table = read_table(path, _OUTAGES_KEY, _names(_OUTAGE, _OPTIONAL))
    at = table.require(_OUTAGE)
    order = _order_of_dates((table.columns[at[name]] for name in ("start", "end")), order)
    wheres = [table.at(row) for row in range(len(table))]
    times = [_moments(wheres, name, table.columns[at[name]], order) for name in ("start", "end")]
    for (where, cells), start, end in zip(table.rows(), *times, strict=True):
        location = cells[at["location"]]
        if not location:
            raise InputError(f"{where}: location: empty ({_OUTAGES_KEY})")
        for name, time in (("start", start), ("end", end)):
            if time is None:
                raise InputError(f"{where}: {name}: empty; an outage has a start and an end ({_OUTAGES_KEY})")
        check_order(where, start, end)
        camera = _roles(cells, _OPTIONAL).get("camera")
        of = cells[camera] if camera is not None and camera != at["location"] else None
        rows.append({"location": location, "camera": of, "where": where, "start": start, "end": end})
    return pa.Table.from_pylist(rows, schema=OUTAGES)


def check_periods(periods: pa.Table, outages: pa.Table | None) -> list[str]:
    """A note for each deployment that begins before an earlier one of the same camera has ended.

    Raises
    ------
    InputError
        An outage, or part of one, is outside the deployments of its location, if these are known.
    """
    spans: dict[str, list[dict[str, Any]]] = {}
    for row in periods.to_pylist():
        spans.setdefault(row["location"], []).append(row)
    for row in [] if outages is None else outages.to_pylist():
        of = [
            span
            for span in spans.get(row["location"], [])
            if row["camera"] is None or row["camera"] == span["camera"]
        ]
        if of and not any(
            (span["start"] is None or span["start"] <= row["start"])
            and (span["end"] is None or row["end"] <= span["end"])
            for span in of
        ):
            times = "; ".join(f"{_shown(span['start'])} to {_shown(span['end'])}" for span in of[:3])
            raise InputError(
                f"{row['where']}: the outage from {_shown(row['start'])} to {_shown(row['end'])} is not "
                f"within a deployment of {row['location']!r}, which has: {times}"
            )
    return list(_overlaps(spans))


def read_covariates(path: str) -> pa.Table:
    """What else the camera table says about each location, as written: location, longitude, latitude, ...

    If a location has several rows, the first value counts. A column is numeric if all its values are numbers,
    otherwise text.
    """
    columns: dict[str, dict[str, Any]] = {}
    points: dict[str, tuple[float | None, float | None]] = {}
    used = {*_NEVER_COVARIATES, *_ALIASES["latitude"], *_ALIASES["longitude"]}
    for site in read_sites(path):
        points.setdefault(site.location, (site.longitude, site.latitude))
        for name, value in site.cells.items():
            if name in used or name in (*site.roles.values(), site.named_by):
                continue
            column = columns.setdefault(name, {})
            if value is not None and str(value).strip():
                column.setdefault(site.location, value)
    table: dict[str, list[Any] | pa.Array] = {
        "location": list(points),
        "longitude": [longitude for longitude, _ in points.values()],
        "latitude": [latitude for _, latitude in points.values()],
    }
    for name, values in columns.items():
        table[name] = _column([values.get(location) for location in points])
    return pa.table(table)


def read_sites(path: str) -> list[Site]:
    """The rows of a camera table. Raises like `read_cameras`."""
    if path.lower().endswith((".geojson", ".json")):
        rows = _geojson(path, _read(path, _CAMERAS_KEY))
    else:
        rows = _of_table(read_table(path, _CAMERAS_KEY, _names(_ALIASES, _OPTIONAL)))
    points: dict[str, tuple[float | None, float | None]] = {}
    sites = []
    for where, location, longitude, latitude, cells in rows:
        if not location:
            raise InputError(f"{where}: location: empty")
        point: tuple[float | None, float | None] = (None, None)
        if (
            longitude is not None or latitude is not None
        ):  # a camera whose coordinates are still to be filled in
            point = (_degrees(where, "longitude", longitude, 180), _degrees(where, "latitude", latitude, 90))
        if points.setdefault(location, point) != point:
            raise InputError(
                f"{where}: location {location!r} has other coordinates further up; it should have one point"
            )
        roles = _roles(cells, _OPTIONAL)
        named_by = _roles(cells, _ALIASES).get("location", "location")
        if roles.get("camera") == named_by:
            roles.pop("camera", None)  # the column that names the location
        sites.append(Site(where, location, *point, cells, roles, named_by))
    if not sites:
        raise InputError(f"{path}: holds no camera (dataset.cameras)")
    return sites


def _read(path: str, key: str) -> str:
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file ({key})") from None
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{path}: can't be read ({key}): {problem}") from None


def _names(*roles: Mapping[str, Iterable[str]]) -> list[str]:
    return [name for role in roles for names in role.values() for name in names]


def _of_table(table: GivenTable) -> Iterator[tuple[str, str, Any, Any, dict[str, Any]]]:
    at = table.require(_ALIASES)
    for where, cells in table.rows():
        yield where, cells[at["location"]] or "", cells[at["longitude"]], cells[at["latitude"]], dict(cells)


def _order_of_dates(columns: Iterable[Sequence[str | None]], order: Order | None) -> Order | None:
    """The order of all unambiguous dates if it is the same for all, otherwise the one that the job gives."""
    found = {name for texts in columns for name in parse_dates(texts).told}
    return found.pop() if len(found) == 1 else order


def _geojson(path: str, content: str) -> Iterator[tuple[str, str, Any, Any, dict[str, Any]]]:
    try:
        features = json.loads(content)["features"]
        for number, feature in enumerate(features):
            where = f"{path}: features[{number}]"
            properties = feature.get("properties") or {}
            names = _ALIASES["location"]
            # As ever before the names that came later.
            given = (properties.get(name) for name in (*names[:5], "id", *names[5:]))
            location = next((value for value in given if value is not None), feature.get("id"))
            geometry = feature.get("geometry") or {}
            if geometry.get("type") != "Point":
                raise InputError(
                    f"{where}: should be a Point, it is {geometry.get('type') or 'without a geometry'}"
                )
            longitude, latitude, *_ = geometry["coordinates"]
            cells = {str(name).strip().lower(): value for name, value in properties.items()}
            yield where, "" if location is None else str(location), longitude, latitude, cells
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise InputError(f"{path}: not GeoJSON with point features: {problem}") from None


def _roles(cells: Mapping[str, Any], aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Role -> the name of its column, for the columns that exist."""
    found = {role: next((name for name in names if name in cells), None) for role, names in aliases.items()}
    return {role: name for role, name in found.items() if name is not None}


def _degrees(where: str, name: str, value: Any, most: int) -> float:
    degrees = number(str(value)) if value is not None and not isinstance(value, bool) else None
    if degrees is None:
        raise InputError(f"{where}: {name}: {value if value is not None else ''!r} should be degrees")
    if not -most <= degrees <= most:
        raise InputError(f"{where}: {name}: {degrees:g} should be between {-most} and {most}")
    return degrees


def moment(where: str, name: str, text: str | None, order: Order | None) -> dt.datetime | None:
    """A date or a date with a time; a date without a time is noon. Raises InputError with `where` and
    `name`."""
    if text is None or not text.strip():
        return None
    given = text.strip()
    try:
        parsed = parse_date(given, order)
    except ValueError:
        hint = "a date such as 2022-12-31, or with a time, 2022-12-31 09:52:50"
        if _NUMBERS_FIRST.fullmatch(given) and order is None:
            hint += "; where day and month can't be told apart, set dataset.dates: dmy or mdy"
        raise InputError(f"{where}: {name}: {text.strip()!r} should be {hint}") from None
    if parsed is None:
        return None
    return parsed[0] + _NOON if is_date_only(given) else parsed[0]


def _moments(
    wheres: Sequence[str],
    name: str,
    texts: Sequence[str | None],
    order: Order | None,
    notes: Counter[str] | None = None,
) -> list[dt.datetime | None]:
    """A column of `moment`s. Unreadable ones are None, and in `notes`, up to `dates.MOST_UNREADABLE` of them.

    Raises InputError if there are more, or no `notes`, or if orders of day and month are mixed.
    """
    dates = parse_dates(texts, order)

    def say(row: int) -> str:
        return f"{wheres[row]}: {name}: {texts[row]!r}"

    if len(dates.told) > 1:
        check_orders(dates, texts, say, None)
    n_given = int((~np.isnat(dates.times)).sum()) + len(dates.strange)
    is_refused = notes is None or are_too_many(len(dates.strange), n_given)
    for row in sorted([*dates.undecided, *(dates.strange if is_refused else [])]):
        moment(wheres[row], name, texts[row], order)
    if dates.strange and notes is not None:
        photo = "the first photo" if name == "start" else "the last photo"
        notes[
            f"deployments whose {name} can't be read, and is taken as not known, so that {photo} counts: "
            f"{say(dates.strange[0])}"
        ] += len(dates.strange)
    times: list[dt.datetime | None] = dates.times.tolist()
    return [
        time + _NOON if time is not None and is_day else time
        for time, is_day in zip(times, dates.date_only.tolist(), strict=True)
    ]


def check_order(where: str, start: dt.datetime | None, end: dt.datetime | None) -> None:
    """Raise InputError if an end is not after its start."""
    if start is not None and end is not None and end <= start:
        raise InputError(f"{where}: end: {_shown(end)} should be after the start, {_shown(start)}")


def _overlaps(spans: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    for location, rows in spans.items():
        last: dict[str | None, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: (row["start"] is None, row["start"], row["where"])):
            before = last.get(row["camera"])
            if (
                before is not None
                and None not in (row["start"], before["end"])
                and row["start"] < before["end"]
            ):
                earlier = f"{before['where'].rpartition('/')[2]} ends, {_shown(before['end'])}"
                yield (
                    f"{row['where']}: {location!r} has a deployment from {_shown(row['start'])}, before that "
                    f"of {earlier}: what they share counts once; a column `camera` tells two cameras apart"
                )
            if before is None or before["end"] is None or (row["end"] or dt.datetime.max) > before["end"]:
                last[row["camera"]] = row


def _shown(time: dt.datetime | None) -> str:
    return "open" if time is None else f"{time:%Y-%m-%d %H:%M}"


def _column(values: list[Any]) -> pa.Array:
    def number(value: Any) -> float | None:
        return None if value is None or is_missing(str(value)) else float(value)

    try:
        return pa.array([number(value) for value in values], pa.float64())
    except (TypeError, ValueError):
        return pa.array([None if value is None else str(value).strip() for value in values], pa.string())
