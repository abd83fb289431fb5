"""Tables that are made when they are asked for: the survey, its species, species at stations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support_exports import image, write_run

from camtrap_batch.cli import main
from camtrap_batch.survey.tables import rate

DAY = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end\n"
        "A,-24.25,31.5,2021-04-11,2021-04-21\n"
        "B,51.5,0,2021-04-12,2021-05-02\n"
        "C,51.5,1,2021-04-12,2021-04-22\n"
    )
    rows = [
        image("a0", 0, "lion"),
        image("a1", 60, "lion"),
        image("a2", 9 * DAY, "lion"),
        image("b0", 2 * DAY, "human", location="B"),
        image("b1", 8 * DAY, "oryx", location="B", probs={"oryx": 0.6, "lion": 0.4}),
        image("b2", 9 * DAY, "lion", location="B"),
        image("b3", 9 * DAY + 60, "empty", location="B"),
    ]
    write_run(tmp_path, rows, cameras="cameras.csv")
    return tmp_path


def table(folder: Path, name: str, *options: str) -> list[dict[str, str]]:
    out = folder / f"{name}.csv"
    assert main(["table", str(folder / "job.yaml"), name, "--out", str(out), *options]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_survey(folder: Path) -> None:
    [row] = table(folder, "survey")
    assert (row["stations"], row["trap_nights"], row["trap_nights_from_images"]) == ("3", "40", "0")
    assert (row["stations_without_an_image"], row["images"], row["deployments"]) == ("1", "7", "3")
    assert (row["events"], row["species"]) == ("4", "2")
    assert row["first_day"].startswith("2021-04-11 12:00")
    assert row["last_day"].startswith("2021-05-02 12:00")
    assert json.loads(row["counted"])["people"] is False
    [row] = table(folder, "survey", "--people", "--min-confidence", "0.7")
    assert (row["events"], row["species"]) == ("4", "2")
    assert json.loads(row["counted"])["min_confidence"] == 0.7


def test_species(folder: Path) -> None:
    """Three stations, one of which saw nothing, and 40 days."""
    lion, oryx = table(folder, "species")
    assert (lion["label"], lion["events"], lion["stations"]) == ("lion", "3", "2")
    assert float(lion["naive_occupancy"]) == pytest.approx(2 / 3)
    assert float(lion["events_per_100_trap_nights"]) == pytest.approx(100 * 3 / 40)
    assert float(lion["low"]) < 7.5 < float(lion["high"])
    assert lion["effort_source"] == "cameras"
    assert (oryx["label"], oryx["events"], oryx["first"][:10]) == ("oryx", "1", "2021-04-19")
    assert {row["label"] for row in table(folder, "species", "--people")} == {"lion", "oryx", "human"}
    assert [row["label"] for row in table(folder, "species", "--species", "oryx")] == ["oryx"]


def test_station_species(folder: Path) -> None:
    rows = table(folder, "station_species")
    assert [(row["location"], row["label"], row["events"]) for row in rows] == [
        ("A", "lion", "2"),
        ("B", "lion", "1"),
        ("B", "oryx", "1"),
    ]
    assert [float(row["events_per_100_trap_nights"]) for row in rows] == [20, 5, 5]


def test_parquet_says_what_counted(folder: Path) -> None:
    out = folder / "species.parquet"
    command = ["table", str(folder / "job.yaml"), "species", "--out", str(out), "--min-confidence", "0.7"]
    assert main(command) == 0
    metadata = pq.read_schema(out).metadata
    assert json.loads(metadata[b"counted"])["min_confidence"] == 0.7


def test_no_such_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(folder / "job.yaml"), "specie", "--out", str(folder / "x.csv")]) == 2
    assert "no table 'specie'; did you mean 'species'?" in capsys.readouterr().err


def test_without_known_effort(tmp_path: Path) -> None:
    """Days that rest on photos are days, and say so."""
    write_run(tmp_path, [image("a"), image("b", 2 * DAY)])
    [row] = table(tmp_path, "survey")
    assert (row["trap_nights"], row["trap_nights_from_images"]) == ("3", "3")
    assert row["stations_without_known_effort"] == "1"  # B, which has no image
    assert table(tmp_path, "species")[0]["effort_source"] == "images"


def test_rate_covers() -> None:
    """Of surveys in which stations differ, 95 % intervals hold the rate nearly as often as they say."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        days = rng.uniform(20, 60, 60)
        of_station = rng.gamma(1.0, 0.1, 60)  # events a day
        _, low, high = rate(rng.poisson(of_station * days).astype(float), days)
        held += low <= 10 <= high
    assert 0.92 <= held / 1000 <= 0.97


def test_rate_of_one_station() -> None:
    found = rate(np.array([25.0]), np.array([100.0]))
    assert found[0] == 25
    assert found[1:] == pytest.approx((16.89, 37.0), abs=0.01)
    assert np.isnan(rate(np.array([0.0]), np.array([100.0]))[1])
    assert np.isnan(rate(np.zeros(0), np.zeros(0))[0])
