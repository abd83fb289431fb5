"""camtrap publish to a file: what it refuses to delete, and how it is told."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import yaml
from support_runs import commit, predict, run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.job import Job

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


def test_where_publish_stops_the_report_is_made_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        path = tmp_path / "photos" / f"C{number % 2}" / "fox" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(np.full((48, 64, 3), 20 * number, np.uint8)))
    dataset = "{format: folder, images: photos, location: {level: 0}, label: {level: 1}}"
    job = tmp_path / "job.yaml"
    job.write_text(f"name: run\noutput: .\ndataset: {dataset}\ninfer: {{model: none}}\n")
    run = ["reprocess", str(job), "--cluster", "inline"]
    assert main(run) == 0
    before = (tmp_path / "run" / "report" / "index.html").read_bytes()
    for number in range(1, 10, 2):
        (tmp_path / "photos" / "C1" / "fox" / f"{number}.jpg").unlink()
    capsys.readouterr()
    assert main(run) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert "limits.deleted (0.2)" in told[-1]
    assert any(line.strip() == "5 images of the last catalog are gone" for line in told)
    assert any(line.startswith("report ") and "nothing to do" not in line for line in told)
    assert (tmp_path / "run" / "report" / "index.html").read_bytes() != before


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


def test_a_public_push_has_neither_exact_places_nor_people(tmp_path: Path) -> None:
    cameras = tmp_path / "cameras.csv"
    cameras.write_text("location,latitude,longitude\nC0,-24.123456,31.654321\nC1,-24.5,31.5\n")
    rows = [{"image_id": f"i{n}", "location": f"C{n % 2}"} for n in range(8)]
    for number, row in enumerate(rows):
        row["datetime"] = datetime(2021, 6, 1 + number)
    job = write_run(tmp_path, rows, dataset={"cameras": "cameras.csv"})
    predict(job, {f"i{n}": {"human" if n in (2, 3) else "lion": 0.9} for n in range(8)})
    run_on_driver(job, "merge")
    assert main(["publish", str(job), "--quiet"]) == 0
    path = tmp_path / "run" / "locations.gpkg"
    assert b"human" in path.read_bytes()
    public = ["--set", "publish.public=true", "--set", "limits.deleted=1"]
    assert main(["publish", str(job), "--quiet", *public]) == 0
    exact = [struct.pack("<d", value) for value in (-24.123456, 31.654321)]
    content = path.read_bytes()
    assert not any(value in content for value in exact)
    with closing(sqlite3.connect(path)) as db:
        assert photos(tmp_path) == 6
        assert db.execute("SELECT DISTINCT label FROM events").fetchall() == [("lion",)]
        text = " ".join(str(row) for row in db.execute("SELECT * FROM cameras").fetchall())
    assert "human" not in text
    before = path.read_bytes()
    assert main(["publish", str(job), "--quiet", *public]) == 0
    assert path.read_bytes() == before


def two_targets(folder: Path, **publish: object) -> Path:
    """Eight images of lions, but for two of a person, at exact places; the result of `merge`."""
    (folder / "cameras.csv").write_text(
        "location,latitude,longitude\nC0,-24.123456,31.654321\nC1,-24.5,31.5\n"
    )
    rows = [
        {"image_id": f"i{n}", "location": f"C{n % 2}", "datetime": datetime(2021, 6, 1 + n)} for n in range(8)
    ]
    job = write_run(folder, rows, dataset={"cameras": "cameras.csv"}, publish=publish)
    predict(job, {f"i{n}": {"human" if n in (2, 3) else "lion": 0.9} for n in range(8)})
    run_on_driver(job, "merge")
    return job


def held(folder: Path, name: str) -> dict[str, list[dict[str, object]]]:
    """The layers of a file."""
    path = folder / "run" / name
    if path.suffix == ".parquet":
        files = {layer: path.with_stem(f"{path.stem}_{layer}") for layer in ("events", "photos")}
        return {layer: pq.read_table(file).to_pylist() for layer, file in {"cameras": path, **files}.items()}
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return {
            layer: [dict(row) for row in db.execute(f"SELECT * FROM {layer}")]
            for layer in ("cameras", "events", "photos")
        }


def points(layers: dict[str, list[dict[str, object]]]) -> bytes:
    return b"".join(row.get("geom") or row["geometry"] for rows in layers.values() for row in rows)  # type: ignore


EXACT = [struct.pack("<d", value) for value in (-24.123456, 31.654321)]


@pytest.mark.parametrize(
    ("first", "second"),
    [("all.gpkg", "open.gpkg"), ("all.parquet", "open.parquet"), ("all.gpkg", "open.parquet")],
)
def test_one_push_fills_the_full_and_the_public_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str
) -> None:
    job = two_targets(tmp_path, target=first, public=second)
    assert main(["publish", str(job), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "  photos: 8 adds" in said
    assert "  publish.public: photos: 6 adds" in said
    assert not list((tmp_path / "run").glob("*.gpkg")) + list((tmp_path / "run").glob("*.parquet"))
    assert main(["publish", str(job)]) == 0
    told = capsys.readouterr()
    assert "  publish.public: photos: 6 adds" in told.err
    full, public = held(tmp_path, first), held(tmp_path, second)
    assert {row["label"] for row in full["events"]} == {"lion", "human"}
    assert {row["label"] for row in public["events"]} == {"lion"}
    assert {row["ClassLabel"] for row in public["photos"]} == {"lion"}
    assert len(full["photos"]) == 8
    assert len(public["photos"]) == 6
    assert [row["n_events"] for row in public["cameras"]] == [3, 3]
    assert all(value in points(full) for value in EXACT)
    assert not any("human" in str(row) for rows in public.values() for row in rows)
    assert not any(value in points(public) for value in EXACT)
    ledger = open_run(job).table("ledger").to_table().to_pylist()
    assert len(ledger) == sum(map(len, [*full.values(), *public.values()]))
    assert {row["result"] for row in ledger} == {"ok"}
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main(["publish", str(job)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert main(["status", str(job)]) == 0
    status = capsys.readouterr().out
    for name in (first, second):
        assert f"run/{name}: last edited" in status


def test_what_goes_wrong_with_one_target_does_not_hold_up_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = merged(tmp_path, 20)
    both = ["--quiet", "--set", "publish.public=open.gpkg"]
    assert main(["publish", str(job), *both]) == 0
    merged(tmp_path, 15)
    run = tmp_path / "run"
    (run / "open.gpkg").unlink()  # has no row that could be lost
    before = (run / "locations.gpkg").read_bytes()
    capsys.readouterr()
    assert main(["publish", str(job), *both]) == 1
    error = capsys.readouterr().err
    assert error.startswith("camtrap: publish: ")
    assert "photos: 5 of the 20 rows" in error
    assert error.endswith("; publish.public is up to date\n")
    assert (run / "locations.gpkg").read_bytes() == before
    assert len(held(tmp_path, "open.gpkg")["photos"]) == 15
    merged(tmp_path, 10)
    assert main(["publish", str(job), *both]) == 1
    error = capsys.readouterr().err
    assert "photos: 10 of the 20 rows" in error
    assert "; publish.public: " in error
    assert "photos: 5 of the 15 rows" in error
    assert error.count("\n") == 1
    assert len(held(tmp_path, "open.gpkg")["photos"]) == 15
    assert main(["publish", str(job), *both, "--set", "limits.deleted=1"]) == 0
    assert photos(tmp_path) == len(held(tmp_path, "open.gpkg")["photos"]) == 10


def test_a_public_target_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both targets are looked at before either is changed."""
    job = merged(tmp_path, 4)
    run = tmp_path / "run"
    (tmp_path / "link").symlink_to(run)
    (run / "other.gpkg").write_text("something else")
    for target, public, message in (
        ("a.gpkg", "a.gpkg", "is also publish.target"),
        ("a.gpkg", str(tmp_path / "link" / "a.gpkg"), "is also publish.target"),
        ("a.parquet", "a_events.parquet", "a_events.parquet is also publish.target"),
        ("a_photos.parquet", "a.parquet", "a_photos.parquet is also publish.target"),
        ("a.gpkg", "other.gpkg", "other.gpkg: is not a GeoPackage file"),
        ("a.gpkg", str(tmp_path / "nowhere" / "b.gpkg"), "there is no folder"),
        (
            "a.gpkg",
            str(tmp_path / "images" / "b.gpkg"),
            "is inside dataset.images, which a job never changes",
        ),
        ("a.gpkg", "b.shp", "publish.public: 'b.shp': should be a file name that ends in .gpkg"),
        ("a.gpkg", "3", "publish.public: 3: should be true, false, or a second target"),
        ("a.gpkg", "{cameras: x}", "publish.public.target: required, but missing"),
        ("a.gpkg", "{target: b.gpkg, sensitive: [lion]}", "publish.sensitive counts for both targets"),
        ("a.gpkg", "{target: b.gpkg, camera: x}", "publish.public.camera: unknown key"),
    ):
        capsys.readouterr()
        settings = ["--set", f"publish.target={target}", "--set", f"publish.public={public}"]
        assert main(["publish", str(job), "--quiet", *settings]) == 2, public
        error = capsys.readouterr().err
        assert message in error, error
        assert error.count("\n") == 1
        assert sorted(path.name for path in run.iterdir() if path.suffix in (".gpkg", ".parquet")) == [
            "other.gpkg"
        ]


def test_a_link_to_the_full_file_is_no_second_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = merged(tmp_path, 4)
    assert main(["publish", str(job), "--quiet"]) == 0
    (tmp_path / "open.gpkg").hardlink_to(tmp_path / "run" / "locations.gpkg")
    capsys.readouterr()
    assert main(["publish", str(job), "--quiet", "--set", f"publish.public={tmp_path / 'open.gpkg'}"]) == 2
    assert "is also publish.target" in capsys.readouterr().err


def test_a_job_with_two_targets_says_the_same_when_it_is_written_out(tmp_path: Path) -> None:
    job = Job.load(
        two_targets(tmp_path, target="a.gpkg", public="b.parquet", sensitive=["lion"], sensitive_km=3)
    )
    again = Job.parse(yaml.safe_load(job.to_yaml()), base=tmp_path)
    assert again == job
    first, second = again.by_target
    assert (first.publish.is_public, second.publish.is_public) == (False, True)
    assert (second.publish.sensitive, second.publish.sensitive_km) == (["lion"], 3)
    assert second.target_url == str(tmp_path / "run" / "b.parquet")
    assert Job.load(tmp_path / "job.yaml", ["publish.public=true"]).by_target[0].publish.is_public


@pytest.mark.parametrize(("threshold", "left"), [(0.1, 6), (0.2, 7), (0.9, 7)])
def test_a_box_of_a_person_that_counts_keeps_a_photo_out(tmp_path: Path, threshold: float, left: int) -> None:
    """Also where the job lets surer boxes alone count."""
    rows = [{"image_id": f"i{n}", "location": "C0"} for n in range(8)]
    job = write_run(tmp_path, rows, detect={"results": "results.json", "threshold": threshold})
    predict(job, {f"i{n}": {"lion": 0.9} for n in range(8)})
    place = {"x": 0.1, "y": 0.1, "w": 0.2, "h": 0.2, "category": "person"}
    boxes = [{"image_id": "i1", **place, "confidence": 0.15}, {"image_id": "i2", **place, "confidence": 0.5}]
    commit(open_run(job), "detect", "detections", boxes, {})
    run_on_driver(job, "merge")
    assert main(["publish", str(job), "--quiet", "--set", "publish.public=true"]) == 0
    assert photos(tmp_path) == left


@pytest.mark.parametrize("said", ["Human", "vehicle"])
def test_what_metadata_say_of_people_keeps_a_photo_out(tmp_path: Path, said: str) -> None:
    """Whatever the model takes them, or their car, for."""
    rows = [{"image_id": f"i{n}", "location": "C0", "truth": said if n == 1 else "lion"} for n in range(8)]
    job = write_run(tmp_path, rows, categories=[(1, "lion"), (2, said)])
    predict(job, {f"i{n}": {"lion": 0.9} for n in range(8)})
    run_on_driver(job, "merge")
    assert main(["publish", str(job), "--quiet", "--set", "publish.public=true"]) == 0
    assert {row["image_id"] for row in held(tmp_path, "locations.gpkg")["photos"]} == {
        f"i{n}" for n in range(8) if n != 1
    }


@pytest.mark.parametrize("target", ["locations.gpkg", "locations.parquet"])
def test_check_reads_what_was_pushed_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    job = merged(tmp_path, 4)
    (tmp_path / "run" / "models" / ("a" * 16) / "model.json").unlink()  # the test's own, without weights
    wanted = ["--set", f"publish.target={target}"]
    assert main(["publish", str(job), "--quiet", *wanted]) == 0
    assert main(["check", str(job), *wanted]) == 0
    for path in (tmp_path / "run").glob("locations*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capsys.readouterr()
    assert main(["check", str(job), *wanted]) == 1
    said = capsys.readouterr().out
    for path in (tmp_path / "run").glob("locations*"):
        assert f"{path}: is damaged (" in said
        path.unlink()
    assert main(["publish", str(job), "--quiet", *wanted]) == 0
    assert main(["check", str(job), *wanted]) == 0


@pytest.mark.parametrize("target", ["locations.gpkg", "locations.parquet"])
def test_nothing_is_written_through_a_link_in_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    """The user's own file elsewhere is named by its path."""
    job = merged(tmp_path, 4)
    inside, outside = tmp_path / "run" / target, tmp_path / "elsewhere"
    outside.mkdir()
    wanted = ["--quiet", "--set", f"publish.target={outside / inside.name}"]
    assert main(["publish", str(job), *wanted]) == 0
    before = {path: path.read_bytes() for path in outside.iterdir()}
    merged(tmp_path, 5)
    for path in before:
        (tmp_path / "run" / path.name).symlink_to(path)
    capsys.readouterr()
    assert main(["publish", str(job), "--quiet", "--set", f"publish.target={target}"]) == 2
    error = capsys.readouterr().err
    assert "is a symbolic link, and nothing in the run folder is written through one" in error
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert main(["publish", str(job), *wanted]) == 0
    assert {path: path.read_bytes() for path in outside.iterdir()} != before
