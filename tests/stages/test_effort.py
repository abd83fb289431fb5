"""Deployments from the job file to the tables: what is refused before anything runs, and what is found."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import support_runs
from PIL import Image
from support_runs import Row, run_on_driver

from camtrap_batch import Run, open_run
from camtrap_batch.cli import main
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.job import Job
from camtrap_batch.memory import Handover
from camtrap_batch.pipeline import Context
from camtrap_batch.stages.validate.findings import add_findings

CAMERAS = "location,latitude,longitude,start,end\n"
START = dt.datetime(2021, 3, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job of two cameras, whose photos nobody has to open."""
    for name in ("A/a.jpg", "B/b.jpg"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True)
        file.touch()
    (tmp_path / "job.yaml").write_text(
        f"name: run\noutput: {tmp_path}\n"
        "dataset: {format: folder, images: images, location: {level: 0}, cameras: cameras.csv, "
        "outages: outages.csv}\n"
    )
    (tmp_path / "outages.csv").write_text("location,start,end\n")
    return tmp_path


@pytest.mark.parametrize(
    ("cameras", "outages", "problem"),
    [
        (
            "A,0,0,2021-03-11,2021-03-01\n",
            "",
            "cameras.csv:2: end: 2021-03-01 12:00 should be after the start",
        ),
        ("A,,0,2021-03-01,2021-03-11\n", "", "cameras.csv:2: latitude: '' should be degrees"),
        (
            "A,0,0,2021-03-01,2021-03-11\n",
            "A,2021-03-10,2021-03-15\n",
            "outages.csv:2: the outage from 2021-03-10 12:00 to 2021-03-15 12:00 is not within a deployment",
        ),
        (
            "A,0,0,2021-03-01,2021-03-11\n",
            "X,2021-03-10,2021-03-15\n",
            "outages.csv:2: location: 'X' has neither a camera nor an image (dataset.outages)",
        ),
    ],
)
def test_refused_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], cameras: str, outages: str, problem: str
) -> None:
    (folder / "cameras.csv").write_text(CAMERAS + cameras)
    (folder / "outages.csv").write_text("location,start,end\n" + outages)
    assert main(["catalog", str(folder / "job.yaml"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert len(said.strip().splitlines()) == 1


def test_two_deployments_at_once_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "A,0,0,2021-03-01,2021-03-11\nA,0,0,2021-03-06,2021-03-16\n"
    (folder / "cameras.csv").write_text(CAMERAS + rows)
    assert main(["catalog", str(folder / "job.yaml")]) == 0
    assert "cameras.csv:3: 'A' has a deployment from 2021-03-06 12:00" in capsys.readouterr().err


def test_a_camera_without_a_place_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cameras.csv").write_text(CAMERAS + "A,0,0,,\nB,,,2021-03-06,2021-03-16\nC,,,,\n")
    assert main(["catalog", str(folder / "job.yaml")]) == 0
    assert (
        "cameras.csv:3: 'B' has no coordinates (cameras without: 2); it is left out of"
        in capsys.readouterr().err
    )


def test_what_several_stages_have_to_say_is_said_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cameras.csv").write_text(CAMERAS + "A,,,,\n")
    for path in (folder / "images").rglob("*.jpg"):
        Image.new("RGB", (40, 30)).save(path)
    job = str(folder / "job.yaml")
    assert main(["reprocess", job, "--cluster", "inline", "--set", "infer.model=none"]) == 0
    assert capsys.readouterr().err.count("'A' has no coordinates") == 1


def run_of(folder: Path, rows: list[Row], cameras: str) -> tuple[Path, Run]:
    (folder / "cameras.csv").write_text(CAMERAS + cameras)
    job = support_runs.write_run(folder, rows, dataset={"cameras": "cameras.csv"})
    return job, open_run(job)


def findings(job: Path) -> list[Row]:
    loaded = Job.load(job)
    nobody: Any = None
    add_findings(Context(loaded, Run(loaded), GivenExecutor(nobody)), Handover())
    return support_runs.table(job, "findings")


def test_checks_are_findings(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"image_id": f"a{day}", "location": "A", "datetime": START + dt.timedelta(days=day)}
        for day in (0, 5, 40)
    ]
    rows.append({"image_id": "broken", "location": "A", "datetime": START, "status": "corrupt"})
    job, _ = run_of(tmp_path, rows, "A,0,0,2021-03-02,2021-04-20\nB,1,1,2021-03-02,2021-03-10\n")
    found = [(row["kind"], row["location"], row["image_id"]) for row in findings(job)]
    assert found == [
        ("outside_deployment", "A", "a0"),
        ("no_images", "B", None),
        ("silence", "A", "a40"),
    ]
    assert open_run(job).snapshot("findings").meta["kinds"] == {
        "outside_deployment": 1, "no_images": 1, "silence": 1,
    }  # fmt: skip


def test_vegetation_is_a_finding_where_photos_are_annotated(tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "image_id": f"a{n:03}",
            "location": "A",
            "datetime": START + dt.timedelta(minutes=5 * n),
            "truth": "empty",
        }
        for n in range(120)
    ]
    rows[0]["truth"] = None
    rows += [
        {"image_id": "later", "location": "A", "datetime": START + dt.timedelta(days=3), "truth": "empty"}
    ]
    job, _ = run_of(tmp_path, rows, "A,0,0,2021-03-01,2021-03-05\n")
    job.write_text(job.read_text() + "select: {empty: {class: Empty}}\n")
    (found,) = findings(job)
    assert (found["kind"], found["image_id"]) == ("many_empty", "a001")
    assert found["detail"].startswith("more than 100 empty images on 1 of 2 days, at most 119")


def test_without_deployments_findings_are_what_they_were(tmp_path: Path) -> None:
    """The ids of their shards, too: an old run folder need not be checked again."""
    rows: list[Row] = [{"image_id": "a", "location": "A", "datetime": START}]
    job = support_runs.write_run(tmp_path, rows)
    assert findings(job) == []
    before = open_run(job).snapshot("findings").plan_id
    (tmp_path / "cameras.csv").write_text("location,latitude,longitude\nA,0,0\n")
    text = job.read_text().replace("images: images", "images: images\n  cameras: cameras.csv")
    job.write_text(text)
    findings(job)
    assert open_run(job).snapshot("findings").plan_id == before


def test_merge_has_the_checks_and_the_days(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"image_id": f"a{day}", "location": "A", "datetime": START + dt.timedelta(days=day), "truth": "lion"}
        for day in (1, 5, 40)
    ]
    job, _ = run_of(tmp_path, rows, "A,0,0,2021-03-02,2021-04-20\n")
    support_runs.predict(job, {row["image_id"]: {"lion": 0.9, "empty": 0.1} for row in rows})
    run_on_driver(job, "merge", "select.empty.class=empty")
    [row] = support_runs.table(job, "deployments")
    assert (row["days"], row["n_images"], row["source"]) == (49, 3, "cameras")
    assert [text[:20] for text in row["checks"]] == ["no image for 35 days"]
