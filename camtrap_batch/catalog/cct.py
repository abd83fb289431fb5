"""COCO Camera Traps JSON -> catalog.

Format: github.com/agentmorris/MegaDetector, "COCO Camera Traps format". Real files bend it; what is met is
counted in the catalog's notes, and only what would lose or confuse images is refused.
"""

from __future__ import annotations

import codecs
import gc
import io
import zipfile
import zlib
from collections import Counter
from typing import Annotated, Any

import fsspec
import msgspec
import numpy as np

from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog, text
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import EMPTY

Id = str | int | float
_INT32 = msgspec.Meta(ge=-(2**31), lt=2**31)
Whole = Annotated[int, _INT32]
Number = Whole | Annotated[float, _INT32]


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


def read_cct(path: str, *, utc_offset: str | None = None) -> Catalog:
    """Read a COCO Camera Traps file.

    Parameters
    ----------
    path : file or fsspec URL; `.json`, `.json.gz`, or a `.zip` that holds one `.json`
    utc_offset : offset of dates that have none of their own, such as "+02:00"

    Raises
    ------
    InputError
        The file is not there, not JSON, not COCO Camera Traps, has a date that is none, or one id for two
        images or two categories.
    """
    content = _decode(path)
    notes: Counter[str] = Counter()
    names: dict[int, str] = {}
    for category in content.categories:
        name = (category.name or "").strip()
        if names.setdefault(category.id, name) != name:
            raise InputError(
                f"{path}: category id {category.id} stands for {names[category.id]!r} and {name!r}; "
                "an id should name one category"
            )
    names = {
        number: name or (EMPTY if number == 0 else f"category {number}") for number, name in names.items()
    }
    images = content.images
    place = {str(image.id): row for row, image in enumerate(images)}
    annotations = content.annotations
    row_of = [place.get(str(annotation.image_id), -1) for annotation in annotations]
    rows = np.asarray(row_of, np.int64)
    category_ids = np.asarray([annotation.category_id for annotation in annotations], np.int64)
    counts = [None if mark.count is None or mark.count < 0 else int(mark.count) for mark in annotations]
    known = rows >= 0
    notes["annotations without an image, left out"] += int((~known).sum())
    for number in sorted(set(category_ids[known].tolist()) - set(names)):
        names[number] = f"category {number}"
        notes["categories that annotations use and the file does not list"] += 1
    doubles = Counter(names.values())
    notes["categories that share their name with another"] += sum(n for n in doubles.values() if n > 1)
    notes["images without an annotation"] += len(images) - len(np.unique(rows[known]))
    notes["images flagged corrupt by the metadata; judged by their content"] += sum(
        image.corrupt in (True, 1, "true", "True") for image in images
    )
    labels = group_labels(
        rows[known],
        category_ids[known],
        [count for count, is_known in zip(counts, known.tolist(), strict=True) if is_known],
        len(images),
        names,
    )
    # A double id holds its annotations in its last row; the first one is kept, so all its rows must agree.
    if len(place) < len(images):
        labels = labels.take([place[str(image.id)] for image in images])
    columns = Rows(
        image_id=[str(image.id) for image in images],
        file_name=[image.file_name for image in images],
        location=[text(image.location) for image in images],
        seq_id=[text(image.seq_id) for image in images],
        frame_num=[_whole(image.frame_num) for image in images],
        seq_num_frames=[_whole(image.seq_num_frames) for image in images],
        dates=[image.datetime for image in images],
        width=[image.width for image in images],
        height=[image.height for image in images],
    )
    # Their objects are as large as the table that is made next.
    del content, images, annotations, place, row_of
    return make_catalog(
        columns,
        labels,
        source="cct",
        where=path,
        categories=sorted(names.items()),
        notes=notes,
        utc_offset=utc_offset,
    )


def _decode(path: str) -> _File:
    data = _read(path)
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are made, and none becomes garbage
    try:
        return msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as problem:
        raise InputError(f"{path}: not COCO Camera Traps: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InputError(f"{path}: not JSON, or cut off: {problem}") from None
    finally:
        if collecting:
            gc.enable()


def _read(path: str) -> bytes:
    try:
        with fsspec.open(path, "rb", compression="gzip" if path.endswith(".gz") else None) as file:
            data: bytes = file.read().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (dataset.metadata)") from None
    except (EOFError, zlib.error) as problem:
        raise InputError(f"{path}: damaged gzip file: {problem}") from None
    except Exception as problem:  # clients of object stores have errors of their own
        raise InputError(f"{path}: can't be read (dataset.metadata): {problem}") from None
    if not zipfile.is_zipfile(io.BytesIO(data)):
        if path.endswith(".zip"):
            raise InputError(f"{path}: not a zip file, or one that is cut off")
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [
                name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name
            ]
            if len(inside) != 1:
                raise InputError(f"{path}: should hold one .json file, it holds {len(inside)}")
            return archive.read(inside[0]).removeprefix(codecs.BOM_UTF8)
    except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise InputError(f"{path}: damaged zip file: {problem}") from None
    except (RuntimeError, NotImplementedError) as problem:  # encrypted, or packed in a way Python can't
        raise InputError(f"{path}: can't be unpacked: {problem}") from None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
