"""The report of a data set of WCS Camera Traps' size, from its tables: time, memory and size.

    python benchmarks/report.py [--images N] [--scratch DIR]

Written first, as `benchmarks/merge.py` does: a run folder with a manifest (1,369,991 images at 3,911 camera
locations) and predictions of 60 classes; then `camtrap merge`, with a place for each camera. Measured:
`camtrap report` without photos, which are extra and limited by `report.photos`. Ends with 1 where it takes
more than two minutes, or its files have more than 20 MB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from merge import IMAGES, LOCATIONS, ran, write_run

from camtrap_batch import Job, open_run

TARGET_S = 120.0
TARGET_MB = 20.0
_CLASSES = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="report-") as scratch:
        return measure(Path(scratch), options.images)


def measure(folder: Path, images: int) -> int:
    job = folder / "job.yaml"
    job.write_text(
        f"name: run\noutput: {folder}\nreport: {{photos: 0}}\n"
        f"dataset: {{format: cct, metadata: none.json, images: {folder}/images, cameras: cameras.csv}}\n"
    )
    rng = np.random.default_rng(1)
    places = zip(rng.uniform(28, 40, LOCATIONS), rng.uniform(-20, 5, LOCATIONS), strict=True)
    lines = [f"L{number:04d},{x:.5f},{y:.5f}" for number, (x, y) in enumerate(places)]
    (folder / "cameras.csv").write_text("\n".join(["location,longitude,latitude", *lines]))
    run = open_run(Job.load(job))
    write_run(run, images, _CLASSES, False)
    seconds, peak = ran(folder, "merge", job)
    events, cameras = run.snapshot("events").rows, run.snapshot("locations").rows
    print(f"{images:,} images, {cameras:,} cameras, {events:,} events")
    print(f"camtrap merge   {seconds:6.1f} s   peak {peak:5.2f} GB")
    seconds, peak = ran(folder, "report", job)
    files = [path for path in run.folder.local("report").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"camtrap report  {seconds:6.1f} s   peak {peak:5.2f} GB   {size:.1f} MB in {len(files)} files")
    missed = seconds > TARGET_S or size > TARGET_MB
    print(f"targets: {TARGET_S:.0f} s, {TARGET_MB:.0f} MB: {'missed' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
