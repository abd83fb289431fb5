"""A comparison as one CSV file: one line for each difference, distinguished by the column `part`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from camtrap_batch.diff.compare import Accuracy, Diff, LabelChange

COLUMNS = ("part", "location", "label", "measure", "before", "after", "n")
"""Parts: cause (what made the two differ, in `measure`), flow (n images had the label `before` and have
`after`, equal ones too), label, camera (of those that changed), event (n images; `before` is the start of a
lost one, `after` of a gained one), accuracy (how many of the n images of a class, or of all, are right, ...).
"""


def write_csv(diff: Diff, path: Path) -> None:
    """Write the comparison to `path`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_lines(diff))


def _lines(diff: Diff) -> Iterator[tuple[object, ...]]:
    for cause in diff.causes:
        yield "cause", "", "", cause, "", "", ""
    for flow in diff.flow:
        yield "flow", "", "", "images", flow.before, flow.after, flow.images
    for label in diff.labels:
        for measure, before, after in _label_measures(label):
            yield "label", "", label.label, measure, before, after, ""
    for camera in diff.cameras:
        for measure in ("top", "richness", "events"):
            values = (getattr(camera, f"{measure}_{side}") for side in ("before", "after"))
            yield (
                "camera",
                camera.location,
                "",
                measure,
                *("" if value is None else value for value in values),
                "",
            )
    for event in diff.events:
        period = ("", event.start) if event.change == "gained" else (event.start, "")
        yield "event", event.location, event.label, event.change, *period, event.n_images
    for row, is_class in [*((row, False) for row in diff.accuracy), *((row, True) for row in diff.by_class)]:
        for measure, before, after in accuracy_measures(row):
            name = row.of if is_class else ""
            kind = measure if is_class else f"{measure}, {row.of}"
            yield "accuracy", "", name, kind, before, after, row.images


def _label_measures(row: LabelChange) -> Iterator[tuple[str, object, object]]:
    yield "images", row.images_before, row.images_after
    yield "events", row.events_before, row.events_after
    yield "events lost", row.lost, ""
    yield "events gained", "", row.gained
    yield "events split", row.split, ""
    yield "events joined", "", row.joined


def accuracy_measures(row: Accuracy) -> Iterator[tuple[str, int, int]]:
    """Name, and images before and after, of each possible outcome for a label."""
    yield "right", row.right_before, row.right_after
    yield "group", row.group_before, row.group_after
    yield "uncertain", row.uncertain_before, row.uncertain_after
