"""`camtrap export --to detection-history`: files that R reads, and what they were made by."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path

import pytest
from support_exports import START, image, write_run

from camtrap_batch.cli import main

DAY = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two stations with deployments, one of which comes back; lions, people, and a doubtful oryx."""
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end,habitat,altitude\n"
        "A,-24.25,31.5,2021-04-11,2021-04-21,forest,410\n"
        "A,-24.25,31.5,2021-05-02,2021-05-04,,\n"
        "B,51.5,0,2021-04-12,2021-04-22,,\n"
    )
    rows = [
        image("a0", 0, "lion"),
        image("a1", 60, "lion"),
        image("a2", 9 * DAY, "lion"),
        image("a3", 15 * DAY, "lion"),  # between deployments
        image("b0", 2 * DAY, "human", location="B"),
        image("b1", 8 * DAY, "oryx", location="B", probs={"oryx": 0.6, "lion": 0.4}),
    ]
    write_run(tmp_path, rows, cameras="cameras.csv")
    return tmp_path


def export(folder: Path, *options: str) -> Path:
    out = folder / "histories"
    command = ["export", str(folder / "job.yaml"), "--to", "detection-history", "--out", str(out), *options]
    assert main(command) == 0
    return out


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(folder)
    assert {path.name for path in out.iterdir()} == {
        "detection_history_lion.csv",
        "detection_history_oryx.csv",
        "effort.csv",
        "site_covariates.csv",
        "species.csv",
        "options.json",
    }
    assert read(out / "detection_history_lion.csv") == [
        ["", "o1", "o2", "o3", "o4"],
        ["A", "1", "1", "NA", "0"],
        ["B", "0", "0", "NA", "NA"],
    ]
    assert read(out / "effort.csv") == [
        ["", "o1", "o2", "o3", "o4"],
        ["A", "6.5", "3.5", "NA", "2"],
        ["B", "6.5", "3.5", "NA", "NA"],
    ]
    header, *sites = read(out / "site_covariates.csv")
    assert header == ["station", "longitude", "latitude", "camera_days", "habitat", "altitude"]
    assert sites == [["A", "31.5", "-24.25", "12", "forest", "410"], ["B", "0", "51.5", "10", "", ""]]
    assert read(out / "species.csv")[1] == ["lion", "detection_history_lion.csv", "3", "1"]
    options = json.loads((out / "options.json").read_text())
    assert (options["days"], options["day1"], options["people"]) == (7, "station", False)
    assert (options["events_outside_of_effort"], options["effort_rests_on"]) == (1, {"cameras": 2})
    said = capsys.readouterr().out
    assert "detection histories of 2 species at 2 stations in 4 occasions of 7 days, from 4 events" in said
    assert "1 event left out: no camera worked then, by the deployments, or outside the occasions" in said


def test_options(folder: Path) -> None:
    out = export(
        folder,
        "--days",
        "5",
        "--day1",
        "2021-04-12",
        "--values",
        "events",
        "--min-confidence",
        "0.7",
        "--people",
    )
    assert {path.stem for path in out.glob("detection_history_*")} == {
        "detection_history_lion",
        "detection_history_human",
    }
    assert read(out / "detection_history_human.csv")[2] == ["B", "1", "0", "0", "NA", "NA"]
    assert json.loads((out / "options.json").read_text())["min-confidence"] == 0.7
    out = export(folder, "--species", "oryx")  # over the earlier one
    assert {path.stem for path in out.glob("detection_history_*")} == {"detection_history_oryx"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--days", "0"], "'0' should be a whole number, 1 or more"),
        (["--day1", "spring"], "'spring' should be survey, station or a date"),
        (["--values", "many"], "'many' is not possible; possible: events, individuals, presence"),
        (["--min-confidence", "7"], "'7' should be between 0 and 1"),
    ],
)
def test_options_that_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        export(folder, *options)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_species_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(folder / "job.yaml"), "--to", "detection-history", "--out", str(folder / "x")]
    assert main([*command, "--species", "lyon"]) == 2
    assert "no event has the label 'lyon'; did you mean 'lion'?" in capsys.readouterr().err
    assert not (folder / "x").exists()


def test_from_photos_alone_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, [image("a", 0), image("b", 9 * DAY, "oryx")])
    out = export(tmp_path)
    assert read(out / "effort.csv")[1] == ["A", "7", "3"]
    assert json.loads((out / "options.json").read_text())["effort_rests_on"] == {"images": 1}
    assert "1 station whose effort is taken from" in capsys.readouterr().out
    assert START.date().isoformat() == "2021-04-11"


def camtrapr_sample(tmp_path: Path) -> Path:
    """camtrapR's sample stations and photos, of these what file names say: station, species and time.

    All of VTA, and those of MNE at StationB and of PBE at StationA, whose bursts are one record each.
    """
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end\n"
        "StationA,4.1,117.1,2009-04-02,2009-05-14\n"
        "StationB,4.2,117.2,2009-04-03,2009-05-16\n"
        "StationC,4.3,117.3,2009-04-04,2009-05-17\n"
    )
    photos = {
        "StationA VTA": ("04-10 05:07", "05-06 19:06"),
        "StationB VTA": ("04-15 19:12", "04-27 05:07"),
        "StationC VTA": ("04-24 02:57",),
        "StationA PBE": (
            "04-21 00:40", "04-22 20:19", "04-22 20:21", "04-23 00:07", "04-23 00:09", "05-07 17:11",
        ),
        "StationB MNE": (
            "04-15 07:21", "04-15 07:23", "04-28 17:47", "04-28 17:47", "04-28 17:48", "04-28 17:48",
            "04-28 17:48", "04-28 17:49", "04-28 17:49", "04-28 17:49",
        ),
    }  # fmt: skip
    rows = []
    for which, times in photos.items():
        station, species = which.split()
        for number, time in enumerate(times):
            moment = dt.datetime.fromisoformat(f"2009-{time}:00")
            row = image(f"{which} {number}", None, species, location=station, probs={species: 0.9})
            rows.append(row | {"datetime": moment})
    write_run(tmp_path, rows, cameras="cameras.csv", events={"gap_min": 60})
    return tmp_path


def cells(out: Path, name: str) -> list[str]:
    """The lines of a matrix without names, between blanks."""
    return [" ".join(row[1:]) for row in read(out / f"{name}.csv")[1:]]


def test_the_sample_of_camtrapr(tmp_path: Path) -> None:
    """Its third vignette prints these: VTA in weeks from each station's setup, with effort and without."""
    folder = camtrapr_sample(tmp_path)
    out = export(folder)
    assert cells(out, "effort") == ["6.5 7 7 7 7 7 0.5", "6.5 7 7 7 7 7 1.5", "6.5 7 7 7 7 7 1.5"]
    assert cells(out, "detection_history_VTA") == ["0 1 0 0 1 0 0", "0 1 0 1 0 0 0", "0 0 1 0 0 0 0"]
    out = export(folder, "--complete")  # includeEffort = FALSE
    assert cells(out, "detection_history_VTA") == ["0 1 0 0 1 0 NA", "0 1 0 1 0 0 NA", "0 0 1 0 0 0 NA"]
    out = export(folder)
    days = [row[3] for row in read(out / "site_covariates.csv")[1:]]
    assert days == ["42", "43", "43"]


def test_the_sample_of_camtrapr_by_other_options(tmp_path: Path) -> None:
    """Worked out by its rules: records of 60 minutes, days from midnight, the first day an option."""
    folder = camtrapr_sample(tmp_path)
    out = export(folder, "--day1", "survey")
    assert cells(out, "effort") == ["6.5 7 7 7 7 7 0.5", "5.5 7 7 7 7 7 2.5", "4.5 7 7 7 7 7 3.5"]
    assert cells(out, "detection_history_VTA") == ["0 1 0 0 1 0 0", "0 1 0 1 0 0 0", "0 0 0 1 0 0 0"]
    out = export(folder, "--values", "events")
    assert cells(out, "detection_history_PBE") == ["0 0 2 1 0 1 0", "0 0 0 0 0 0 0", "0 0 0 0 0 0 0"]
    assert cells(out, "detection_history_MNE")[1] == "0 1 0 1 0 0 0"
    out = export(folder, "--day1", "2009-05-01")  # its test: "4 records (out of 5) were removed"
    assert cells(out, "detection_history_VTA") == ["1 0 NA", "0 0 0", "0 0 0"]
    assert cells(out, "effort") == ["7 6.5 NA", "7 7 1.5", "7 7 2.5"]
    assert json.loads((out / "options.json").read_text())["events_outside_of_effort"] == 4 + 3 + 2
    out = export(folder, "--days", "1")
    assert [len(line.split()) for line in cells(out, "effort")] == [44, 44, 44]
    first = cells(out, "detection_history_VTA")[0].split()
    assert [at for at, cell in enumerate(first) if cell == "1"] == [8, 34]
    assert first[43] == "NA"
    assert cells(out, "effort")[0].split()[:2] == ["0.5", "1"]
    out = export(folder, "--days", "1", "--day1", "survey")
    assert [len(line.split()) for line in cells(out, "effort")] == [46, 46, 46]
    assert [line.split()[:3] for line in cells(out, "detection_history_VTA")] == [
        ["0", "0", "0"], ["NA", "0", "0"], ["NA", "NA", "0"],
    ]  # fmt: skip
    out = export(folder, "--most-days", "14")
    assert cells(out, "detection_history_VTA") == ["0 1", "0 1", "0 0"]


def test_numbers_of_several_digits(tmp_path: Path) -> None:
    rows = [image(f"a{n}", n * 7200, "lion") for n in range(11)]
    rows += [image(f"b{n}", n * 7200, "lion", location="B") for n in range(3)]
    rows += [image("c", 5 * DAY, "oryx", location="B")]
    write_run(tmp_path, rows)
    out = export(tmp_path, "--days", "1", "--values", "events")
    assert cells(out, "detection_history_lion") == ["2 9 NA NA NA NA", "2 1 0 0 0 0"]
    out = export(tmp_path, "--days", "2", "--values", "events")
    assert cells(out, "detection_history_lion") == ["11 NA NA", "3 0 0"]
    assert cells(out, "detection_history_oryx") == ["0 NA NA", "0 0 1"]
