"""Speed of `camtrap validate` beside jpeginfo, a pool of Pillow decodes, and the bare decoder.

    python benchmarks/validate.py [IMAGES] [ROUNDS]

Copies of the real photos (../shared/real_images) are judged by the whole stage: Dask, hashes, EXIF, Parquet
files and receipts. Prints images/s and the ratio to each peer, on all cores of this machine: each is measured
in every round, in turn, and its best round counts. The cluster's start is not counted; everything from the
plan to the committed snapshot is. Ends with 1 where a target is missed.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import simplejpeg
from distributed import Client
from PIL import Image, ImageFile

from camtrap_batch import Job, run_stage
from camtrap_batch.cluster import Local, Workers, open_cluster

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "real_images"
CORES = len(os.sched_getaffinity(0))


def main(images: int = 2000, rounds: int = 3) -> int:
    if not PHOTOS.is_dir():
        print("skipped: the real photos (../shared/real_images) are not there")
        return 0
    missed = 0
    with tempfile.TemporaryDirectory() as scratch, started_cluster() as client:
        folder = Path(scratch)
        files = write_images(folder / "images", images)
        size = sum(path.stat().st_size for path in files) / len(files)
        load = os.getloadavg()[0]
        print(f"{len(files)} JPEG files, mean {size / 1000:.0f} kB, {CORES} cores, load {load:.1f}")
        for path in files:
            path.read_bytes()  # everybody finds them in the page cache
        best: dict[str, float] = {}
        for number in range(rounds):
            found = {
                PLAIN: stage_rate(client, folder, images, f"{number}-plain", thumbnails=0),
                THUMBNAILS: stage_rate(client, folder, images, f"{number}-thumbnails", thumbnails=256),
                **{peer: rate(files, work) for peer, work in PEERS.items() if is_installed(peer)},
            }
            best = {name: max(speed, best.get(name, 0.0)) for name, speed in found.items()}
    for name, speed in best.items():
        print(f"{name:38} {speed:7.0f} images/s")
    for ours, peer, least in TARGETS:
        if peer in best:
            ratio = best[ours] / best[peer]
            missed += ratio < least
            text = "holds" if ratio >= least else "MISSED"
            print(f"{ours:38} {ratio:5.2f} times {peer}, target {least:g}: {text}")
    return 1 if missed else 0


@contextmanager
def started_cluster() -> Iterator[Client]:
    with open_cluster(Local(gpu=Workers(workers=0), dashboard="127.0.0.1:0")) as client:
        client.wait_for_workers(CORES)
        yield client


def write_images(folder: Path, images: int) -> list[Path]:
    """Copies of the real photos, in folders of 250."""
    sources = sorted(path for path in PHOTOS.rglob("*") if path.suffix.lower() == ".jpg")
    files = [folder / f"{number // 250:04}" / f"{number:06}.jpg" for number in range(images)]
    for number, path in enumerate(files):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[number % len(sources)], path)
    return files


def stage_rate(client: Client, folder: Path, images: int, name: str, *, thumbnails: int) -> float:
    job = Job.model_validate(
        {
            "name": name,
            "output": str(folder / "runs"),
            "dataset": {"format": "folder", "images": str(folder / "images"), "location": {"level": 0}},
            # So few images in shards of 500 would leave a core idle at the end.
            "validate": {"thumbnails": thumbnails, "shard_size": 100},
        }
    )
    run_stage(job, "catalog", client)
    began = time.perf_counter()
    result = run_stage(job, "validate", client)
    seconds = time.perf_counter() - began
    if result.rows != images or result.shards_run != result.shards:
        raise RuntimeError(f"{result.rows} rows for {images} images")
    return images / seconds


def is_installed(peer: str) -> bool:
    if peer != JPEGINFO or shutil.which("jpeginfo"):
        return True
    print("jpeginfo (Debian) is not installed")
    return False


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


PLAIN, THUMBNAILS = "camtrap validate, no thumbnails", "camtrap validate, 256 px thumbnails"
JPEGINFO, POOL, LIMIT = (
    f"xargs -P{CORES} jpeginfo -c",
    "pool of Pillow full decodes",
    "pool of bare 1/8 decodes",
)
PEERS = {JPEGINFO: jpeginfo, POOL: in_pool(decode_fully), LIMIT: in_pool(decode_eighth)}
TARGETS = (
    (PLAIN, JPEGINFO, 1.0),
    (THUMBNAILS, JPEGINFO, 0.9),
    (PLAIN, POOL, 2.0),
    (PLAIN, LIMIT, 0.85),
)

if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
