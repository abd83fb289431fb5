"""detect: animals, people and vehicles in every usable image, or the boxes in results of other programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.detection.base import KNOWN_BY, LEAST, Detector, KnownDetector, PictureDetector
from camtrap_batch.detection.boxes import make_rules, mark_repeats
from camtrap_batch.detection.library import keep_detector, open_detector
from camtrap_batch.detection.stored import to_tables
from camtrap_batch.engine.base import Need, choose_workers
from camtrap_batch.errors import InputError
from camtrap_batch.images.pictures import COLUMNS
from camtrap_batch.job import Job
from camtrap_batch.job.detect import Detect
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.lost import require_few_lost
from camtrap_batch.pipeline.retries import FAILED, RETRY_FAILED, TRIES, Retries, read_failed
from camtrap_batch.pipeline.rows import hash_runs, location_borders, pack, texts
from camtrap_batch.pipeline.shards import Done, do_on_driver, do_on_workers
from camtrap_batch.pipeline.stage import Made, Stage, StageResult, TableSpec, shard_id, shard_ids
from camtrap_batch.remote import redacted
from camtrap_batch.runtime import Device
from camtrap_batch.stages.detect.marking import DETECTIONS, MOST_ON_DRIVER, SPOTS, mark_on_workers
from camtrap_batch.stages.detect.shard import DetectShard
from camtrap_batch.stages.detect.trial import PRECISION, check_precision, is_of_cpus, known_precision
from camtrap_batch.store.manifest import usable_rows
from camtrap_batch.store.schemas import BOXES
from camtrap_batch.store.shards import Plan, Receipt, cut
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.vocabulary import plural

_READ = [*COLUMNS, "sha256", "status", "location", "seq_id", "width", "height"]
_SENT = [*COLUMNS, "width", "height"]
"""Columns that a worker reads."""

_DEVICE: dict[Need, Device] = {"CPU": "cpu", "GPU": "cuda"}

_FEWEST_TO_CHECK = 400
"""With fewer usable images everything is computed in float32: a check would cost more than it saves."""


class DetectStage(Stage):
    name = "detect"
    help = "find animals in every usable image, or take what others found"
    sections = ("detect",)
    version = 1
    tables = (TableSpec("detected", "each usable image of the manifest"), TableSpec("boxes", "each box"))
    rows_of = "manifest"
    options = (RETRY_FAILED,)
    parts = (PRECISION, SPOTS, DETECTIONS)

    def applies(self, job: Job) -> bool:
        return job.detection is not None

    def check(self, context: Context) -> None:
        if context.job.detection is not None:
            _open(context.job, *context.job.detection)

    def run(self, context: Context) -> StageResult:
        """Bring the tables `detected` and `detections` up to date with the current manifest and the job's
        detector.

        Raises
        ------
        InputError
            The job names no detector, there is no manifest yet, or the detector can't be used.
        """
        if context.job.detection is None:
            raise InputError(
                "detect: the job names no detector: set detect.model (an ONNX file) or detect.results"
            )
        settings, key = context.job.detection
        detector = _open(context.job, settings, key)
        if isinstance(detector, KnownDetector):
            result = _take(context, settings, detector)
        elif isinstance(detector, PictureDetector):
            result = _look(context, settings, detector)
        else:
            raise InputError(f"{key}: {type(detector).__name__} neither looks at pictures nor knows boxes")
        if not context.dry_run:
            result.notes += _mark(context, settings, detector)
        return result


STAGE = DetectStage()


def bring_detections(context: Context) -> list[str]:
    """Read the boxes of a job that has them from elsewhere, if `detect` has not; this is cheap.

    Returns notes for people. Raises InputError like the stage.
    """
    if context.job.detection is None or context.job.detection[0].results is None:
        return []
    return STAGE.run(context).notes


def _open(job: Job, settings: Detect, key: str) -> Detector:
    """The job's detector. Raises InputError if it can't be used, or finds no animals."""
    detector = open_detector(job, settings, key)
    make_rules(settings, detector.categories, "", key, redacted(str(settings.model or settings.results)))
    return detector


def _take(context: Context, settings: Detect, detector: KnownDetector) -> StageResult:
    """Make the tables from known boxes."""
    run = context.run
    manifest = run.snapshot("manifest")

    def make() -> Made:
        rows = usable_rows(run, ["image_id", "file_name", "status", *KNOWN_BY])
        known = detector.match(rows)
        tables = to_tables(
            rows["image_id"],
            known.boxes,
            known.why,
            categories=detector.categories,
            detector_id=detector.detector_id,
            animal=settings.animal_category,
            labels=known.labels,
        )
        found = {**known.meta, "boxes": tables["boxes"].num_rows}
        return Made(tables, {"categories": list(detector.categories), "found": found}, known.notes)

    id_ = shard_id(STAGE, detector.detector_id, manifest.plan_id, settings.animal_category)
    return do_on_driver(context, STAGE, id_, make, inputs=_inputs(manifest, detector))


def _inputs(manifest: Snapshot, detector: Detector) -> dict[str, Any]:
    return {"manifest": manifest.number, "detector": detector.detector_id}


def _look(context: Context, settings: Detect, detector: PictureDetector) -> StageResult:
    """Make the tables by running the detector on the pictures, on workers."""
    run, job = context.run, context.job
    manifest = run.snapshot("manifest")
    rows = usable_rows(run, _READ)
    work = DetectShard(
        folder=run.folder,
        plan=(STAGE.name, ""),
        root=image_root(job),
        kept=run.folder if context.dry_run else keep_detector(run, detector),
        detector=detector,
        animal=settings.animal_category,
        batch=settings.batch,
        use_thumbnails=_takes_thumbnails(job, detector),
        timeout_s=job.validate_.timeout_s,
        threshold=settings.threshold,
    )
    need, found = _precision(context, settings, work, rows)
    work = replace(work, precision=found["precision"])
    before = run.current("detected")
    retries = _retries(context, work, rows, settings.shard_size, before)
    plan = Plan.make(STAGE.name, retries.shards(), _inputs(manifest, detector))
    if need is None and not context.dry_run and (before is None or before.plan_id != plan.id):
        need = _workers(context, settings, found)
    need = need or "CPU"
    said = getattr(detector, "description", "")
    meta = {"categories": list(detector.categories), "precision": found, "detector": said}

    def finish(plan: Plan, receipts: list[Receipt]) -> Done:
        plan, receipts = retries.keep_earlier(plan, receipts)
        require_few_lost(context, STAGE.name, "detected", receipts, before)
        boxes, failed = (sum(receipt.result[name] for receipt in receipts) for name in ("boxes", "failed"))
        found = {"images": plan.rows - failed, "without": failed, "boxes": boxes}
        images = plural(plan.rows - failed, "image")
        note = f"{plural(boxes, 'box', 'boxes')} in {images}, of confidence {LEAST} and more"
        return Done(plan, receipts, {**meta, "found": found, "tries": retries.record()}, [note])

    sent = rows.select(_SENT)
    result = do_on_workers(
        context,
        plan,
        replace(work, plan=(plan.stage, plan.id), device=_DEVICE[need]),
        lambda shard: pack(sent.slice(shard.start, shard.rows)),
        [table.name for table in STAGE.tables],
        need=need,
        finish=finish,
        locations=rows["location"],
    )
    result.notes += retries.notes()
    if said:
        result.notes.append(f"the detector says about itself: {said}")
    return result


def _takes_thumbnails(job: Job, detector: PictureDetector) -> bool:
    """Whether thumbnails have all the pixels that the detector sees."""
    fit = getattr(detector, "fit", None)
    return (
        fit is not None and getattr(detector, "tiles", 1) == 1 and job.validate_.thumbnails >= max(fit.size)
    )


def _retries(
    context: Context, work: DetectShard, rows: pa.Table, shard_size: int, before: Snapshot | None
) -> Retries:
    """Shards: runs of rows along camera locations; an id stands for everything the boxes depend on."""
    runs = cut(texts(rows["image_id"]), shard_size, location_borders(rows).tolist())
    settings = [work.detector.detector_id, work.use_thumbnails, work.precision, work.animal]
    hashes = hash_runs(rows, ["image_id", "sha256"], runs)
    ids = shard_ids(STAGE, settings, ([hash_] for hash_ in hashes))
    failed = read_failed(context, before, FAILED)
    return Retries(context, "detected", before, failed, TRIES, rows["image_id"], ids, runs)


def _precision(
    context: Context, settings: Detect, work: DetectShard, rows: pa.Table
) -> tuple[Need | None, dict[str, Any]]:
    """The precision to compute in, and the kind of workers, if they had to be asked for the former."""
    exact = {"precision": "float32"}
    if settings.precision == "float32":
        return None, exact
    if (known := known_precision(context.run, work, settings.device)) is not None:
        return None, known
    if rows.num_rows < _FEWEST_TO_CHECK or context.dry_run:
        return None, exact
    need = _workers(context, settings)
    return need, check_precision(context, replace(work, device=_DEVICE[need]), rows, need)


def _workers(context: Context, settings: Detect, found: dict[str, Any] | None = None) -> Need:
    """The kind of workers; for a run that was begun on CPUs, those that can continue it (`found`)."""
    if settings.device == "auto" and found is not None and is_of_cpus(found):
        if context.executor().offers("GPU"):
            context.display.note(
                "detect: on CPU workers, as when this run was begun; detect.device: cuda redoes all images"
            )
        return "CPU"
    return choose_workers(context.executor(), settings.device, has_gpu, "detect.device")


def has_gpu() -> bool:
    """Whether a runtime can use a GPU of this worker."""
    from camtrap_batch.runtime import best_device

    return best_device() == "cuda"


def _mark(context: Context, settings: Detect, detector: Detector) -> list[str]:
    """Make `detections`: the boxes, with the spots where cameras repeat them. Returns notes for people."""
    run = context.run
    detected = run.snapshot("detected")
    repeat = [settings.repeat.frames, settings.repeat.iou, settings.threshold]
    id_ = shard_id(DETECTIONS, detected.plan_id, *repeat)
    before = run.current("detections")
    is_done = before is not None and before.inputs.get("shard") == id_  # by the driver, perhaps long ago
    if isinstance(detector, PictureDetector) and run.snapshot("boxes").rows > MOST_ON_DRIVER and not is_done:
        return mark_on_workers(context, settings, detected)
    notes: list[str] = []

    def make() -> Made:
        of_images = run.table("detected", detected.number).to_table(columns=["n_boxes"])
        boxes = run.table("boxes").to_table(columns=[name for name in BOXES.names if name != "label"])
        rows = usable_rows(run, ["image_id", "status", "location"])
        marked = mark_repeats(settings, rows, of_images["n_boxes"], boxes)
        notes.extend(marked.repeats.notes())
        number = pa.array(marked.number, pa.int32(), mask=np.asarray(marked.number < 0))
        meta = {"of": detected.plan_id, "repeats": {"threshold": settings.threshold, **marked.repeats.meta()}}
        return Made({"detections": boxes.append_column("repeat", number)}, meta)

    do_on_driver(context, DETECTIONS, id_, make, inputs={"detected": detected.number})
    return notes
