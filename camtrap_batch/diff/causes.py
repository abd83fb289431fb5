"""What made two results of `merge` differ: model, detector, rules, images, or what people said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table
from camtrap_batch.vocabulary import counted

_RULES = {
    "gap_min": "events.gap_min",
    "min_confidence": "infer.min_confidence",
    "taxonomy": "events.taxonomy",
    "species": "events.species",
    "effort": "events.effort",
    "empty": "the class that means empty",
}
"""Key in the meta of a result's snapshot -> text on the key of the job, for people."""

_SAID = ("label", "count", "sex", "life_stage", "behaviour", "individual")


def find_causes(before: MergeResult, after: MergeResult) -> list[str]:
    """Sentences for people, the most likely cause first; at least one."""
    if before.snapshot.number == after.snapshot.number:
        return ["Nothing: both are the same result."]
    run = after.run
    predictions = [_predictions(run, merged) for merged in (before, after)]
    found = [
        *_model(before, after),
        *_detector(run, predictions),
        *_rules(before.snapshot.meta, after.snapshot.meta),
        *_corrections(before, after),
        *_images(before, after),
        *_cameras(before, after),
    ]
    found += _decided(before, after)
    if not found and before.snapshot.inputs["predictions"] != after.snapshot.inputs["predictions"]:
        found.append("The images were classified again, with the same model.")
    return found or ["Nothing that is recorded: another version of camtrap-batch made the second one."]


def _predictions(run: Run, merged: MergeResult) -> Snapshot:
    return run.snapshot("predictions", merged.snapshot.inputs["predictions"])


def _model(before: MergeResult, after: MergeResult) -> Iterator[str]:
    one, other = (str(merged.snapshot.inputs["model"]) for merged in (before, after))
    if one != other:
        yield f"Model: {one} before, {other} after."


def _detector(run: Run, predictions: list[Snapshot]) -> Iterator[str]:
    detectors, thresholds = [], []
    for snapshot in predictions:
        number = snapshot.inputs.get("detected")
        detected = run.snapshot("detected", number) if isinstance(number, int) else None
        detectors.append(detected.inputs.get("detector") if detected is not None else None)
        thresholds.append((snapshot.meta.get("detections") or {}).get("threshold"))
    if detectors[0] != detectors[1]:
        one, other = (name or "none" for name in detectors)
        yield f"Detector: {one} before, {other} after."
    elif thresholds[0] != thresholds[1]:
        yield f"detect.threshold: {_value(thresholds[0])} before, {_value(thresholds[1])} after."


def _rules(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key, name in _RULES.items():
        one, other = before.get(key), after.get(key)
        if one != other:
            yield (
                f"{name}: a different one."
                if isinstance(one, dict) and isinstance(other, dict)
                else f"{name}: {_value(one)} before, {_value(other)} after."
            )


def _corrections(before: MergeResult, after: MergeResult) -> Iterator[str]:
    one, other = (_said_by_people(merged) for merged in (before, after))
    if one != other:
        yield f"Corrections: {counted(one, 'images')} with labels of people before, {other:,} after."
    elif n := _differing(before, after, "frames", "image_id", _SAID, pc.field("label_source") == "human"):
        yield f"Corrections: people now say something else about {counted(n, 'images')}."


def _cameras(before: MergeResult, after: MergeResult) -> Iterator[str]:
    if n := _differing(before, after, "locations", "location", ("longitude", "latitude")):
        yield f"Cameras: {counted(n, 'cameras')} with other coordinates."
    if n := _differing(before, after, "locations", "location", ("camera_days", "effort_source")):
        yield f"Effort: {counted(n, 'cameras')} with other camera days."


def _differing(
    before: MergeResult,
    after: MergeResult,
    name: str,
    key: str,
    columns: Sequence[str],
    rows: pc.Expression | None = None,
) -> int:
    """How many rows, known by `key`, both results have, with another value in one of `columns`."""
    tables = [merged.table(name) for merged in (before, after)]
    there = [column for column in columns if all(column in table.schema.names for table in tables)]
    one, other = (table.to_table(columns=[key, *there], filter=rows) for table in tables)
    at = pc.index_in(other[key], value_set=one[key].combine_chunks())
    other, one = other.filter(at.is_valid()), one.take(at.drop_null())
    differs = np.zeros(other.num_rows, bool)
    for column in there:
        same = pc.equal(one[column], other[column])
        both_null = pc.and_(one[column].is_null(), other[column].is_null())
        differs |= ~pc.or_(pc.fill_null(same, False), both_null).to_numpy().astype(bool)
    return int(differs.sum())


def _decided(before: MergeResult, after: MergeResult) -> Iterator[str]:
    """What two models say about images that people had decided, which keep people's labels."""
    if before.snapshot.inputs["model"] == after.snapshot.inputs["model"] or not _said_by_people(after):
        return
    frames = after.table("frames").to_table(
        columns=["image_id", "label"], filter=pc.field("label_source") == "human"
    )
    right = []
    for merged in (before, after):
        predicted = _predictions(merged.run, merged)
        said = open_table(merged.run.folder, predicted).to_table(columns=["image_id", "label"])
        row = pc.index_in(frames["image_id"], value_set=said["image_id"].combine_chunks())
        same = pc.equal(pc.utf8_lower(said["label"].take(row)), pc.utf8_lower(frames["label"]))
        right.append(pc.sum(pc.fill_null(same, False)).as_py() or 0)
    n = frames.num_rows
    yield (
        f"Of {n:,} images that people had decided, and that keep their labels, the earlier model says the "
        f"same about {right[0]:,} ({right[0] / n:.1%}), "
        f"the later one about {right[1]:,} ({right[1] / n:.1%})."
    )


def _said_by_people(merged: MergeResult) -> int:
    table = merged.table("frames")
    if "label_source" not in table.schema.names:
        return 0
    return int(table.count_rows(filter=pc.field("label_source") == "human"))


def _images(before: MergeResult, after: MergeResult) -> Iterator[str]:
    one, other = (merged.snapshot.inputs["manifest"] for merged in (before, after))
    if one != other:
        rows = [
            merged.run.snapshot("manifest", number).rows for merged, number in ((before, one), (after, other))
        ]
        yield f"Images: snapshot {one} of the manifest ({rows[0]:,}) before, {other} ({rows[1]:,}) after."


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return (
        "given"
        if isinstance(value, dict | list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
