"""What every executor keeps to, with faults injected by design: rows in are rows out, events in order."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from distributed import Client
from support import wait_until
from support_engine import Lacks, Toy, fan_out, make_plan, tries_of

from camtrap_batch.engine import attempts
from camtrap_batch.engine.base import (
    EXECUTORS,
    Event,
    Executor,
    ImageCrashed,
    ShardDone,
    ShardErred,
    ShardHalved,
    ShardLost,
    choose_workers,
)
from camtrap_batch.engine.dask.executor import DaskExecutor
from camtrap_batch.engine.inline import InlineExecutor
from camtrap_batch.errors import BrokenPromise, ClusterError, StorageError, WorkersDie
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, all_settled, file_receipt, find_receipts


def _inline(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor()


def _dask(request: pytest.FixtureRequest) -> Executor:
    return DaskExecutor(request.getfixturevalue("client"), wait_s=20)


OPEN = {"inline": _inline, "dask": _dask}


@pytest.fixture(params=EXECUTORS)  # one that is registered, and not in `OPEN`, fails
def executor(request: pytest.FixtureRequest) -> Executor:
    return OPEN[request.param](request)


def toy(executor: Executor, tmp_path: Path, plan: Plan) -> Toy:
    death = "memory" if isinstance(executor, InlineExecutor) else "kill"
    return Toy(Folder(str(tmp_path / "run")), ("validate", plan.id), death=death)


def rows_written(work: Toy, plan: Plan) -> list[int]:
    """Of the receipts that cover the plan, in its order, from the files."""
    receipts = all_settled(plan, find_receipts(work.folder, plan))
    files = [work.folder.local(file.file) for receipt in receipts for file in receipt.files]
    return [int(row) for file in files for row in pq.read_table(file)["image_id"].to_pylist()]


def test_every_shard_runs_once_and_its_rows_come_out(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(20, 5)
    work = toy(executor, tmp_path, plan)
    outcome, events = fan_out(executor, plan, work)
    assert not outcome.failed
    assert not outcome.interrupted
    assert rows_written(work, plan) == list(range(100))
    assert sorted(tries_of(work)) == sorted(shard.id for shard in plan.shards)
    assert all(isinstance(event, ShardDone) and event.attempts == 1 for event in events)
    assert {event.shard.id: event.receipt for event in events if isinstance(event, ShardDone)} == (
        outcome.receipts
    )


def test_workers_that_lack_what_the_work_asks_for_are_given_nothing(
    executor: Executor, tmp_path: Path
) -> None:
    plan = make_plan(3, 2)
    work = toy(executor, tmp_path, plan)
    with pytest.raises(ClusterError, match=r"worker .* has no claws: buy some"):
        fan_out(executor, plan, replace(work, requirement=Lacks("has no claws: buy some")))
    assert not Path(f"{work.folder.url}.tries").exists()
    outcome, _ = fan_out(executor, plan, replace(work, requirement=Lacks("")))
    assert len(outcome.receipts) == 3


def test_nothing_to_do(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(0, 1)
    outcome, events = fan_out(executor, plan, toy(executor, tmp_path, plan))
    assert (outcome.receipts, outcome.failed, outcome.interrupted, events) == ({}, {}, False, [])


def test_a_shard_that_raises_once_is_done_on_its_second_attempt(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(6, 2)
    work = replace(toy(executor, tmp_path, plan), raises_once=frozenset({5}))
    outcome, events = fan_out(executor, plan, work)
    assert not outcome.failed
    assert rows_written(work, plan) == list(range(12))
    erred, done = [event for event in events if event.shard == plan.shards[2]]
    assert erred == ShardErred(plan.shards[2], "ZeroDivisionError: on purpose", final=False)
    assert isinstance(done, ShardDone)
    assert done.attempts == 2


def test_a_shard_that_always_raises_fails_and_does_not_end_the_others(
    executor: Executor, tmp_path: Path
) -> None:
    plan = make_plan(6, 2)
    work = replace(toy(executor, tmp_path, plan), raises=frozenset({5}))
    outcome, events = fan_out(executor, plan, work)
    assert outcome.failed == {plan.shards[2].id: "ZeroDivisionError: on purpose"}
    assert len(outcome.receipts) == 5
    assert tries_of(work).count(plan.shards[2].id) == attempts.ERRORS_BEFORE_FAILED
    of_it = [event for event in events if event.shard == plan.shards[2]]
    assert [event.final for event in of_it if isinstance(event, ShardErred)] == [False, False, True]
    with pytest.raises(BrokenPromise):
        rows_written(work, plan)


def test_an_image_that_kills_is_found_and_the_rest_is_done(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(6, 8)
    work = replace(toy(executor, tmp_path, plan), kills=frozenset({19}))
    outcome, events = fan_out(executor, plan, work)
    assert not outcome.failed
    assert rows_written(work, plan) == list(range(48))
    crashed = [event.shard for event in events if isinstance(event, ImageCrashed)]
    assert [(shard.start, shard.stop) for shard in crashed] == [(19, 20)]
    receipts = find_receipts(work.folder, plan)
    assert sum(receipt.counts.get("crashed", 0) for receipt in receipts.values()) == 1
    # A half that waited on the same worker may be blamed once; what holds the image is halved to the end.
    shards = [event.shard for event in events if isinstance(event, ShardHalved)]
    assert shards[0].id == plan.shards[2].id, "a shard without the image was halved"
    halved = [shard.id for shard in shards if shard.start <= 19 < shard.stop]
    assert [shard.rows for shard in shards if shard.id in halved] == [8, 4, 2]
    assert all(after.startswith(before) for before, after in pairwise(halved))
    # What happened to the shard, in order: it was lost until it was halved, and never heard of again.
    of_it = [type(event) for event in events if event.shard.id == plan.shards[2].id]
    assert of_it == [ShardLost] * (len(of_it) - 1) + [ShardHalved]
    losses = [
        event.losses for event in events if isinstance(event, ShardLost) and event.shard.id == halved[0]
    ]
    assert losses == sorted(losses)
    assert losses[-1] == attempts.LOSSES_BEFORE_HALVING
    # And to the image: lost, convicted, done.
    of_image = [type(event) for event in events if event.shard.id == crashed[0].id]
    assert of_image == [ShardLost] * (len(of_image) - 2) + [ImageCrashed, ShardDone]


def test_several_images_that_kill(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(3, 4)
    work = replace(toy(executor, tmp_path, plan), kills=frozenset({4, 5, 11}))
    outcome, events = fan_out(executor, plan, work)
    assert not outcome.failed
    assert rows_written(work, plan) == list(range(12))
    crashed = sorted(event.shard.start for event in events if isinstance(event, ImageCrashed))
    assert crashed == [4, 5, 11]


def test_where_nothing_succeeds_no_image_is_convicted(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(1, 4)
    work = replace(toy(executor, tmp_path, plan), kills=frozenset(range(4)))
    seen: list[Event] = []
    with pytest.raises(WorkersDie, match=r"workers die whatever they are given, with.* memory") as caught:
        fan_out(executor, plan, work, observe=seen.append)
    assert caught.value.exit_code == 1
    assert not [event for event in seen if isinstance(event, ImageCrashed | ShardDone)]
    assert not find_receipts(work.folder, plan)
    # With what was missing, nothing of it is held against the images.
    outcome, _ = fan_out(executor, plan, replace(work, kills=frozenset()))
    assert len(outcome.receipts) == 1
    assert rows_written(work, plan) == [0, 1, 2, 3]


def test_many_shards_of_which_none_succeeds_are_not_all_tried(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOSSES_IN_A_ROW", 6)
    plan = make_plan(40, 4)
    work = replace(toy(executor, tmp_path, plan), kills=frozenset(range(160)))
    with pytest.raises(WorkersDie):
        fan_out(executor, plan, work)
    assert len(set(tries_of(work))) < 30


def test_an_image_left_over_by_an_earlier_run_is_convicted(executor: Executor, tmp_path: Path) -> None:
    """All that succeeded beside it did so before the driver was killed."""
    plan = make_plan(1, 2)
    first, second = plan.shards[0].halves()
    work = replace(toy(executor, tmp_path, plan), kills=frozenset({1}))
    fan_out(executor, plan, work, shards=[first])
    outcome, _ = fan_out(executor, plan, work, shards=[second])
    assert outcome.receipts[second.id].counts == {"crashed": 1}
    assert rows_written(work, plan) == [0, 1]


def test_what_cannot_be_divided_fails(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(2, 2)
    work = replace(toy(executor, tmp_path, plan), kills=frozenset({0}), divisible=False)
    outcome, events = fan_out(executor, plan, work)
    assert list(outcome.failed) == [plan.shards[0].id]
    assert list(outcome.receipts) == [plan.shards[1].id]
    assert not [event for event in events if isinstance(event, ShardHalved | ImageCrashed)]


def test_what_no_shard_can_escape_ends_all_at_once(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(40, 1)
    work = replace(toy(executor, tmp_path, plan), disk_full=frozenset({0}), row_s=0.05)
    with pytest.raises(StorageError, match="no space left"):
        fan_out(executor, plan, work)
    assert len(tries_of(work)) < 40


def test_stop_finishes_what_is_in_flight_and_leaves_the_rest(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(50, 1)
    work = toy(executor, tmp_path, plan)
    stop = threading.Event()
    outcome, _ = fan_out(executor, plan, work, stop, observe=lambda _: stop.set())
    assert outcome.interrupted
    assert 0 < len(outcome.receipts) < 50
    assert set(find_receipts(work.folder, plan)) == set(outcome.receipts)
    # The same again does the others, and those alone.
    outcome, _ = fan_out(executor, plan, work)
    assert not outcome.interrupted
    assert rows_written(work, plan) == list(range(50))
    assert len(tries_of(work)) == 50


def test_stop_before_it_begins(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(3, 1)
    work = toy(executor, tmp_path, plan)
    stop = threading.Event()
    stop.set()
    outcome, events = fan_out(executor, plan, work, stop)
    assert outcome.interrupted
    assert not events
    assert not find_receipts(work.folder, plan)


def test_a_receipt_that_is_there_already_is_taken(executor: Executor, tmp_path: Path) -> None:
    """Also one that somebody else filed: the work is not done again, and the first receipt stays."""
    plan = make_plan(3, 1)
    work = toy(executor, tmp_path, plan)
    first, _ = fan_out(executor, plan, work)
    second, events = fan_out(executor, plan, work)
    assert first.receipts == second.receipts
    assert len(tries_of(work)) == 3
    assert [type(event) for event in events] == [ShardDone] * 3
    receipt = first.receipts[plan.shards[0].id]
    assert file_receipt(work.folder, replace(receipt, worker="another")) == receipt


def test_what_work_tells_is_heard(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(4, 1)
    work = replace(toy(executor, tmp_path, plan), tells="toy")
    heard: list[str] = []
    with executor.listen("other", lambda message: heard.append("wrong")):
        with executor.listen("toy", lambda message: heard.append(message["shard"])):
            fan_out(executor, plan, work)
            wait_until(lambda: len(heard) == 4)
        fan_out(executor, replace(plan, id="again"), replace(work, plan=("validate", "again")))
    assert sorted(heard) == [shard.id for shard in plan.shards]


def test_workers_are_asked(executor: Executor) -> None:
    assert executor.offers("CPU")
    assert executor.require("CPU") >= 1
    assert executor.ask("GPU", _seven, "for a number") == 7
    with pytest.raises(ZeroDivisionError):
        executor.ask("GPU", _wrong, "for what is wrong")
    assert choose_workers(executor, "cpu", _wrong, "infer.device") == "CPU"
    assert choose_workers(executor, "cuda", _wrong, "infer.device") == "GPU"
    assert choose_workers(executor, "auto", lambda: True, "infer.device") == "GPU"
    assert choose_workers(executor, "auto", lambda: False, "infer.device") == "CPU"
    with pytest.raises(ClusterError, match=r"no torch .*: install .*, or set infer\.device: cpu"):
        choose_workers(executor, "auto", _lacks, "infer.device")


def test_on_each_does_not_hold_up_the_block(executor: Executor, tmp_path: Path) -> None:
    plan = make_plan(2, 1)
    work = toy(executor, tmp_path, plan)
    with executor.on_each("CPU", _seven) as answers:
        fan_out(executor, plan, work)
    assert set(answers) <= {7}
    with executor.on_each("CPU", _wrong) as answers:
        pass
    assert answers == []


def _seven() -> int:
    return 7


def _wrong() -> bool:
    raise ZeroDivisionError


def _lacks() -> bool:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_the_client_is_the_caller_s(client: Client) -> None:
    executor = DaskExecutor(client)
    executor.close()
    assert client.status == "running"
