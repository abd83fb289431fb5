"""infer on small data sets, on workers of this process and on real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from distributed import Client
from support_cluster import client_here

pytest.importorskip("fastai", reason="the extra 'train' is not installed")

import torch

import camtrap_batch
from camtrap_batch.errors import ClusterError, InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.model import ModelInfo, Predictor, on_openvino, save_model
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.device import choose_precision
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.stages import infer
from camtrap_batch.stages.infer import runtimes
from camtrap_batch.store.run import Run

CLASSES = ("empty", "tayassu pecari", "kudu")


@pytest.fixture(scope="module", autouse=True)
def any_number_is_worth_a_check() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(infer, "FEWEST_TO_CHECK", 1)
        yield


@pytest.fixture(scope="module")
def local() -> Iterator[Client]:
    """A worker in this process, so that a test can reach into it."""
    with client_here() as client:
        yield client


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, local: Client) -> Path:
    """Photos of 4 cameras, their manifest, and a model with random weights."""
    folder = tmp_path_factory.mktemp("infer")
    write_dataset(folder / "data", cameras=4, images=120, size=(160, 120))
    torch.manual_seed(1)
    info = ModelInfo("", "resnet18", CLASSES, ((0,), (1,), (77,)), 32, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), 0.5)
    info = save_model(folder / "models", create_model("resnet18", len(CLASSES), size=32), info, {}, [])
    content = {
        "name": "run",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 30, "thumbnails": 48},
        "infer": {"model": f"models/{info.model_id}", "batch": 8, "shard_size": 20},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    for stage in ("catalog", "validate"):
        camtrap_batch.run_stage(folder / "job.yaml", stage, local)
    return folder


class Job:
    """A run of the validated data set, with settings of its own."""

    def __init__(self, validated: Path, folder: Path, **settings: Any) -> None:
        shutil.copytree(validated / "run", folder / "run")
        content = yaml.safe_load((validated / "job.yaml").read_text())
        content["output"] = str(folder)
        for key in ("metadata", "images"):
            content["dataset"][key] = str(validated / content["dataset"][key])
        content["infer"] = {
            **content["infer"],
            "model": str(validated / content["infer"]["model"]),
            **settings,
        }
        self.file = folder / "job.yaml"
        self.file.write_text(yaml.safe_dump(content))

    def infer(self, client: Client) -> camtrap_batch.StageResult:
        return camtrap_batch.run_stage(self.file, "infer", client)

    @property
    def run(self) -> Run:
        return camtrap_batch.open_run(self.file)

    def precision_chosen(self) -> dict[str, Any]:
        events = map(json.loads, (self.file.parent / "run" / "log.jsonl").read_text().splitlines())
        (chosen,) = [event for event in events if event["event"] == "precision chosen"]
        return dict(chosen)

    def rows(self, table: str = "predictions") -> pa.Table:
        return self.run.table(table).to_table()


def test_every_usable_image_has_its_row(validated: Path, tmp_path: Path, local: Client) -> None:
    job = Job(validated, tmp_path)
    result = job.infer(local)
    rows, snapshot = job.rows(), job.run.snapshot("predictions")
    manifest = job.rows("manifest")
    usable = manifest.filter(
        pc.is_in(manifest["status"].cast(pa.string()), pa.array(["ok", "truncated", "damaged"]))
    )
    assert rows["image_id"].equals(usable["image_id"])
    assert set(rows["source"].to_pylist()) == {"thumbnail"}
    probs = np.stack(rows["probs"].to_numpy())
    assert snapshot.meta["classes"] == list(CLASSES)
    assert [CLASSES[row] for row in probs.argmax(1)] == rows["label"].to_pylist()
    np.testing.assert_allclose(probs.max(1), rows["confidence"].to_numpy(), atol=1e-3)
    assert rows["n_boxes"].null_count == rows.num_rows
    kept = snapshot.meta["precision"]
    assert kept["precision"] in kept["tried"]
    assert kept["images"] > 0
    assert any(
        "1 of the model's 3 classes is not a category of the data set: 'kudu'" in note
        for note in result.notes
    )
    assert job.infer(local).shards_run == 0


@pytest.mark.skipif(choose_precision(torch.device("cpu")) == torch.float32, reason="no bfloat16 here")
def test_images_computed_again_are_counted(
    validated: Path, tmp_path: Path, local: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"precision": "bfloat16", "steps": [["bfloat16", 1.1], ["float32", 0]]}
    monkeypatch.setattr(infer, "check_precision", lambda *_: found)
    job = Job(validated, tmp_path)
    job.infer(local)
    assert job.run.snapshot("predictions").meta["again"] == {"float32": job.rows().num_rows}


def test_a_worker_that_can_not_compute_as_the_others_do_is_refused(
    validated: Path, tmp_path: Path, local: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not given shards to compute in its own way."""
    found = {"precision": "float32", "steps": [["float32", 0]], "runtime": "openvino"}
    monkeypatch.setattr(infer, "check_precision", lambda *_: found)
    monkeypatch.setattr(on_openvino, "is_there", lambda: False)
    job = Job(validated, tmp_path)
    with pytest.raises(ClusterError, match=r"worker \S+ on host \S+ has no OpenVINO, which this run is"):
        job.infer(local)
    assert job.run.current("predictions") is None
    assert not list((tmp_path / "run" / "receipts" / "infer").glob("*/*"))


def test_a_worker_loads_the_model_before_the_precision_is_known(
    validated: Path, tmp_path: Path, local: Client
) -> None:
    job = Job(validated, tmp_path)
    job.infer(local)
    assert len(job.precision_chosen()["loaded_s"]) == 1


def test_a_worker_that_can_not_load_torch_in_time_is_no_reason_to_stop(
    validated: Path, tmp_path: Path, local: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(work: Any) -> float:
        raise ImportError("no torch here")

    monkeypatch.setattr(runtimes, "_load", fails)
    job = Job(validated, tmp_path)
    job.infer(local)
    chosen = job.precision_chosen()
    assert chosen["loaded_s"] == []
    assert chosen["images"] > 0


@pytest.fixture(scope="module")
def of_one_worker(validated: Path, tmp_path_factory: pytest.TempPathFactory, local: Client) -> pa.Table:
    job = Job(validated, tmp_path_factory.mktemp("one"))
    job.infer(local)
    return job.rows()


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(
    workers: int, validated: Path, tmp_path: Path, of_one_worker: pa.Table, request: pytest.FixtureRequest
) -> None:
    job = Job(validated, tmp_path)
    if workers == 2:  # processes of their own
        job.infer(request.getfixturevalue("client"))
    else:
        with client_here(3) as client:
            job.infer(client)
    assert job.rows().equals(of_one_worker)


def test_shards_follow_cameras(validated: Path, tmp_path: Path, local: Client) -> None:
    job = Job(validated, tmp_path)
    job.infer(local)
    snapshot = job.run.snapshot("predictions")
    rows = job.rows("manifest")
    rows = rows.filter(pc.is_in(rows["image_id"], job.rows()["image_id"].combine_chunks()))
    ends = np.cumsum([file.rows for file in snapshot.files])[:-1]
    assert max(file.rows for file in snapshot.files) <= 20
    location, sequence = rows["location"].to_pylist(), rows["seq_id"].to_pylist()
    for end in ends.tolist():
        same = location[end] == location[end - 1] and sequence[end] == sequence[end - 1]
        assert not same or sequence[end] is None
    assert any(location[end] != location[end - 1] for end in ends.tolist())


def test_originals_where_thumbnails_are_too_small(
    validated: Path, tmp_path: Path, local: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(validated, tmp_path)
    text = job.file.read_text().replace("thumbnails: 48", "thumbnails: 16")
    job.file.write_text(text)
    read, broken = ImageRoot.read, str(job.rows("manifest")["file_name"][0])

    def fails(root: ImageRoot, file_name: str, *arguments: Any, **more: Any) -> bytes:
        if file_name == broken:
            raise OSError(5, "Input/output error")
        return read(root, file_name, *arguments, **more)

    monkeypatch.setattr(ImageRoot, "read", fails)
    result = job.infer(local)
    assert any("the model sees 32 pixels, thumbnails have 16" in note for note in result.notes)
    rows = job.rows()
    assert rows["status"].to_pylist() == ["unreadable"] + ["ok"] * (rows.num_rows - 1)
    assert rows["source"].to_pylist() == [None] + ["original"] * (rows.num_rows - 1)
    assert rows["probs"].null_count == rows["label"].null_count == rows["top5"].null_count == 1
    assert result.counts["unreadable"] == 1


def test_exact(validated: Path, tmp_path: Path, local: Client) -> None:
    job = Job(validated, tmp_path, precision="float32")
    job.infer(local)
    assert job.run.snapshot("predictions").meta["precision"] == {"precision": "float32"}
    thumbnails = job.rows("thumbnails")
    places = {name: place for place, name in enumerate(thumbnails["image_id"].to_pylist())}
    ids = job.rows()["image_id"].to_pylist()
    files = [thumbnails["jpeg"][places[name]].as_py() for name in ids[:16]]
    right = Predictor(
        yaml.safe_load(job.file.read_text())["infer"]["model"], "cpu", 1, 16, torch.float32
    ).predict(files)
    found = np.stack(job.rows()["probs"].to_numpy())[:16]
    np.testing.assert_allclose(found, right, atol=2e-3)


def write_detections(job: Job, folder: Path) -> list[str]:
    """A stump at the first camera, animals in every third image, none for the last; the file names."""
    rows = job.rows("manifest")
    names, where = rows["file_name"].to_pylist(), rows["location"].to_pylist()
    images = []
    for place, (name, location) in enumerate(zip(names[:-1], where, strict=False)):
        boxes = []
        if location == where[0]:
            boxes.append({"category": "1", "conf": 0.6, "bbox": [0.1, 0.5, 0.2, 0.2]})
        if place % 3 == 0:
            boxes.append({"category": "1", "conf": 0.8, "bbox": [0.35 + 0.06 * (place % 5), 0.3, 0.3, 0.4]})
        if place % 5 == 4:
            boxes.append({"category": "2", "conf": 0.95, "bbox": [0.7, 0.1, 0.2, 0.8]})
        images.append({"file": name, "detections": boxes})
    images.append({"file": "elsewhere.jpg", "detections": []})
    categories = {"1": "animal", "2": "person"}
    content = {"info": {"format_version": "1.5"}, "detection_categories": categories, "images": images}
    (folder / "md.json").write_text(json.dumps(content))
    return names


def test_boxes_of_a_detector(validated: Path, tmp_path: Path, local: Client) -> None:
    job = Job(validated, tmp_path, detections="md.json", repeat_frames=12)
    names = write_detections(job, tmp_path)
    result = job.infer(local)
    rows, boxes = job.rows(), job.rows("detections")
    file_of = dict(zip(job.rows("manifest")["image_id"].to_pylist(), names, strict=True))
    place_of = {name: place for place, name in enumerate(names)}
    for row in rows.to_pylist():
        place = place_of[file_of[row["image_id"]]]
        if place == len(names) - 1:
            assert (row["source"], row["n_boxes"]) == ("thumbnail", None)
        elif place % 5 == 4:
            assert (row["label"], row["source"], row["probs"]) == ("person", "crop", None)
            assert row["top5"] == [{"label": "person", "p": row["confidence"]}]
        elif place % 3 == 0:
            assert row["source"] == "crop"
            assert row["n_boxes"] == (row["label"] != "empty")
        else:
            assert (row["label"], row["n_boxes"], row["source"]) == ("empty", 0, "crop")
            assert row["probs"] == pytest.approx([0.99, 0.005, 0.005], abs=1e-3)
    snapshot = job.run.snapshot("predictions")
    kept = snapshot.meta["detections"]
    camera = job.rows("manifest")["location"][0].as_py()
    stumps = boxes.filter(boxes["repeat"].is_valid())
    assert kept["repeats"] == stumps.num_rows == kept["repeated_places"][0]["images"] >= 12
    assert kept["repeated_places"][0]["location"] == camera
    crops = job.rows("crops").group_by("image_id").aggregate([("box", "max")])
    assert 0 < crops.num_rows < rows.num_rows // 2  # of animals that are no stumps
    assert snapshot.inputs["detections"] == job.run.snapshot("detections").number
    notes = " ".join(result.notes)
    assert (
        f"boxes of {rows.num_rows - 1} of {rows.num_rows} images; the other 1 are classified as whole"
        in notes
    )
    assert f"{stumps.num_rows} boxes at 1 spot set aside as repeats" in notes
    assert "entries match no usable image" in notes
    # Another threshold is other work; the same again is none.
    assert job.infer(local).shards_run == 0
    content = yaml.safe_load(job.file.read_text())
    content["infer"]["detection_threshold"] = 0.97
    job.file.write_text(yaml.safe_dump(content))
    job.infer(local)
    assert set(job.rows()["label"].to_pylist()[:-1]) == {"empty"}


def test_what_is_looked_at_in_a_box(validated: Path, tmp_path: Path, local: Client) -> None:
    job = Job(validated, tmp_path, detections="md.json", repeat_frames=0, precision="float32")
    write_detections(job, tmp_path)
    job.infer(local)
    from camtrap_batch.detection.crops import Picture

    crops, boxes = job.rows("crops"), job.rows("detections")
    crops = crops.filter(pc.equal(crops["image_id"], crops["image_id"][0])).to_pylist()
    mine = boxes.filter(pc.equal(boxes["image_id"], crops[0]["image_id"])).to_pylist()
    found = [mine[crop["box"]] | {key: crop[key] for key in ("label", "top5")} for crop in crops]
    manifest = job.rows("manifest").to_pylist()
    name = next(row["file_name"] for row in manifest if row["image_id"] == found[0]["image_id"])
    data = (validated / "data" / "images" / name).read_bytes()  # thumbnails have too few pixels of it
    model = yaml.safe_load(job.file.read_text())["infer"]["model"]
    predictor = Predictor(model, "cpu", 1, 8, torch.float32)
    places = [tuple(box[key] for key in "xywh") for box in found]
    (answer,) = predictor.classify([Picture(data, places)])
    assert [box["label"] for box in found] == [CLASSES[best] for best in answer.argmax(1)]
    sure = [crop["confidence"] for crop in crops]
    assert [crop["top5"][0]["label"] for crop in crops] == [crop["label"] for crop in crops]
    assert sure == pytest.approx(answer.max(1).tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "content", "message"),
    [
        (
            {},
            {"images": [{"file": "x/other.jpg", "detections": []}]},
            r"of other images: none of its 1 files",
        ),
        (
            {"animal_category": "beast"},
            {"images": []},
            r"infer\.animal_category: .* no category 'beast'; .*animal",
        ),
    ],
)
def test_detections_that_do_not_fit(
    settings: dict[str, Any],
    content: dict[str, Any],
    message: str,
    validated: Path,
    tmp_path: Path,
    local: Client,
) -> None:
    job = Job(validated, tmp_path, detections="md.json", **settings)
    head = {"info": {"format_version": "1.4"}, "detection_categories": {"1": "animal"}}
    (tmp_path / "md.json").write_text(json.dumps({**head, **content}))
    with pytest.raises(InputError, match=message):
        job.infer(local)
    assert job.run.current("predictions") is None
