"""Which damaged JPEG files `camtrap validate` calls ok, beside `jpeginfo -c`.

    python benchmarks/exact.py [FILES] [SEED]

Copies of the real photos (../shared/real_images), each with a random fault (cut off, overwritten, bits
flipped, a hole, bytes put in or repeated, a broken header, padding, emptied, replaced), are judged by both.
Prints who said what, each disagreement, and the longest time and the most memory that a file took. Ends with
1 where they agree on `ok` for less than 99.9 % of the files.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from camtrap_batch.images import Limits, judge
from camtrap_batch.rehearsal.fuzz import spoilt_copies

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "real_images"
CORES = len(os.sched_getaffinity(0))
LEAST = 0.999
LIMITS = Limits(max_pixels=2**33, thumbnail=256)


def main(files: int = 10_000, seed: int = 1) -> int:
    if not PHOTOS.is_dir() or shutil.which("jpeginfo") is None:
        print("skipped: the real photos (../shared/real_images) or jpeginfo (Debian) are not there")
        return 0
    said: Counter[tuple[str, str]] = Counter()
    disagreements: list[str] = []
    longest, peak = 0.0, 0
    with multiprocessing.Pool(CORES) as pool:
        for kind, theirs, ours, detail, seconds, memory in pool.imap(ask_both, copies(files, seed), 20):
            said[theirs, ours] += 1
            longest, peak = max(longest, seconds), max(peak, memory)
            if (theirs == "OK") != (ours == "ok"):
                disagreements.append(f"  {kind}: jpeginfo {theirs}, camtrap {ours} ({detail})")
    for theirs in sorted({theirs for theirs, _ in said}):
        row = {ours: number for (their, ours), number in sorted(said.items()) if their == theirs}
        print(f"jpeginfo {theirs:8} {sum(row.values()):6}: {', '.join(f'{k} {v}' for k, v in row.items())}")
    share = 1 - len(disagreements) / files
    print(f"agree on ok: {files - len(disagreements)} of {files} files, {share:.2%}; seed {seed}")
    print("\n".join(disagreements) or "no disagreement")
    print(f"longest {longest * 1000:.0f} ms, most memory of a process {peak / 1e6:.0f} MB")
    return 0 if share >= LEAST else 1


def copies(files: int, seed: int) -> Iterator[tuple[str, bytes]]:
    originals = [path.read_bytes() for path in sorted(PHOTOS.rglob("*")) if path.suffix.lower() == ".jpg"]
    return spoilt_copies(originals, files, seed)


def ask_both(copy: tuple[str, bytes]) -> tuple[str, str, str, str | None, float, int]:
    kind, data = copy
    began = time.perf_counter()
    verdict = judge(data, "a.jpg", LIMITS)
    seconds = time.perf_counter() - began
    # One run for each: in a run of many, jpeginfo uses tables of one file for the next.
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(data)
        file.flush()
        command = ["jpeginfo", "-c", "-s", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return kind, next(csv.reader([told]))[-2], verdict.status, verdict.detail, seconds, memory


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
