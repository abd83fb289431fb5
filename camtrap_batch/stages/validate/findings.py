"""The table `findings`: made from the manifest at the end of `validate`, on the driver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import as_photos_have_it, read_dataset_periods
from camtrap_batch.errors import BrokenPromise
from camtrap_batch.events.codes import Bools
from camtrap_batch.findings import (
    DATE_COLUMNS,
    DUPLICATE_COLUMNS,
    find_duplicates,
    find_other_sizes,
    find_wrong_dates,
    findings_table,
)
from camtrap_batch.job import Job
from camtrap_batch.memory import Handover, release_memory
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Part, TableSpec, shard_id
from camtrap_batch.store.manifest import current_findings, kind_counts
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table
from camtrap_batch.survey.checks import FROM_MANIFEST as DEPLOYMENT_COLUMNS
from camtrap_batch.survey.checks import check_deployments, check_findings
from camtrap_batch.survey.effort import make_deployments
from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS, FINDING_KINDS, USABLE

FINDINGS = Part("findings", 1, (TableSpec("findings", "each thing that looks wrong with an image"),))

_SIZES = ["width", "height"]
_OF_DUPLICATES = [*DUPLICATE_COLUMNS, "video_s"]
FROM_MANIFEST = list(dict.fromkeys(["image_id", *_OF_DUPLICATES, *DATE_COLUMNS, *_SIZES]))
"""Columns of the manifest that findings are made from."""

_ORDER = [*FINDING_KINDS, *DEPLOYMENT_FINDINGS]


def add_findings(context: Context, columns: Handover[pa.Table]) -> list[str]:
    """Bring the table `findings` up to date with the current manifest; returns notes: the counts by kind.

    Parameters
    ----------
    columns : the manifest's columns `FROM_MANIFEST`, if they have just been read
    """
    run = context.run
    if context.dry_run:
        return []
    catalog, manifest = run.snapshot("catalog"), run.snapshot("manifest")
    near_bits = context.job.findings.near_bits
    periods, outages, _ = read_dataset_periods(context.job.dataset)
    periods, outages = (
        None if table is None else as_photos_have_it(table, lambda: _locations(run, manifest))
        for table in (periods, outages)
    )
    told: list[Any] = []
    if periods is not None:
        told = [[] if one is None else one.to_pylist() for one in (periods, outages)]
        told.append(sorted(DEPLOYMENT_FINDINGS))  # with an additional kind they are remade
    id_ = shard_id(FINDINGS, near_bits, catalog.plan_id, manifest.plan_id, *told)

    def make() -> Made:
        table = find_all(run, catalog, manifest, near_bits, columns)
        if periods is not None:
            more = find_in_deployments(context.job, run, catalog, manifest, periods, outages)
            table = pa.concat_tables([table, more])
        counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["kind"]).to_pylist()}
        kinds = {kind: counts[kind] for kind in _ORDER if counts.get(kind)}
        return Made({"findings": table}, {"manifest_plan": manifest.plan_id, "kinds": kinds})

    inputs = {"catalog": catalog.number, "manifest": manifest.number}
    do_on_driver(context, FINDINGS, id_, make, inputs=inputs)
    found = kind_counts(current_findings(run))
    return ["findings: " + ", ".join(f"{kind} {n:,}" for kind, n in found.items())] if found else []


def _locations(run: Run, manifest: Snapshot) -> pa.ChunkedArray:
    return open_table(run.folder, manifest).to_table(columns=["location"])["location"]


def find_in_deployments(
    job: Job,
    run: Run,
    catalog: Snapshot,
    manifest: Snapshot,
    periods: pa.Table,
    outages: pa.Table | None,
) -> pa.Table:
    """What looks wrong in the recorded deployments, as rows of the table.

    Whether an image is empty is taken from its annotation: what the machine says is not known yet.
    """
    columns = ["image_id", "file_name", "deployment", "status", *DEPLOYMENT_COLUMNS]
    images = open_table(run.folder, manifest).to_table(columns=columns)
    is_usable = pc.is_in(images["status"].cast(pa.string()), pa.array(USABLE))
    labels = open_table(run.folder, catalog).to_table(columns=["labels"])["labels"]
    empty = empty_images(labels.filter(is_usable), job.select.empty.class_)
    images = images.filter(is_usable)
    deployments, _ = make_deployments(images, periods, outages)
    is_told = pc.is_in(deployments["location"], periods["location"].combine_chunks())
    deployments = deployments.filter(is_told)
    checks = check_deployments(deployments, images, empty)
    checks.sort(key=lambda check: _ORDER.index(check.kind))
    return check_findings(checks, deployments, images.select(["image_id", "file_name"]))


def empty_images(labels: pa.ChunkedArray, empty: int | str) -> Bools:
    """Which images are annotated only with `select.empty.class`."""
    labels = labels.combine_chunks()
    entries = labels.flatten()
    said = entries.field("category_id") if isinstance(empty, int) else pc.utf8_lower(entries.field("name"))
    is_other = pc.not_equal(said, empty if isinstance(empty, int) else empty.casefold()).fill_null(True)
    found = np.asarray(pc.list_value_length(labels).fill_null(0).to_numpy(zero_copy_only=False)) > 0
    of = pc.list_parent_indices(labels).filter(is_other).to_numpy()
    found[of] = False
    return found


def find_all(
    run: Run,
    catalog: Snapshot,
    manifest: Snapshot,
    near_bits: int,
    columns: Handover[pa.Table],
) -> pa.Table:
    """Every finding in a manifest; `columns` as for `add_findings`."""
    files = columns.take()
    if files is None:
        files = open_table(run.folder, manifest).to_table(columns=FROM_MANIFEST)
    # Rows are taken by number; with one chunk per file, each look-up would search the chunks.
    files = files.combine_chunks()
    said = open_table(run.folder, catalog).to_table(columns=["image_id", *_SIZES])
    if not said["image_id"].equals(files["image_id"]):
        raise BrokenPromise("findings: the manifest's rows are not the catalog's; nothing was committed")
    # The beginning of "the future".
    now = np.datetime64(manifest.created.removesuffix("Z"), "us")
    found = [find_other_sizes(said.select(_SIZES), files.select(_SIZES))]
    del said
    release_memory()  # memory used by reading
    # Arrow and NumPy let Python go on in the meantime.
    with ThreadPoolExecutor(1) as beside:
        duplicates = beside.submit(find_duplicates, files.select(_OF_DUPLICATES), near_bits)
        found += find_wrong_dates(files, now)
        found += duplicates.result()
    names = files.select(["image_id", "file_name", "location"])
    del files
    found.sort(key=lambda each: _ORDER.index(each.kind))
    return findings_table(found, names)
