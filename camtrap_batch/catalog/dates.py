"""Capture times as metadata writes them: local camera time, and the clock's offset where the text has one."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

NULL_OFFSET = np.iinfo(np.int32).min
"""Stands for an unknown offset."""

KNOWN_FORMS = "2022-12-31 09:52:50 (also with T, Z, +02:00, fractions), 2022:12:31 09:52:50, 12/31/2022 9:52"

_NO_DATE = frozenset({"unknown", "none", "null", "nan", "nat", "n/a", "na", "-"})

_EARLIEST = 1900  # before that a clock was never set
# Whatever this matches is a date, and can be parsed a column at a time; all else is looked at row by row.
_COMMON = (
    r"^(?:19|2\d)\d{2}"
    r"-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    r"[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?$"
)
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
    is_given = column.is_valid().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(np.isnat(values) & is_given).tolist():
        text = column[row].as_py()
        if not text.strip():
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
    return values, offsets, placeholders, strange


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
    local = pc.utf8_slice_codeunits(texts, 0, 19)
    # A missing time is NaT on its way to NumPy; the copy may be written to.
    values = local.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).copy()
    offsets = np.full(len(texts), NULL_OFFSET, np.int32)
    with_zone = pc.greater(pc.binary_length(texts), 19).fill_null(False).to_numpy(zero_copy_only=False)
    if with_zone.any():
        zones = pc.utf8_slice_codeunits(texts.filter(pa.array(with_zone)), 19, 25).dictionary_encode()
        minutes = np.array([offset_minutes(zone) for zone in zones.dictionary.to_pylist()], np.int32)
        offsets[with_zone] = minutes[zones.indices.to_numpy()]
    return values, offsets


def _date(
    parts: tuple[str | None, ...], half: str | None, zone: str | None
) -> tuple[dt.datetime, int | None] | None:
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    if half is not None:
        hour = hour % 12 + (12 if half.upper() == "PM" else 0)
    if year < _EARLIEST or month == 0 or day == 0:
        return None
    return dt.datetime(year, month, day, hour, minute, second), offset_minutes(zone) if zone else None
