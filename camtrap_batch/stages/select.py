"""select: which images to train on, in which split, and why not the others. Runs on the driver."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import reader_of
from camtrap_batch.codes import Ints
from camtrap_batch.errors import JobError
from camtrap_batch.job import Job
from camtrap_batch.job.detect import CATALOG
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Stage, StageResult, TableSpec, shard_id
from camtrap_batch.review.boxes import settle_boxes
from camtrap_batch.selection.choice import Named, Reviewed, choose, describe, of_people, reason_counts, select
from camtrap_batch.selection.classes import Classes, choose_classes
from camtrap_batch.selection.reviewed import extended, overrule, told_of
from camtrap_batch.stages.detect import bring_detections
from camtrap_batch.store.corrections import fold, read_corrections, standing
from camtrap_batch.store.manifest import categories_of, current_findings, require_findings
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import digest
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table


class SelectStage(Stage):
    name = "select"
    help = "choose the images to train on, and say why not the others"
    sections = ("select",)
    version = 2
    tables = (TableSpec("selection", "each image of the catalog"),)

    def applies(self, job: Job) -> bool:
        return job.infer.model == "latest"

    def check(self, context: Context) -> None:
        dataset = context.job.dataset
        if not reader_of(dataset).has_labels and not read_corrections(context.run).num_rows:
            raise JobError(
                f"dataset.format: a {dataset.format} has no labels to train on; set infer.model to a model "
                "folder or id, or to none (the labels of people are the result), or give labels: camtrap "
                "corrections"
            )

    def check_catalog(self, context: Context) -> None:
        categories = _categories(context.run, read_corrections(context.run))
        chosen = choose_classes(context.job, categories).ids_by_label
        if len(chosen) < 2:
            raise JobError(
                f"select.classes: {', '.join(chosen) or 'none'}: training needs at least 2 classes; choose "
                "more, or set infer.model to a model folder or id, or to none (the labels of people are the "
                "result)"
            )

    def run(self, context: Context) -> StageResult:
        """Choose training images from `catalog` and `manifest` into the table `selection`.

        Raises
        ------
        JobError
            A chosen class has no usable image, or too few locations for a split by location; or a split is
            empty.
        """
        job, run = context.job, context.run
        catalog, manifest = run.snapshot("catalog"), run.snapshot("manifest")
        said, sampled = _said(context, manifest)
        classes = choose_classes(job, _categories(run, said))
        # Duplicates tie images together; a split by image ignores them.
        findings = current_findings(run) if job.select.split.by == "location" else None
        if job.select.drop:
            findings = require_findings(run)
        sources = {"catalog": catalog, "manifest": manifest} | ({"findings": findings} if findings else {})
        what = job.select.model_dump(mode="json", by_alias=True)
        # Jobs that have neither keep the ids from before either existed.
        more = ["crops"] if job.trains_on_crops else []
        if said is not None:
            more.append(digest(said["correction_id"].to_pylist()))
            if pc.any(pc.equal(said["scope"], "box")).as_py() and not job.trains_on_crops:
                boxes = run.current("detections")
                more.append(digest(["boxes-1", boxes and boxes.plan_id]))
        if open_table(run.folder, catalog).count_rows(filter=pc.field("labelled_by").is_valid()):
            more.append("of people")
        drawn: dict[str, list[str]] = {}
        if job.trains_on_crops:
            if said is not None:
                more.append("told")
            if drawn := _drawn(context, catalog):
                more.append(digest(sorted(drawn.items())))
        if len(sampled):
            more.append(digest(["sampled", *sampled.tolist()]))
        id_ = shard_id(self, what, *(snapshot.plan_id for snapshot in sources.values()), *more)
        result = do_on_driver(
            context,
            self,
            id_,
            lambda: _select(context, classes, catalog, manifest, findings, said, drawn, sampled),
            inputs={name: snapshot.number for name, snapshot in sources.items()},
        )
        if not context.dry_run:
            result.counts = reason_counts(run)
            result.notes = describe(run.snapshot("selection").meta)
        return result


STAGE = SelectStage()

_COLUMNS = ["image_id", "file_name", "location", "deployment", "seq_id", "labels", "labelled_by", "video_s"]


def _said(context: Context, manifest: Snapshot) -> tuple[pa.Table | None, Ints]:
    """What people said about the images, as `standing` gives it; None if nobody said anything.

    Also the rows of images that were drawn at random to be reviewed (`camtrap review --order random`):
    whatever else was said about them, for another reason, makes them no less random.
    """
    run = context.run
    if not context.dry_run:
        fold(run)
    corrections = read_corrections(run)
    nothing = np.array([], np.int64)
    if not corrections.num_rows:
        return None, nothing
    images = open_table(run.folder, manifest).to_table(columns=["image_id", "sha256"])
    found = standing(corrections, images)
    if not found.num_rows:
        return None, nothing
    of_draws = corrections.filter(corrections["draw"].is_valid())
    return found, np.unique(standing(of_draws, images)["row"].to_numpy()) if of_draws.num_rows else nothing


def _categories(run: Run, said: pa.Table | None) -> list[tuple[int, str]]:
    """The data set's categories, and further names that people gave to animals."""
    categories = categories_of(run.snapshot("catalog").meta)
    labels = [] if said is None else said["label"].drop_null().unique().to_pylist()
    return extended(categories, labels)


def _drawn(context: Context, catalog: Snapshot) -> dict[str, list[str]]:
    """Image id -> labels of its boxes in the metadata, for images that show several species."""
    detection, run = context.job.detection, context.run
    if detection is None or detection[0].results != CATALOG:
        return {}
    detected = run.current("detected")
    if detected is None or detected.inputs.get("manifest") != run.snapshot("manifest").number:
        bring_detections(context)
    if run.current("boxes") is None:  # in a dry run
        return {}
    boxes = run.table("boxes").to_table(columns=["image_id", "label"], filter=pc.field("label").is_valid())
    rows = open_table(run.folder, catalog).to_table(columns=["image_id", "labels"])
    rows = rows.filter(pc.greater(pc.list_value_length(rows["labels"]), 1))
    marks = zip(rows["image_id"].to_pylist(), rows["labels"].to_pylist(), strict=True)
    several = {name for name, each in marks if len({mark["category_id"] for mark in each}) > 1}
    boxes = boxes.filter(pc.is_in(boxes["image_id"], pa.array(sorted(several), pa.string())))
    found: dict[str, set[str]] = {}
    for name, label in zip(boxes["image_id"].to_pylist(), boxes["label"].to_pylist(), strict=True):
        found.setdefault(name, set()).add(label)
    return {name: sorted(labels) for name, labels in found.items()}


def _select(
    context: Context,
    classes: Classes,
    catalog: Snapshot,
    manifest: Snapshot,
    findings: Snapshot | None,
    said: pa.Table | None,
    drawn: dict[str, list[str]],
    sampled: Ints,
) -> Made:
    folder = context.run.folder
    rows = of_people(open_table(folder, catalog).to_table(columns=_COLUMNS))
    statuses = open_table(folder, manifest).to_table(columns=["status"])["status"]
    found = open_table(folder, findings).to_table() if findings else None
    job = context.job
    row = pc.index_in(pa.array(list(drawn), pa.string()), rows["image_id"].combine_chunks()).to_pylist()
    named = Named(dict(zip(row, drawn.values(), strict=True)), {})
    reviewed = None
    if said is not None:
        told, _ = choose(rows, statuses.cast("string"), classes, job.select.statuses, named)
        categories = _categories(context.run, said)
        if job.trains_on_crops:
            named = Named(named.drawn, told_of(said, categories, classes.empty))
        else:  # a box that is empty says nothing about the whole frame
            ids = rows["image_id"]
            said = settle_boxes(context.run, said, ids, classes.empty, classified=False).said
        rows = overrule(rows, said, categories, classes.empty)
        is_said = np.zeros(rows.num_rows, bool)
        is_said[said["row"].to_numpy()] = True
        is_drawn = np.zeros(rows.num_rows, bool)
        is_drawn[sampled] = True
        reviewed = Reviewed(is_said, is_said & (told == ""), is_drawn)
    table, meta = select(
        rows,
        statuses.cast("string"),
        classes,
        found,
        job.select,
        for_crops=job.trains_on_crops,
        reviewed=reviewed,
        named=named,
    )
    return Made({"selection": table}, meta, describe(meta))
