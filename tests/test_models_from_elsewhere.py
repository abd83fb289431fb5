"""Models and detectors of others in a job: an ONNX classifier from end to end; what is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support_onnx import constant_detector, export

pytest.importorskip("fastai", reason="the extra 'train' is not installed")

import torch

import camtrap_batch
from camtrap_batch.cli import main
from camtrap_batch.model import Predictor
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.runtime import base

CLASSES = ["empty", "tayassu pecari", "kudu"]


class Colours(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 40 * (pixels - pixels.mean(1, keepdim=True)).mean((2, 3))


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    write_dataset(folder / "data", cameras=3, images=40, size=(160, 120))
    write_job(folder)
    for stage in ("catalog", "validate"):
        assert main([stage, str(folder / "job.yaml"), "--cluster", "inline", "--quiet"]) == 0
    return folder


def write_job(folder: Path, **sections: Any) -> Path:
    content = {
        "name": "run",
        "output": ".",
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 20, "thumbnails": 48},
        **sections,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return folder / "job.yaml"


def write_classifier(folder: Path, **card: Any) -> Path:
    folder.mkdir()
    export(Colours(), torch.zeros(2, 3, 32, 32), folder / "theirs.onnx", {0: "n"})
    (folder / "classifier.json").write_text(json.dumps({"classes": CLASSES, **card}))
    return folder


@pytest.mark.parametrize("named", ["", "/theirs.onnx"])
def test_a_classifier_in_an_onnx_file(
    validated: Path, tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_classifier(tmp_path / "model")
    job = write_job(validated, infer={"model": f"{model}{named}", "batch": 8})
    command = ["infer", str(job), "--cluster", "inline"]
    assert main(command) == 0
    run = camtrap_batch.open_run(job)
    snapshot = run.snapshot("predictions")
    kept = validated / "run" / "models" / str(snapshot.inputs["model"])
    assert sorted(path.name for path in kept.iterdir() if path.suffix in (".onnx", ".json"))[:2] == [
        "metrics.json", "model.json",
    ]  # fmt: skip
    assert (kept / "model.onnx").read_bytes() == (model / "theirs.onnx").read_bytes()
    rows = run.table("predictions").to_table()
    manifest = run.table("manifest").to_table(["image_id", "file_name"])
    names = dict(zip(manifest["image_id"].to_pylist(), manifest["file_name"].to_pylist(), strict=True))
    files = [validated / "data" / "images" / names[row] for row in rows["image_id"].to_pylist()]
    answered = zip(rows["label"].to_pylist(), rows["status"].to_pylist(), strict=True)
    found = dict(zip(files, answered, strict=True))
    whole = [file for file, (_, status) in found.items() if status == "ok"][:12]
    exact = Predictor(kept, "cpu", precision=torch.float32)
    thumbnails = {row["source"] for row in rows.select(["source"]).to_pylist()}
    assert thumbnails <= {"thumbnail", None}
    answers = exact.predict([file.read_bytes() for file in whole])
    same = [CLASSES[top] == found[file][0] for file, top in zip(whole, answers.argmax(1), strict=True)]
    assert sum(same) >= 11  # of thumbnails: one may be near a tie
    before = snapshot.number
    capsys.readouterr()
    assert main(command) == 0
    assert camtrap_batch.open_run(job).snapshot("predictions").number == before


def refused(command: str, job: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with; no shard is begun, and nothing is committed."""
    run = job.parent / "run"
    before = sorted(str(path) for path in (run / "receipts").rglob("*")) if run.exists() else []
    assert main([command, str(job), "--cluster", "inline", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sorted(str(path) for path in (run / "receipts").rglob("*")) == before
    return line


def bad_classifier(folder: Path, kind: str) -> tuple[Path, str]:
    """What `infer.model` names, and what is said of it."""
    model = write_classifier(folder)
    if kind == "no classifier":
        constant_detector(model / "theirs.onnx", {"y": np.zeros((1, 84, 2100))}, sides=(32, 32))
        return model, "gives [1, 84, 2100] for a picture of 32 x 32 pixels, and has 3 classes"
    if kind == "other classes":
        (model / "classifier.json").write_text(json.dumps({"classes": [*CLASSES, "heron"]}))
        return model, "gives [1, 3] for a picture of 32 x 32 pixels, and has 4 classes: should give [1, 4]"
    if kind == "a class twice":
        (model / "classifier.json").write_text(json.dumps({"classes": ["kudu", "kudu", "empty"]}))
        return model, "more than once: 'kudu'"
    if kind == "no card":
        (model / "classifier.json").unlink()
        return model / "theirs.onnx", "classifier.json: no such file"
    if kind == "code":
        torch.save(torch.nn.Linear(2, 2), model / "best.pt")
        return (
            model / "best.pt",
            f"this command writes: camtrap model import timm|torchvision NAME {model}/best.pt",
        )
    if kind == "MegaDetector's code":
        torch.save(torch.nn.Linear(2, 2), model / "md_v5a.0.1.pt")
        return model / "md_v5a.0.1.pt", "camtrap model import megadetector"
    if kind == "SpeciesNet's code":
        torch.save(torch.nn.Linear(2, 2), model / "always_crop_1.pt")
        return model / "always_crop_1.pt", f"camtrap model import speciesnet {model}"
    if kind == "a picture":
        (model / "lion.jpg").write_bytes(b"\xff\xd8\xff")
        return model / "lion.jpg", "should be a model folder, or end in .onnx"
    if kind == "cut off":
        whole = (model / "theirs.onnx").read_bytes()
        (model / "theirs.onnx").write_bytes(whole[: len(whole) // 2])
        return model, "not an ONNX file, or cut off"
    assert kind == "nothing"
    return model / "other.onnx", "no such file"


@pytest.mark.parametrize(
    "kind",
    [
        "no classifier", "other classes", "a class twice", "no card", "code", "MegaDetector's code",
        "SpeciesNet's code", "a picture", "cut off", "nothing",
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_one_line_before_the_first_shard(
    validated: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, words = bad_classifier(tmp_path / "model", kind)
    line = refused("infer", write_job(validated, infer={"model": str(model)}), capsys)
    assert words in line


def bad_detector(path: Path, kind: str) -> tuple[Path, str]:
    if kind == "layout":
        constant_detector(path, {"y": np.zeros((1, 5000, 9))}, names=["animal"], imgsz=[64, 64])
        return path, "with an unknown layout: it returns [1, 5000, 9] for a picture of 64 x 64 pixels"
    if kind == "classifier":
        constant_detector(path, {"y": np.zeros((1, 1000))}, names=["animal"], imgsz=[64, 64])
        return path, "not a detector, or one with an unknown layout: it returns [1, 1000]"
    if kind == "names":
        constant_detector(
            path, {"y": np.zeros((1, 300, 8)) + 0.1}, names=["animal", "person"], imgsz=[64, 64]
        )
        return path, "has 4 classes, and 2 names: animal, person"
    if kind == "code":
        torch.save(torch.nn.Linear(2, 2), path.with_name("md_v5a.0.1.pt"))
        return path.with_name("md_v5a.0.1.pt"), "camtrap model import megadetector"
    assert kind == "ending"
    path.with_suffix(".engine").write_text("of TensorRT")
    return path.with_suffix(".engine"), "not an ONNX file"


@pytest.mark.parametrize("kind", ["layout", "classifier", "names", "code", "ending"])
def test_what_is_no_detector_is_one_line_before_the_first_shard(
    validated: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, words = bad_detector(tmp_path / "theirs.onnx", kind)
    line = refused("detect", write_job(validated, detect={"model": str(path)}), capsys)
    assert words in line


def bad_results(path: Path, kind: str) -> str:
    """A results file, and what is said of it."""
    content: dict[str, Any] = {
        "info": {"format_version": "1.6"},
        "detection_categories": {"1": "animal"},
        "images": [{"file": "elsewhere/x.jpg", "detections": []}],
    }
    words = f"{path} (detect.results): of other images: none of its 1 files is in the catalog"
    if kind == "no animal":
        content["detection_categories"] = {"1": "bear", "2": "person"}
        words = f"detect.animal_category: {path} has no category 'animal'; possible: bear, person"
    elif kind == "a later version":
        content["info"]["format_version"] = "2.0"
        words = "format_version '2.0' can't be read; possible: 1.0 to 1.6"
    elif kind == "pixels":
        content["images"][0]["detections"] = [{"category": "1", "conf": 0.9, "bbox": [10, 20, 300, 400]}]
        words = (
            "'elsewhere/x.jpg': bbox [10, 20, 300, 400] with conf 0.9: should be x, y, width, height as parts"
        )
    elif kind == "SpeciesNet's, of other images":
        content = {"predictions": [{"filepath": "elsewhere/x.jpg", "detections": []}]}
    path.write_text(json.dumps(content)[: 40 if kind == "cut off" else None])
    return f"{path} (detect.results): not JSON, or cut off" if kind == "cut off" else words


@pytest.mark.parametrize(
    "kind",
    ["other images", "no animal", "a later version", "pixels", "cut off", "SpeciesNet's, of other images"],
)
def test_results_that_do_not_fit_are_one_line_before_the_first_shard(
    validated: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = bad_results(tmp_path / "results.json", kind)
    line = refused("detect", write_job(validated, detect={"results": str(tmp_path / "results.json")}), capsys)
    assert words in line


def test_without_a_runtime_the_extra_is_named(
    validated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_classifier(tmp_path / "model")
    boxes = constant_detector(
        tmp_path / "theirs.onnx", {"y": np.zeros((1, 300, 6)) + 100}, names=["animal"], imgsz=[64, 64]
    )
    monkeypatch.setattr(base, "_is_installed", lambda runtime: False)
    for command, sections in (
        ("infer", {"infer": {"model": str(model)}}),
        ("detect", {"detect": {"model": str(boxes)}}),
    ):
        line = refused(command, write_job(validated, **sections), capsys)
        assert "pip install 'camtrap-batch[onnx]'" in line
