"""Real processes, killed in the middle: the same command goes on, and ends with the same tables.

Each test starts a scheduler and workers of its own on loopback, and ends them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import yaml

from camtrap_batch import Job, open_run
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.store.run import Run

pytestmark = pytest.mark.timeout(240)

_PATIENCE_S = 90.0


@dataclass
class Processes:
    """A scheduler, two CPU workers and a GPU worker, each under a nanny of its own."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        file = self.folder / f"scheduler-{len(self.started)}.json"
        self.scheduler = self._dask(
            "scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)
        )
        wait_until(lambda: file.exists() and bool(file.read_text().strip()))
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            self._dask(
                "worker",
                self.address,
                "--nthreads", "1",
                "--resources", resources,
                "--preload", "camtrap_batch.worker",
                "--no-dashboard",
                "--local-directory", str(self.folder),
            )
            for resources in ("CPU=1", "CPU=1", "GPU=1")
        ]  # fmt: skip

    def _dask(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"dask-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *arguments, "--host", "127.0.0.1"],
                stdout=log,
                stderr=log,
                env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
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
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            process.wait()
            for child in family:
                if child.is_running():
                    child.kill()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    cluster = Processes(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, its job file, and the run folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_dataset(folder / "data", cameras=8, images=400, size=(320, 240))
    job = {
        "name": "run",
        "output": str(folder),
        "dataset": {
            "format": "cct",
            "metadata": "data/metadata.json",
            "images": "data/images",
            "cameras": "data/cameras.csv",
        },
        "validate": {"shard_size": 10, "thumbnails": 96},
        "select": {"classes": ["panthera leo", "loxodonta africana"], "split": {"by": "random"}},
        "train": {"arch": "resnet18", "weights": "none", "size": 64, "epochs": 1, "batch": 16, "lr": 0.001},
        "infer": {"min_confidence": 0.0, "batch": 8},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    for stage in ("catalog", "validate", "select", "train", "infer", "merge"):
        done = subprocess.run(command(folder, stage), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def job_folder(undisturbed: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the undisturbed run as it was before a stage; `data` is shared."""

    def make(stage: str) -> Path:
        folder = tmp_path / "job"
        folder.mkdir()
        (folder / "data").symlink_to(undisturbed / "data")
        job = yaml.safe_load((undisturbed / "job.yaml").read_text())
        (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
        shutil.copytree(undisturbed / "run", folder / "run")
        stages = {"validate": ["manifest", "thumbnails"], "infer": ["predictions"]}
        shutil.rmtree(folder / "run" / "receipts" / stage)
        shutil.rmtree(folder / "run" / "plans" / stage)
        for table in stages[stage]:
            shutil.rmtree(folder / "run" / "snapshots" / table)
            shutil.rmtree(folder / "run" / "tables" / table)
        return folder

    return make


def command(folder: Path, stage: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "camtrap_batch", stage, str(folder / "job.yaml"), *options]


def run_of(folder: Path) -> Run:
    return open_run(Job.load(folder / "job.yaml"))


def start_driver(folder: Path, stage: str, cluster: Processes) -> subprocess.Popen[str]:
    wait = ["--cluster", cluster.address]
    return subprocess.Popen(
        command(folder, stage, *wait), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def receipts(folder: Path, stage: str) -> dict[str, tuple[int, bytes]]:
    """Receipts there are: modification time and content."""
    found = (folder / "run" / "receipts" / stage).glob("*/*.json")
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def wait_for_some_shards(folder: Path, stage: str, driver: subprocess.Popen[str], shards: int) -> None:
    def in_the_middle() -> bool:
        assert driver.poll() is None, driver.communicate()
        return len(receipts(folder, stage)) >= shards

    wait_until(in_the_middle)


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


def finish_and_compare(folder: Path, stage: str, undisturbed: Path, cluster: Processes) -> None:
    """The same command again does only what is left; with the stages after it, the tables are the same."""
    before = receipts(folder, stage)
    driver = start_driver(folder, stage, cluster)
    _, errors = driver.communicate(timeout=_PATIENCE_S)
    assert driver.returncode == 0, errors
    after = receipts(folder, stage)
    assert before.items() <= after.items(), "a finished shard was done again"
    if stage == "validate":
        follow = subprocess.run(
            command(folder, "infer", "--cluster", cluster.address), capture_output=True, timeout=_PATIENCE_S
        )
        assert follow.returncode == 0, follow.stderr
    follow = subprocess.run(command(folder, "merge"), capture_output=True, timeout=_PATIENCE_S)
    assert follow.returncode == 0, follow.stderr
    expected = tables_of(undisturbed)
    for name, table in tables_of(folder).items():
        assert table.equals(expected[name]), name


STAGES = {"validate": 8, "infer": 1}
"""Stage -> receipts after which it is killed."""


@pytest.mark.parametrize("stage", STAGES)
def test_driver_killed(
    stage: str, job_folder: Callable[[str], Path], undisturbed: Path, processes: Processes
) -> None:
    folder = job_folder(stage)
    driver = start_driver(folder, stage, processes)
    wait_for_some_shards(folder, stage, driver, STAGES[stage])
    driver.kill()
    driver.communicate()
    assert run_of(folder).current("manifest" if stage == "validate" else "predictions") is None
    finish_and_compare(folder, stage, undisturbed, processes)


@pytest.mark.parametrize("stage", STAGES)
def test_worker_killed(
    stage: str, job_folder: Callable[[str], Path], undisturbed: Path, processes: Processes
) -> None:
    folder = job_folder(stage)
    driver = start_driver(folder, stage, processes)
    wait_for_some_shards(folder, stage, driver, STAGES[stage])
    os.kill(processes.worker_process(0), signal.SIGKILL)
    _, errors = driver.communicate(timeout=_PATIENCE_S)
    assert driver.returncode == 0, errors
    finish_and_compare(folder, stage, undisturbed, processes)


@pytest.mark.parametrize("stage", STAGES)
def test_scheduler_killed(
    stage: str, job_folder: Callable[[str], Path], undisturbed: Path, processes: Processes
) -> None:
    folder = job_folder(stage)
    driver = start_driver(folder, stage, processes)
    wait_for_some_shards(folder, stage, driver, STAGES[stage])
    assert processes.scheduler is not None
    processes.scheduler.kill()
    _, errors = driver.communicate(timeout=_PATIENCE_S)
    assert driver.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert "scheduler is lost" in last
    assert "run the same command again" in last
    processes.start()
    finish_and_compare(folder, stage, undisturbed, processes)


def test_interrupted_once_leaves_in_order(
    job_folder: Callable[[str], Path], undisturbed: Path, processes: Processes
) -> None:
    folder = job_folder("validate")
    driver = start_driver(folder, "validate", processes)
    wait_for_some_shards(folder, "validate", driver, 4)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=_PATIENCE_S)
    assert driver.returncode == 130, errors
    assert "interrupted with" in errors.strip().splitlines()[-1]
    finish_and_compare(folder, "validate", undisturbed, processes)


def test_second_run_does_nothing(undisturbed: Path) -> None:
    """Without a cluster: an address where nobody answers is not asked."""
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "run").rglob("*") if path.is_file()}
    for stage in ("catalog", "validate", "select", "train", "infer", "merge"):
        nowhere = ["--cluster", "tcp://127.0.0.1:1"]
        done = subprocess.run(
            command(undisturbed, stage, *nowhere), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "nothing to do" in done.stderr
    after = {path: path.stat().st_mtime_ns for path in (undisturbed / "run").rglob("*") if path.is_file()}
    assert after == before
