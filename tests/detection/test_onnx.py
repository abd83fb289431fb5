from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from support_onnx import constant_detector, mean_network, save, spot_detector

from camtrap_batch.detection.base import DETECTORS, Found, Tally
from camtrap_batch.detection.onnx import OnnxDetector, OnnxFinder
from camtrap_batch.errors import CamtrapError, InputError
from camtrap_batch.runtime import OnnxInfo, Port, installed_runtimes


def finder(detector: OnnxDetector, threads: int = 1, **more: Any) -> OnnxFinder:
    return replace(detector.finder(detector.path, threads=threads, batch=4), **more)


def photo(*spots: tuple[int, int], width: int = 64, height: int = 64, side: int = 8) -> bytes:
    """Black, with white squares whose upper left corners are given."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for x, y in spots:
        pixels[y : y + side, x : x + side] = 255
    return simplejpeg.encode_jpeg(pixels, 98, colorsubsampling="444")


def boxes_in(found: Found | str, sure: float = 0.5) -> list[tuple[float, ...]]:
    assert isinstance(found, Found)
    return [tuple(box) for box in found.boxes[found.confidence > sure].round(3).tolist()]


@pytest.fixture
def spots(tmp_path: Path) -> OnnxDetector:
    return OnnxDetector.open(str(spot_detector(tmp_path / "spots.onnx")))


def test_what_is_known_of_it(spots: OnnxDetector) -> None:
    assert spots.categories == ("animal", "person")
    assert (spots.layout, spots.fit.size, spots.fit.resize, spots.iou) == (
        "yolov8",
        (64, 64),
        "letterbox",
        0.7,
    )
    assert spots.fit.stride == 0  # it takes one size alone
    assert len(spots.detector_id) == 16
    assert DETECTORS["onnx"] is OnnxDetector
    assert pickle.loads(pickle.dumps(spots)) == spots


def test_boxes_of_pictures_in_order(spots: OnnxDetector) -> None:
    tally = Tally()
    pictures = [photo((8, 16)), photo(), b"<html>", photo((0, 0), (56, 56))]
    first, second, third, fourth = finder(spots, 2).find(iter(pictures), tally)
    assert boxes_in(first) == [(0.125, 0.25, 0.125, 0.125)]
    assert boxes_in(second) == []
    assert isinstance(third, str)
    assert "not a picture" in third
    assert sorted(boxes_in(fourth)) == [(0.0, 0.0, 0.125, 0.125), (0.875, 0.875, 0.125, 0.125)]
    assert tally.read_s > 0
    assert tally.forward_s > 0


def test_boxes_are_parts_of_the_upright_picture_without_its_frame(spots: OnnxDetector) -> None:
    # 128 x 64 is 64 x 32 in the frame, with 16 rows of grey above and below.
    (found,) = finder(spots).find([photo((16, 16), width=128, side=16)])
    assert boxes_in(found, 0.9) == [(0.125, 0.25, 0.125, 0.25)]


def test_a_picture_alone_and_among_others(spots: OnnxDetector) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (h, w, 3), np.uint8))
        for h, w in [(64, 64), (40, 90), (99, 70)] * 3
    ]
    together = list(finder(spots, 2).find(pictures))
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = finder(spots).find([picture])
        assert isinstance(alone, Found)
        assert isinstance(found, Found)
        assert (alone.boxes == found.boxes).all()
        assert (alone.confidence == found.confidence).all()


@pytest.mark.parametrize("card", [{}, {"mean": [0.2, 0.1, 0.0], "std": [0.5, 0.8, 1.0]}])
def test_it_normalises_pixels_itself_or_is_given_floats(
    tmp_path: Path, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into OpenVINO's networks pixels go as they are, into ONNX Runtime's they do not: the same boxes."""
    if installed_runtimes() != ["openvino", "onnxruntime"]:
        pytest.skip("one of the runtimes is not installed")
    (tmp_path / "detector.json").write_text(json.dumps(card))
    detector = OnnxDetector.open(str(spot_detector(tmp_path / "spots.onnx")))
    rng = np.random.default_rng(2)
    pictures = [
        simplejpeg.encode_jpeg(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in [(64, 64), (80, 50)]
    ]
    finders = [detector.finder(detector.path, runtime=name) for name in ("openvino", "onnxruntime")]
    assert [one.network.info.inputs[0].dtype for one in finders] == ["uint8", "float32"]
    for one, other in zip(*(list(each.find(pictures)) for each in finders), strict=True):
        assert isinstance(one, Found)
        assert isinstance(other, Found)
        assert len(one) == len(other) > 10
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-5)
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-5)


def test_pictures_are_taken_as_they_are_needed(spots: OnnxDetector) -> None:
    taken = 0

    def pictures() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield photo((8, 8))

    found = finder(spots).find(pictures())
    next(found)
    assert taken < 20
    found.close()  # type: ignore[attr-defined]


def test_a_batch_that_is_too_large_is_halved(tmp_path: Path) -> None:
    path = mean_network(tmp_path / "any.onnx")

    class Small:
        device, threads = "cuda", 1
        info = OnnxInfo((Port("images", (None, 3, 64, 64), "float32"),), (), {}, 17)
        sizes: list[int] = []  # noqa: RUF012

        def run(self, batch: np.ndarray) -> list[np.ndarray]:
            self.sizes.append(len(batch))
            if len(batch) > 2:
                raise MemoryError
            return [np.zeros((len(batch), 300, 6), np.float32)]

    boxes = np.zeros((1, 300, 6)) + 100
    detector = OnnxDetector.open(str(constant_detector(path, {"y": boxes}, names=["animal"], imgsz=[64, 64])))
    object.__setattr__(detector, "batch", None)
    network = Small()
    found = list(OnnxFinder(detector, network, 8).find([photo()] * 48))  # type: ignore[arg-type]
    assert [boxes_in(one) for one in found] == [[]] * 48
    assert network.sizes[:5] == [8, 4, 2, 2, 4]
    # At most one more, which was put together before memory ran out; and none after it is larger again.
    assert network.sizes.count(8) <= 2
    assert max(network.sizes[-12:]) == 2

    finder = OnnxFinder(detector, network, 8)  # type: ignore[arg-type]
    views = finder._prepare(photo())

    def prepared() -> Iterator[Any]:
        for number in range(9):
            if number == 3:  # memory ran out while a batch was put together
                finder._most = 2
            yield views

    assert [len(batch) for batch in finder._batches(prepared(), deque())] == [3, 2, 2, 2]


def test_tiles_find_what_is_small(tmp_path: Path) -> None:
    path = str(spot_detector(tmp_path / "spots.onnx"))
    # A cell of the frame is 40 pixels of the picture, which cut the spot; one of a tile is 24 and holds it.
    picture = photo((226, 226), width=320, height=320, side=20)
    once, tiled = (next(finder(OnnxDetector.open(path, tiles=tiles)).find([picture])) for tiles in (1, 2))
    assert isinstance(once, Found)
    assert isinstance(tiled, Found)
    assert tiled.confidence.max() > once.confidence.max() + 0.2
    best = tiled.boxes[tiled.confidence.argmax()]
    assert best == pytest.approx([224 / 320, 224 / 320, 24 / 320, 24 / 320], abs=0.004)
    whole = next(finder(OnnxDetector.open(path, tiles=2)).find([photo((8, 16))]))
    assert boxes_in(whole) == [(0.125, 0.25, 0.125, 0.125)]  # not larger than the frame: no tiles
    assert OnnxDetector.open(path, tiles=2).detector_id != OnnxDetector.open(path).detector_id


def test_the_card_counts_before_the_metadata(tmp_path: Path) -> None:
    path = constant_detector(
        tmp_path / "a.onnx", {"y": np.zeros((1, 300, 6)) + 100}, names=["x"], imgsz=[64, 64]
    )
    said = {"names": ["animal", "person"], "size": 100, "stride": 64, "iou": 0.3, "resize": "stretch"}
    (tmp_path / "detector.json").write_text(json.dumps(said))
    detector = OnnxDetector.open(str(path))
    assert detector.categories == ("animal", "person")
    assert (detector.fit.size, detector.iou, detector.fit.resize) == ((128, 128), 0.3, "stretch")
    assert OnnxDetector.open(str(path), size=320).fit.size == (320, 320)


def test_a_copy_for_the_run_folder_opens_as_it_was(tmp_path: Path) -> None:
    boxes, logits = np.zeros((1, 50, 4)), np.zeros((1, 50, 4))
    path = constant_detector(tmp_path / "a.onnx", {"dets": boxes, "labels": logits}, sides=(96, 96))
    (tmp_path / "detector.json").write_text('{"names": {"0": "animal", "1": "person", "2": "vehicle"}}')
    detector = OnnxDetector.open(str(path))
    assert detector.layout == "rf-detr"
    assert (detector.fit.in_floats, detector.fit.resize, detector.fit.mean[0]) == (True, "stretch", 0.485)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, content in detector.files.items():
        (kept / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    again = OnnxDetector.open(str(kept / "detector.onnx"))
    assert again.detector_id == detector.detector_id


def broken(path: Path, kind: str) -> tuple[str, str]:
    """Files that are no detectors, and what is said of each."""
    six = {"y": np.zeros((1, 300, 6)) + 100}
    if kind == "weights":
        torch.save(torch.nn.Linear(1, 1), path.with_suffix(".pt"))
        return str(path.with_suffix(".pt")), r"run code .* camtrap model import ultralytics .*a\.pt"
    if kind == "megadetector":
        torch.save(torch.nn.Linear(1, 1), path.with_name("md_v5a.0.1.pt"))
        return str(path.with_name("md_v5a.0.1.pt")), "camtrap model import megadetector"
    if kind == "text":
        path.write_text("boxes")
        return str(path), "not an ONNX file"
    if kind == "missing":
        return str(path), r"a\.onnx \(detect\.model\): no such file"
    if kind == "classifier":
        constant_detector(path, {"y": np.zeros((1, 1000))}, names=["a"], imgsz=[64, 64])
        return str(path), r"unknown layout: it returns \[1, 1000\] for a picture of 64 x 64"
    if kind == "task":
        constant_detector(path, {"y": np.zeros((1, 1000))}, task="classify")
        return str(path), "not a detector: its task is 'classify'"
    if kind == "two inputs":
        from onnx import helper

        save(path, [helper.make_node("Add", ["a", "b"], ["y"])], {"a": [1], "b": [1]}, {"y": [1]})
        return str(path), r"one input of shape .* has inputs a \[1\], b \[1\]"
    if kind == "no names":
        constant_detector(path, {"y": np.zeros((1, 300, 8)) + 0.1}, imgsz=[64, 64])
        return str(path), r"names of its 4 classes are not known; write detector\.json beside it, such as \{"
    if kind == "other names":
        constant_detector(path, {"y": np.zeros((1, 300, 8)) + 0.1}, imgsz=[64, 64], names=["a", "b", "c"])
        return str(path), "has 4 classes, and 3 names: a, b, c"
    if kind == "no size":
        constant_detector(path, six, names=["animal"])
        return str(path), r"does not say the size .*: set detect\.size"
    if kind == "names that are code":
        constant_detector(path, six, imgsz=[64, 64], names="__import__('os').abort()")
        return str(path), "metadata names: can't be read"
    if kind == "stride":
        constant_detector(path, six, imgsz=[64, 64], names=["animal"], stride=[8, "large"])
        return str(path), r"metadata stride: should be a number of pixels, it is \[8, .large.\]"
    if kind == "card":
        constant_detector(path, six, imgsz=[64, 64])
        path.with_name("detector.json").write_text('{"nmes": ["animal"]}')
        return str(path), r"detector\.json.*nmes.*names"
    if kind == "card of text":
        constant_detector(path, six, imgsz=[64, 64])
        path.with_name("detector.json").write_text("animal")
        return str(path), r"detector\.json: can't be read as JSON"
    assert kind == "layout"
    constant_detector(path, six, imgsz=[64, 64])
    path.with_name("detector.json").write_text('{"layout": "yolo8"}')
    return str(path), "'yolo8' is not possible; did you mean 'yolov8'"


KINDS = (
    "weights", "megadetector", "text", "missing", "classifier", "task", "two inputs", "no names",
    "other names", "no size", "names that are code", "stride", "card", "card of text", "layout",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_detector(tmp_path: Path, kind: str) -> None:
    path, message = broken(tmp_path / "a.onnx", kind)
    with pytest.raises(CamtrapError, match=message) as problem:
        OnnxDetector.open(path)
    assert problem.value.exit_code == 2
    assert "\n" not in str(problem.value)


def test_strides_of_each_grid(tmp_path: Path) -> None:
    six = np.zeros((1, 300, 6)) + 100
    path = constant_detector(tmp_path / "a.onnx", {"y": six}, names=["a"], imgsz=[90, 64], stride=[8.0, 16.0])
    assert OnnxDetector.open(str(path)).fit.size == (96, 64)


def test_a_size_that_it_does_not_take(tmp_path: Path) -> None:
    path = str(spot_detector(tmp_path / "spots.onnx"))
    with pytest.raises(InputError, match="size 128: takes only pictures of 64 x 64"):
        OnnxDetector.open(path, size=128)
    with pytest.raises(InputError, match="size 5: should be 32 to 4096 pixels"):
        OnnxDetector.open(path, size=5)


def test_opening_needs_no_torch(tmp_path: Path) -> None:
    path = spot_detector(tmp_path / "spots.onnx")
    code = (
        "import sys; from camtrap_batch.detection.onnx import OnnxDetector; "
        f"OnnxDetector.open({str(path)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
