"""What a handler of the rehearsal server returns, and how values arrive and leave as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = dict[str, Any]


class Refused(Exception):
    """The whole call is refused: ArcGIS sends this as `{"error": ...}` in an HTTP 200."""

    def __init__(self, code: int, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, list(details)

    def body(self) -> Json:
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}


class RowRefused(Exception):
    """One row of an edit is refused; codes are those of ArcGIS's feature services (1000 to 1023)."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code, self.description = code, description

    def body(self) -> Json:
        return {"code": self.code, "description": self.description}


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON: a photo, a page, a redirect."""

    content: bytes
    content_type: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Answer = Json | Raw


def parse(text: str, what: str) -> Any:
    """JSON of a parameter; NaN and Infinity are not JSON and are refused, as by ArcGIS."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as problem:
        raise Refused(400, f"Unable to parse '{what}'", [f"'{what}' is not valid JSON: {problem}"]) from None


def encode(answer: Json) -> bytes:
    return msgspec.json.encode(answer)


def objects(text: str, what: str) -> list[Json]:
    """A parameter that is a JSON array of objects; an empty text is an empty array."""
    if not text.strip():
        return []
    return listed(parse(text, what), what)


def listed(value: Any, what: str) -> list[Json]:
    """A JSON array of objects; null is an empty array."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Refused(400, f"Invalid '{what}' parameter", [f"'{what}' must be a JSON array of objects"])
    return value


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def whole_number(text: str, what: str) -> int:
    """A parameter that is a number of rows or an object id; refused if negative."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise Refused(400, f"Invalid '{what}' parameter", [f"'{what}' must be a whole number, not '{text}'"])
    return number


def numbers(text: str, what: str) -> list[int]:
    """A parameter that lists ids, `1,2,3` or `[1,2,3]`."""
    return [whole_number(part.strip(), what) for part in text.strip("[] ").split(",") if part.strip()]


def words(text: str) -> list[str]:
    """A parameter that lists names, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
