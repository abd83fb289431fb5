"""camtrap model import onnx, and ONNX files that infer.model names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support_onnx import constant_detector, export, save
from torch import nn

from camtrap_batch.cli import main
from camtrap_batch.detection.onnx import OnnxDetector
from camtrap_batch.errors import InputError
from camtrap_batch.images.framing import Framing
from camtrap_batch.model import Predictor, load_model, on_openvino
from camtrap_batch.model.imports import import_onnx, import_onnx_folder
from camtrap_batch.model.info import Outputs

CLASSES = ["empty", "lion", "heron"]


class Colours(nn.Module):
    """Tells apart what is reddest, greenest, bluest: other pictures get other classes."""

    def __init__(self, outputs: Outputs, last: bool) -> None:
        super().__init__()
        self.outputs, self.last = outputs, last

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.last:
            pixels = pixels.permute(0, 3, 1, 2)
        logits = 20 * (pixels - pixels.mean(1, keepdim=True)).mean((2, 3))
        return torch.softmax(logits, 1) if self.outputs == "probabilities" else logits


def write(
    path: Path,
    outputs: Outputs = "logits",
    *,
    last: bool = False,
    size: int | None = 64,
    batch: int | None = None,
) -> Path:
    """An ONNX file; size and batch None: free."""
    side, n = size or 64, batch or 2
    example = torch.zeros(n, side, side, 3) if last else torch.zeros(n, 3, side, side)
    axes: dict[int, str] = {} if batch else {0: "n"}
    if size is None:
        axes |= {1: "h", 2: "w"} if last else {2: "h", 3: "w"}
    export(Colours(outputs, last), example, path, axes, batch=batch is None)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> str:
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    return str(tmp_path / "labels.txt")


def test_a_classifier_and_what_it_is_told_to_see(
    tmp_path: Path, labels: str, capsys: pytest.CaptureFixture[str], real_images: Path
) -> None:
    file, out = write(tmp_path / "theirs.onnx", size=None), tmp_path / "out"
    seen = ["--size", "48", "--resize", "crop", "--crop-pct", "0.75", "--interpolation", "bicubic"]
    seen += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    command = ["model", "import", "onnx", str(file), "--classes", labels, *seen, "--out", str(out)]
    assert main([*command, "--pictures", str(real_images)]) == 0
    said = capsys.readouterr().out
    found = re.search(r"top class on (\d+) of (\d+) pictures", said)
    assert found
    assert int(found[1]) >= int(found[2]) - 1 > 1  # one may be near a tie
    assert "it sees 48 x 48 pixels, crop, 0.75 of it, bicubic; mean 0.5 0.5 0.5" in said
    assert f"infer: {{model: {out}}}" in said
    card = json.loads((out / "classifier.json").read_text())
    assert (card["classes"], card["size"], card["outputs"]) == (CLASSES, 48, "logits")
    info = import_onnx_folder(out, None, tmp_path / "models")
    assert info.framing == Framing(48, "crop", 0.75, "bicubic")
    _, kept = load_model(tmp_path / "models" / info.model_id)
    assert kept == info


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_every_kind_of_network_gives_its_own_answers(
    tmp_path: Path, outputs: Outputs, last: bool, batch: int | None
) -> None:
    file = write(tmp_path / "theirs.onnx", outputs, last=last, batch=batch)
    info = import_onnx(file, {"classes": CLASSES}, tmp_path / "models", "classes.txt")
    assert info.outputs == outputs
    network, _ = load_model(tmp_path / "models" / info.model_id)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (21, 1, 1, 3), np.uint8).repeat(64, 1).repeat(64, 2)
    predictor = Predictor(tmp_path / "models" / info.model_id, "cpu", 2, 8, torch.float32)
    answers = np.concatenate(list(predictor.forward(pixels)))
    normalised = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(info.mean)[:, None, None]
    normalised /= torch.tensor(info.std)[:, None, None]
    wanted = torch.softmax(Colours("logits", last=False)(normalised), 1).numpy()
    np.testing.assert_allclose(answers, wanted, atol=1e-4)
    assert len(set(wanted.argmax(1).tolist())) == 3
    # An answer does not depend on what is computed with it.
    alone = np.concatenate([next(predictor.forward(pixels[i : i + 1])) for i in range(21)])
    assert (alone == answers).all()
    # By OpenVINO, which normalises the pixels itself.
    if on_openvino.is_there():
        on_openvino.convert(network, info, tmp_path)
        folder = tmp_path / "models" / info.model_id
        by_openvino = Predictor(folder, "cpu", 2, 8, "float32", runtime="openvino", networks=tmp_path)
        found = np.concatenate(list(by_openvino.forward(pixels)))
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    # In short floats where torch would compute in them.
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        short = torch.softmax(network(normalised), 1).numpy()
    np.testing.assert_allclose(short, wanted, atol=0.05)


def test_a_detector_keeps_its_names_and_size(
    tmp_path: Path, labels: str, capsys: pytest.CaptureFixture[str], real_images: Path
) -> None:
    rows = np.zeros((1, 300, 8), np.float32) + 0.1
    rows[0, 0] = [0.5, 0.5, 0.2, 0.2, 0.9, 0.1, 0.0, 0.0]
    file = constant_detector(tmp_path / "theirs.onnx", {"y": rows[..., :7]})
    out = tmp_path / "out"
    command = ["model", "import", "onnx", str(file), "--classes", labels, "--size", "320", "--out", str(out)]
    assert main([*command, "--pictures", str(real_images)]) == 0
    said = capsys.readouterr().out
    assert "a detector, rtdetr, 3 classes (empty, lion, heron)" in said
    assert re.search(r"\d+ of \d+ boxes in \d+ pictures the same as by onnxruntime", said)
    detector = OnnxDetector.open(str(out / "detector.onnx"))
    assert (detector.categories, detector.fit.size) == (tuple(CLASSES), (320, 320))


def no_classifier(path: Path, kind: str) -> dict[str, Any]:
    """Writes what is none, and returns what its card says."""
    card: dict[str, Any] = {"classes": CLASSES}
    if kind == "four outputs":
        write(path)
        card["classes"] = [*CLASSES, "kudu"]
    elif kind == "twice":
        write(path)
        card["classes"] = ["lion", "empty", "lion"]
    elif kind == "detector":
        constant_detector(path, {"y": np.zeros((1, 84, 2100))}, sides=(64, 64))
    elif kind == "size":
        write(path)
        card["size"] = 96
    elif kind == "no size":
        write(path, size=None)
    elif kind == "not square":
        constant_detector(path, {"y": np.zeros((1, 3))}, sides=(64, 96))
    elif kind == "no picture":
        from onnx import helper

        save(path, [helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3]}, {"y": [1, 3]})
    elif kind == "no numbers":
        constant_detector(path, {"y": np.full((1, 3), np.nan)}, sides=(64, 64))
    elif kind == "no probabilities":
        write(path)
        card["outputs"] = "probabilities"
    elif kind == "text":
        path.write_text("lion")
    elif kind == "weights":
        torch.save(nn.Linear(1, 1), path)
    elif kind == "key":
        write(path)
        card["resise"] = "crop"
    else:
        assert kind == "trim"
        write(path)
        card["trim"] = [2]
    return card


KINDS = {
    "four outputs": r"a\.onnx with the classes of .*classifier\.json: gives \[1, 3\] for a picture of 64 x 64"
    r" pixels, and has 4 classes: should give \[1, 4\]",
    "twice": "more than once: 'lion'",
    "detector": r"gives \[1, 84, 2100\].*and has 3 classes",
    "size": "size 96: the network takes only pictures of 64 x 64",
    "no size": "should have 'size'",
    "not square": "takes pictures of 96 x 64 pixels; should be squares",
    "no picture": r"not a classifier: should have one input of shape .* has inputs x \[1, 3\]",
    "no numbers": "not finite numbers",
    "no probabilities": "are not probabilities; should be logits",
    "text": "not an ONNX file",
    "weights": "run code of their own when loaded.*camtrap model import",
    "key": "unknown key 'resise'; did you mean 'resize'",
    "trim": "trim",
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_classifier(tmp_path: Path, kind: str) -> None:
    card = no_classifier(tmp_path / "a.onnx", kind)
    (tmp_path / "classifier.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=KINDS[kind]) as refused:
        import_onnx_folder(tmp_path, "a.onnx", tmp_path / "models")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "models").exists()


def test_which_file_is_meant(tmp_path: Path) -> None:
    write(tmp_path / "a.onnx")
    (tmp_path / "classifier.json").write_text(json.dumps({"classes": CLASSES}))
    assert import_onnx_folder(tmp_path, None, tmp_path / "models").classes == tuple(CLASSES)
    shutil.copy(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with pytest.raises(InputError, match=r"name one ONNX file .* there are a\.onnx, b\.onnx"):
        import_onnx_folder(tmp_path, None, tmp_path / "models")
    (tmp_path / "classifier.json").write_text(json.dumps({"classes": CLASSES, "file": "../a.onnx"}))
    with pytest.raises(InputError, match="file should be the name of an ONNX file beside it"):
        import_onnx_folder(tmp_path, None, tmp_path / "models")
    (tmp_path / "classifier.json").unlink()
    with pytest.raises(InputError, match=r"classifier\.json: no such file"):
        import_onnx_folder(tmp_path, "a.onnx", tmp_path / "models")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "LABELS", "--mean", "1,2"], "should be three numbers, such as"),
        (["--classes", "LABELS", "--resize", "crp"], "'crp' is not possible; did you mean 'crop'"),
        (["--classes", "LABELS", "--crop-pct", "2"], "should be above 0, and 1 or less"),
        ([], "which classes does it have? give --classes FILE"),
    ],
)
def test_options_that_are_wrong(
    tmp_path: Path, labels: str, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    file = write(tmp_path / "theirs.onnx")
    given = [labels if option == "LABELS" else option for option in options]
    code = run(["model", "import", "onnx", str(file), "--out", str(tmp_path / "out"), *given])
    assert code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def run(command: list[str], call: Callable[[list[str]], int] = main) -> int:
    try:
        return call(command)
    except SystemExit as ended:
        return int(ended.code or 0)
