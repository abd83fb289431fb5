"""detect on small data sets: a network that finds bright spots, results of others, boxes of the metadata."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
import yaml
from PIL import ExifTags, Image
from support_onnx import constant_detector, spot_detector
from support_runs import InlineJob

from camtrap_batch.detection import library
from camtrap_batch.engine.base import GivenExecutor, WorkerContext
from camtrap_batch.engine.inline import InlineExecutor
from camtrap_batch.errors import CamtrapError, ClusterError, Damaged, InputError, JobError, StageError
from camtrap_batch.images import decode_upright
from camtrap_batch.job import Job
from camtrap_batch.notices import LOGGER
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.order import STAGES, parse_options, run_one
from camtrap_batch.pipeline.rows import unpack
from camtrap_batch.pipeline.stage import StageResult
from camtrap_batch.stages.detect import trial
from camtrap_batch.stages.detect.shard import DetectShard
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Receipt, Shard

SPOT = (0.25, 0.5)
"""Where photos of even numbers have a bright spot: x and y of its upper left corner, as parts."""

N = 24


def write_photos(folder: Path) -> None:
    """Photos of two cameras; the last one's file is gone after validating."""
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(N):
        pixels = np.full((64, 64, 3), 20, np.uint8)
        if number % 2 == 0:
            pixels[32:40, 16:24] = 220
        name = f"{'ab'[number // 12]}/{number:02}.jpg"
        (folder / "images" / name).parent.mkdir(exist_ok=True)
        (folder / "images" / name).write_bytes(simplejpeg.encode_jpeg(pixels, 97, colorsubsampling="444"))
        images.append({"id": f"i{number:02}", "file_name": name, "location": "ab"[number // 12]})
    marks = [
        {"id": "m0", "image_id": "i00", "category_id": 1, "bbox": [16, 32, 8, 8]},
        {"id": "m1", "image_id": "i01", "category_id": 0},
        {"id": "m2", "image_id": "i02", "category_id": 2, "bbox": [0, 0, 64, 32]},
        {"id": "m3", "image_id": "i03", "category_id": 1},
    ]
    categories = [{"id": 0, "name": "empty"}, {"id": 1, "name": "lion"}, {"id": 2, "name": "human"}]
    content = {"images": images, "annotations": marks, "categories": categories}
    (folder / "cct.json").write_text(json.dumps(content))


class Made(InlineJob):
    """A run folder, validated, and a job file beside it."""

    def __init__(self, folder: Path, **detect: Any) -> None:
        dataset = {"format": "cct", "metadata": "cct.json", "images": "images"}
        super().__init__(folder, dataset=dataset, validate={"thumbnails": 16}, detect=detect)

    def write(self, **detect: Any) -> None:
        self.set(detect=self.content["detect"] | detect)

    def do(  # type: ignore[override]
        self,
        stage: str = "detect",
        *assignments: str,
        dry_run: bool = False,
        retry: str = "",
        memory: int = 10**9,
    ) -> StageResult:
        job = Job.load(self.file, assignments)
        options = parse_options({"retry": retry} if retry else {}, STAGES[stage].options)
        source = GivenExecutor(InlineExecutor(), {"CPU": memory})
        return run_one(Context(job, Run(job), source, dry_run=dry_run, options=options), stage)


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detect")
    write_photos(folder)
    spot_detector(folder / "spots.onnx")
    job = Made(folder, model="spots.onnx")
    job.do("catalog")
    job.do("validate")
    (folder / "images" / "b" / "23.jpg").unlink()
    return folder


@pytest.fixture
def folder(validated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(validated, tmp_path / "job"))


def test_a_row_for_each_image_and_its_boxes(folder: Path) -> None:
    job = Made(folder, model="spots.onnx", shard_size=5, repeat={"frames": 0})
    result = job.do()
    detected, boxes = job.rows("detected"), job.rows("detections")
    assert [row["image_id"] for row in detected] == [row["image_id"] for row in job.rows("manifest")]
    assert result.counts == {"ok": N - 1, "unreadable": 1}
    assert result.rows == N
    assert result.shards > 4
    assert detected[-1] | {"detector_id": None} == {
        "image_id": "i23", "status": "unreadable", "n_boxes": None, "n_animals": None, "n_people": None,
        "n_vehicles": None, "max_confidence": None, "detector_id": None,
    }  # fmt: skip
    assert len({row["detector_id"] for row in detected}) == 1
    lost = folder / "images" / "b" / "23.jpg"
    sure = [box for box in boxes if box["confidence"] > 0.5]
    assert [box["image_id"] for box in sure] == [f"i{number:02}" for number in range(0, N, 2)]
    for box in sure:
        assert [box[side] for side in "xywh"] == pytest.approx([*SPOT, 0.125, 0.125], abs=1e-3)
        assert (box["category"], box["repeat"]) == ("animal", None)
    counts = {image: [box for box in boxes if box["image_id"] == image] for image in ("i00", "i01")}
    for row in detected[:2]:
        mine = counts[row["image_id"]]
        assert (row["n_boxes"], row["n_animals"], row["n_people"]) == (len(mine), len(mine), 0)
        assert row["max_confidence"] == max(box["confidence"] for box in mine)
    receipts = [Receipt.from_json(path.read_bytes()) for path in folder.glob("run/receipts/detect/*/*.json")]
    seen = Counter[str]()
    for receipt in receipts:
        seen.update(receipt.result["labels"])
    assert seen == {"animal": N // 2, "nothing": N // 2 - 1}, "for those who watch"
    # What could not be read is tried again; where it is still gone, nothing changes.
    before = job.run.snapshot("detected")
    assert job.do().shards_run == 1
    assert job.run.snapshot("detected").number == before.number
    lost.write_bytes((folder / "images" / "b" / "21.jpg").read_bytes())
    assert job.do().counts == {"ok": N}
    assert job.do().shards_run == 0


def test_what_stays_unreadable_is_not_tried_for_ever(folder: Path) -> None:
    job = Made(folder, model="spots.onnx", shard_size=5, repeat={"frames": 0})
    job.do()
    before = job.run.snapshot("detected")
    assert [job.do().shards_run for _ in range(4)] == [1, 1, 1, 0]
    said = (
        "no longer tried again, after failing repeatedly: unreadable 1; "
        "--retry unreadable tries them once more"
    )
    assert said in job.do().notes
    assert job.do(retry="unreadable").shards_run == 1
    after = job.run.snapshot("detected")
    assert (after.number, after.plan_id, after.files) == (before.number, before.plan_id, before.files)
    photo = (folder / "images" / "b" / "21.jpg").read_bytes()
    (folder / "images" / "b" / "23.jpg").write_bytes(photo)
    assert job.do().shards_run == 0
    assert job.do(retry="unreadable").counts == {"ok": N}
    assert job.do().notes == []
    with pytest.raises(JobError, match="'missing' is not tried again; possible: crashed, unreadable"):
        job.do(retry="missing")


def test_what_kills_workers_is_tried_once_more_and_with_more_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that takes 3 GB: what a worker's death is on a cluster is a MemoryError inline."""
    shutil.copy(folder / "images" / "b" / "21.jpg", folder / "images" / "b" / "23.jpg")
    enough, tries = [False], []
    of_shard = DetectShard.run

    def greedy(self: DetectShard, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        ids = unpack(payload)["image_id"].to_pylist()
        if "i07" in ids:
            tries.append(len(ids))
            if not enough[0]:
                raise MemoryError
        return of_shard(self, shard, payload, here)

    monkeypatch.setattr(DetectShard, "run", greedy)
    job = Made(folder, model="spots.onnx", shard_size=5, repeat={"frames": 0})
    assert job.do().counts == {"ok": N - 1, "crashed": 1}
    before = job.run.snapshot("detected")
    assert job.do().shards_run > 0
    tries.clear()
    assert job.do().shards_run == job.do(memory=10**8).shards_run == 0
    assert tries == []
    assert job.do(memory=2 * 10**9).shards_run > 0
    assert job.do(memory=2 * 10**9).shards_run == 0
    assert job.run.snapshot("detected").number == before.number
    enough[0] = True
    assert job.do(memory=4 * 10**9).counts == {"ok": N}


def test_detect_stops_where_many_pictures_are_gone(folder: Path) -> None:
    """But for those of which an earlier run was told to take it so."""
    shutil.copy(folder / "images" / "b" / "21.jpg", folder / "images" / "b" / "23.jpg")
    job = Made(folder, model="spots.onnx", shard_size=5, repeat={"frames": 0})
    hidden = [folder / "images" / "a" / f"{number:02}.jpg" for number in (3, 4, 5)]
    for path in hidden:
        path.rename(path.with_suffix(".hidden"))
    said = r"detect: 3 of 24 images .* \(unreadable 3\), more than limits.lost: 0.02 .*--set limits.lost=1"
    for _ in range(2):
        with pytest.raises(StageError, match=said):
            job.do()
    assert job.run.current("detected") is None
    assert job.do("detect", "limits.lost=1").counts == {"ok": N - 3, "unreadable": 3}
    assert job.do().shards_run > 0
    for path in hidden:
        path.with_suffix(".hidden").rename(path)
    assert job.do().counts == {"ok": N}


def test_workers_mark_many_boxes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(folder / "images" / "b" / "21.jpg", folder / "images" / "b" / "23.jpg")
    job = Made(folder, model="spots.onnx", repeat={"frames": 6, "iou": 0.9})
    notes, of_driver = job.do().notes, job.run.snapshot("detections")
    monkeypatch.setattr("camtrap_batch.stages.detect.MOST_ON_DRIVER", 0)
    job.do()
    assert job.run.snapshot("detections") == of_driver, "what the driver has marked stands"
    expected = job.rows("detections")
    shutil.rmtree(folder / "run" / "snapshots" / "detections")
    assert set(job.do().notes) <= set(notes)
    assert job.rows("detections") == expected
    of_workers = job.run.snapshot("detections")
    assert of_workers.meta == of_driver.meta
    assert of_workers.plan_id != of_driver.plan_id
    (made,) = of_workers.files
    again = job.do()
    assert (again.shards_run, again.notes) == (0, [])
    assert job.run.snapshot("detections").number == of_workers.number
    (folder / "run" / made.file).unlink()
    job.do()
    assert job.rows("detections") == expected, "what is missing is made again"


def test_a_threshold_redoes_nothing_but_repeats(folder: Path) -> None:
    shutil.copy(folder / "images" / "b" / "21.jpg", folder / "images" / "b" / "23.jpg")
    job = Made(folder, model="spots.onnx", repeat={"frames": 6, "iou": 0.9})
    notes = " ".join(job.do().notes)
    assert "12 boxes at 2 spots set aside as repeats" in notes
    before, table = job.run.snapshot("detected"), job.rows("detections")
    assert {box["repeat"] for box in table if box["confidence"] > 0.5} == {0, 1}
    kept = job.run.snapshot("detections").meta["repeats"]
    assert (kept["n_repeated_places"], kept["repeated_places"][0]["images"]) == (2, 6)
    job.write(threshold=0.95)
    result = job.do()
    assert result.shards_run == 0
    assert job.run.snapshot("detected").plan_id == before.plan_id
    assert {box["repeat"] for box in job.rows("detections")} == {None}


def test_another_detector_is_other_work(folder: Path) -> None:
    job = Made(folder, model="spots.onnx")
    job.do()
    spot_detector(folder / "coarse.onnx", cell=16)
    job.write(model="coarse.onnx")
    assert job.do().shards_run > 0
    assert {row["detector_id"] for row in job.rows("detected")} != {None}
    assert (folder / "run" / "detectors").is_dir()
    assert len(list((folder / "run" / "detectors").glob("*/detector.onnx"))) == 2


def test_damage_to_the_kept_detector_is_found_before_it_is_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its file is copied again; a worker that meets another content does not load it."""
    caplog.set_level(logging.WARNING, LOGGER.name)
    job = Made(folder, model="spots.onnx")
    job.do()
    (kept,) = (folder / "run" / "detectors").iterdir()
    whole = (kept / "detector.onnx").read_bytes()
    damaged = whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]
    (kept / "detector.onnx").write_bytes(damaged)
    with pytest.raises(Damaged, match=r"detector\.onnx: is damaged \(not the bytes that were written\)"):
        library.fetch_detector.__wrapped__(Folder(str(kept)))
    assert job.do().shards_run == 1, "what could not be read is tried again"
    assert "detector.onnx: is damaged (not the bytes that were written); replaced" in caplog.text
    assert (kept / "detector.onnx").read_bytes() == whole
    (kept / "detector.onnx").unlink()
    with pytest.raises(Damaged, match="is missing"):
        library.fetch_detector.__wrapped__(Folder(str(kept)))
    # As an earlier version kept it.
    (kept / "sha256.json").unlink()
    (kept / "detector.onnx").write_bytes(whole[: len(whole) // 2])
    assert str(library.detector_fault(Folder(str(kept)))).startswith("is damaged (")
    job.do()
    assert library.detector_fault(Folder(str(kept))) is None
    assert (kept / "sha256.json").exists()
    (kept / "detector.json").write_bytes(b"{")
    assert "can't be read as JSON" in str(library.detector_fault(Folder(str(kept))))


def test_shards_of_any_size_give_the_same_rows(folder: Path) -> None:
    job = Made(folder, model="spots.onnx", shard_size=3)
    job.do()
    first = job.run.table("detections").to_table()
    shutil.rmtree(folder / "run" / "receipts" / "detect")
    for table in ("detected", "boxes", "detections"):
        shutil.rmtree(folder / "run" / "snapshots" / table)
    job.write(shard_size=20)
    job.do()
    assert job.run.table("detections").to_table().equals(first)


def test_thumbnails_serve_where_they_are_large_enough(folder: Path) -> None:
    """The photos themselves are gone after validating; for tiles they are wanted."""
    shutil.copy(folder / "images" / "b" / "21.jpg", folder / "images" / "b" / "23.jpg")
    job = Made(folder, model="spots.onnx")
    job.content["validate"] = {"thumbnails": 64}
    job.write()
    job.do("validate")
    shutil.rmtree(folder / "images" / "a")
    assert job.do().counts == {"ok": N}
    sure = [box["image_id"] for box in job.rows("detections") if box["confidence"] > 0.5]
    assert sure == [f"i{number:02}" for number in range(0, N, 2)]
    job.write(tiles=2)
    assert job.do("detect", "limits.lost=1").counts == {"ok": N // 2, "unreadable": N // 2}


@pytest.mark.parametrize(
    ("asked", "is_there", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", False, "cuda")],
)
def test_gpu_workers_where_there_are_some(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str, is_there: bool, device: str
) -> None:
    """What a worker is told to compute on; here it has a CPU nevertheless."""
    told = set()
    of_shard = DetectShard.run

    def on_cpu(self: DetectShard, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        told.add(self.device)
        return of_shard(replace(self, device="cpu"), shard, payload, here)

    monkeypatch.setattr(DetectShard, "run", on_cpu)
    monkeypatch.setattr(DetectShard, "requirement", None)
    monkeypatch.setattr("camtrap_batch.stages.detect.has_gpu", lambda: is_there)
    Made(folder, model="spots.onnx", device=asked).do()
    assert told == {device}


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    job = Made(folder, model="spots.onnx")
    result = job.do(dry_run=True)
    assert "24 rows" in " ".join(result.notes)
    assert job.run.current("detected") is None
    assert not (folder / "run" / "detectors").exists()


def test_one_that_sees_what_it_does_not_know(folder: Path) -> None:
    """A detector without the animal category, and one that is none, before anything is done."""
    boxes = {"y": np.zeros((1, 300, 6)) + 100}
    constant_detector(folder / "cars.onnx", boxes, names=["car"], imgsz=[64, 64])
    constant_detector(folder / "classes.onnx", {"y": np.zeros((1, 10))}, names=["car"], imgsz=[64, 64])
    for model, message in [
        ("cars.onnx", r"detect\.animal_category: .*cars\.onnx has no category 'animal'; possible: car"),
        ("classes.onnx", r"detect\.model\): not a detector, or one with an unknown layout"),
        ("none.onnx", r"none\.onnx \(detect\.model\): no such file"),
        ("model.tflite", r"model\.tflite: should end in possible: \.onnx"),
    ]:
        job = Made(folder, model=model)
        with pytest.raises(CamtrapError, match=message):
            job.do()
        assert job.run.current("detected") is None
    job.content.pop("detect")
    job.file.write_text(yaml.safe_dump(job.content))
    with pytest.raises(InputError, match="the job names no detector: set detect"):
        job.do()


@pytest.mark.parametrize(
    ("detect", "message"),
    [
        ({}, "give either model or results"),
        ({"model": "a.onnx", "results": "a.json"}, "give either model or results"),
        ({"results": "a.json", "tiles": 2}, "size and tiles apply to a model"),
        ({"model": "a.onnx", "tiles": 3}, "tiles"),
        ({"modle": "a.onnx"}, "did you mean .*model"),
    ],
)
def test_a_section_that_is_wrong(folder: Path, detect: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Made(folder, **detect).do()


def md_results(path: Path, *, images: list[dict[str, Any]] | None = None) -> None:
    animal = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.2, 0.2]}
    person = {"category": "2", "conf": 0.8, "bbox": [0.5, 0.1, 0.2, 0.2]}
    found = [
        {"file": "a/00.jpg", "detections": [animal, person, {**animal, "category": "9"}]},
        {"file": "a/01.jpg", "detections": []},
        {"file": "a/02.jpg", "failure": "image access failure", "detections": []},
    ]
    content = {
        "info": {"format_version": "1.6"},
        "detection_categories": {"1": "animal", "2": "person", "3": "Animal"},
        "images": found if images is None else images,
    }
    path.write_text(json.dumps(content))


def test_results_of_others(folder: Path) -> None:
    md_results(folder / "md.json")
    job = Made(folder, results="md.json")
    result = job.do()
    first, second, third, fourth = job.rows("detected")[:4]
    assert (first["status"], first["n_boxes"], first["n_animals"], first["n_people"]) == ("ok", 2, 1, 1)
    assert (second["status"], second["n_boxes"], second["max_confidence"]) == ("ok", 0, None)
    assert (third["status"], third["n_boxes"]) == ("unreadable", None)
    assert (fourth["status"], fourth["n_boxes"]) == ("no_result", None)
    assert [box["category"] for box in job.rows("detections")] == ["animal", "person"]
    assert "1 box of categories not listed ('9')" in " ".join(result.notes)
    assert job.do().shards_run == 0
    md_results(folder / "md.json", images=[{"file": "x.jpg", "detections": []}])
    with pytest.raises(InputError, match=r"detect\.results\): of other images"):
        job.do()


def test_paths_below_the_image_root(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "images")
    images = [
        {"file": str(folder / "images" / "a" / "00.jpg"), "detections": []},
        {"file": str(folder / "images" / "a" / "01.jpg").replace("/", "\\"), "detections": []},
    ]
    md_results(folder / "md.json", images=images)
    job = Made(folder, results="md.json")
    for root in ("images", "link"):
        job.content["dataset"]["images"] = root
        job.write()
        job.do()
        assert [row["status"] for row in job.rows("detected")[:3]] == ["ok", "ok", "no_result"]


@pytest.mark.parametrize("version", [None, "20261015"])
def test_results_of_speciesnet(folder: Path, version: str | None) -> None:
    animal = {"category": "1", "label": "animal", "conf": 0.9, "bbox": [0.1, 0.1, 0.2, 0.2]}
    human = {**animal, "category": "2", "label": "human"}
    whole = {"category": "0", "label": "whole_image_classification", "conf": 1.0, "bbox": [0, 0, 1, 1]}
    predictions = [
        {"filepath": "a/00.jpg", "detections": [whole, animal, human], "model_version": "4.0.1a"},
        {"filepath": "a/01.jpg", "failures": ["DETECTOR"]},
        {"filepath": "a/02.jpg", "failures": ["CLASSIFIER"], "detections": []},
    ]
    info = {"info": {"format_version": version}} if version else {}
    (folder / "sn.json").write_text(json.dumps({**info, "predictions": predictions}))
    job = Made(folder, results="sn.json")
    job.do()
    assert [row["status"] for row in job.rows("detected")[:4]] == ["ok", "unreadable", "ok", "no_result"]
    assert [row["n_people"] for row in job.rows("detected")[:3]] == [1, None, 0]
    assert [box["category"] for box in job.rows("detections")] == ["animal", "human"]
    (folder / "sn.json").write_text(json.dumps({"info": {"format_version": "2"}, "predictions": []}))
    with pytest.raises(InputError, match="format_version '2' can't be read; possible: 20261015, or none"):
        job.do()


def test_boxes_of_the_metadata(folder: Path) -> None:
    job = Made(folder, results="catalog")
    job.do()
    status = [row["status"] for row in job.rows("detected")[:5]]
    assert status == ["ok", "ok", "ok", "no_result", "no_result"]
    lion, human = job.rows("detections")
    assert [lion[key] for key in ("image_id", "category", "confidence")] == ["i00", "animal", 1]
    assert [lion[side] for side in "xywh"] == [0.25, 0.5, 0.125, 0.125]
    assert [human[key] for key in ("image_id", "category", "h")] == ["i02", "person", 0.5]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("means", ["stored", "upright", "nothing"])
def test_boxes_of_the_metadata_of_pictures_that_exif_turns(
    tmp_path: Path, orientation: int, means: str
) -> None:
    """The metadata's size says which way up they mean it; without one it is upright."""
    pixels = np.full((40, 80, 3), 30, np.uint8)
    pixels[5:15, 50:70] = 220  # as stored
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", quality=97, exif=exif)
    bright = decode_upright((tmp_path / "images" / "a.jpg").read_bytes(), 1000)[..., 0] > 128
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    there = [columns[0], rows[0], len(columns), len(rows)]
    height, width = bright.shape
    lies = orientation >= 5
    bbox = [50, 5, 20, 10] if means == "stored" and lies else [int(side) for side in there]
    size = {"stored": {"width": 80, "height": 40}, "upright": {"width": width, "height": height}}.get(
        means, {}
    )
    content = {
        "images": [{"id": "a", "file_name": "a.jpg", "location": "x", **size}],
        "annotations": [{"id": "m", "image_id": "a", "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "lion"}],
    }
    (tmp_path / "cct.json").write_text(json.dumps(content))
    job = Made(tmp_path, results="catalog")
    for stage in ("catalog", "validate"):
        job.do(stage)
    result = job.do()
    (box,) = job.rows("detections")
    assert [box[side] for side in "xywh"] == pytest.approx(
        [there[0] / width, there[1] / height, there[2] / width, there[3] / height], abs=0.03
    )
    said = [note for note in result.notes if "by the metadata's size" in note]
    assert len(said) == (lies and means != "nothing")
    assert job.rows("manifest")[0]["orientation"] == (None if orientation == 1 else orientation)


def test_a_box_of_the_metadata_that_is_not_in_its_picture(folder: Path) -> None:
    content = json.loads((folder / "cct.json").read_text())
    content["annotations"][0]["bbox"] = [16, 60, 8, 30]
    (folder / "cct.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"image 'i00': bbox \[16, 60, 8, 30\] is not inside"):
        Made(folder, results="catalog").do()


def test_the_keys_of_before(folder: Path) -> None:
    """infer.detections and its four keys are detect.results and its own."""
    md_results(folder / "md.json")
    job = Made(folder)
    del job.content["detect"]
    keys = {"detection_threshold": 0.5, "animal_category": "person", "repeat_frames": 7, "repeat_iou": 0.8}
    job.content["infer"] = {"detections": "md.json", **keys}
    job.file.write_text(yaml.safe_dump(job.content))
    found = Job.load(job.file).detection
    assert found is not None
    settings, section = found
    assert (settings.results, section) == (str(folder / "md.json"), "infer")
    assert (settings.threshold, settings.animal_category) == (0.5, "person")
    assert (settings.repeat.frames, settings.repeat.iou) == (7, 0.8)
    job.do()
    assert job.rows("detected")[0]["n_animals"] == 1
    job.content["detect"] = {"results": "md.json"}
    job.file.write_text(yaml.safe_dump(job.content))
    with pytest.raises(JobError, match=r"infer\.detections and detect exclude each other"):
        Job.load(job.file)


def test_a_precision_that_holds_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from camtrap_batch.runtime import choose_runtime
    from camtrap_batch.stages import detect

    fastest = choose_runtime("cpu")[1].precisions("cpu")[0]
    if fastest == "float32":
        pytest.skip("this CPU has no shorter floats")
    monkeypatch.setattr(detect, "_FEWEST_TO_CHECK", 1)
    monkeypatch.setattr(trial, "_SHARE", 1)
    job = Made(folder, model="spots.onnx")
    while job.do().shards_run:  # until what is unreadable is not tried again
        pass
    found = job.run.snapshot("detected").meta["precision"]
    assert (found["precision"], found["tried"], found["lost"]) == (fastest, fastest, 0)
    assert found["apart"] <= 0.01
    if fastest == "bfloat16":  # which no GPU computes in: for one, it is asked again
        job.write(device="cuda")
        with pytest.raises(ClusterError, match=r"no GPU that .* can use here"):
            job.do()
        job.write(device="auto")
        assert job.do().shards_run == 0
    job.write(precision="float32")
    job.do()
    assert job.run.snapshot("detected").meta["precision"] == {"precision": "float32"}


def test_rows_are_of_the_tables_schemas(folder: Path) -> None:
    job = Made(folder, model="spots.onnx")
    job.do()
    for name in ("detected", "boxes", "detections"):
        table: pa.Table = job.run.table(name).to_table()
        assert table.schema.names == job.run.table(name).schema.names


_PACKAGE = """
import hashlib, io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from camtrap_batch.detection.base import Found
from camtrap_batch.errors import InputError


@dataclass(frozen=True)
class BrightDetector:
    help = "what is brighter than a level, as one box"
    endings = (".bright",)
    path: str
    content: bytes

    @classmethod
    def open(cls, path, *, size=None, tiles=1, key="detect.model"):
        content = Path(path).read_bytes()
        if not content.strip().isdigit():
            raise InputError(f"{key}: {path}: should hold a level from 0 to 255")
        return cls(path, content)

    @property
    def detector_id(self):
        return hashlib.sha256(self.content).hexdigest()[:16]

    categories = ("animal",)

    @property
    def files(self):
        return {"level.bright": self.content}

    def load(self, folder, device, threads, batch, precision):
        return Finder(int((folder / "level.bright").read_text()))


@dataclass
class Finder:
    level: int

    def find(self, pictures, tally=None):
        for data in pictures:
            try:
                pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
            except OSError as problem:
                yield str(problem)
                continue
            y, x = np.nonzero(pixels > self.level)
            if not len(x):
                yield Found.nothing()
                continue
            height, width = pixels.shape
            sides = np.array([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]) / ([width, height] * 2)
            yield Found(sides[None].astype(np.float32), np.float32([0.9]), np.int16([0]))
"""


def test_a_detector_of_another_package(
    folder: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A package that lies beside ours, with an entry point, finds boxes in files of an ending of its own."""
    entries = "broken = nowhere:Detector\nbright = camtrap_bright:BrightDetector"
    beside("camtrap_bright", _PACKAGE, "camtrap_batch.detectors", entries)
    job = Made(folder, model="level.bright")  # the broken one is in nobody's way

    def detect(level: str) -> subprocess.CompletedProcess[str]:
        (folder / "level.bright").write_text(level)
        return camtrap("detect", job.file, "--cluster", "inline")

    done = detect("bright")
    assert done.returncode == 2
    assert "detect.model: " in done.stderr
    assert "should hold a level from 0 to 255" in done.stderr
    done = detect("128")
    assert done.returncode == 0, done.stderr
    assert [box["image_id"] for box in job.rows("detections")] == [f"i{n:02}" for n in range(0, N, 2)]
    assert [box["x"] for box in job.rows("detections")] == pytest.approx([SPOT[0]] * (N // 2), abs=0.02)
    assert job.rows("detected")[-1]["status"] == "unreadable"
    first = job.run.snapshot("detections").number
    assert detect("128").returncode == 0
    assert job.run.snapshot("detections").number == first
    assert detect("250").returncode == 0
    assert job.rows("detections") == []  # another level is another detector


_RESULTS = """
import csv, hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from camtrap_batch.detection.base import Answer, Known
from camtrap_batch.detection.results import BOX
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import CROPS


@dataclass(frozen=True)
class SightingsDetector:
    help = "a list of file,species"
    endings = (".sightings",)
    categories = ("animal",)
    classified_by = "the ranger"
    found: dict
    detector_id: str

    @classmethod
    def open(cls, path, *, images, key="detect.results"):
        data = Path(path).read_bytes()
        lines = [line.split(",") for line in data.decode().split()]
        if any(len(line) != 2 for line in lines):
            raise InputError(f"{key}: {path}: should have lines of file,species")
        return cls(dict(lines), hashlib.sha256(data).hexdigest()[:16])

    def match(self, rows):
        box = {"x": 0.25, "y": 0.25, "w": 0.5, "h": 0.5, "confidence": 1.0, "category": 0}
        boxes = [[box] if name in self.found else [] for name in rows["file_name"].to_pylist()]
        return Known(pa.array(boxes, pa.list_(BOX)), pa.array(["ok"] * len(boxes)))

    def answers(self, rows, boxes, empty):
        labels = [self.found.get(name, empty) for name in rows["file_name"].to_pylist()]
        sure, top = [1.0] * len(labels), [[{"label": label, "p": 1.0}] for label in labels]
        return Answer(
            sorted(set(labels)), pa.array(labels), pa.array(sure, pa.float32()),
            pa.array(top, CROPS.field("top5").type), pa.array(["ok"] * len(labels)), boxes.count(),
            CROPS.empty_table(), [],
        )
"""


def test_results_that_another_package_reads(
    folder: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A package's own results files give boxes, and species without a model."""
    entries = "sightings = camtrap_sightings:SightingsDetector"
    beside("camtrap_sightings", _RESULTS, "camtrap_batch.detectors", entries)
    job = Made(folder, results="ranger.sightings")
    job.set(infer={"model": "none"})
    (folder / "ranger.sightings").write_text("a/00.jpg")
    wrong = camtrap("detect", job.file, "--cluster", "inline")
    assert wrong.returncode == 2
    assert "ranger.sightings: should have lines of file,species" in wrong.stderr
    names = {row["image_id"]: row["file_name"] for row in job.rows("manifest")}
    (folder / "ranger.sightings").write_text(f"{names['i00']},genet")
    for stage in ("detect", "infer"):
        done = camtrap(stage, job.file, "--cluster", "inline")
        assert done.returncode == 0, done.stderr
    assert "labels of people" not in done.stdout + done.stderr  # they are not the result
    assert [box["image_id"] for box in job.rows("detections")] == ["i00"]
    labels = {row["image_id"]: row["label"] for row in job.rows("predictions")}
    assert labels == {id_: "genet" if id_ == "i00" else "empty" for id_ in names}
    assert job.run.snapshot("predictions").meta["made_by"] == "the ranger"
