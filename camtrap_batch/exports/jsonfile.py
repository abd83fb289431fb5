"""JSON files that are larger than memory: an object whose members may be arrays generated while writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import msgspec

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""A value as JSON."""


def write_members(file: BinaryIO, members: Mapping[str, Any]) -> None:
    """Write an object. A member that is an iterator gives the elements of an array, as JSON."""
    for number, (name, value) in enumerate(members.items()):
        file.write(b"{\n" if number == 0 else b",\n")
        file.write(encode(name) + b": ")
        if isinstance(value, Iterator):
            separator = b"[\n"
            for element in value:
                file.write(separator)
                file.write(element)
                separator = b",\n"
            file.write(b"[]" if separator == b"[\n" else b"\n]")
        else:
            file.write(encode(value))
    file.write(b"\n}\n")
