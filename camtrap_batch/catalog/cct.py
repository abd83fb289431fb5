"""COCO Camera Traps JSON -> catalog.

Format: github.com/agentmorris/MegaDetector, "COCO Camera Traps format". Real files bend it; deviations are
counted in the catalog's notes, and only what would lose or confuse images is refused.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.core import url_to_fs

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.cct_columns import Columns, read_columns
from camtrap_batch.catalog.drawn import Drawn, drawn_in_cct
from camtrap_batch.catalog.found import (
    Found,
    Given,
    count_videos,
    find_root,
    guess_levels,
    levels_of,
    listed_in,
)
from camtrap_batch.catalog.jsonfile import parsing, read_json
from camtrap_batch.catalog.labels import one_name_each
from camtrap_batch.catalog.names import tidy_name, tidy_names
from camtrap_batch.catalog.paths import location_finder
from camtrap_batch.catalog.table import (
    Catalog,
    dates_of_images,
    finish_catalog,
    group_labels,
    offsets_of_images,
    row_order,
)
from camtrap_batch.dates import Order
from camtrap_batch.errors import InputError
from camtrap_batch.job import WithLocation
from camtrap_batch.vocabulary import EMPTY, plural

_LONGEST_HASHED = 64  # bytes of an id


class _Named(msgspec.Struct):
    file_name: str | None = None


class _Listed(msgspec.Struct):
    images: list[_Named]


class CctDataset(WithLocation):
    format: Literal["cct"]


class CctReader(Reader[CctDataset]):
    section = CctDataset
    help = "COCO Camera Traps JSON"
    has_boxes = True

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        if not given.is_json or given.has_key("resources") or given.has_results:
            return None
        listed = given.decode(_Listed).images
        names = listed_in(given, [image.file_name for image in listed if image.file_name])
        root, line, n_found = find_root(given.url, names)
        labelled = "with labels of people" if given.has_key("annotations") else "without labels"
        lines = [f"a COCO Camera Traps file of {plural(len(names), 'image')}, {labelled}", line]
        dataset = {"format": "cct", "metadata": given.url, "images": root}
        found = Found(dataset, lines, videos=count_videos(names), n_found=n_found, has_labels=True)
        if not given.has_key("location"):
            found.levels = levels_of(tidy_name(name, root) for name in names)
            found.camera, _ = guess_levels(found.levels, len(names))
        return found

    def read(self) -> Catalog:
        dataset = self.dataset
        find = location_finder(dataset.location) if dataset.location is not None else None
        return read_cct(
            str(dataset.metadata),
            find,
            utc_offset=dataset.utc_offset,
            order=dataset.dates,
            root=dataset.images,
        )

    def boxes(self, key: str) -> Drawn:
        return drawn_in_cct(str(self.dataset.metadata), key)


def read_cct(
    path: str,
    location_of: Callable[[str], str | None] | None = None,
    *,
    utc_offset: str | None = None,
    order: Order | None = None,
    root: str | None = None,
) -> Catalog:
    """Read a COCO Camera Traps file.

    Parameters
    ----------
    path : file or fsspec URL; `.json`, `.json.gz`, or a `.zip` that holds one `.json`
    location_of : finds the location in a path, for images whose location the file does not give
    utc_offset : offset of dates that have none of their own, such as "+02:00"
    order : order of day and month in ambiguous dates
    root : path or URL that file names may begin with, and to which they are relative

    Raises
    ------
    InputError
        The file is missing, not JSON, not COCO Camera Traps, has one id for two images or two categories,
        or dates that `read_dates` refuses.
    """
    content = _read(path)
    notes: Counter[str] = Counter()
    names = _names(content.categories, path)
    one = one_name_each(names.values(), notes)
    names = {number: one[name] for number, name in names.items()}
    images = {name: content.images[name].combine_chunks() for name in content.images.column_names}
    if not len(images["image_id"]):
        raise InputError(f"{path}: lists no image (dataset.metadata)")
    if location_of is not None and images["location"].null_count:
        names_of_files = tidy_names(images["file_name"], Counter(), root)
        images["location"] = _located(images["location"], names_of_files, location_of)
    flags, dates = images.pop("corrupt"), images.pop("dates")
    with ThreadPoolExecutor(1) as beside:
        labelled = beside.submit(_labels, images["image_id"], content.annotations, names)
        when = dates_of_images(dates, images["image_id"], path, notes, order)
        times = {
            "datetime": pa.array(when.times, pa.timestamp("us"), from_pandas=True),
            "utc_offset_minutes": offsets_of_images(when, utc_offset),
        }
        by_rank = row_order(pa.table({**images, **times}))
        labels, has_doubles, noted = labelled.result()
    notes.update(noted)
    notes["images flagged corrupt by the metadata; judged by their content"] += flags.true_count
    return finish_catalog(
        {**images, "labels": labels, "source": pa.repeat("cct", len(labels))},
        when,
        where=path,
        categories=sorted(names.items()),
        notes=notes,
        utc_offset=utc_offset,
        root=root,
        order=None if has_doubles else by_rank,
    )


def _located(locations: pa.Array, files: pa.Array, location_of: Callable[[str], str | None]) -> pa.Array:
    nowhere = locations.is_null()
    found = map(location_of, files.filter(nowhere).to_pylist())
    return pc.replace_with_mask(locations, nowhere, pa.array(found, pa.string()))


def _labels(
    ids: pa.StringArray, annotations: pa.Table, names: dict[int, str]
) -> tuple[pa.Array, bool, Counter[str]]:
    """Each row's labels, whether an image id occurs twice, and notes; `names` gets the categories it
    lacks."""
    notes: Counter[str] = Counter()
    of_row, of_mark = _numbered(ids, annotations["image_id"].combine_chunks())
    n_ids = int(of_row.max(initial=-1)) + 1
    known = of_mark < n_ids
    counts = annotations["count"].combine_chunks().filter(pa.array(known))
    whole = pc.trunc(counts)
    for text, is_so in (
        ("is below 0, taken as not counted", pc.less(counts, 0)),
        ("is not a whole number, rounded down", pc.and_(pc.greater(counts, 0), pc.not_equal(whole, counts))),
    ):
        if n := pc.sum(is_so).as_py() or 0:
            first = pc.index(is_so, True).as_py()
            image = annotations["image_id"].filter(pa.array(known))[first].as_py()
            example = f"{counts[first].as_py():g} of image {image!r}"
            notes[f"annotations whose count {text}: {example}"] += n
    counts = pc.if_else(pc.less(counts, 0), None, whole).cast(pa.int32())
    of_mark, category_ids = of_mark[known], annotations["category_id"].to_numpy()[known]
    notes["annotations without an image, left out"] += int((~known).sum())
    for number in sorted(set(pc.unique(pa.array(category_ids)).to_pylist()) - set(names)):
        names[number] = f"category {number}"
        notes["categories that annotations use and the file does not list"] += 1
    doubles = Counter(names.values())
    notes["categories that share their name with another"] += sum(n for n in doubles.values() if n > 1)
    notes["images without an annotation"] += len(of_row) - int(np.count_nonzero(np.bincount(of_mark)))
    labels = group_labels(of_mark, category_ids, counts, n_ids, names)
    # The first row of a repeated id is kept, and all its rows must agree.
    has_doubles = n_ids < len(of_row)
    return labels.take(pa.array(of_row)) if has_doubles else labels, has_doubles, notes


def _numbered(
    images: pa.StringArray, marked: pa.StringArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number for each id, from 0 in order of appearance; ids that no image has get the highest numbers."""

    def encoded(both: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        numbers = both.dictionary_encode().indices.to_numpy().astype(np.int64)
        return numbers[: len(images)], numbers[len(images) :]

    if (hashes := _hashes(images, marked)) is not None:
        of_row, of_mark = encoded(pa.array(hashes))
        known = of_mark < len(of_row)
        # As a rule every image has a distinct hash, and hashes are looked up in a third of the time.
        all_differ = of_row.max(initial=-1) + 1 == len(of_row)
        if all_differ and images.take(pa.array(of_mark[known])).equals(marked.filter(pa.array(known))):
            return of_row, of_mark
    return encoded(pa.concat_arrays([images, marked]))


def _hashes(*columns: pa.StringArray) -> npt.NDArray[np.uint64] | None:
    """A number for each text, practically always distinct; None if the texts are long."""
    lengths = [pc.min_max(pc.binary_length(column)).as_py() for column in columns if len(column)]
    longest = max((found["max"] for found in lengths), default=0)
    if longest > _LONGEST_HASHED:
        return None
    width = max(longest, 8)
    hashes = np.zeros(sum(map(len, columns)), np.uint64)
    start = 0
    for column in columns:
        if pc.any(pc.not_equal(pc.binary_length(column), width)).as_py():
            column = pc.utf8_rpad(column, width=width, padding="\0")
        _, ends, content = column.buffers()
        first, last = (np.frombuffer(ends, np.int32)[column.offset + end] for end in (0, len(column)))
        if last - first != width * len(column):  # letters of several bytes
            return None
        some = hashes[start : (start := start + len(column))]
        for at in (*range(0, width - 8, 8), width - 8):
            word = np.ndarray((len(column),), np.uint64, content, int(first) + at, (width,))
            some ^= word
            some *= np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 by the golden ratio
            some ^= some >> np.uint64(29)
    return hashes


def _read(path: str) -> Columns:
    data = read_json(path, "dataset.metadata")
    with parsing(data, path, "COCO Camera Traps"):
        return read_columns(data, Path(url_to_fs(path)[1]) if isinstance(data, mmap.mmap) else None)


def _names(categories: pa.Table, path: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, given in zip(categories["id"].to_pylist(), categories["name"].to_pylist(), strict=True):
        name = (given or "").strip()
        if names.setdefault(number, name) != name:
            raise InputError(
                f"{path}: category id {number} stands for {names[number]!r} and {name!r}; "
                "an id should name one category"
            )
    return {
        number: name or (EMPTY if number == 0 else f"category {number}") for number, name in names.items()
    }
