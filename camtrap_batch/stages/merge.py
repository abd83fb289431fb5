"""merge: frames into sequences, sequences into events, events into one row a location. Runs on the driver."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import read_dataset_cameras
from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.events import Events, Sequences, combine, find_events, summarise
from camtrap_batch.job import Job
from camtrap_batch.model.info import ModelInfo, read_info
from camtrap_batch.stages.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.stages.infer import fetch_model, model_folder, usable_rows
from camtrap_batch.store import schemas
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import EMPTY
from camtrap_batch.store.snapshots import Snapshot

VERSION = 2
TABLES = ("locations", "sequences", "events")


def run(context: Context) -> StageResult:
    """Make the tables `sequences`, `events` and `locations` from `manifest` and `predictions`.

    Raises
    ------
    InputError
        There are no predictions yet, or they belong to another manifest.
    """
    job, store = context.job, context.run
    manifest, predictions = store.snapshot("manifest"), store.snapshot("predictions")
    model_id = str(predictions.inputs["model"])
    cameras = read_dataset_cameras(job.dataset)
    what = [job.infer.min_confidence, job.events.gap_min, job.select.empty.class_]
    id_ = shard_id(
        "merge",
        VERSION,
        "locations",
        [schemas.fingerprint(name) for name in TABLES],
        what,
        cameras.to_pylist() if cameras is not None else None,
        manifest.plan_id,
        predictions.plan_id,
    )

    def make() -> dict[str, pa.Table]:
        labelled = label_frames(store, job)
        images = store.table("manifest").to_table(columns=["location", "status", "datetime"])
        locations = summarise(
            images,
            labelled.sequences.sequences,
            labelled.events.events,
            cameras,
            empty=labelled.empty,
            model_id=model_id,
            predictions_snapshot=predictions.number,
            run_time=dt.datetime.fromisoformat(predictions.created),
        )
        if pc.sum(locations["n_images"]).as_py() not in (images.num_rows, None):
            raise BrokenPromise("merge: the locations' images are not the manifest's; nothing was committed")
        return {
            "locations": locations,
            "sequences": labelled.sequences.sequences,
            "events": labelled.events.events,
        }

    inputs = {"manifest": manifest.number, "predictions": predictions.number, "model": model_id}
    result = do_on_driver(context, "merge", id_, make, TABLES, inputs=inputs)
    if not context.dry_run:
        for name in ("sequences", "events"):
            result.notes.append(f"{store.snapshot(name).rows:,} {name}")
    return result


class Labelled(NamedTuple):
    """Usable images with what they were labelled: `frames` as `usable_frames` gives them, in its order."""

    frames: pa.Table
    sequences: Sequences
    events: Events
    empty: str


def label_frames(store: Run, job: Job) -> Labelled:
    """Sequences and events of the current manifest and predictions, with the label of every image."""
    predictions = store.snapshot("predictions")
    frames = usable_frames(store, predictions)
    empty = empty_label(job, read_info(fetch_model(model_folder(store, str(predictions.inputs["model"])))))
    sequences = combine(frames, empty=empty, min_confidence=job.infer.min_confidence)
    return Labelled(
        frames, sequences, find_events(sequences.frames, empty=empty, gap_min=job.events.gap_min), empty
    )


def usable_frames(store: Run, predictions: Snapshot) -> pa.Table:
    """The usable rows of the manifest with their predictions beside them."""
    frames = usable_rows(
        store, ["image_id", "file_name", "location", "seq_id", "frame_num", "datetime", "status"]
    )
    predicted = store.table("predictions", predictions.number).to_table(
        columns=["image_id", "label", "confidence", "top5"]
    )
    if not predicted["image_id"].equals(frames["image_id"]):
        raise InputError(f"{store.folder.url}: the predictions are of another manifest; run infer first")
    for name in ("label", "confidence", "top5"):
        frames = frames.append_column(name, predicted[name])
    return frames


def empty_label(job: Job, info: ModelInfo) -> str:
    """The model's label for: no animal."""
    wanted = job.select.empty.class_
    for label, ids in zip(info.classes, info.category_ids, strict=True):
        if wanted in ids or label.casefold() == str(wanted).casefold():
            return label
    return EMPTY
