"""Numbers and coordinates as people write them, by one rule for all tables. See docs/csv.md."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_DEGREES: dict[str, int] = {"latitude": 90, "longitude": 180}

NOT_DEGREES = "should be degrees, such as -24.5, or 24°30'0\"S"

_WITH_MARK = re.compile(r"[+-]?(\d*)([.,])(\d+)")
_LIKE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_HEMISPHERES = {"latitude": "NS", "longitude": "EW"}
_SIGNS = (
    (re.compile("[−–]"), "-"),  # noqa: RUF001 - what word processors write for a minus
    (re.compile("''|[″”“ʺ]|(?<=[\\d\\s])sec\\.?"), '"'),
    (re.compile("[′’‘ʹ`´]|(?<=[\\d\\s])min\\.?"), "'"),  # noqa: RUF001
    (re.compile(r"[º˚]|(?<=[\d\s])deg\.?"), "°"),
    (re.compile(r"(\d)\s*d\s*(\d[\d.,]*)\s*m(?:\s*(\d[\d.,]*)\s*s)?"), r"\1°\2'\3"),
)
_DEGREES = re.compile(
    r"""(?P<before>[A-Z])?\s*(?P<sign>[+-])?\s*
    (?P<degrees>\d+(?:[.,]\d+)?)(?:\s*(?P<mark>[°:])\s*|\s+|$|(?=[A-Z]))
    (?:(?P<minutes>\d{1,2}(?:[.,]\d+)?)(?:\s*[':]\s*|\s+|$|(?=[A-Z]))
    (?:(?P<seconds>\d{1,2}(?:[.,]\d+)?)\s*"?\s*)?)?
    (?P<after>[A-Z])?""",
    re.VERBOSE | re.IGNORECASE,
)


def number(text: str) -> float | None:
    """A number, possibly with a decimal comma; None if it is not one.

    >>> number("2,5"), number("-24.5"), number("1e3"), number("lion"), number("2_3")
    (2.5, -24.5, 1000.0, None, None)
    """
    text = text.strip().replace("\u2212", "-")
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") and "_" not in text else None


def whole_number(text: str) -> int | None:
    """A whole number outside a column; None if it is not one, or its mark may separate thousands.

    >>> whole_number("12"), whole_number("2.0"), whole_number("2.5"), whole_number("1.000")
    (12, 2, None, None)
    """
    value = number(text)
    is_clear = value is not None and value.is_integer() and not _LIKE_THOUSANDS.fullmatch(text.strip())
    return int(value) if value is not None and is_clear else None


def doubtful(cells: Sequence[str | None], *, whole: bool = False) -> dict[int, str]:
    """Rows of a column whose point or comma may separate thousands, and why.

    Such a mark stands before three digits, while other cells have the other one for decimals, or, in a column
    of `whole` numbers, none at all.

    >>> doubtful(["52,5", "1.000"])
    {1: "may be 1 or 1000, as '52,5' has a decimal comma: write it without thousands, and all decimals alike"}
    >>> doubtful(["52.5", "1.000"]), doubtful(["1.000", "2.000"], whole=True)
    ({}, {})
    """
    decimal: dict[str, str] = {}
    open_: list[tuple[int, str, str]] = []
    plain: str | None = None
    for row, cell in enumerate(cells):
        text = (cell or "").strip()
        if (found := _WITH_MARK.fullmatch(text)) is None:
            plain = plain or (text if text.isdecimal() else None)
        elif _LIKE_THOUSANDS.fullmatch(text):
            open_.append((row, text, found[2]))
        else:
            decimal.setdefault(found[2], text)
    why: dict[int, str] = {}
    for row, text, mark in open_:
        may_be = f"may be {number(text):g} or {re.sub('[.,]', '', text)}"
        other = "," if mark == "." else "."
        if other in decimal:
            name = "comma" if mark == "." else "point"
            why[row] = (
                f"{may_be}, as {decimal[other]!r} has a decimal {name}: write it without thousands, and all "
                "decimals alike"
            )
        elif whole and plain is not None and mark not in decimal:
            why[row] = f"{may_be}: write it without {mark!r}"
    return why


def read_degrees(cells: Sequence[str | None], axis: str) -> tuple[list[float | None], dict[int, str]]:
    """A column of latitudes or longitudes, in degrees; None where a cell is empty or can't be read.

    Returns
    -------
    The degrees; and, for the rows that can't be read, what is wrong with them
    """
    wrong = doubtful(cells)
    found: list[float | None] = []
    for row, cell in enumerate(cells):
        value = None
        if cell is not None and row not in wrong:
            try:
                value = degrees(cell, axis)
            except ValueError as problem:
                wrong[row] = str(problem)
        found.append(value)
    return found, wrong


def degrees(text: str, axis: str) -> float:
    """Decimal degrees of a latitude or longitude, also of one in degrees, minutes and seconds.

    Raises ValueError, with what would be right, if it is not one, or may mean two places.

    >>> degrees("-24,5", "latitude"), degrees("52°30'15.5''N", "latitude"), degrees("W 13 24.5", "longitude")
    (-24.5, 52.504305556, -13.408333333)
    """
    value = number(text)
    if value is None:
        value = _of_parts(text, axis)
    if abs(value) > MOST_DEGREES[axis]:
        raise ValueError(f"should be degrees, between -{MOST_DEGREES[axis]} and {MOST_DEGREES[axis]}")
    return value


def _of_parts(text: str, axis: str) -> float:
    tidy = text.strip()
    for pattern, sign in _SIGNS:
        tidy = pattern.sub(sign, tidy)
    found = _DEGREES.fullmatch(tidy)
    if found is None:
        raise ValueError(NOT_DEGREES)
    letters = [letter.upper() for letter in (found["before"], found["after"]) if letter]
    whole, minutes, seconds = found["degrees"], found["minutes"], found["seconds"]
    if letters == ["O"]:
        raise ValueError("should end with E or W: O is east in some languages and west in others")
    if len(letters) > 1 or any(letter not in _HEMISPHERES[axis] for letter in letters):
        raise ValueError(f"should have one of the letters {' and '.join(_HEMISPHERES[axis])}, or none")
    if letters and found["sign"] == "-":
        raise ValueError("has a minus and a letter: one of them says which side it is on")
    if minutes and not (letters or found["mark"] or seconds or re.search("[.,]", minutes)):
        raise ValueError(f"may be {whole}.{minutes} degrees, or {whole} degrees and {minutes} minutes")
    if (minutes and not whole.isdecimal()) or (seconds and not minutes.isdecimal()):
        raise ValueError("should have decimals in its last part only")
    parts = [float((part or "0").replace(",", ".")) for part in (whole, minutes, seconds)]
    if max(parts[1:]) >= 60:
        raise ValueError("should have fewer than 60 minutes and seconds")
    value = round(parts[0] + parts[1] / 60 + parts[2] / 3600, 9)  # 0.1 mm
    return -value if found["sign"] == "-" or letters in (["S"], ["W"]) else value
