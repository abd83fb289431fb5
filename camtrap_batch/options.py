"""Settings that belong to one variant or one stage, as the command line offers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """A setting of one export or one stage, offered by the command as an option.

    Attributes
    ----------
    name : such as day1, for --day1; words are joined with -
    help : what it does; the default is added
    default : its value if it is not given
    parse : makes the value from what was typed; raises ValueError with what would be right
    metavar : stands for the value in the help; None for a switch, which takes no value
    """

    name: str
    help: str
    default: Any = None
    parse: Callable[[str], Any] = str
    metavar: str | None = "TEXT"


def whole_number(text: str | int) -> int:
    """
    >>> whole_number("12")
    12
    """
    if not str(text).isdecimal():
        raise ValueError(f"{text!r} should be a whole number")
    return int(text)
