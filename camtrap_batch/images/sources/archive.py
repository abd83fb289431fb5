"""Images in a zip file, on a disk or remote: listed from its central directory, fetched by one read each.

`zipfile` reads the directory. Members are found and read by our own code: `zipfile` needs two or three reads
per member, each of them a request if the zip is remote, and its objects for a million members take 1 GB.
"""

from __future__ import annotations

import bisect
import errno
import io
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.images.sources.base import (
    KEY,
    Blob,
    Listing,
    is_hidden,
    is_unsafe,
    scheme_of,
    source_of,
)
from camtrap_batch.notices import say
from camtrap_batch.ranges import Ranges
from camtrap_batch.remote import plain, redacted
from camtrap_batch.vocabulary import counted

ENTRY = pa.struct(
    [("offset", pa.int64()), ("packed", pa.int64()), ("method", pa.int16()), ("crc", pa.int64())]
)
"""Where a file is in the zip: offset of its own header; packed size in bytes; compression method; CRC-32."""

_HEADER = struct.Struct("<4s5H3L2H")  # a local file header, APPNOTE.TXT 4.3.7
_SLACK = _HEADER.size + 512  # the header, with the name and whatever else follows, read along with the data
_REDUNDANT = re.compile(r"(?<=/)(?:\.?/)+|^(?:\./)+")
_SHOWN = 3
_UTF8, _ENCRYPTED = 0x800, 0x1
_NOT_A_ZIP = (
    zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeError, ValueError, OverflowError, EOFError
)  # fmt: skip


class Archive:
    """A zip file. If all its files are in a single folder, that may be left out of file names.

    Parameters
    ----------
    url : for messages
    blob : the zip file
    folder : folder in the zip that file names are relative to; "" for the whole zip
    """

    def __init__(self, url: str, blob: Blob, folder: str = "") -> None:
        self._where, self._blob, self._folder = redacted(url), blob, folder.strip("/")
        self.reads_at_once = blob.reads_at_once
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, str], _Index] | None = None

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        """Open `zip://FOLDER::URL`, or the path or URL of a zip file."""
        folder, file = "", url
        if url.startswith("zip://"):
            folder, mark, file = url.removeprefix("zip://").partition("::")
            if not mark or not file:
                raise InputError(
                    f"{redacted(url)} ({KEY}): should be zip://FOLDER::URL, or the zip's URL alone"
                )
        open_file = getattr(source_of(scheme_of(file)), "open_file", None)
        if open_file is None:
            raise InputError(
                f"{redacted(url)} ({KEY}): a zip file can't be read in parts there; copy it first"
            )
        return cls(url, open_file(file, options), folder)

    def check(self) -> None:
        """Reads only the end of the zip, which says where its directory is."""
        try:
            file = _Seekable(self._blob)
        except FileNotFoundError:
            raise InputError(f"{self._where}: no such file ({KEY})") from None
        except OSError as problem:
            raise self._cant_read(problem) from None
        if not zipfile.is_zipfile(io.BufferedReader(file, 2**16)):
            raise self._cant_read(file.failure) if file.failure else self._broken("its end is missing")

    def listing(self, file_names: Sequence[str]) -> Listing:
        index = self._index()
        rows = index.find_all(
            [None if is_unsafe(file_name) else self._folder_and(file_name) for file_name in file_names]
        )
        sizes = pc.fill_null(index.sizes.take(rows), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        there = rows.is_valid().to_pylist()
        crcs, dates = (column.take(rows).to_pylist() for column in (index.crcs, index.dates))
        modified = [
            f"{crc:08x} {date}" if is_there else None
            for crc, date, is_there in zip(crcs, dates, there, strict=True)
        ]
        return Listing(sizes, modified, index.entries(rows))

    def walk(self) -> Iterator[str]:
        inside = f"{self._folder}/" if self._folder else ""
        for name in self._index().names:
            path = name.as_py()
            # One that leads out of the folder gets a row that says so.
            if path.startswith(inside) and (is_unsafe(path) or not is_hidden(path)):
                yield path[len(inside) :]

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        if entry is None:
            entry = self._index_for_reading().find(self._folder_and(file_name))
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "no such file in the zip")
        return self._member(entry["offset"], entry["packed"], entry["method"], entry["crc"], end)

    def _member(self, offset: int, packed: int, method: int, crc: int, end: int | None) -> bytes:
        """The first `end` bytes of a member, unpacked."""
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            name = zipfile.compressor_names.get(method, "unknown")  # type: ignore[attr-defined]
            raise OSError(f"packed by method {method} ({name}) in the zip; possible: stored, deflated")
        wanted = packed
        if end is not None:  # deflate adds at most 5 bytes to each 16 KB that it can't make smaller
            wanted = min(packed, end + (end // 1024 + 64) * (method == zipfile.ZIP_DEFLATED))
        data = self._blob.read(offset, offset + _SLACK + wanted)
        if len(data) < _HEADER.size or data[:4] != b"PK\3\4":
            raise OSError("the zip has no file where its directory says; is it damaged, or has it changed?")
        _, _, flags, *_, name_bytes, extra_bytes = _HEADER.unpack_from(data)
        if flags & _ENCRYPTED:
            raise OSError("is encrypted in the zip")
        begin = _HEADER.size + name_bytes + extra_bytes
        if len(data) < begin + wanted:  # a very long name, or the zip ends here
            data += self._blob.read(offset + len(data), offset + begin + wanted)
        body = memoryview(data)[begin : begin + wanted]
        if len(body) < wanted:
            raise OSError("the zip ends in the middle of it")
        content, is_whole = (_stored if method == zipfile.ZIP_STORED else _inflated)(body, packed, end)
        if is_whole and zlib.crc32(content) != crc:
            raise OSError("fails the zip's own checksum")
        return content

    def _folder_and(self, file_name: str) -> str:
        return f"{self._folder}/{file_name}" if self._folder else file_name

    def _index(self) -> _Index:
        """The zip's directory, read again if the zip has changed."""
        with self._lock:
            try:
                version = self._blob.stat()
                if self._known is not None and self._known[0] == version:
                    return self._known[1]
                file = _Seekable(self._blob)
            except FileNotFoundError:
                raise InputError(f"{self._where}: no such file ({KEY})") from None
            except OSError as problem:
                raise self._cant_read(problem) from None
            try:
                index = _Index.of(file)
            except (OSError, *_NOT_A_ZIP) as problem:
                # `zipfile` takes a failing read for the end of the file.
                raise (
                    self._cant_read(file.failure) if file.failure else self._broken(plain(problem))
                ) from None
            self._known = version, index
            if index.replaced:
                say(f"{self._where}: {_replaced(index.replaced)}")
            return index

    def _index_for_reading(self) -> _Index:
        known = self._known
        if known is not None:
            return known[1]
        try:
            return self._index()
        except InputError as problem:
            raise OSError(str(problem)) from None

    def _cant_read(self, problem: OSError) -> InputError:
        return InputError(f"{self._where}: can't be read ({KEY}): {plain(problem)}")

    def _broken(self, why: str) -> InputError:
        return InputError(
            f"{self._where}: is not a whole zip file ({KEY}): {why}; was it copied completely? "
            "`unzip -t` tells"
        )


class _Index:
    """A zip's directory as columns sorted by name, since a data set may have a million files."""

    def __init__(self, columns: pa.Table, top: str | None, replaced: list[str]) -> None:
        self.names: pa.Array = columns["name"].combine_chunks()
        self.sizes: pa.Array = columns["size"].combine_chunks()
        self.crcs: pa.Array = columns["crc"].combine_chunks()
        self.dates: pa.Array = columns["date"].combine_chunks()
        self._entries = {field.name: columns[field.name].combine_chunks() for field in ENTRY}
        self._top = top
        self.replaced = replaced
        """Names of files that another of the same name comes after."""

    @classmethod
    def of(cls, file: io.RawIOBase) -> _Index:
        """Read a zip's directory. Raises what `zipfile` raises."""
        members: dict[str, zipfile.ZipInfo] = {}
        replaced: list[str] = []
        with zipfile.ZipFile(io.BufferedReader(file, 2**20)) as archive:
            for info in archive.infolist():
                name = _name(info)
                if not name or name.endswith("/"):  # a folder
                    continue
                if name in members:
                    replaced.append(name)
                members[name] = info
        infos = members.values()
        columns = pa.table(
            {
                "name": pa.array(members, pa.large_string()),
                "size": pa.array((info.file_size for info in infos), pa.int64()),
                "date": pa.array(
                    "{}-{:02}-{:02}T{:02}:{:02}:{:02}".format(*info.date_time) for info in infos
                ),
                "offset": pa.array((info.header_offset for info in infos), pa.int64()),
                "packed": pa.array((info.compress_size for info in infos), pa.int64()),
                "method": pa.array((info.compress_type for info in infos), pa.int16()),
                "crc": pa.array((info.CRC for info in infos), pa.int64()),
            }
        )
        tops = {name.partition("/")[0] if "/" in name else None for name in members if not _is_litter(name)}
        top = tops.pop() if len(tops) == 1 else None
        return cls(columns.sort_by("name"), top, replaced)

    def find_all(self, names: Sequence[str | None]) -> pa.Array:
        """Row of each name, null if there is none."""
        asked = pa.array(names, pa.large_string())
        rows = pc.index_in(asked, value_set=self.names)
        if self._top is not None and rows.null_count:
            kind = pa.large_string()
            below = pc.binary_join_element_wise(pa.scalar(self._top, kind), asked, pa.scalar("/", kind))
            rows = pc.coalesce(rows, pc.index_in(below, value_set=self.names))
        return pc.if_else(asked.is_valid(), rows, pa.scalar(None, pa.int32()))

    def find(self, name: str) -> dict[str, int] | None:
        """Entry of one name."""
        for path in (name, f"{self._top}/{name}") if self._top is not None else (name,):
            row = bisect.bisect_left(range(len(self.names)), path, key=lambda row: self.names[row].as_py())
            if row < len(self.names) and self.names[row].as_py() == path:
                return {field: column[row].as_py() for field, column in self._entries.items()}
        return None

    def entries(self, rows: pa.Array) -> pa.StructArray:
        """Entries of rows, null if the row is."""
        columns = [column.take(rows) for column in self._entries.values()]
        return pa.StructArray.from_arrays(columns, fields=list(ENTRY), mask=rows.is_null())


class _Seekable(Ranges):
    """A blob as a file for `zipfile`, which hides why a read failed."""

    def __init__(self, blob: Blob) -> None:
        super().__init__(self._part, blob.stat()[0], most=8 * 2**20)
        self._blob = blob
        self.failure: OSError | None = None

    def _part(self, start: int, end: int) -> bytes:
        try:
            return self._blob.read(start, end)
        except OSError as problem:
            self.failure = problem
            raise


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name: UTF-8 if possible, even if the zip does not declare it, as many programs fail to do.

    Windows PowerShell writes backslashes between folders, other programs ./ before all.
    """
    name = info.filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    name = name if "/" in name else name.replace("\\", "/")
    return _REDUNDANT.sub("", name) if "./" in name or "//" in name else name


def _replaced(names: list[str]) -> str:
    """What is said of files whose name a later one in the zip has."""
    which = list(dict.fromkeys(names))
    more = f" and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
    listed = ", ".join(map(repr, which[:_SHOWN])) + more
    return f"{counted(len(names), 'files left out')}, as a later one in the zip has the same name: {listed}"


def _is_litter(name: str) -> bool:
    """What the Finder adds to a zip."""
    return name.startswith("__MACOSX/") or is_hidden(name)


def _stored(body: memoryview, packed: int, end: int | None) -> tuple[bytes, bool]:
    """Content, and whether it is complete."""
    return bytes(body), len(body) == packed


def _inflated(body: memoryview, packed: int, end: int | None) -> tuple[bytes, bool]:
    """Like `_stored`. However large the unpacked content would be, it is never unpacked beyond `end`."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(body, 0 if end is None else end)
    except zlib.error as problem:
        raise OSError(f"is damaged in the zip: {problem}") from None
    if not unpacker.eof and (end is None or len(content) < end):
        raise OSError("is cut off in the zip")
    return content, unpacker.eof
