"""A new event rule on a data set of WCS Camera Traps' size: time and memory of `camtrap merge` and `diff`.

    python benchmarks/merge.py [--images N] [--classes N] [--shuffled] [--scratch DIR]

Written first: a run folder with a manifest (1,369,991 images, 3,911 locations, 179,579 sequences by `seq_id`,
as many images again in none, one image in 50 without a date) and predictions of a model with 12 classes.
Then, each in a process of its own: `camtrap merge`, the same with another `events.gap_min`, which may redo
nothing else and has to be done in seconds, and `camtrap diff` of the two. Peaks are those that the kernel
keeps. All of it is deleted at the end. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch import Job, open_run
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import CATALOG, MANIFEST, PREDICTIONS
from camtrap_batch.store.shards import Plan, Shard
from camtrap_batch.store.tables import commit_plan, finish_shard

IMAGES, LOCATIONS, SEQUENCES = 1_369_991, 3_911, 179_579
MODEL = "0123456789abcdef"
TARGET_S = 30.0
"""For a new gap, wall-clock of the command."""

TARGET_GB = 2.0
_SHARD = 65_536
_SEED = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--classes", type=int, default=12, metavar="N", help="of the model (12)")
    parser.add_argument(
        "--shuffled", action="store_true", help="images in no order, as some metadata has them"
    )
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="merge-") as scratch:
        return measure(Path(scratch), options.images, options.classes, options.shuffled)


def measure(folder: Path, images: int, classes: int, is_shuffled: bool) -> int:
    job = folder / "job.yaml"
    job.write_text(
        f"name: run\noutput: {folder}\n"
        f"dataset: {{format: cct, metadata: none.json, images: {folder}/images}}\n"
    )
    write_run(open_run(Job.load(job)), images, classes, is_shuffled)
    print(f"{images:,} images, {classes} classes")
    for gap_min, name in ((30, "merge"), (60, "merge, another gap")):
        seconds, peak = ran(folder, "merge", job, "--set", f"events.gap_min={gap_min}")
        print(f"camtrap {name:20} {seconds:6.1f} s   peak {peak:5.2f} GB")
    missed = seconds > TARGET_S or peak > TARGET_GB
    print(f"targets for another gap: {TARGET_S:.0f} s, {TARGET_GB:.0f} GB: {'missed' if missed else 'met'}")
    seconds, peak = ran(folder, "diff", job, "--out", str(folder / "diff.html"))
    print(f"camtrap {'diff':20} {seconds:6.1f} s   peak {peak:5.2f} GB")
    return int(missed)


def ran(folder: Path, *command: Any) -> tuple[float, float]:
    """Seconds, and GB at its peak, of a command."""
    began = time.perf_counter()
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "camtrap_batch", *map(str, command)], stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            text = log.read().decode()[-2000:]
            raise SystemExit(f"{command[0]} ended with {process.returncode}: {text}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9


def write_run(run: Run, images: int, n_classes: int, is_shuffled: bool) -> None:
    """A run folder of which everything before `merge` is done."""
    names = ["empty", *(f"genus{number // 4} species{number}" for number in range(n_classes - 1))]
    model = ModelInfo(
        MODEL,
        "resnet34",
        tuple(names),
        tuple((n,) for n in range(n_classes)),
        224,
        (0.5,) * 3,
        (0.2,) * 3,
        1.0,
    )
    run.folder.write(f"models/{MODEL}/model.json", model.to_json().encode())
    manifest, truth = make_manifest(images, n_classes)
    if is_shuffled:
        order = np.random.default_rng(_SEED).permutation(images)
        manifest, truth = manifest.take(pa.array(order)), truth[order]
    catalog = manifest.select([name for name in CATALOG.names if name in manifest.column_names])
    for field in CATALOG:
        if field.name not in catalog.column_names:
            catalog = catalog.append_column(field, pa.nulls(images, field.type))
    catalog = catalog.select(CATALOG.names).cast(CATALOG)
    meta = {"categories": list(enumerate(names)), "notes": {}}
    commit(
        run, "catalog", {"catalog": lambda start, stop: catalog.slice(start, stop - start)}, images, {}, meta
    )
    rows = {"manifest": lambda start, stop: manifest.slice(start, stop - start)}
    commit(run, "validate", rows, images, {"catalog": 1})
    rng = np.random.default_rng(_SEED)

    def predictions(start: int, stop: int) -> pa.Table:
        return make_predictions(rng, manifest["image_id"][start:stop], truth[start:stop], names)

    commit(
        run,
        "infer",
        {"predictions": predictions},
        images,
        {"manifest": 1, "model": MODEL},
        {"classes": names} if "probs" in PREDICTIONS.names else {},
    )


def make_manifest(images: int, n_classes: int) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """The manifest, and the class of each image."""
    rng = np.random.default_rng(_SEED)
    location = np.sort(rng.zipf(1.3, images) % LOCATIONS)
    # Bursts of some frames, hours apart: half of them have a name.
    begins = rng.random(images) < SEQUENCES * 2 / IMAGES
    begins[0] = True
    burst = np.cumsum(begins | np.append(True, np.diff(location) > 0)) - 1
    seconds = np.cumsum(np.where(begins, rng.exponential(5400, images), 1.0))
    time_ = (np.datetime64("2012-01-01", "us") + (seconds % 3e8).astype("timedelta64[s]")).astype(
        "datetime64[us]"
    )
    is_named = burst % 2 == 0
    truth = np.where(rng.random(burst[-1] + 1) < 0.5, 0, rng.integers(0, n_classes, burst[-1] + 1))[burst]
    numbers = np.arange(images)
    columns = {
        "image_id": pa.array([f"{number:08x}-9d52-11eb-{number % 9973:04x}" for number in numbers.tolist()]),
        "file_name": pa.array(
            [
                f"animals/{site:04d}/{number:08d}.jpg"
                for number, site in zip(numbers.tolist(), location.tolist(), strict=True)
            ]
        ),
        "location": pa.array([f"L{site:04d}" for site in location.tolist()]),
        "seq_id": pa.array([f"seq-{number:07d}" for number in burst.tolist()], mask=~is_named),
        "datetime": pa.array(time_, mask=rng.random(images) < 0.02),
        "status": pa.array(np.full(images, "ok", object)).dictionary_encode(),
    }
    missing = {field.name: pa.nulls(images, field.type) for field in MANIFEST if field.name not in columns}
    table = pa.table({**columns, **missing})
    return table.select(MANIFEST.names).cast(MANIFEST), truth


def make_predictions(
    rng: np.random.Generator, image_id: pa.ChunkedArray, truth: np.ndarray[Any, Any], names: list[str]
) -> pa.Table:
    n, width = len(truth), len(names)
    scores = rng.normal(0, 1, (n, width)).astype(np.float32)
    scores[np.arange(n), truth] += 4
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1)[:, :5]
    labels = np.array(names, object)[order]
    top = np.take_along_axis(p, order, axis=1)
    entries = pa.StructArray.from_arrays(
        [pa.array(labels.ravel(), pa.string()), pa.array(top.ravel())],
        fields=list(PREDICTIONS.field("top5").type.value_type),
    )
    columns = {
        "image_id": image_id,
        "label": pa.array(labels[:, 0], pa.string()),
        "confidence": pa.array(top[:, 0]),
        "top5": pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * order.shape[1], pa.int32()), entries),
        "status": pa.repeat("ok", n),
    }
    if "probs" in PREDICTIONS.names:
        values = pa.array(p.ravel()).cast(PREDICTIONS.field("probs").type.value_type)
        columns["probs"] = pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * width, pa.int32()), values)
    missing = {field.name: pa.nulls(n, field.type) for field in PREDICTIONS if field.name not in columns}
    return pa.table({**columns, **missing})


def commit(
    run: Run,
    stage: str,
    make: dict[str, Any],
    rows: int,
    inputs: dict[str, Any],
    meta: dict[str, Any] | None = None,
) -> None:
    """Write a stage's tables as its shards would."""
    starts = range(0, rows, _SHARD)
    plan = Plan.make(
        stage, [Shard(f"{stage}{start}", start, min(start + _SHARD, rows)) for start in starts], inputs
    )
    plan.freeze(run.folder)
    done = [
        finish_shard(
            run.folder,
            (stage, plan.id),
            shard,
            {name: one(shard.start, shard.stop) for name, one in make.items()},
            counts={"ok": shard.rows},
            seconds={},
            started=time.monotonic(),
        )
        for shard in plan.shards
    ]
    commit_plan(run.folder, plan, done, make, inputs=inputs, meta=meta)


if __name__ == "__main__":
    sys.exit(main())
