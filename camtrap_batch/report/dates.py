"""When the images were taken: the study period, and each camera's, without dates that a broken clock made."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.clocks import NO_TIME, microseconds
from camtrap_batch.codes import Ints, one_chunk
from camtrap_batch.events.codes import encode_locations

DAY = 86_400_000_000
"""Microseconds."""

_YEARS = 730 * DAY
_RIM = 0.01
_FEW, _FEW_SHARE = 5, 0.01

Span = tuple[dt.datetime, dt.datetime]


@dataclass(frozen=True)
class Dates:
    """First and last date, camera time.

    Attributes
    ----------
    first, last : first and last date of all images that count; None if none does
    by_location : the same for each location
    n_dated : number of images with a date
    n_doubted : number of those whose date is a finding, or far from all others
    """

    first: dt.datetime | None
    last: dt.datetime | None
    by_location: Mapping[str, Span] = field(default_factory=dict)
    n_dated: int = 0
    n_doubted: int = 0


def find_dates(
    location: pa.Array | pa.ChunkedArray, taken: pa.Array | pa.ChunkedArray, is_doubted: npt.NDArray[np.bool_]
) -> Dates:
    """The dates of n images.

    Parameters
    ----------
    location, taken : (n,) as in schemas.MANIFEST
    is_doubted : (n,) whether a finding says that the date may be wrong
    """
    codes, names = encode_locations(pa.chunked_array([one_chunk(location)]))
    time = microseconds(pa.chunked_array([one_chunk(taken)]))
    is_dated = time != NO_TIME
    counts = is_dated & ~is_doubted
    counts[counts] = _among_others(time[counts])
    n_dated, n_left = int(is_dated.sum()), int(counts.sum())
    if not n_left:
        return Dates(None, None, {}, n_dated, n_dated)
    first = np.full(len(names), NO_TIME)
    last = np.full(len(names), -NO_TIME)
    np.minimum.at(first, codes[counts], time[counts])
    np.maximum.at(last, codes[counts], time[counts])
    spans = {
        name: (_date(first[number]), _date(last[number]))
        for number, name in enumerate(names.to_pylist())
        if first[number] != NO_TIME
    }
    return Dates(_date(first.min()), _date(last.max()), spans, n_dated, n_dated - n_left)


def near(time: Ints) -> npt.NDArray[np.bool_]:
    """Which times (n,), in microseconds, are not so far from all others that they would distort a chart."""
    if not len(time):
        return np.zeros(0, np.bool_)
    low, high = np.quantile(time, [_RIM, 1 - _RIM])
    margin = max((high - low) / 2, 30 * DAY)
    return np.asarray((time >= low - margin) & (time <= high + margin))


def _among_others(time: Ints) -> npt.NDArray[np.bool_]:
    """Which times (n,) are not those of a clock that was never set: few, and years away from all others."""
    order = np.argsort(time, kind="stable")
    group = np.cumsum(np.diff(time[order], prepend=time[order[:1]]) > _YEARS)
    sizes = np.bincount(group)
    is_large = sizes >= max(_FEW_SHARE * len(time), min(_FEW, len(time) / 10))
    kept = np.zeros(len(time), np.bool_)
    kept[order] = is_large[group]
    return kept


def _date(time: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=int(time))
