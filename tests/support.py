"""Real processes for tests: the command, and a Dask cluster on loopback whose parts can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from camtrap_batch import Job, open_run
from camtrap_batch.cli import main
from camtrap_batch.store.run import Run

PATIENCE_S = 140.0
"""Twice of it is within the time of a test."""
_BESIDE = Path(__file__).resolve().parents[2] / "shared"


def at_once(threads: int, work: Callable[[int], None]) -> None:
    """Call `work` with each number below `threads`, all at the same time."""
    start = threading.Barrier(threads)

    def begin(number: int) -> None:
        start.wait()
        work(number)

    started = [threading.Thread(target=begin, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def data_folder(name: str) -> Path:
    """A folder of data from elsewhere: the whole beside the repository, otherwise what is copied into it."""
    whole = _BESIDE / name
    return whole if whole.is_dir() else Path(__file__).with_name("data") / name


def command(folder: Path, stage: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "camtrap_batch", stage, str(folder / "job.yaml"), *options]


def run_of(folder: Path) -> Run:
    return open_run(Job.load(folder / "job.yaml"))


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE_S, pause: float = 0.01) -> None:
    """Look again and again, with pauses three times as long as a look takes, and `pause` s at least: what is
    waited for needs the processors."""
    deadline = time.monotonic() + patience
    while True:
        began = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, "waited too long"
        time.sleep(max(pause, 3 * (now - began)))


def end_family(process: subprocess.Popen[Any]) -> None:
    """Kill a process and those that it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()


def merge(folder: Path) -> None:
    """In this process: no worker does any of it."""
    assert main(["merge", str(folder / "job.yaml"), "--quiet"]) == 0


def start_driver(folder: Path, stage: str, cluster: Processes) -> subprocess.Popen[str]:
    wait = ["--cluster", cluster.address]
    return subprocess.Popen(
        command(folder, stage, *wait), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def receipts(folder: Path, stage: str) -> dict[str, tuple[int, bytes]]:
    """Receipts there are: modification time and content."""
    found = (folder / "run" / "receipts" / stage).glob("*/*.json")
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def tables_of(folder: Path) -> dict[str, pa.Table]:
    """Rows without what names the try that made them."""
    run = run_of(folder)
    return {
        "manifest": run.table("manifest").to_table().drop_columns(["thumbnail_file"]),
        "thumbnails": run.table("thumbnails").to_table(),
        "predictions": run.table("predictions").to_table().drop_columns(["manifest_snapshot"]),
        "sequences": run.table("sequences").to_table(),
        "events": run.table("events").to_table(),
    }


@dataclass
class Processes:
    """A scheduler, and workers each under a nanny of its own: two CPU workers where nothing else is said."""

    folder: Path
    preloads: tuple[str, ...] = ()
    resources: tuple[str, ...] = ("CPU=1", "CPU=1")
    memory: str = "auto"
    settings: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Processes:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        file = self.folder / f"scheduler-{len(self.started)}.json"
        self.scheduler = self._dask(
            "scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)
        )
        wait_until(lambda: file.exists() and bool(file.read_text().strip()))
        self.address = json.loads(file.read_text())["address"]
        self.workers = []
        for resources in self.resources:
            self.add_worker(resources)

    def add_worker(self, resources: str) -> None:
        process = self._dask(
            "worker",
            self.address,
            "--nthreads", "1",
            "--resources", resources,
            "--memory-limit", self.memory,
            *(part for name in ("camtrap_batch.worker", *self.preloads) for part in ("--preload", name)),
            "--no-dashboard",
            "--local-directory", str(self.folder),
        )  # fmt: skip
        self.workers.append(process)

    def _dask(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"dask-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *arguments, "--host", "127.0.0.1"],
                stdout=log,
                stderr=log,
                env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", **self.settings},
            )
        self.started.append(process)
        return process

    def worker_process(self, number: int) -> int:
        """Process id of a worker, which is a child of its nanny."""
        nanny = psutil.Process(self.workers[number].pid)
        found: list[int] = []

        def is_up() -> bool:
            found[:] = [child.pid for child in nanny.children() if "spawn_main" in " ".join(child.cmdline())]
            return bool(found)

        wait_until(is_up)
        return found[0]

    def stop(self) -> None:
        for process in self.started:
            end_family(process)
