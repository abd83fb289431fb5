"""What is printed when a job is done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from camtrap_batch import Job
from camtrap_batch.monitor.summary import summary
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot, commit
from camtrap_batch.vocabulary import FINDING_KINDS


def printed(run: Run) -> str:
    console = Console(width=150)
    with console.capture() as captured:
        for part in summary(run):
            console.print(part)
    return captured.get()


def test_findings_by_kind(tmp_path: Path) -> None:
    dataset = {"format": "folder", "images": str(tmp_path / "images")}
    run = Run(Job.parse({"name": "run", "output": str(tmp_path), "dataset": dataset}, base=tmp_path))
    assert printed(run) == ""
    for kinds in ({}, {"near_duplicate": 1234}):
        meta = {"kinds": kinds}
        commit(
            run.folder, Snapshot("findings", 0, "p", "findings", (), sum(kinds.values()), 0, {}, {}, "", meta)
        )
        text = printed(run)
        assert ("Findings" in text) == bool(kinds)
    assert "1,234" in text
    assert FINDING_KINDS["near_duplicate"] in text
    assert "exact_duplicate" not in text
