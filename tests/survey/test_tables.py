"""Tables that are made when they are asked for: the survey, its species, species at stations."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import support_runs
from support_exports import image, write_run
from support_survey import IMAGES, cameras

from camtrap_batch.cli import main
from camtrap_batch.survey.derived import DERIVED, SPECIES, STATION_SPECIES, SURVEY, rate
from camtrap_batch.survey.effort import make_deployments, rated_events, watched_events
from camtrap_batch.survey.estimates import (
    ACCUMULATION,
    ACTIVITY,
    ESTIMATES,
    OCCUPANCY,
    OVERLAP,
    RICHNESS,
    times_of_day,
)

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


def test_events_outside_of_the_effort_have_no_rate(tmp_path: Path) -> None:
    """As the table `occupancy` does not count them; a date alone is the whole day."""
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end\nA,-24.25,31.5,2021-04-11,2021-04-21\n"
    )
    rows = [image("a0", 0, "oryx"), image("a1", 9 * DAY, "oryx"), image("a2", 60 * DAY, "lion")]
    write_run(tmp_path, rows, cameras="cameras.csv")
    oryx, lion = table(tmp_path, "species")
    assert (lion["label"], lion["events"], lion["events_outside_effort"]) == ("lion", "1", "1")
    assert (lion["stations"], float(lion["naive_occupancy"])) == ("0", 0)
    assert float(lion["events_per_100_trap_nights"]) == 0
    assert (oryx["events_outside_effort"], float(oryx["events_per_100_trap_nights"])) == ("0", 20)
    lion, oryx = table(tmp_path, "station_species")
    assert (lion["events_outside_effort"], float(lion["events_per_100_trap_nights"])) == ("1", 0)
    [place] = support_runs.table(tmp_path / "job.yaml", "locations")
    assert (place["n_events"], place["camera_days"], place["detections_per_100_days"]) == (3, 10, 20)


def test_a_date_alone_is_any_time_of_its_day(tmp_path: Path) -> None:
    """On the day of a setup at nine it counts, and it is no part of activity."""
    periods = cameras(tmp_path, "A,0,0,2021-04-11 09:00,2021-04-21 09:00", "B,0,0,2021-04-11,")
    deployments, _ = make_deployments(IMAGES.empty_table(), periods)
    start = [dt.datetime(2021, 4, day) for day in (10, 11, 11, 21, 22, 11)]
    events = pa.table(
        {
            "location": [*"AAAAAB"],
            "start": pa.array(start, pa.timestamp("us")),
            "date_only": [True, True, None, True, True, True],
            "label": ["lion"] * 6,
        }
    )
    assert watched_events(events, deployments).tolist() == [False, True, False, True, False, False]
    # Where no days are known, there is no rate to keep anything out of.
    assert rated_events(events, deployments).tolist() == [False, True, False, True, False, True]
    assert len(times_of_day(events)["lion"]) == 1


def test_station_species(folder: Path) -> None:
    rows = table(folder, "station_species")
    assert [(row["location"], row["label"], row["events"]) for row in rows] == [
        ("A", "lion", "2"),
        ("B", "lion", "1"),
        ("B", "oryx", "1"),
    ]
    assert [float(row["events_per_100_trap_nights"]) for row in rows] == [20, 5, 5]


def test_estimates(folder: Path) -> None:
    """Three stations are too few for anything: empty figures, and why."""
    lion, oryx = table(folder, "occupancy")
    assert (lion["label"], lion["stations"], lion["days_per_occasion"]) == ("lion", "3", "7")
    assert float(lion["naive_occupancy"]) == pytest.approx(2 / 3)
    assert lion["remark"].startswith("3 stations: fewer than 10; detected at 2 stations")
    assert (oryx["occupancy"], oryx["remark"]) == (
        "",
        "not fitted: no station has two detections: detection can't be told from occupancy",
    )
    assert table(folder, "occupancy", "--days", "1")[0]["days_per_occasion"] == "1"
    assert [row["remark"] for row in table(folder, "activity")] == ["fewer than 20 events"] * 2
    [pair] = table(folder, "overlap")
    assert (pair["label"], pair["other"], pair["remark"]) == (
        "lion",
        "oryx",
        "one of them has fewer than 20 events",
    )
    [row] = table(folder, "richness")
    assert (row["observed"], row["remark"]) == ("2", "not estimated: fewer than 5 stations")
    assert table(folder, "accumulation") == []


def test_estimates_of_more(tmp_path: Path) -> None:
    """Twelve stations; lions at eight of them, at night, and oryx at day."""
    rows = []
    for number in range(12):
        name = f"S{number:02}"
        rows += [
            image(f"{name}-{day}", day * DAY + 900 * number + 600 * day, "lion", location=name)
            for day in range(9)
            if number < 8
        ]
        rows += [
            image(f"{name}o{day}", day * DAY + 16 * 3600, "oryx", location=name)
            for day in range(10)
            if number % 2
        ]
        rows += [image(f"{name}e{day}", day * DAY, "empty", location=name) for day in (0, 10)]
    (tmp_path / "job").mkdir()
    folder = tmp_path / "job"
    places = {f"S{number:02}": (float(number), 1.0) for number in range(12)}
    write_run(folder, rows, places=places)
    lion, _ = table(folder, "occupancy")
    assert float(lion["occupancy"]) == pytest.approx(8 / 12, abs=0.05)
    assert float(lion["occupancy_low"]) < 8 / 12 < float(lion["occupancy_high"])
    assert lion["effort_source"] == "images"
    curve = [row for row in table(folder, "activity") if row["label"] == "lion"]
    assert len(curve) == 48
    assert float(max(curve, key=lambda row: float(row["density"]))["hour"]) == pytest.approx(21.5, abs=1.5)
    assert sum(float(row["density"]) for row in curve) / 2 == pytest.approx(1, abs=0.02)
    [pair] = table(folder, "overlap")
    assert float(pair["overlap"]) < 0.2
    [row] = table(folder, "richness")
    assert (row["observed"], float(row["chao2"])) == ("2", 2.0)
    assert float(table(folder, "accumulation")[-1]["species"]) == pytest.approx(2)


def test_parquet_says_what_counted(folder: Path) -> None:
    out = folder / "species.parquet"
    command = ["table", str(folder / "job.yaml"), "species", "--out", str(out), "--min-confidence", "0.7"]
    assert main(command) == 0
    metadata = pq.read_schema(out).metadata
    assert json.loads(metadata[b"counted"])["min_confidence"] == 0.7


def test_the_reference_lists_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
    section = text.split("\n## Tables of a survey\n")[1]
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)` \| \S", section, re.MULTILINE)
    schemas = {"survey": SURVEY, "species": SPECIES, "station_species": STATION_SPECIES}
    schemas |= {"occupancy": OCCUPANCY, "activity": ACTIVITY, "overlap": OVERLAP}
    schemas |= {"accumulation": ACCUMULATION, "richness": RICHNESS}
    assert set(schemas) == {*DERIVED, *ESTIMATES}
    assert listed == [(table, name) for table, schema in schemas.items() for name in schema.names]


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


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_options_stand_in_the_files(tmp_path: Path, ending: str) -> None:
    """Whichever table: of which result it is, and which events count, as `camtrap table` was told."""
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end\nA,1,1,2021-04-10,2021-05-10\nB,1,2,2021-04-10,2021-05-10\n"
    )
    rows = [
        image("sure", 0, "lion"),
        image("unsure", 50_000, "lion", probs={"lion": 0.55, "oryx": 0.45}),
        image("person", 100_000, "human"),
        image("other", 100_000, "oryx", location="B"),
    ]
    write_run(tmp_path, rows, cameras="cameras.csv")
    job = str(tmp_path / "job.yaml")

    def made(name: str, *options: str) -> list[dict[str, Any]]:
        out = tmp_path / f"{name}.{ending}"
        assert main(["table", job, name, "--out", str(out), *options]) == 0
        table = pyarrow.csv.read_csv(out) if ending == "csv" else pq.read_table(out)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    species = made("species", "--min-confidence", "0.7", "--people")
    assert {row["label"]: row["events"] for row in species} == {"lion": 1, "human": 1, "oryx": 1}
    told = {"min_confidence": 0.7, "people": True, "groups": False, "labels": "all", "species": []}
    assert [(json.loads(row["counted"]), row["result_of_merge"]) for row in species] == [(told, 1)] * 3
    assert {row["label"]: row["events"] for row in made("species")} == {"lion": 2, "oryx": 1}
    (lion,) = made("station_species", "--species", "lion")
    assert (lion["location"], lion["events"], lion["camera_days"]) == ("A", 2, 30)
    assert json.loads(lion["counted"])["species"] == ["lion"]
    (survey,) = made("survey", "--labels", "machine")
    assert (survey["trap_nights"], survey["stations"], survey["events"]) == (60, 2, 3)
    assert json.loads(survey["counted"])["labels"] == "machine"
    assert not made("species", "--labels", "human")
    occupancy = made("occupancy", "--days", "5")
    assert json.loads(occupancy[0]["counted"])["days"] == 5
