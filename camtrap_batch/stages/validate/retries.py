"""Which images `validate` tries again: what failed though it is there, and what `--retry` asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import JobError, choices
from camtrap_batch.pipeline.stage import StageOption
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_whole_files
from camtrap_batch.vocabulary import RETRIED

_ALWAYS = ("unreadable", "missing")
"""Statuses of files that were listed, and yet not read: tried again by each run."""


def parse_statuses(given: str | Iterable[str]) -> frozenset[str]:
    """The statuses in `--retry STATUS[,STATUS]`. Raises JobError where one can't be tried again."""
    if isinstance(given, str):
        given = filter(None, given.replace(" ", "").split(","))
    statuses = frozenset(given)
    for status in sorted(statuses - set(RETRIED)):
        raise JobError(f"--retry: {status!r} is not tried again; {choices(status, RETRIED)}")
    return statuses


RETRY = StageOption(
    "retry",
    f"open images with these statuses once more: {', '.join(RETRIED)} (those that are listed, and were "
    "unreadable or missing, always are)",
    default=frozenset(),
    parse=parse_statuses,
    metavar="STATUS[,STATUS]",
    in_reprocess=True,
)


def failed_images(run: Run, manifest: Snapshot | None, asked: Collection[str]) -> pa.ChunkedArray | None:
    """Ids of the images in the manifest to try again; `asked`: statuses that `--retry` names."""
    if manifest is None or not any(manifest.counts.get(status) for status in {*_ALWAYS, *asked}):
        return None
    known, _ = read_whole_files(run.folder, manifest, ["image_id", "status", "modified"])
    status = known["status"].cast(pa.string())
    # What the listing does not show, such as a folder with a picture's name, is seen there if it changes.
    is_listed_fault = pc.and_(pc.is_in(status, pa.array(_ALWAYS)), known["modified"].is_valid())
    is_one = pc.or_(is_listed_fault, pc.is_in(status, pa.array(sorted(asked), pa.string())))
    return known["image_id"].filter(is_one)
