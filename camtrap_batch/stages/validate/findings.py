"""The table `findings`: made from the manifest at the end of `validate`, on the driver."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import BrokenPromise
from camtrap_batch.findings import (
    DATE_COLUMNS,
    DUPLICATE_COLUMNS,
    find_duplicates,
    find_other_sizes,
    find_wrong_dates,
    findings_table,
)
from camtrap_batch.memory import give_back
from camtrap_batch.pipeline.context import Context, do_on_driver, shard_id
from camtrap_batch.store.manifest import current_findings, kind_counts
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table
from camtrap_batch.vocabulary import FINDING_KINDS

VERSION = 1

_SIZES = ["width", "height"]
FROM_MANIFEST = list(dict.fromkeys(["image_id", *DUPLICATE_COLUMNS, *DATE_COLUMNS, *_SIZES]))
"""Columns of the manifest that findings are made of."""

_ORDER = list(FINDING_KINDS)


def add_findings(context: Context, files: list[pa.Table]) -> list[str]:
    """Bring the table `findings` up to the current manifest; returns notes for people: the counts by kind.

    Parameters
    ----------
    files : the current manifest's columns `FROM_MANIFEST`, where they are read already; taken out of the
        list, and let go of on the way
    """
    job, store = context.job, context.run
    if context.dry_run:
        return []
    catalog, manifest = store.snapshot("catalog"), store.snapshot("manifest")
    near_bits = job.findings.near_bits
    id_ = shard_id("findings", VERSION, "findings", near_bits, catalog.plan_id, manifest.plan_id)
    counts: Counter[str] = Counter()

    def make() -> dict[str, pa.Table]:
        table = find_all(store, catalog, manifest, near_bits, files)
        counts.update(
            {entry["values"]: entry["counts"] for entry in pc.value_counts(table["kind"]).to_pylist()}
        )
        return {"findings": table}

    do_on_driver(
        context,
        "findings",
        id_,
        make,
        ("findings",),
        inputs={"catalog": catalog.number, "manifest": manifest.number},
        meta=lambda: {
            "manifest_plan": manifest.plan_id,
            "kinds": {kind: counts[kind] for kind in FINDING_KINDS if counts[kind]},
        },
    )
    found = kind_counts(current_findings(store))
    return ["findings: " + ", ".join(f"{kind} {n:,}" for kind, n in found.items())] if found else []


def find_all(
    store: Run, catalog: Snapshot, manifest: Snapshot, near_bits: int, read: list[pa.Table]
) -> pa.Table:
    """Every finding in a manifest; `read` as the `files` of `add_findings`."""
    files = read.pop() if read else open_table(store.folder, manifest).to_table(columns=FROM_MANIFEST)
    # Rows are taken by their numbers, which would be looked up in a chunk for each file.
    files = files.combine_chunks()
    said = open_table(store.folder, catalog).to_table(columns=["image_id", *_SIZES])
    if not said["image_id"].equals(files["image_id"]):
        raise BrokenPromise("findings: the manifest's rows are not the catalog's; nothing was committed")
    # Where "the future" begins.
    now = np.datetime64(manifest.created.removesuffix("Z"), "us")
    found = [find_other_sizes(said.select(_SIZES), files.select(_SIZES))]
    del said
    give_back()  # what reading took
    # Arrow and NumPy let Python go on meanwhile.
    with ThreadPoolExecutor(1) as beside:
        duplicates = beside.submit(find_duplicates, files.select(DUPLICATE_COLUMNS), near_bits)
        found += find_wrong_dates(files, now)
        found += duplicates.result()
    names = files.select(["image_id", "file_name", "location"])
    del files
    found.sort(key=lambda each: _ORDER.index(each.kind))
    return findings_table(found, names)
