"""Training on crops: small photos in which an animal is a bright pattern, and boxes say where."""

from __future__ import annotations

import datetime as dt
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
import yaml
from support_runs import InlineJob

from camtrap_batch.engine.base import GivenExecutor, WorkerContext
from camtrap_batch.engine.inline import InlineExecutor
from camtrap_batch.errors import InputError, JobError
from camtrap_batch.images import decode_upright
from camtrap_batch.job import Job
from camtrap_batch.model import Samples, read_info
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.dlpk import describe, write_package
from camtrap_batch.pipeline.context import Context
from camtrap_batch.stages.train import plan_training
from camtrap_batch.stages.train.cut import cut_crops
from camtrap_batch.store.corrections import Correction, read_corrections, record
from camtrap_batch.store.run import Run

WIDTH, HEIGHT, SIDE = 96, 64, 24
CAMERAS = "abcdef"
CLASSES = {1: "lion", 2: "zebra"}
SIZE = 32


def draw(species: int, x: int, y: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A dim frame; in it a square with stripes that lie (1) or stand (2)."""
    pixels = rng.integers(20, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    if species:
        stripes = np.where(np.arange(SIDE) // 4 % 2, 240, 90).astype(np.uint8)
        lying = np.broadcast_to(stripes[:, None, None], (SIDE, SIDE, 3))
        pixels[y : y + SIDE, x : x + SIDE] = lying if species == 1 else lying.transpose(1, 0, 2)
    return pixels


def write_data(folder: Path) -> None:
    """12 photos of each of six cameras: lions, zebras, empties; one animal of each camera has no box."""
    rng = np.random.default_rng(3)
    images, marks, found = [], [], []
    for camera in CAMERAS:
        (folder / "images" / camera).mkdir(parents=True)
        for number in range(12):
            species = number % 3
            x, y = (int(rng.integers(6, side - SIDE - 6)) for side in (WIDTH, HEIGHT))
            name, image_id = f"{camera}/{number:02}.jpg", f"{camera}{number:02}"
            jpeg = simplejpeg.encode_jpeg(draw(species, x, y, rng), 95, colorsubsampling="444")
            (folder / "images" / name).write_bytes(jpeg)
            images.append({"id": image_id, "file_name": name, "location": camera, "width": WIDTH,
                           "height": HEIGHT})  # fmt: skip
            box = [x / WIDTH, y / HEIGHT, SIDE / WIDTH, SIDE / HEIGHT]
            boxes = [{"category": "1", "conf": 0.9, "bbox": box}] if species and number != 1 else []
            mark: dict[str, Any] = {"id": image_id, "image_id": image_id, "category_id": species}
            if boxes:
                mark["bbox"] = [x, y, SIDE, SIDE]
            marks.append(mark)
            found.append({"file": name, "detections": boxes})
    categories = [{"id": 0, "name": "empty"}, *({"id": n, "name": name} for n, name in CLASSES.items())]
    categories.append({"id": 3, "name": "bird"})
    content = {"images": images, "annotations": marks, "categories": categories}
    (folder / "cct.json").write_text(json.dumps(content))
    results = {
        "info": {"format_version": "1.5"},
        "detection_categories": {"1": "animal", "2": "person"},
        "images": found,
    }
    (folder / "md.json").write_text(json.dumps(results))


class Made(InlineJob):
    """A run folder and its job file."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        content: dict[str, Any] = {
            "dataset": {"format": "cct", "metadata": "cct.json", "images": "images"},
            "validate": {"thumbnails": 32},
            "detect": {"results": "md.json"},
            "select": {"empty": {"fraction": 1.0}, "split": {"valid": 0.34}},
            "train": {"arch": "test_resnet", "weights": "none", "size": SIZE, "epochs": 1, "batch": 16,
                      "lr": 0.003},
        }  # fmt: skip
        super().__init__(folder, **(content | settings))

    def cut(self) -> Samples:
        """The crops of the current selection, as they are learnt from, without a training."""
        job = Job.load(self.file)
        cut_crops(Context(job, Run(job), GivenExecutor(InlineExecutor())))
        work, _ = plan_training(job, Run(job))
        return work.samples(WorkerContext())

    def change(self, name: str, change: Any) -> None:
        """Edit a JSON file of the data."""
        content = json.loads((self.folder / name).read_text())
        change(content)
        (self.folder / name).write_text(json.dumps(content))

    @property
    def model(self) -> Path:
        snapshot = self.run.current("model")
        assert snapshot is not None
        return self.folder / "run" / "models" / snapshot.meta["model_id"]

    @property
    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads((self.model / "metrics.json").read_text())
        return metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    write_data(folder)
    made = Made(folder)
    made.set(train={**made.content["train"], "epochs": 6})
    made.do("catalog", "validate", "detect", "select", "train")
    return folder


@pytest.fixture
def made(trained: Path, tmp_path: Path) -> Made:
    made = Made(Path(shutil.copytree(trained, tmp_path / "job")))
    made.set(**yaml.safe_load((trained / "job.yaml").read_text()) | {"output": str(made.folder)})
    return made


def test_crops_are_cut_once_and_hold_what_is_in_the_boxes(made: Made) -> None:
    images, crops = made.rows("training_images"), made.rows("training_crops")
    chosen = [row["image_id"] for row in made.rows("selection") if row["label"]]
    assert [row["image_id"] for row in images] == chosen
    assert {row["status"] for row in images} == {"ok"}
    assert sum(row["n_crops"] for row in images) == len(crops)
    with_box = {row["image_id"] for row in made.rows("detections")}
    assert {row["image_id"] for row in crops if row["what"] == "box"} == with_box
    assert {row["image_id"] for row in crops if row["what"] == "background"} == set(chosen) - with_box
    side = SIZE + 2 * round(0.15 * SIZE)
    for row in crops[:20]:
        pixels = decode_upright(row["jpeg"], side)
        assert pixels.shape == (side, side, 3)
        middle = pixels[side // 2 - 8 : side // 2 + 8, side // 2 - 8 : side // 2 + 8]
        assert (middle.mean() > 120) == (row["what"] == "box")
        assert pixels[0].mean() < 120, "no margin around the box"
    made.set(train={**made.content["train"], "epochs": 2})
    (note,) = made.do("train", dry_run=True).notes
    assert note.startswith("1 of 1 shards would run"), "only the training is to be done again"


def test_the_job_is_judged_by_images_and_the_model_by_crops(made: Made) -> None:
    metrics = made.metrics
    assert metrics["on"] == "crops"
    chosen = [row for row in made.rows("selection") if row["split"] == "valid"]
    assert metrics["valid"]["n_images"] == len(chosen)
    boxed = {row["image_id"] for row in made.rows("detections")}
    missed = sum(row["label"] != "empty" and row["image_id"] not in boxed for row in chosen)
    assert missed == 2, "one of each unseen camera"
    by_crop = metrics["valid"]["by_crop"]
    assert by_crop["n_images"] == len(chosen) - missed
    assert by_crop["accuracy"] > 0.9
    assert metrics["valid"]["accuracy"] == pytest.approx(1 - missed / len(chosen), abs=0.05)
    assert metrics["training"]["crops"] == metrics["training"]["images"]
    lion = metrics["valid"]["per_class"]["lion"]
    assert lion["recall"] == pytest.approx(0.75)


def test_the_model_says_what_it_expects(made: Made) -> None:
    info = read_info(made.model)
    assert info.on == "crops"
    assert "without a margin" in describe(info)
    assert "It expects crops" in describe(info)


def test_what_infer_says_of_images_is_what_the_figures_are_of(made: Made) -> None:
    made.set(infer={"precision": "float32"})
    made.do("infer")
    truth = {row["image_id"]: row["label"] for row in made.rows("selection") if row["split"] == "valid"}
    said = {row["image_id"]: row["label"] for row in made.rows("predictions")}
    right = np.mean([said[name] == label for name, label in truth.items()])
    assert right == pytest.approx(made.metrics["valid"]["accuracy"])


@pytest.mark.parametrize(
    ("marks", "labels"),
    [
        ([], ["zebra", "zebra"]),
        # One zebra, two boxes: the surer one is it.
        ([{"category_id": 2, "count": 1}], ["zebra", ""]),
        # Another species is in the picture, and nobody says which box is whose.
        ([{"category_id": 3}], ["", ""]),
    ],
)
def test_a_box_has_its_image_s_label_where_that_is_beyond_doubt(
    made: Made, marks: list[dict[str, Any]], labels: list[str]
) -> None:
    def mark(data: dict[str, Any]) -> None:
        if marks and marks[0]["category_id"] == 2:
            data["annotations"] = [one for one in data["annotations"] if one["id"] != "a02"]
        data["annotations"] += [{"id": "new", "image_id": "a02", **one} for one in marks]

    def second_box(results: dict[str, Any]) -> None:
        (image,) = (image for image in results["images"] if image["file"] == "a/02.jpg")
        image["detections"].append({"category": "1", "conf": 0.4, "bbox": [0.0, 0.0, 0.2, 0.2]})
        image["detections"].append({"category": "1", "conf": 0.1, "bbox": [0.5, 0.0, 0.2, 0.2]})

    made.change("cct.json", mark)
    made.change("md.json", second_box)
    made.set(select={**made.content["select"], "classes": ["lion", "zebra"]})
    made.do("catalog", "validate", "detect", "select")
    samples = made.cut()
    of_image = [label for name, label in zip(samples.image_ids, samples.labels, strict=True) if name == "a02"]
    assert of_image == labels


def test_a_box_in_an_empty_image_and_the_place_of_a_missed_animal(made: Made) -> None:
    def stump(results: dict[str, Any]) -> None:
        (image,) = (image for image in results["images"] if image["file"] == "a/03.jpg")
        image["detections"].append({"category": "1", "conf": 0.4, "bbox": [0.0, 0.0, 0.2, 0.2]})

    made.change("md.json", stump)
    made.do("detect", "select")
    samples = made.cut()
    of = dict(zip(samples.image_ids, samples.labels, strict=True))
    assert of["a03"] == of["a00"] == "empty"
    assert of["a01"] == "", "a lion without a box: its background may show it"
    assert "a01" in samples.frames.image_ids if samples.frames else False


def test_boxes_of_the_metadata_carry_their_own_labels(made: Made) -> None:
    def add_bird(data: dict[str, Any]) -> None:
        (mark,) = (mark for mark in data["annotations"] if mark["id"] == "a02")
        data["annotations"].append({**mark, "id": "bird", "category_id": 3, "bbox": [0, 0, 10, 10]})

    made.change("cct.json", add_bird)
    made.set(detect={"results": "catalog"}, select={**made.content["select"], "classes": ["lion", "zebra"]})
    made.do("catalog", "validate", "detect", "select")
    assert {"a02": "zebra", "a04": "lion"}.items() <= {
        row["image_id"]: row["label"] for row in made.rows("boxes") if row["label"] != "bird"
    }.items()
    samples = made.cut()
    of_image = [label for name, label in zip(samples.image_ids, samples.labels, strict=True) if name == "a02"]
    assert sorted(of_image) == ["", "zebra"], "of the bird, which is not learnt, nothing is"
    whole = {row["image_id"] for row in made.rows("training_crops") if row["what"] == "frame"}
    assert whole == {f"{camera}01" for camera in CAMERAS}, "of these the metadata know no boxes"
    of = dict(zip(samples.image_ids, samples.labels, strict=True))
    assert of["a01"] == "lion"


def labels_of(samples: Samples, image_id: str) -> list[str]:
    """Of the image's crops, in the order of its boxes."""
    return [label for name, label in zip(samples.image_ids, samples.labels, strict=True) if name == image_id]


def say(made: Made, image_id: str, label: str, box: list[float] | None = None) -> None:
    """What a person says of an image, or of a box in it."""
    (row,) = (row for row in made.rows("manifest") if row["image_id"] == image_id)
    when = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=len(read_corrections(made.run)))
    correction = Correction(
        label, (image_id,), (row["sha256"],), "me", when, "review",
        scope="image" if box is None else "box", box=None if box is None else tuple(box),  # type: ignore[arg-type]
    )  # fmt: skip
    record(made.run, [correction])


def box_of(made: Made, image_id: str, number: int = 0) -> list[float]:
    """A box as the table has it, moved a little, as a hand would."""
    boxes = [row for row in made.rows("detections") if row["image_id"] == image_id]
    return [boxes[number][side] + 0.01 for side in "xywh"]


def test_what_people_say_of_a_box_is_what_its_crop_shows(made: Made) -> None:
    def second_box(results: dict[str, Any]) -> None:
        (image,) = (image for image in results["images"] if image["file"] == "a/02.jpg")
        image["detections"].append({"category": "1", "conf": 0.4, "bbox": [0.0, 0.0, 0.2, 0.2]})

    made.change("md.json", second_box)
    made.do("detect", "select")
    assert labels_of(made.cut(), "a02") == ["zebra", "zebra"]
    say(made, "a02", "Lion", box_of(made, "a02", 1))
    made.do("select")
    assert labels_of(made.cut(), "a02") == ["", "lion"], "of the other box nobody said anything"
    say(made, "a02", "zebra", box_of(made, "a02", 0))
    result = made.do("select")
    assert result.counts["several classes, kept for its boxes"] == 1
    assert any("1 image shows several of the classes, and boxes say" in line for line in result.notes)
    samples = made.cut()
    assert labels_of(samples, "a02") == ["zebra", "lion"]
    assert samples.frames is not None
    assert "a02" not in samples.frames.image_ids, "its label is not one alone"
    say(made, "a02", "empty", box_of(made, "a02", 1))
    made.do("select")
    assert labels_of(made.cut(), "a02") == ["zebra", "empty"], "the detector was wrong there"
    assert made.do("select").shards_run == 0


def test_what_people_say_of_an_image_counts_before_the_boxes_of_the_metadata(made: Made) -> None:
    made.set(detect={"results": "catalog"})
    made.do("detect", "select")
    assert labels_of(made.cut(), "a02") == ["zebra"]
    say(made, "a02", "lion")
    made.do("select")
    assert labels_of(made.cut(), "a02") == ["lion"]
    say(made, "a02", "zebra", box_of(made, "a02"))
    made.do("select")
    assert labels_of(made.cut(), "a02") == ["zebra"]


def test_each_box_of_an_image_with_several_species_is_learnt(made: Made) -> None:
    """Where the metadata say which is where; else such images are dropped, and counted."""

    def both(data: dict[str, Any]) -> None:
        lion = {"id": "new", "image_id": "a02", "category_id": 1, "bbox": [0, 0, 12, 12]}
        data["annotations"] += [lion, {"id": "other", "image_id": "b02", "category_id": 1}]

    made.change("cct.json", both)
    made.do("catalog", "validate", "detect")
    assert made.do("select").counts["several classes"] == 2
    made.set(detect={"results": "catalog"})
    made.do("detect")
    result = made.do("select")
    assert result.counts["several classes, kept for its boxes"] == 2
    assert "several classes" not in result.counts
    samples = made.cut()
    assert sorted(labels_of(samples, "a02")) == ["lion", "zebra"]
    assert labels_of(samples, "b02") == ["zebra"], "the lion there has no box"
    assert samples.frames is not None
    assert not {"a02", "b02"} & set(samples.frames.image_ids)
    samples.check()


def test_people_whom_the_detector_finds_are_no_class_of_crops(made: Made) -> None:
    """All images of one label have boxes of people alone: it is left out, unless the job names it."""

    def human(data: dict[str, Any]) -> None:
        data["categories"][3]["name"] = "human"
        for mark in data["annotations"]:
            if mark["id"].endswith("05"):
                mark["category_id"] = 3

    def person(results: dict[str, Any]) -> None:
        for image in results["images"]:
            if image["file"].endswith("05.jpg"):
                for box in image["detections"]:
                    box["category"] = "2"

    made.change("cct.json", human)
    made.change("md.json", person)
    made.do("catalog", "validate", "detect", "select")
    samples = made.cut()
    assert samples.classes == ["empty", "lion", "zebra"]
    samples.check()
    assert samples.frames is not None
    assert not {f"{camera}05" for camera in CAMERAS} & set(samples.frames.image_ids)
    made.set(select={**made.content["select"], "classes": ["lion", "zebra", "human"]})
    made.do("select")
    with pytest.raises(JobError, match="no box to train on that counts, in images of 'human'"):
        made.cut().check()


def test_a_new_last_layer_on_features_that_are_computed_once(made: Made) -> None:
    """On the run's model, with a class that is new to it; for other labels no picture is read again."""
    before = made.model.name
    settings = {**made.content["train"], "method": "head", "weights": "latest"}
    made.set(train=settings)
    made.do("train")
    metrics = made.metrics
    assert made.model.name != before
    assert metrics["training"]["method"] == "head"
    assert metrics["on"] == "crops"
    assert metrics["valid"]["by_crop"]["accuracy"] > 0.9
    info, base = read_info(made.model), read_info(made.folder / "run" / "models" / before)
    assert (info.arch, info.size, info.framing) == (base.arch, base.size, base.framing)
    assert info.provenance["base"] == before
    trained = made.model.name
    assert made.do("train").shards_run == 0, "its own base stays the one that it was made of"
    assert made.model.name == trained
    features = made.run.snapshot("features").number

    def okapi(data: dict[str, Any]) -> None:
        data["categories"][3]["name"] = "okapi"
        for mark in data["annotations"]:
            if mark["id"].endswith(("05", "08")):
                mark["category_id"] = 3

    made.change("cct.json", okapi)
    made.set(train={**settings, "weights": before})
    made.do("catalog", "validate", "detect", "select", "train")
    assert made.run.snapshot("features").number == features
    assert read_info(made.model).classes == ("empty", "lion", "okapi", "zebra")
    made.set(infer={"precision": "float32"})
    made.do("infer")
    truth = {row["image_id"]: row["label"] for row in made.rows("selection") if row["split"] == "valid"}
    said = {row["image_id"]: row["label"] for row in made.rows("predictions")}
    right = np.mean([said[name] == label for name, label in truth.items()])
    assert right == pytest.approx(made.metrics["valid"]["accuracy"], abs=0.05)


def test_a_published_model_is_adapted(made: Made) -> None:
    """Its own size, framing and normalisation stay; `infer` runs what comes out, and it can be exported."""
    torch.manual_seed(4)
    folder = made.folder / "published"
    folder.mkdir()
    torch.save(create_model("test_resnet", 5, size=64).state_dict(), folder / "weights.pth")
    card = {"arch": "test_resnet", "classes": list("vwxyz"), "size": 64, "resize": "letterbox"}
    (folder / "model.json").write_text(json.dumps({**card, "mean": [0.4] * 3, "std": [0.3] * 3}))
    made.set(train={"method": "head", "weights": "published"}, infer={"precision": "float32"})
    made.do("train", "infer")
    info = read_info(made.model)
    assert (info.size, info.resize, info.mean) == (64, "letterbox", (0.4, 0.4, 0.4))
    assert info.classes == ("empty", "lion", "zebra")
    assert info.on == "crops"
    truth = {row["image_id"]: row["label"] for row in made.rows("selection") if row["split"] == "valid"}
    said = {row["image_id"]: row["label"] for row in made.rows("predictions")}
    right = np.mean([said[name] == label for name, label in truth.items()])
    assert right == pytest.approx(made.metrics["valid"]["accuracy"], abs=0.05)
    assert made.metrics["valid"]["by_crop"]["accuracy"] > 0.7, "stripes are seen by any network"
    assert b"CamtrapExpects" in zipfile.ZipFile(io.BytesIO(write_package(made.model, "it"))).read("it.emd")


def test_whole_frames_get_a_head_too(made: Made) -> None:
    before = made.model.name
    made.set(train={**made.content["train"], "method": "head", "weights": before, "on": "frames"})
    made.do("select", "train")
    assert made.metrics["on"] == "frames"
    assert {row["what"] for row in made.rows("features")} == {"frame"}


def test_going_on_from_the_last_model(made: Made) -> None:
    before = made.model.name
    made.set(train={**made.content["train"], "weights": "latest", "epochs": 1, "lr": 1e-6})
    made.do("train")
    after = made.model.name
    assert after != before
    assert made.metrics["valid"]["by_crop"]["accuracy"] > 0.9, "an epoch at no rate keeps what was learnt"
    assert read_info(made.model).provenance["base"] == before
    assert made.do("train").shards_run == 0
    made.set(train={**made.content["train"], "epochs": 2})
    made.do("train", dry_run=True)
    assert made.model.name == after


@pytest.mark.parametrize(
    ("train", "what"),
    [
        ({"weights": "latest", "size": 64}, "set train.arch and train.size"),
        ({"weights": "0123456789abcdef"}, "train.weights: no model '0123456789abcdef'"),
        ({"weights": "nowhere"}, "nowhere: no such file"),
        ({"method": "head"}, "method: head keeps a network"),
    ],
)
def test_weights_that_are_not_there(made: Made, train: dict[str, Any], what: str) -> None:
    made.set(train={**made.content["train"], **train})
    with pytest.raises((InputError, JobError), match=what):
        made.do("train")


def test_latest_without_a_model(tmp_path: Path, trained: Path) -> None:
    made = Made(
        Path(shutil.copytree(trained, tmp_path / "job", ignore=shutil.ignore_patterns("model", "models")))
    )
    made.set(train={**made.content["train"], "weights": "latest"})
    with pytest.raises(InputError, match="no model is trained yet"):
        made.do("train")


def test_crops_need_boxes(tmp_path: Path) -> None:
    made = Made(tmp_path, detect=None, train={"on": "crops"})
    with pytest.raises(JobError, match="the job has no boxes"):
        Job.load(made.file)
    made = Made(tmp_path, detect=None, train={"on": "crop"})
    with pytest.raises(JobError, match="crops"):
        Job.load(made.file)


def test_a_dry_run_cuts_nothing(made: Made) -> None:
    made.set(detect={"results": "md.json", "threshold": 0.95})
    made.do("detect")
    before = made.run.snapshot("training_crops").number
    notes = made.do("train", dry_run=True).notes
    assert any("crops would be cut first" in note for note in notes)
    assert made.run.snapshot("training_crops").number == before
