"""The review page on a data set of WCS Camera Traps' size: how soon it is there.

    python benchmarks/review_page.py [--images N] [--rounds 3] [--scratch DIR]

Written first, as `benchmarks/merge.py` does: a run folder with a manifest (1,369,991 images at 3,911 camera
locations) and predictions of 60 classes; then `camtrap merge`. Measured of `camtrap review`, in each round:
from the command to its link; from the link to all that the first sequence wants (the list, the sequence, and
what its photo is blurred by); to the next page of the list, for which all is read; a sequence and a decision
after that. The photos themselves are not there. Ends with 1 where the first sequence takes more than 2 s from
the link on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from merge import IMAGES, ran, write_run

from camtrap_batch import Job, open_run

TARGET_S = 2.0
_CLASSES = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="review-") as scratch:
        folder = Path(scratch)
        job = folder / "job.yaml"
        job.write_text(
            f"name: run\noutput: {folder}\n"
            f"dataset: {{format: cct, metadata: none.json, images: {folder}/images}}\n"
        )
        write_run(open_run(Job.load(job)), options.images, _CLASSES, False)
        seconds, peak = ran(folder, "merge", job)
        print(f"camtrap merge: {seconds:.1f} s, {peak:.2f} GB")
        first = [measure(job) for _ in range(options.rounds)]
    missed = min(first) > TARGET_S
    print(f"first sequence, least of {len(first)}: {min(first):.2f} s; target {TARGET_S:.0f} s: "
          f"{'missed' if missed else 'met'}")  # fmt: skip
    return int(missed)


def measure(job: Path) -> float:
    """Prints the times of one round; returns seconds from the link to the first sequence."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "camtrap_batch", "review", str(job), "--who", "ada"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = next(found[0] for line in process.stdout if (found := re.findall(r"http\S+", line)))
        started = time.perf_counter()
        with urllib.request.urlopen(link) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]

        def ask(path: str, body: Any = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Cookie": cookie, "X-Camtrap-Review": "1"}
            request = urllib.request.Request(re.sub(r"/\?.*", path, link), data, headers)
            try:
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
            except urllib.error.HTTPError:  # a photo that is not there
                return None
            return json.loads(content)

        ask("/api/start")
        shown = ask("/api/list?order=useful")
        number = shown["items"][0]["number"]
        ask(f"/api/item/{number}")
        ask(f"/photo/{number}.0")
        first = time.perf_counter() - started
        rest = ask(f"/api/list?order=useful&start={len(shown['items'])}&name={shown['name']}")
        whole = time.perf_counter() - started
        began_one = time.perf_counter()
        ask(f"/api/item/{rest['items'][0]['number']}")
        one = time.perf_counter() - began_one
        began_one = time.perf_counter()
        ask("/api/decide", {"numbers": [number], "labels": [{"label": "empty"}], "who": "ada"})
        decided = time.perf_counter() - began_one
        process.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    print(
        f"{shown['total']:,} sequences: link after {started - began:.2f} s, first sequence {first:.2f} s "
        f"later, all of it {whole:.1f} s later; then a sequence {one:.3f} s, a decision {decided:.3f} s; "
        f"peak {usage.ru_maxrss * 1024 / 1e9:.2f} GB"
    )
    return first


if __name__ == "__main__":
    sys.exit(main())
