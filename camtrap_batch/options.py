"""Settings that belong to one variant or one stage, as the command line offers them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from camtrap_batch.errors import choices


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


def fraction(text: str, *, above_zero: bool = False) -> float:
    """
    >>> fraction("0.25")
    0.25
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1 or (above_zero and value == 0):
        raise ValueError(
            f"{text!r} should be {'above 0, and 1 or less' if above_zero else 'between 0 and 1'}"
        )
    return value


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """
    >>> one_of(["bilinear", "bicubic"])("bicubic")
    'bicubic'
    """
    known = tuple(names)

    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"{text!r} is not possible; {choices(text, known, len(known))}")
        return text

    return parse
