"""What each source of images can do, the table of sources by scheme, and which file names are accepted.

A source is one module with one class. It is found by the scheme of the image root's URL; a package installed
beside this one adds another through an entry point of the group `camtrap_batch.sources`, named after its
scheme.
"""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.registry import Registry
from camtrap_batch.remote import explain, is_missing, is_missing_bucket

KEY = "dataset.images"
"""The job file's key, for messages."""

# The same as `is_unsafe`, for UTF-8.
_UNSAFE = r"^$|^[/~]|[\\\x00]|^[A-Za-z]:|^[A-Za-z][A-Za-z0-9+.-]*:(//|:)|(^|/)\.\.(/|$)"
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:(//|:)")


@dataclass(frozen=True)
class Listing:
    """Size and version of files, in the order requested.

    Attributes
    ----------
    sizes : (n,) int64, bytes; -1 if there is no such file; 0, with the version "", if a web server reveals
        neither size nor version, but does not say that the file does not exist
    modified : version as text: modification time in ns (disk), etag or checksum (object store, web server),
        CRC and date (zip); "" if there is none, None if there is no such file
    entries : for an archive, where in it each file is: struct<offset: int64, packed: int64, method: int16,
        crc: int64>, null if there is no such file; None for anything that is not an archive
    """

    sizes: npt.NDArray[np.int64]
    modified: list[str | None]
    entries: pa.StructArray | None = None


class Source(Protocol):
    """One root, opened. File names given to it are safe; errors are those of `ImageRoot`.

    A source that can read parts of a file also has `part(file_name, start, end)`; one that can list a folder
    without those below it, `walk_near(file_names)`.
    """

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        """Open a root, without any request yet.

        Parameters
        ----------
        options : the dataset's `storage_options`, or whatever else a source needs
        """

    @property
    def reads_at_once(self) -> int:
        """How many threads may usefully call `read` at once."""

    def check(self) -> None:
        """Raise UserError if the root does not exist, is not a folder, is empty, or can't be listed."""

    def listing(self, file_names: Sequence[str]) -> Listing:
        """As `ImageRoot.listing`."""

    def walk(self) -> Iterator[str]:
        """Like `ImageRoot.walk`, in any order."""

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        """The first `end` bytes, or all."""


class Blob(Protocol):
    """One large file, read in parts. A source with such files has `open_file`, with the parameters of
    `open`."""

    @property
    def reads_at_once(self) -> int: ...

    def stat(self) -> tuple[int, str]:
        """Bytes and version. Raises FileNotFoundError, InputError or another OSError."""

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`; fewer if the file ends there. Raises OSError."""


class _Parts(Protocol):
    @property
    def reads_at_once(self) -> int: ...

    def stat(self) -> tuple[int, str]: ...

    def part(self, file_name: str, start: int | None, end: int | None) -> bytes: ...


class FarFile:
    """One large file, in a source whose URL is the file's own."""

    def __init__(self, source: _Parts) -> None:
        self._source = source

    @property
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    def stat(self) -> tuple[int, str]:
        return self._source.stat()

    def read(self, start: int, end: int) -> bytes:
        return self._source.part("", start, end)


_HERE = "camtrap_batch.images.sources"
SOURCES: Registry[type[Source]] = Registry(
    "camtrap_batch.sources",
    {
        "path": f"{_HERE}.disk:Disk",
        "zip": f"{_HERE}.archive:Archive",
        "http": f"{_HERE}.web:Web",
        "https": f"{_HERE}.web:Web",
        "attachments": f"{_HERE}.attachments:Attachments",
        "fsspec": f"{_HERE}.bucket:Bucket",
    },
)
"""Scheme of a URL -> its source. `path`: a path without a scheme; `fsspec`: every scheme not listed here."""


def source_of(scheme: str) -> type[Source]:
    """The source of a scheme."""
    return SOURCES[scheme if scheme in SOURCES else "fsspec"]


def scheme_of(url: str) -> str:
    """The scheme of a path or URL, as a key of `SOURCES`.

    >>> scheme_of("/data/photos"), scheme_of("gs://bucket/photos"), scheme_of("https://x.org/photos")
    ('path', 'gs', 'https')
    """
    scheme, mark, _ = url.partition("://")
    return scheme if mark else "path"


def empty_listing(number: int) -> tuple[npt.NDArray[np.int64], list[str | None]]:
    """Sizes and versions of files that do not exist."""
    return np.full(number, -1, np.int64), [None] * number


def cant_stat(url: str, problem: Exception) -> Exception:
    """What to raise if a single file can't be inspected: FileNotFoundError or InputError."""
    if is_missing(problem) and not is_missing_bucket(problem):
        return FileNotFoundError(errno.ENOENT, "no such file")
    return InputError(explain(url, problem, KEY))


def path_key(path: str) -> str:
    """What paths have in common that differ in case, or in how accents are encoded (NFC, NFD).

    >>> path_key("CAM1/IMG.JPG") == path_key("cam1/img.jpg")
    True
    """
    return unicodedata.normalize("NFC", path).casefold()


def is_hidden(file_name: str) -> bool:
    """Whether the name of the file, or of a folder that it is in, begins with a dot or belongs to a
    system."""
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in file_name.split("/"))


_OF_SYSTEMS = frozenset(
    {"@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information"}
    | {"lost+found", "lost.dir", "__macosx"}
)
"""Folders that NAS devices, Windows, Macs, phones and file systems create, in lower case: not cameras."""


def is_unsafe(file_name: str) -> bool:
    """Whether a path could lead out of the image root, or is not a relative posix path at all.

    >>> is_unsafe("animals/0402/0905.jpg"), is_unsafe("../outside.jpg"), is_unsafe("C:/x.jpg"), is_unsafe("")
    (False, True, True, True)
    """
    return (
        not file_name
        or file_name[0] in "/~"
        or "\\" in file_name
        or "\0" in file_name
        or _DRIVE_OR_SCHEME.match(file_name) is not None
        or (".." in file_name and ".." in file_name.split("/"))
        or not is_utf8(file_name)
    )


def are_unsafe(file_names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """`is_unsafe` for each of many paths."""
    try:
        column = pa.array(file_names, pa.string())
    except UnicodeEncodeError:
        return np.array([is_unsafe(file_name) for file_name in file_names], bool)
    return np.asarray(pc.match_substring_regex(column, _UNSAFE).to_numpy(zero_copy_only=False), bool)


def is_utf8(file_name: str) -> bool:
    try:
        file_name.encode()
    except UnicodeEncodeError:
        return False
    return True
