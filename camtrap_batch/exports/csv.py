"""One row per image, for spreadsheets and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from camtrap_batch.codes import if_else
from camtrap_batch.exports.base import Out
from camtrap_batch.exports.images import Block, Images, take
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.store.outpath import check_file

TRAITS = ("sex", "life_stage", "behaviour", "individual")
"""What people said of the animals of an image's first label."""

_FROM_MANIFEST = (
    "image_id", "file_name", "location", "deployment", "frame_num", "datetime", "utc_offset_minutes",
    "status", "detail",
)  # fmt: skip

COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("file_name", pa.string()),
        ("location", pa.string()),
        ("deployment", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("datetime", pa.string()),
        ("utc_offset_minutes", pa.int32()),
        ("status", pa.string()),
        ("detail", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("seq_id", pa.string()),
        ("frame_num", pa.int32()),
        ("sequence_label", pa.string()),
        ("sequence_confidence", pa.float64()),
        ("event_id", pa.string()),
        ("model_id", pa.string()),
        ("label_source", pa.string()),
        ("count", pa.int32()),
        ("more_labels", pa.string()),
        ("classified_by", pa.string()),
        *((name, pa.string()) for name in TRAITS),
    ]
)

_FORMULA = r"^([=+\-@'\t\r\n])"


class CsvExport:
    name = "csv"
    help = "one row per image, for spreadsheets, R and pandas"
    out = "a file that ends in .csv"
    options: tuple[Option, ...] = ()

    def check(self, out: str, job: Job) -> Path:
        return check_file(out, job, (".csv",))

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_csv(images, out.path)


EXPORT = CsvExport()


def write_csv(images: Images, path: Path) -> Written:
    """Write every image of the catalog, in UTF-8."""
    written = Written(path)
    frames, locations = images.frames, images.locations
    with pacsv.CSVWriter(path, COLUMNS) as writer:
        for block in images.blocks(list(_FROM_MANIFEST)):
            rows = block.rows
            of = {name: take(frames[name], block.predicted) for name in frames.column_names}
            row = pc.index_in(rows["location"], locations["location"].combine_chunks())
            made = {
                **{name: rows[name] for name in _FROM_MANIFEST},
                "datetime": pc.replace_substring_regex(rows["datetime"].cast(pa.string()), r"\.0+$", ""),
                "label": block.label,
                "confidence": block.confidence,
                **_told(block),
                "seq_id": of["seq_id"].cast(pa.string()),
                "sequence_label": of["label"].cast(pa.string()),
                "sequence_confidence": pc.round(of["confidence"].cast("float64"), 4),
                "event_id": of["event_id"].cast(pa.string()),
                "latitude": locations["latitude"].take(row),
                "longitude": locations["longitude"].take(row),
                "model_id": if_else(pc.is_valid(block.confidence), images.model_id, None),
            }
            writer.write_table(
                pa.table(
                    [
                        no_formula(made[field.name]) if pa.types.is_string(field.type) else made[field.name]
                        for field in COLUMNS
                    ],
                    schema=COLUMNS,
                )
            )
            written.images += rows.num_rows
            written.notes["of them without a label"] += block.label.null_count
    return written


def _told(block: Block) -> dict[str, pa.Array]:
    """Whose each label is, and what else a person said; further species as "zebra: 2; lion"."""
    n = len(block.human)
    source = pc.if_else(pa.array(block.human), "human", "machine")
    first = [block.told[row][0] if row in block.told else {} for row in range(n)]
    further = [
        "; ".join(
            one["label"] if one["count"] is None else f"{one['label']}: {one['count']}"
            for one in block.told.get(row, [])[1:]
        )
        for row in range(n)
    ]
    return {
        "label_source": if_else(block.label.is_valid(), source, None),
        "count": pa.array([one.get("count") for one in first], pa.int32()),
        "more_labels": pa.array([text or None for text in further], pa.string()),
        **{
            name: pa.array([one.get(name) for one in first], pa.string())
            for name in ("classified_by", *TRAITS)
        },
    }


def no_formula(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts that no spreadsheet takes for a formula: ' before each that begins with = + - @ ' or a tab.

    To get the original, a reader drops one ' at the beginning, if there is one.
    """
    return pc.replace_substring_regex(texts, _FORMULA, r"'\1")
