"""Estimates as tables: occupancy of each species, its activity, overlaps, accumulation of species, Chao2.

What can't be estimated has a row with empty figures, and `remark` gives the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.clocks import microseconds
from camtrap_batch.codes import encode
from camtrap_batch.events.codes import flags
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.survey import activity, richness
from camtrap_batch.survey.effort import DAY, effort_by_location
from camtrap_batch.survey.history import find_records, make_occasions
from camtrap_batch.survey.occupancy import fit_occupancy
from camtrap_batch.survey.result import Counted, counting_of, read_deployments

MOST_IN_OVERLAPS = 12
"""Pairs among this many species with the most events are compared; --species names others."""

POINTS = 48
"""Points of the day in the table `activity`."""

OCCUPANCY = pa.schema(
    [
        ("label", pa.string()),
        ("stations", pa.int32()),
        ("occasions", pa.int32()),
        ("days_per_occasion", pa.int32()),
        *(
            (name, pa.float64())
            for name in (
                "naive_occupancy", "occupancy", "occupancy_low", "occupancy_high", "p", "p_low", "p_high",
                "log_likelihood",
            )
        ),
        ("effort_source", pa.string()),
        ("remark", pa.string()),
    ]
)  # fmt: skip
"""Low and high are 95 % intervals; `p` is the probability of detection in an occasion of mean effort."""

ACTIVITY = pa.schema(
    [
        ("label", pa.string()),
        ("events", pa.int64()),
        ("hour", pa.float64()),
        *((name, pa.float64()) for name in ("density", "low", "high")),
        ("remark", pa.string()),
    ]
)
"""Density per hour at `hour`, by the cameras' clocks, with a pointwise 95 % interval; `events` are those that
have a time of day."""

OVERLAP = pa.schema(
    [
        ("label", pa.string()),
        ("other", pa.string()),
        ("events", pa.int64()),
        ("other_events", pa.int64()),
        *((name, pa.float64()) for name in ("overlap", "low", "high")),
        ("method", pa.string()),
        ("remark", pa.string()),
    ]
)

ACCUMULATION = pa.schema([("stations", pa.int32()), ("species", pa.float64()), ("error", pa.float64())])
"""Expected number of species at this many stations, and its standard deviation."""

RICHNESS = pa.schema(
    [
        ("stations", pa.int32()),
        ("observed", pa.int32()),
        ("at_one_station", pa.int32()),
        ("at_two_stations", pa.int32()),
        *((name, pa.float64()) for name in ("chao2", "error", "low", "high")),
        ("remark", pa.string()),
    ]
)


def occupancy_table(merged: MergeResult, counted: Counted, days: int) -> pa.Table:
    """`OCCUPANCY` of each species, from occasions of this many days, counted from each station's setup."""
    deployments = read_deployments(merged)
    occasions = make_occasions(deployments, days=days, counting=counting_of(merged))
    records = find_records(counted.of(merged.table("events").to_table()), occasions)
    sources = set(effort_by_location(deployments)["source"].drop_null().to_pylist())
    source = "images" if "images" in sources else ", ".join(sorted(sources))
    rows = []
    for label, history in records.matrices(occasions):
        found = fit_occupancy(history, occasions.effort)
        rows.append(
            {
                "label": label,
                "stations": found.stations,
                "occasions": found.occasions,
                "days_per_occasion": days,
                "naive_occupancy": found.naive,
                "occupancy": found.psi,
                "occupancy_low": found.psi_low,
                "occupancy_high": found.psi_high,
                **{name: getattr(found, name) for name in ("p", "p_low", "p_high", "log_likelihood")},
                "effort_source": source,
                "remark": f"not fitted: {found.reason}" if found.reason else _joined(found.warnings),
            }
        )
    return _table(rows, OCCUPANCY)


def activity_table(merged: MergeResult, counted: Counted, days: int) -> pa.Table:
    """`ACTIVITY` of each species."""
    at = np.arange(POINTS) * activity.GRID // POINTS
    per_hour = 2 * np.pi / 24
    rows: list[dict[str, Any]] = []
    for label, times in times_of_day(counted.of(merged.table("events").to_table())).items():
        row: dict[str, Any] = {"label": label, "events": len(times)}
        if len(times) < activity.FEWEST:
            rows.append(row | {"remark": f"fewer than {activity.FEWEST} events"})
            continue
        curves = (activity.density(times), *activity.interval(times))
        values = [(curve[at] * per_hour).tolist() for curve in curves]
        for number, (height, low, high) in enumerate(zip(*values, strict=True)):
            rows.append(row | {"hour": 24 * number / POINTS, "density": height, "low": low, "high": high})
    return _table(rows, ACTIVITY)


def overlap_table(merged: MergeResult, counted: Counted, days: int) -> pa.Table:
    """`OVERLAP` of each pair of the species with the most events."""
    times = times_of_day(counted.of(merged.table("events").to_table()))
    names = sorted(times, key=lambda name: (-len(times[name]), name))
    rows = []
    for first, second in itertools.combinations(sorted(names[:MOST_IN_OVERLAPS]), 2):
        row: dict[str, Any] = {
            "label": first,
            "other": second,
            "events": len(times[first]),
            "other_events": len(times[second]),
        }
        try:
            found = activity.overlap(times[first], times[second])
        except ValueError as problem:
            rows.append(row | {"remark": f"one of them has {problem}"})
            continue
        rows.append(
            row | {"overlap": found.value, "low": found.low, "high": found.high, "method": found.method}
        )
    return _table(rows, OVERLAP)


def accumulation_table(merged: MergeResult, counted: Counted, days: int) -> pa.Table:
    """`ACCUMULATION` of the survey's stations."""
    incidence, stations = _incidence(merged, counted)
    if stations < richness.FEWEST_STATIONS or not len(incidence):
        return ACCUMULATION.empty_table()
    expected, error = richness.accumulation(incidence, stations)
    return pa.table([np.arange(1, stations + 1, dtype=np.int32), expected, error], schema=ACCUMULATION)


def richness_table(merged: MergeResult, counted: Counted, days: int) -> pa.Table:
    """`RICHNESS` of the survey, one row."""
    incidence, stations = _incidence(merged, counted)
    row: dict[str, Any] = {
        "stations": stations,
        "observed": len(incidence),
        "at_one_station": int((incidence == 1).sum()),
        "at_two_stations": int((incidence == 2).sum()),
    }
    if stations < richness.FEWEST_STATIONS:
        row["remark"] = f"not estimated: fewer than {richness.FEWEST_STATIONS} stations"
    elif not len(incidence):
        row["remark"] = "not estimated: no species"
    else:
        found = richness.chao2(incidence, stations)
        row |= {"chao2": found.estimate, "error": found.error, "low": found.low, "high": found.high}
    return _table([row], RICHNESS)


ESTIMATES: Mapping[str, Callable[[MergeResult, Counted, int], pa.Table]] = {
    "occupancy": occupancy_table,
    "activity": activity_table,
    "overlap": overlap_table,
    "accumulation": accumulation_table,
    "richness": richness_table,
}
"""Name of a table -> function that makes it from a result, the events that count, and the days in an
occasion."""


def _joined(texts: tuple[str, ...]) -> str | None:
    return "; ".join(texts) or None


def times_of_day(events: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    """Starts of each label's events, as angles; a date without a time of day is not midnight."""
    label, labels = encode(events["label"])
    angle = (microseconds(events["start"]) % DAY) * (2 * np.pi / DAY)
    is_timed = ~flags(events, "date_only")
    return {name: angle[(label == number) & is_timed] for number, name in enumerate(labels.to_pylist())}


def _incidence(merged: MergeResult, counted: Counted) -> tuple[npt.NDArray[np.int64], int]:
    """At how many stations each species was seen, and the number of stations."""
    events = counted.of(merged.table("events").to_table())
    locations = merged.table("locations").to_table(columns=["location"])["location"].to_pylist()
    watched = {*read_deployments(merged)["location"].to_pylist(), *locations} - {"unknown"}
    seen = events.group_by(["label", "location"], use_threads=False).aggregate([])
    seen = seen.filter(pa.array([name in watched for name in seen["location"].to_pylist()], pa.bool_()))
    label, labels = encode(seen["label"])
    return np.bincount(label, minlength=len(labels)).astype(np.int64), len(watched)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; a figure that is not a number is empty."""
    plain = [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in rows
    ]
    return pa.Table.from_pylist(plain, schema=schema)
