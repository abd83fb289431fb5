"""What of a fan-out is Dask's own: workers that die and stand still, the window, resources, what is kept."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from support import wait_until
from support_cluster import client_here
from support_engine import Toy, make_plan, tries_of
from support_engine import fan_out as fan_out_over

from camtrap_batch import phases
from camtrap_batch.cluster import SETTINGS
from camtrap_batch.engine import base
from camtrap_batch.engine.dask import fanout
from camtrap_batch.engine.dask.executor import DaskExecutor
from camtrap_batch.errors import NoWorker, StorageError
from camtrap_batch.monitor import counters
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, Receipt, Shard


def fan_out(
    client: Client, plan: Plan, work: Toy, stall_s: float | None = None
) -> tuple[base.Outcome, list[base.Event]]:
    return fan_out_over(DaskExecutor(client, wait_s=20), plan, work, stall_s=stall_s)


def test_every_shard_runs_once(client: Client, tmp_path: Path) -> None:
    plan = make_plan(20, 5)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id))
    outcome, _ = fan_out(client, plan, work)
    assert sorted(tries_of(work)) == sorted(shard.id for shard in plan.shards)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    assert not outcome.failed
    workers = {receipt.worker.partition("@")[0] for receipt in outcome.receipts.values()}
    assert workers <= {"cpu-0", "cpu-1"}, "CPU work ran on the GPU worker"


def test_a_worker_that_dies_once_its_receipt_is_written_costs_nothing(client: Client, tmp_path: Path) -> None:
    """The answer did not get out: the shard is done nevertheless, and not to blame."""
    plan = make_plan(6, 2)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), kills_after=frozenset({4}))
    outcome, events = fan_out(client, plan, work)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    assert not outcome.failed
    of_it = [event for event in events if getattr(event, "shard", None) == plan.shards[2]]
    assert of_it == [base.ShardDone(plan.shards[2], outcome.receipts[plan.shards[2].id], 1)]
    assert tries_of(work).count(plan.shards[2].id) == 1
    wait_until(lambda: len(client.scheduler_info()["workers"]) == 3)  # for the tests that follow


@dataclass(frozen=True)
class Leaves(Toy):
    """Its worker is told to leave while it runs the shard of row 0 for the first time."""

    def run(self, shard: Shard, payload: Any, here: base.WorkerContext) -> Receipt:
        if shard.start == 0 and not Path(f"{self.folder.url}.tries").exists():
            worker = get_worker()
            worker.loop.add_callback(worker.close_gracefully, restart=True, reason="on purpose")
            time.sleep(1)
        return super().run(shard, payload, here)


def test_a_worker_that_leaves_with_a_receipt_that_nobody_has_fetched_is_no_loss(tmp_path: Path) -> None:
    plan = make_plan(3, 2)
    work = Leaves(Folder(str(tmp_path / "run")), ("validate", plan.id))
    with (
        dask.config.set(SETTINGS),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        held = client.submit(int, 1)
        held.result(timeout=20)
        outcome, events = fan_out(client, plan, work)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    assert {type(event) for event in events} == {base.ShardDone}


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


def test_worker_that_hangs_at_a_shard_is_ended_and_one_that_is_slow_is_not(
    client: Client, tmp_path: Path
) -> None:
    plan = make_plan(4, 6)
    work = Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), hangs_once=frozenset({15}), row_s=0.2)
    outcome, events = fan_out(client, plan, work, stall_s=1.0)
    assert set(outcome.receipts) == {shard.id for shard in plan.shards}
    lost = [event for event in events if isinstance(event, base.ShardLost)]
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
    assert not [event for event in events if isinstance(event, base.ShardHalved | base.ImageCrashed)]
    assert list(outcome.receipts) == [plan.shards[1].id]
    (reason,) = outcome.failed.values()
    assert re.fullmatch(
        r"its worker died 3 times, the last one was tls://\S+; no progress for 0\.5 s in the phase 'write' "
        r"\(stall_s of the cluster file\)",
        reason,
    )


def test_worker_that_hangs_in_a_process_of_others_closes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook: the process is not the worker's to end."""
    monkeypatch.setattr(counters, "count_here", lambda receipt: None)  # else for the rest of this process
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


def test_missing_kind_of_worker_fails_with_what_is_there(client: Client) -> None:
    with pytest.raises(NoWorker, match=r"no worker offers TPU=1 .* there are: tls://.*CPU=1"):
        fanout.require_workers(client, "TPU", 0.0)  # type: ignore[arg-type]


def test_workers_that_declare_nothing_take_cpu_work(tmp_path: Path) -> None:
    with client_here(threads=2) as client:
        assert fanout.require_workers(client, "CPU", 5) == (2, None)
        with pytest.raises(NoWorker, match="no worker offers GPU=1"):
            fanout.require_workers(client, "GPU", 0)
