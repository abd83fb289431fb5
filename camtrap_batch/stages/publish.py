"""publish: cameras, events and photos to the feature layer, so that a second push changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.job import Job
from camtrap_batch.layers import (
    PHOTOS,
    GeoPackageTarget,
    LayerRows,
    Push,
    camera_rows,
    event_rows,
    photo_rows,
)
from camtrap_batch.stages.context import Context, StageResult
from camtrap_batch.store.merged import Merged
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import USABLE
from camtrap_batch.store.shards import Plan, Shard, digest
from camtrap_batch.store.tables import commit_plan, finish_shard

_SHOWN_CAMERAS = 20


def run(context: Context) -> StageResult:
    """Push the tables `locations` and `events`, and each classified image; edits go to the `ledger`.

    `context.snapshot` says which result of `merge`; its rows take the place of those that are on the layer.

    Raises
    ------
    InputError
        The tables are not there yet, or the target is something else than a layer of ours.
    StorageError
        The target can't be written; nothing of it was changed.
    """
    started = time.monotonic()
    store = context.run
    merged = Merged.find(store, context.snapshot)
    rows = layer_rows(merged, context.job.name)
    with _local_copy(store, writes=not context.dry_run) as path:
        push = GeoPackageTarget(path, context.job.name).push(rows, dry_run=context.dry_run)
    result = StageResult("publish", sum(layer.columns.num_rows for layer in rows), notes=_describe(push))
    if context.snapshot is not None:
        result.notes.insert(
            0, f"{merged.describe()} is what the layer {'would hold' if context.dry_run else 'holds'}"
        )
    if context.dry_run or push.edits.num_rows == 0:
        return result
    _keep_ledger(store, push.ledger, merged.number, started)
    store.log("pushed", stage="publish", target=store.job.target_url, edits=push.edits.num_rows)
    result.shards = result.shards_run = 1
    result.seconds = time.monotonic() - started
    return result


def check_target(job: Job) -> None:
    """Raise InputError where the target can't be a GeoPackage of ours; in a bucket, only a push can tell."""
    path = Path(job.target_url)
    if Path(job.publish.target).is_absolute() or path.exists():
        GeoPackageTarget(path, job.name).check()


def layer_rows(merged: Merged, job: str) -> list[LayerRows]:
    """What a result of `merge` has to say on each layer."""
    locations, frames = merged.table("locations").to_table(), merged.table("frames").to_table()
    images = merged.table("manifest").to_table(
        columns=["image_id", "datetime", "status"], filter=pc.field("status").cast("string").isin(USABLE)
    )
    predictions = merged.table("predictions").to_table(columns=["image_id", "label", "confidence"])
    for other in (images, predictions):
        if not other["image_id"].equals(frames["image_id"]):
            raise InputError(f"{merged.run.folder.url}: {merged.describe()}: not of the images that it names")
    photos = {
        **{name: frames[name] for name in ("image_id", "file_name", "location", "seq_id", "event_id")},
        **{name: images[name] for name in ("datetime", "status")},
        **{name: predictions[name] for name in ("label", "confidence")},
        "model_id": pa.repeat(str(merged.snapshot.inputs["model"]), frames.num_rows),
    }
    return [
        camera_rows(locations, job=job),
        event_rows(merged.table("events").to_table(), locations, job=job),
        photo_rows(pa.table({column: photos[column] for column in PHOTOS.names}), locations, job=job),
    ]


def _keep_ledger(store: Run, ledger: pa.Table, pushed: int, started: float) -> None:
    """Add the edits to the table `ledger`, which only grows."""
    before = store.current("ledger")
    id_ = digest(["publish", before.number if before else 0, ledger["time"][0].as_py().isoformat()])
    shard = Shard(id_, 0, ledger.num_rows)
    plan = Plan.make("publish", [shard], {"locations": pushed})
    plan.freeze(store.folder)
    receipt = finish_shard(
        store.folder, ("publish", plan.id), shard, {"ledger": ledger}, counts={}, seconds={}, started=started
    )
    earlier = before.files if before else ()
    commit_plan(store.folder, plan, [receipt], ("ledger",), inputs=plan.inputs, prepend=earlier)


def _describe(push: Push) -> list[str]:
    """Edits by layer and kind, and then by camera."""
    totals: dict[tuple[str, str], int] = {}
    cameras: dict[str, int] = {}
    for layer, edit, location, number in push.counts():
        key = layer.rpartition("=")[2], edit
        totals[key] = totals.get(key, 0) + number
        cameras[location or "unknown"] = cameras.get(location or "unknown", 0) + number
    notes = [f"{layer}: {number:,} {edit}s" for (layer, edit), number in totals.items()]
    notes.append(f"{sum(push.unchanged.values()):,} rows are up to date")
    most = sorted(cameras.items(), key=lambda item: (-item[1], item[0]))
    if most:
        shown = ", ".join(f"{location} {number:,}" for location, number in most[:_SHOWN_CAMERAS])
        more = f", and {len(most) - _SHOWN_CAMERAS} cameras more" if len(most) > _SHOWN_CAMERAS else ""
        notes.append(f"edits by camera: {shown}{more}")
    return notes


@contextmanager
def _local_copy(store: Run, *, writes: bool) -> Iterator[Path]:
    """The GeoPackage as a local file; one in a bucket is fetched, and put back when it was written."""
    url = store.job.target_url
    if "://" not in url:
        yield Path(url)
        return
    name = store.job.publish.target
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "layers.gpkg"
        before = store.folder.read(name) if store.folder.exists(name) else b""
        if before:
            path.write_bytes(before)
        yield path
        if writes and path.exists() and path.read_bytes() != before:
            store.folder.write(name, path.read_bytes())
