"""What is gained by training on crops: the demo's job on crops and on whole frames, with the same splits.

    python benchmarks/crops.py [--images N] [--splits N] [--seconds S] [--scratch DIR]

Draws a data set like the demo's, of half its size, and does the demo's job as far as `detect`. Then selects
and trains twice for each of several splits, on whole frames and on crops of the detector's boxes. Both
models are judged by the labels of images of the same cameras that neither has seen: that of crops by what
the rules for boxes make of them. Printed are both balanced accuracies for each split, their means, and the
mean difference with a 95 % interval (paired, Student's t over splits). They are drawings, not photographs.
No split begins that would not end within `--seconds`. Ends with 1 where crops are no better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scale import CAMTRAP, CORES, Report

from camtrap_batch import Job, open_run
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.rehearsal.demo import CAMERAS, IMAGES, write_demo_job


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images", type=int, default=IMAGES // 2, metavar="N", help=f"default: {IMAGES // 2:,}"
    )
    parser.add_argument("--splits", type=int, default=5, metavar="N", help="most splits (5)")
    parser.add_argument("--seconds", type=float, default=340, metavar="S", help="for all of it (340)")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="crops-") as scratch:
        return compare(Path(scratch) / "demo", options.images, options.splits, options.seconds)


def compare(folder: Path, images: int, splits: int, seconds: float) -> int:
    report, began = Report(), time.perf_counter()
    job = write_demo_job(folder)
    print(
        f"{images:,} drawings of {CAMERAS} cameras, {CORES} cores, load {os.getloadavg()[0]:.1f}", flush=True
    )
    with report.timed("data set drawn"):
        write_dataset(folder / "data", cameras=CAMERAS, images=images)
    with report.timed("catalog, validate, detect"):
        for stage in ("catalog", "validate", "detect"):
            camtrap(job, stage)
    found: dict[str, list[float]] = {"frames": [], "crops": []}
    longest = 0.0
    for seed in range(1, splits + 1):
        started = time.perf_counter()
        if len(found["crops"]) > 1 and started - began + longest > seconds:
            report.line("no time for more splits", f"{seconds:.0f} s in all")
            break
        one_split(report, job, seed, found)
        longest = max(longest, time.perf_counter() - started)
    frames, crops = (np.array(found[on]) for on in ("frames", "crops"))
    for on, values in (("frames", frames), ("crops", crops)):
        low, high = interval(values)
        report.line(f"{on}: mean balanced accuracy", f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
    low, high = interval(crops - frames)
    mean = float((crops - frames).mean())
    report.line("crops less frames", f"{mean:+.3f} ({low:+.3f} to {high:+.3f}), {len(crops)} splits")
    report.target(
        "errors on crops, of those on frames", (1 - crops.mean()) / (1 - frames.mean()), 0.99, "{:.2f}"
    )
    report.line("all of it", f"{time.perf_counter() - began:.0f} s")
    return report.end()


def one_split(report: Report, job: Path, seed: int, found: dict[str, list[float]]) -> None:
    """Train on frames and on crops with one split, and add their balanced accuracies."""
    splits: dict[str, dict[str, str]] = {}
    figures: dict[str, float] = {}
    for on in ("frames", "crops"):
        began = time.perf_counter()
        for stage in ("select", "train"):
            camtrap(job, stage, f"train.on={on}", f"select.seed={seed}")
        metrics, splits[on] = what_is_there(job, on)
        valid = metrics["valid"]
        figures[on] = valid["balanced_accuracy"]
        by_crop = f", by crop {valid['by_crop']['balanced_accuracy']:.3f}" if on == "crops" else ""
        report.line(
            f"split {seed}, {on}: balanced accuracy",
            f"{figures[on]:.3f}{by_crop}; {valid['n_images']:,} images of {valid['n_locations']} unseen "
            f"cameras; {time.perf_counter() - began:.0f} s",
        )
    if splits["frames"] != splits["crops"]:
        raise SystemExit("the two splits differ: the figures can't be compared")
    for on, value in figures.items():
        found[on].append(value)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, by Student's t; of a single value nothing is known."""
    from scipy import stats

    if len(values) < 2:
        return float("-inf"), float("inf")
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - reach), float(values.mean() + reach)


def camtrap(job: Path, stage: str, *assignments: str) -> None:
    settings = [part for each in assignments for part in ("--set", each)]
    subprocess.run([*CAMTRAP, stage, str(job), "--quiet", "--cluster", "inline", *settings], check=True)


def what_is_there(job: Path, on: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of the model that was trained last, and the split of each selected image."""
    run = open_run(Job.load(job, [f"train.on={on}"]))
    trained = run.current("model")
    assert trained is not None
    model = trained.meta["model_id"]
    metrics: dict[str, Any] = json.loads(run.folder.read(f"models/{model}/metrics.json"))
    rows = run.table("selection").to_table(columns=["image_id", "split"])
    splits = zip(rows["image_id"].to_pylist(), rows["split"].to_pylist(), strict=True)
    return metrics, {image_id: split for image_id, split in splits if split is not None}


if __name__ == "__main__":
    sys.exit(main())
