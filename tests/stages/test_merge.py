"""merge and publish on a run folder made by hand: what is told, what is redone, what is pushed again."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support_runs import Row, commit, predict, run_on_driver, table, write_run

from camtrap_batch import Job, Run, open_run
from camtrap_batch.cli import main
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.errors import InputError
from camtrap_batch.pipeline import Context, reprocess
from camtrap_batch.stages.merge import STAGE
from camtrap_batch.store.merged import MergeResult, list_merged

TABLES = [table.name for table in STAGE.tables]

START = datetime(2024, 5, 4, 10)


def images() -> list[Row]:
    """A lion at camera A at 10:00, 10:20, 11:10 and once without a date; an empty image; a broken file."""
    minutes = (0, 20, 70, None, 90)
    rows = [
        {
            "image_id": f"a{number}",
            "location": "A",
            "seq_id": f"s{number}",
            "datetime": None if at is None else START + timedelta(minutes=at),
            "truth": "empty" if number == 4 else "lion",
        }
        for number, at in enumerate(minutes)
    ]
    return [*rows, {"image_id": "b", "location": "B", "status": "corrupt", "datetime": START}]


LIONS: dict[str, dict[str, float] | None] = {
    **{f"a{number}": {"lion": 0.625, "leopard": 0.25, "empty": 0.125} for number in range(4)},
    "a4": {"empty": 0.875, "lion": 0.125},
}
LEOPARDS: dict[str, dict[str, float] | None] = {**LIONS, "a0": {"leopard": 0.75, "lion": 0.25}, "a2": None}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "cameras.csv").write_text("location,latitude,longitude\nA,-24.5,31.25\nZ,-25,31\n")
    job = write_run(tmp_path, images(), dataset={"cameras": "cameras.csv"})
    predict(job, LIONS)
    return job


def test_effort_of_deployments(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Days in the field, where somebody wrote them down; else dates with an image. It says which."""
    cameras = job.parent / "cameras.csv"
    cameras.write_text(
        "location,latitude,longitude,start,end\n"
        "A,-24.5,31.25,2024-05-01,2024-05-11 06:00\nZ,-25,31,2024-05-01,\n"
    )
    (job.parent / "outages.csv").write_text("location,start,end\nA,2024-05-06,2024-05-07\n")
    run_on_driver(job, "merge", "dataset.outages=outages.csv")
    a, b, z = table(job, "locations")
    assert (a["camera_days"], a["effort_source"]) == (8.75, "cameras")
    assert a["detections_per_100_days"] == pytest.approx(100 * 2 / 8.75)
    assert (b["camera_days"], b["effort_source"], b["detections_per_100_days"]) == (0, None, None)
    assert (z["camera_days"], z["effort_source"]) == (0, None)
    first, last = table(job, "deployments")
    assert (first["days"], first["days_out"], first["n_images"], first["source"]) == (8.75, 1.0, 4, "cameras")
    assert (last["location"], last["days"], last["end"]) == ("Z", None, None)
    cameras.write_text("location,latitude,longitude,start,end\nA,-24.5,31.25,2024-05-01,2024-04-11\n")
    with pytest.raises(InputError, match=r"cameras\.csv:2: end: 2024-04-11 12:00 should be after the start"):
        run_on_driver(job, "merge")
    cameras.write_text("location,latitude,longitude\nA,-24.5,31.25\n")
    run_on_driver(job, "merge")
    a, b = table(job, "locations")
    assert (a["camera_days"], a["effort_source"]) == (1, "images")


def edits(job: Path, layer: str) -> dict[str, Any]:
    query = {
        "photos": "SELECT image_id, ClassLabel FROM photos",
        "cameras": "SELECT location, n_events FROM cameras",
    }
    with sqlite3.connect(job.parent / "run" / "locations.gpkg") as database:
        return dict(database.execute(query[layer]).fetchall())


def test_labels_of_people_that_no_event_has_for_want_of_a_date(job: Path) -> None:
    corrections = job.parent / "said.csv"
    corrections.write_text("image_id,label\na0,lion\na3,leopard\n")
    run_on_driver(job, "merge")
    assert main(["corrections", str(job), str(corrections)]) == 0
    (note,) = (note for note in run_on_driver(job, "merge").notes if note.startswith("images without a date"))
    assert "no_event): 1; people labelled 1 of them (leopard 1), which are in no event" in note
    assert "EXIF" in note


def test_every_image_is_in_an_event_or_says_why_not(job: Path) -> None:
    notes = run_on_driver(job, "merge").notes
    frames = {row["image_id"]: row for row in table(job, "frames")}
    assert {name: row["no_event"] for name, row in frames.items()} == {
        "a0": None,
        "a1": None,
        "a2": None,
        "a3": "no date",
        "a4": "empty",
    }
    events = table(job, "events")
    assert [(row["start"], row["n_images"], row["count"]) for row in events] == [
        (START, 2, 1),
        (START + timedelta(minutes=70), 1, 1),
    ]
    assert [frames[name]["event_id"] for name in ("a0", "a1", "a2")] == [events[0]["event_id"]] * 2 + [
        events[1]["event_id"]
    ]
    assert "images without a date, in no event (table frames, no_event): 1" in notes
    assert "cameras without an image: 1 (Z)" in notes
    assert any(note.startswith("snapshot 1, of predictions 1") for note in notes)


def test_cameras_without_images_and_without_usable_ones_have_a_row(job: Path) -> None:
    run_on_driver(job, "merge")
    a, b, z = table(job, "locations")
    assert [row["location"] for row in (a, b, z)] == ["A", "B", "Z"]
    assert (z["n_images"], z["longitude"], z["n_events"], z["richness"]) == (0, 31.0, 0, 0)
    assert (b["n_corrupt"], b["camera_days"], b["detections_per_100_days"]) == (1, 0, None)
    assert (a["camera_days"], a["detections_per_100_days"], a["n_undated"]) == (1, 200.0, 1)
    assert a["activity_by_hour"] == [0] * 10 + [1, 1] + [0] * 12
    run_on_driver(job, "publish")
    assert edits(job, "cameras") == {"A": 2, "B": 0, "Z": 0}


def test_the_locations_are_geoparquet(job: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    run_on_driver(job, "merge")
    assert main(["table", str(job), "locations", "--out", str(tmp_path / "locations.parquet")]) == 0
    places = geopandas.read_parquet(tmp_path / "locations.parquet").set_index("location")["geometry"]
    assert (places["A"].x, places["A"].y, places["B"]) == (31.25, -24.5, None)
    assert places.crs.to_epsg() is None or places.crs.is_geographic


def test_dates_that_are_findings_are_counted(job: Path) -> None:
    run_on_driver(job, "merge")
    assert table(job, "locations")[0]["n_date_findings"] is None
    run = open_run(job)
    found = [
        {"image_id": name, "location": place, "kind": kind}
        for name, place, kind in (
            ("a1", "A", "date_out_of_order"),
            ("a1", "A", "clock_reset"),
            ("a2", "A", "exact_duplicate"),
            ("b", "B", "date_in_future"),
        )
    ]
    commit(run, "findings", "findings", found, {}, manifest_plan=run.snapshot("manifest").plan_id)
    notes = run_on_driver(job, "merge").notes
    assert [row["n_date_findings"] for row in table(job, "locations")] == [1, 0, 0]
    text = "dates that may be wrong count as they are (table findings): date_out_of_order 1, clock_reset 1"
    assert text in notes
    assert len(table(job, "events")) == 2


def test_boxes_are_counts(job: Path) -> None:
    predict(job, LIONS, n_boxes={"a0": 2, "a1": 3, "a2": 0})
    run_on_driver(job, "merge")
    assert [row["count"] for row in table(job, "events")] == [3, 1]
    assert [row["count"] for row in table(job, "frames")] == [2, 3, 0, None, None]


def test_a_new_rule_makes_a_snapshot_of_merge_alone_and_the_old_one_stays(job: Path) -> None:
    run_on_driver(job, "merge")
    before = {name: table(job, name) for name in TABLES}
    assert run_on_driver(job, "merge").shards_run == 0
    again = run_on_driver(job, "merge", "events.gap_min=60")
    assert (again.shards_run, again.snapshots["locations"]) == (1, 2)
    assert len(table(job, "events")) == 1
    assert {name: table(job, name, 1) for name in TABLES} == before
    run = open_run(job)
    assert {
        name: run.snapshot(name).number for name in ("catalog", "manifest", "predictions")
    } == dict.fromkeys(("catalog", "manifest", "predictions"), 1)
    assert [merged.number for merged in list_merged(run)] == [2, 1]
    assert "gap 60 min" in MergeResult.find(run).describe()
    run_on_driver(job, "merge")  # back to the first rule: its receipt is there, the snapshot is new
    assert table(job, "events") == before["events"]


def test_taxonomy_and_species_of_the_job(job: Path, tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text("label,genus\nLion,panthera\nleopard,panthera\n")
    (tmp_path / "species.csv").write_text("label\nleopard\n")
    settings = ["events.taxonomy=tree.csv", "infer.min_confidence=0.7"]
    notes = run_on_driver(job, "merge", *settings).notes
    assert {(row["label"], row["rank"]) for row in table(job, "events")} == {("panthera", "genus")}
    (place, *_) = table(job, "locations")
    assert (place["richness"], place["top_label"], place["events_by_label"]) == (
        0,
        None,
        [{"label": "panthera", "n": 2}],
    )
    assert "5 sequences: 4 with the label of a group" in notes
    notes = run_on_driver(job, "merge", *settings, "events.species=species.csv").notes
    assert "5 sequences: 4 with the label of a group, 4 with a species set aside" in notes
    # What is in the file counts, not its name.
    (tmp_path / "species.csv").write_text("label\nleopard\nlion\n")
    notes = run_on_driver(job, "merge", *settings, "events.species=species.csv").notes
    assert "5 sequences: 4 with the label of a group" in notes
    inline = "events.taxonomy={lion: {genus: panthera}, leopard: {genus: panthera}}"
    run_on_driver(job, "merge", inline, "infer.min_confidence=0.7")
    assert {row["label"] for row in table(job, "events")} == {"panthera"}
    with pytest.raises(InputError, match="no such file"):
        run_on_driver(job, "merge", "events.species=none.csv")


def test_an_old_result_is_pushed_again(job: Path) -> None:
    run_on_driver(job, "merge")
    first = run_on_driver(job, "publish")
    assert first.shards_run == 1
    predict(job, LEOPARDS, model="b" * 16)
    run_on_driver(job, "merge", "events.gap_min=60")
    run_on_driver(job, "publish", "events.gap_min=60")
    assert edits(job, "photos")["a0"] == "leopard"
    assert run_on_driver(job, "publish", "events.gap_min=60").shards_run == 0

    planned = run_on_driver(job, "publish", snapshot=1, dry_run=True)
    assert any(note.startswith("snapshot 1 (of predictions 1, model aaaa") for note in planned.notes)
    assert edits(job, "photos")["a0"] == "leopard"
    assert run_on_driver(job, "publish", snapshot=1).shards_run == 1
    assert edits(job, "photos") == {**dict.fromkeys(("a0", "a1", "a2", "a3"), "lion"), "a4": "empty"}
    assert run_on_driver(job, "publish", snapshot=1).shards_run == 0
    assert open_run(job).snapshot("locations").number == 2
    with pytest.raises(InputError, match="no snapshot 7 of locations; there are: 1, 2"):
        run_on_driver(job, "publish", snapshot=7)


def test_diff_of_the_command(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_on_driver(job, "merge")
    assert main(["diff", str(job)]) == 2
    assert "there is no result of merge before snapshot 1" in capsys.readouterr().err
    predict(job, LEOPARDS, model="b" * 16)
    run_on_driver(job, "merge")
    page = tmp_path / "diff.html"
    assert main(["diff", str(job), "--from", "1", "--to", "2", "--out", str(page)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 images of 5 have another label; 1 event lost, 1 gained; 1 camera of 3 changed" in told
    assert "leopard" in page.read_text()
    assert main(["diff", str(job), "--out", str(tmp_path / "diff.csv")]) == 0
    assert "flow,,,images,lion,leopard,1" in (tmp_path / "diff.csv").read_text().splitlines()
    assert main(["diff", str(job), "--out", str(tmp_path / "diff.csv")]) == 0
    page.write_text(page.read_text() + "<!-- what we think of it -->")
    assert main(["diff", str(job), "--out", str(page)]) == 0
    kept = page.with_name("diff.kept-1.html").read_text()
    assert kept.endswith("<!-- what we think of it -->")
    assert not page.read_text().endswith("<!-- what we think of it -->")
    capsys.readouterr()
    for options, message in (
        (["--from", "1", "--to", "9"], "no snapshot 9 of locations; there are: 1, 2"),
        (["--out", "diff.docx"], ".docx; possible: .csv, .html"),
        (["--out", str(tmp_path / "images" / "diff.csv")], "inside, dataset.images"),
        (["--out", str(tmp_path / "none" / "diff.csv")], "there is no folder"),
    ):
        assert main(["diff", str(job), *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["status", str(job)]) == 0
    assert "results of merge: current snapshot 2 (of predictions 2, model bbbb" in capsys.readouterr().out


def test_rules_are_read_before_hours_of_work(job: Path) -> None:
    loaded = Job.load(job, ["events.taxonomy=none.csv", "train.arch=resnet18"])
    run = Run(loaded)
    nobody: Any = None
    with pytest.raises(InputError, match=r"none.csv: no such file \(events.taxonomy\)"):
        list(reprocess(Context(loaded, run, GivenExecutor(nobody))))
