"""Columns of any source -> the catalog table: dates parsed, annotations as lists, rows sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.cct_columns import pixels
from camtrap_batch.catalog.names import tidy_names
from camtrap_batch.clocks import NO_TIME, elapsed, microseconds
from camtrap_batch.codes import encode
from camtrap_batch.dates import NULL_OFFSET, Dates, Order, offset_minutes, read_dates
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import CATALOG

LABELS = CATALOG.field("labels").type

NO_LOCATION = "images without a location"

Texts: TypeAlias = Sequence[str | None] | pa.Array
Numbers: TypeAlias = Sequence[int | None] | pa.Array


@dataclass
class Catalog:
    """The description of a data set.

    Attributes
    ----------
    table : schemas.CATALOG
        One row per image: by location, start of the sequence, sequence, frame, time, image id; nulls last.
    categories : (id, name) of every category in the metadata, including those that no image has
    notes : oddities in the metadata -> how often they occur
    """

    table: pa.Table
    categories: list[tuple[int, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass
class Rows:
    """The columns of a source, each a list or an Arrow array.

    `dates`, `width` and `height` are as written in the source.
    """

    image_id: Texts
    file_name: Texts
    location: Texts
    deployment: Texts | None = None
    seq_id: Texts | None = None
    frame_num: Numbers | None = None
    seq_num_frames: Numbers | None = None
    dates: Texts | None = None
    width: Sequence[Any] | None = None
    height: Sequence[Any] | None = None


def make_catalog(
    rows: Rows,
    labels: pa.Array | None,
    *,
    source: str,
    where: str,
    categories: list[tuple[int, str]] | None = None,
    notes: Counter[str] | None = None,
    utc_offset: str | None = None,
    order: Order | None = None,
    at: Callable[[int], str] | None = None,
) -> Catalog:
    """Put a source's columns together.

    Parameters
    ----------
    labels : as returned by `group_labels`; None: there are none
    source : value of the column of that name
    where : the file or URL, for messages
    categories, notes : as in `Catalog`
    utc_offset : offset of dates that have none of their own, such as "+02:00"
    order : order of day and month in ambiguous dates
    at : file and line of a row, for messages; default: `where` and the image's id

    Raises
    ------
    InputError
        There is no image; an image id stands for two different images; or `read_dates` refuses the dates.
    """
    n = len(rows.image_id)
    notes = Counter() if notes is None else notes
    if not n:
        raise InputError(f"{where}: lists no image (dataset.metadata)")
    columns = {
        "image_id": pa.array(rows.image_id, pa.string()),
        "file_name": pa.array(rows.file_name, pa.string()),
        "location": pa.array(rows.location, pa.string()),
        "deployment": _column(rows.deployment, n, pa.string()),
        "seq_id": _column(rows.seq_id, n, pa.string()),
        "frame_num": _column(rows.frame_num, n, pa.int32()),
        "seq_num_frames": _column(rows.seq_num_frames, n, pa.int32()),
        "labels": labels if labels is not None else pa.array([[]] * n, LABELS),
        "width": _pixels(rows.width, n),
        "height": _pixels(rows.height, n),
        "source": pa.repeat(source, n),
    }
    return finish_catalog(
        columns,
        dates_of_images(_column(rows.dates, n, pa.string()), rows.image_id, where, notes, order, at),
        where=where,
        categories=categories or [],
        notes=notes,
        utc_offset=utc_offset,
    )


def finish_catalog(
    columns: dict[str, Any],
    dates: Dates,
    *,
    where: str,
    categories: list[tuple[int, str]],
    notes: Counter[str],
    utc_offset: str | None,
    root: str | None = None,
    order: npt.NDArray[np.int64] | None = None,
) -> Catalog:
    """`make_catalog` for columns that are Arrow arrays.

    `order`: the result of `row_order`, if it is known that no two rows have the same image id.
    """
    columns["file_name"] = tidy_names(columns["file_name"], notes, root)
    columns["datetime"] = pa.array(dates.times, pa.timestamp("us"), from_pandas=True)
    columns["date_only"] = pa.array(dates.date_only, mask=~dates.date_only)
    columns["utc_offset_minutes"] = offsets_of_images(dates, utc_offset)
    for column in CATALOG:
        columns.setdefault(column.name, pa.nulls(len(dates.times), column.type))
    table = pa.table(columns).select(CATALOG.names).cast(CATALOG)
    if order is None:
        table = _without_doubles(table, where, notes)
    with ThreadPoolExecutor(2) as beside:
        files = beside.submit(pc.unique, table["file_name"])
        rows = pa.array(row_order(table) if order is None else order)
        in_order = list(beside.map(lambda column: column.take(rows), table.columns))
    if twice := table.num_rows - len(files.result()):
        notes["images that share their file with another image id"] += twice
    if no_location := table["location"].null_count:
        notes[NO_LOCATION] += no_location
    has_metadata = pc.any(pc.not_equal(table["source"], "folder")).as_py()
    if has_metadata and (no_date := table["datetime"].null_count):
        notes["images without a date in the metadata"] += no_date
    noted = {text: count for text, count in notes.items() if count}
    return Catalog(pa.table(in_order, schema=table.schema), categories, noted)


def dates_of_images(
    texts: pa.StringArray,
    image_ids: Texts,
    where: str,
    notes: Counter[str],
    order: Order | None = None,
    at: Callable[[int], str] | None = None,
) -> Dates:
    """The dates of a source's images. Raises InputError like `read_dates`."""

    def describe(row: int) -> str:
        return f"{at(row) if at is not None else f'{where}: image {str(image_ids[row])!r}'}: datetime"

    return read_dates(texts, describe, notes, order)


def offsets_of_images(dates: Dates, utc_offset: str | None) -> pa.Array:
    """Minutes east of UTC of each date: its own, otherwise those of `utc_offset`, otherwise null."""
    offsets = dates.offsets
    if utc_offset is not None:
        offsets = np.where(offsets == NULL_OFFSET, np.int32(offset_minutes(utc_offset)), offsets)
    return pa.array(offsets, pa.int32(), mask=offsets == NULL_OFFSET)


def row_order(table: pa.Table) -> npt.NDArray[np.int64]:
    """Row numbers sorted by location, start of the sequence, sequence, frame, time, image id; nulls last.

    Times are compared as in `clocks.elapsed`: by a location's offsets, if they are known.
    """
    # All keys before the frame are the same for a whole sequence, so sequences are sorted first.
    location, seq_id = (_ranks(table[name]) for name in ("location", "seq_id"))
    time = elapsed(table, microseconds(table["datetime"]), location)
    sequences = pa.array(location * (seq_id.max() + 1) + seq_id).dictionary_encode()
    group = sequences.indices.to_numpy().astype(np.int64)
    # Images without a sequence do not form one: each has its own start.
    alone = np.flatnonzero(table["seq_id"].is_null())
    group[alone] = len(sequences.dictionary) + np.arange(len(alone))
    start = np.full(len(sequences.dictionary) + len(alone), NO_TIME)
    np.minimum.at(start, group, time)
    # One row of each; the key shared by images without a sequence stays empty, which does not matter.
    first = np.zeros(len(start), np.int64)
    first[group] = np.arange(len(group))
    keys = (seq_id[first], start, location[first])
    in_order = np.lexsort(keys)
    is_next = np.any([np.diff(key[in_order], prepend=-1) != 0 for key in keys], axis=0)
    rank = np.empty(len(start), np.int64)
    rank[in_order] = np.cumsum(is_next)
    frame = table["frame_num"]
    least, most = (value.as_py() or 0 for value in pc.min_max(frame).values())
    # At most the number of images times 2 ** 32.
    order = rank[group] * (most - least + 2) + np.asarray(frame.cast(pa.int64()).fill_null(most + 1)) - least
    rows = np.argsort(order)
    is_same = np.diff(order[rows]) == 0
    ties = np.flatnonzero(np.append(is_same, False) | np.insert(is_same, 0, False))
    if len(ties):
        tied = table.select(["image_id"]).take(pa.array(rows[ties]))
        tied = tied.append_column("order", pa.array(order[rows[ties]]))
        tied = tied.append_column("time", pa.array(time[rows[ties]]))
        keys_of_ties = [(key, "ascending") for key in ("order", "time", "image_id")]
        rows[ties] = rows[ties][pc.sort_indices(tied, sort_keys=keys_of_ties)]
    return rows


def group_labels(
    rows: npt.NDArray[np.int64],
    category_ids: npt.NDArray[np.int64],
    counts: Numbers,
    n_images: int,
    names: dict[int, str],
) -> pa.Array:
    """The column `labels`: each image's annotations in order, those of one category added up.

    Parameters
    ----------
    rows : (m,) image of each annotation
    category_ids : (m,)
    counts : m numbers of animals, None if not known
    """
    in_order = np.argsort(rows, kind="stable")
    row, category = rows[in_order], category_ids[in_order]
    count = pa.array(counts, pa.int32(), from_pandas=True).take(pa.array(in_order))
    # Few images have more than one annotation, and fewer have one category twice.
    several = np.flatnonzero(np.bincount(row, minlength=n_images)[row] > 1)
    if len(np.unique(row[several] * 2**32 + category[several])) < len(several):
        marks = pa.table({"row": row, "category": category, "count": count, "at": np.arange(len(row))})
        added = marks.take(pa.array(several)).group_by(["row", "category"])
        added = added.aggregate([("count", "sum", pc.ScalarAggregateOptions(min_count=1)), ("at", "min")])
        added = added.sort_by("at_min")
        kept = np.ones(len(row), bool)
        kept[several] = False
        is_sum = np.zeros(len(row), bool)
        is_sum[added["at_min"]] = True
        sums = added["count_sum"].combine_chunks().cast(pa.int32())
        kept |= is_sum
        row, category = row[kept], category[kept]
        count = pc.replace_with_mask(count, pa.array(is_sum), sums).filter(pa.array(kept))
    encoded = pa.array(category, pa.int32()).dictionary_encode()
    distinct = pa.array([names[number] for number in encoded.dictionary.to_pylist()], pa.string())
    entries = pa.StructArray.from_arrays(
        [pa.array(category, pa.int32()), distinct.take(encoded.indices), count],
        fields=list(LABELS.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n_images))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), entries)


def _without_doubles(table: pa.Table, where: str, notes: Counter[str]) -> pa.Table:
    if len(pc.unique(table["image_id"])) == table.num_rows:
        return table
    first: dict[str, int] = {}
    kept: list[int] = []
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        if image_id not in first:
            first[image_id] = row
            kept.append(row)
        elif table.slice(row, 1).to_pylist() != table.slice(first[image_id], 1).to_pylist():
            files = [table["file_name"][row].as_py() for row in (first[image_id], row)]
            what = (
                f"the files {files[0]!r} and {files[1]!r}" if files[0] != files[1] else "two different rows"
            )
            raise InputError(f"{where}: image id {image_id!r} stands for {what}; an id should name one image")
    notes["images listed twice, the same each time"] += table.num_rows - len(kept)
    return table.take(pa.array(kept))


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Each text's rank among the sorted distinct texts; null comes last."""
    codes, distinct = encode(column)
    return np.where(codes < 0, len(distinct), codes)


def _column(values: Texts | Numbers | None, n: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(n, kind) if values is None else pa.array(values, kind)


def _pixels(values: Sequence[Any] | None, n: int) -> pa.Array:
    return pa.nulls(n, pa.int32()) if values is None else pixels(list(values))
