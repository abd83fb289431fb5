"""JSON records of a run folder: every value is checked on reading, and unknown fields are kept.

A record that an older version wrote may lack fields that have a default; one that a newer version wrote may
have others, which are kept in `more` and written back.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")

_MORE = "more"


class Unreadable(ValueError):
    """A record that is cut off, is not JSON, or lacks what it should hold; the text says which."""


def to_json(record: Any) -> bytes:
    """A data class as JSON."""
    return json.dumps(as_dict(record), ensure_ascii=False, separators=(",", ":")).encode()


def as_dict(record: Any) -> dict[str, Any]:
    """A data class as a JSON object: its fields, then those in `more`; the same for records within it."""
    found = {}
    for field in dataclasses.fields(record):
        if field.name == _MORE:
            continue
        value = getattr(record, field.name)
        if isinstance(value, tuple):
            value = [as_dict(part) if dataclasses.is_dataclass(part) else part for part in value]
        found[field.name] = value
    return {**found, **getattr(record, _MORE, {})}


def from_json(data: bytes, kind: type[_T]) -> _T:
    """A record of a data class. Raises Unreadable.

    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: int
    ...     more: dict[str, Any] = dataclasses.field(default_factory=dict)
    >>> from_json(b'{"x": 1, "color": "red"}', Point)
    Point(x=1, more={'color': 'red'})
    >>> from_json(b'{"x": 1, "colo', Point)
    Traceback (most recent call last):
    camtrap_batch.store.records.Unreadable: is cut off
    """
    if not data:
        raise Unreadable("is empty")
    try:
        record = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        is_short = "truncated" in str(problem)
        raise Unreadable("is cut off" if is_short else f"is not JSON: {problem}") from None
    return convert(record, kind)


def convert(record: Any, kind: type[_T]) -> _T:
    """A record of a data class, from a parsed JSON value. Raises Unreadable."""
    try:
        made = msgspec.convert(_sorted_out(record, kind), kind)
    except msgspec.ValidationError as problem:
        raise Unreadable(f"is not what it should be: {problem}") from None
    return made


def _sorted_out(record: Any, kind: Any) -> Any:
    """Put what a data class has no field for into `more`; the same in the lists of records within it."""
    if not isinstance(record, dict):
        return record
    fields = {field.name for field in dataclasses.fields(kind)}
    known = {name: value for name, value in record.items() if name in fields and name != _MORE}
    for name, inner in getattr(kind, "RECORDS", {}).items():
        if isinstance(known.get(name), list):
            known[name] = [_sorted_out(part, inner) for part in known[name]]
    if _MORE in fields and len(known) < len(record):
        known[_MORE] = {name: value for name, value in record.items() if name not in known}
    return known
