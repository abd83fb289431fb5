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
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from camtrap_batch.catalog.numbers import NOT_DEGREES, doubtful, number, read_degrees
from camtrap_batch.catalog.tabular import NO_VALUE, GivenTable, is_missing, read_table
from camtrap_batch.catalog.zipped import name_of, read_file
from camtrap_batch.dates import (
    NULL_OFFSET,
    Order,
    are_too_many,
    check_orders,
    is_date_only,
    parse_date,
    parse_dates,
)
from camtrap_batch.errors import InputError, choices
from camtrap_batch.remote import cant_read

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
null if it is that of the cameras' clocks; `source` is metadata or cameras; `where` is file and line."""

OUTAGES = pa.schema(
    [
        ("location", pa.string()),
        ("camera", pa.string()),
        ("start", pa.timestamp("us")),
        ("end", pa.timestamp("us")),
        ("where", pa.string()),
    ]
)
"""When cameras stood there without working, in local camera time; if `camera` is null, all at the location.
If a time has a zone there is also a column `utc_offset_minutes`, as in `PERIODS`."""

_ALIASES = {
    "location": (
        *("location", "location_id", "locationid", "camera", "name"),
        *("station", "station_id", "site", "site_id", "site_name", "deployment_id", "deploymentid"),
        *("placename", "camera_id", "camera_name"),
    ),
    "latitude": ("latitude", "lat", "decimallatitude", "decimal_latitude"),
    "longitude": ("longitude", "lon", "lng", "long", "decimallongitude", "decimal_longitude"),
}
_OPTIONAL = {
    "start": ("start", "setup", "setup_date", "deployment_start", "deploymentstart", "start_date"),
    "end": ("end", "retrieval", "retrieval_date", "deployment_end", "deploymentend", "end_date"),
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
    "start": ("startdate", "date_start", "date_deployed", "deployed", "installed", "setup_day"),
    "end": ("enddate", "date_end", "date_retrieved", "retrieved", "removed", "retrieval_day"),
}
"""What says when a camera stood there if it holds dates: role -> names of columns."""

AXES = {axis: _ALIASES[axis] for axis in ("latitude", "longitude")}
TIMES = {role: (*_OPTIONAL[role], *_LIKELY[role]) for role in ("start", "end")}
"""What a table of images may also say about its cameras: role -> names of columns."""

_CAMERAS_KEY, _OUTAGES_KEY = "dataset.cameras", "dataset.outages"
_NUMBERS_FIRST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(.*)", re.DOTALL)
_NOON = dt.timedelta(hours=12)
_PROBLEM = re.compile(r"problem_?(\d+)_(from|to)")
"""Columns of the camera table with outages, as camtrapR has them."""


Point = tuple[float | None, float | None]
Row = tuple[str, str, Any, Any, dict[str, Any]]


class Moment(NamedTuple):
    """A time; `offset` in minutes east of UTC, None if it is that of the cameras' clocks."""

    time: dt.datetime
    offset: int | None


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


def columns_of_deployments(path: str) -> list[str]:
    """One line for each column with an unusual name for the start or the end of deployments."""
    first = read_sites(path)[0]
    lines = []
    for role, names in _LIKELY.items():
        for name in names:
            if name in first.cells and first.roles.get(role) == name:
                lines.append(f"{path}: the column {name} is read as the {role} of deployments")
            elif name in first.cells and role not in first.roles:
                lines.append(f"{path}: the column {name} is ignored, since it does not hold dates")
    return lines


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
    order = _order_of_sites(sites, order)
    wheres = [site.where for site in sites]
    columns = {name: [site.text(name) for site in sites] for name in ("start", "end")}
    starts, ends = (_moments(wheres, name, texts, order, notes) for name, texts in columns.items())
    for site, first, last in zip(sites, starts, ends, strict=True):
        if first is None and last is None:
            continue
        (start, end), offset = _by_one_clock([first, last])
        check_order(site.where, start, end)
        rows.append(
            {
                "location": site.location,
                "camera": site.text("camera"),
                "deployment": site.text("deployment"),
                "start": start,
                "end": end,
                "utc_offset_minutes": offset,
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
    rows: list[dict[str, Any]] = []
    table = read_table(path, _OUTAGES_KEY, _names(_OUTAGE, _OPTIONAL))
    at = table.require(_OUTAGE)
    order = _order_of_dates((table.columns[at[name]] for name in ("start", "end")), order)
    wheres = [table.at(row) for row in range(len(table))]
    starts, ends = (_moments(wheres, name, table.columns[at[name]], order) for name in ("start", "end"))
    for (where, cells), start, end in zip(table.rows(), starts, ends, strict=True):
        location = cells[at["location"]]
        if not location:
            raise InputError(f"{where}: location: empty ({_OUTAGES_KEY})")
        times = _times_of_outage(where, {"start": start, "end": end}, _OUTAGES_KEY)
        camera = _roles(cells, _OPTIONAL).get("camera")
        of = cells[camera] if camera is not None and camera != at["location"] else None
        rows.append({"location": location, "camera": of, "where": where, **times})
    return _as_outages(rows)


def read_camera_outages(path: str, order: Order | None = None) -> pa.Table:
    """Outages in the camera table itself, as `OUTAGES`: columns problem1_from, problem1_to, and so on.

    Raises
    ------
    InputError
        As for `read_cameras`; or an end of an outage is missing, not a date, or out of order.
    """
    rows: list[dict[str, Any]] = []
    sites = read_sites(path)
    order = _order_of_sites(sites, order)
    wheres = [site.where for site in sites]
    times = {name: _moments(wheres, name, texts, order) for name, texts in _problems(sites).items()}
    for which in dict.fromkeys(name.rpartition("_")[0] for name in times):
        names = f"{which}_from", f"{which}_to"
        for row, site in enumerate(sites):
            given = {name: times[name][row] if name in times else None for name in names}
            if any(given.values()):
                of = {"location": site.location, "camera": site.text("camera"), "where": site.where}
                rows.append(of | _times_of_outage(site.where, given, _CAMERAS_KEY))
    return _as_outages(rows)


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
        here = spans.get(row["location"], [])
        camera = camera_of(row, {span["camera"] for span in here})
        of = [span for span in here if camera is None or camera == span["camera"]]
        if of and not any(_is_within(row, span) for span in of):
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
    points: dict[str, Point] = {}
    used = {*_NEVER_COVARIATES, *_ALIASES["latitude"], *_ALIASES["longitude"]}
    for site in read_sites(path):
        points.setdefault(site.location, (site.longitude, site.latitude))
        for name, value in site.cells.items():
            never = (*site.roles.values(), site.named_by)
            if name in used or name in never or _PROBLEM.fullmatch(name):
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
    if name_of(path).lower().endswith((".geojson", ".json")):
        rows = list(_geojson(path, _read(path)))
    else:
        rows = list(_of_table(read_table(path, _CAMERAS_KEY, _names(_ALIASES, _OPTIONAL))))
    likely = _likely_roles([cells for *_, cells in rows])
    points: dict[str, Point] = {}
    sites = []
    for (where, location, *_, cells), point in zip(rows, _points(rows), strict=True):
        if not location:
            raise InputError(f"{where}: location: empty; {NO_VALUE}")
        if points.setdefault(location, point) != point:
            raise InputError(
                f"{where}: location {location!r} has other coordinates further up; it should have one point"
            )
        roles = likely | _roles(cells, _OPTIONAL)
        named_by = _roles(cells, _ALIASES).get("location", "location")
        if roles.get("camera") == named_by:
            roles.pop("camera", None)  # the column that names the location
        sites.append(Site(where, location, *point, cells, roles, named_by))
    if not sites:
        raise InputError(f"{path}: holds no camera (dataset.cameras)")
    return sites


def _read(path: str) -> bytes:
    try:
        return read_file(path)
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(cant_read(path, problem, _CAMERAS_KEY)) from None


def _names(*roles: Mapping[str, Iterable[str]]) -> list[str]:
    return [name for role in roles for names in role.values() for name in names]


def _of_table(table: GivenTable) -> Iterator[Row]:
    at = table.require({"location": _ALIASES["location"]})
    if not _is_of_times_alone(table):
        at |= table.require(AXES)
    for where, cells in table.rows():
        x, y = (cells[at[axis]] if axis in at else None for axis in ("longitude", "latitude"))
        yield where, cells[at["location"]] or "", x, y, dict(cells)


def _is_of_times_alone(table: GivenTable) -> bool:
    """Whether a camera table has setup dates, but no column that may hold degrees."""
    return (
        table.name_of(_OPTIONAL["start"]) is not None
        and all(table.name_of(names) is None for names in AXES.values())
        and not any(choices(axis, table.columns).startswith("did you mean") for axis in AXES)
    )


def _order_of_sites(sites: Sequence[Site], order: Order | None) -> Order | None:
    """Like `_order_of_dates`, for all dates in a camera table."""
    columns = [[site.text(name) for site in sites] for name in ("start", "end")]
    return _order_of_dates([*columns, *_problems(sites).values()], order)


def _problems(sites: Sequence[Site]) -> dict[str, list[str | None]]:
    """Columns with the times of outages: name -> a text for each row, None if it says nothing."""
    names = dict.fromkeys(name for site in sites for name in site.cells if _PROBLEM.fullmatch(name))
    cells = {name: [str(site.cells.get(name) or "") for site in sites] for name in names}
    return {name: [None if is_missing(text) else text for text in texts] for name, texts in cells.items()}


def _order_of_dates(columns: Iterable[Sequence[str | None]], order: Order | None) -> Order | None:
    """The order of all unambiguous dates if it is the same for all, otherwise the one that the job gives."""
    found = {name for texts in columns for name in parse_dates(texts).told}
    return found.pop() if len(found) == 1 else order


def _geojson(path: str, content: bytes) -> Iterator[Row]:
    try:
        features = json.loads(content)["features"]
        for number, feature in enumerate(features):
            where = f"{path}: features[{number}]"
            properties = feature.get("properties") or {}
            names = _ALIASES["location"]
            # As it always has, `id` comes before the names that were added later.
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


def _likely_roles(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Role -> the first column in `_LIKELY` that holds dates."""
    found: dict[str, str] = {}
    for role, names in _LIKELY.items():
        for name in names:
            cells = [str(cell) for row in rows if (cell := row.get(name)) is not None]
            given = [cell for cell in cells if not is_missing(cell)]
            if role not in found and given and not are_too_many(len(parse_dates(given).strange), len(given)):
                found[role] = name
    return found


def _points(rows: Sequence[Row]) -> Iterator[Point]:
    """Longitude and latitude of each row; None if both are still to be filled in. Raises InputError."""
    columns: dict[str, list[str | None]] = {}
    columns["longitude"] = [None if row[2] is None else str(row[2]) for row in rows]
    columns["latitude"] = [None if row[3] is None else str(row[3]) for row in rows]
    read = {axis: read_degrees(cells, axis) for axis, cells in columns.items()}
    for at, (where, _, longitude, latitude, _) in enumerate(rows):
        if longitude is None and latitude is None:
            yield None, None
            continue
        for axis, (found, wrong) in read.items():
            if found[at] is None:
                text = columns[axis][at] or ""
                raise InputError(f"{where}: {axis}: {text!r} {wrong.get(at, NOT_DEGREES)}")
        yield read["longitude"][0][at], read["latitude"][0][at]


def camera_of(outage: Mapping[str, Any], cameras: Iterable[str | None]) -> str | None:
    """Which of the cameras that a location's deployments name an outage belongs to; None: all of them.

    Raises InputError if it names a different one.
    """
    named = set(cameras) - {None}
    camera: str | None = outage["camera"]
    if camera is None or not named:
        return None
    if camera not in named:
        raise InputError(
            f"{outage['where']}: camera: {camera!r} is none of location {outage['location']!r} "
            f"({_OUTAGES_KEY}); " + choices(camera, [name for name in named if name is not None])
        )
    return camera


def deployments_to_come(periods: pa.Table, now: dt.datetime) -> list[str]:
    """A line about deployments that end, or begin, after `now` (UTC, naive), with the row of the first."""
    tomorrow = now + dt.timedelta(days=1)  # by any clock on earth
    found = [row for row in periods.to_pylist() if (row["end"] or row["start"] or now) > tomorrow]
    if not found:
        return []
    first = found[0]
    name = "start" if first["end"] is None else "end"
    return [
        f"{first['where']}: {name}: {_shown(first[name])} has not come yet (such deployments: {len(found):,}"
        "); days to come count as if the camera had worked: leave the end empty while it stands there"
    ]


def _is_within(outage: Mapping[str, Any], span: Mapping[str, Any]) -> bool:
    """Whether an outage is within a deployment, either end of which may be open."""
    ours, theirs = outage.get("utc_offset_minutes"), span["utc_offset_minutes"]
    shift = dt.timedelta(minutes=0 if None in (ours, theirs) else theirs - ours)
    return (span["start"] is None or span["start"] <= outage["start"] + shift) and (
        span["end"] is None or outage["end"] + shift <= span["end"]
    )


def _times_of_outage(where: str, given: Mapping[str, Moment | None], key: str) -> dict[str, Any]:
    """Start, end and offset of an outage, from two times, keyed by the names of their columns."""
    for name, one in given.items():
        if one is None:
            raise InputError(f"{where}: {name}: empty; an outage has a start and an end ({key})")
    (start, end), offset = _by_one_clock(given.values())
    check_order(where, start, end)
    return {"start": start, "end": end, "utc_offset_minutes": offset}


def _as_outages(rows: list[dict[str, Any]]) -> pa.Table:
    schema = OUTAGES
    if any(row["utc_offset_minutes"] is not None for row in rows):
        schema = schema.append(PERIODS.field("utc_offset_minutes"))
    return pa.Table.from_pylist(rows, schema=schema)


def _by_one_clock(moments: Iterable[Moment | None]) -> tuple[list[dt.datetime | None], int | None]:
    """Times by the clock of the first one that has an offset, and that offset."""
    given = list(moments)
    offset = next((one.offset for one in given if one is not None and one.offset is not None), None)
    times = []
    for one in given:
        shift = 0 if one is None or one.offset is None or offset is None else offset - one.offset
        times.append(None if one is None else one.time + dt.timedelta(minutes=shift))
    return times, offset


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
) -> list[Moment | None]:
    """A column of `Moment`s. Unreadable ones are None, and in `notes`, up to `dates.MOST_UNREADABLE` of them.

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
    columns = (dates.times.tolist(), dates.date_only.tolist(), dates.offsets.tolist())
    return [
        None
        if time is None
        else Moment(time + _NOON if is_day else time, None if offset == NULL_OFFSET else offset)
        for time, is_day, offset in zip(*columns, strict=True)
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
    texts = [None if value is None else str(value).strip() for value in values]
    given = [None if is_missing(text) else text for text in texts]
    numbers = [
        float(value) if isinstance(value, int | float) else number(text or "")
        for value, text in zip(values, given, strict=True)
    ]
    is_text = any(number_ is None for number_, text in zip(numbers, given, strict=True) if text is not None)
    return pa.array(texts, pa.string()) if is_text or doubtful(given) else pa.array(numbers, pa.float64())
