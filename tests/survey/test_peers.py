"""Figures of another program on the same data: met, or the difference is one that docs/effort.md explains.

CamTrapTools 0.8.1 (PyPI, MIT), `camtraptools ecology` on the official Camtrap DP example, run once; its
figures are written down here.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import support_runs
from support_runs import run_on_driver

from camtrap_batch import open_run
from camtrap_batch.catalog import reader_of
from camtrap_batch.cli import main
from camtrap_batch.job import Job

THEIRS = {
    "Anas platyrhynchos": (15, 2, 0.50),
    "Mustela putorius": (3, 1, 0.25),
    "Anas strepera": (2, 1, 0.25),
    "Rattus norvegicus": (2, 1, 0.25),
    "Ardea cinerea": (1, 1, 0.25),
    "Martes foina": (1, 1, 0.25),
    "Vulpes vulpes": (1, 1, 0.25),
}
"""Species -> events, sites at which it was recorded, naive occupancy; and 78 camera days at 4 sites."""
CAMERA_DAYS = {"e254a13c": 33, "2df5259b": 11, "ff1535c0": 11, "ce943ced": 23}


@pytest.fixture
def job(camtrap_dp_example: Path, tmp_path: Path) -> Path:
    """A run of the example with the labels that people gave its pictures, all of them."""
    dataset = {"format": "camtrap-dp", "metadata": str(camtrap_dp_example), "images": str(camtrap_dp_example)}
    job = support_runs.write_run(tmp_path, [], dataset=dataset, select={"empty": {"class": "empty"}})
    catalog = reader_of(Job.load(job).dataset).read()
    rows = [row | {"status": "ok", "format": "JPEG"} for row in catalog.table.to_pylist()]
    shutil.rmtree(tmp_path / "run")
    run = open_run(job)
    support_runs.commit(run, "catalog", "catalog", rows, {}, categories=catalog.categories)
    inputs = {"catalog": run.snapshot("catalog").number}
    support_runs.commit(run, "validate", "manifest", rows, inputs)
    support_runs.predict(job, {row["image_id"]: {"empty": 0.9} for row in rows})
    assert main(["corrections", str(job), str(camtrap_dp_example / "datapackage.json")]) == 0
    run_on_driver(job, "merge")
    return job


def table(job: Path, name: str) -> list[dict[str, str]]:
    out = job.parent / f"{name}.csv"
    assert main(["table", str(job), name, "--out", str(out)]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_events_and_naive_occupancy(job: Path, camtrap_dp_example: Path) -> None:
    ours = {row["label"]: row for row in table(job, "species")}
    for name, (events, sites, naive) in THEIRS.items():
        assert (int(ours[name]["stations"]), float(ours[name]["naive_occupancy"])) == (sites, naive)
        if name != "Anas platyrhynchos":
            assert int(ours[name]["events"]) == events
    # It counts rows of the package: males, females and young of one event have one each. Ours are events.
    with (camtrap_dp_example / "observations.csv").open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["observationLevel"] == "event" and row["scientificName"] == "Anas platyrhynchos"
        ]
    assert len(rows) == THEIRS["Anas platyrhynchos"][0]
    assert len({row["eventID"] for row in rows}) == int(ours["Anas platyrhynchos"]["events"]) == 12
    # It leaves out `Aves`, which is no species; ours is a label like others, without a taxonomy.
    assert set(ours) - set(THEIRS) == {"Aves"}


def test_effort(job: Path) -> None:
    """It counts each calendar day that a deployment touches; ours is the time that it lasted."""
    deployments = support_runs.table(job, "deployments")
    assert {row["location"] for row in deployments} == set(CAMERA_DAYS)
    for row in deployments:
        touched = (row["end"].date() - row["start"].date()).days + 1
        assert touched == CAMERA_DAYS[row["location"]]
        assert touched - 2 < row["days"] < touched
    (survey,) = table(job, "survey")
    assert float(survey["trap_nights"]) == pytest.approx(sum(row["days"] for row in deployments))
    assert sum(CAMERA_DAYS.values()) == 78
