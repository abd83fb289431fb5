"""The stage report: photos of the originals, the period without broken clocks, files that replace others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from support_exports import image, write_run
from support_runs import commit, run_on_driver

from camtrap_batch import open_run
from camtrap_batch.images.pixels import make_thumbnail
from camtrap_batch.stages.report import STAGE
from camtrap_batch.store.run import Run

SIDE = (1200, 900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras, lions and oryxes, and a clock that was never set; the photos are there as files."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        image(
            f"i{number:02}",
            86_400 * number,
            ("lion", "oryx", "empty")[number % 3],
            location="AB"[number % 2],
            file_name=f"{'AB'[number % 2]}/IMG_{number:04}.JPG",
            seq_id=f"s{number:02}",
            sha256=f"h{number}",
            width=SIDE[0],
            height=SIDE[1],
        )
        for number in range(24)
    ]
    rows.append(
        image("old", -1_000_000_000, "lion", location="B", seq_id="old", width=SIDE[0], height=SIDE[1])
    )
    write_run(folder, rows)
    pixels = np.full((SIDE[1], SIDE[0], 3), 120, np.uint8)
    pixels[::2] = 90
    jpeg = make_thumbnail(pixels, SIDE[1], 85).jpeg
    for row in rows:
        path = folder / "images" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)
    return folder


def report(folder: Path, *assignments: str) -> tuple[str, Path]:
    """The page, and the folder of its parts."""
    run_on_driver(folder / "job.yaml", "report", *assignments)
    page = (run_of(folder).folder.local("report/index.html")).read_text()
    (parts,) = set(re.findall(r'data-parts="(.*?)"', page))
    return page, run_of(folder).folder.local(f"report/{parts}")


def run_of(folder: Path) -> Run:
    return open_run(folder / "job.yaml")


def part(parts: Path, name: str) -> Any:
    """What a script of a part hands over."""
    text = (parts / f"{name}.js").read_text()
    return json.loads(json.loads(text.partition(" = ")[2].rstrip(";\n")))


def test_photos_are_of_the_originals(folder: Path) -> None:
    _, parts = report(folder)
    photos = sorted((parts / "photos").iterdir())
    assert photos
    sizes = {simplejpeg.decode_jpeg_header(path.read_bytes())[:2] for path in photos}
    assert {min(size) for size in sizes} == {480}
    pages = part(parts, "c0")
    shown = pages["0"]["best"] + pages["0"]["look"]
    assert {re.sub(r"\d+", "", photo[3]) for photo in shown} <= {"A/IMG_.JPG", "B/IMG_.JPG", "old.jpg"}
    assert all(photo[5] is not None for photo in shown)


def test_a_clock_that_was_never_set_makes_no_period(folder: Path) -> None:
    page, parts = report(folder)
    assert "2021-04-11 to 2021-05-04" in page
    assert "1 image with a doubtful date left out" in page
    cameras = part(parts, "index")["cameras"]
    assert cameras["first"][cameras["name"].index("B")] == "2021-04-12"


def test_the_same_report_is_not_made_again_and_another_replaces_it(folder: Path) -> None:
    _, parts = report(folder)
    before = (parts / "app.js").stat().st_mtime_ns
    _, again = report(folder)
    assert again == parts
    assert (again / "app.js").stat().st_mtime_ns == before
    _, other = report(folder, "report.photos=3")
    assert other != parts
    assert not parts.exists()
    assert len(list((other / "photos").iterdir())) == 3
    _, none = report(folder, "report.photos=0")
    assert not (none / "photos").exists()


@pytest.mark.parametrize("newer", ["STAGE.version", "FINGERPRINT", "__version__"])
def test_another_version_of_the_program_makes_the_report_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, newer: str
) -> None:
    _, parts = report(folder)
    monkeypatch.setattr(f"camtrap_batch.stages.report.{newer}", "newer")
    assert not STAGE.is_made(run_of(folder))
    _, other = report(folder)
    assert other != parts
    assert not parts.exists()
    assert STAGE.is_made(run_of(folder))


def test_one_file(folder: Path) -> None:
    run_on_driver(folder / "job.yaml", "report", "report.single_file=true")
    here = run_of(folder).folder.local("report")
    assert [path.name for path in here.iterdir()] == ["index.html"]


def test_boxes_that_count_and_people_that_are_blurred(folder: Path) -> None:
    run = run_of(folder)
    frames = run.table("frames").to_table().to_pylist()
    sides = {"x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4}
    boxes = [
        {"image_id": row["image_id"], **sides, "category": category, "confidence": sure, "repeat": repeat}
        for row in frames[:-2]
        for category, sure, repeat in (("animal", 0.9, None), ("animal", 0.1, None), ("animal", 0.9, 1))
    ]
    before = report(folder)[1]
    plain = {path.name: path.read_bytes() for path in (before / "photos").iterdir()}
    person = {"image_id": "i00", **sides, "category": "person", "confidence": 0.9}
    commit(run, "detect", "detections", [*boxes, person], {}, repeats={"threshold": 0.2})
    columns = {"status": "ok", "n_boxes": 3, "detector_id": "d"}
    commit(
        run,
        "detect",
        "detected",
        [{"image_id": row["image_id"], **columns} for row in frames[:-1]]
        + [{"image_id": frames[-1]["image_id"], "status": "no_result"}],
        {"detector": "d"},
    )
    page, parts = report(folder, "detect.results=catalog", "detect.threshold=0.2")
    events = [event for page in part(parts, "c0").values() for event in page["events"]]
    (shown,) = (event[7][0] for event in events if event[7:] and event[7][0][3] == "A/IMG_0000.JPG")
    assert [box[:5] for box in shown[6]] == [[0.1, 0.2, 0.3, 0.4, "animal"], [0.1, 0.2, 0.3, 0.4, "person"]]
    assert (parts / "photos" / f"{shown[0]}.jpg").read_bytes() != plain[f"{shown[0]}.jpg"]
    section = page.split('<h2 id="detections">')[1].split("</section>")[0]
    counts = re.findall(
        r'<th scope="row">(\w+)</th><td class="n">(.*?)</td><td class="n">(.*?)</td>', section
    )
    assert counts == [("animal", str(len(frames) - 2), str(len(frames) - 2)), ("person", "1", "1")]
    said = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section))
    assert said["Images looked at"] == str(len(frames) - 1)
    assert said["Of them without a box that counts"] == "1"
    assert said["Other images, of which no boxes are known"] == "1"


@pytest.mark.parametrize("which", ["no dates", "no places", "one class", "nothing usable", "no photos there"])
def test_bad_input_is_said_in_its_place(tmp_path: Path, which: str) -> None:
    changes: dict[str, Any] = {"no dates": {"datetime": None}, "nothing usable": {"status": "corrupt"}}.get(
        which, {}
    )
    labels = ("lion",) if which == "one class" else ("lion", "oryx")
    rows = [
        image(f"i{n}", 86_400 * n, labels[n % len(labels)], seq_id=f"s{n}", sha256=f"h{n}") | changes
        for n in range(6)
    ]
    write_run(tmp_path, rows, places={"Z": (1.0, 2.0)} if which == "no places" else None)
    page, _ = report(tmp_path)
    said = {
        "no dates": "none has a date that can be trusted",
        "no places": "no coordinates are given",
        "one class": "lion",
        "nothing usable": "0 of 6 images can be used",
        "no photos there": "lion",
    }[which]
    assert said in page
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
