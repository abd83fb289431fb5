"""What `camtrap table` derives from a result of `merge`: the survey, its species, and species per station."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import encode, one_chunk
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.survey.effort import Counting, effort_by_location, watched_events
from camtrap_batch.survey.result import Counted, counting_of, read_deployments

Doubles = npt.NDArray[np.float64]
_Z = 1.959963984540054  # for a 95 % interval

_RATE = [
    ("events_per_100_trap_nights", pa.float64()),
    ("low", pa.float64()),
    ("high", pa.float64()),
]

SURVEY = pa.schema(
    [
        ("stations", pa.int32()),
        ("stations_without_known_effort", pa.int32()),
        ("stations_without_an_image", pa.int32()),
        ("deployments", pa.int32()),
        ("trap_nights", pa.float64()),
        ("trap_nights_from_images", pa.float64()),
        ("days_out", pa.float64()),
        ("first_day", pa.timestamp("us")),
        ("last_day", pa.timestamp("us")),
        ("images", pa.int64()),
        ("events", pa.int64()),
        ("individuals", pa.int64()),
        ("species", pa.int32()),
        ("result_of_merge", pa.int32()),
        ("counted", pa.string()),
    ]
)
"""One row. `counted` is JSON that says which events count; trap nights are days in the field, and
`trap_nights_from_images` those based on photos."""

SPECIES = pa.schema(
    [
        ("label", pa.string()),
        ("events", pa.int64()),
        ("individuals", pa.int64()),
        ("stations", pa.int32()),
        ("naive_occupancy", pa.float64()),
        ("events_outside_effort", pa.int64()),
        *_RATE,
        ("first", pa.timestamp("us")),
        ("last", pa.timestamp("us")),
        ("effort_source", pa.string()),
    ]
)
"""By number of events. Events at times when no camera worked, `events_outside_effort`, count towards neither
stations nor rates. `naive_occupancy` is the fraction of stations where the species was seen; low and high are
a 95 % interval, see `rate`; `effort_source` is images if any of the effort is based on photos."""

STATION_SPECIES = pa.schema(
    [
        ("location", pa.string()),
        ("label", pa.string()),
        ("events", pa.int64()),
        ("individuals", pa.int64()),
        ("events_outside_effort", pa.int64()),
        ("camera_days", pa.float64()),
        ("events_per_100_trap_nights", pa.float64()),
        ("first", pa.timestamp("us")),
        ("last", pa.timestamp("us")),
        ("effort_source", pa.string()),
    ]
)
"""Each species at each location where it was seen."""


def survey_table(merged: MergeResult, counted: Counted) -> pa.Table:
    """`SURVEY` of a result."""
    deployments = read_deployments(merged)
    events = counted.of(merged.table("events").to_table())
    locations = merged.table("locations").to_table(columns=["location", "n_images"])
    effort = effort_by_location(deployments, counting_of(merged))
    from_images = effort.filter(pc.equal(effort["source"], "images"))
    known = set(effort.filter(effort["days"].is_valid())["location"].to_pylist())
    stations = known | set(locations["location"].to_pylist()) - {"unknown"}
    row = {
        "stations": len(stations),
        "stations_without_known_effort": len(stations - known),
        "stations_without_an_image": pc.sum(pc.equal(locations["n_images"], 0)).as_py() or 0,
        "deployments": deployments.num_rows,
        "trap_nights": pc.sum(effort["days"]).as_py(),
        "trap_nights_from_images": pc.sum(from_images["days"]).as_py() or 0.0,
        "days_out": pc.sum(deployments["days_out"]).as_py() or 0.0,
        "first_day": pc.min(deployments["start"]).as_py(),
        "last_day": pc.max(deployments["end"]).as_py(),
        "images": pc.sum(locations["n_images"]).as_py() or 0,
        "events": events.num_rows,
        "individuals": pc.sum(events["count"]).as_py() or 0,
        "species": len(events["label"].unique()),
        "result_of_merge": merged.number,
        "counted": json.dumps(counted.as_json(), ensure_ascii=False),
    }
    return pa.Table.from_pylist([row], schema=SURVEY)


def species_table(merged: MergeResult, counted: Counted) -> pa.Table:
    """`SPECIES` of a result."""
    events = counted.of(merged.table("events").to_table())
    return species_rows(events, read_deployments(merged), counting_of(merged))


def species_rows(events: pa.Table, deployments: pa.Table, counting: Counting = "station") -> pa.Table:
    """Like `species_table`, from the events that count and the table `deployments`."""
    effort = effort_by_location(deployments, counting)
    watched = effort.filter(pc.fill_null(pc.greater(effort["days"], 0), False))
    days = watched["days"].to_numpy()
    label, labels = encode(events["label"])
    row = pc.index_in(one_chunk(events["location"]), one_chunk(watched["location"]))
    station = row.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    n, k = len(labels), len(days)
    in_effort = watched_events(events, deployments)
    is_in = (station >= 0) & in_effort
    pair, count = np.unique(label[is_in] * max(k, 1) + station[is_in], return_counts=True)
    of, where = np.divmod(pair, max(k, 1))
    rates = np.full((n, 3), np.nan)
    for number in range(n):
        seen = np.zeros(k)
        seen[where[of == number]] = count[of == number]
        rates[number] = rate(seen, days)
    source = (
        None
        if not k
        else "images"
        if "images" in set(watched["source"].to_pylist())
        else (", ".join(sorted(set(watched["source"].to_pylist()))))
    )
    columns = {
        "label": labels,
        **_of_groups(label, n, events),
        "stations": np.bincount(of, minlength=n),
        "naive_occupancy": pa.array(np.bincount(of, minlength=n) / max(k, 1), mask=np.full(n, not k)),
        "events_outside_effort": np.bincount(label[(station >= 0) & ~in_effort], minlength=n),
        **{name: pa.array(rates[:, at], from_pandas=True) for at, (name, _) in enumerate(_RATE)},
        "effort_source": pa.repeat(pa.scalar(source, pa.string()), n),
    }
    table = _cast(columns, SPECIES)
    return table.take(pc.sort_indices(table, [("events", "descending"), ("label", "ascending")]))


def station_species_table(merged: MergeResult, counted: Counted) -> pa.Table:
    """`STATION_SPECIES` of a result."""
    events = counted.of(merged.table("events").to_table())
    deployments = read_deployments(merged)
    effort = effort_by_location(deployments, counting_of(merged))
    location, locations = encode(events["location"])
    label, labels = encode(events["label"])
    pair, group = np.unique(location * max(len(labels), 1) + label, return_inverse=True)
    where, what = np.divmod(pair, max(len(labels), 1))
    row = pc.index_in(locations, one_chunk(effort["location"])).take(pa.array(where))
    days = one_chunk(effort["days"]).take(row)
    counts = _of_groups(group, len(pair), events)
    in_effort = watched_events(events, deployments)
    inside = np.bincount(group[in_effort], minlength=len(pair))
    worked = days.fill_null(0).to_numpy(zero_copy_only=False)
    columns = {
        "location": locations.take(pa.array(where)),
        "label": labels.take(pa.array(what)),
        **counts,
        "events_outside_effort": pa.array(counts["events"] - inside, mask=worked <= 0),
        "camera_days": days,
        "events_per_100_trap_nights": pa.array(
            100 * inside / np.where(worked > 0, worked, 1), mask=worked <= 0
        ),
        "effort_source": one_chunk(effort["source"]).take(row),
    }
    return _cast(columns, STATION_SPECIES)


DERIVED: Mapping[str, Callable[[MergeResult, Counted], pa.Table]] = {
    "survey": survey_table,
    "species": species_table,
    "station_species": station_species_table,
}
"""Name of a table that is made on request -> function that makes it."""


def derive(name: str, merged: MergeResult, counted: Counted) -> pa.Table:
    """A table in `DERIVED`, with the columns of `with_choice`."""
    return with_choice(DERIVED[name](merged, counted), merged, counted)


def with_choice(table: pa.Table, merged: MergeResult, counted: Counted, **more: Any) -> pa.Table:
    """A table with columns that say from which result it is, and with which options: a .csv has no other
    place for this.

    Parameters
    ----------
    more : other options
    """
    text = json.dumps({**counted.as_json(), **more}, ensure_ascii=False)
    choice = {"result_of_merge": merged.number, "counted": text}
    for name, value in choice.items():
        if name not in table.column_names:
            field = SURVEY.field(name)
            table = table.append_column(field, pa.repeat(pa.scalar(value, field.type), table.num_rows))
    # A table without rows also says so, if the format has a place for it.
    return table.replace_schema_metadata({name: str(value) for name, value in choice.items()})


def rate(events: Doubles, days: Doubles) -> tuple[float, float, float]:
    """Events per 100 days, and its 95 % interval.

    Stations are the sample: the rate is the ratio of sums, its variance that of the ratio estimator over
    stations (Cochran 1977, Sampling Techniques, eq. 6.13, for an infinite population), but at least that of a
    Poisson count; the interval is symmetric on the logarithmic scale. For a single station it is only
    Poisson's.

    Parameters
    ----------
    events, days : (stations,) events and days of each station; days above 0

    Returns
    -------
    rate, low, high; NaN if there is no day, low and high NaN if there is no event
    """
    total, worked, n = events.sum(), days.sum(), len(days)
    if worked <= 0:
        return np.nan, np.nan, np.nan
    ratio = total / worked
    if total == 0:
        return 0.0, np.nan, np.nan
    variance = total / worked**2
    if n > 1:
        variance = max(variance, n / (n - 1) * float(((events - ratio * days) ** 2).sum()) / worked**2)
    spread = np.exp(_Z * np.sqrt(variance) / ratio)
    return 100 * ratio, 100 * ratio / spread, 100 * ratio * spread


def _of_groups(group: npt.NDArray[np.int64], n: int, events: pa.Table) -> dict[str, Any]:
    """Number of events and individuals, and first and last start, of each group."""
    start = one_chunk(events["start"]).cast(pa.int64()).to_numpy(zero_copy_only=False)
    first, last = np.full(n, np.iinfo(np.int64).max), np.full(n, np.iinfo(np.int64).min)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, start)
    count = events["count"].fill_null(1).to_numpy()
    return {
        "events": np.bincount(group, minlength=n),
        "individuals": np.bincount(group, count, minlength=n).astype(np.int64),
        "first": pa.array(first, pa.int64()).cast(pa.timestamp("us")),
        "last": pa.array(last, pa.int64()).cast(pa.timestamp("us")),
    }


def _cast(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table(
        {field.name: pa.array(columns[field.name]).cast(field.type) for field in schema}, schema=schema
    )
