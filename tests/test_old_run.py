"""A run folder made by commit 6a7384e is read, continued with no shard done again, and pushed unchanged."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import receipts, run_of

from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.vocabulary import USABLE

pytestmark = pytest.mark.timeout(240)

NOBODY = ("--cluster", "tcp://127.0.0.1:1")  # an address at which nobody answers

ROWS = {
    "catalog": 56,
    "manifest": 56,
    "thumbnails": 46,
    "findings": 13,
    "selection": 56,
    "predictions": 46,
    "frames": 46,
    "sequences": 19,
    "events": 16,
    "locations": 4,
    "ledger": 66,
}


Do = Callable[..., list[str]]


@pytest.fixture
def do(old: Path, camtrap: Callable[..., subprocess.CompletedProcess[str]]) -> Do:
    """Does the command; returns the lines of what it says, which must be that all is well."""

    def run(name: str, *options: str) -> list[str]:
        done = camtrap(name, old / "job.yaml", "--set", f"output={old}", *options)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    return run


def line_of(lines: list[str], stage: str) -> str:
    return next(line for line in lines if line.startswith(f"{stage} "))


def test_every_table_is_read(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    run = run_of(old)
    for name, rows in ROWS.items():
        table = run.table(name).to_table()
        assert table.num_rows == rows, name
        assert table.schema.names == SCHEMAS[name].names
    manifest = run.table("manifest").to_table(columns=["image_id", "status"]).to_pylist()
    usable = [row["image_id"] for row in manifest if row["status"] in USABLE]
    assert run.table("predictions").to_table(columns=["image_id"])["image_id"].to_pylist() == usable
    assert len(usable) == 46


def layers(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(folder / "run" / "locations.gpkg") as database:
        return {
            name: database.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in ("cameras", "events", "photos")
        }


def test_a_whole_job_needs_no_worker_and_pushes_nothing(old: Path, do: Do) -> None:
    before = layers(old)
    lines = do("reprocess", *NOBODY)
    for stage in ("catalog", "validate", "select", "train", "infer", "publish"):
        assert "nothing to do" in line_of(lines, stage)
    assert "          66 rows are up to date" in lines
    assert layers(old) == before
    assert [path.name for path in (old / "run" / "snapshots" / "ledger").glob("*.json")] == ["1.json"]
    assert (old / "run" / "report" / "index.html").is_file()


def test_what_was_done_but_not_committed_is_not_done_again(old: Path, do: Do) -> None:
    """As after a kill between the last shard and the commit: the receipts are there, under the same ids."""
    for table in ("manifest", "thumbnails", "findings", "selection", "predictions"):
        shutil.rmtree(old / "run" / "snapshots" / table)
    before = {stage: receipts(old, stage) for stage in ("validate", "infer", "train", "select", "findings")}
    lines = do("validate", *NOBODY)
    assert " 0 of 5 shards run now" in line_of(lines, "validate")
    for stage in ("select", "train"):
        do(stage, *NOBODY)
    assert " 0 of 4 shards run now" in line_of(do("infer", "--cluster", "inline"), "infer")
    assert {stage: receipts(old, stage) for stage in before} == before


def test_one_new_image_does_one_shard_again(old: Path, do: Do) -> None:
    changed = old / "data" / "images" / "animals" / "0401" / "0006.jpg"
    changed.write_bytes((old / "data" / "images" / "animals" / "0402" / "0013.jpg").read_bytes())
    lines = do("validate", "--cluster", "inline")
    assert re.search(r" 1 of 5 shards run now", line_of(lines, "validate")), lines
    lines = do("infer", "--cluster", "inline")
    assert re.search(r" [12] of 4 shards run now", line_of(lines, "infer")), lines
