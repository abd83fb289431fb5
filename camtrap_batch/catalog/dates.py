"""Capture times as metadata writes them: local camera time, and the clock's offset where the text has one."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

NULL_OFFSET = np.iinfo(np.int32).min
"""Stands for an unknown offset."""

KNOWN_FORMS = "2022-12-31 09:52:50 (also with T, Z, +02:00, fractions), 2022:12:31 09:52:50, 12/31/2022 9:52"

_NO_DATE = frozenset({"unknown", "none", "null", "nan", "nat", "n/a", "na", "-"})

_EARLIEST = 1900  # before that a clock was never set
_COMMON = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:?\d{2})?$"
_YEAR_FIRST = re.compile(
    r"(\d{4})([-:/.])(\d{1,2})\2(\d{1,2})(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?)?"
    r"\s*(Z|[+-]\d{2}:?\d{2})?"
)
_YEAR_LAST = re.compile(
    r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AP]M)?)?",
    re.IGNORECASE,
)


def parse_dates(
    texts: Sequence[str | None] | pa.StringArray,
) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int32], list[int], list[int]]:
    """Parse a column of dates.

    Parameters
    ----------
    texts : n dates, None or blank where there is none

    Returns
    -------
    times : (n,) datetime64[us], local camera time; NaT where there is none
    offsets : (n,) int32, minutes east of UTC; `NULL_OFFSET` where the text has none
    placeholders : rows that say that the date is not known: a word, all zeros, a year before 1900
    strange : rows whose text is no date in a known form, can't be (month 13), or does not tell day from month
    """
    column = texts if isinstance(texts, pa.StringArray) else pa.array(texts, pa.string())
    values, offsets = _common(column)
    placeholders: list[int] = []
    strange: list[int] = []
    too_early = np.flatnonzero(values < np.datetime64(f"{_EARLIEST}-01-01"))
    placeholders += too_early.tolist()
    values[too_early] = np.datetime64("NaT")
    offsets[too_early] = NULL_OFFSET
    for row in np.flatnonzero(np.isnat(values)).tolist():
        text = column[row].as_py()
        if row in too_early or text is None or not text.strip():
            continue
        try:
            parsed = parse_date(text)
        except ValueError:
            strange.append(row)
            continue
        if parsed is None:
            placeholders.append(row)
        else:
            values[row] = np.datetime64(parsed[0], "us")
            offsets[row] = NULL_OFFSET if parsed[1] is None else parsed[1]
    return values, offsets, sorted(placeholders), strange


def parse_date(text: str) -> tuple[dt.datetime, int | None] | None:
    """One date: local camera time and the offset in minutes; None for a placeholder; else ValueError.

    >>> parse_date("2022-12-31T09:52:50+02:00")
    (datetime.datetime(2022, 12, 31, 9, 52, 50), 120)
    >>> parse_date("0000:00:00 00:00:00") is None
    True
    """
    text = text.strip()
    if text.lower() in _NO_DATE:
        return None
    if match := _YEAR_FIRST.fullmatch(text):
        year, _, month, day, hour, minute, second, zone = match.groups()
        return _date((year, month, day, hour, minute, second), None, zone)
    if match := _YEAR_LAST.fullmatch(text):
        first, separator, then, year, hour, minute, second, half = match.groups()
        # Dots are written day first; with strokes or hyphens only a number above 12 tells which is the day.
        if separator == "." or int(first) > 12:
            day, month = first, then
        elif int(then) > 12 or first == then:
            day, month = then, first
        else:
            raise ValueError(text)
        return _date((year, month, day, hour, minute, second), half, None)
    raise ValueError(text)


def offset_minutes(text: str) -> int:
    """
    >>> offset_minutes("+02:00"), offset_minutes("-0330"), offset_minutes("Z")
    (120, -210, 0)

    ValueError for one that no clock on earth shows.
    """
    if text == "Z":
        return 0
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    if minutes >= 15 * 60 or int(digits[2:]) >= 60:
        raise ValueError(text)
    return -minutes if text[0] == "-" else minutes


def _common(texts: pa.Array) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int32]]:
    """Times and offsets of texts in the form that most metadata have; NaT and `NULL_OFFSET` of others."""
    texts = pc.if_else(pc.match_substring_regex(texts, _COMMON), texts, None)
    zones = pc.utf8_slice_codeunits(texts, 19, 25).fill_null("").dictionary_encode()
    minutes = np.array([_minutes(zone) for zone in zones.dictionary.to_pylist()], np.float64)
    of_text = minutes[zones.indices.to_numpy()]  # NaN: no clock shows it
    dates, times = (pc.utf8_slice_codeunits(texts, start, stop) for start, stop in ((0, 10), (11, 19)))
    # Given the whole texts, pandas takes words such as "now" for times, too.
    local = pc.binary_join_element_wise(dates, times, " ").to_pandas()
    parsed = pd.to_datetime(local, format="%Y-%m-%d %H:%M:%S", errors="coerce")
    values = parsed.to_numpy(dtype="datetime64[us]", na_value=np.datetime64("NaT")).copy()
    values[np.isnan(of_text)] = np.datetime64("NaT")
    offsets = np.where(np.isnat(values), np.float64(NULL_OFFSET), of_text)
    return values, offsets.astype(np.int32)


def _minutes(zone: str) -> float:
    try:
        return offset_minutes(zone) if zone else NULL_OFFSET
    except ValueError:
        return np.nan


def _date(
    parts: tuple[str | None, ...], half: str | None, zone: str | None
) -> tuple[dt.datetime, int | None] | None:
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    if half is not None:
        hour = hour % 12 + (12 if half.upper() == "PM" else 0)
    if year < _EARLIEST or month == 0 or day == 0:
        return None
    return dt.datetime(year, month, day, hour, minute, second), offset_minutes(zone) if zone else None
