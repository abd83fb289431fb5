"""What is known about each camera location: its images by status, its species, its events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import NO_TIME, elapsed, microseconds, timestamps
from camtrap_batch.codes import Ints, encode, if_else, one_chunk
from camtrap_batch.events.codes import Bools, encode_locations, flags, starts_of_groups
from camtrap_batch.store.schemas import LOCATIONS
from camtrap_batch.vocabulary import PEOPLE, STATUSES, UNCERTAIN, USABLE

_DAY = 86_400_000_000  # microseconds

Doubles = npt.NDArray[np.float64]


def count_wildlife(row: Mapping[str, Any]) -> int:
    """Number of species in a row of schemas.LOCATIONS without people and vehicles, which `richness` counts
    too.

    >>> count_wildlife({"richness": 2, "events_by_label": [{"label": "Vehicle", "n": 1}]})
    1
    """
    seen = row["events_by_label"] or ()
    return (row["richness"] or 0) - sum(entry["label"].casefold() in PEOPLE for entry in seen)


def summarise(
    manifest: pa.Table,
    sequences: pa.Table,
    events: pa.Table,
    cameras: pa.Table | None,
    *,
    empty: str,
    model_id: str | None,
    predictions_snapshot: int,
    run_time: datetime,
    dubious: pa.Table | None = None,
    effort: pa.Table | None = None,
    rated: Bools | None = None,
) -> pa.Table:
    """One row for each location of the manifest or of `cameras`, including those without a usable image.

    Parameters
    ----------
    manifest
        Every image: location, status, datetime, and utc_offset_minutes where it is known. Images without a
        location are counted under `UNKNOWN_LOCATION`.
    sequences, events
        Results of `combine` and `find_events` for the usable images.
    cameras
        location, longitude, latitude in degrees, WGS 84; each location once. A camera that the manifest does
        not have gets a row without images.
    empty
        Label that means: no animal.
    model_id, predictions_snapshot, run_time
        Where the labels come from; `run_time` with a time zone.
    dubious
        The location of each usable image whose date is a finding; None if there are no findings yet.
    effort
        Locations with known deployments: location, days in the field, and their source. For others the dates
        with a usable image count.
    rated
        Which of `events` count in the rate of their location, see `survey.effort.rated_events`; None: all.

    Returns
    -------
    pyarrow.Table
        schemas.LOCATIONS, by location.
    """
    known = [] if cameras is None else one_chunk(cameras["location"]).cast(pa.string())
    named = pa.chunked_array([*manifest["location"].cast(pa.string()).chunks, known], pa.string())
    location, locations = encode_locations(named)
    n = len(locations)
    of_images, n_days = _of_images(manifest, location[: manifest.num_rows], n)
    blank = sequences.filter(pc.equal(sequences["label"], empty))
    days, source = _effort(locations, n_days, effort)
    coordinates = _coordinates(locations, cameras)
    columns = {
        "location": locations,
        **coordinates,
        **of_images,
        "n_empty": np.bincount(_codes(blank, locations), blank["n_images"].to_numpy(), minlength=n).astype(
            np.int32
        ),
        **_of_events(events, locations, days, rated),
        "model_id": pa.repeat(pa.scalar(model_id, pa.string()), n),
        "predictions_snapshot": pa.repeat(predictions_snapshot, n),
        "run_time": pa.repeat(pa.scalar(run_time, pa.timestamp("us", tz="UTC")), n),
        "camera_days": days,
        "effort_source": source,
        "n_date_findings": pa.nulls(n, pa.int32())
        if dubious is None
        else np.bincount(_codes(dubious, locations), minlength=n),
        "geometry": _points(coordinates["longitude"], coordinates["latitude"]),
        "corrected_by_label": pa.nulls(n, LOCATIONS.field("corrected_by_label").type),
    }
    return pa.table(
        {field.name: pa.array(columns[field.name]).cast(field.type) for field in LOCATIONS}, schema=LOCATIONS
    )


def _of_images(manifest: pa.Table, location: Ints, n: int) -> tuple[dict[str, Any], Ints]:
    """Columns about the images of each of n locations, and on how many dates each has a usable one."""
    status = one_chunk(manifest["status"].cast(pa.string()))
    time = microseconds(manifest["datetime"])
    is_usable = _true(pc.is_in(status, pa.array(USABLE)))
    is_dated = time != NO_TIME
    first, last = _ends(manifest, location, time, is_usable & is_dated, n)
    columns = {
        "n_images": np.bincount(location, minlength=n),
        **{
            f"n_{name}": np.bincount(location[_true(pc.equal(status, name))], minlength=n)
            for name in STATUSES
        },
        "n_undated": np.bincount(location[is_usable & ~is_dated], minlength=n),
        "first": timestamps(first),
        "last": timestamps(last),
    }
    return columns, _count_days(location[is_usable & is_dated], time[is_usable & is_dated], n)


def _of_events(events: pa.Table, locations: pa.Array, days: Doubles, rated: Bools | None) -> dict[str, Any]:
    """Columns about the events of each location; `days`: for how long cameras worked at each."""
    n = len(locations)
    is_species = pc.not_equal(events["label"], UNCERTAIN)
    species = events.filter(is_species)
    uncertain = events.filter(pc.invert(is_species))
    where = _codes(species, locations)
    by_label, _, _ = _count_labels(where, species["label"], n)
    is_group = _true(species["rank"].is_valid())
    ungrouped = species.filter(pa.array(~is_group))
    _, richness, top_label = _count_labels(where[~is_group], ungrouped["label"], n)
    hour = one_chunk(pc.hour(species["start"])).to_numpy(zero_copy_only=False).astype(np.int64)
    is_timed = ~flags(species, "date_only")  # a date without a time of day does not mean midnight
    activity = np.bincount(where[is_timed] * 24 + hour[is_timed], minlength=n * 24)
    is_rated = np.ones(len(where), np.bool_) if rated is None else rated[_true(is_species)]
    rate = 100 * np.bincount(where[is_rated], minlength=n) / np.where(days > 0, days, 1)
    return {
        "n_events": np.bincount(_codes(events, locations), minlength=n),
        "n_uncertain": np.bincount(_codes(uncertain, locations), minlength=n),
        "richness": richness,
        "events_by_label": by_label,
        "top_label": top_label,
        "detections_per_100_days": pa.array(rate, mask=days == 0),
        "activity_by_hour": pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1) * 24, pa.int32()), pa.array(activity, pa.int32())
        ),
    }


def _true(column: pa.Array | pa.ChunkedArray) -> Bools:
    return np.asarray(one_chunk(column).to_numpy(zero_copy_only=False), np.bool_)


def _codes(table: pa.Table, locations: pa.Array) -> Ints:
    return np.asarray(one_chunk(pc.index_in(table["location"], locations)).cast(pa.int64()).to_numpy())


def _coordinates(locations: pa.Array, cameras: pa.Table | None) -> dict[str, pa.Array]:
    if cameras is None:
        return {name: pa.nulls(len(locations), pa.float64()) for name in ("longitude", "latitude")}
    row = pc.index_in(locations, one_chunk(cameras["location"]))
    return {name: one_chunk(cameras[name]).take(row) for name in ("longitude", "latitude")}


def _ends(manifest: pa.Table, location: Ints, time: Ints, used: Bools, n: int) -> tuple[Ints, Ints]:
    """What the clock showed at the first and at the last of the images `used` of each location."""
    moment, at, shown = elapsed(manifest, time, location)[used], location[used], time[used]
    first, last = np.full(n, NO_TIME), np.full(n, -NO_TIME)
    np.minimum.at(first, at, moment)
    np.maximum.at(last, at, moment)
    ends = np.full((2, n), NO_TIME)
    for clock, of in zip(ends, (first, last), strict=True):
        is_it = moment == of[at]
        clock[at[is_it]] = shown[is_it]
    return ends[0], ends[1]


def _count_days(location: Ints, time: Ints, n: int) -> Ints:
    """Number of distinct dates at each location."""
    day = time // _DAY
    order = np.lexsort((day, location))
    is_new = starts_of_groups(location[order], day[order])
    return np.bincount(location[order][is_new], minlength=n)


def _effort(locations: pa.Array, dates: Ints, effort: pa.Table | None) -> tuple[Doubles, pa.Array]:
    """Days at each location, and what they are based on."""
    days = dates.astype(np.float64)
    source = np.array([None, "images"], object)[(dates > 0).astype(int)]
    if effort is not None:
        known = effort.filter(effort["days"].is_valid())
        row = one_chunk(pc.index_in(locations, one_chunk(known["location"])))
        is_known = row.is_valid().to_numpy(zero_copy_only=False)
        rows = row.fill_null(0).to_numpy()[is_known]
        days[is_known] = known["days"].to_numpy()[rows]
        source[is_known] = known["source"].to_numpy()[rows]
    return days, pa.array(source, pa.string())


def _points(longitude: pa.Array, latitude: pa.Array) -> pa.Array:
    """Points as well-known binary (OGC 06-103r4, clause 8); null if the coordinates are not known."""
    wkb = np.zeros(len(longitude), [("order", "<u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])
    wkb["order"], wkb["kind"] = 1, 1
    wkb["x"], wkb["y"] = (axis.fill_null(0).to_numpy(zero_copy_only=False) for axis in (longitude, latitude))
    points = pa.Array.from_buffers(pa.binary(wkb.itemsize), len(wkb), [None, pa.py_buffer(wkb.tobytes())])
    return if_else(pc.and_(longitude.is_valid(), latitude.is_valid()), points.cast(pa.binary()), None)


def _count_labels(location: Ints, label: pa.ChunkedArray, n: int) -> tuple[pa.Array, Ints, pa.Array]:
    """Per location: labels with the number of their events, most frequent first; how many; the first one."""
    code, labels = encode(label)
    key, count = np.unique(location * max(len(labels), 1) + code, return_counts=True)
    where, what = np.divmod(key, max(len(labels), 1))
    order = np.lexsort((what, -count, where))
    names = labels.take(pa.array(what[order]))
    richness = np.bincount(where, minlength=n)
    offsets = np.append(0, np.cumsum(richness))
    kind = LOCATIONS.field("events_by_label").type
    entries = pa.StructArray.from_arrays(
        [names, pa.array(count[order], pa.int32())], fields=list(kind.value_type)
    )
    by_label = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), entries)
    is_top = starts_of_groups(where)
    top = np.full(n, -1, np.int64)
    top[where[is_top]] = np.flatnonzero(is_top)
    return by_label, richness, names.take(pa.array(top, mask=top < 0))
