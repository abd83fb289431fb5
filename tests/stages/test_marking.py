"""The rows of `detections`, marked by workers, are those that the driver would write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from camtrap_batch.detection.boxes import Repeats, mark_repeats
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.engine.inline import InlineExecutor
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context
from camtrap_batch.stages.detect import marking
from camtrap_batch.store import schemas, snapshots
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import write_table

N = 400


def columns_of(table: str, some: dict[str, Any]) -> pa.Table:
    n = len(next(iter(some.values())))
    return pa.table({name: some.get(name, pa.nulls(n)) for name in schemas.SCHEMAS[table].names})


def commit(run: Run, table: str, rows: pa.Table, ends: list[int]) -> None:
    """A snapshot whose files end at some of its rows."""
    parts = [
        write_table(run.folder, table, f"tables/{table}/p/{start}.parquet", rows.slice(start, stop - start))
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]
    size = sum(part.bytes for part in parts)
    fingerprint = schemas.fingerprint(table)
    made = Snapshot(table, 0, "p", "detect", tuple(parts), rows.num_rows, size, {}, {}, fingerprint, {})
    snapshots.commit(run.folder, made)


def detected(folder: Path, seed: int) -> tuple[Job, Run]:
    """A run folder with boxes: cameras with stumps and animals, images without a location."""
    rng = np.random.default_rng(seed)
    (folder / "job.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "run",
                "output": str(folder),
                "dataset": {"format": "folder", "images": "photos", "location": {"level": 0}},
                "detect": {"model": "none.onnx", "repeat": {"frames": 5, "iou": 0.8}},
            }
        )
    )
    job = Job.load(folder / "job.yaml")
    run = Run(job)
    camera = np.sort(rng.integers(0, 12, N))
    if seed % 2:  # not as a catalog is ordered: a location comes again
        camera[[3, 90, 395]] = camera[[90, 395, 3]]
    location = pa.array([None if one in (0, 5) else f"c{one}" for one in camera.tolist()], pa.string())
    ids = [f"i{number}" for number in range(N)]
    manifest = {"image_id": ids, "file_name": ids, "status": ["ok"] * N, "location": location}
    commit(run, "manifest", columns_of("manifest", manifest), [N])
    n_boxes = rng.integers(0, 5, N)
    n_boxes[:7] = n_boxes[-9:] = 0
    known = pa.array(n_boxes.astype(np.int32), mask=np.arange(N) == 3)  # of one image nothing is known
    commit(run, "detected", columns_of("detected", {"image_id": ids, "n_boxes": known}), [200, N])
    n = int(n_boxes.sum())
    boxes = np.concatenate([rng.uniform(0, 0.6, (n, 2)), rng.uniform(0.05, 0.4, (n, 2))], axis=1)
    stump = rng.random(n) < 0.5
    spots = np.array([[0.1, 0.1, 0.2, 0.2], [0.12, 0.1, 0.2, 0.2], [0.6, 0.5, 0.1, 0.3]])
    boxes[stump] = (spots[rng.integers(0, 3, n)] + rng.normal(0, 0.004, (n, 4)))[stump]
    rows = {
        "image_id": np.repeat(ids, n_boxes),
        **dict(zip("xywh", boxes.astype(np.float32).T, strict=True)),
        "category": rng.choice(["animal", "person"], n),
        "confidence": rng.random(n).astype(np.float32),
    }
    ends = np.cumsum(n_boxes)
    commit(run, "boxes", columns_of("boxes", rows), [int(ends[at]) for at in (60, 61, 130, 222, N - 1)])
    return job, run


@pytest.mark.parametrize("size", [1, 70, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_workers_mark_as_the_driver_does(
    seed: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "_OF_A_SHARD", size)
    job, run = detected(tmp_path, seed)
    assert job.detection is not None
    settings = job.detection[0]
    context = Context(job, run, GivenExecutor(InlineExecutor(), {"CPU": 10**9}))
    notes = marking.mark_on_workers(context, settings, run.snapshot("detected"))
    boxes = run.table("boxes").to_table()
    n_boxes = run.table("detected").to_table()["n_boxes"]
    expected = mark_repeats(settings, run.table("manifest").to_table(), n_boxes, boxes)
    assert expected.repeats.n_spots > 5
    assert notes == expected.repeats.notes()
    found = run.table("detections").to_table()
    assert found["repeat"].fill_null(-1).to_pylist() == expected.number.tolist()
    assert found.drop_columns(["repeat"]).equals(boxes.select(found.column_names[:-1]))
    kept = run.snapshot("detections")
    assert kept.meta["repeats"] == {"threshold": 0.2, **expected.repeats.meta()}
    assert (len(kept.files) == 1) == (size == 10**6)
    shutil.rmtree(tmp_path / "run" / "receipts" / "repeats")  # as gc may do
    nobody = Context(job, run, GivenExecutor(None))  # type: ignore[arg-type]
    assert marking.mark_on_workers(nobody, settings, run.snapshot("detected")) == []
    assert run.snapshot("detections").number == kept.number


def test_parts_are_numbered_one_after_another() -> None:
    first, second = (
        Repeats(boxes, spots, [{"repeat": number, "images": images} for number, images in places])
        for boxes, spots, places in ((30, 2, [(1, 20), (0, 10)]), (40, 2, [(0, 25), (1, 15)]))
    )
    joined = Repeats.joined([first, Repeats(), second])
    assert (joined.boxes, joined.n_spots) == (70, 4)
    assert [(spot["repeat"], spot["images"]) for spot in joined.spots] == [
        (2, 25), (1, 20), (3, 15), (0, 10),
    ]  # fmt: skip
