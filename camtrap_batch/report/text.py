"""Numbers and dates for readers; an en dash if nothing is known."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any
from urllib.parse import quote

from camtrap_batch.vocabulary import plural as plural

UNKNOWN = "\N{EN DASH}"


def count(value: Any) -> str:
    """
    >>> count(1234567), count(None) == UNKNOWN
    ('1,234,567', True)
    """
    return UNKNOWN if not is_known(value) else f"{value:,.0f}"


def number(value: Any, digits: int = 3) -> str:
    """
    >>> number(0.91234), number(float("nan")) == UNKNOWN
    ('0.912', True)
    """
    return UNKNOWN if not is_known(value) else f"{value:,.{digits}f}"


def percent(share: Any) -> str:
    """One decimal; what is not quite 0 or 100 % is not rounded to it.

    >>> percent(0.934), percent(0.99999), percent(1), percent(1e-6)
    ('93.4%', '>99.9%', '100%', '<0.1%')
    """
    if not is_known(share):
        return UNKNOWN
    if share in (0, 1):
        return f"{share:.0%}"
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def interval(bounds: Any) -> str:
    """
    >>> interval([0.71234, 0.98]), interval(None), interval([0.0, 1.0])
    ('71.2% to 98.0%', '', 'nothing to estimate it from')
    """
    if bounds is None:
        return ""
    return NOTHING_KNOWN if says_nothing(bounds) else f"{percent(bounds[0])} to {percent(bounds[1])}"


NOTHING_KNOWN = "nothing to estimate it from"


def says_nothing(bounds: Any) -> bool:
    """Whether an interval of a share covers everything, like one from 0 to 100 %.

    >>> says_nothing([0.004, 0.998]), says_nothing([0.2, 1.0]), says_nothing(None)
    (True, False, False)
    """
    return bounds is not None and bounds[0] < 0.01 and bounds[1] > 0.99


def day(value: dt.datetime | None) -> str:
    """
    >>> day(dt.datetime(2023, 5, 4, 12))
    '2023-05-04'
    """
    return UNKNOWN if value is None else f"{value:%Y-%m-%d}"


def minute(value: dt.datetime | None) -> str:
    """
    >>> minute(dt.datetime(2023, 5, 4, 12, 59))
    '2023-05-04 12:59'
    """
    return "no date" if value is None else f"{value:%Y-%m-%d %H:%M}"


def in_hash(name: str) -> str:
    """A name in the form used in the address of a report's page.

    >>> in_hash("A/1 ü")
    'A%2F1%20%C3%BC'
    """
    return quote(name.encode("utf-8", "replace"), safe="")


def hours_minutes(seconds: Any) -> str:
    """
    >>> hours_minutes(3725.4)
    '1:02:05'
    """
    return UNKNOWN if not is_known(seconds) else str(dt.timedelta(seconds=round(seconds)))


def shorten(text: str, most: int) -> str:
    """
    >>> shorten("panthera onca", 8)
    'panther…'
    """
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def is_known(value: Any) -> bool:
    """False for None, and for anything that is not a finite number."""
    return value is not None and math.isfinite(value)
