"""Columns of any source -> the catalog table: dates parsed, annotations as lists, rows in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.dates import KNOWN_FORMS, NULL_OFFSET, offset_minutes, parse_dates
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import CATALOG

LABELS = CATALOG.field("labels").type


@dataclass
class Catalog:
    """What describes a data set.

    Attributes
    ----------
    table : schemas.CATALOG
        One row an image: by location, start of the sequence, sequence, frame, time, image id; nulls last.
    categories : (id, name) of every category of the metadata, also of those that no image has
    notes : what was odd in the metadata -> how often
    """

    table: pa.Table
    categories: list[tuple[int, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass
class Rows:
    """The columns of a source, a list each; `dates`, `width` and `height` are as the source writes them."""

    image_id: list[str]
    file_name: list[str]
    location: list[str | None]
    deployment: list[str | None] | None = None
    seq_id: list[str | None] | None = None
    frame_num: list[int | None] | None = None
    seq_num_frames: list[int | None] | None = None
    dates: list[str | None] | None = None
    width: Sequence[Any] | None = None
    height: Sequence[Any] | None = None


def make_catalog(
    rows: Rows,
    labels: pa.Array | None,
    *,
    source: str,
    where: str,
    categories: list[tuple[int, str]],
    notes: Counter[str],
    utc_offset: str | None,
) -> Catalog:
    """Put a source's columns together; `labels` as `group_labels` gives them.

    Raises
    ------
    InputError
        There is no image; one has a date that is no date; an image id stands for two different images.
    """
    n = len(rows.image_id)
    if not n:
        raise InputError(f"{where}: lists no image (dataset.metadata)")
    times, offsets = _times(rows, where, notes)
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
        "source": pa.array([source] * n, pa.string()),
    }
    return finish_catalog(
        columns, times, offsets, where=where, categories=categories, notes=notes, utc_offset=utc_offset
    )


def finish_catalog(
    columns: dict[str, Any],
    times: npt.NDArray[np.datetime64],
    offsets: npt.NDArray[np.int32],
    *,
    where: str,
    categories: list[tuple[int, str]],
    notes: Counter[str],
    utc_offset: str | None,
) -> Catalog:
    """`make_catalog` for columns that are Arrow arrays; times and offsets as `parse_dates` gives them."""
    if utc_offset is not None:
        offsets = np.where(offsets == NULL_OFFSET, np.int32(offset_minutes(utc_offset)), offsets)
    columns["file_name"] = _posix(columns["file_name"], notes)
    for name in ("width", "height"):
        columns.setdefault(name, pa.nulls(len(times), pa.int32()))
    columns["datetime"] = pa.array(times, pa.timestamp("us"), from_pandas=True)
    columns["utc_offset_minutes"] = pa.array(offsets, pa.int32(), mask=offsets == NULL_OFFSET)
    table = pa.table(columns).select(CATALOG.names).cast(CATALOG)
    table = _without_doubles(table, where, notes)
    if twice := table.num_rows - pc.count_distinct(table["file_name"]).as_py():
        notes["images whose file another image id has, too"] += twice
    if no_location := table["location"].null_count:
        notes["images without a location"] += no_location
    if no_date := table["datetime"].null_count:
        notes["images without a date in the metadata"] += no_date
    return Catalog(_in_order(table), categories, {text: count for text, count in notes.items() if count})


def group_labels(
    rows: npt.NDArray[np.int64],
    category_ids: npt.NDArray[np.int64],
    counts: Sequence[int | None],
    n_images: int,
    names: dict[int, str],
) -> pa.Array:
    """The column `labels`: each image's annotations in their order, those of one category added up.

    Parameters
    ----------
    rows : (m,) image of each annotation
    category_ids : (m,)
    counts : m numbers of animals, None where not known
    """
    marks = pd.DataFrame({"row": rows, "category": category_ids, "count": pd.array(counts, dtype="Int32")})
    if marks.duplicated(["row", "category"]).any():
        grouped = marks.groupby(["row", "category"], sort=False)["count"]
        marks = grouped.sum(min_count=1).reset_index()
    marks = marks.sort_values("row", kind="stable")
    category = marks["category"].to_numpy(np.int32)
    distinct, place = np.unique(category, return_inverse=True)
    values = pa.array([names[number] for number in distinct.tolist()], pa.string())
    entries = pa.StructArray.from_arrays(
        [
            pa.array(category),
            values.take(pa.array(place)) if len(place) else pa.array([], pa.string()),
            pa.array(marks["count"], pa.int32(), from_pandas=True),
        ],
        fields=list(LABELS.value_type),
    )
    per_image = np.bincount(marks["row"].to_numpy(), minlength=n_images)
    offsets = np.concatenate([[0], np.cumsum(per_image)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entries)


def text(value: str | float | None) -> str | None:
    """An id that may be written as a number: 402 and 402.0 are "402"; blank is None."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = str(value).strip()
    return written or None


def _times(
    rows: Rows, where: str, notes: Counter[str]
) -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.int32]]:
    n = len(rows.image_id)
    if rows.dates is None:
        return np.full(n, np.datetime64("NaT"), "datetime64[us]"), np.full(n, NULL_OFFSET, np.int32)
    times, offsets, placeholders, strange = parse_dates(rows.dates)
    if strange:
        row = strange[0]
        more = f", and {len(strange) - 1} more such dates" if len(strange) > 1 else ""
        raise InputError(
            f"{where}: image {rows.image_id[row]!r}: datetime {rows.dates[row]!r} is no date that can be read"
            f"{more}; possible: {KNOWN_FORMS}"
        )
    if placeholders:
        notes[f"dates such as {rows.dates[placeholders[0]]!r}, taken as no date"] += len(placeholders)
    return times, offsets


def _without_doubles(table: pa.Table, where: str, notes: Counter[str]) -> pa.Table:
    if pc.count_distinct(table["image_id"]).as_py() == table.num_rows:
        return table
    first: dict[str, int] = {}
    kept: list[int] = []
    for row, image_id in enumerate(table["image_id"].to_pylist()):
        if image_id not in first:
            first[image_id] = row
            kept.append(row)
        elif table.slice(row, 1).to_pylist() != table.slice(first[image_id], 1).to_pylist():
            files = [table["file_name"][place].as_py() for place in (first[image_id], row)]
            what = (
                f"the files {files[0]!r} and {files[1]!r}" if files[0] != files[1] else "two different rows"
            )
            raise InputError(f"{where}: image id {image_id!r} stands for {what}; an id should name one image")
    notes["images listed twice, the same each time"] += table.num_rows - len(kept)
    return table.take(pa.array(kept))


def _in_order(table: pa.Table) -> pa.Table:
    starts = table.append_column("row", pa.array(np.arange(table.num_rows)))
    by_sequence = starts.group_by(["location", "seq_id"]).aggregate([("datetime", "min"), ("row", "list")])
    start = np.empty(table.num_rows, "datetime64[us]")
    rows = by_sequence["row_list"].combine_chunks()
    of_group = np.repeat(np.arange(len(rows)), pc.list_value_length(rows).to_numpy(zero_copy_only=False))
    earliest = by_sequence["datetime_min"].to_numpy()
    start[pc.list_flatten(rows).to_numpy()] = earliest[of_group]
    # Images without a sequence are not one: each has its own start.
    alone = pc.is_null(table["seq_id"]).to_numpy()
    start[alone] = table["datetime"].to_numpy()[alone]
    keys = ("location", "start", "seq_id", "frame_num", "datetime", "image_id")
    sortable = table.select([key for key in keys if key != "start"])
    sortable = sortable.append_column("start", pa.array(start, from_pandas=True))
    return table.take(pc.sort_indices(sortable, sort_keys=[(key, "ascending") for key in keys]))


def _column(values: list[Any] | None, n: int, kind: pa.DataType) -> pa.Array:
    return pa.nulls(n, kind) if values is None else pa.array(values, kind)


def _posix(names: pa.Array, notes: Counter[str]) -> pa.Array:
    is_windows = pc.and_not(pc.match_substring(names, "\\"), pc.match_substring(names, "/"))
    if changed := pc.sum(is_windows).as_py():
        notes["file names with backslashes, read as /"] += changed
        names = pc.if_else(is_windows, pc.replace_substring(names, "\\", "/"), names)
    return names


def _pixels(values: Sequence[Any] | None, n: int) -> pa.Array:
    """Widths or heights; null for what can be none: nothing but a check hangs on them."""
    if values is None:
        return pa.nulls(n, pa.int32())
    try:
        column = pa.array(values, pa.int32())
    except (pa.ArrowException, OverflowError):
        column = pa.array([_whole_pixels(value) for value in values], pa.int32())
    return pc.if_else(pc.greater(column, 0), column, None)


def _whole_pixels(value: object) -> int | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 < number < 2**31 else None
