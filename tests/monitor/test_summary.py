"""What is printed when a job is done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from support_exports import image, write_run

from camtrap_batch import Job
from camtrap_batch.monitor.summary import summary
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot, commit
from camtrap_batch.vocabulary import FINDING_KINDS


def printed(run: Run, width: int = 150) -> str:
    console = Console(width=width)
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


def test_names_of_cameras_are_whole_at_80_columns(tmp_path: Path) -> None:
    name = "2023_Virunga-national-park_northern-sector_station_0042B"
    label = "philantomba-monticola-of-the-eastern-forests"
    rows = [image(f"i{n}", 3600 * n, label, location=name, seq_id=f"s{n}") for n in range(3)]
    run = write_run(tmp_path, rows, places={name: (1.0, 2.0)})
    lines = printed(run, 80).split("Species per camera")[1].splitlines()
    assert max(map(len, lines)) <= 80
    rows_of = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")
    ]
    assert "".join(row[0] for row in rows_of) == name
    assert "".join(row[4] for row in rows_of).replace(" ", "") == f"{label}3"
    assert "…" not in "".join(lines)


def test_people_and_vehicles_are_no_species(tmp_path: Path) -> None:
    run = write_run(tmp_path, [image("a0", 0, "lion"), image("b0", 86_400, "vehicle", location="B")])
    lines = [line.strip("│").split("│") for line in printed(run).splitlines() if line.startswith("│")]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert rows["A"] == ["1", "1", "1", "lion 1", "0"]
    assert rows["B"] == ["1", "1", "0", "vehicle 1", "0"]
