"""How files that no receipt names are known to be as they were written.

Pages and other texts carry their own SHA-256, and those of files that belong to them, in a comment at their
end. A folder of files of others has them in a record beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import OTHER_BYTES, Unreadable, from_json, to_json

HTML = (b"<!-- sums ", b" -->")
HASH_SIGN = (b"# sums ", b"\n")
"""What is around the sums in a comment."""

SEALED = b"# Its last line has its checksum.\n"
"""What a text may say near its beginning, so that the loss of its end shows."""

RECORD = "sha256.json"

_WHOLE = ""


@dataclass
class _Sums:
    files: dict[str, str]
    more: dict[str, Any] = field(default_factory=dict)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seal(data: bytes, beside: Mapping[str, str] | None = None, comment: tuple[bytes, bytes] = HTML) -> bytes:
    """A text with its sum in a comment at its end.

    Parameters
    ----------
    beside : SHA-256 of each file that belongs to it, by its path relative to it
    comment : what a comment begins and ends with
    """
    sums = json.dumps({_WHOLE: sha256_of(data), **(beside or {})}, separators=(",", ":"))
    before, after = comment
    return data + before + sums.replace("--", "-\\u002d").encode() + after  # no comment of HTML has two


def read_seal(data: bytes, comment: tuple[bytes, bytes] = HTML) -> dict[str, str] | None:
    """The sums of the files that belong to a text; None if it has no seal. Something may follow the seal.

    Raises Unreadable if the text is not what was sealed.
    """
    before, after = comment
    at = data.rfind(before + b"{")
    end = data.find(after, at)
    if at < 0 or end < 0:
        return None
    sums = from_json(b'{"files":' + data[at + len(before) : end] + b"}", _Sums).files
    if sums.pop(_WHOLE, None) != sha256_of(data[:at]):
        raise Unreadable(OTHER_BYTES)
    return sums


def write_sums(folder: Folder, sums: Mapping[str, str]) -> None:
    """Record the SHA-256 of each file of a folder, by name; when all of them are there."""
    folder.write(RECORD, to_json(_Sums(dict(sums))))


def read_sums(folder: Folder) -> dict[str, str] | None:
    """What `write_sums` recorded; None if nothing is. Raises Unreadable."""
    try:
        return from_json(folder.read(RECORD), _Sums).files
    except FileNotFoundError:
        return None
