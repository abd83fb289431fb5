"""Capture times as people and cameras write them: local camera time, and the clock's offset if the text has
one.

The rules are the same for metadata, tables and EXIF. Whether 03/04/2022 is in March or April is not guessed:
another date of the same column settles it (31/05/2022 does), or the job file (`dataset.dates`).
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError

NULL_OFFSET = np.iinfo(np.int32).min
"""Stands for an unknown offset."""

KNOWN_FORMS = (
    "2022-12-31 09:52:50 (also with T, Z, +02:00, PM, fractions, or the date alone), 2022:12:31 09:52:50, "
    "31.12.2022 9:52, and 31/12/2022 or 12/31/2022 in one order per column"
)

Order = Literal["dmy", "mdy"]
"""Which comes first if the year comes last: the day or the month."""

MOST_UNREADABLE = 0.05
"""Fraction of a column's dates that may be unreadable; a table with more is refused."""

_NO_DATE = frozenset({"unknown", "none", "null", "nan", "nat", "n/a", "na", "#n/a", "#na", "<na>", "-"})

_EARLIEST = 1900  # an earlier year means that the clock was never set
# Whatever this matches is a date, and can be parsed a column at a time; the rest is parsed row by row.
_COMMON = (
    r"^(?:19|2\d)\d{2}"
    r"-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    r"[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?$"
)
_TIME = (
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:[.,]\d+)?)?"
    r"\s*(?P<half>[AP]\.?M\.?)?)?\s*(?P<zone>Z|[+-]\d{2}:?\d{2})?"
)
_YEAR_FIRST = re.compile(
    r"(?P<year>\d{4})(?P<sign>[-:/.])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})" + _TIME, re.IGNORECASE
)
_YEAR_LAST = re.compile(
    r"(?P<first>\d{1,2})(?P<sign>[-/.])(?P<then>\d{1,2})(?P=sign)(?P<year>\d{4})" + _TIME, re.IGNORECASE
)


class _Undecided(ValueError):
    """Day and month can't be told apart."""


@dataclass(frozen=True)
class Dates:
    """A column of n dates.

    Attributes
    ----------
    times : (n,) datetime64[us], local camera time; NaT if there is none; midnight where `date_only`
    offsets : (n,) int32, minutes east of UTC; `NULL_OFFSET` where the text has none
    date_only : (n,) bool, whether the text has no time of day
    placeholders : rows that say that the date is unknown: a word, all zeros, a year before 1900
    strange : rows whose text is not a date in a known form, or is impossible (month 13)
    undecided : rows that leave day and month open, if nothing else in the column settles it
    day_first, month_first : the first row that can only be read in that order; None if there is none
    """

    times: npt.NDArray[np.datetime64]
    offsets: npt.NDArray[np.int32]
    date_only: npt.NDArray[np.bool_]
    placeholders: list[int]
    strange: list[int]
    undecided: list[int]
    day_first: int | None = None
    month_first: int | None = None


def parse_dates(texts: Sequence[str | None] | pa.StringArray, order: Order | None = None) -> Dates:
    """Parse a column of dates, None or blank where there is none.

    Parameters
    ----------
    order : order of day and month in ambiguous texts; default: that of the column's other texts
    """
    column = texts if isinstance(texts, pa.StringArray) else pa.array(texts, pa.string())
    values, offsets = _common(column)
    date_only = np.zeros(len(column), bool)
    placeholders: list[int] = []
    strange: list[int] = []
    open_rows: list[tuple[int, str]] = []
    firsts: dict[Order, int] = {}
    hints: set[Order] = set()  # from impossible dates, such as 31/04
    rows = np.flatnonzero(np.isnat(values) & column.is_valid().to_numpy(zero_copy_only=False))

    def take(row: int, text: str, order: Order | None) -> None:
        try:
            parsed = parse_date(text, order)
        except _Undecided:
            open_rows.append((row, text))
        except ValueError:
            strange.append(row)
            if (written := _written_order(text)) is not None:
                hints.add(written)
        else:
            if parsed is None:
                placeholders.append(row)
                return
            values[row] = np.datetime64(parsed[0], "us")
            offsets[row] = NULL_OFFSET if parsed[1] is None else parsed[1]
            date_only[row] = is_date_only(text)
            if (written := _written_order(text)) is not None:
                firsts.setdefault(written, row)

    for row, text in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        if text.strip():
            take(row, text, None)
    told = set(firsts) or hints
    decided = order or (next(iter(told)) if len(told) == 1 else None)
    left, open_rows = open_rows, []
    for row, text in left:
        take(row, text, decided)
    return Dates(
        values,
        offsets,
        date_only,
        placeholders,
        sorted(strange),
        [row for row, _ in open_rows],
        firsts.get("dmy"),
        firsts.get("mdy"),
    )


def read_dates(
    texts: pa.StringArray, at: Callable[[int], str], notes: Counter[str], order: Order | None = None
) -> Dates:
    """`parse_dates` for what people gave; what can't be read counts as no date, and is counted in `notes`.

    Parameters
    ----------
    at : file, line and column of a row, for messages

    Raises
    ------
    InputError
        The column mixes the orders of day and month, or does not tell which it has; or more than
        `MOST_UNREADABLE` of its dates, or all of them, can't be read.
    """
    dates = parse_dates(texts, order)

    def say(row: int) -> str:
        return f"{at(row)} {texts[row].as_py()!r}"

    if dates.day_first is not None and dates.month_first is not None:
        raise InputError(
            f"{say(dates.day_first)} is written day first, but {say(dates.month_first)} month first; a "
            "column should have one order, best 2022-12-31 09:52:50"
        )
    if order is not None:
        wrong = dates.month_first if order == "dmy" else dates.day_first
        if wrong is not None:
            raise InputError(
                f"{say(wrong)} is not {order}, as dataset.dates says; the day is the number above 12"
            )
    if dates.undecided:
        raise InputError(
            f"{say(dates.undecided[0])}: day or month first? no date in this column settles it; set "
            "dataset.dates to dmy or mdy"
        )
    n_given = int((~np.isnat(dates.times)).sum()) + len(dates.strange)
    if dates.strange and (
        len(dates.strange) > max(1, MOST_UNREADABLE * n_given) or len(dates.strange) == n_given
    ):
        more = f", and {len(dates.strange) - 1} more such dates" if len(dates.strange) > 1 else ""
        raise InputError(
            f"{say(dates.strange[0])} is not a date that can be read{more}; possible: {KNOWN_FORMS}"
        )
    if dates.strange:
        notes[f"dates that can't be read, taken as no date: {say(dates.strange[0])}"] += len(dates.strange)
    if dates.placeholders:
        first = texts[dates.placeholders[0]].as_py()
        notes[f"dates such as {first!r}, taken as no date"] += len(dates.placeholders)
    if n_alone := int(dates.date_only.sum()):
        notes["dates without a time of day"] += n_alone
    return dates


def parse_date(text: str, order: Order | None = None) -> tuple[dt.datetime, int | None] | None:
    """One date: local camera time and the offset in minutes; None for a placeholder; otherwise raises
    ValueError.

    >>> parse_date("2022-12-31T09:52:50+02:00")
    (datetime.datetime(2022, 12, 31, 9, 52, 50), 120)
    >>> parse_date("0000:00:00 00:00:00") is None
    True
    >>> parse_date("03/04/2022", "dmy")
    (datetime.datetime(2022, 4, 3, 0, 0), None)
    """
    text = text.strip()
    if text.lower() in _NO_DATE:
        return None
    if match := _YEAR_FIRST.fullmatch(text):
        return _date(match, match["month"], match["day"])
    if match := _YEAR_LAST.fullmatch(text):
        first, then = match["first"], match["then"]
        order = _written_order(text) or order or ("dmy" if first == then else None)
        if match["sign"] == ".":
            order = "dmy"
        if order is None:
            raise _Undecided(text)
        return _date(match, *((then, first) if order == "dmy" else (first, then)))
    raise ValueError(text)


def is_date_only(text: str) -> bool:
    """Whether a date has no time of day."""
    match = _YEAR_FIRST.fullmatch(text.strip()) or _YEAR_LAST.fullmatch(text.strip())
    return match is not None and match["hour"] is None


def offset_minutes(text: str) -> int:
    """
    >>> offset_minutes("+02:00"), offset_minutes("-0330"), offset_minutes("Z")
    (120, -210, 0)

    ValueError for one that no clock on earth shows.
    """
    if text in ("Z", "z"):
        return 0
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    if minutes >= 15 * 60 or int(digits[2:]) >= 60:
        raise ValueError(text)
    return -minutes if text[0] == "-" else minutes


def _common(texts: pa.Array) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int32]]:
    """Times and offsets of texts in the form that most metadata have; NaT and `NULL_OFFSET` for others."""
    texts = pc.if_else(pc.match_substring_regex(texts, _COMMON), texts, None)
    local = pc.utf8_slice_codeunits(texts, 0, 19)
    # A missing time becomes NaT on its way to NumPy; the copy is writable.
    values = local.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).copy()
    offsets = np.full(len(texts), NULL_OFFSET, np.int32)
    with_zone = pc.greater(pc.binary_length(texts), 19).fill_null(False).to_numpy(zero_copy_only=False)
    if with_zone.any():
        zones = pc.utf8_slice_codeunits(texts.filter(pa.array(with_zone)), 19, 25).dictionary_encode()
        minutes = np.array([offset_minutes(zone) for zone in zones.dictionary.to_pylist()], np.int32)
        offsets[with_zone] = minutes[zones.indices.to_numpy()]
    return values, offsets


def _written_order(text: str) -> Order | None:
    """Which comes first, day or month, in a date that ends in its year, if the date itself shows it."""
    match = _YEAR_LAST.fullmatch(text.strip())
    if match is None or match["sign"] == ".":  # with dots the day is always first
        return None
    if int(match["first"]) > 12:
        return "dmy"
    return "mdy" if int(match["then"]) > 12 else None


def _date(match: re.Match[str], month: str, day: str) -> tuple[dt.datetime, int | None] | None:
    year, hour, minute, second = (int(match[name] or 0) for name in ("year", "hour", "minute", "second"))
    if match["half"] is not None:
        is_morning = match["half"][0] in "Aa"
        if is_morning and hour > 12:
            raise ValueError(match[0])
        hour = hour % 12 + (0 if is_morning else 12)
    if year < _EARLIEST or int(month) == 0 or int(day) == 0:
        return None
    zone = match["zone"]
    time = dt.datetime(year, int(month), int(day), hour, minute, second)
    return time, offset_minutes(zone) if zone else None
