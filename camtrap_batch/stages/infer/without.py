"""infer without a model (`infer.model: none`): the answer is what people, or another program's results, say.

If `detect.results` has species, they are the predictions: a machine's labels, by the rules for boxes in
docs/inference.md. Otherwise the table predictions has a row without a label for each usable image, and
`merge` takes people's labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.detection.boxes import Boxes, find_boxes
from camtrap_batch.detection.library import open_detector
from camtrap_batch.detection.results import ResultsDetector
from camtrap_batch.detection.species import Answer, answers
from camtrap_batch.errors import InputError
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Part, StageResult, TableSpec, shard_id
from camtrap_batch.selection.classes import empty_of_data_set
from camtrap_batch.store.manifest import categories_of, usable_rows
from camtrap_batch.store.schemas import PREDICTIONS
from camtrap_batch.vocabulary import NO_MODEL

_TABLES = (TableSpec("predictions", "each usable image of the manifest"), TableSpec("crops", "each box"))
_LABELLED = Part("infer", 3, _TABLES, "manifest")
_UNLABELLED = Part("infer", 3, _TABLES[:1], "manifest")
_READ = ["image_id", "file_name", "status", "location", "video_s"]


def infer_without_model(context: Context, notes: list[str]) -> StageResult:
    """Make `predictions`, on the driver.

    Parameters
    ----------
    notes : notes for people on what was done about boxes

    Raises
    ------
    InputError
        There is no manifest yet, or the results are missing, or belong to other images.
    """
    job, run = context.job, context.run
    manifest = run.snapshot("manifest")
    rows = usable_rows(run, _READ)
    catalog = run.snapshot("catalog", int(manifest.inputs["catalog"]))
    empty = empty_of_data_set(job, categories_of(catalog.meta))
    inputs: dict[str, Any] = {"manifest": manifest.number, "model": NO_MODEL}
    boxes, results = None, None
    if job.detection is not None:
        settings, key = job.detection
        detector = open_detector(job, settings, key)
        results = detector if isinstance(detector, ResultsDetector) and detector.has_species else None
        try:
            boxes = find_boxes(settings, run, rows, empty)
        except InputError:
            if not context.dry_run or run.current("detected") is not None:
                raise
            return StageResult("infer", notes=["how much that is can't be said before detect", *notes])
        inputs |= {name: run.snapshot(name).number for name in ("detected", "detections")}
    of = _LABELLED if results is not None else _UNLABELLED
    # The id contains everything about the boxes: what was said about them, and the rules.
    told = boxes.hashes([(0, rows.num_rows)]) if boxes else []
    id_ = shard_id(of, NO_MODEL, manifest.plan_id, empty, *told, results.detector_id if results else None)

    def make() -> Made:
        if results is None or boxes is None:
            return Made({"predictions": _unlabelled(rows, manifest.number, boxes)}, {"classes": []})
        found = answers(results, rows, boxes, empty)
        made = _labelled(rows, found, manifest.number)
        meta = {"classes": found.classes, "made_by": results.made_by, "detections": boxes.meta}
        return Made({"predictions": made, "crops": found.crops}, meta, found.notes)

    result = do_on_driver(context, of, id_, make, inputs=inputs)
    result.notes += notes
    if results is None:
        result.notes.append("no model: the labels of people are the result")
    return result


def _unlabelled(rows: pa.Table, manifest: int, boxes: Boxes | None) -> pa.Table:
    n = rows.num_rows
    numbers = pa.nulls(n, pa.int32()) if boxes is None else boxes.count()
    return _rows(rows, manifest, {"n_boxes": numbers, "status": pa.repeat("ok", n)})


def _labelled(rows: pa.Table, found: Answer, manifest: int) -> pa.Table:
    source = pa.repeat("results", rows.num_rows)
    columns = {
        "label": found.label,
        "confidence": found.confidence,
        "top5": found.top,
        "source": pa.array(np.where(found.label.is_valid(), source, None), pa.string()),
        "status": found.status,
        "n_boxes": found.n_boxes,
    }
    return _rows(rows, manifest, columns)


def _rows(rows: pa.Table, manifest: int, columns: dict[str, Any]) -> pa.Table:
    n = rows.num_rows
    made = {
        "image_id": rows["image_id"],
        "model_id": pa.repeat(NO_MODEL, n),
        "manifest_snapshot": pa.repeat(pa.scalar(manifest, pa.int32()), n),
        **columns,
    }
    return pa.table(
        [made.get(field.name, pa.nulls(n, field.type)) for field in PREDICTIONS], schema=PREDICTIONS
    )
