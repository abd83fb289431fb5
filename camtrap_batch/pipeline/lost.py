"""The guard rail `limits.lost`: what goes wrong around the images is not committed as what the images are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import StageError
from camtrap_batch.pipeline.context import Context
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Receipt
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import read_whole_files

LOST = ("missing", "unreadable", "crashed")
"""Statuses that may say more of a disk, a network or a worker than of the image."""

_FEWEST = 3
"""Fewer stop nothing: of a handful of images one is a large part."""


def count_lost(receipts: Sequence[Receipt]) -> Counter[str]:
    """Images by those statuses, as the receipts count them."""
    found: Counter[str] = Counter()
    for receipt in receipts:
        found.update({status: n for status in LOST if (n := receipt.counts.get(status))})
    return found


def failed_images(run: Run, before: Snapshot | None) -> pa.ChunkedArray | None:
    """Ids of the images whose status in a table is anything else than ok; None where there are none."""
    if before is None or not any(before.counts.get(status) for status in LOST):
        return None
    known, _ = read_whole_files(run.folder, before, ["image_id", "status"])
    return known["image_id"].filter(pc.not_equal(known["status"].cast(pa.string()), "ok"))


def is_much(context: Context, lost: int, there: int) -> bool:
    """Whether so many, of the images that were there, are more than may get lost."""
    return lost >= _FEWEST and lost > context.job.limits.lost * there


def require_few_lost(
    context: Context, stage: str, lost: Counter[str], there: int, receipts: Sequence[Receipt]
) -> None:
    """Raise StageError where more is lost than may be; then the shards in question are done again next time.

    Parameters
    ----------
    lost : of the images that were there, those that can't be read, by status
    there : images that were there, a moment before or in the last snapshot
    receipts : of all shards
    """
    if not is_much(context, lost.total(), there):
        return
    for receipt in receipts:
        if any(receipt.counts.get(status) for status in LOST):
            context.run.folder.delete(receipt.path)
    named = ", ".join(f"{status} {n:,}" for status, n in lost.most_common())
    limit = context.job.limits.lost
    context.run.log("stage failed", stage=stage, failed={}, lost=dict(lost), there=there)
    raise StageError(
        f"{stage}: {lost.total():,} of {there:,} images that were there can't be read now ({named}), more "
        f"than limits.lost: {limit:g} allows; is a disk or the network gone? Nothing was committed; the same "
        "command tries them again"
    )
