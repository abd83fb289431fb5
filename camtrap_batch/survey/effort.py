"""Deployments and effort: when a camera stood where, and for how many days it worked.

A period is what metadata or the camera table say about a deployment; a location without one has the period of
its photos, which is too short: the camera was also there before the first photo and after the last one. A
date without a time is noon, so that the days of setup and retrieval count half each, as in camtrapR since
version 2.1; times count exactly. Outages are subtracted, and where two deployments of one camera overlap, the
time counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.cameras import camera_of
from camtrap_batch.clocks import NO_TIME, elapsed, elapsed_bounds, microseconds, timestamps
from camtrap_batch.codes import Ints, one_chunk
from camtrap_batch.errors import InputError
from camtrap_batch.events.codes import UNKNOWN_LOCATION, Bools, encode_locations, flags
from camtrap_batch.store.schemas import DEPLOYMENTS

DAY = 86_400_000_000
"""Microseconds."""

SILENCE_DAYS = 21
"""A camera without a photo for longer than this is assumed to be dead, full or knocked over; without other
information, it is assumed to have been away."""

FROM_IMAGES = "images"

HALF_KNOWN = {"half_known": "exact"}
"""Says, in the meta of a result of `merge` with deployments of which only start or end is recorded, that the
recorded one counts as it is; in results of older versions its whole day counts."""

RATES = {"rates": "within deployments"}
"""Says, in the meta of a result of `merge`, that its `detections_per_100_days` leave out events that began
when no camera worked according to its deployments; results of older versions count all events."""

Counting = Literal["station", "cameras"]
"""How cameras that work at one location at the same time count: once, or each separately."""

Span = tuple[int, int]


class Period(NamedTuple):
    """What is known about one deployment; times in microseconds, camera time, `NO_TIME` if not known."""

    location: str
    camera: str | None
    deployment: str | None
    start: int
    end: int
    source: str
    known: str | None = None


EFFORT = pa.schema([("location", pa.string()), ("days", pa.float64()), ("source", pa.string())])
"""Effort of each location, ascending; `source` is metadata, cameras, or images if any is based on photos;
days and source are null if nothing is known."""


def make_deployments(
    images: pa.Table, periods: pa.Table | None = None, outages: pa.Table | None = None
) -> tuple[pa.Table, Counter[str]]:
    """The table `deployments`, and notes on it.

    Parameters
    ----------
    images
        Usable images: location, deployment, datetime, and utc_offset_minutes and date_only if they are known.
    periods
        catalog.cameras.PERIODS: what metadata or the camera table say. Times with an offset are converted to
        the images' clock, if that is known.
    outages
        catalog.cameras.OUTAGES

    Returns
    -------
    pyarrow.Table
        schemas.DEPLOYMENTS, by location and start. A deployment without an end (the camera is still there)
        ends with its last image, and has the source images.

    Raises
    ------
    InputError
        An outage is at a location that neither images nor periods have.
    """
    notes: Counter[str] = Counter()
    photos = _Photos(images)
    given = [] if periods is None else _periods(periods, photos)
    told = {period.location for period in given}
    found = [*_completed(given, photos, notes), *photos.periods(told)]
    found.sort(key=lambda one: (one.location, one.start, one.end, one.deployment or "", one.camera or ""))
    breaks = _breaks(outages, found, photos)
    rows = []
    covered: dict[tuple[str, str | None], list[Span]] = {}
    for period in found:
        camera = (period.location, period.camera)
        row: dict[str, Any] = {
            "location": period.location,
            "deployment": period.deployment,
            "camera": period.camera,
            "start": None if period.start == NO_TIME else period.start,
            "end": None if period.end == NO_TIME else period.end,
            "source": period.source,
            "n_images": photos.count(period),
            "outages": [],
            "known": period.known,
        }
        if NO_TIME not in (period.start, period.end):
            span = span_of(row)
            off = [
                clipped
                for of, times in breaks.get(period.location, [])
                if of in (None, period.camera) and (clipped := _clip(times, span))
            ]
            own = _without([span], covered.get(camera, []))
            if own != [span]:
                notes["deployments that overlap one of the same camera: the overlap counts once"] += 1
            covered.setdefault(camera, []).append(span)
            worked = _without(own, off)
            row |= {
                "days": _length(worked) / DAY,
                "days_out": (_length(own) - _length(worked)) / DAY,
                "outages": [{"start": first, "end": last} for first, last in union(off)],
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=DEPLOYMENTS), notes


def effort_by_location(deployments: pa.Table, counting: Counting = "station") -> pa.Table:
    """Days that cameras worked at each location of the table `deployments`, as `EFFORT`.

    Parameters
    ----------
    counting : station: time in which several cameras work counts once; cameras: for each of them
    """
    days: dict[str, float | None] = {}
    for location, spans in working(deployments, counting).items():
        days[location] = _length(spans) / DAY
    sources: dict[str, str] = {}
    for row in deployments.select(["location", "source", "days"]).to_pylist():
        if row["days"] is None:
            days.setdefault(row["location"], None)
        elif sources.get(row["location"]) != FROM_IMAGES:
            sources[row["location"]] = row["source"]
    names = sorted(days)
    return pa.table(
        [names, [days[name] for name in names], [sources.get(name) for name in names]], schema=EFFORT
    )


def working(deployments: pa.Table, counting: Counting = "station") -> dict[str, list[Span]]:
    """For each location the spans in which a camera worked, in microseconds, ascending by start.

    If cameras count separately, their spans may overlap.
    """
    by_camera: dict[tuple[str, str | None], list[Span]] = {}
    off: dict[tuple[str, str | None], list[Span]] = {}
    for row in as_rows(deployments):
        if row["start"] is None or row["end"] is None:
            continue
        camera = (row["location"], row["camera"])
        by_camera.setdefault(camera, []).append(span_of(row))
        off.setdefault(camera, []).extend((gap["start"], gap["end"]) for gap in row["outages"] or ())
    found: dict[str, list[Span]] = {}
    for camera, spans in by_camera.items():
        found.setdefault(camera[0], []).extend(_without(union(spans), off[camera]))
    return {
        location: union(spans) if counting == "station" else sorted(spans)
        for location, spans in found.items()
    }


def watched_events(events: pa.Table, deployments: pa.Table) -> Bools:
    """Which events began while a camera worked at their location.

    Parameters
    ----------
    events : location, start, and date_only where it is known: then any time of that day will do
    deployments : as the table `deployments`; at locations about which nothing is known, no event did
    """
    start = microseconds(events["start"])
    return is_watched(events["location"].to_pylist(), start, last_moments(events, start), deployments)


def rated_events(events: pa.Table, deployments: pa.Table) -> Bools:
    """Which events count in the rate of their location: `watched_events`, and all where no days are known."""
    known = effort_by_location(deployments)
    known = known.filter(known["days"].is_valid())
    has_days = pc.is_in(events["location"], one_chunk(known["location"]))
    is_known = np.asarray(one_chunk(has_days).to_numpy(zero_copy_only=False), np.bool_)
    return watched_events(events, deployments) | ~is_known


def is_watched(location: Sequence[str], start: Ints, end: Ints, deployments: pa.Table) -> Bools:
    """Whether a camera worked at each of n locations at some time from `start` to `end`.

    Parameters
    ----------
    start, end : (n,) microseconds, camera time; the same for a single moment
    deployments : as the table `deployments`
    """
    spans = {
        name: np.array(union(bounds(*span) for span in here), np.int64).reshape(-1, 2)
        for name, here in working(deployments).items()
    }
    number = {name: at for at, name in enumerate(spans)}
    code = np.array([number.get(name, -1) for name in location], np.int64)
    found = np.zeros(len(start), np.bool_)
    for name, edges in spans.items():
        if not len(edges):  # it was out all the time
            continue
        rows = np.flatnonzero(code == number[name])
        before = np.searchsorted(edges[:, 0], end[rows], side="right") - 1
        found[rows] = (before >= 0) & (start[rows] < edges[before, 1])
    return found


def span_of(row: Mapping[str, Any]) -> Span:
    """When the camera of a row of `deployments` stood there, in microseconds.

    Where that is known from photos alone, from the midnight before the first to the one after the last, so
    that each of their dates is a day.
    """
    start, end = row["start"], row["end"]
    if row["source"] == FROM_IMAGES:
        known = row.get("known")
        start = start if known == "start" else start // DAY * DAY
        end = end if known == "end" else (end // DAY + 1) * DAY
    return start, end


def bounds(start: int, end: int) -> Span:
    """First and last moment (exclusive) of photos that may belong to a deployment.

    A date without a time is taken as noon: then photos from that whole day may belong to it.
    """
    noon = DAY // 2
    return start - noon * (start % DAY == noon), end + 1 + noon * (end % DAY == noon)


def last_moments(images: pa.Table, moment: Ints) -> Ints:
    """The last moment at which each image may have been taken: without a time of day, that of its date.

    Parameters
    ----------
    images : date_only, where it is known
    moment : (n,) microseconds when each was taken, midnight for a date
    """
    return moment + np.where(flags(images, "date_only"), DAY - 1, 0)


def union(spans: Iterable[Span]) -> list[Span]:
    """Spans merged where they overlap, ascending.

    >>> union([(5, 9), (1, 3), (2, 4), (9, 10)])
    [(1, 4), (5, 10)]
    """
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return found


# --- periods


def _periods(table: pa.Table, photos: _Photos) -> list[Period]:
    """Periods by the images' clock."""
    found = []
    for row in as_rows(table):
        shift = 0
        if row["utc_offset_minutes"] is not None:
            clock = photos.offset(row["location"], row["deployment"])
            if clock is not None:
                shift = (clock - row["utc_offset_minutes"]) * 60_000_000
        start, end = (NO_TIME if row[name] is None else row[name] + shift for name in ("start", "end"))
        found.append(Period(row["location"], row["camera"], row["deployment"], start, end, row["source"]))
    return found


def _completed(given: Sequence[Period], photos: _Photos, notes: Counter[str]) -> Iterable[Period]:
    """Periods with both ends known, taken from photos if they were not recorded."""
    by_camera: dict[tuple[str, str | None], list[Period]] = {}
    for period in given:
        by_camera.setdefault((period.location, period.camera), []).append(period)
    for period in given:
        if NO_TIME not in (period.start, period.end):
            yield period
            continue
        first, last = photos.ends(period, _between(period, by_camera[period.location, period.camera]))
        if first != NO_TIME:
            notes["deployments without a start or an end, which is that of their first or last image"] += 1
            start = first if period.start == NO_TIME else period.start
            end = last if period.end == NO_TIME else period.end
            known = "end" if period.start == NO_TIME else "start"
            is_one_known = (period.start == NO_TIME) != (period.end == NO_TIME)
            yield period._replace(
                start=start, end=max(start, end), source=FROM_IMAGES, known=known if is_one_known else None
            )
        else:
            notes[
                "deployments without a start or an end, and without an image: their days are not known"
            ] += 1
            yield period


def _between(period: Period, of_camera: Iterable[Period]) -> Period:
    """A period: an open end at most the next start of its camera, an open start at least the last end."""
    if period.end == NO_TIME:
        later = [one.start for one in of_camera if NO_TIME > one.start > period.start]
        return period._replace(end=min(later, default=NO_TIME))
    earlier = [one.end for one in of_camera if one.end < period.end]
    return period._replace(start=max(earlier, default=NO_TIME))


def _breaks(
    outages: pa.Table | None, periods: Iterable[Period], photos: _Photos
) -> dict[str, list[tuple[str | None, Span]]]:
    """Outages by location: camera (None: all), start and end in the time of the images' clock."""
    found: dict[str, list[tuple[str | None, Span]]] = {}
    cameras: dict[str, set[str | None]] = {name: set() for name in photos.names}
    for period in periods:
        cameras.setdefault(period.location, set()).add(period.camera)
    for row in [] if outages is None else as_rows(outages):
        if row["location"] not in cameras:
            raise InputError(
                f"{row['where']}: location: {row['location']!r} has neither a deployment nor an image "
                "(dataset.outages)"
            )
        clock, zone = photos.offset(row["location"], None), row.get("utc_offset_minutes")
        shift = 0 if clock is None or zone is None else (clock - zone) * 60_000_000
        of = camera_of(row, cameras[row["location"]])
        found.setdefault(row["location"], []).append((of, (row["start"] + shift, row["end"] + shift)))
    return found


class _Photos:
    """Times of photos, sorted by location, deployment and the time that really passed."""

    def __init__(self, images: pa.Table) -> None:
        location, names = encode_locations(images["location"])
        self.names: list[str] = names.to_pylist()
        deployment, ids = _encoded(images["deployment"])
        self._ids: list[str | None] = [*ids, None]
        time = microseconds(images["datetime"])
        moment = elapsed(images, time, location)
        used = np.flatnonzero(time != NO_TIME)
        order = used[np.lexsort((moment[used], deployment[used], location[used]))]
        self._time, self._moment, self._location = time[order], moment[order], location[order]
        self._deployment = deployment[order]
        self._last = last_moments(images, moment)[order]
        self._code = {name: number for number, name in enumerate(self.names)}
        self._code_of_id = {name: number for number, name in enumerate(self._ids)}
        self._offsets = _offsets(images, location, deployment)

    def periods(self, told: set[str]) -> Iterable[Period]:
        """From the first to the last photo, for each location not in `told`.

        Each deployment that the source names is a period; if it names none, a silence ends one.
        """
        if not len(self._time):
            return
        is_first = np.ones(len(self._time), bool)
        is_new = (np.diff(self._location) != 0) | (np.diff(self._deployment) != 0)
        is_silent = np.diff(self._moment) > SILENCE_DAYS * DAY
        is_first[1:] = is_new | (is_silent & (self._deployment[1:] == len(self._ids) - 1))
        begins = np.flatnonzero(is_first)
        ends = np.append(begins[1:], len(self._time)) - 1
        for first, last in zip(begins.tolist(), ends.tolist(), strict=True):
            name = self.names[self._location[first]]
            if name not in told and name != UNKNOWN_LOCATION:
                yield Period(
                    name,
                    None,
                    self._ids[self._deployment[first]],
                    int(self._time[first]),
                    int(self._time[last]),
                    FROM_IMAGES,
                )

    def ends(self, period: Period, within: Period) -> Span:
        """First and last photo that may be of a period; NO_TIME if there is none.

        `within`: the period, with open ends where its neighbours begin and end.
        """
        times, moments, lasts = self.times(period)
        first, last = bounds(period.start, period.end)
        begin = within.start if period.start == NO_TIME else first
        end = within.end + (within.end != NO_TIME) if period.end == NO_TIME else last
        early, late = elapsed_bounds((begin, end), times, moments)
        is_in = np.ones(len(times), np.bool_)
        if begin != NO_TIME:
            is_in &= lasts >= early
        if end != NO_TIME:
            is_in &= moments < late
        times = times[is_in]
        return (int(times[0]), int(times[-1])) if len(times) else (NO_TIME, NO_TIME)

    def count(self, period: Period) -> int:
        """Photos within a period, of its location, or of its deployment if photos name one."""
        if NO_TIME in (period.start, period.end):
            return 0
        times, moments, lasts = self.times(period)
        early, late = elapsed_bounds(bounds(period.start, period.end), times, moments)
        return int(((lasts >= early) & (moments < late)).sum())

    def times(self, period: Period) -> tuple[Ints, Ints, Ints]:
        """Photos of a period's deployment, or of its location if no photo names the deployment: by the clock,
        and by the time that really passed, the earliest first; and its last moment, see `last_moments`."""
        code = self._code.get(period.location)
        if code is None:
            return self._time[:0], self._moment[:0], self._last[:0]
        first, last = np.searchsorted(self._location, (code, code + 1))
        if period.deployment is not None and period.deployment in self._code_of_id:
            of = self._code_of_id[period.deployment]
            here = self._deployment[first:last]
            begin, end = np.searchsorted(here, (of, of + 1))
            if end > begin:
                own = slice(first + begin, first + end)
                return self._time[own], self._moment[own], self._last[own]
        order = first + np.argsort(self._moment[first:last], kind="stable")
        return self._time[order], self._moment[order], self._last[order]

    def offset(self, location: str, deployment: str | None) -> int | None:
        """What the clock of most photos showed, in minutes east of UTC; None if unknown."""
        found = self._offsets.get((location, deployment))
        return self._offsets.get((location, None)) if found is None else found


def _offsets(images: pa.Table, location: Ints, deployment: Ints) -> dict[tuple[str, str | None], int]:
    if "utc_offset_minutes" not in images.column_names:
        return {}
    names = encode_locations(images["location"])[1].to_pylist()
    ids = _encoded(images["deployment"])[1]
    offset = images["utc_offset_minutes"].combine_chunks()
    is_known = offset.is_valid().to_numpy(zero_copy_only=False)
    value = offset.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    found: dict[tuple[str, str | None], int] = {}
    for of in (np.full(len(location), len(ids), np.int64), deployment):
        keys, counts = np.unique(np.column_stack([location, of, value])[is_known], axis=0, return_counts=True)
        best: dict[tuple[str, str | None], int] = {}
        for (where, which, minutes), number in zip(keys.tolist(), counts.tolist(), strict=True):
            key = (names[where], ids[which] if which < len(ids) else None)
            if number > best.get(key, 0):
                best[key], found[key] = number, minutes
    return found


def _encoded(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Arbitrary numbers for texts; null gets the one after the last."""
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    ids = coded.dictionary.to_pylist()
    return np.asarray(coded.indices.fill_null(len(ids)).to_numpy(zero_copy_only=False), np.int64), ids


# --- spans


def _clip(span: Span, to: Span) -> Span | None:
    start, end = max(span[0], to[0]), min(span[1], to[1])
    return (start, end) if end > start else None


def _without(spans: Iterable[Span], off: Iterable[Span]) -> list[Span]:
    """Spans minus those in `off`.

    >>> _without([(0, 10)], [(8, 12), (2, 3)])
    [(0, 2), (3, 8)]
    """
    gaps = union(off)
    found: list[Span] = []
    for start, end in spans:
        for gap in gaps:
            if gap[1] <= start or gap[0] >= end:
                continue
            if gap[0] > start:
                found.append((start, gap[0]))
            start = max(start, gap[1])
        if end > start:
            found.append((start, end))
    return found


def _length(spans: Iterable[Span]) -> int:
    return sum(end - start for start, end in spans)


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows with times as microseconds."""
    columns = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_timestamp(field.type):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
        elif field.name == "outages":
            column = column.cast(_OUTAGES)
        columns[field.name] = column.to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


_OUTAGES = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))

__all__ = [
    "DAY",
    "FROM_IMAGES",
    "SILENCE_DAYS",
    "Counting",
    "EFFORT",
    "Period",
    "Span",
    "as_rows",
    "bounds",
    "effort_by_location",
    "make_deployments",
    "timestamps",
    "union",
    "span_of",
    "working",
]
