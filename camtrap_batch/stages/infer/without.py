"""infer without a model (`infer.model: none`): the answer is what people, or another program's results, say.

Where `detect.results` has species, they are the predictions: a machine's labels, by the rules for boxes that
docs/inference.md has. Else those are what a machine has observed by the metadata (Camtrap DP), where no
person has; images of which neither is known have a row without a label. `merge` takes the labels of people.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import one_chunk
from camtrap_batch.detection.base import Answer, SpeciesDetector
from camtrap_batch.detection.boxes import Boxes, find_boxes
from camtrap_batch.detection.library import open_detector
from camtrap_batch.errors import InputError
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Part, StageResult, TableSpec, shard_id
from camtrap_batch.selection.classes import empty_of_data_set
from camtrap_batch.store.manifest import categories_of, usable_rows
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import PREDICTIONS
from camtrap_batch.store.shards import digest
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.vocabulary import FROM_METADATA, NO_MODEL, plural

_TABLES = (TableSpec("predictions", "each usable image of the manifest"), TableSpec("crops", "each box"))
_LABELLED = Part("infer", 3, _TABLES, "manifest")
_UNLABELLED = Part("infer", 3, _TABLES[:1], "manifest")
_READ = ["image_id", "file_name", "status", "location", "video_s"]
_MOST_NAMED = 5


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
    boxes, results, observed = None, None, None
    if job.detection is not None:
        settings, key = job.detection
        detector = open_detector(job, settings, key)
        results = detector if isinstance(detector, SpeciesDetector) and detector.classified_by else None
        try:
            boxes = find_boxes(settings, run, rows, empty)
        except InputError:
            if not context.dry_run or run.current("detected") is not None:
                raise
            return StageResult("infer", notes=["how much there is to do can't be said before detect", *notes])
        inputs |= {name: run.snapshot(name).number for name in ("detected", "detections")}
    of = _LABELLED if results is not None else _UNLABELLED
    if results is None:
        observed = _observed(run, catalog, rows["image_id"])
    # What the boxes come to is in the id: what was said of them, and the rules.
    told = boxes.hashes([(0, rows.num_rows)]) if boxes else []
    more = [digest(observed.to_pylist())] if observed is not None else []
    id_ = shard_id(
        of, NO_MODEL, manifest.plan_id, empty, *told, results.detector_id if results else None, *more
    )

    def make() -> Made:
        if observed is not None:
            made = _by_metadata(rows, observed, manifest.number, boxes)
            (by, _), *_ = Counter(observed["labelled_by"].to_pylist()).most_common(1)
            names = {name for some in observed["names"].to_pylist() for name in some}
            meta = {"classes": sorted({*names, empty}), "made_by": by, FROM_METADATA: True}
            return Made({"predictions": made}, meta)
        if results is None or boxes is None:
            return Made({"predictions": _unlabelled(rows, manifest.number, boxes)}, {"classes": []})
        found = results.answers(rows, boxes, empty)
        made = _labelled(rows, found, manifest.number)
        meta = {"classes": found.classes, "made_by": results.classified_by, "detections": boxes.meta}
        return Made({"predictions": made, "crops": found.crops}, meta, found.notes)

    result = do_on_driver(context, of, id_, make, inputs=inputs)
    result.notes += notes
    if observed is not None:
        result.notes.append(
            f"no model: the labels of people are the result, and of "
            f"{plural(observed.num_rows, 'image')} that no person labelled those of a machine, as the "
            "metadata have them"
        )
    elif results is None:
        result.notes.append("no model: the labels of people are the result")
    return result


def _observed(run: Run, catalog: Snapshot, usable: pa.ChunkedArray) -> pa.Table | None:
    """What the metadata say that a machine has observed: row (of the usable images), names, labelled_by,
    label_p; None: nothing."""
    columns = ["image_id", "labels", "labelled_by", "label_p"]
    table = run.table("catalog", catalog.number)
    found = table.to_table(columns=columns, filter=pc.field("labelled_by").is_valid())
    row = one_chunk(pc.index_in(found["image_id"], one_chunk(usable)))
    found, row = found.filter(row.is_valid()), row.drop_null()
    if not found.num_rows:
        return None
    names = [[mark["name"] for mark in marks] for marks in found["labels"].to_pylist()]
    return pa.table({"row": row, "names": names, **{name: found[name] for name in columns[2:]}})


def _by_metadata(rows: pa.Table, observed: pa.Table, manifest: int, boxes: Boxes | None) -> pa.Table:
    """A machine's observations as predictions; one that does not say how sure it is, is taken to be."""
    n = rows.num_rows
    observation = np.full(n, -1)
    observation[observed["row"].to_numpy()] = np.arange(observed.num_rows)
    take = pa.array(observation, mask=observation < 0)
    p = one_chunk(pc.fill_null(observed["label_p"], 1.0))
    told = zip(observed["names"].to_pylist(), p.to_pylist(), strict=True)
    tops = [[{"label": name, "p": sure} for name in names[:_MOST_NAMED]] for names, sure in told]
    columns = {
        "label": pa.array([top[0]["label"] for top in tops], pa.string()).take(take),
        "confidence": p.take(take),
        "top5": pa.array(tops, PREDICTIONS.field("top5").type).take(take),
        "source": pc.if_else(pa.array(observation < 0), pa.scalar(None, pa.string()), "metadata"),
        "status": pa.repeat("ok", n),
        "n_boxes": pa.nulls(n, pa.int32()) if boxes is None else boxes.count(),
    }
    return _rows(rows, manifest, columns)


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
