"""Objects of COCO Camera Traps JSON -> Arrow columns, in two processes where the file is large.

Millions of Python objects come between the two, one after the other in each process. A large file is cut
between two images, and a second process takes what follows. It runs this file as a script, so that it starts
in no time: nothing of the package is imported here.
"""

from __future__ import annotations

import gc
import mmap
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

LARGE_BYTES = 64_000_000

Id = str | int | float
_INT32 = msgspec.Meta(ge=-(2**31), lt=2**31)
Whole = Annotated[int, _INT32]
Number = Whole | Annotated[float, _INT32]

_MAY_CHANGE = r"^$|^[^!-~]|[^!-~]$"  # texts that are blank, or that something may be stripped of
_FLAGS = frozenset({True, "true", "True"})

_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_NEAR = 1_000_000
# It ends the first part of a file. Where it turns up as the last image, the cut is between two images.
_MARK = "the last image of the first part"
_CLOSING = f', {{"id": "{_MARK}", "file_name": ""}}]}}'.encode()
_OPENING = b'{"images": ['


class _Image(msgspec.Struct, gc=False):
    id: str | int
    file_name: str
    location: Id | None = None
    datetime: str | None = None
    seq_id: Id | None = None
    frame_num: Number | None = None
    seq_num_frames: Number | None = None
    corrupt: bool | int | str | None = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: str | int
    category_id: Whole
    count: Number | None = None


class _Category(msgspec.Struct, gc=False):
    id: Whole
    name: str | None = None


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Part(_File, gc=False):
    """A part of a file: what of it is elsewhere is empty."""

    annotations: list[_Annotation] = []
    categories: list[_Category] = []


@dataclass
class Columns:
    """What a file holds.

    Attributes
    ----------
    images : image_id, file_name, location, seq_id, dates as text; frame_num, seq_num_frames, width, height;
        corrupt, whether the metadata says so
    annotations : image_id, category_id, count
    categories : id, name
    """

    images: pa.Table
    annotations: pa.Table
    categories: pa.Table

    def __add__(self, other: Columns) -> Columns:
        return Columns(
            *(
                pa.concat_tables([getattr(part, name) for part in (self, other)]).combine_chunks()
                for name in ("images", "annotations", "categories")
            )
        )


def read_columns(data: bytes | mmap.mmap, path: str) -> Columns:
    """Parse a COCO Camera Traps file; `data` is mapped where `path` is a plain file of this machine.

    Raises what msgspec.json.decode does.
    """
    is_large = isinstance(data, mmap.mmap) and len(data) >= LARGE_BYTES and (os.cpu_count() or 1) > 1
    if is_large and (both := _read_in_two_parts(data, path)) is not None:
        return both
    return _columns(_decode(data, _File))


def text(value: str | float | None) -> str | None:
    """An id that may be written as a number: 402 and 402.0 are "402"; blank is None."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = str(value).strip()
    return written or None


def pixels(values: list[Any]) -> pa.Array:
    """Widths or heights; null for what can be none: nothing but a check hangs on them."""
    try:
        column = pa.array(values, pa.int32())
    except (pa.ArrowException, OverflowError):
        column = pa.array([_whole_pixels(value) for value in values], pa.int32())
    return pc.if_else(pc.greater(column, 0), column, None)


def _read_in_two_parts(data: bytes | mmap.mmap, path: str) -> Columns | None:
    """None where it can't be done so; the whole file then has to say why."""
    middle = len(data) // 2
    if (cut := _BETWEEN.search(data, middle, middle + _NEAR)) is None:
        return None
    # Files, since a pipe would need this process to read and write while it decodes.
    with Path(path).open("rb", buffering=0) as rest, tempfile.TemporaryFile() as answer:
        rest.seek(cut.end() - 1)
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", __file__], stdin=rest, stdout=answer, stderr=subprocess.DEVNULL
        ) as other:
            try:
                first = _decode(data[: cut.start() + 1] + _CLOSING, _Part)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                other.kill()
                return None
            if first.images.pop().id != _MARK:
                other.kill()
                return None
            columns = _columns(first)
            del first
        if other.returncode:
            return None
        with pa.memory_map(f"/dev/fd/{answer.fileno()}") as stream:
            return columns + Columns(*(pa.ipc.open_stream(stream).read_all() for _ in range(3)))


def _answer() -> None:
    """What the second process does."""
    columns = _columns(_decode(_OPENING + sys.stdin.buffer.read(), _Part))
    for table in (columns.images, columns.annotations, columns.categories):
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
            stream.write_table(table)


def _decode(data: bytes | mmap.mmap, kind: type[_File]) -> _File:
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are made, and none becomes garbage
    try:
        return msgspec.json.decode(data, type=kind)
    finally:
        if collecting:
            gc.enable()


def _columns(content: _File) -> Columns:
    images, annotations, categories = content.images, content.annotations, content.categories
    return Columns(
        pa.table(
            {
                "image_id": _ids(_column(images, "id")),
                "file_name": pa.array(_column(images, "file_name"), pa.string()),
                "location": _texts(_column(images, "location")),
                "seq_id": _texts(_column(images, "seq_id")),
                "dates": pa.array(_column(images, "datetime"), pa.string()),
                "frame_num": pa.array(_column(images, "frame_num"), pa.int32()),
                "seq_num_frames": pa.array(_column(images, "seq_num_frames"), pa.int32()),
                "width": pixels(_column(images, "width")),
                "height": pixels(_column(images, "height")),
                "corrupt": pa.array(map(_FLAGS.__contains__, _column(images, "corrupt")), pa.bool_()),
            }
        ),
        pa.table(
            {
                "image_id": _ids(_column(annotations, "image_id")),
                "category_id": pa.array(_column(annotations, "category_id"), pa.int64()),
                "count": pa.array(_column(annotations, "count"), pa.float64()),
            }
        ),
        pa.table(
            {
                "id": pa.array(_column(categories, "id"), pa.int64()),
                "name": pa.array(_column(categories, "name"), pa.string()),
            }
        ),
    )


def _column(objects: list[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), objects))


def _ids(values: list[str | int]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except pa.ArrowTypeError:  # numbers among them
        return pa.array(map(str, values), pa.string())


def _texts(values: list[Id | None]) -> pa.Array:
    """As `text` has it."""
    try:
        written = pa.array(values, pa.string())
    except pa.ArrowTypeError:  # numbers among them
        distinct = {value: text(value) for value in set(values)}
        return pa.array([distinct[value] for value in values], pa.string())
    if not pc.any(pc.match_substring_regex(written, _MAY_CHANGE)).as_py():
        return written
    return pa.array(map(text, values), pa.string())


def _whole_pixels(value: object) -> int | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 < number < 2**31 else None


if __name__ == "__main__":
    _answer()
