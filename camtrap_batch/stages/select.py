"""select: which images to train on, in which split, and why not the others. Runs on the driver."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from camtrap_batch.pipeline.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.selection.choice import describe, reason_counts, select
from camtrap_batch.selection.classes import choose_classes
from camtrap_batch.store.manifest import categories_of, current_findings, require_findings
from camtrap_batch.store.tables import open_table

VERSION = 2


def run(context: Context) -> StageResult:
    """Choose training images from `catalog` and `manifest` into the table `selection`.

    Raises
    ------
    JobError
        A chosen class has no usable image, or too few locations to be split by location; a split is empty.
    """
    job, store = context.job, context.run
    catalog, manifest = store.snapshot("catalog"), store.snapshot("manifest")
    classes = choose_classes(job, categories_of(catalog.meta))
    # Duplicates tie images together, which a split by image does not heed.
    is_split_by_location = job.select.split.by == "location"
    findings = current_findings(store) if is_split_by_location else None
    if job.select.drop:
        findings = require_findings(store)
    what = job.select.model_dump(mode="json", by_alias=True)
    made_from = [snapshot.plan_id for snapshot in (catalog, manifest, findings) if snapshot]
    id_ = shard_id("select", VERSION, "selection", what, *made_from)
    meta: dict[str, Any] = {}

    def make() -> dict[str, pa.Table]:
        rows = open_table(store.folder, catalog).to_table(
            columns=["image_id", "file_name", "location", "deployment", "seq_id", "labels"]
        )
        statuses = open_table(store.folder, manifest).to_table(columns=["status"])["status"]
        found = open_table(store.folder, findings).to_table() if findings else None
        table, more = select(rows, statuses.cast(pa.string()), classes, found, job.select)
        meta.update(more)
        return {"selection": table}

    inputs = {"catalog": catalog.number, "manifest": manifest.number}
    if findings is not None:
        inputs["findings"] = findings.number
    result = do_on_driver(context, "select", id_, make, ("selection",), inputs=inputs, meta=lambda: meta)
    if not context.dry_run:
        result.counts = reason_counts(store)
        meta = store.snapshot("selection").meta
    if meta:
        result.notes += describe(meta)
    return result
