"""The guard rail `limits.lost`: a fault in the images' surroundings is not committed as a fault of the
images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import StageError
from camtrap_batch.pipeline.context import Context
from camtrap_batch.store.shards import Receipt
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_files, read_whole_files
from camtrap_batch.vocabulary import USABLE

LOST = ("missing", "unreadable", "crashed")
"""Statuses that may say more about a disk, a network or a worker than about the image."""

_FEWEST = 3
"""Fewer lost images never stop a stage: one of a handful is a large part."""


def require_few_lost(
    context: Context,
    stage: str,
    table: str,
    receipts: Sequence[Receipt],
    before: Snapshot | None,
    listed: pa.ChunkedArray | None = None,
) -> None:
    """Raise StageError if more than `limits.lost` of the images that were there can't be read now.

    The shards in question are then redone next time. Images that the last snapshot already calls lost are not
    counted again.

    Parameters
    ----------
    table : the stage's table, with the columns image_id and status
    receipts : receipts of all its shards, in row order
    before : the table's last snapshot
    listed : for each row, whether the file was listed before the work began; listed files were there, and so
        were those that are usable in the last snapshot. None: all files were there
    """
    there = sum(receipt.rows for receipt in receipts) if listed is None else pc.sum(listed).as_py() or 0
    lost_in_all = sum(receipt.counts.get(status, 0) for receipt in receipts for status in LOST)
    if not _is_much(context, lost_in_all, there):
        return
    folder = context.run.folder
    files = [file.file for receipt in receipts for file in receipt.files if file.table == table]
    now = open_files(folder, table, files).to_table(columns=["image_id", "status"])
    status = now["status"].cast(pa.string())
    is_there = pc.is_valid(status) if listed is None else listed
    if before is not None:
        known, _ = read_whole_files(folder, before, ["image_id", "status"])

        def had(statuses: Sequence[str]) -> pa.ChunkedArray:
            is_one = pc.is_in(known["status"].cast(pa.string()), pa.array(statuses))
            return pc.is_in(now["image_id"], known["image_id"].filter(is_one).combine_chunks())

        is_there = pc.and_not(pc.or_(is_there, had(USABLE)), had(LOST))
    is_lost = pc.and_(is_there, pc.is_in(status, pa.array(LOST)))
    lost = Counter(status.filter(is_lost).to_pylist())
    there = pc.sum(is_there).as_py() or 0
    if not _is_much(context, lost.total(), there):
        return
    for receipt in receipts:
        if any(receipt.counts.get(name) for name in LOST):
            folder.delete(receipt.path)
    context.run.log("stage failed", stage=stage, failed={}, lost=dict(lost), there=there)
    named = ", ".join(f"{name} {n:,}" for name, n in lost.most_common())
    left = 0 if listed is None else pc.sum(pc.and_not(is_lost, listed)).as_py() or 0
    why = "is a disk or the network gone?"
    if left:
        many = "all" if left == lost.total() else f"{left:,}"
        why = f"{many} of them are no longer in the folder: were they removed, or is it another one?"
    raise StageError(
        f"{stage}: {lost.total():,} of {there:,} images that were there can't be read now ({named}), more "
        f"than limits.lost: {context.job.limits.lost:g} allows; {why} Nothing was committed; the same "
        "command tries them again; with --set limits.lost=1 it accepts the loss"
    )


def _is_much(context: Context, lost: int, there: int) -> bool:
    """Whether this many of the images that were there are more than may be lost."""
    return lost >= _FEWEST and lost > context.job.limits.lost * there
