"""What is known of each camera location: its images by status, its species, its events."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.events.codes import (
    NO_TIME,
    Ints,
    encode,
    encode_locations,
    microseconds,
    one_chunk,
    starts_of_groups,
    timestamps,
)
from camtrap_batch.store.schemas import LOCATIONS, STATUSES, UNCERTAIN, USABLE


def summarise(
    manifest: pa.Table,
    sequences: pa.Table,
    events: pa.Table,
    cameras: pa.Table | None,
    *,
    empty: str,
    model_id: str,
    predictions_snapshot: int,
    run_time: datetime,
) -> pa.Table:
    """One row for each location of the manifest, also for those without a usable image.

    Parameters
    ----------
    manifest
        Every image: location, status, datetime. Images without a location are counted under
        `UNKNOWN_LOCATION`.
    sequences, events
        As `combine` and `find_events` make them from the usable images.
    cameras
        location, longitude, latitude in degrees, WGS 84; each location once. Cameras that the manifest does
        not know are left out.
    empty
        Label that means: no animal.
    model_id, predictions_snapshot, run_time
        Where the labels come from; `run_time` with a time zone.

    Returns
    -------
    pyarrow.Table
        schemas.LOCATIONS, by location.
    """
    location, locations = encode_locations(manifest["location"])
    n = len(locations)
    status = manifest["status"].cast(pa.string())
    time = microseconds(manifest["datetime"])
    is_usable = one_chunk(pc.is_in(status, pa.array(USABLE))).to_numpy(zero_copy_only=False)
    is_dated = time != NO_TIME
    first, last = np.full(n, NO_TIME), np.full(n, -NO_TIME)
    np.minimum.at(first, location[is_usable & is_dated], time[is_usable & is_dated])
    np.maximum.at(last, location[is_usable & is_dated], time[is_usable & is_dated])

    blank = sequences.filter(pc.equal(sequences["label"], empty))
    n_empty = np.bincount(_codes(blank, locations), blank["n_images"].to_numpy(), minlength=n)
    is_species = pc.not_equal(events["label"], UNCERTAIN)
    species = events.filter(is_species)
    uncertain = events.filter(pc.invert(is_species))
    by_label, richness, top_label = _count_labels(_codes(species, locations), species["label"], n)
    columns = {
        "location": locations,
        **_places(locations, cameras),
        "n_images": np.bincount(location, minlength=n),
        **{
            f"n_{name}": np.bincount(
                location[one_chunk(pc.equal(status, name)).to_numpy(zero_copy_only=False)], minlength=n
            )
            for name in STATUSES
        },
        "n_empty": n_empty.astype(np.int32),
        "n_undated": np.bincount(location[is_usable & ~is_dated], minlength=n),
        "first": timestamps(first),
        "last": timestamps(np.where(last == -NO_TIME, NO_TIME, last)),
        "n_events": np.bincount(_codes(events, locations), minlength=n),
        "n_uncertain": np.bincount(_codes(uncertain, locations), minlength=n),
        "richness": richness,
        "events_by_label": by_label,
        "top_label": top_label,
        "model_id": pa.repeat(model_id, n),
        "predictions_snapshot": pa.repeat(predictions_snapshot, n),
        "run_time": pa.repeat(pa.scalar(run_time, pa.timestamp("us", tz="UTC")), n),
    }
    return pa.table(
        {name: pa.array(column).cast(LOCATIONS.field(name).type) for name, column in columns.items()},
        schema=LOCATIONS,
    )


def _codes(table: pa.Table, locations: pa.Array) -> Ints:
    return np.asarray(one_chunk(pc.index_in(table["location"], locations)).cast(pa.int64()).to_numpy())


def _places(locations: pa.Array, cameras: pa.Table | None) -> dict[str, pa.Array]:
    if cameras is None:
        return {name: pa.nulls(len(locations), pa.float64()) for name in ("longitude", "latitude")}
    row = pc.index_in(locations, one_chunk(cameras["location"]))
    return {name: one_chunk(cameras[name]).take(row) for name in ("longitude", "latitude")}


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
