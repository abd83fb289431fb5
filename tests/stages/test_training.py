"""The stage `train` on real workers, together, and when any of them, the driver and the scheduler die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from distributed import Client
from support import PATIENCE_S, Processes, command, run_of, wait_until

pytestmark = pytest.mark.timeout(420)


@pytest.fixture
def job_folder(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run as it was before training; more epochs, so that there is time to die."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "data").symlink_to(undisturbed / "data")
    job = yaml.safe_load((undisturbed / "job.yaml").read_text())
    job["train"] |= {"arch": "test_resnet", "epochs": 12, "batch": 8}
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
    shutil.copytree(
        undisturbed / "run", folder / "run", ignore=shutil.ignore_patterns("train", "models", "model")
    )
    return folder


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A scheduler and a GPU worker."""
    with Processes(tmp_path, resources=("GPU=1",)) as cluster:
        yield cluster


def start_driver(folder: Path, cluster: Processes) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(folder, "train", "--cluster", cluster.address),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_an_epoch(folder: Path, driver: subprocess.Popen[str]) -> None:
    def is_kept() -> bool:
        assert driver.poll() is None, driver.communicate()
        return any((folder / "run" / "checkpoints").glob("*-last.pt"))

    wait_until(is_kept)


def log_of(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def notes_of(folder: Path) -> list[str]:
    return [row["text"] for row in log_of(folder) if row["event"] == "note"]


def metrics_of(folder: Path) -> dict[str, dict[str, int]]:
    trained = run_of(folder).current("model")
    assert trained is not None
    model = trained.meta["model_id"]
    metrics: dict[str, dict[str, int]] = json.loads(
        (folder / "run" / "models" / model / "metrics.json").read_text()
    )
    return metrics


def test_gpu_workers_train_together_and_anything_may_die(job_folder: Path, processes: Processes) -> None:
    folder = job_folder
    processes.add_worker("GPU=1")
    with Client(processes.address, set_as_default=False) as client:
        client.wait_for_workers(2)
    driver = start_driver(folder, processes)
    wait_for_an_epoch(folder, driver)
    assert "2 GPU workers train together" in notes_of(folder)
    os.kill(processes.worker_process(1), signal.SIGKILL)
    wait_until(lambda: any("goes on after epoch" in note for note in notes_of(folder)))
    driver.kill()
    driver.communicate()
    assert processes.scheduler is not None
    processes.scheduler.kill()
    processes.start()
    driver = start_driver(folder, processes)
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, errors
    metrics = metrics_of(folder)["training"]
    assert metrics["epochs"] == 12
    assert metrics["workers"] == 1
    assert not any((folder / "run" / "checkpoints").glob("*"))
