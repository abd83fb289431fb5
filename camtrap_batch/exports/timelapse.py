"""A table that Timelapse imports: one row for each image, with the fields that people fill in.

Timelapse (saul.cpsc.ucalgary.ca/timelapse) finds a photo by `RelativePath` and `File`, with the separators of
Windows, and takes the other columns by the data labels of its template. What the machine says stands in
columns of its own, so that `Species` holds what a person said and nothing else; `camtrap corrections` reads
it back. An image in which people saw several species has a row for each, as Timelapse's duplicates of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
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

FIELDS = ("Species", "Count", "Sex", "LifeStage", "Behaviour", "Individual", "Comment", "Analyst")
"""What people fill in; the data labels of a template."""

COLUMNS = (
    "RootFolder", "File", "RelativePath", "DateTime", "DeleteFlag", *FIELDS, "MachineLabel",
    "MachineConfidence", "SequenceLabel", "EventID",
)  # fmt: skip

_FROM_MANIFEST = ["file_name", "datetime"]


class TimelapseExport:
    name = "timelapse"
    help = "a table for Timelapse, in which people label; camtrap corrections reads it back"
    out = "a file that ends in .csv"
    options = (
        Option(
            "prefill", "put the machine's labels into Species, to be corrected there", False, metavar=None
        ),
    )

    def check(self, out: str, job: Job) -> Path:
        return check_file(out, job, (".csv",))

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_timelapse(images, out.path, prefill=options["prefill"])


EXPORT = TimelapseExport()


def write_timelapse(images: Images, path: Path, *, prefill: bool = False) -> Written:
    """Write every image of the catalog, one with several species once for each.

    Parameters
    ----------
    prefill : put the image's own label into `Species`; whoever reads the file back takes it for a person's
    """
    written = Written(path)
    frames = images.frames
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    root = images.run.job.dataset.images or ""
    comments = _comments(images)
    start = 0
    with pacsv.CSVWriter(path, schema) as writer:
        for block in images.blocks(_FROM_MANIFEST):
            n = block.rows.num_rows
            names = block.rows["file_name"]
            folder = pc.replace_substring_regex(names, r"/?[^/]*$", "")
            of = {name: take(frames[name], block.predicted).cast(pa.string()) for name in _OF_FRAMES}
            seen = if_else(block.machine_p.is_valid(), block.machine_p.cast(pa.string()), None)
            made = {
                "RootFolder": pa.repeat(Path(root).name, n),
                "File": pc.replace_substring_regex(names, r"^(?s:.*)/", ""),
                "RelativePath": pc.replace_substring(folder, "/", "\\"),
                "DateTime": pc.strftime(block.rows["datetime"].cast(pa.timestamp("s"), safe=False), _TIME),
                "DeleteFlag": pa.repeat("false", n),
                "MachineLabel": block.machine,
                "MachineConfidence": seen,
                "SequenceLabel": of["label"],
                "EventID": of["event_id"],
            }
            image, said = _said(block, comments, start, prefill=prefill)
            rows = pa.table(made).take(image)
            made = {name: rows[name] for name in rows.column_names} | said
            writer.write_table(pa.table([made[name] for name in COLUMNS], schema=schema))
            written.images += n
            start += n
            written.notes["of them without a label of the machine"] += block.machine.null_count
    return written


def _said(
    block: Block, comments: Mapping[tuple[int, str], str], start: int, *, prefill: bool
) -> tuple[pa.Array, dict[str, pa.Array]]:
    """The image of each row, and what people said: `FIELDS`.

    `Species` has what the machine says as well, where it is wanted.
    """
    told: list[list[dict[str, Any]]] = [block.told.get(image) or [{}] for image in range(len(block.human))]
    image = pa.array(np.repeat(np.arange(len(told)), [len(some) for some in told]))
    rows = [one for some in told for one in some]
    columns = {
        name: pa.array([None if (value := one.get(of)) is None else str(value) for one in rows], pa.string())
        for name, of in _TOLD.items()
    }
    if prefill:
        columns["Species"] = pc.coalesce(columns["Species"], block.label.take(image))
    at = (start + np.asarray(image)).tolist()
    said = [comments.get((row, one.get("label", ""))) for row, one in zip(at, rows, strict=True)]
    return image, columns | {"Comment": pa.array(said, pa.string())}


def _comments(images: Images) -> dict[tuple[int, str], str]:
    """What people wrote beside a label: row of the manifest and label -> comment."""
    if images.said is None:
        return {}
    said = images.said.select(["row", "label", "comment"])
    rows = said.filter(said["comment"].is_valid()).to_pylist()
    return {(row["row"], row["label"]): row["comment"] for row in rows}


_TOLD = {
    "Species": "label",
    "Count": "count",
    "Sex": "sex",
    "LifeStage": "life_stage",
    "Behaviour": "behaviour",
    "Individual": "individual",
    "Analyst": "classified_by",
}
_OF_FRAMES = ("label", "event_id")
_TIME = "%Y-%m-%d %H:%M:%S"
