"""Runs made by hand: a few images, all tables of their run, sequences and events by the real rules."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa

from camtrap_batch import Job
from camtrap_batch.events import combine, find_events, summarise
from camtrap_batch.model.info import CARD, ModelInfo
from camtrap_batch.store import schemas, snapshots
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import new_attempt, write_table

MODEL = "0123456789abcdef"
START = dt.datetime(2021, 4, 11, 20, 0)
Row = dict[str, Any]
Places = dict[str, tuple[float, float]]
"""Location -> longitude and latitude."""


def image(image_id: str, seconds: float | None = 0, label: str | None = "lion", **other: Any) -> Row:
    """An image of location A, taken so many seconds after START; the model is 80 % sure of its label."""
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
    gap_min: float = 30,
) -> Run:
    """A run folder with the images of `rows`, whole; its job file is `folder`/job.yaml."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "job.yaml").write_text(
        f"name: made\noutput: {folder}/runs\ndataset: {{format: folder, images: images}}\n"
    )
    run = Run(Job.load(folder / "job.yaml"))
    categories = {"categories": [[0, "empty"], [7, "lion"], [7, "lion"], [24, "oryx"]]}
    commit(run, "catalog", rows, "c", {}, meta=categories)
    commit(run, "manifest", rows, "m", {"catalog": 1})
    card = ModelInfo(
        MODEL, "resnet18", ("empty", "lion", "oryx"), ((0,), (7,), (24,)), 224, (0, 0, 0), (1, 1, 1), 1.0
    )
    run.folder.write(f"models/{MODEL}/{CARD}", card.to_json().encode())
    predict(run, rows, places=places, gap_min=gap_min)
    return run


def predict(run: Run, rows: list[Row], *, places: Places | None = None, gap_min: float = 30) -> int:
    """A snapshot of predictions, in another order than the images, and what merge makes of it."""
    usable = [row for row in rows if row["status"] in schemas.USABLE]
    tops = [
        None
        if row["probs"] is None
        else [{"label": label, "p": p} for label, p in sorted(row["probs"].items(), key=lambda one: -one[1])]
        for row in usable
    ]
    predictions = [
        {
            "image_id": row["image_id"],
            "model_id": MODEL,
            "label": top[0]["label"] if top else None,
            "confidence": top[0]["p"] if top else None,
            "top5": top,
            "status": "ok" if top else "crashed",
            "manifest_snapshot": 1,
        }
        for row, top in zip(usable, tops, strict=True)
    ]
    number = len(snapshots.numbers(run.folder, "predictions")) + 1
    inputs = {"manifest": 1, "model": MODEL}
    commit(run, "predictions", predictions[::-1], f"p{number}", inputs, files=3)
    frames = table_of("manifest", usable).select(["image_id", "location", "seq_id", "datetime"])
    for name in ("label", "confidence", "top5"):
        kind = schemas.PREDICTIONS.field(name).type
        frames = frames.append_column(name, pa.array([one[name] for one in predictions], kind))
    sequences = combine(frames, empty="empty", min_confidence=0.5)
    events = find_events(sequences.frames, empty="empty", gap_min=gap_min)
    cameras = {"A": (31.5, -24.25), "B": (0.0, 51.5)} if places is None else places
    locations = summarise(
        table_of("manifest", rows).select(["location", "status", "datetime"]),
        sequences.sequences,
        events.events,
        pa.table(
            {
                "location": pa.array(list(cameras), pa.string()),
                "longitude": pa.array([at[0] for at in cameras.values()], pa.float64()),
                "latitude": pa.array([at[1] for at in cameras.values()], pa.float64()),
            }
        ),
        empty="empty",
        model_id=MODEL,
        predictions_snapshot=number,
        run_time=dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    )
    made = {"sequences": sequences.sequences, "events": events.events, "locations": locations}
    for name, table in made.items():
        commit(run, name, table, f"l{number}", {"manifest": 1, "predictions": number})
    return number


def commit(
    run: Run,
    name: str,
    rows: list[Row] | pa.Table,
    plan_id: str,
    inputs: dict[str, Any],
    *,
    meta: dict[str, Any] | None = None,
    files: int = 1,
) -> None:
    """A snapshot of a table, in so many files."""
    table = rows if isinstance(rows, pa.Table) else table_of(name, rows)
    size = max(-(-table.num_rows // files), 1)
    written = tuple(
        write_table(
            run.folder, name, f"tables/{name}/{plan_id}/{new_attempt()}.parquet", table.slice(at, size)
        )
        for at in range(0, max(table.num_rows, 1), size)
    )
    snapshots.commit(
        run.folder,
        Snapshot(
            table=name,
            number=0,
            plan_id=plan_id,
            stage=name,
            files=written,
            rows=table.num_rows,
            bytes=sum(file.bytes for file in written),
            counts={},
            inputs=inputs,
            schema=schemas.fingerprint(name),
            meta=meta or {},
        ),
    )


def table_of(name: str, rows: list[Row]) -> pa.Table:
    schema = schemas.SCHEMAS[name]
    return pa.table(
        {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema},
        schema=schema,
    )
