"""JSON records of a run folder: every value is checked on reading, and unknown fields are kept.

A record that an older version wrote may lack fields that have a default; one that a newer version wrote may
have others, which are kept in `more` and written back. Its last field, `sum`, is a checksum of what precedes
it. A record without one, or one that somebody has reformatted, is taken as it is.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")

_MORE = "more"
_SUM = "sum"
_LAST_FIELD = re.compile(rb',"sum":"([0-9a-f]{8})"}\Z')

_LENGTH = len(b',"sum":"01234567"}')

OTHER_BYTES = "is damaged (not the bytes that were written)"


class Unreadable(ValueError):
    """A record that is cut off, is not JSON, or lacks what it should hold; the text says which."""


def to_json(record: Any) -> bytes:
    """A data class as JSON, with a checksum."""
    return dict_to_json(as_dict(record))


def dict_to_json(record: dict[str, Any]) -> bytes:
    """The same for a dict that is not empty."""
    data = _compact(record)
    return data[:-1] + b',"%s":"%08x"}' % (_SUM.encode(), zlib.crc32(data))


def with_sum(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a checksum of its values, whichever way it is formatted."""
    return {**record, _SUM: _sum_of(record)}


def is_as_written(record: dict[str, Any]) -> bool:
    """Whether an object that `with_sum` made is as it was; one without a checksum is."""
    return _SUM not in record or record[_SUM] == _sum_of(record)


def _sum_of(record: dict[str, Any]) -> str:
    values = {name: record[name] for name in sorted(record) if name != _SUM}
    return f"{zlib.crc32(_compact(values)):08x}"


def _compact(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


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
    if isinstance(record, dict) and record.pop(_SUM, None) is not None:
        last = _LAST_FIELD.search(data[-_LENGTH:])
        if last and int(last[1], 16) != zlib.crc32(data[:-_LENGTH] + b"}"):
            raise Unreadable(OTHER_BYTES)
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
