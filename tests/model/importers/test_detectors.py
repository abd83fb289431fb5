"""camtrap model import megadetector and ultralytics: weights that are pickles of a package's own classes.

The packages are AGPL, and are no dependency: here a package of the same structure stands for YOLOv5's, a
small network saved as YOLOv5 saves its own. With CAMTRAP_REFERENCE=1 tests/detection/test_reference.py
imports what the packages themselves save.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from camtrap_batch.cli import main
from camtrap_batch.detection.onnx import OnnxDetector
from camtrap_batch.errors import InputError
from camtrap_batch.model.importers.detectors import MEGADETECTOR, ULTRALYTICS

YOLO = '''
"""Of the structure of YOLOv5's: a network whose last layer decodes boxes around anchors, on two grids."""
import torch
from torch import nn


class Detect(nn.Module):
    export = dynamic = False

    def __init__(self, channels, classes, anchors):
        super().__init__()
        self.no, self.nl = 5 + classes, len(anchors)
        self.na = len(anchors[0]) // 2
        self.register_buffer("anchors", torch.tensor(anchors).float().view(self.nl, -1, 2))
        self.m = nn.ModuleList(nn.Conv2d(channels, self.no * self.na, 1) for _ in anchors)

    def forward(self, xs):
        out = []
        for level, x in enumerate(xs):
            x = self.m[level](x)
            n, _, h, w = x.shape
            x = x.view(n, self.na, self.no, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            y, z = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((z, y), 2).float() - 0.5
            xy = (x[..., :2] * 2 + grid) * self.stride[level]
            wh = (x[..., 2:4] * 2) ** 2 * self.anchors[level].view(1, self.na, 1, 1, 2)
            out.append(torch.cat((xy, wh, x[..., 4:]), 4).view(n, -1, self.no))
        return torch.cat(out, 1) if self.export else (torch.cat(out, 1), xs)


class Model(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names, self.stride = names, torch.tensor([8.0, 16.0])
        head = Detect(12, len(names), [[10, 13, 16, 30, 33, 23], [60, 61, 62, 45, 59, 119]])
        head.stride = self.stride
        self.model = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.SiLU(), nn.Conv2d(12, 12, 2, 2), head)

    def forward(self, x):
        first = self.model[1](self.model[0](x))
        return self.model[3]([first, self.model[2](first)])
'''

UTILS = {
    "augmentations.py": '''
        import numpy as np
        from PIL import Image


        def letterbox(image, size, stride, auto):
            """As cv2 makes pictures smaller: two pixels beside each other, without smoothing."""
            import cv2

            height, width = image.shape[:2]
            scale = size / max(height, width)
            new = round(width * scale), round(height * scale)
            small = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
            across, down = ((size - side) % stride / 2 for side in new)
            edges = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
            return (cv2.copyMakeBorder(small, *edges, cv2.BORDER_CONSTANT, value=(114, 114, 114)),)
        ''',
    "general.py": """
        import torch
        import torchvision


        def non_max_suppression(found, least, iou, max_det):
            kept = []
            for rows in found:
                rows = rows[rows[:, 4] > least]
                scores, classes = (rows[:, 5:] * rows[:, 4:5]).max(1)
                half = rows[:, 2:4] / 2
                corners = [rows[:, :2] - half, rows[:, :2] + half]
                boxes = torch.cat([*corners, scores[:, None], classes[:, None].float()], 1)
                boxes = boxes[scores > least]
                order = torchvision.ops.nms(boxes[:, :4] + boxes[:, 5:6] * 7680, boxes[:, 4], iou)
                kept.append(boxes[order[:max_det]])
            return kept


        def scale_boxes(frame, boxes, shape):
            scale = min(frame[0] / shape[0], frame[1] / shape[1])
            boxes[:, [0, 2]] -= (frame[1] - shape[1] * scale) / 2
            boxes[:, [1, 3]] -= (frame[0] - shape[0] * scale) / 2
            return boxes / scale
        """,
}
SAVE = """
import sys, torch
from torch import nn
from models.yolo import Model
for file, names in ((sys.argv[1], ["animal", "person", "vehicle"]), (sys.argv[2], ["cat", "dog"])):
    torch.manual_seed(5)
    network = Model(names)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for convolution in network.model[3].m:
        convolution.weight.data *= 3
    torch.save({"epoch": 1, "ema": None, "model": network.half(), "optimizer": None}, file)
"""
NAMES = ["animal", "person", "vehicle"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `models` and `utils` are, as in a clone of YOLOv5's repository."""
    folder = tmp_path_factory.mktemp("yolov5")
    for name in ("models", "utils"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    (folder / "models" / "yolo.py").write_text(YOLO)
    for name, text in UTILS.items():
        (folder / "utils" / name).write_text(dedent(text))
    return folder


@pytest.fixture(scope="module")
def weights(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights; beside it `cats.pt`, which finds something else."""
    folder = tmp_path_factory.mktemp("weights")
    file = folder / "md_v5a.0.0.pt"
    command = [sys.executable, "-c", SAVE, str(file), str(folder / "cats.pt")]
    subprocess.run(command, cwd=package, check=True, timeout=120)
    return file


@pytest.fixture
def photos(real_images: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    some = sorted(path for path in real_images.rglob("*") if path.suffix.lower() == ".jpg")
    for path in some[1:7]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_the_boxes_are_those_of_the_package(
    package: Path, weights: Path, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(package))
    out = tmp_path / "md"
    command = ["model", "import", "megadetector", str(weights), "--size", "320", "--out", str(out)]
    assert main([*command, "--pictures", str(photos)]) == 0
    ended = capsys.readouterr()
    found = re.search(
        r"(\d+) of (\d+) boxes in \d pictures the same as by YOLOv5's own letterbox and suppression",
        ended.out,
    )
    assert found
    assert int(found[2]) > 100
    assert int(found[1]) >= 0.99 * int(found[2])
    assert f"detect: {{model: {out}/detector.onnx}}" in ended.out
    assert "runs the code in it; this is done now, in a separate process" in ended.err
    assert "models" not in sys.modules
    card = json.loads((out / "detector.json").read_text())
    assert (card["names"], card["size"], card["stride"], card["layout"]) == (NAMES, [320, 320], 16, "yolov5")
    detector = OnnxDetector.open(str(out / "detector.onnx"))
    assert (detector.layout, detector.categories, detector.fit.size) == ("yolov5", tuple(NAMES), (320, 320))
    assert detector.iou == 0.45


ULTRALYTICS_NETWORK = '''
"""Of the structure of ultralytics' networks: boxes on two grids, each with its classes, in rows."""
import torch
from torch import nn


class DetectionModel(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names, self.stride = dict(enumerate(names)), torch.tensor([8.0, 16.0])
        head = nn.ModuleList(nn.Conv2d(12, 4 + len(names), 1) for _ in self.stride)
        self.model = nn.Sequential(nn.Conv2d(3, 12, 8, 8), nn.SiLU(), nn.Conv2d(12, 12, 2, 2), head)

    def forward(self, x):
        first = self.model[1](self.model[0](x))
        rows = []
        for level, x in enumerate((first, self.model[2](first))):
            x = self.model[3][level](x)
            _, _, h, w = x.shape
            y, z = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            centres = (torch.stack((z, y)).float() + 0.5 + x[:, :2].tanh()) * self.stride[level]
            sides = (1 + 3 * x[:, 2:4].sigmoid()) * self.stride[level]
            rows.append(torch.cat((centres, sides, x[:, 4:].sigmoid()), 1).flatten(2))
        return torch.cat(rows, 2)
'''
ULTRALYTICS_PACKAGE = '''
"""Of the structure of ultralytics: predicts, and exports to a file beside the weights."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchvision
from utils.augmentations import letterbox
from utils.general import scale_boxes


class YOLO:
    task = "detect"

    def __init__(self, file):
        self.file = Path(file)
        self.model = torch.load(file, map_location="cpu", weights_only=False)["model"].float().eval()
        self.names, self.overrides = self.model.names, {"imgsz": 320}

    def predict(self, picture, imgsz, conf, max_det, device, verbose):
        whole = np.ascontiguousarray(picture[..., ::-1])
        small = letterbox(whole, imgsz, 16, True)[0]
        pixels = torch.from_numpy(small.transpose(2, 0, 1).copy()).float()[None] / 255
        with torch.no_grad():
            rows = self.model(pixels)[0].T
        scores, classes = rows[:, 4:].max(1)
        half = rows[:, 2:4] / 2
        boxes = torch.cat([rows[:, :2] - half, rows[:, :2] + half, scores[:, None], classes[:, None]], 1)
        boxes = boxes[scores > conf]
        kept = torchvision.ops.nms(boxes[:, :4] + boxes[:, 5:6] * 7680, boxes[:, 4], 0.7)[:max_det]
        boxes = boxes[kept]
        scale = min(small.shape[0] / whole.shape[0], small.shape[1] / whole.shape[1])
        edges = [round((small.shape[i] - round(whole.shape[i] * scale)) / 2 - 0.1) for i in (1, 0)]
        boxes[:, :4] = (boxes[:, :4] - torch.tensor(edges * 2)) / scale
        return [SimpleNamespace(boxes=SimpleNamespace(data=boxes))]

    def export(self, format, imgsz, opset, simplify, dynamic, device):
        import onnx

        file = self.file.with_suffix(".onnx")
        torch.onnx.export(
            self.model, (torch.zeros(1, 3, imgsz, imgsz),), str(file), dynamo=False, opset_version=opset,
            input_names=["images"], output_names=["output0"],
            dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}, "output0": {0: "n", 2: "boxes"}},
        )
        made = onnx.load(file)
        onnx.helper.set_model_props(made, {"names": str(self.names), "stride": "16", "task": "detect"})
        onnx.save(made, file)
        return str(file)


RTDETR = YOLO
'''
SAVE_ULTRALYTICS = """
import sys, torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
torch.manual_seed(5)
network = DetectionModel(["cat", "dog"])
for module in network.modules():
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
torch.save({"model": network.half(), "train_args": {"imgsz": 320}}, sys.argv[1])
"""


def test_ultralytics_and_what_lies_beside_the_weights(
    package: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its exporter writes into the folder of the weights, over a file of that name: not into the user's."""
    there = tmp_path / "package"
    (there / "ultralytics" / "nn").mkdir(parents=True)
    (there / "ultralytics" / "__init__.py").write_text(ULTRALYTICS_PACKAGE)
    (there / "ultralytics" / "nn" / "__init__.py").touch()
    (there / "ultralytics" / "nn" / "tasks.py").write_text(ULTRALYTICS_NETWORK)
    (there / "utils").symlink_to(package / "utils")
    monkeypatch.setenv("PYTHONPATH", str(there))
    kept = tmp_path / "mine"
    kept.mkdir()
    subprocess.run(
        [sys.executable, "-c", SAVE_ULTRALYTICS, str(kept / "best.pt")], cwd=there, check=True, timeout=120
    )
    (kept / "best.onnx").write_text("mine")
    out = tmp_path / "cats"
    command = ["model", "import", "ultralytics", str(kept / "best.pt"), "--out", str(out)]
    assert main([*command, "--pictures", str(photos)]) == 0
    assert sorted(path.name for path in kept.iterdir()) == ["best.onnx", "best.pt"]
    assert (kept / "best.onnx").read_text() == "mine"
    said = capsys.readouterr().out
    found = re.search(r"(\d+) of (\d+) boxes in \d pictures the same as by ultralytics' own prediction", said)
    assert found
    assert int(found[1]) >= 0.97 * int(found[2]) > 100
    detector = OnnxDetector.open(str(out / "detector.onnx"))
    assert (detector.layout, detector.categories, detector.fit.size) == ("yolov8", ("cat", "dog"), (320, 320))


def test_what_is_written_otherwise_is_refused(
    package: Path, weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose suppression is another one: what it finds is not what we would."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("models", "utils"):
        (tmp_path / name).mkdir()
        for path in (package / name).glob("*.py"):
            text = path.read_text().replace("boxes[:, 4], iou)", "boxes[:, 4], 0.05)")
            (tmp_path / name / path.name).write_text(text)
    pictures = [path.read_bytes() for path in sorted(photos.iterdir())[:3]]
    given = {"file": str(weights), "size": 320, "python": None}
    (tmp_path / "scratch").mkdir()
    with pytest.raises(InputError, match="does not find what the original finds"):
        MEGADETECTOR.run(given, pictures, tmp_path / "scratch")


def refused(importer: object, file: Path, scratch: Path, **given: object) -> str:
    scratch.mkdir()
    with pytest.raises(InputError) as problem:
        importer.run({"file": str(file), "size": None, "python": None, **given}, [], scratch)  # type: ignore[attr-defined]
    assert problem.value.exit_code == 2
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_what_can_not_be_imported_is_one_line(
    package: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = refused(MEGADETECTOR, weights, tmp_path / "a")
    assert "needs the package 'models'" in missing
    assert "pip install 'yolov5>=7' (AGPL-3.0; not a part of camtrap-batch)" in missing
    assert "no such file" in refused(ULTRALYTICS, tmp_path / "none.pt", tmp_path / "b")
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    assert "camtrap model import onnx" in refused(ULTRALYTICS, tmp_path / "x.onnx", tmp_path / "c")
    torch.save({"model": nn.Sequential(nn.Linear(2, 2))}, tmp_path / "plain.pt")
    assert "its last layer is not YOLOv5's" in refused(ULTRALYTICS, tmp_path / "plain.pt", tmp_path / "e")
    monkeypatch.setenv("PYTHONPATH", str(package))
    assert "this one has 2 classes: cat, dog; import it as ultralytics" in refused(
        MEGADETECTOR, weights.with_name("cats.pt"), tmp_path / "f", size=64
    )


def test_code_of_others_is_not_given_what_signs_in(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", "a secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "yolo.py").write_text(
        YOLO + "\nimport os\nraise ValueError(sorted(name for name in os.environ if 'A' in name))\n"
    )
    said = refused(MEGADETECTOR, weights, tmp_path / "a")
    assert "PATH" in said
    assert "SECRET" not in said
    assert "TOKEN" not in said
