"""Detection histories: for each species, stations by occasions; 1, 0, and nothing where no camera worked.

An occasion is a number of days from midnight to midnight, camera time. As in camtrapR's `detectionHistory`
with its effort, an occasion counts if a camera worked in any part of it, and its effort is the days on which
one did.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import microseconds
from camtrap_batch.codes import encode, one_chunk
from camtrap_batch.errors import InputError
from camtrap_batch.survey.effort import DAY, Counting, Span, as_rows, span_of, working

Values = Literal["presence", "events", "individuals"]

Doubles = npt.NDArray[np.float64]

MOST_CELLS = 200_000_000
"""Maximum number of stations times occasions; nothing could read more."""


@dataclass(frozen=True)
class Occasions:
    """When which station was watched.

    Attributes
    ----------
    stations : names, ascending
    first : (stations,) midnight at which each station's first occasion begins, microseconds
    days : length of an occasion
    effort : (stations, occasions) days on which a camera worked; NaN if none did
    """

    stations: tuple[str, ...]
    first: npt.NDArray[np.int64]
    days: int
    effort: Doubles

    @property
    def names(self) -> list[str]:
        """Names of the occasions, o1, o2, ..., as in camtrapR."""
        return [f"o{number}" for number in range(1, self.effort.shape[1] + 1)]


@dataclass(frozen=True)
class Records:
    """Events of species in occasions.

    Attributes
    ----------
    species : labels, ascending
    begin : (species + 1,) where the cells of each begin in the arrays that follow
    station, occasion : station and occasion of each cell, at most once per species
    value : 1, number of events, or of individuals
    n_outside : events at stations and times for which the deployments have no working camera
    """

    species: tuple[str, ...]
    begin: npt.NDArray[np.int64]
    station: npt.NDArray[np.int64]
    occasion: npt.NDArray[np.int64]
    value: npt.NDArray[np.int64]
    n_outside: int

    def matrices(self, occasions: Occasions) -> Iterator[tuple[str, Doubles]]:
        """Each species and its matrix; NaN if no camera worked."""
        for number, name in enumerate(self.species):
            matrix = np.where(np.isnan(occasions.effort), np.nan, 0.0)
            cells = slice(self.begin[number], self.begin[number + 1])
            matrix[self.station[cells], self.occasion[cells]] = self.value[cells]
            yield name, matrix


def make_occasions(
    deployments: pa.Table,
    *,
    days: int = 7,
    day1: str | dt.date = "station",
    counting: Counting = "station",
    complete: bool = False,
    most_days: int | None = None,
) -> Occasions:
    """Occasions of all stations whose times of observation are known.

    Parameters
    ----------
    deployments : the table `deployments`
    days : length of an occasion
    day1
        The first day of the first occasion: survey (of all stations), station (of each), or a date; earlier
        days are left out.
    complete : only occasions on all of whose days a camera worked, including the days of setup and retrieval
    most_days : leave out whatever comes after this many days

    Raises
    ------
    InputError
        No station's days are known, `day1` is after all of them, or the matrix would be absurdly large.
    """
    spans = working(deployments, counting)
    stood = _stood(deployments)
    if not stood:
        raise InputError("no deployment has a start and an end: there are no days for occasions")
    stations = tuple(sorted(stood))
    starts = np.array([stood[name][0] // DAY for name in stations])
    ends = np.array([(stood[name][1] - 1) // DAY for name in stations])
    if isinstance(day1, dt.date):
        first = np.full(len(stations), (day1 - dt.date(1970, 1, 1)).days)
        if first[0] > ends.max():
            last = dt.date(1970, 1, 1) + dt.timedelta(days=int(ends.max()))
            raise InputError(f"--day1 {day1}: is after the last day of the last station, {last}")
    else:
        first = starts if day1 == "station" else np.full(len(stations), starts.min())
    length = int((ends - first).max()) + 1
    if most_days is not None:
        length = min(length, most_days)
    n = -(-length // days)
    if n * len(stations) > MOST_CELLS:
        raise InputError(
            f"{len(stations):,} stations by {n:,} occasions are too many; --days or --day1 station make fewer"
        )
    effort = np.zeros((len(stations), n))
    worked = np.zeros((len(stations), n), np.int64) if complete else None
    for number, name in enumerate(stations):
        origin = int(first[number]) * DAY
        for start, end in spans[name]:
            _add(effort[number], start - origin, end - origin, days * DAY)
        if worked is not None:
            touched = {day for start, end in spans[name] for day in range(start // DAY, (end - 1) // DAY + 1)}
            at = (np.array(sorted(touched)) - first[number]) // days
            np.add.at(worked[number], at[(at >= 0) & (at < n)], 1)
    effort[effort == 0] = np.nan
    if worked is not None:
        effort[worked < days] = np.nan
    return Occasions(stations, first.astype(np.int64) * DAY, days, effort)


def find_records(events: pa.Table, occasions: Occasions, values: Values = "presence") -> Records:
    """What was seen in which occasion; an event belongs to the one in which it begins.

    Parameters
    ----------
    events : location, label, start and count of the events that count
    """
    row = pc.index_in(one_chunk(events["location"]), pa.array(occasions.stations, pa.string()))
    station = row.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    label, labels = encode(events["label"])
    time = microseconds(events["start"])
    occasion = np.floor_divide(time - occasions.first[station], occasions.days * DAY)
    is_in = (station >= 0) & (occasion >= 0) & (occasion < occasions.effort.shape[1])
    is_in[is_in] = ~np.isnan(occasions.effort[station[is_in], occasion[is_in]])
    n_cells = occasions.effort.size
    key = (label * n_cells + station * occasions.effort.shape[1] + occasion)[is_in]
    cells, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    if values == "individuals":
        number = np.bincount(inverse, events["count"].fill_null(1).to_numpy()[is_in]).astype(np.int64)
    else:
        number = counts if values == "events" else np.ones(len(cells), np.int64)
    which, cell = np.divmod(cells, n_cells)
    where, when = np.divmod(cell, occasions.effort.shape[1])
    begin = np.searchsorted(which, np.arange(len(labels) + 1))
    return Records(tuple(labels.to_pylist()), begin, where, when, number, int((~is_in).sum()))


def _stood(deployments: pa.Table) -> dict[str, Span]:
    """From the first setup to the last retrieval at each location, including outages."""
    found: dict[str, Span] = {}
    for row in as_rows(deployments):
        if row["start"] is None or row["end"] is None:
            continue
        start, end = span_of(row)
        first, last = found.get(row["location"], (start, end))
        found[row["location"]] = (min(first, start), max(last, end))
    return found


def _add(effort: npt.NDArray[Any], start: int, end: int, length: int) -> None:
    """Add the days from `start` to `end`, microseconds after the first occasion's beginning, to occasions."""
    start, end = max(start, 0), min(end, len(effort) * length)
    if end <= start:
        return
    first, last = start // length, (end - 1) // length
    edges = np.arange(first, last + 2) * length
    edges[0], edges[-1] = start, end
    effort[first : last + 1] += np.diff(edges) / DAY
