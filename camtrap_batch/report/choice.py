"""Which events a report shows photos of: some of each species and camera, and those to review."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.vocabulary import UNCERTAIN

MOST_DOUBTFUL = 24
"""Number of events that the report suggests reviewing first."""

_FRAMES = 8
"""Maximum number of photos of one event."""


def doubtful(events: pa.Table) -> Ints:
    """Rows of schemas.EVENTS that nobody has reviewed, in the order in which people should review them.

    Uncertain ones come first, then the others; each by confidence, the lowest first.
    """
    said = np.zeros(events.num_rows, bool)
    if "label_source" in events.column_names:
        said = _true(pc.equal(events["label_source"], "human"))
    uncertain = _true(pc.equal(events["label"].fill_null(UNCERTAIN), UNCERTAIN))
    confidence = events["confidence"].fill_null(0).to_numpy()
    ids = events["event_id"].to_numpy(zero_copy_only=False)
    order = np.lexsort([ids, confidence, ~uncertain])
    return np.asarray(order[~said[order]], np.int64)


def chosen_events(events: pa.Table, most: int) -> Ints:
    """Rows of at most `most` events, in the order in which their photos are wanted.

    First the most confident event of each species, the events to review first, the surest and most doubtful
    of each camera; then the second of each, and so on.
    """
    n = events.num_rows
    if not n or not most:
        return np.empty(0, np.int64)
    label, _ = encode(events["label"].fill_null(UNCERTAIN))
    location, _ = encode(events["location"])
    confidence = events["confidence"].fill_null(0).to_numpy()
    ids = events["event_id"].to_numpy(zero_copy_only=False)
    is_uncertain = _true(pc.equal(events["label"].fill_null(UNCERTAIN), UNCERTAIN))
    surest = np.lexsort([ids, -confidence, is_uncertain])
    to_check = doubtful(events)
    turn = np.full(n, 1e9)
    for order, groups, first in (
        (surest, label, 0.0),
        (to_check, location, 2.5),
        (surest, location, 2.0),
        (to_check, label, 3.0),
    ):
        rank = _rank_within(groups[order])
        turn[order] = np.minimum(turn[order], first + 4.0 * rank)
    turn[to_check[:MOST_DOUBTFUL]] = np.minimum(turn[to_check[:MOST_DOUBTFUL]], 1.0)
    return np.lexsort([ids, turn])[:most]


def chosen_images(
    order: Sequence[str], best: Mapping[str, str], frames: Mapping[str, Sequence[str]], most: int
) -> tuple[list[str], dict[str, list[str]]]:
    """Images of events to show, and strips of frames for events of which several are shown.

    Half of the photos are the best image of an event; the rest are further frames of events, one event at a
    time, as far as they go.

    Parameters
    ----------
    order : event ids, in the order of `chosen_events`
    best, frames : event id -> its best image; its images in their order
    """
    of_one = [event for event in order if event in best]
    n_best = min(len(of_one), (most + 1) // 2)
    chosen = dict.fromkeys(best[event] for event in of_one[:n_best])
    strips: dict[str, list[str]] = {}
    left = most - len(chosen)
    for event in of_one[:n_best]:
        some = _some(frames.get(event, ()), best[event])
        new = [image for image in some if image not in chosen]
        if len(some) < 2 or len(new) > left:
            continue
        chosen.update(dict.fromkeys(new))
        left -= len(new)
        strips[event] = some
    for event in of_one[n_best:]:
        if left <= 0:
            break
        if best[event] not in chosen:
            chosen[best[event]] = None
            left -= 1
    return list(chosen), strips


def _some(frames: Sequence[str], best: str) -> list[str]:
    """At most `_FRAMES` of an event's frames, evenly spread, the best one among them."""
    if len(frames) <= _FRAMES:
        return list(frames)
    at = np.unique(np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int))
    kept = [frames[number] for number in at]
    if best in frames and best not in kept:
        nearest = int(np.argmin(np.abs(at - list(frames).index(best))))
        kept[nearest] = best
    return kept


def _rank_within(groups: Ints) -> Ints:
    """For each row, how many rows of its group come before it."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    within = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    rank = np.empty(len(groups), np.int64)
    rank[order] = within
    return rank


def _true(values: pa.ChunkedArray | pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(one_chunk(pc.fill_null(values, False)).to_numpy(zero_copy_only=False), np.bool_)


def by_event(frames: pa.Table, events: Iterable[str]) -> dict[str, list[str]]:
    """event_id -> image ids of its frames, in the table's order, from columns event_id and image_id."""
    found: dict[str, list[str]] = {event: [] for event in events}
    for event, image in zip(frames["event_id"].to_pylist(), frames["image_id"].to_pylist(), strict=True):
        if event in found:
            found[event].append(image)
    return found
