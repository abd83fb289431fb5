"""Capture times as people and cameras write them: local camera time, and the clock's offset if the text has
one.

The rules are the same for metadata, tables and EXIF. Whether 03/04/2022 is in March or in April is not
guessed: another date of the same column tells (31/05/2022 does), or the job file (`dataset.dates`). The same
holds for which of the numbers of 21-03-12 is the year.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.vocabulary import MISSING

NULL_OFFSET = np.iinfo(np.int32).min
"""Stands for an unknown offset."""

KNOWN_FORMS = (
    "2022-12-31 09:52:50 (also with T, Z, +02:00, PM, fractions, or the date alone), 2022:12:31 09:52:50, "
    "31.12.2022 9:52, 31 Dec 2022 9:52, and 31/12/2022 or 12/31/2022 in one order per column"
)

Order = Literal["dmy", "mdy", "ymd"]
"""What the numbers of a date are that does not begin with a year of four digits: day, month, year. `ymd`: of
years of two digits alone."""

MOST_UNREADABLE = 0.05
"""Fraction of a column's dates that may be unreadable; a table with more is refused."""

_NO_DATE = frozenset({"unknown", "-"} | {word.casefold() for word in MISSING})
_WRITTEN: dict[Order, str] = {"dmy": "day first", "mdy": "month first", "ymd": "year first"}

_EARLIEST = 1900  # an earlier year means that the clock was never set
_PIVOT = 70  # of years of two digits, as POSIX has it: 70 is 1970, 69 is 2069
# Whatever this matches is a date, and can be parsed a column at a time; the rest is parsed row by row.
_COMMON = (
    r"^(?:19|2\d)\d{2}"
    r"-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
    r"[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?$"
)
_TIME = (
    r"(?:(?:T|[\s,]+T?)(?P<hour>\d{1,2})"
    r"(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:[.,]\d+)?)?"
    r"|[.h](?P<minutes>\d{2})(?:\.(?P<seconds>\d{2}))?)"
    r"(?:\s*(?P<half>[AP]\.?\s?M\.?)|\s*Uhr)?\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
    r"|\s*(?P<zone_of_day>Z|[+-]\d{2}:?\d{2}))?"
)
_DAY_BEFORE = r"(?:[^\W\d_]{2,}\.?,?\s+)?"  # Fri, Freitag,
_YEAR_FIRST = re.compile(
    r"(?P<year>\d{4})(?P<sign>[-:/.])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})" + _TIME, re.IGNORECASE
)
_YEAR_LAST = re.compile(
    r"(?P<first>\d{1,2})(?P<sign>[-/.])(?P<then>\d{1,2})(?P=sign)(?P<year>\d{4}|\d{2})" + _TIME, re.IGNORECASE
)
_PACKED = re.compile(
    r"(?P<year>(?:19|20)\d{2})(?P<month>\d{2})(?P<day>\d{2})"
    r"(?:[T _-]?(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})?)?(?P<zone>Z)?",
    re.IGNORECASE,
)
_NAMED = tuple(
    re.compile(form + _TIME, re.IGNORECASE)
    for form in (
        _DAY_BEFORE
        + r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|\.)?(?:\s+de\s|[\s\-/.])?\s*(?P<name>[^\W\d_]{3,})\.?,?"
        r"(?:\s+de\s|[\s\-/])?\s*(?P<year>\d{4}|\d{2})",
        _DAY_BEFORE + r"(?P<name>[^\W\d_]{3,})\.?\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?"
        r"(?:,\s*|\s+)(?P<year>\d{4})",
        r"(?P<year>\d{4})[\s\-/](?P<name>[^\W\d_]{3,})\.?[\s\-/](?P<day>\d{1,2})",
    )
)
# English, German, French, Spanish, Portuguese, Italian, Dutch, Swedish, Danish; without accents.
_MONTHS = (
    "january januar janvier enero janeiro gennaio januari",
    "february februar fevrier febrero fevereiro febbraio februari",
    "march marz maerz mars marzo marco maart mrt marts",
    "april avril abril aprile",
    "may mai mayo maio maggio mei maj",
    "june juni juin junio junho giugno",
    "july juli juillet julio julho luglio",
    "august aout agosto augustus augusti",
    "september septembre septiembre setiembre setembro settembre",
    "october oktober octobre octubre outubro ottobre",
    "november novembre noviembre novembro",
    "december dezember decembre diciembre dezembro dicembre",
)
_DAY_NUMBER = re.compile(r"\d{5}(?:[.,]\d+)?")
_DAY_ZERO = dt.datetime(1899, 12, 30)  # of Excel's day numbers, of the system that begins in 1900
_WITH_DAY = re.compile(r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<clock>\d{2}:\d{2}.*)")
_FIRST_DAY = "1904-01-02"  # Excel's, R's and the old Mac's day of a time alone is before
_MIDNIGHT = re.compile(r"(?P<date>.*\d)[T ]0{1,2}:00(?::00(?:\.0+)?)?")
_PART_OF_DAY = re.compile(r"0?[.,]\d+")


class _Undecided(ValueError):
    """Day, month and year can't be told apart."""


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
    undecided : rows that leave the order of day, month and year open, if nothing else in the column settles
        it
    told : order -> the first row that can only be read in that order
    numbered : rows that are day numbers of Excel, used if the column has nothing else
    """

    times: npt.NDArray[np.datetime64]
    offsets: npt.NDArray[np.int32]
    date_only: npt.NDArray[np.bool_]
    placeholders: list[int]
    strange: list[int]
    undecided: list[int]
    told: Mapping[Order, int] = field(default_factory=dict)
    numbered: list[int] = field(default_factory=list)


def parse_dates(texts: Sequence[str | None] | pa.StringArray, order: Order | None = None) -> Dates:
    """Parse a column of dates, None or blank if there is none.

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
        match = None if (text := text.strip()).lower() in _NO_DATE else _matched(text)
        written = None if match is None else _written_order(match)
        try:
            parsed = parse_date(text, order) if match is None else _of_match(match, order)
        except _Undecided:
            open_rows.append((row, text))
        except ValueError:
            strange.append(row)
            if written is not None:
                hints.add(written)
        else:
            if parsed is None or match is None:
                placeholders.append(row)
                return
            values[row] = np.datetime64(parsed[0], "us")
            offsets[row] = NULL_OFFSET if parsed[1] is None else parsed[1]
            date_only[row] = match["hour"] is None
            if written is not None:
                firsts.setdefault(written, row)

    for row, text in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        if text.strip():
            take(row, text, None)
    told = set(firsts) or hints
    decided = order or (next(iter(told)) if len(told) == 1 else None)
    left, open_rows = open_rows, []
    for row, text in left:
        take(row, text, decided)
    numbered: list[int] = []
    if strange and not open_rows and np.isnat(values).all():
        found = {row: time for row in strange if (time := _numbered_day(column[row].as_py())) is not None}
        if len(found) == len(strange):
            numbered, strange = sorted(strange), []
            for row, time in found.items():
                values[row] = np.datetime64(time, "us")
                date_only[row] = time.time() == dt.time()
    return Dates(
        values,
        offsets,
        date_only,
        placeholders,
        sorted(strange),
        [row for row, _ in open_rows],
        firsts,
        numbered,
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

    check_orders(dates, texts, say, order)
    n_given = int((~np.isnat(dates.times)).sum()) + len(dates.strange)
    if dates.strange and are_too_many(len(dates.strange), n_given):
        more = f", and {len(dates.strange) - 1} more such dates" if len(dates.strange) > 1 else ""
        raise InputError(
            f"{say(dates.strange[0])} is not a date that can be read{more}; possible: {KNOWN_FORMS}"
        )
    if dates.strange:
        notes[f"dates that can't be read, taken as no date: {say(dates.strange[0])}"] += len(dates.strange)
    if dates.placeholders:
        first = texts[dates.placeholders[0]].as_py()
        notes[f"dates such as {first!r}, taken as no date"] += len(dates.placeholders)
    if dates.numbered:
        first = dates.numbered[0]
        time = str(dates.times[first].astype("datetime64[s]")).replace("T", " ")
        notes[f"dates given as Excel's day numbers, such as {texts[first].as_py()!r} for {time}"] += len(
            dates.numbered
        )
    if n_alone := int(dates.date_only.sum()):
        notes["dates without a time of day"] += n_alone
    return dates


def check_orders(
    dates: Dates,
    texts: Sequence[str | None] | pa.StringArray,
    say: Callable[[int], str],
    order: Order | None,
) -> None:
    """Raise InputError if a column mixes orders, has another one than the job says, or leaves it open.

    `say`: file, line, column and value of a row.
    """
    if len(dates.told) > 1:
        (early, first), (late, then) = sorted(dates.told.items())[:2]
        raise InputError(
            f"{say(first)} is written {_WRITTEN[early]}, but {say(then)} {_WRITTEN[late]}; a column should "
            "have one order, best 2022-12-31 09:52:50"
        )
    if order is not None and (other := next((name for name in dates.told if name != order), None)):
        hint = "" if "ymd" in (order, other) else "; the day is the number above 12"
        raise InputError(f"{say(dates.told[other])} is not {order}, as dataset.dates says{hint}")
    if not dates.undecided:
        return
    left_open = [_readings(str(texts[row])) for row in dates.undecided]
    offered = [name for name in get_args(Order) if all(name in readings for readings in left_open)]
    which = "day, month or year first" if "ymd" in offered else "day or month first"
    named = ", ".join(offered[:-1]) + f" or {offered[-1]}" if len(offered) > 1 else "dmy, mdy or ymd"
    raise InputError(
        f"{say(dates.undecided[0])}: {which}? no date in this column settles it; set dataset.dates to {named}"
    )


def are_too_many(n_unreadable: int, n: int) -> bool:
    """Whether too many of n given values are unreadable for the column to be what it should be."""
    return n_unreadable > max(1, MOST_UNREADABLE * n) or n_unreadable == n


def parse_date(text: str, order: Order | None = None) -> tuple[dt.datetime, int | None] | None:
    """One date: local camera time and the offset in minutes; None for a placeholder; otherwise raises
    ValueError.

    >>> parse_date("2022-12-31T09:52:50+02:00")
    (datetime.datetime(2022, 12, 31, 9, 52, 50), 120)
    >>> parse_date("0000:00:00 00:00:00") is None
    True
    >>> parse_date("03/04/2022", "dmy")
    (datetime.datetime(2022, 4, 3, 0, 0), None)
    >>> parse_date("12-Mar-2021 8:25 PM")
    (datetime.datetime(2021, 3, 12, 20, 25), None)
    """
    text = text.strip()
    if text.lower() in _NO_DATE:
        return None
    match = _matched(text)
    if match is None:
        raise ValueError(text)
    return _of_match(match, order)


def is_date_only(text: str) -> bool:
    """Whether a date has no time of day."""
    match = _matched(text.strip())
    return match is not None and match["hour"] is None


def join_date_and_time(date: str | None, time: str | None) -> str | None:
    """What two columns say as one text; either alone where the other has nothing.

    Spreadsheets write midnight behind a date, and a day before there were cameras in front of a time.

    >>> join_date_and_time("2021-03-12 00:00:00", "1899-12-31 20:25:38")
    '2021-03-12 20:25:38'
    >>> join_date_and_time("44267", "0.35")
    '44267.35'
    """
    if date is None or time is None:
        return date or time
    with_day = _WITH_DAY.fullmatch(time)
    if with_day and (with_day["day"] < _FIRST_DAY or date.startswith(with_day["day"])):
        time = with_day["clock"]
    if midnight := _MIDNIGHT.fullmatch(date):
        date = midnight["date"]
    if _DAY_NUMBER.fullmatch(date) and date.isdecimal() and _PART_OF_DAY.fullmatch(time):
        return f"{date}.{time.lstrip('0')[1:]}"
    return f"{date} {time}"


def offset_minutes(text: str) -> int:
    """
    >>> offset_minutes("+02:00"), offset_minutes("-0330"), offset_minutes("Z"), offset_minutes("+02")
    (120, -210, 0, 120)

    ValueError for one that no clock on earth shows.
    """
    if text.upper() in ("Z", "UTC", "GMT"):
        return 0
    digits = text[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    if minutes >= 15 * 60 or int(digits[2:] or 0) >= 60:
        raise ValueError(text)
    return -minutes if text[0] == "-" else minutes


def _common(texts: pa.Array) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int32]]:
    """Times and offsets of texts in the form that most metadata have; NaT and `NULL_OFFSET` for others."""
    nulls = pa.nulls(len(texts), texts.type)  # beside a null scalar, Arrow 23 misreads the texts of a slice
    texts = pc.if_else(pc.match_substring_regex(texts, _COMMON), texts, nulls)
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


def _matched(text: str) -> re.Match[str] | None:
    for form in (_YEAR_FIRST, _YEAR_LAST, _PACKED, *_NAMED):
        if match := form.fullmatch(text):
            return match
    return None


def _readings(text: str | re.Match[str]) -> dict[Order, tuple[int, int, int]]:
    """Order -> year, month, day, for each possible order of a date that ends in its year, or may begin with
    two digits of it; empty if it is not such a date, or an impossible one."""
    match = _YEAR_LAST.fullmatch(text.strip()) if isinstance(text, str) else text
    if match is None:
        return {}
    first, then, year = int(match["first"]), int(match["then"]), _year(match["year"])
    if match["sign"] == ".":  # with dots the day is always first
        return {"dmy": (year, then, first)}
    # With hyphens, as in ISO 8601, a short year may come first.
    is_open = match["sign"] == "-" and len(match["year"]) == 2
    this_year = dt.datetime.now(dt.UTC).year if is_open else 0
    found: dict[Order, tuple[int, int, int]] = {}
    if not is_open or year <= this_year:
        if then <= 12 and (first <= 31 or not is_open):
            found["dmy"] = (year, then, first)
        if first <= 12:
            found["mdy"] = (year, first, then)
    if is_open and _year(match["first"]) <= this_year and then <= 12 and 1 <= int(match["year"]) <= 31:
        found["ymd"] = (_year(match["first"]), then, int(match["year"]))
    return found


def _of_match(match: re.Match[str], order: Order | None) -> tuple[dt.datetime, int | None] | None:
    groups = match.re.groupindex
    if "then" in groups:
        return _date(match, *_in_order(match, order))
    month = _month(match["name"]) if "name" in groups else int(match["month"])
    if month is None:
        raise ValueError(match[0])
    return _date(match, _year(match["year"]), month, int(match["day"]))


def _in_order(match: re.Match[str], order: Order | None) -> tuple[int, int, int]:
    """Year, month and day of a date that does not begin with four digits."""
    readings = _readings(match)
    if order in readings:
        return readings[order]
    if not readings:
        raise ValueError(match[0])
    if len(set(readings.values())) > 1:
        raise _Undecided(match[0])
    return next(iter(readings.values()))


def _written_order(match: re.Match[str]) -> Order | None:
    """The order of a date that does not begin with four digits, if the date itself shows it."""
    if match.re is not _YEAR_LAST or match["sign"] == ".":
        return None
    readings = _readings(match)
    return next(iter(readings)) if len(readings) == 1 else None


def _year(digits: str) -> int:
    return int(digits) if len(digits) > 2 else int(digits) + (1900 if int(digits) >= _PIVOT else 2000)


@functools.cache
def _names_of_months() -> list[tuple[str, int]]:
    return [(name, number) for number, names in enumerate(_MONTHS, 1) for name in names.split()]


@functools.lru_cache(1000)
def _month(word: str) -> int | None:
    """The month that a word names or abbreviates, if there is only one."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    found = {number for name, number in _names_of_months() if name.startswith(plain)}
    return found.pop() if len(found) == 1 else None


def _numbered_day(text: str) -> dt.datetime | None:
    """The time of one of Excel's day numbers, to the second; None outside of 1990 to 2050."""
    if _DAY_NUMBER.fullmatch(text.strip()) is None:
        return None
    days = float(text.replace(",", "."))
    time = _DAY_ZERO + dt.timedelta(seconds=round(days * 86_400))
    return time if 1990 <= time.year <= 2050 else None


def _date(match: re.Match[str], year: int, month: int, day: int) -> tuple[dt.datetime, int | None] | None:
    parts = match.groupdict()
    hour = int(parts["hour"] or 0)
    minute = int(parts["minute"] or parts.get("minutes") or 0)
    second = int(parts["second"] or parts.get("seconds") or 0)
    if half := parts.get("half"):
        is_morning = half[0] in "Aa"
        if is_morning and hour > 12:
            raise ValueError(match[0])
        hour = hour % 12 + (0 if is_morning else 12)
    if year < _EARLIEST or month == 0 or day == 0:
        return None
    zone = parts["zone"] or parts.get("zone_of_day")
    time = dt.datetime(year, month, day, hour, minute, second)
    return time, offset_minutes(zone) if zone else None
