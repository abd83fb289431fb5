from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from camtrap_batch.rehearsal.faults import choose_faults
from camtrap_batch.rehearsal.metadata import (
    Image,
    name_images,
    write_cct,
    write_truth,
    write_truth_events,
)
from camtrap_batch.rehearsal.plan import plan_cameras, plan_frames
from camtrap_batch.rehearsal.species import SELECTED

CAMERAS = plan_cameras(8, 42)
PLAN = [plan_frames(camera, 60, 42) for camera in range(8)]
IMAGES = [image for rows in name_images(CAMERAS, PLAN, choose_faults(PLAN, 42), 42) for image in rows]


@pytest.fixture(scope="module")
def cct(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("cct") / "metadata.json"
    write_cct(path, IMAGES, 42, (640, 480))
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_metadata_has_one_row_an_image(cct: dict[str, Any]) -> None:
    ids = [image["id"] for image in cct["images"]]
    assert sorted(ids) == sorted(image.image_id for image in IMAGES)
    assert len(set(ids)) == len(ids)
    assert ids != [image.image_id for image in IMAGES], "real metadata is in no order"


def test_the_quirks_of_real_files_are_there(cct: dict[str, Any]) -> None:
    images, annotations = cct["images"], cct["annotations"]
    assert {type(image["location"]) for image in images} == {int, str}
    dates = [image["datetime"] for image in images]
    assert None in dates
    assert {"unknown", "0000-00-00 00:00:00"} <= set(dates)
    assert any(date and "T" in date for date in dates)
    assert any(date and date.endswith("+02:00") for date in dates)
    assert any(date and date[4] == ":" for date in dates)
    assert any(date and date.endswith(".000") for date in dates)
    assert {type(image["seq_id"]) for image in images} == {str, type(None)}
    assert any(image["file_name"].endswith(".avi") for image in images)
    per_image = Counter(row["image_id"] for row in annotations)
    ids = {image["id"] for image in images}
    assert ids - per_image.keys(), "images without annotation"
    assert per_image.keys() - ids, "annotations without image"
    assert max(per_image.values()) > 1
    names = Counter(category["name"] for category in cct["categories"])
    assert max(names.values()) == 2


def test_corrupt_flags_are_sometimes_wrong(cct: dict[str, Any]) -> None:
    status = {image.image_id: image.status for image in IMAGES}
    flagged = {image["id"]: image["corrupt"] for image in cct["images"] if "corrupt" in image}
    assert any(flag and status[key] == "ok" for key, flag in flagged.items())
    assert any(flag and status[key] == "corrupt" for key, flag in flagged.items())


def test_category_ids_are_those_of_the_notebook(cct: dict[str, Any]) -> None:
    wanted = {7, 24, 90, 100, 119, 127, 128, 149, 154, 372, 374}
    assert {species.category_id for species in SELECTED} == wanted
    assert wanted | {0} <= {category["id"] for category in cct["categories"]}


def test_annotations_say_what_is_drawn(cct: dict[str, Any], tmp_path: Path) -> None:
    write_truth(tmp_path / "truth.csv", IMAGES)
    annotated: dict[str, Counter[int]] = defaultdict(Counter)
    for row in cct["annotations"]:
        annotated[row["image_id"]][row["category_id"]] += row.get("count", 0)
    for truth in read(tmp_path / "truth.csv"):
        said = annotated[truth["image_id"]]
        assert bool(said) == (truth["annotated"] == "1")
        if said and truth["label"]:
            expected = {int(truth["category_id"]): int(truth["count"])}
            if truth["second_id"]:
                expected[int(truth["second_id"])] = 1
            assert said == expected


def test_sequences_are_those_of_the_truth_where_there_is_one(cct: dict[str, Any]) -> None:
    by_id = {image.image_id: image for image in IMAGES}
    nulls = defaultdict(set)
    for row in cct["images"]:
        image = by_id[row["id"]]
        assert row["seq_id"] in (image.seq_id, None)
        nulls[image.seq_id].add(row["seq_id"] is None)
    assert all(len(flags) == 1 for flags in nulls.values()), "a burst has an id or has none"


def test_dated_means_that_a_date_can_be_found(cct: dict[str, Any]) -> None:
    dates = {image["id"]: image["datetime"] for image in cct["images"]}
    undated = [image for image in IMAGES if not image.dated]
    assert undated
    for image in IMAGES:
        readable = dates[image.image_id] not in (None, "unknown", "0000-00-00 00:00:00")
        exif = image.camera.exif and image.status in ("ok", "truncated", "damaged")
        assert image.dated == (readable or exif)


def events_of(tmp_path: Path, images: list[Image]) -> list[dict[str, str]]:
    write_truth_events(tmp_path / "events.csv", images)
    return read(tmp_path / "events.csv")


def at(minutes: float, category_id: int = 7, camera: int = 0, number: int = 0) -> Image:
    plain = next(
        image for image in IMAGES if image.camera.index == camera and image.fault is None and image.dated
    )
    time = datetime(2019, 6, 1, 12) + timedelta(minutes=minutes)
    frame = replace(plain.frame, category_id=category_id, time=time)
    return replace(plain, frame=frame, image_id=f"{camera} {category_id} {minutes} {number}")


def test_an_event_ends_after_half_an_hour_without_the_species(tmp_path: Path) -> None:
    events = events_of(tmp_path, [at(0), at(60.5), at(29), at(30.5), at(59)])
    assert [(event["start"][11:], event["end"][11:], event["n_images"]) for event in events] == [
        ("12:00:00", "13:00:30", "5")
    ]
    events = events_of(tmp_path, [at(0), at(30), at(60.1)])
    assert [event["n_images"] for event in events] == ["2", "1"]


def test_events_are_of_one_species_at_one_camera(tmp_path: Path) -> None:
    images = [at(0), at(1, category_id=24), at(2), at(3, camera=1), at(4, category_id=0)]
    events = events_of(tmp_path, images)
    assert [(event["location"], event["label"], event["n_images"]) for event in events] == [
        ("KNP-01", "loxodonta africana", "1"),
        ("KNP-01", "panthera onca", "2"),
        ("KNP-02", "panthera onca", "1"),
    ]


def test_events_leave_out_what_cannot_be_seen_or_dated(tmp_path: Path) -> None:
    broken = next(image for image in IMAGES if image.status == "corrupt")
    undated = next(image for image in IMAGES if not image.dated)
    seen = [replace(image, frame=replace(image.frame, category_id=7)) for image in (broken, undated)]
    assert events_of(tmp_path, seen) == []
