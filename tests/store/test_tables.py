"""The commit protocol: whatever is interrupted, readers see a whole snapshot and a rerun ends well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_store import TABLES, make_plan, read, rows_of, run, selection_rows

from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.store import snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.store.shards import all_settled, find_receipts
from camtrap_batch.store.tables import commit_plan, finish_shard, open_table


class Killed(BaseException):
    """The machine went away."""


@contextmanager
def killed_at(step: int, *, after: bool) -> Iterator[list[int]]:
    """Every change of the file system counts as a step; at `step` the process dies, and does no more."""
    steps = [0]

    def deadly(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            steps[0] += 1
            if steps[0] > step or (steps[0] == step and not after):
                raise Killed
            result = function(*args, **options)
            if steps[0] == step:
                raise Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "link", "unlink", "mkdir", "fsync"):
            patch.setattr(os, name, deadly(getattr(os, name)))
        yield steps


def count_steps(tmp_path: Path) -> int:
    folder = Folder(str(tmp_path / "count"))
    with killed_at(10**9, after=False) as steps:
        run(folder, make_plan())
    return steps[0]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_of_a_first_run(tmp_path: Path, after: bool) -> None:
    plan = make_plan()
    n_steps = count_steps(tmp_path)
    assert n_steps > 30
    for step in range(1, n_steps + 1):
        folder = Folder(str(tmp_path / f"{after}-{step}"))
        with killed_at(step, after=after), pytest.raises(Killed):
            run(folder, plan)
        assert read(folder) in (None, rows_of(folder, plan))
        run(folder, plan)
        assert read(folder) == rows_of(folder, plan)
        assert read(folder, "thumbnails") == [shard.id for shard in plan.shards]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=4))
def test_killed_again_and_again_while_a_new_version_is_made(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[tuple[int, bool]]
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("run")))
    old, new = make_plan(1), make_plan(2)
    run(folder, old)
    for step, after in deaths:
        try:
            with killed_at(step, after=after):
                run(folder, new)
        except Killed:
            pass
        assert read(folder) in (rows_of(folder, old), rows_of(folder, new))
    receipts_before = find_receipts(folder, new)
    run(folder, new)
    assert read(folder) == rows_of(folder, new)
    assert receipts_before.items() <= find_receipts(folder, new).items(), "a finished shard was done again"


def test_readers_open_only_what_the_snapshot_lists(folder: Folder) -> None:
    plan = make_plan()
    run(folder, plan)
    stray = f"tables/selection/{plan.id}/stray.parquet"
    folder.write(stray, folder.read(snapshots.load(folder, "selection", 1).files[0].file))
    assert read(folder) == rows_of(folder, plan)


def test_old_snapshots_stay_readable(folder: Folder) -> None:
    old, new = make_plan(1), make_plan(2)
    run(folder, old)
    run(folder, new)
    table = open_table(folder, snapshots.load(folder, "selection", 1))
    assert table.to_table()["image_id"].to_pylist() == rows_of(folder, old)
    assert snapshots.numbers(folder, "selection") == [1, 2]
    with pytest.raises(InputError, match="no snapshot 7 of selection; there are: 1, 2"):
        snapshots.load(folder, "selection", 7)


def test_a_large_table_becomes_several_files(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camtrap_batch.store.tables._ROWS_OF_A_FILE", 1)
    plan = make_plan()
    run(folder, plan)
    assert read(folder) == rows_of(folder, plan)
    assert len(snapshots.load(folder, "selection", 1).files) == 6


def test_two_drivers_at_once_make_one_result(folder: Folder) -> None:
    plan = make_plan()
    run(folder, plan)
    receipts = all_settled(plan, find_receipts(folder, plan))
    commit_plan(folder, plan, receipts, TABLES, inputs={})  # as a driver does that was a moment earlier
    assert read(folder) == rows_of(folder, plan)
    assert snapshots.numbers(folder, "selection") == [1, 2]


def test_rows_in_are_rows_out(folder: Folder) -> None:
    plan = make_plan()
    short = selection_rows(plan.shards[0]).slice(0, 1)
    with pytest.raises(BrokenPromise, match="2 rows in and 1 rows out"):
        finish_shard(
            folder,
            (plan.stage, plan.id),
            plan.shards[0],
            {"selection": short},
            counts={},
            seconds={},
            started=0,
        )
    assert find_receipts(folder, plan) == {}
    run(folder, plan)
    receipts = all_settled(plan, find_receipts(folder, plan))
    with pytest.raises(BrokenPromise, match="6 rows in, 4 rows out; nothing was committed"):
        commit_plan(folder, plan, receipts[:2], TABLES, inputs={})
    assert snapshots.numbers(folder, "selection") == [1]


def test_table_is_a_dataset_with_pandas_and_dask(folder: Folder) -> None:
    run(folder, make_plan())
    table = open_table(folder, snapshots.load(folder, "selection", 1))
    frame = table.to_pandas()
    assert list(frame.columns) == SCHEMAS["selection"].names
    assert table.to_dask(columns=["image_id"]).compute()["image_id"].tolist() == frame["image_id"].tolist()
    assert table.count_rows() == 6
