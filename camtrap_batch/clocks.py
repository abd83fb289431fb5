"""Times of columns as integers: what a camera's clock showed, and the time that really passed.

Clocks rule for what is shown and for the hour of the day. Where it matters how much time passed, or what came
first, known offsets count: an hour by which clocks were put back has still passed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, one_chunk

NO_TIME = np.iinfo(np.int64).max
"""Stands for a missing date, so that undated images sort last."""

MINUTE = 60_000_000
"""Microseconds."""


def microseconds(column: pa.ChunkedArray) -> Ints:
    """Timestamps as integers; `NO_TIME` for null."""
    values = one_chunk(column).cast(pa.timestamp("us")).cast(pa.int64()).fill_null(NO_TIME)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def timestamps(values: Ints) -> pa.Array:
    """The reverse of `microseconds`."""
    return pa.array(values, pa.int64(), mask=values == NO_TIME).cast(pa.timestamp("us"))


def elapsed(images: pa.Table, time: Ints, location: Ints) -> Ints:
    """Times on a line on which an hour is an hour: in UTC if the offsets of a location's clocks are known.

    So a burst across the end of summer time stays one burst. If only some of a location's dates have offsets,
    its clocks' times are compared as they are.

    Parameters
    ----------
    images : n images; a column `utc_offset_minutes` is not needed
    time : (n,) local time, as returned by `microseconds`
    location : (n,) number of each image's location, from 0; -1 if it has none
    """
    if "utc_offset_minutes" not in images.column_names:
        return time
    column = one_chunk(images["utc_offset_minutes"])
    if column.null_count == len(column):
        return time
    minutes = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    is_dated = time != NO_TIME
    lacks = is_dated & column.is_null().to_numpy(zero_copy_only=False)
    n_lacking = np.bincount(location[lacks] + 1, minlength=int(location.max(initial=-1)) + 2)
    is_known = is_dated & (n_lacking[location + 1] == 0)
    return np.where(is_known, time - minutes * MINUTE, time)


def with_some_offsets(images: pa.Table) -> list[str]:
    """Locations of which only some dates have an offset, so that their clocks count (see `elapsed`); sorted.

    `images` : columns location, datetime and utc_offset_minutes
    """
    dated = images.filter(pc.is_valid(images["datetime"]))
    if dated["utc_offset_minutes"].null_count in (0, len(dated)):
        return []
    known = dated.group_by("location").aggregate([("utc_offset_minutes", "count"), ([], "count_all")])
    n_known = known["utc_offset_minutes_count"]
    is_some = pc.and_(pc.greater(n_known, 0), pc.less(n_known, known["count_all"]))
    names: list[str] = known["location"].filter(is_some).drop_null().to_pylist()
    return sorted(names)


def elapsed_bounds(span: tuple[int, int], time: Ints, moment: Ints) -> tuple[int, int]:
    """What a camera's clock showed at the start and at the end of something, on the line of `elapsed`.

    Each gets the offset of the photo that is nearest to it by the clock; of several, the start that of the
    first, the end that of the last.

    Parameters
    ----------
    span : start and end in microseconds, camera time
    time, moment : (n,) times of its photos by its clock and as `elapsed` gives them, the earliest first
    """
    if not len(time) or (time == moment).all():
        return span
    start, end = (np.abs(time - shown) for shown in span)
    nearest = int(start.argmin()), len(end) - 1 - int(end[::-1].argmin())
    first, last = (shown - int(time[at] - moment[at]) for shown, at in zip(span, nearest, strict=True))
    return first, last
