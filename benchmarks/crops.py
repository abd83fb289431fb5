"""What is gained by training on crops: the demo's job on crops and on whole frames, with the same split.

    python benchmarks/crops.py [--images N] [--scratch DIR]

Draws the demo's data set, and does its job as far as `detect`. Then selects and trains twice, on whole frames
and on crops of the detector's boxes. Both models are judged by the labels of images of the same cameras that
neither has seen: that of crops by what the rules for boxes make of them. They are drawings, not photographs.
Ends with 1 where crops are no better.
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

from scale import CAMTRAP, CORES, Report

from camtrap_batch import Job, open_run
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.rehearsal.demo import CAMERAS, IMAGES, write_demo_job


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}, as the demo"
    )
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="crops-") as scratch:
        return compare(Path(scratch) / "demo", options.images)


def compare(folder: Path, images: int) -> int:
    report = Report()
    job = write_demo_job(folder)
    print(
        f"{images:,} drawings of {CAMERAS} cameras, {CORES} cores, load {os.getloadavg()[0]:.1f}", flush=True
    )
    with report.timed("data set drawn"):
        write_dataset(folder / "data", cameras=CAMERAS, images=images)
    with report.timed("catalog, validate, detect"):
        for stage in ("catalog", "validate", "detect"):
            camtrap(job, stage)
    judged: dict[str, dict[str, Any]] = {}
    splits: dict[str, dict[str, str]] = {}
    for on in ("frames", "crops"):
        began = time.perf_counter()
        for stage in ("select", "train"):
            camtrap(job, stage, f"train.on={on}")
        seconds = time.perf_counter() - began
        judged[on], splits[on] = what_is_there(job, on)
        valid = judged[on]["valid"]
        report.line(
            f"{on}: balanced accuracy on unseen cameras",
            f"{valid['balanced_accuracy']:.3f}, accuracy {valid['accuracy']:.3f}, {valid['n_images']:,} "
            f"images of {valid['n_locations']} cameras; selected and trained in {seconds:.1f} s",
        )
    if splits["frames"] != splits["crops"]:
        raise SystemExit("the two splits differ: the figures can't be compared")
    by_crop = judged["crops"]["valid"]["by_crop"]
    report.line("crops: balanced accuracy by crop", f"{by_crop['balanced_accuracy']:.3f}")
    errors = [1 - judged[on]["valid"]["balanced_accuracy"] for on in ("crops", "frames")]
    report.target("errors on crops, of those on frames", errors[0] / max(errors[1], 1e-9), 0.99, "{:.2f}")
    return report.end()


def camtrap(job: Path, stage: str, *assignments: str) -> None:
    settings = [part for each in assignments for part in ("--set", each)]
    subprocess.run([*CAMTRAP, stage, str(job), "--quiet", "--cluster", "inline", *settings], check=True)


def what_is_there(job: Path, on: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of the model that was trained last, and the split of each selected image."""
    run = open_run(Job.load(job, [f"train.on={on}"]))
    model = run.snapshot("model").meta["model_id"]
    metrics: dict[str, Any] = json.loads(run.folder.read(f"models/{model}/metrics.json"))
    rows = run.table("selection").to_table(columns=["image_id", "split"])
    splits = zip(rows["image_id"].to_pylist(), rows["split"].to_pylist(), strict=True)
    return metrics, {image_id: split for image_id, split in splits if split is not None}


if __name__ == "__main__":
    sys.exit(main())
