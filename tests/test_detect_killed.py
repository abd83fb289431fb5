"""A job of detect, infer and merge, its processes killed in the middle: the tables are those of a quiet run.

The detector is the demo's own, a real network.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from support import PATIENCE_S, Processes, command, merge, receipts, run_of, start_driver, wait_until

import camtrap_batch

pytestmark = pytest.mark.timeout(240)

DETECTOR = Path(camtrap_batch.__file__).parent / "rehearsal" / "detector.onnx"
STAGES = {"detect": "detected", "infer": "predictions"}
"""Stage -> its table with a row for each image."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as cluster:
        yield cluster


def prepare(undisturbed: Path, folder: Path) -> Path:
    """The run of `undisturbed` as it was before it was classified, and a job with a detector."""
    folder.mkdir()
    (folder / "data").symlink_to(undisturbed / "data")
    job = yaml.safe_load((undisturbed / "job.yaml").read_text())
    job |= {
        "output": str(folder),
        "detect": {"model": str(DETECTOR), "shard_size": 40, "repeat": {"frames": 4}},
        "train": {**job["train"], "on": "frames"},
        "infer": {**job["infer"], "shard_size": 40, "precision": "float32"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    gone = shutil.ignore_patterns("log.jsonl", "infer", "predictions", "frames", "sequences", "events")
    shutil.copytree(undisturbed / "run", folder / "run", ignore=gone)
    return folder


def do(folder: Path, *stages: str, cluster: Processes) -> None:
    for stage in stages:
        done = subprocess.run(
            command(folder, stage, "--cluster", cluster.address), capture_output=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, done.stderr


def tables_of(folder: Path) -> dict[str, pa.Table]:
    names = ("detected", "boxes", "detections", "predictions", "crops", "frames", "sequences", "events")
    run = run_of(folder)
    return {name: run.table(name).to_table() for name in names}


def test_killed_at_random(undisturbed: Path, tmp_path: Path, processes: Processes) -> None:
    """In each stage a worker dies, then the driver; nothing that was done is done again."""
    quiet, folder = (prepare(undisturbed, tmp_path / name) for name in ("quiet", "killed"))
    do(quiet, "detect", "infer", cluster=processes)
    merge(quiet)
    chance = random.Random(11)
    for stage, table in STAGES.items():
        driver = start_driver(folder, stage, processes)

        def wait_for(number: int, stage: str = stage, driver: subprocess.Popen[str] = driver) -> None:
            def there_are() -> bool:
                assert driver.poll() is None, driver.communicate()
                return len(receipts(folder, stage)) >= number

            wait_until(there_are)

        wait_for(chance.randint(1, 3))
        os.kill(processes.worker_process(chance.randrange(2)), signal.SIGKILL)
        wait_for(chance.randint(4, 6))
        driver.kill()
        driver.communicate()
        assert run_of(folder).current(table) is None
        before = receipts(folder, stage)
        do(folder, stage, cluster=processes)
        after = receipts(folder, stage)
        assert before.items() <= after.items(), "a finished shard was done again"
        assert len(after) > len(before)
    merge(folder)
    expected = tables_of(quiet)
    assert expected["boxes"].num_rows > 100
    assert expected["crops"].num_rows > 50
    for name, found in tables_of(folder).items():
        if name == "predictions":
            found, expected[name] = (
                one.drop_columns(["manifest_snapshot"]) for one in (found, expected[name])
            )
        assert found.equals(expected[name]), name
