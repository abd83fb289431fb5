"""Speed of `camtrap validate` beside jpeginfo, a pool of Pillow decodes, and the bare decoder.

    python benchmarks/validate.py [IMAGES]

Copies of the real photos (../shared/real_images) are judged by the whole stage: Dask, hashes, EXIF, Parquet
files and receipts. Prints images/s and the ratio to each peer, measured in this run on all cores of this
machine. The cluster's start is not counted; everything from the plan to the committed snapshot is.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import simplejpeg
from PIL import Image, ImageFile

from camtrap_batch import Job, run_stage
from camtrap_batch.cluster import Local, Workers, open_cluster

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "real_images"
CORES = len(os.sched_getaffinity(0))


def main(images: int = 2000) -> None:
    if not PHOTOS.is_dir():
        print("skipped: the real photos (../shared/real_images) are not there")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = write_images(folder / "images", images)
        size = sum(path.stat().st_size for path in files) / len(files)
        print(f"{len(files)} JPEG files, mean {size / 1000:.0f} kB, {CORES} cores")
        rates = {
            "camtrap validate, no thumbnails": stage_rate(folder, len(files), thumbnails=0),
            "camtrap validate, 256 px thumbnails": stage_rate(folder, len(files), thumbnails=256),
        }
        peers = {
            f"xargs -P{CORES} jpeginfo -c": rate(files, jpeginfo) if shutil.which("jpeginfo") else None,
            "pool of Pillow full decodes": rate(files, in_pool(decode_fully)),
            "limit: pool of bare 1/8 decodes": rate(files, in_pool(decode_eighth)),
        }
    for name, found in rates.items():
        print(f"{name:38} {found:7.0f} images/s")
    for peer, speed in peers.items():
        if speed is None:
            print(f"{peer:38} not installed")
            continue
        ratios = " and ".join(f"{found / speed:.2f}" for found in rates.values())
        print(f"{peer:38} {speed:7.0f} images/s; camtrap is {ratios} times as fast")


def write_images(folder: Path, images: int) -> list[Path]:
    """Copies of the real photos, in folders of 250."""
    sources = sorted(path for path in PHOTOS.rglob("*") if path.suffix.lower() == ".jpg")
    files = [folder / f"{number // 250:04}" / f"{number:06}.jpg" for number in range(images)]
    for number, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[number % len(sources)], path)
    return files


def stage_rate(folder: Path, images: int, *, thumbnails: int) -> float:
    job = Job.model_validate(
        {
            "name": f"thumbnails-{thumbnails}",
            "output": str(folder / "runs"),
            "dataset": {"format": "folder", "images": str(folder / "images"), "location": {"level": 0}},
            "validate": {"thumbnails": thumbnails},
        }
    )
    spec = Local(gpu=Workers(workers=0), dashboard="127.0.0.1:0")
    with open_cluster(spec) as client:
        client.wait_for_workers(CORES)
        run_stage(job, "catalog", client)
        began = time.perf_counter()
        result = run_stage(job, "validate", client)
        seconds = time.perf_counter() - began
    if result.rows != images:
        raise RuntimeError(f"{result.rows} rows for {images} images")
    return images / seconds


def rate(files: list[Path], work: Callable[[list[Path]], None]) -> float:
    began = time.perf_counter()
    work(files)
    return len(files) / (time.perf_counter() - began)


def jpeginfo(files: list[Path]) -> None:
    names = "\0".join(map(str, files)).encode()
    command = ["xargs", "-0", f"-P{CORES}", "-n", "50", "jpeginfo", "-c"]
    # It ends with 1 where it finds a broken file, and some are.
    subprocess.run(command, input=names, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def in_pool(work: Callable[[Path], None]) -> Callable[[list[Path]], None]:
    def run(files: list[Path]) -> None:
        with multiprocessing.Pool(CORES) as pool:
            pool.map(work, files, chunksize=25)

    return run


def decode_fully(path: Path) -> None:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    Image.open(io.BytesIO(path.read_bytes())).load()


def decode_eighth(path: Path) -> None:
    simplejpeg.decode_jpeg(path.read_bytes(), "GRAY", min_height=1, min_width=1, strict=False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
