"""A whole job on a real SLURM: submitted, run by workers that SLURM starts, and ends, its time being up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import yaml
from support import command, run_of, wait_until
from support_cluster import write_job
from support_slurm import Slurm, running_slurm, why_no_slurm

from camtrap_batch import run_stage
from camtrap_batch.cluster import Slurm as SlurmCluster
from camtrap_batch.cluster import open_cluster

pytestmark = pytest.mark.timeout(420)

_LOOK_S = 0.5  # between two questions, each of which starts a process

CLUSTER = {
    "kind": "slurm",
    "cpu": {"workers": 2, "per_job": 2, "memory": "2GiB", "partition": "cpu"},
    "gpu": {"workers": 1, "memory": "4GiB", "partition": "gpu", "extra": ["--gres=gpu:1"]},
    "walltime": "00:30:00",
    "driver": {"cores": 1, "memory": "2GiB", "walltime": "01:00:00"},
    "dashboard": ":0",
    "wait_s": 60,
}

SLOWLY = """\
import time
from pathlib import Path

from camtrap_batch.stages.validate import ValidateShard

def dask_setup(worker):
    run = ValidateShard.run

    def slowly(*given):
        if Path({flag!r}).exists():
            time.sleep(2)
        return run(*given)

    ValidateShard.run = slowly
"""

PYTHON = """\
#!/bin/sh
case "$*" in *dask_worker*) set -- "$@" --preload camtrap_batch.worker --preload {folder}/slowly.py;; esac
exec {python} "$@"
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if (reason := why_no_slurm()) is not None:
        pytest.skip(reason)
    with running_slurm() as slurm:
        yield slurm


def slow_python(folder: Path) -> tuple[Path, Path]:
    """A Python whose workers take 2 s more for a shard, as long as the second file is there."""
    python, slow = folder / "python", folder / "slow"
    python.write_text(PYTHON.format(folder=folder, python=sys.executable))
    python.chmod(0o755)
    (folder / "slowly.py").write_text(SLOWLY.format(flag=str(slow)))
    slow.touch()
    return python, slow


def submit(slurm: Slurm, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    files = [str(folder / "job.yaml"), "--cluster", str(folder / "slurm.yaml")]
    return subprocess.run(
        [sys.executable, "-m", "camtrap_batch", "submit", *files, *options],
        capture_output=True,
        text=True,
        env=slurm.environment,
        cwd=folder,
        timeout=60,
    )


def said(output: str, what: str) -> str:
    found = re.search(rf"^{what} +(.+)$", output, re.MULTILINE)
    assert found, output
    return found[1]


def test_submitted_job_survives_a_worker_s_walltime_and_its_own(
    undisturbed: Path, slurm: Slurm, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(undisturbed / "data")
    job = yaml.safe_load((undisturbed / "job.yaml").read_text())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(tmp_path)}))
    python, slow = slow_python(tmp_path)
    prologue = ["export DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT=1s"]
    cluster = {**CLUSTER, "python": str(python), "prologue": prologue}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(cluster))

    submitted = submit(slurm, tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    driver, log = said(submitted.stdout, "SLURM job"), Path(said(submitted.stdout, "log"))
    assert f"scancel {driver}" in said(submitted.stdout, "cancel")

    def receipts() -> int:
        return len(list((tmp_path / "run" / "receipts" / "validate").glob("*/*.json")))

    def is_running() -> bool:
        state = slurm.state(driver)
        assert state in ("PENDING", "RUNNING"), (state, log.read_text())
        return state == "RUNNING"

    # SLURM itself ends the job with both CPU workers, for its time is up; another takes its place.
    wait_until(lambda: is_running() and receipts() >= 2, pause=_LOOK_S)
    (ended,) = slurm.jobs("camtrap-cpu")
    slurm.ask("scontrol", "update", f"JobId={ended}", "EndTime=now")
    wait_until(lambda: slurm.state(ended) == "TIMEOUT", pause=_LOOK_S)  # SLURM looks every 30 s
    there = receipts()
    wait_until(lambda: is_running() and receipts() >= there + 2, pause=_LOOK_S)
    assert ended not in slurm.jobs("camtrap-cpu")

    # What SLURM sends ahead of the driver's own walltime: it ends in order, is requeued, and goes on.
    done = receipts()
    slurm.ask("scancel", "--batch", "--signal=USR1", driver)
    wait_until(lambda: "finishing what is in flight" in log.read_text())
    slow.unlink()
    wait_until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", driver), pause=_LOOK_S)
    assert done <= receipts() < 55
    at_work = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
    wait_until(lambda: slurm.state(driver) not in at_work, patience=150, pause=_LOOK_S)
    assert slurm.state(driver) == "COMPLETED", log.read_text()
    assert "the same command goes on" in log.read_text()

    here, there = run_of(tmp_path), run_of(undisturbed)
    for table in ("manifest", "thumbnails", "predictions", "sequences", "events"):
        differs = ["thumbnail_file", "manifest_snapshot", "model_id"]
        mine, other_s = (run.table(table).to_table() for run in (here, there))
        columns = [name for name in mine.column_names if name not in differs]
        assert mine.select(columns).equals(other_s.select(columns)), table
    workers = {
        json.loads(path.read_text())["worker"].partition("@")[0]
        for path in (tmp_path / "run" / "receipts" / "train").glob("*/*.json")
    }
    assert workers == {"gpu-0"}, "trained where --gres=gpu:1 is"


def test_workers_leave_in_order_and_others_take_their_place(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in each SLURM job, whose walltime is a minute at least; here they leave after some seconds."""
    leave = ["--lifetime", "4s", "--lifetime-stagger", "1s"]
    monkeypatch.setattr("camtrap_batch.cluster.slurm.leave_before", lambda walltime: leave)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    run = write_job(tmp_path, images=25)
    spec = {
        "kind": "slurm",
        "cpu": CLUSTER["cpu"],
        "walltime": "00:10:00",
        "python": str(slow_python(tmp_path)[0]),
        "logs": str(tmp_path / "logs"),
        "dashboard": "127.0.0.1:0",
    }
    before = set(slurm.all_jobs("camtrap-cpu"))
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}),
        open_cluster(SlurmCluster.model_validate(spec)) as client,
    ):
        result = run_stage(tmp_path / "job.yaml", "validate", client)
        jobs = sorted({*slurm.all_jobs("camtrap-cpu")} - before, key=int)
        assert len(jobs) >= 2
    assert result.rows == run.table("manifest").count_rows()
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for job in jobs[:-1]:
        said = (tmp_path / "logs" / f"camtrap-cpu-{job}.err").read_text()
        assert said.count("worker-lifetime-reached") >= 2, f"job {job} was ended before its workers left"
    assert not [event for event in events if event["event"] == "shard lost"]


def test_a_folder_with_a_space(slurm: Slurm, tmp_path: Path) -> None:
    """The driver's job ends at once, for its job file is gone; its log says so, where it was announced."""
    folder = tmp_path / "my cameras"
    folder.mkdir()
    write_job(folder)
    (folder / "slurm.yaml").write_text(yaml.safe_dump(CLUSTER))
    shutil.rmtree(folder / "data")
    submitted = submit(slurm, folder)
    assert submitted.returncode == 0, submitted.stderr
    driver, log = said(submitted.stdout, "SLURM job"), Path(said(submitted.stdout, "log"))
    assert log.parent == folder / "slurm-logs"
    wait_until(lambda: slurm.state(driver) not in ("PENDING", "RUNNING", "COMPLETING"), pause=_LOOK_S)
    assert "camtrap: " in log.read_text()


def test_what_slurm_refuses_is_said_in_a_line(slurm: Slurm, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(undisturbed / "data")
    (tmp_path / "job.yaml").write_text((undisturbed / "job.yaml").read_text())
    cluster = {**CLUSTER, "driver": {"partition": "nowhere"}}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(cluster))
    refused = submit(slurm, tmp_path)
    assert refused.returncode == 2
    assert "invalid partition specified: nowhere" in refused.stderr
    assert refused.stderr.count("\n") == 1

    cluster = {**CLUSTER, "cpu": {"workers": 1, "partition": "nowhere"}}
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(cluster))
    files = ["--cluster", str(tmp_path / "slurm.yaml"), "--set", f"output={tmp_path}"]
    subprocess.run(command(tmp_path, "catalog", "--quiet", *files[2:]), check=True, timeout=60)
    refused = subprocess.run(
        command(tmp_path, "validate", "--quiet", *files),
        capture_output=True,
        text=True,
        env=slurm.environment,
        timeout=60,
    )
    assert refused.returncode == 2, refused
    assert "invalid partition specified: nowhere" in refused.stderr
    assert refused.stderr.count("\n") == 1
