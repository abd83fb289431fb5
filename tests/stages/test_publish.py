"""camtrap publish to a file: what it refuses to delete, and how it is told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support_runs import predict, run_on_driver, write_run

from camtrap_batch.cli import main

pytest.importorskip("pyogrio", reason="the extra 'geo' is not installed")


def merged(folder: Path, n: int, label: str = "lion") -> Path:
    job = write_run(
        folder, [{"image_id": f"i{number:02}", "location": f"C{number % 2}"} for number in range(n)]
    )
    predict(job, {f"i{number:02}": {label: 0.9} for number in range(n)})
    run_on_driver(job, "merge")
    return job


def photos(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "run" / "locations.gpkg")) as db:
        (n,) = db.execute("SELECT count(*) FROM photos").fetchone()
    return int(n)


def test_a_push_that_would_delete_much_stops_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = merged(tmp_path, 20)
    assert main(["publish", str(job), "--quiet"]) == 0
    before = (tmp_path / "run" / "locations.gpkg").read_bytes()
    merged(tmp_path, 15)
    capsys.readouterr()
    assert main(["publish", str(job), "--dry-run"]) == 0
    assert "a push stops here" in capsys.readouterr().err
    assert main(["publish", str(job), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "photos: 5 of the 20 rows" in error
    assert "limits.deleted (0.2)" in error
    assert error.count("\n") == 1
    assert (tmp_path / "run" / "locations.gpkg").read_bytes() == before
    assert main(["publish", str(job), "--quiet", "--set", "limits.deleted=1"]) == 0
    assert photos(tmp_path) == 15


def test_a_few_deletions_and_an_older_result_need_no_word(tmp_path: Path) -> None:
    job = merged(tmp_path, 8)
    merged(tmp_path, 20)
    assert main(["publish", str(job), "--quiet"]) == 0
    assert photos(tmp_path) == 20
    merged(tmp_path, 17)
    assert main(["publish", str(job), "--quiet"]) == 0
    assert photos(tmp_path) == 17
    assert main(["publish", str(job), "--quiet", "--snapshot", "1"]) == 0
    assert photos(tmp_path) == 8
