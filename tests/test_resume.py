"""Real processes, killed in the middle: the same command goes on, and ends with the same tables.

Each test starts a scheduler and workers of its own on loopback, and ends them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import (
    PATIENCE_S,
    Processes,
    command,
    merge,
    receipts,
    run_of,
    start_driver,
    tables_of,
    wait_until,
)

pytestmark = pytest.mark.timeout(240)


def wait_for_some_shards(folder: Path, stage: str, driver: subprocess.Popen[str], shards: int) -> None:
    def in_the_middle() -> bool:
        assert driver.poll() is None, driver.communicate()
        return len(receipts(folder, stage)) >= shards

    wait_until(in_the_middle)


def finish_and_compare(folder: Path, stage: str, undisturbed: Path, cluster: Processes) -> None:
    """The same command again does only what is left; with the stages after it, the tables are the same."""
    before = receipts(folder, stage)
    driver = start_driver(folder, stage, cluster)
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, errors
    after = receipts(folder, stage)
    assert before.items() <= after.items(), "a finished shard was done again"
    if stage == "validate":
        follow = subprocess.run(
            command(folder, "infer", "--cluster", cluster.address), capture_output=True, timeout=PATIENCE_S
        )
        assert follow.returncode == 0, follow.stderr
    merge(folder)
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
    _, errors = driver.communicate(timeout=PATIENCE_S)
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
    _, errors = driver.communicate(timeout=PATIENCE_S)
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
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, errors
    assert "interrupted with" in errors.strip().splitlines()[-1]
    finish_and_compare(folder, "validate", undisturbed, processes)
