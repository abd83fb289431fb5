"""Runs made by hand for exports: images at cameras that stand somewhere, and what `merge` makes of them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import support_runs
from support_runs import Row, commit, run_on_driver

from camtrap_batch import open_run
from camtrap_batch.exports import EXPORTS, ExportInput, Images, Written, write_export
from camtrap_batch.store.run import Run

FORMATS = tuple(EXPORTS)
MODEL = "0123456789abcdef"
START = dt.datetime(2021, 4, 11, 20, 0)
Places = dict[str, tuple[float, float]]
"""Location -> longitude and latitude."""


def image(image_id: str, seconds: float | None = 0, label: str | None = "lion", **other: Any) -> Row:
    """An image of location A, taken this many seconds after START; the model is 80 % sure of its label."""
    row = {
        "image_id": image_id,
        "file_name": f"{image_id}.jpg",
        "location": "A",
        "datetime": None if seconds is None else START + dt.timedelta(seconds=seconds),
        "status": "ok",
        "format": "JPEG",
        "width": 2048,
        "height": 1536,
        "probs": None if label is None else {label: 0.8, ("lion" if label != "lion" else "empty"): 0.2},
    }
    return row | other


def write_run(
    folder: Path,
    rows: list[Row],
    *,
    places: Places | None = None,
    cameras: str = "cameras.geojson",
    about: dict[str, Any] | None = None,
    **settings: Any,
) -> Run:
    """A run folder with the images of `rows`, whole; its job file is `folder`/job.yaml."""
    features = [
        {"geometry": {"type": "Point", "coordinates": place}, "properties": {"location": location}}
        for location, place in (places or {"A": (31.5, -24.25), "B": (0.0, 51.5)}).items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.geojson").write_text(json.dumps({"features": features}), encoding="utf-8")
    job = support_runs.write_run(
        folder,
        rows,
        dataset={"cameras": cameras, **({} if about is None else {"about": about})},
        select={"empty": {"class": "empty"}},
        categories=[[0, "empty"], [7, "lion"], [7, "lion"], [24, "oryx"]],
        **settings,
    )
    predict(job, rows)
    return open_run(job)


def predict(job: Path, rows: list[Row]) -> None:
    """A snapshot of predictions, and what merge makes of it."""
    support_runs.predict(job, {row["image_id"]: row["probs"] for row in rows}, MODEL)
    run_on_driver(job, "merge")


def add_boxes(job: Path, boxes: list[Row], threshold: float) -> None:
    """The predictions again, with boxes that belong to them, and what merge makes of it."""
    run = open_run(job)
    before = run.snapshot("predictions")
    numbers: dict[str, int] = {}
    crops = []
    for box in boxes:
        number = numbers[box["image_id"]] = numbers.get(box["image_id"], -1) + 1
        if box.get("label") is not None:
            crops.append({**box, "box": number, "confidence": box["label_confidence"], "top5": []})
    commit(run, "detect", "detections", boxes, {})
    commit(run, "infer", "crops", crops, {})
    commit(
        run,
        "infer",
        "predictions",
        run.table("predictions").to_table().to_pylist(),
        {**before.inputs, **{name: run.snapshot(name).number for name in ("detections", "crops")}},
        detections={"threshold": threshold},
    )
    run_on_driver(job, "merge")


def images_of(run: Run, number: int | None = None, **options: Any) -> Images:
    return Images(run, ExportInput.find(run, number), **options)


def export(images: Images, to: str, path: Path, **options: Any) -> Written:
    """What `camtrap export --to TO --out PATH` writes."""
    return write_export(EXPORTS[to], images, path, options)
