"""Fan-out over real worker processes, with work that fails, kills and waits where it is told to."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import dask
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster, get_worker
from support import wait_until

from camtrap_batch import phases
from camtrap_batch.cluster import SETTINGS
from camtrap_batch.engine.dask import fanout, metrics
from camtrap_batch.errors import ClusterError, StorageError
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import THUMBNAILS
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts, settled
from camtrap_batch.store.tables import finish_shard


@dataclass(frozen=True)
class Toy:
    """Writes the rows' numbers; dies, raises, hangs (the first time only, or always) at the rows named."""

    folder: Folder
    plan: tuple[str, str]
    kills: frozenset[int] = frozenset()
    raises: frozenset[int] = frozenset()
    disk_full: frozenset[int] = frozenset()
    hangs_once: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    row_s: float = 0.0
    phase: str = "forward"
    divisible: ClassVar[bool] = True
    image_root: ClassVar[None] = None

    def run(self, shard: Shard, payload: Any, worker: str) -> Receipt:
        started = time.monotonic()
        rows = range(shard.start, shard.stop)
        tried = Path(f"{self.folder.url}.tries")
        is_first = not tried.exists() or shard.id not in tried.read_text()
        with tried.open("a") as tries:
            tries.write(f"{shard.id}\n")
        phases.enter(self.phase)
        move = phases.progress()
        for row in rows:
            time.sleep(self.row_s)
            move()
            if row in self.hangs or (is_first and row in self.hangs_once):
                pipe = Path(f"{self.folder.url}.{shard.id}-{time.time_ns()}")
                os.mkfifo(pipe)
                pipe.open("wb").close()  # waits for a reader in the system, as on a disk that does not answer
        if self.kills & set(rows):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises & set(rows):
            raise ZeroDivisionError("on purpose")
        if self.disk_full & set(rows):
            raise StorageError("no space left")
        return self._write(shard, "ok", started, worker)

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        return self._write(shard, "crashed", time.monotonic(), "driver")

    def _write(self, shard: Shard, status: str, started: float, worker: str) -> Receipt:
        ids = [str(row) for row in range(shard.start, shard.stop)]
        blank = [None] * len(ids)
        table = pa.table([ids, blank, blank, blank, blank], schema=THUMBNAILS)
        counts = {status: shard.rows}
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {"thumbnails": table},
            counts=counts,
            seconds={},
            started=started,
            worker=worker,
        )


def make_plan(n_shards: int, rows: int) -> Plan:
    shards = (Shard(f"{number:016x}", number * rows, (number + 1) * rows) for number in range(n_shards))
    return Plan.make("validate", shards, {})


def fan_out(
    client: Client,
    plan: Plan,
    work: Toy,
    stop: threading.Event | None = None,
    need: fanout.Need = "CPU",
    **seconds: float,
) -> tuple[fanout.Outcome, list[fanout.Event]]:
    events: list[fanout.Event] = []
    outcome = fanout.fan_out(
        client,
        plan,
        plan.shards,
        work,
        lambda shard: None,
        need=need,
        observe=events.append,
        stop=stop or threading.Event(),
        **{"wait_s": 20, **seconds},
    )
    return outcome, events


def tries_of(work: Toy) -> list[str]:
    return Path(f"{work.folder.url}.tries").read_text().split()


def test_every_shard_runs_once(client: Client, tmp_path: Path) -> None:
    plan = make_plan(20, 5)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    outcome, _ = fan_out(client, plan, work)
    assert sorted(tries_of(work)) == sorted(shard.id for shard in plan.shards)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    assert not outcome.failed
    workers = {receipt.worker.partition("@")[0] for receipt in outcome.receipts.values()}
    assert workers <= {"cpu-0", "cpu-1"}, "CPU work ran on the GPU worker"


def test_a_task_for_each_worker_of_a_kind(client: Client) -> None:
    names = [future.result(timeout=20) for future in fanout.submit_to_each(client, "CPU", _own_name)]
    assert sorted(names) == ["cpu-0", "cpu-1"]


def test_a_task_for_each_of_no_workers() -> None:
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        assert fanout.submit_to_each(client, "CPU", _own_name) == []


def _own_name() -> str:
    return str(get_worker().name)


def test_the_client_does_not_keep_what_a_stage_has_read(client: Client, tmp_path: Path) -> None:
    plan = make_plan(4, 5)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))

    class Rows:
        """Of a whole data set, some hundred megabytes."""

    def run() -> weakref.ref[Rows]:
        rows = Rows()

        def payload(shard: Shard) -> None:
            assert isinstance(rows, Rows)

        fanout.fan_out(
            client,
            plan,
            plan.shards,
            work,
            payload,
            need="CPU",
            observe=lambda _: None,
            stop=threading.Event(),
            wait_s=20,
        )
        return weakref.ref(rows)

    rows = run()
    gc.collect()
    assert rows() is None


def test_image_that_kills_its_worker_is_found_and_the_rest_is_done(client: Client, tmp_path: Path) -> None:
    plan = make_plan(6, 8)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), kills=frozenset({19}))
    outcome, events = fan_out(client, plan, work)
    assert not outcome.failed
    receipts = find_receipts(work.folder, plan)
    for shard in plan.shards:
        parts = settled(shard, receipts)
        assert parts is not None
        assert sum(part.rows for part in parts) == shard.rows
    crashed = [event.shard for event in events if isinstance(event, fanout.ImageCrashed)]
    assert [(shard.start, shard.stop) for shard in crashed] == [(19, 20)]
    halved = {event.shard.id.partition(".")[0] for event in events if isinstance(event, fanout.ShardHalved)}
    assert halved == {plan.shards[2].id}, "a shard without the image was halved"


def test_shard_that_raises_is_tried_again_and_does_not_end_the_others(client: Client, tmp_path: Path) -> None:
    plan = make_plan(6, 2)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), raises=frozenset({5}))
    outcome, _ = fan_out(client, plan, work)
    assert list(outcome.failed) == [plan.shards[2].id]
    assert "ZeroDivisionError: on purpose" in outcome.failed[plan.shards[2].id]
    assert tries_of(work).count(plan.shards[2].id) == fanout.ERRORS_BEFORE_FAILED
    assert len(outcome.receipts) == 5


def test_worker_that_hangs_at_a_shard_is_ended_and_one_that_is_slow_is_not(
    client: Client, tmp_path: Path
) -> None:
    plan = make_plan(4, 6)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), hangs_once=frozenset({15}), row_s=0.2)
    outcome, events = fan_out(client, plan, work, stall_s=1.0)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    lost = [event for event in events if isinstance(event, fanout.ShardLost)]
    charged = [event for event in lost if event.losses]
    assert [(event.shard, event.losses) for event in charged] == [(plan.shards[2], 1)]
    assert str(charged[0].stall) == (
        "no progress for 1 s in the phase 'forward' (stall_s of the cluster file)"
    )
    assert [event.stall for event in lost if not event.losses] == [None] * (len(lost) - 1)
    # Each took longer than stall_s, at a row after the other.
    tries = tries_of(work)
    assert tries.count(plan.shards[2].id) == 2
    assert len(set(tries)) == len(plan.shards) == len(tries) - 1


def test_shard_that_hangs_while_it_is_written_fails_and_blames_no_image(
    client: Client, tmp_path: Path
) -> None:
    plan = make_plan(2, 4)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), hangs=frozenset({0}), phase="write")
    outcome, events = fan_out(client, plan, work, stall_s=0.5)
    assert not [event for event in events if isinstance(event, fanout.ShardHalved | fanout.ImageCrashed)]
    assert list(outcome.receipts) == [plan.shards[1].id]
    (reason,) = outcome.failed.values()
    assert re.fullmatch(
        r"its worker died 3 times, the last one was tcp://\S+; no progress for 0\.5 s in the phase 'write' "
        r"\(stall_s of the cluster file\)",
        reason,
    )


def test_worker_that_hangs_in_a_process_of_others_closes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook: the process is not the worker's to end."""
    monkeypatch.setattr(metrics, "count_here", lambda receipt: None)  # else for the rest of this process
    plan = make_plan(4, 2)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), hangs_once=frozenset({3}))
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        outcome, _ = fan_out(client, plan, work, stall_s=0.5)
        assert len(client.scheduler_info()["workers"]) == 1
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    for pipe in tmp_path.glob("run.*-*"):
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    wait_until(lambda: not phases.current())  # the thread that was left behind has ended


def test_full_disk_stops_at_once(client: Client, tmp_path: Path) -> None:
    plan = make_plan(40, 1)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), disk_full=frozenset({0}))
    with pytest.raises(StorageError, match="no space left"):
        fan_out(client, plan, work)
    assert len(tries_of(work)) < 40


def test_what_failed_once_runs_when_it_is_asked_for_again(client: Client, tmp_path: Path) -> None:
    """Also while the client still has the failed task: whoever kept the exception has it."""
    plan = make_plan(2, 5)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    with pytest.raises(StorageError) as kept:
        fan_out(client, plan, replace(work, disk_full=frozenset({3})))
    outcome, _ = fan_out(client, plan, work)
    assert len(outcome.receipts) == 2
    assert str(kept.value) == "no space left"


def test_window_bounds_what_is_in_flight(client: Client, tmp_path: Path) -> None:
    plan = make_plan(30, 1)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    submitted, done = [], []

    def payload(shard: Shard) -> None:
        submitted.append(shard)
        assert len(submitted) - len(done) <= 2 * fanout.TASKS_PER_THREAD

    outcome = fanout.fan_out(
        client,
        plan,
        plan.shards,
        work,
        payload,
        need="CPU",
        observe=done.append,
        stop=threading.Event(),
    )
    assert len(outcome.receipts) == 30


def test_stop_finishes_what_is_in_flight_and_leaves_the_rest(client: Client, tmp_path: Path) -> None:
    plan = make_plan(50, 1)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    stop = threading.Event()
    stop_after_first = [stop.set]

    def observe(event: fanout.Event) -> None:
        if stop_after_first:
            stop_after_first.pop()()

    outcome = fanout.fan_out(
        client, plan, plan.shards, work, lambda shard: None, need="CPU", observe=observe, stop=stop
    )
    assert outcome.interrupted
    assert 0 < len(outcome.receipts) <= 2 * fanout.TASKS_PER_THREAD
    assert set(find_receipts(work.folder, plan)) == set(outcome.receipts)


def test_shard_that_is_done_already_is_not_done_again(client: Client, tmp_path: Path) -> None:
    plan = make_plan(3, 1)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    first, _ = fan_out(client, plan, work)
    second, _ = fan_out(client, plan, work)
    assert first.receipts == second.receipts
    assert len(tries_of(work)) == 3


def test_missing_kind_of_worker_fails_with_what_is_there(client: Client) -> None:
    with pytest.raises(ClusterError, match=r"no worker offers TPU=1 .* there are: tcp://.*CPU=1"):
        fanout.require_workers(client, "TPU", 0.0)  # type: ignore[arg-type]


def test_workers_that_declare_nothing_take_cpu_work(tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        assert fanout.require_workers(client, "CPU", 5) == (2, None)
        with pytest.raises(ClusterError, match="no worker offers GPU=1"):
            fanout.require_workers(client, "GPU", 0)
