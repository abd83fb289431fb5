"""infer: species for every usable image, fanned out over camera locations."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import pyarrow as pa

from camtrap_batch.detection.boxes import COLUMN as COLUMN_OF_BOXES
from camtrap_batch.detection.boxes import Boxes, find_boxes
from camtrap_batch.engine.base import Need, choose_workers
from camtrap_batch.errors import MissingExtra
from camtrap_batch.images.pictures import COLUMNS
from camtrap_batch.model.info import ONNX_ARCH, ModelInfo
from camtrap_batch.model.library import keep_model, open_model
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.lost import require_few_lost
from camtrap_batch.pipeline.retries import FAILED, RETRY_FAILED, TRIES, Retries, read_failed
from camtrap_batch.pipeline.rows import hash_runs, location_borders, pack, texts
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Stage, StageResult, TableSpec, shard_ids
from camtrap_batch.runtime import choose_runtime
from camtrap_batch.selection.classes import empty_class
from camtrap_batch.stages.detect import bring_detections
from camtrap_batch.stages.infer.runtimes import PRECISION, check_precision, is_of_cpus, known_precision
from camtrap_batch.stages.infer.shard import InferShard
from camtrap_batch.stages.infer.without import infer_without_model
from camtrap_batch.store.manifest import categories_of, usable_rows
from camtrap_batch.store.shards import Plan, Receipt, cut
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.vocabulary import NO_MODEL

FEWEST_TO_CHECK = 200
"""Usable images below which all are computed in float32: a check would take longer than it saves."""

_DEVICE: dict[Need, Literal["cpu", "cuda"]] = {"CPU": "cpu", "GPU": "cuda"}
_READ = [*COLUMNS, "sha256", "status", "location", "seq_id", "width", "height"]


class InferStage(Stage):
    name = "infer"
    help = "classify every usable image, fanned out over locations"
    sections = ("infer",)
    version = 3
    tables = (TableSpec("predictions", "each usable image of the manifest"),)
    rows_of = "manifest"
    options = (RETRY_FAILED,)
    parts = (PRECISION,)

    def check(self, context: Context) -> None:
        if context.job.infer.model == NO_MODEL:
            return
        if find_spec("torch") is None or find_spec("fastai") is None:
            raise MissingExtra("train", "training and classifying")
        if context.job.infer.model != "latest":
            open_model(context.run, context.job.infer.model)

    def run(self, context: Context) -> StageResult:
        """Classify the usable images of the manifest into the table `predictions`.

        Without a model (`infer.model: none`) see `stages.infer.without`.

        If the job has boxes (see the stage `detect`), the animals in them are classified; what the model says
        about each is kept in the table `crops`. Images that could not be read, or that killed their worker,
        are tried again by the next run.

        Raises
        ------
        InputError
            There is no manifest yet; the model that the job names is missing or incomplete; the boxes are
            missing, or belong to other images.
        """
        if context.job.infer.model == NO_MODEL:
            return infer_without_model(context, bring_detections(context))
        wanted = _read(context)
        rows, boxes, work, run = wanted.rows, wanted.boxes, wanted.work, context.run
        with ThreadPoolExecutor(1) as pool:
            cutting = pool.submit(_cut_rows, rows, boxes, context.job.infer.shard_size)
            need, found = _precision(context, work, rows)
        if found is None:
            wanted.notes.append("the fastest way to compute the model would be determined")
            found = {"precision": "auto"}
        steps = found.get("steps", [[found["precision"], 0.0]])
        work = replace(
            work,
            runtime=found.get("runtime", "torch"),
            steps=tuple((precision, margin) for precision, margin in steps),
            networks=tuple(sorted(found.get("networks", {}).items())),
        )
        before = run.current("predictions")
        inputs = {"manifest": work.manifest, "model": work.model_id, **wanted.boxes_from}
        retries = _retries(context, work, rows, cutting.result(), before)
        plan = Plan.make(self.name, retries.shards(), inputs)
        if boxes is not None and (before is None or before.plan_id != plan.id):
            # Shards from before there was a table `crops` stay as they are; the remaining ones have it.
            retries = _retries(context, work, rows, cutting.result(), before, "crops")
            plan = Plan.make(self.name, retries.shards(), inputs)
        if need is None and not context.dry_run and (before is None or before.plan_id != plan.id):
            need = _workers(context, found)
        need = need or "CPU"
        meta = {
            "classes": list(wanted.info.classes),
            "precision": found,
            "detections": boxes.meta if boxes else None,
        }
        sent = rows.select([name for name in _SENT if name in rows.column_names])
        result = do_on_workers(
            context,
            plan,
            replace(work, plan=(plan.stage, plan.id), device=_DEVICE[need]),
            lambda shard: pack(sent.slice(shard.start, shard.rows)),
            work.tables,
            need=need,
            finish=lambda plan, receipts: _finish(context, retries, plan, receipts, before, meta),
            locations=rows["location"],
        )
        result.notes += wanted.notes + retries.notes()
        return result


STAGE = InferStage()

_SENT = (*COLUMNS, "width", "height", COLUMN_OF_BOXES)
"""Columns that a worker reads."""


@dataclass
class _Wanted:
    """What is to be classified, with which model; `work` does not have its plan yet."""

    rows: pa.Table
    boxes: Boxes | None
    info: ModelInfo
    work: InferShard
    boxes_from: dict[str, int]
    notes: list[str]


def _read(context: Context) -> _Wanted:
    job, run = context.job, context.run
    manifest = run.snapshot("manifest")
    model, info = open_model(run, job.infer.model)
    rows = usable_rows(run, _READ)
    boxes, boxes_from, notes = None, {}, fit_notes(context, info)
    if job.detection is not None:
        notes += bring_detections(context)
        boxes = find_boxes(job.detection[0], run, rows, empty_class(job, info))
        boxes_from = {name: run.snapshot(name).number for name in ("detected", "detections")}
        rows = rows.append_column(COLUMN_OF_BOXES, boxes.column)
    work = InferShard(
        folder=run.folder,
        plan=(STAGE.name, ""),
        root=image_root(job),
        model=model if context.dry_run else keep_model(run, model, info.model_id),
        model_id=info.model_id,
        batch=job.infer.batch,
        thumbnail=job.validate_.thumbnails,
        use_thumbnails=info.framing.takes_thumbnails(job.validate_.thumbnails),
        timeout_s=job.validate_.timeout_s,
        manifest=manifest.number,
        rules=boxes.rules if boxes else None,
        of_onnx=choose_runtime("cpu")[0] if info.arch == ONNX_ARCH else None,
    )
    return _Wanted(rows, boxes, info, work, boxes_from, notes)


def _precision(
    context: Context, work: InferShard, rows: pa.Table
) -> tuple[Need | None, dict[str, Any] | None]:
    """The precision to compute in, and the kind of workers, if they had to be asked for it.

    In a dry run, whatever only a worker could find out stays open.
    """
    exact = {"precision": "float32"}
    if context.job.infer.precision == "float32" or not rows.num_rows:
        return None, exact
    if (known := known_precision(context.run, work, context.job.infer.device)) is not None:
        return None, known
    if rows.num_rows < FEWEST_TO_CHECK:
        return None, exact
    if context.dry_run:
        return None, None
    context.begin_writing()
    need = _workers(context)
    return need, check_precision(context, replace(work, device=_DEVICE[need]), rows, need)


def _workers(context: Context, found: dict[str, Any] | None = None) -> Need:
    """The kind of workers; of a run that was begun on CPUs, those that can go on with it (`found`)."""
    if context.job.infer.device == "auto" and found is not None and is_of_cpus(found):
        if context.executor().offers("GPU"):
            context.display.note(
                "infer: on CPU workers, as when this run was begun; infer.device: cuda redoes all images"
            )
        return "CPU"
    return choose_workers(context.executor(), context.job.infer.device, has_cuda, "infer.device")


def _cut_rows(rows: pa.Table, boxes: Boxes | None, shard_size: int) -> list[tuple[tuple[int, int], str, str]]:
    """Runs of rows, start and stop, along camera locations, each with hashes of its images and boxes."""
    runs = cut(texts(rows["image_id"]), shard_size, location_borders(rows).tolist())
    hashes = hash_runs(rows, ["image_id", "sha256"], runs)
    of_boxes = boxes.hashes(runs) if boxes else [""] * len(runs)
    return list(zip(runs, hashes, of_boxes, strict=True))


def _retries(
    context: Context,
    work: InferShard,
    rows: pa.Table,
    runs: list[tuple[tuple[int, int], str, str]],
    before: Snapshot | None,
    *more: str,
) -> Retries:
    """The shards, one per run of rows; an id stands for everything that the predictions depend on."""
    # Ids of what torch computes are those from before there was a choice.
    by = [] if work.runtime == "torch" else [work.runtime, work.networks]
    settings = [work.model_id, work.use_thumbnails, work.steps, *by, *more]
    ids = shard_ids(STAGE, settings, (hashes for _, *hashes in runs))
    failed, images = read_failed(context, before, FAILED), rows["image_id"]
    return Retries(context, "predictions", before, failed, TRIES, images, ids, [each for each, *_ in runs])


def _finish(
    context: Context,
    retries: Retries,
    plan: Plan,
    receipts: list[Receipt],
    before: Snapshot | None,
    meta: dict[str, Any],
) -> Done:
    plan, receipts = retries.keep_earlier(plan, receipts)
    require_few_lost(context, STAGE.name, "predictions", receipts, before)
    return Done(plan, receipts, {**meta, "again": _add_up(receipts), "tries": retries.record()})


def _add_up(receipts: list[Receipt]) -> dict[str, int]:
    """Precision -> number of images computed again in it."""
    again: Counter[str] = Counter()
    for receipt in receipts:
        again.update(receipt.result.get("again", {}))
    return dict(again)


def fit_notes(context: Context, info: ModelInfo) -> list[str]:
    """Notes on where the model and the manifest do not fit together."""
    job, run = context.job, context.run
    notes = []
    if info.on == "crops" and job.detection is None:
        notes.append("the model has learnt from crops, but the job has no boxes: whole frames are classified")
    elif info.on == "frames" and job.detect is not None and info.metrics:
        notes.append("the model has learnt from whole frames, but crops of the boxes are classified")
    kept = job.validate_.thumbnails
    if kept and not info.framing.is_ours:
        notes.append(
            "the original files are read: thumbnails do not hold what the model was evaluated on "
            f"({info.resize} to {info.framing.side} pixels, {info.interpolation})"
        )
    elif 0 < kept < info.size:
        notes.append(
            f"the model sees {info.size} pixels, thumbnails have {kept}: the original files are read; "
            f"validate.thumbnails: {info.size} would be faster"
        )
    catalog = run.current("catalog")
    categories = categories_of(catalog.meta) if catalog else []
    known = {name.casefold() for _, name in categories}
    foreign = [label for label in info.classes if label.casefold() not in known]
    if known and foreign:
        some = ", ".join(map(repr, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
        notes.append(
            f"{len(foreign)} of the model's {len(info.classes)} classes "
            f"{'is not a category' if len(foreign) == 1 else 'are not categories'} of the data set: {some}"
        )
    if empty_class(job, info) not in info.classes:
        notes.append(
            f"the model has no class for select.empty.class ({job.select.empty.class_!r}): it calls no image "
            "empty"
        )
    return notes


def has_cuda() -> bool:
    """Whether the worker on which this runs has a CUDA device. Raises ImportError if it has no torch."""
    import torch

    return bool(torch.cuda.is_available())
