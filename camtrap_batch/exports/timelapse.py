"""A table that Timelapse imports: one row for each image, with the fields that people fill in.

Timelapse (saul.cpsc.ucalgary.ca/timelapse) finds a photo by `RelativePath` and `File`, with Windows
separators, and matches the other columns by the data labels of its template. What the machine says is in
separate columns, so that `Species` holds only what a person said; `camtrap corrections` reads it back.
"""

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
    """Write every image of the catalog.

    Parameters
    ----------
    prefill : put the image's own label into `Species`; whoever reads the file back takes it for a person's
    """
    written = Written(path)
    frames = images.frames
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    root = images.run.job.dataset.images or ""
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
                **_said(block, prefill=prefill),
                "MachineLabel": block.machine,
                "MachineConfidence": seen,
                "SequenceLabel": of["label"],
                "EventID": of["event_id"],
            }
            nothing = pa.nulls(n, pa.string())
            writer.write_table(pa.table([made.get(name, nothing) for name in COLUMNS], schema=schema))
            written.images += n
            written.notes["of them without a machine's label"] += block.machine.null_count
    return written


def _said(block: Block, *, prefill: bool) -> dict[str, pa.Array]:
    """What people said; `Species` also has what the machine says, if that is wanted."""
    n = len(block.human)
    told = [block.told[place][0] if place in block.told else {} for place in range(n)]
    label = block.label if prefill else if_else(pa.array(block.human), block.label, None)
    count = [None if (number := one.get("count")) is None else str(number) for one in told]
    return {
        "Species": label,
        "Count": pa.array(count, pa.string()),
        "Analyst": pa.array([one.get("classified_by") for one in told], pa.string()),
    }


_OF_FRAMES = ("label", "event_id")
_TIME = "%Y-%m-%d %H:%M:%S"
