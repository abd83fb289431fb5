"""The bytes of a large JSON file, plain or packed."""

from __future__ import annotations

import gc
import io
import json
import mmap
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileOpener

from camtrap_batch.catalog.zipped import name_of, read_file, zip_and_name
from camtrap_batch.errors import InputError
from camtrap_batch.remote import cant_read

_NOT_OF_JSON = re.compile(rb"[:\[,]\s*(-?Infinity|NaN|NA|N/A|None|undefined|True|False)\b")
"""What R, Python and JavaScript write for special values."""


def read_json(path: str, key: str) -> bytes | mmap.mmap:
    """The text of a JSON file: `.json`, `.json.gz`, or the one in a `.zip`; not yet parsed.

    Parameters
    ----------
    path : file, fsspec URL, or `zip://name.json::URL`
    key : the key of the job file that names it, for messages

    Raises
    ------
    InputError
        It is missing or damaged, or can't be read.
    """
    name = name_of(path)
    try:
        if zip_and_name(path) is None and not name.endswith((".zip", ".gz")):
            with fsspec.open(path, "rb") as file:
                if _is_plain(file):
                    # Avoids a second copy of what the system keeps in memory anyway: a third of a second for
                    # 587 MB.
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = as_utf8(read_file(path))
    except (EOFError, zlib.error) as problem:
        raise InputError(f"{path}: damaged gzip file: {problem}") from None
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(cant_read(path, problem, key)) from None
    if not zipfile.is_zipfile(io.BytesIO(data)):
        if name.endswith(".zip"):
            raise InputError(f"{path}: not a zip file, or one that is cut off")
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [
                name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name
            ]
            if len(inside) != 1:
                raise InputError(f"{path}: should hold one .json file, it holds {len(inside)}")
            return as_utf8(archive.read(inside[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise InputError(f"{path}: damaged zip file: {problem}") from None
    except (RuntimeError, NotImplementedError) as problem:  # encrypted, or packed in a way Python can't
        raise InputError(f"{path}: can't be unpacked: {problem}") from None


def as_utf8(data: bytes) -> bytes:
    """JSON in UTF-8 and without a byte order mark; Windows programs also write UTF-16."""
    encoding = json.detect_encoding(data)
    return data if encoding == "utf-8" else data.decode(encoding, "replace").encode()


def why_not_json(data: bytes | mmap.mmap, problem: Exception) -> str:
    """The message for a file that msgspec can't parse: some programs write numbers that JSON does not
    have."""
    found = _NOT_OF_JSON.search(data)
    if found is not None and "malformed" in str(problem):
        line, word = data[: found.start(1)].count(b"\n") + 1, found[1].decode()
        right = {"True": "true", "False": "false"}.get(word, "null")
        return f"not JSON, or cut off: line {line} has {word}, which JSON does not have; it should be {right}"
    return f"not JSON, or cut off: {problem}"


@contextmanager
def parsing(data: bytes | mmap.mmap, where: str, kind: str = "") -> Iterator[None]:
    """For parsing a large file. Raises InputError if msgspec finds that it is not JSON, or not `kind`."""
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are created, and none becomes garbage
    try:
        yield
    except msgspec.ValidationError as problem:
        raise InputError(f"{where}: not {kind}: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InputError(f"{where}: {why_not_json(data, problem)}") from None
    finally:
        if collecting:
            gc.enable()


def _is_plain(file: Any) -> bool:
    """Whether an open file is on this machine, and is JSON from its first byte."""
    if not isinstance(file, LocalFileOpener):
        return False
    start = file.read(4)
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    return bool(start) and json.detect_encoding(start) == "utf-8" and not is_zip
