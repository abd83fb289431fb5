"""What goes wrong around the images is not committed as what the images are, and heals by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import run_of

pytestmark = pytest.mark.timeout(240)


Do = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def do(old: Path, camtrap: Do) -> Do:
    """Does a stage of the old job, with assignments, in this process."""

    def run(stage: str, *assignments: str) -> subprocess.CompletedProcess[str]:
        options = [part for each in (f"output={old}", *assignments) for part in ("--set", each)]
        return camtrap(stage, old / "job.yaml", "--cluster", "inline", *options)

    return run


def usable(folder: Path) -> list[Path]:
    rows = run_of(folder).table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    return [folder / "data" / "images" / row["file_name"] for row in rows if row["status"] == "ok"]


def counts(folder: Path, table: str) -> dict[str, int]:
    return run_of(folder).snapshot(table).counts


class Hidden:
    """Files that are not there until the block is left."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __enter__(self) -> None:
        for path in self.paths:
            path.rename(path.with_name(f"{path.name}.hidden"))

    def __exit__(self, *exception: object) -> None:
        for path in self.paths:
            path.with_name(f"{path.name}.hidden").rename(path)


@pytest.fixture
def old(old: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(old)  # to which its output is relative
    return old


def test_validate_stops_where_much_of_what_was_usable_is_gone(old: Path, do: Do) -> None:
    before = run_of(old).snapshot("manifest")
    with Hidden(usable(old)[:10]):
        stopped = do("validate")
        assert stopped.returncode == 1, stopped.stderr
        (line,) = [line for line in stopped.stderr.splitlines() if line.startswith("camtrap: ")]
        assert "validate: 10 of 56 images that were there" in line or "validate: 10 of " in line
        assert "missing 10" in line
        assert "limits.lost: 0.02 allows; all of them are no longer in the folder" in line
        assert "--set limits.lost=1" in line
        assert run_of(old).snapshot("manifest") == before
        assert do("validate", "limits.lost=1").returncode == 0
        assert counts(old, "manifest")["missing"] == before.counts["missing"] + 10
        assert "nothing to do" in do("validate").stderr  # nor is it asked again
    assert do("validate").returncode == 0
    assert counts(old, "manifest") == before.counts


def test_a_few_that_are_gone_are_what_they_are(old: Path, do: Do) -> None:
    before = counts(old, "manifest")
    with Hidden(usable(old)[:2]):
        done = do("validate")
        assert done.returncode == 0, done.stderr
    assert counts(old, "manifest")["missing"] == before["missing"] + 2


def test_infer_stops_where_much_is_gone_and_what_failed_heals(old: Path, do: Do) -> None:
    """Without thumbnails it reads the images themselves."""
    originals = ("validate.thumbnails=0", "infer.precision=float32")
    assert do("validate", *originals).returncode == 0
    before, paths = run_of(old).snapshot("predictions"), usable(old)
    with Hidden(paths[:10]):
        stopped = do("infer", *originals)
        assert stopped.returncode == 1, stopped.stderr
        assert "infer: 10 of 46 images that were there can't be read now (unreadable 10)" in stopped.stderr
        assert run_of(old).snapshot("predictions") == before
    with Hidden(paths[:2]):
        done = do("infer", *originals)
        assert done.returncode == 0, done.stderr
        assert counts(old, "predictions") == {"ok": 44, "unreadable": 2}
        failed = run_of(old).snapshot("predictions")
        again = do("infer", *originals)  # in vain
        assert "shards run now" in again.stderr
        assert "nothing to do" not in again.stderr
        assert run_of(old).snapshot("predictions").number == failed.number
    done = do("infer", *originals)
    assert done.returncode == 0, done.stderr
    assert counts(old, "predictions") == {"ok": 46}
    assert run_of(old).snapshot("predictions").plan_id != failed.plan_id
    assert "nothing to do" in do("infer", *originals).stderr
