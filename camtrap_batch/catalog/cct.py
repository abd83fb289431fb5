"""COCO Camera Traps JSON -> catalog.

Format: github.com/agentmorris/MegaDetector, "COCO Camera Traps format". Real files bend it; what is met is
counted in the catalog's notes, and only what would lose or confuse images is refused.
"""

from __future__ import annotations

import gc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.jsonfile import read_json
from camtrap_batch.catalog.table import Catalog, Rows, group_labels, make_catalog, text
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import EMPTY

Id = str | int | float
_INT32 = msgspec.Meta(ge=-(2**31), lt=2**31)
_MAY_CHANGE = r"^$|^[^!-~]|[^!-~]$"  # texts that are blank, or that something may be stripped of
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
    names = _names(content.categories, path)
    marks = _marks(content.annotations)
    images = content.images
    # What its objects take is given back as soon as there are columns of them.
    del content
    ids = _ids(_column(images, "id"))
    # Arrow and NumPy let Python go on meanwhile.
    with ThreadPoolExecutor(1) as beside:
        labelled = beside.submit(_labels, ids, marks, names)
        columns = Rows(
            image_id=ids.texts,
            file_name=pa.array(_column(images, "file_name"), pa.string()),
            location=_texts(_column(images, "location")),
            seq_id=_texts(_column(images, "seq_id")),
            frame_num=pa.array(_column(images, "frame_num"), pa.int32()),
            seq_num_frames=pa.array(_column(images, "seq_num_frames"), pa.int32()),
            dates=pa.array(_column(images, "datetime"), pa.string()),
            width=_column(images, "width"),
            height=_column(images, "height"),
        )
        flags = Counter(_column(images, "corrupt"))
        del images
        labels, has_doubles, notes = labelled.result()
    notes["images flagged corrupt by the metadata; judged by their content"] += sum(
        number for flag, number in flags.items() if flag in (True, "true", "True")
    )
    return make_catalog(
        columns,
        labels,
        source="cct",
        where=path,
        categories=sorted(names.items()),
        notes=notes,
        utc_offset=utc_offset,
        no_doubles=not has_doubles,
    )


@dataclass
class _Ids:
    texts: pa.Array
    hashes: npt.NDArray[np.int64]


@dataclass
class _Marks:
    """Annotations: the image's id, the category's, and the number of animals where it is known."""

    image_ids: _Ids
    category_id: npt.NDArray[np.int64]
    count: pa.Array


def _marks(annotations: list[_Annotation]) -> _Marks:
    counts = pa.array(_column(annotations, "count"), pa.float64())
    return _Marks(
        _ids(_column(annotations, "image_id")),
        np.asarray(_column(annotations, "category_id"), np.int64),
        pc.if_else(pc.less(counts, 0), None, pc.trunc(counts)).cast(pa.int32()),
    )


def _labels(ids: _Ids, marks: _Marks, names: dict[int, str]) -> tuple[pa.Array, bool, Counter[str]]:
    """Each row's labels, whether an image id comes twice, and notes; `names` gets what it does not list."""
    notes: Counter[str] = Counter()
    of_row, of_mark = _numbered(ids, marks.image_ids)
    n_ids = int(of_row.max(initial=-1)) + 1
    known = of_mark < n_ids
    of_mark, category_ids = of_mark[known], marks.category_id[known]
    notes["annotations without an image, left out"] += int((~known).sum())
    for number in sorted(set(pc.unique(pa.array(category_ids)).to_pylist()) - set(names)):
        names[number] = f"category {number}"
        notes["categories that annotations use and the file does not list"] += 1
    doubles = Counter(names.values())
    notes["categories that share their name with another"] += sum(n for n in doubles.values() if n > 1)
    notes["images without an annotation"] += len(of_row) - int(np.count_nonzero(np.bincount(of_mark)))
    labels = group_labels(of_mark, category_ids, marks.count.filter(pa.array(known)), n_ids, names)
    # The first row of a double id is kept, and all its rows must agree.
    has_doubles = n_ids < len(of_row)
    return labels.take(pa.array(of_row)) if has_doubles else labels, has_doubles, notes


def _numbered(images: _Ids, marked: _Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number for each id, from 0 in the order in which they come; highest those that no image has."""

    def encoded(both: pa.Array) -> list[npt.NDArray[np.int64]]:
        numbers = both.dictionary_encode().indices.to_numpy().astype(np.int64)
        return np.split(numbers, [len(images.texts)])

    of_row, of_mark = encoded(pa.array(np.concatenate([images.hashes, marked.hashes])))
    known = of_mark < len(of_row)
    # As a rule every image has a hash of its own, and these are found in a third of the time of texts.
    all_differ = of_row.max(initial=-1) + 1 == len(of_row)
    if not all_differ or not images.texts.take(of_mark[known]).equals(marked.texts.filter(pa.array(known))):
        of_row, of_mark = encoded(pa.concat_arrays([images.texts, marked.texts]))
    return of_row, of_mark


def _decode(path: str) -> _File:
    data = read_json(path, "dataset.metadata")
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


def _names(categories: list[_Category], path: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        name = (category.name or "").strip()
        if names.setdefault(category.id, name) != name:
            raise InputError(
                f"{path}: category id {category.id} stands for {names[category.id]!r} and {name!r}; "
                "an id should name one category"
            )
    return {
        number: name or (EMPTY if number == 0 else f"category {number}") for number, name in names.items()
    }


def _column(objects: list[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), objects))


def _ids(values: list[str | int]) -> _Ids:
    try:
        texts = pa.array(values, pa.string())
    except pa.ArrowTypeError:  # numbers among them
        values = list(map(str, values))
        texts = pa.array(values, pa.string())
    return _Ids(texts, np.fromiter(map(hash, values), np.int64, len(values)))


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
