"""What people said outlives everything else: a rename, another model, another rule, another catalog."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from support_runs import answer_from_results, up_to_merge

from camtrap_batch import open_run
from camtrap_batch.cli import main

ANIMALS = ("lion", "zebra", "oryx")


def write_results(folder: Path, names: list[str], animal: str, name: str) -> None:
    """A results file of a model that sees the same animal everywhere."""
    images = [
        {
            "file": file,
            "detections": [
                {
                    "category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.5, 0.5],
                    "classifications": [["0", 0.95]],
                }
            ],
        }
        for file in names
    ]  # fmt: skip
    content = {
        "info": {"format_version": "1.5", "classifier": f"a model of {animal}s"},
        "detection_categories": {"1": "animal"},
        "classification_categories": {"0": animal},
        "images": images,
    }
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    names = []
    for number in range(8):
        name = f"{'AB'[number % 2]}/{number}.jpg"
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x9003] = exif[0x0132] = f"2024:05:0{1 + number // 2} 08:00:00"
        Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(path, exif=exif)
        names.append(name)
    write_results(tmp_path, names, "zebra", "first.json")
    limits = {"deleted": 1, "lost": 1}  # cameras get other names
    return answer_from_results(tmp_path, "first.json", limits=limits)


def reprocess(job: Path, **sections: Any) -> None:
    content = yaml.safe_load(job.read_text())
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    job.write_text(yaml.safe_dump(content))
    up_to_merge(job)


def decided(job: Path) -> dict[str, tuple[str, str, int | None]]:
    """Hash of a photo -> its label, where a person gave it."""
    run = open_run(job)
    frames = run.table("frames").to_table(
        columns=["image_id", "label", "label_source", "count", "individual"]
    )
    hashes = {
        row["image_id"]: row["sha256"]
        for row in run.table("manifest").to_table(columns=["image_id", "sha256"]).to_pylist()
    }
    return {
        hashes[row["image_id"]]: (row["label"], row["individual"], row["count"])
        for row in frames.to_pylist()
        if row["label_source"] == "human"
    }


def test_a_decision_outlives_everything_else(job: Path, tmp_path: Path) -> None:
    reprocess(job)
    run = open_run(job)
    hashes = {
        row["file_name"]: row["sha256"]
        for row in run.table("manifest").to_table(columns=["file_name", "sha256"]).to_pylist()
    }
    said = tmp_path / "said.csv"
    said.write_text("file_name,label,count,individual\nA/0.jpg,leopard,1,F7\nB/3.jpg,empty,,\n")
    assert main(["corrections", str(job), str(said)]) == 0
    reprocess(job)
    expected = {hashes["A/0.jpg"]: ("leopard", "F7", 1), hashes["B/3.jpg"]: ("empty", None, None)}

    def holds() -> None:
        found = decided(job)
        assert {name: (label, who) for name, (label, who, _) in found.items()} == {
            name: (label, who) for name, (label, who, _) in expected.items()
        }
        assert found[hashes["A/0.jpg"]][2] == 1

    holds()
    # Other rules.
    reprocess(job, events={"gap_min": 600})
    holds()
    # Another model.
    names = sorted(hashes)
    write_results(tmp_path, names, "oryx", "second.json")
    reprocess(job, detect={"results": "second.json"})
    holds()
    labels = set(open_run(job).table("predictions").to_table()["label"].to_pylist())
    assert labels == {"oryx"}
    # Cards moved to other folders, with other names.
    shutil.move(tmp_path / "photos" / "A", tmp_path / "photos" / "waterhole")
    (tmp_path / "photos" / "B" / "3.jpg").rename(tmp_path / "photos" / "B" / "IMG_0003.JPG")
    write_results(
        tmp_path,
        [name.replace("A/", "waterhole/").replace("B/3.jpg", "B/IMG_0003.JPG") for name in names],
        "oryx",
        "second.json",
    )
    reprocess(job)
    holds()
    # Another catalog, which names the photos by ids of its own.
    photos = sorted((tmp_path / "photos").rglob("*.[jJ][pP][gG]"))
    images = [
        {"id": f"x{number}", "file_name": f"{path.parent.name}/{path.name}", "location": path.parent.name}
        for number, path in enumerate(photos)
    ]
    (tmp_path / "other.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    content = yaml.safe_load(job.read_text())
    content["dataset"] = {"format": "cct", "metadata": "other.json", "images": "photos"}
    job.write_text(yaml.safe_dump(content))
    reprocess(job)
    ids = open_run(job).table("frames").to_table()["image_id"].to_pylist()
    assert set(ids) == {f"x{n}" for n in range(8)}
    holds()
