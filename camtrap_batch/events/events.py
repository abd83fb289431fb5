"""Labelled images -> independent events of a species at a camera location."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import NO_TIME, elapsed, microseconds, timestamps
from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.events.codes import Bools, flags, short_hash, starts_of_groups
from camtrap_batch.events.sequences import HUMAN, MACHINE, TRAIT_TYPES, TRAITS, by_machine, says_something
from camtrap_batch.store.schemas import EVENTS


class Events(NamedTuple):
    """Events, and what became of each image.

    Attributes
    ----------
    events : schemas.EVENTS, by location, start, label
    event_id : string array, for each row of `frames` as given; null if it belongs to no event
    n_undated : number of images that would belong to an event if they had a date
    """

    events: pa.Table
    event_id: pa.Array
    n_undated: int


def find_events(frames: pa.Table, *, empty: str, gap_min: float) -> Events:
    """Group the images of a label at a location into events.

    A new event begins with an image that comes more than `gap_min` minutes after the previous image with that
    label at that location, so an animal that stays is one event however long it stays. `UNCERTAIN` counts as
    a label of its own, and so does each group. Images without an animal, without a label or without a date
    belong to no event.

    Parameters
    ----------
    frames
        Images labelled by `combine` (sequences.FRAMES); one that shows several species has a row for
        each. A column `count`, boxes of animals in the image, makes the event's count its largest value;
        without one it is 1. `utc_offset_minutes` and `date_only` as in `combine`.
    empty
        Label that means that there is no animal.
    gap_min
        Minutes.
    """
    all_times = microseconds(frames["datetime"])
    has_label = pc.fill_null(pc.not_equal(frames["label"], empty), False)
    is_seen = one_chunk(has_label).to_numpy(zero_copy_only=False)
    used = np.flatnonzero(is_seen & (all_times != NO_TIME))
    seen = frames.take(pa.array(used))
    time = all_times[used]
    location, locations = encode(seen["location"])
    label, labels = encode(seen["label"])
    image, images = encode(seen["image_id"])

    moment = elapsed(seen, time, location)
    order = np.lexsort((image, moment, label, location))
    is_first = starts_of_groups(location[order], label[order])
    is_first[1:] |= np.diff(moment[order]) > round(gap_min * 60e6)
    begins = np.flatnonzero(is_first)
    event = np.empty(len(order), np.int64)
    event[order] = np.cumsum(is_first) - 1
    first = order[begins]
    last = order[np.append(begins[1:], len(order)) - 1] if len(begins) else first

    own = seen["image_confidence"].cast(pa.float32()).fill_null(-1).to_numpy()
    best = np.lexsort((image, -own, event))[begins]
    confidence = seen["confidence"].cast(pa.float32()).to_numpy()[order]
    if "count" in seen.column_names:
        count = np.maximum(seen["count"].fill_null(1).cast(pa.int32()).to_numpy(), 1)[order]
    else:
        count = np.ones(len(order), np.int32)
    columns = {
        "location": locations.take(pa.array(location[first])),
        "label": labels.take(pa.array(label[first])),
        "start": timestamps(time[first]),
        "end": timestamps(time[last]),
        "n_images": pa.array(np.diff(begins, append=len(order)), pa.int32()),
        "count": pa.array(np.maximum.reduceat(count, begins) if len(begins) else count),
        "confidence": pa.array(np.maximum.reduceat(confidence, begins) if len(begins) else confidence),
        "best_image_id": images.take(pa.array(image[best])),
        "rank": one_chunk(seen["rank"]).take(pa.array(first)),
        "date_only": _true_or_null(flags(seen, "date_only")[order], begins),
        **_said(seen, event, len(begins)),
    }
    firsts = images.take(pa.array(image[first]))
    event_id = pa.array(
        map(short_hash, *(part.to_pylist() for part in (columns["location"], columns["label"], firsts))),
        pa.string(),
    )
    events = pa.table({"event_id": event_id, **columns}, schema=EVENTS)
    in_order = np.lexsort((label[first], moment[first], location[first]))
    of = np.full(frames.num_rows, -1, np.int64)
    of[used] = event
    return Events(
        events.take(pa.array(in_order)),
        event_id.take(pa.array(of, mask=of < 0)),
        int(is_seen.sum()) - len(used),
    )


def _true_or_null(is_so: Bools, begins: Ints) -> pa.Array:
    """Whether it holds for any of each group's rows: true, otherwise null."""
    found = np.logical_or.reduceat(is_so, begins) if len(begins) else is_so
    return pa.array(found, pa.bool_(), mask=~found)


def _said(seen: pa.Table, event: npt.NDArray[np.int64], n: int) -> dict[str, pa.Array]:
    """Whether a person labelled part of each event, and what was said about its animals, if all agree."""
    if "label_source" not in seen.column_names:
        return by_machine(n)
    is_human = pc.fill_null(pc.equal(seen["label_source"], HUMAN), False)
    human = np.zeros(n, bool)
    human[event[one_chunk(is_human).to_numpy(zero_copy_only=False)]] = True
    columns = {"label_source": pc.if_else(pa.array(human), HUMAN, MACHINE)}
    for name in TRAITS:
        code, values = encode(seen[name])
        said = np.flatnonzero((code >= 0) & says_something(seen[name]))
        pairs = np.unique(np.stack([event[said], code[said]]), axis=1)
        times = np.bincount(pairs[0], minlength=n)
        one = np.zeros(n, np.int64)
        np.maximum.at(one, pairs[0], pairs[1])
        if name == "classified_at":  # the latest time counts
            times = np.minimum(times, 1)
        columns[name] = values.cast(TRAIT_TYPES[name]).take(pa.array(one, mask=times != 1))
    return columns
