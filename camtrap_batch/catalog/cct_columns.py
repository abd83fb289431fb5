"""Objects of COCO Camera Traps JSON -> Arrow columns.

A large file is read a piece at a time, cut between two objects: millions of objects at once would take more
memory than their columns, and getting that memory would take most of the time. Python makes objects one after
the other, so a second process takes the second part. It runs this file as a script, and nothing of the
package is imported here, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import mmap
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import if_else
from camtrap_batch.vocabulary import MISSING

PIECE_BYTES = 4_000_000
FOR_TWO_BYTES = 64_000_000
"""Files of this size or more are read by two processes."""

_FIRST_PART = 0.5  # of the bytes: the second process must start, and gets the cheaper annotations

Id = str | int | float
_INT32 = msgspec.Meta(ge=-(2**31), lt=2**31)
Whole = Annotated[int, _INT32]
Number = Whole | Annotated[float, _INT32]

_FLAGS = frozenset({True, "true", "True"})

_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_NEAR = 1_000_000
# Ends a piece of a file. The list it turns up in is the one that was cut between two of its objects.
_MARK = "the last one of a piece"
_OPENING = b'{"images": ['
_LIST = b"list"
_CLOSING = f', {{"id": "{_MARK}", "file_name": "", "image_id": "{_MARK}", "category_id": 0}}]}}'.encode()


class _Image(msgspec.Struct, gc=False):
    id: str | int
    file_name: str
    location: Id | None = None
    datetime: str | None = None
    seq_id: Id | None = None
    frame_num: Number | str | None = None
    seq_num_frames: Number | str | None = None
    corrupt: bool | int | str | None = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: str | int
    category_id: Whole
    count: Number | str | None = None


class _Category(msgspec.Struct, gc=False):
    id: Whole
    name: str | None = None


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Piece(msgspec.Struct, gc=False):
    images: list[_Image] | msgspec.UnsetType = msgspec.UNSET
    annotations: list[_Annotation] | msgspec.UnsetType = msgspec.UNSET
    categories: list[_Category] | msgspec.UnsetType = msgspec.UNSET


_CUT: dict[str, msgspec.json.Decoder[Any]] = {
    "images": msgspec.json.Decoder(list[_Image]),
    "annotations": msgspec.json.Decoder(list[_Annotation]),
}
"""Lists within which a file may be cut."""


@dataclass
class Columns:
    """The content of a file.

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


def read_columns(data: bytes | mmap.mmap, path: Path | None) -> Columns:
    """Parse a COCO Camera Traps file. Raises what msgspec.json.decode does.

    `path` is that of the file that `data` is mapped from, if it is.
    """
    if len(data) < 2 * PIECE_BYTES:
        return _whole(data)
    try:
        if path is not None and len(data) >= FOR_TWO_BYTES and (os.cpu_count() or 1) > 1:
            return _join(_read_by_two(data, path))
        return _join([_columns(piece) for piece in _pieces(data)])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # There is nowhere to cut, or something is wrong and must be reported for the whole file.
        return _whole(data)


def text(value: str | float | None) -> str | None:
    """An id that may be written as a number: 402 and 402.0 are "402"; blank, and NA, is None."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = str(value).strip()
    return None if written in MISSING else written


_text = functools.lru_cache(1_000_000)(text)


def pixels(values: list[Any]) -> pa.Array:
    """Widths or heights; null for impossible values, since only a check depends on them."""
    try:
        column = pa.array(values, pa.int32())
    except (pa.ArrowException, OverflowError):
        column = pa.array([_whole_pixels(value) for value in values], pa.int32())
    return pc.if_else(pc.greater(column, 0), column, None)


def _whole(data: bytes | mmap.mmap) -> Columns:
    return Columns(**_columns(msgspec.json.decode(data, type=_File)))


def _read_by_two(data: bytes | mmap.mmap, path: Path) -> list[dict[str, pa.Table]]:
    """Tables of all pieces; those of the second part come from another process."""
    cut = _cut(data, int(len(data) * _FIRST_PART))
    if cut is None:
        raise msgspec.DecodeError("nowhere to cut")
    # Files, because a pipe would need this process to read and write in the meantime.
    with path.open("rb", buffering=0) as rest, tempfile.TemporaryFile() as answer:
        rest.seek(cut[1])
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", __file__], stdin=rest, stdout=answer, stderr=subprocess.DEVNULL
        ) as other:
            try:
                parts = [_columns(piece) for piece in _pieces(data, end=cut[0])]
            except BaseException:
                other.kill()
                raise
        if other.returncode:
            raise msgspec.DecodeError("not read by the other process")
        with pa.memory_map(f"/dev/fd/{answer.fileno()}") as stream:
            while stream.tell() < stream.size():
                table = pa.ipc.open_stream(stream).read_all()
                parts.append({table.schema.metadata[_LIST].decode(): table})
        return parts


def _answer() -> None:
    """What the other process runs: tables of a file from a certain image on."""
    gc.disable()
    parts = [_columns(piece) for piece in _pieces(sys.stdin.buffer.read(), opening=_OPENING)]
    for name in _TABLES:
        if tables := [part[name] for part in parts if name in part]:
            table = pa.concat_tables(tables).replace_schema_metadata({_LIST: name})
            with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
                stream.write_table(table)


def _join(parts: list[dict[str, pa.Table]]) -> Columns:
    tables = {name: [part[name] for part in parts if name in part] for name in _TABLES}
    if not all(tables.values()):
        raise msgspec.DecodeError("a list is missing")
    return Columns(**{name: pa.concat_tables(some).combine_chunks() for name, some in tables.items()})


def _pieces(data: bytes | mmap.mmap, *, opening: bytes = b"", end: int | None = None) -> Iterator[_Piece]:
    """A file, or the rest of one that begins with `opening`; or the part before `end`, where an image ends.

    A piece that begins or ends outside the lists of images and annotations is a whole file except for what is
    cut off. In between, what follows up to the next cut is a piece of the same list if it is a list of such
    objects; otherwise the list has ended. If the next cut is in neither list, the rest is one piece.
    """
    # One buffer for all pieces: the system would have to find and clear a new one for each.
    listed = memoryview(bytearray(PIECE_BYTES + _NEAR + 2))
    listed[:1] = b"["
    start = 0
    with memoryview(data) as whole:
        while cut := _cut(data, start, end):
            try:
                piece = msgspec.json.decode(opening + data[start : cut[0]] + _CLOSING, type=_Piece)
            except msgspec.DecodeError:
                break
            if (name := _take_mark(piece)) is None:
                break
            yield piece
            start = cut[1]
            while cut := _cut(data, start, end):
                length = cut[0] - start
                listed[1 : length + 1], listed[length + 1 : length + 2] = whole[start : cut[0]], b"]"
                try:
                    objects = _CUT[name].decode(listed[: length + 2])
                except msgspec.DecodeError:
                    break
                yield _Piece(**{name: objects})
                start = cut[1]
            opening = f'{{"{name}": ['.encode()
    if end is None:
        yield msgspec.json.decode(opening + data[start:], type=_Piece)
    else:  # what follows is read as images
        yield _Piece(images=msgspec.json.decode(b"[" + data[start:end] + b"]", type=list[_Image]))
        if opening != _OPENING:
            raise msgspec.DecodeError("cut elsewhere")


def _cut(data: bytes | mmap.mmap, start: int, end: int | None = None) -> tuple[int, int] | None:
    """Where one object ends and the next begins, one piece after `start` and before `end`."""
    near = start + PIECE_BYTES
    found = _BETWEEN.search(data, near, near + _NEAR if end is None else min(near + _NEAR, end))
    return found and (found.start() + 1, found.end() - 1)


def _take_mark(piece: _Piece) -> str | None:
    """Name of the list that was cut, if it is in `_CUT`. The mark is removed from it."""
    if piece.images and piece.images[-1].id == _MARK:
        piece.images.pop()
        return "images"
    if piece.annotations and piece.annotations[-1].image_id == _MARK:
        piece.annotations.pop()
        return "annotations"
    return None


def _columns(content: _File | _Piece) -> dict[str, pa.Table]:
    """Tables by the name of the list, for the lists that exist."""
    return {
        name: pa.table(make(objects))
        for name, make in _TABLES.items()
        if (objects := getattr(content, name)) is not msgspec.UNSET
    }


def _of_images(images: list[_Image]) -> dict[str, pa.Array]:
    return {
        "image_id": _ids(_column(images, "id")),
        "file_name": pa.array(_column(images, "file_name"), pa.string()),
        "location": _texts(_column(images, "location")),
        "seq_id": _texts(_column(images, "seq_id")),
        "dates": pa.array(_column(images, "datetime"), pa.string()),
        "frame_num": _numbers(images, "frame_num", pa.int32()),
        "seq_num_frames": _numbers(images, "seq_num_frames", pa.int32()),
        "width": pixels(_column(images, "width")),
        "height": pixels(_column(images, "height")),
        "corrupt": pa.array(map(_FLAGS.__contains__, _column(images, "corrupt")), pa.bool_()),
    }


def _of_annotations(annotations: list[_Annotation]) -> dict[str, pa.Array]:
    return {
        "image_id": _ids(_column(annotations, "image_id")),
        "category_id": pa.array(_column(annotations, "category_id"), pa.int64()),
        "count": _numbers(annotations, "count", pa.float64()),
    }


def _of_categories(categories: list[_Category]) -> dict[str, pa.Array]:
    return {
        "id": pa.array(_column(categories, "id"), pa.int64()),
        "name": pa.array(_column(categories, "name"), pa.string()),
    }


_TABLES: dict[str, Callable[[list[Any]], dict[str, pa.Array]]] = {
    "images": _of_images,
    "annotations": _of_annotations,
    "categories": _of_categories,
}


def _column(objects: list[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), objects))


def _numbers(objects: list[Any], name: str, kind: pa.DataType) -> pa.Array:
    values = _column(objects, name)
    if str in set(map(type, values)):
        values = [_number(value, name) if isinstance(value, str) else value for value in values]
    return pa.array(values, kind)


def _number(value: str, name: str) -> float | None:
    """A number written as text. Raises msgspec.ValidationError if it is not one."""
    if value.strip() in MISSING:
        return None
    with contextlib.suppress(ValueError):
        if abs(number := float(value)) < 2**31:
            return int(number) if number.is_integer() else number
    raise msgspec.ValidationError(f"{name}: {value!r} should be a number")


def _ids(values: list[str | int]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except pa.ArrowTypeError:  # numbers among them
        return pa.array(map(str, values), pa.string())


def _texts(values: list[Id | None]) -> pa.Array:
    """Like `text`, for whole columns."""
    try:
        written = pa.array(values, pa.string())
    except pa.ArrowTypeError:  # numbers among them
        return pa.array(map(_text, values), pa.string())
    if not _are_bare(written):
        return pa.array(map(_text, values), pa.string())
    is_missing = pc.is_in(written, pa.array(sorted(MISSING)))
    return if_else(is_missing, None, written) if pc.any(is_missing).as_py() else written


def _are_bare(texts: pa.StringArray) -> bool:
    """Whether each text begins and ends with a visible ASCII character, or is null."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1)
    is_text = texts.is_valid().to_numpy(zero_copy_only=False)
    first, last = ends[:-1][is_text], ends[1:][is_text] - 1
    if (last < first).any():
        return False
    letters = np.frombuffer(content or b"", np.uint8)
    return bool((np.concatenate([letters[first], letters[last]]) - np.uint8(ord("!")) < 94).all())


def _whole_pixels(value: object) -> int | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 < number < 2**31 else None


if __name__ == "__main__":
    _answer()
