"""A label that people give a single box speaks for that box: the image's others decide about the rest."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_runs import answer_from_results

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.review.items import Items
from camtrap_batch.store.corrections import Correction, record

LEFT, MIDDLE, RIGHT = ([x, 0.1, 0.2, 0.5] for x in (0.05, 0.4, 0.75))

BOXES: dict[str, list[tuple[list[float], str, float, str, float]]] = {
    # where, category, how sure, species, how sure
    "0": [(LEFT, "1", 0.9, "lion", 0.95), (RIGHT, "1", 0.8, "zebra", 0.9)],
    "1": [(LEFT, "1", 0.9, "lion", 0.95)],
    "2": [(LEFT, "1", 0.9, "lion", 0.95), (RIGHT, "2", 0.6, "", 0.0)],
    "3": [
        (LEFT, "1", 0.9, "zebra", 0.95),
        (MIDDLE, "1", 0.8, "lion", 0.9),
        (RIGHT, "1", 0.7, "lion", 0.9),
    ],
}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("boxes")
    species = ["lion", "zebra"]
    images = []
    for number, boxes in BOXES.items():
        path = tmp_path / "photos" / "A" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x9003] = exif[0x0132] = f"2024:05:0{1 + int(number)} 08:00:00"
        Image.fromarray(np.full((48, 64, 3), 50 * int(number), np.uint8)).save(path, exif=exif)
        detections: list[dict[str, Any]] = [
            {"category": category, "conf": conf, "bbox": where}
            | ({"classifications": [[str(species.index(name)), p]]} if name else {})
            for where, category, conf, name, p in boxes
        ]
        images.append({"file": f"A/{number}.jpg", "detections": detections})
    results = {
        "info": {"format_version": "1.5", "classifier": "a model of two species"},
        "detection_categories": {"1": "animal", "2": "person"},
        "classification_categories": {str(number): name for number, name in enumerate(species)},
        "images": images,
    }
    (tmp_path / "md.json").write_text(json.dumps(results))
    answer_from_results(tmp_path, "md.json")
    return tmp_path


@pytest.fixture
def job(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "job")) / "job.yaml"


def say(job: Path, number: str, label: str, box: list[float] | None) -> None:
    run = open_run(job)
    rows = run.table("manifest").to_table(columns=["image_id", "sha256", "file_name"]).to_pylist()
    (image,) = (row for row in rows if row["file_name"] == f"A/{number}.jpg")
    said = Correction(
        label=label,
        images=(image["image_id"],),
        sha256=(image["sha256"],),
        who="ann",
        when=dt.datetime.now(dt.UTC),
        source="test",
        scope="image" if box is None else "box",
        box=None if box is None else tuple(box),  # type: ignore[arg-type]
    )
    record(run, [said])
    assert main(["merge", str(job), "--quiet"]) == 0


def frame(job: Path, number: str) -> tuple[Any, ...]:
    """Label, how sure, whose label, number of animals, and the label of the event."""
    run = open_run(job)
    names = run.table("manifest").to_table(columns=["file_name"])["file_name"].to_pylist()
    rows = run.table("frames").to_table().to_pylist()
    row = rows[names.index(f"A/{number}.jpg")]
    (sequence,) = (
        one for one in run.table("sequences").to_table().to_pylist() if one["seq_id"] == row["seq_id"]
    )
    assert sequence["label"] == row["label"]
    sure = None if row["confidence"] is None else round(row["confidence"], 2)
    return row["label"], sure, row["label_source"], row["count"]


def test_a_box_that_is_empty_leaves_its_image_to_the_others(job: Path) -> None:
    assert frame(job, "0") == ("lion", 0.95, "machine", 2)
    before = [frame(job, number) for number in "123"]
    say(job, "0", "empty", LEFT)
    assert frame(job, "0") == ("zebra", 0.9, "machine", 1)
    assert [frame(job, number) for number in "123"] == before
    items = Items(open_run(job))
    items.read_what_was_said()
    assert not items.said, "nobody said anything about the whole image"
    say(job, "0", "empty", RIGHT)
    assert frame(job, "0")[:3] == ("empty", 1.0, "human"), "no box is left"
    say(job, "0", "lion", None)
    assert frame(job, "0")[:3] == ("lion", 1.0, "human"), "what is said later of the whole counts"


def test_the_only_box_empties_its_image_and_a_person_stays(job: Path) -> None:
    say(job, "1", "empty", LEFT)
    assert frame(job, "1")[:3] == ("empty", 1.0, "human")
    say(job, "2", "empty", LEFT)
    assert frame(job, "2") == ("person", 0.6, "machine", 0)


def test_a_place_without_a_box_takes_nothing_away(job: Path) -> None:
    before = frame(job, "0")
    say(job, "0", "empty", [0.3, 0.8, 0.1, 0.1])
    assert frame(job, "0") == before


def test_animals_in_other_boxes_are_counted_with_the_one_that_people_named(job: Path) -> None:
    assert frame(job, "3") == ("zebra", 0.95, "machine", 3)
    say(job, "3", "lion", LEFT)
    assert frame(job, "3") == ("lion", 1.0, "human", 3)
    say(job, "3", "empty", RIGHT)
    assert frame(job, "3") == ("lion", 1.0, "human", 2)
    say(job, "3", "oryx", MIDDLE)
    run = open_run(job)
    last = run.table("sequences").to_table(columns=["label", "start"]).to_pylist()
    assert sorted(row["label"] for row in last if row["start"].day == 4) == ["lion", "oryx"]


def test_merging_again_changes_nothing(job: Path) -> None:
    say(job, "0", "empty", LEFT)
    number = open_run(job).snapshot("frames").number
    assert main(["merge", str(job), "--quiet"]) == 0
    assert open_run(job).snapshot("frames").number == number
