"""Real processes that die, stall and come late while a job runs: the tables are those of an undisturbed run.

What is there once a driver, a worker or the scheduler is killed for good, and the same command repeated, is
in test_resume.py. Every test here counts tries in the run's log: no shard runs more often than its losses
explain.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from distributed import Client
from support import PATIENCE_S, Processes, command, receipts, start_driver, tables_of, wait_until

from camtrap_batch.engine.base import choose_workers
from camtrap_batch.engine.dask.executor import DaskExecutor
from camtrap_batch.errors import ClusterError
from camtrap_batch.stages.infer import has_cuda

pytestmark = pytest.mark.timeout(240)

JobFolder = Callable[..., Path]
Drive = Callable[[Path, str, Processes], subprocess.Popen[str]]


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Starts the command; it ends with the test at the latest."""
    drivers: list[subprocess.Popen[str]] = []

    def start(folder: Path, stage: str, cluster: Processes) -> subprocess.Popen[str]:
        drivers.append(start_driver(folder, stage, cluster))
        return drivers[-1]

    yield start
    for driver in drivers:
        with driver:
            driver.kill()


def wait_for_shards(folder: Path, stage: str, number: int, driver: subprocess.Popen[str]) -> None:
    def there_are() -> bool:
        assert driver.poll() is None, driver.communicate()
        return len(receipts(folder, stage)) >= number

    wait_until(there_are)


def finish(driver: subprocess.Popen[str]) -> None:
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, errors


def events_of(folder: Path, stage: str) -> list[dict[str, Any]]:
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["stage"] == stage]


def check_tries(folder: Path, stage: str, table: str) -> Counter[str]:
    """Every shard ran once, and once more for each loss; returns the losses by shard."""
    events = events_of(folder, stage)
    lost = Counter(event["shard"] for event in events if event["event"] == "shard lost")
    erred = Counter(event["shard"] for event in events if event["event"] == "shard erred")
    done = {event["shard"]: event["tries"] for event in events if event["event"] == "shard done"}
    assert done
    assert done == {shard: 1 + lost[shard] + erred[shard] for shard in done}
    # What each try left on disk says the same: a file is written by one try.
    files = (folder / "run" / "tables" / table).glob("*/*.parquet")
    written = Counter(path.name.rpartition("-")[0] for path in files)
    assert all(number <= 1 + lost[shard] + erred[shard] for shard, number in written.items())
    return lost


def check_tables(folder: Path, undisturbed: Path, names: tuple[str, ...]) -> None:
    expected, found = tables_of(undisturbed), tables_of(folder)
    for name in names:
        assert found[name].equals(expected[name]), name


def check_validated(folder: Path, undisturbed: Path) -> Counter[str]:
    check_tables(folder, undisturbed, ("manifest", "thumbnails"))
    return check_tries(folder, "validate", "manifest")


def test_workers_killed_again_and_again(
    job_folder: JobFolder, drive: Drive, undisturbed: Path, tmp_path: Path
) -> None:
    """A worker picked at random dies after every few shards of validate, and early in infer."""
    folder = job_folder("validate", "infer")
    pick = random.Random(7)
    with Processes(tmp_path) as cluster:
        killed = 0
        for stage, table, kills in (("validate", "manifest", 6), ("infer", "predictions", 1)):
            driver = drive(folder, stage, cluster)
            for _ in range(kills):
                there = len(receipts(folder, stage))
                if stage == "validate":
                    wait_for_shards(folder, stage, there + pick.randint(1, 4), driver)
                else:
                    threading.Event().wait(pick.uniform(1.0, 2.5))
                if driver.poll() is not None:
                    break
                os.kill(cluster.worker_process(pick.randrange(2)), signal.SIGKILL)
                killed += 1
            finish(driver)
            check_tries(folder, stage, table)
        assert killed >= 6
    check_tables(folder, undisturbed, ("manifest", "thumbnails", "predictions"))


def test_a_worker_that_stalls_is_replaced(
    job_folder: JobFolder, drive: Drive, undisturbed: Path, tmp_path: Path
) -> None:
    """Stopped, not dead: its connection stays open, but the scheduler hears nothing of it."""
    folder = job_folder("validate")
    with Processes(tmp_path, settings={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2s"}) as cluster:
        driver = drive(folder, "validate", cluster)
        wait_for_shards(folder, "validate", 6, driver)
        stalled = cluster.worker_process(0)
        os.kill(stalled, signal.SIGSTOP)
        finish(driver)
        assert not psutil.pid_exists(stalled), "it would wake up one day and go on with its shard"
    lost = check_validated(folder, undisturbed)
    assert lost


HANGS_ONCE = """\
import os

from camtrap_batch.model.predictor import Predictor

def dask_setup(worker):
    forward = Predictor._probabilities

    def hanging(*given):
        try:
            os.mkfifo({pipe!r})
        except FileExistsError:
            return forward(*given)
        os.open({pipe!r}, os.O_WRONLY)  # waits for a reader that never comes, as for a driver that hangs

    Predictor._probabilities = hanging
"""


def test_a_worker_that_hangs_in_a_forward_pass_is_replaced(
    job_folder: JobFolder, undisturbed: Path, tmp_path: Path
) -> None:
    """Its heart beats on: only the shard stands still."""
    folder = job_folder("infer")
    hangs_once, cluster_file = tmp_path / "hangs_once.py", tmp_path / "cluster.yaml"
    hangs_once.write_text(HANGS_ONCE.format(pipe=str(tmp_path / "pipe")))
    with Processes(tmp_path, preloads=(str(hangs_once),), resources=("CPU=1",)) as cluster:
        cluster_file.write_text(f"kind: address\naddress: {cluster.address}\nstall_s: 2\n")
        before = cluster.worker_process(0)
        driven = subprocess.run(
            # No original is read, so that it does not matter how long one may take.
            command(folder, "infer", "--cluster", str(cluster_file), "--set", "validate.timeout_s=0.5"),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert driven.returncode == 0, driven.stderr
        assert cluster.worker_process(0) != before
    check_tables(folder, undisturbed, ("predictions",))
    lost = check_tries(folder, "infer", "predictions")
    (line,) = (line for line in driven.stderr.splitlines() if "no progress" in line)
    said = re.fullmatch(
        r"infer: shard (\w+) on worker tcp://127\.0\.0\.1:\d+: no progress for 2 s in the phase 'read and "
        r"forward' \(stall_s of the cluster file\): the worker is ended",
        line,
    )
    assert said, line
    assert lost[said[1]] == 1


DIES_WHEN_ASKED = """\
import os
import signal
from pathlib import Path

from camtrap_batch.stages import infer

def dask_setup(worker):
    has_cuda = infer.has_cuda

    def dying():
        deaths = Path({deaths!r})
        left = deaths.read_text()
        if left == "for good":
            os.kill(os.getppid(), signal.SIGKILL)  # its nanny
        elif left == "0":
            return has_cuda()
        else:
            deaths.write_text(str(int(left) - 1))
        os._exit(1)

    infer.has_cuda = dying
"""


def test_a_gpu_worker_that_dies_when_asked_for_its_device(tmp_path: Path) -> None:
    dies, deaths = tmp_path / "dies.py", tmp_path / "deaths"
    dies.write_text(DIES_WHEN_ASKED.format(deaths=str(deaths)))
    deaths.write_text("9")
    with (
        Processes(tmp_path, preloads=(str(dies),), resources=("GPU=1",)) as cluster,
        Client(cluster.address, set_as_default=False) as client,
    ):
        client.wait_for_workers(1)
        executor = DaskExecutor(client, 30)
        with pytest.raises(
            ClusterError, match=r"died 3 times .* the last one was tcp://127\.0\.0\.1:\d+: see"
        ):
            choose_workers(executor, "auto", has_cuda, "infer.device")
        client.wait_for_workers(1, timeout=PATIENCE_S)
        deaths.write_text("1")
        assert choose_workers(executor, "auto", has_cuda, "infer.device") == (
            "GPU" if torch.cuda.is_available() else "CPU"
        )
        assert deaths.read_text() == "0"
        deaths.write_text("for good")
        with pytest.raises(ClusterError, match=r"no worker offers GPU=1 after 1 s; there are: no workers"):
            choose_workers(DaskExecutor(client, 1), "auto", has_cuda, "infer.device")


def test_a_worker_without_memory_left(
    job_folder: JobFolder, drive: Drive, undisturbed: Path, tmp_path: Path
) -> None:
    """Its nanny ends it at 95 % of its memory, with the shards that it had."""

    def take_memory() -> None:
        def grow() -> None:
            taken = []
            while True:
                taken.append(bytearray(b"x" * 2**23))

        threading.Thread(target=grow, daemon=True).start()

    folder = job_folder("validate")
    with Processes(tmp_path, memory="500MB") as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2)
        victim = cluster.worker_process(0)
        address = next(address for address, pid in client.run(os.getpid).items() if pid == victim)
        driver = drive(folder, "validate", cluster)
        wait_for_shards(folder, "validate", 6, driver)
        client.run(take_memory, workers=[address])
        finish(driver)
        wait_until(lambda: not psutil.pid_exists(victim))
        assert cluster.worker_process(0) != victim
    check_validated(folder, undisturbed)


def test_too_little_memory_is_held_against_no_image(
    job_folder: JobFolder, undisturbed: Path, tmp_path: Path
) -> None:
    """The model alone takes more than a worker has: the job says so, and with more memory it is done."""
    folder = job_folder("infer")
    cluster_file = tmp_path / "cluster.yaml"
    cluster_file.write_text("kind: local\ncpu: {workers: 2, memory: 250MB}\ngpu: {workers: 0}\n")
    infer = command(folder, "infer", "--cluster", str(cluster_file))
    refused = subprocess.run(infer, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 1, refused.stderr
    last = refused.stderr.splitlines()[-1]
    assert "workers die whatever they are given, with 238 MiB of memory each" in last
    assert not receipts(folder, "infer")
    assert not [event for event in events_of(folder, "infer") if event["event"] == "image crashed"]
    done = subprocess.run(
        command(folder, "infer", "--cluster", "inline"), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    check_tables(folder, undisturbed, ("predictions",))


def test_interrupted_twice_leaves_at_once(
    job_folder: JobFolder, drive: Drive, undisturbed: Path, tmp_path: Path
) -> None:
    """What is in flight is not waited for: it can't end, since the workers stand still."""
    folder = job_folder("validate")
    with Processes(tmp_path) as cluster:
        driver = drive(folder, "validate", cluster)
        wait_for_shards(folder, "validate", 6, driver)
        workers = [cluster.worker_process(number) for number in range(2)]
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        driver.send_signal(signal.SIGINT)
        assert driver.stderr is not None
        wait_until(lambda: "finishing what is in flight" in driver.stderr.readline())  # type: ignore[union-attr]
        assert driver.poll() is None
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=20)
        assert driver.returncode == 130, errors
        assert "stopped at once" in errors
        before = receipts(folder, "validate")
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        again = drive(folder, "validate", cluster)
        finish(again)
        assert before.items() <= receipts(folder, "validate").items(), "a finished shard was done again"
    check_tables(folder, undisturbed, ("manifest", "thumbnails"))


def test_workers_that_come_late_take_part(
    job_folder: JobFolder, drive: Drive, undisturbed: Path, tmp_path: Path
) -> None:
    folder = job_folder("validate")
    with Processes(tmp_path, resources=()) as cluster, Client(cluster.address) as client:
        driver = drive(folder, "validate", cluster)
        wait_until(lambda: (folder / "run" / "plans" / "validate").exists())
        assert driver.poll() is None, "it waits for a first worker"
        cluster.add_worker("CPU=1")
        wait_for_shards(folder, "validate", 3, driver)
        first = cluster.worker_process(0)
        os.kill(first, signal.SIGSTOP)  # else nothing may be left
        cluster.add_worker("CPU=1")
        client.wait_for_workers(2)
        os.kill(first, signal.SIGCONT)
        finish(driver)
    check_validated(folder, undisturbed)
    done_by = {json.loads(data)["worker"] for _, data in receipts(folder, "validate").values()}
    assert len(done_by) == 2
