"""What is counted while a stage runs, and what the run folder alone tells of it."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from distributed import Client

from camtrap_batch import Job, phases
from camtrap_batch.cli import main
from camtrap_batch.engine.dask.performance import performance_path, performance_report
from camtrap_batch.monitor import counters
from camtrap_batch.monitor.progress import Cameras, Progress, StageStatus
from camtrap_batch.monitor.status import read_status
from camtrap_batch.pipeline import plans
from camtrap_batch.store.gc import collect
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, file_receipt

LOCATIONS = pa.chunked_array([["a"] * 10 + ["b"] * 8 + [None] * 2])


def make_plan(shards: int = 4, rows: int = 5) -> Plan:
    return Plan.make("validate", [Shard(f"s{n}", n * rows, (n + 1) * rows) for n in range(shards)], {})


def receipt(
    plan: Plan, shard: Shard, finished: str = "2026-01-01T00:00:00.000Z", seconds: float = 2.0
) -> Receipt:
    return Receipt(
        stage=plan.stage,
        plan_id=plan.id,
        shard_id=shard.id,
        rows=shard.rows,
        files=(),
        counts={"ok": shard.rows},
        seconds={"read": 0.5, "total": seconds},
        versions={},
        worker="w",
        attempt="a",
        finished=finished,
    )


def make_run(folder: Path) -> Run:
    dataset = {"format": "folder", "images": str(folder / "images")}
    return Run(Job.parse({"name": "run", "output": str(folder), "dataset": dataset}, base=folder))


def test_a_part_of_a_stage_stands_before_it() -> None:
    progress = Progress("job", "runs/job")
    progress.expect({"select": "", "train": "", "infer": ""})
    progress.begin("select")
    progress.planned(Plan.make("select", [Shard("s", 0, 9)], {}), {}, None)
    progress.end("select", "done", 9, 1, {})
    progress.begin("train")
    for part in ("cut", "features"):
        progress.planned(Plan.make(part, [Shard(part, 0, 9)], {}), {}, None)
        progress.end(part, "done", 9, 1, {})
    progress.planned(Plan.make("train", [Shard("t", 0, 9)], {}), {}, None)
    stages = progress.as_record()["stages"]
    assert [stage["stage"] for stage in stages] == ["select", "cut", "features", "train", "infer"]
    assert stages[3]["state"] == "running"


def test_cameras_are_done_when_their_last_row_is() -> None:
    cameras = Cameras(LOCATIONS)
    assert (cameras.total, cameras.done) == (2, 0)
    cameras.add(Shard("x", 0, 9))
    assert cameras.done == 0
    cameras.add(Shard("y", 9, 12))
    assert cameras.done == 1
    cameras.add(Shard("z", 12, 20))
    assert cameras.done == 2
    assert Cameras(pa.chunked_array([], pa.string())).total == 0


def test_halves_make_a_shard_and_what_was_done_before_counts() -> None:
    plan = make_plan()
    first, second, third, fourth = plan.shards
    before = {first.id: receipt(plan, first)}
    left, right = second.halves()
    before[left.id] = receipt(plan, left)
    progress = Progress("job", "/run")
    progress.planned(plan, before, LOCATIONS)

    def status() -> dict[str, Any]:
        return cast(dict[str, Any], progress.as_record()["stages"][0])

    assert (status()["shards_done"], status()["rows_done"], status()["halved"]) == (1, 7, 1)
    progress.shard_done(right, receipt(plan, right))
    assert (status()["shards_done"], status()["rows_done"], status()["cameras_done"]) == (2, 10, 0)
    progress.shard_halved("validate", third)
    for half in (*third.halves(), fourth):
        progress.shard_done(half, receipt(plan, half))
    found = status()
    assert (found["shards_done"], found["rows_done"], found["halved"]) == (4, 20, 2)
    assert found["rows_per_s_mean"] > 0
    counted = {
        tuple(labels): number for name, labels, number in progress.totals.items() if name == "camtrap_images"
    }
    assert counted == {("validate", "ok"): 13}, "what an earlier run did is not counted again"


def test_losses_keep_the_ends_of_epochs_and_do_not_grow() -> None:
    status = StageStatus("train")
    for epoch in range(1, 31):
        for batch in range(1, 101):
            status.trained(
                {"phase": "train", "epoch": epoch, "epochs": 30, "batch": batch, "batches": 100,
                 "images_per_s": 9.0, "train_loss": 1 / epoch}
            )  # fmt: skip
        status.trained(
            {"phase": "train", "epoch": epoch, "epochs": 30, "batch": 100, "batches": 100,
             "images_per_s": 9.0, "train_loss": 1 / epoch, "valid_loss": 2 / epoch, "accuracy": 0.5}
        )  # fmt: skip
    assert len(status.losses) <= 400
    judged = [point["epoch"] for point in status.losses if "valid_loss" in point]
    assert judged == list(range(1, 31))
    assert [point["epoch"] for point in status.losses] == sorted(point["epoch"] for point in status.losses)


def test_phases_are_told_by_thread() -> None:
    seen: list[list[dict[str, Any]]] = []

    def work() -> None:
        with phases.working_on("infer", "s1", 7):
            phases.enter("read")
            seen.append(phases.current())

    with phases.working_on("validate", "s0", 5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [(entry["stage"], entry["shard"], entry["phase"]) for entry in seen[0]] == [
        ("validate", "s0", "start"),
        ("infer", "s1", "read"),
    ]
    assert phases.current() == []
    phases.enter("write")  # on the driver, where no shard is worked on
    assert phases.current() == []


def test_status_of_a_stage_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    plan = make_plan(shards=10, rows=100)
    plan.freeze(run.folder)
    run.log("stage begins", stage="validate", plan=plan.id, rows=plan.rows, shards=10, todo=10)
    now = dt.datetime.now(dt.UTC)
    # Two workers, 10 s a shard, until now; long before, one shard by itself.
    ends = [now - dt.timedelta(hours=5), *(now - dt.timedelta(seconds=10 * (n // 2)) for n in range(4))]
    for shard, end in zip(plan.shards, ends, strict=False):
        file_receipt(run.folder, receipt(plan, shard, end.isoformat(), seconds=10.0))
    run.log("shard lost", stage="validate", shard="s7", worker="tcp://w", losses=1)
    status = next(status for status in read_status(run, plans()) if status.stage == "validate")
    assert (status.state, status.rows_done, status.shards_done, status.lost) == ("running", 500, 5, 1)
    assert status.rows_per_s == pytest.approx(400 / 20, rel=0.01)
    assert status.rows_per_s_mean == pytest.approx(500 / 30, rel=0.01)
    assert status.seconds_left == pytest.approx(500 / 20, rel=0.01)
    assert status.counts == {"ok": 500}
    assert status.seconds == {"read": 2.5, "total": 50.0}

    run.log("stage failed", stage="validate", failed={"s7": "ZeroDivisionError: no"})
    (tmp_path / "job.yaml").write_text(run.job.to_yaml())
    assert main(["status", str(tmp_path / "job.yaml"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    stage = next(stage for stage in told["stages"] if stage["stage"] == "validate")
    assert (stage["state"], stage["failed"], stage["seconds_left"]) == (
        "failed",
        {"s7": "ZeroDivisionError: no"},
        None,
    )
    assert main(["status", str(tmp_path / "job.yaml")]) == 1
    text = capsys.readouterr().out
    assert "validate: shard s7 failed: ZeroDivisionError: no" in text
    assert "validate: 1 try lost with its worker, 0 shards halved" in text


def test_status_of_a_stage_that_was_killed_long_ago(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    plan = make_plan()
    plan.freeze(run.folder)
    file_receipt(run.folder, receipt(plan, plan.shards[0]))
    status = next(status for status in read_status(run, plans()) if status.stage == "validate")
    assert (status.state, status.seconds_left) == ("unfinished", None)


def test_the_report_is_made_beside_what_comes_after_the_work(client: Client, tmp_path: Path) -> None:
    run, plan = make_run(tmp_path), make_plan()
    with performance_report(client, run, plan, threading.Event()) as work_is_done:
        work_is_done()
        deadline = time.monotonic() + 30
        while not run.folder.exists(path := performance_path(plan.stage, plan.id)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        written = run.folder.read(path)
    assert run.folder.read(path) == written  # once


def test_a_report_that_fails_is_a_line_in_the_log(client: Client, tmp_path: Path) -> None:
    run, plan = make_run(tmp_path), make_plan()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "performance").write_text("a file where the folder should be")
    with performance_report(client, run, plan, threading.Event()):
        pass
    event = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert (event["event"], event["stage"]) == ("no performance report", "validate")
    assert "performance" in event["problem"]


def test_gc_deletes_reports_of_plans_that_are_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.folder.write(performance_path("validate", "0123456789abcdef"), b"<html>")
    assert collect(run.folder) == (1, 6)
    assert not run.folder.exists(performance_path("validate", "0123456789abcdef"))


def test_a_worker_counts_in_a_process_that_counts_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where scheduler and workers are threads of one process: the names are taken."""
    from prometheus_client import REGISTRY

    monkeypatch.setattr(counters, "_here", None)
    taken = counters.Totals()
    try:
        REGISTRY.register(taken)
    except ValueError:
        taken = cast(counters.Totals, SimpleNamespace(is_other=True))
    try:
        plan = make_plan()
        counters.count_here(receipt(plan, plan.shards[0]))
    finally:
        if isinstance(taken, counters.Totals):
            REGISTRY.unregister(taken)
