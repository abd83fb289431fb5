"""Boxes of detectors as their own software finds them, on real photos.

The packages are installed into a folder of pytest's cache for this alone, without what they depend on: their
licences (AGPL, GPL) keep them out of the project. `reference.py`, run beside them, builds their networks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from camtrap_batch.detection.base import Found
from camtrap_batch.detection.onnx import OnnxDetector
from camtrap_batch.images.decode import decode_whole

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "CAMTRAP_REFERENCE" not in os.environ,
        reason="installs programs under AGPL, and takes ten minutes: set CAMTRAP_REFERENCE=1",
    ),
]

LEAST = 0.25  # of reference.py
_NEAR = 0.01  # a box so near to the least confidence may be on either side of it

_ULTRALYTICS = ("ultralytics>=8.4,<8.5", "ultralytics-thop")
PACKAGES = {
    "ultralytics": _ULTRALYTICS,
    "yolov5": (
        "yolov5==7.0.14", *_ULTRALYTICS, "setuptools<81", "thop", "fire", "termcolor", "gitpython", "gitdb",
        "smmap", "seaborn",
    ),
    "rfdetr": (
        "rfdetr>=1.11,<2", "transformers>=5.1,<6", "supervision>=0.29", "pyDeprecate<0.10", "tokenizers",
        "regex", "defusedxml", "typer",
    ),
}  # fmt: skip
"""What is installed of a package beside what the project itself needs."""

NETWORKS = [
    ("ultralytics", "yolov8n", "yolov8", {}),
    ("ultralytics", "yolov9t", "yolov8", {}),
    ("ultralytics", "yolo11n", "yolov8", {}),
    ("ultralytics", "yolo11n+fixed", "yolov8", {}),
    ("ultralytics", "yolov10n+end2end", "end2end", {}),
    ("ultralytics", "yolo26n+end2end", "end2end", {}),
    ("ultralytics", "rtdetr-l", "rtdetr-top", {}),
    ("yolov5", "yolov5n", "yolov5", {"size": 320}),
    ("rfdetr", "rfdetr-nano", "rf-detr", {"names": ["animal", "person", "vehicle"]}),
]


@pytest.fixture(scope="session")
def photos(real_images: Path) -> list[str]:
    found = sorted(str(path) for path in real_images.rglob("*") if path.suffix.lower() == ".jpg")
    assert len(found) == 24
    return found


@pytest.fixture(scope="session")
def reference(
    photos: list[str], pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """For a package, the folder with its networks, and what it finds with them."""
    done: dict[str, Path | str] = {}

    def make(package: str) -> Path:
        if package not in done:
            done[package] = _make(package)
        made = done[package]
        if isinstance(made, str):
            pytest.skip(made)
        return made

    def _make(package: str) -> Path | str:
        assert pytestconfig.cache is not None
        target = pytestconfig.cache.mkdir("packages") / package
        if not target.exists():
            partial = target.with_name(f"{package}-{os.getpid()}")
            install = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(partial),
            ]
            tried = subprocess.run([*install, *PACKAGES[package]], capture_output=True, text=True)
            if tried.returncode:
                return f"{package} can't be installed here: {tried.stderr.strip()[-200:]}"
            if target.exists():
                return target
            partial.rename(target)
        out = tmp_path_factory.mktemp(package)
        names = ",".join(name for owner, name, *_ in NETWORKS if owner == package)
        environment = {
            **os.environ,
            "PYTHONPATH": str(target),
            "YOLO_CONFIG_DIR": str(out),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "HF_HUB_OFFLINE": "1",
        }
        script = str(Path(__file__).with_name("reference.py"))
        ran = subprocess.run(
            [sys.executable, script, package, names, str(out), *photos],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return out

    return make


@pytest.mark.parametrize(("runtime", "most_others"), [("onnxruntime", 0.0), ("openvino", 0.01)])
@pytest.mark.parametrize(("package", "name", "layout", "card"), NETWORKS, ids=[row[1] for row in NETWORKS])
def test_the_same_boxes(
    runtime: str,
    most_others: float,
    package: str,
    name: str,
    layout: str,
    card: dict[str, object],
    reference: Callable[[str], Path],
    photos: list[str],
) -> None:
    """With the runtime that the package uses, each box; with another one nearly all.

    These networks of random weights turn a change of 1e-7 in their input into one of a pixel and 0.002 of
    confidence, in one runtime alone, so that now and then another one of two overlapping boxes stays.
    """
    folder = reference(package) / name
    if card:
        (folder / "detector.json").write_text(json.dumps(card))
    detector = OnnxDetector.open(str(folder / f"{name}.onnx"))
    assert detector.layout == layout
    assert detector.categories == ("animal", "person", "vehicle")
    theirs = json.loads((folder / f"{name}.json").read_text())
    finder = detector.finder(detector.path, threads=2, runtime=runtime)
    n_boxes, others = 0, []
    for photo, found in zip(photos, finder.find(Path(photo).read_bytes() for photo in photos), strict=True):
        height, width = decode_whole(Path(photo).read_bytes()).shape[:2]
        wanted = np.array(theirs[photo], np.float64).reshape(-1, 6)
        # Ours end at the picture's borders; a box without a side is none.
        wanted[:, :4] = np.clip(wanted[:, :4], 0, [width, height, width, height])
        wanted = wanted[(wanted[:, 2] > wanted[:, 0]) & (wanted[:, 3] > wanted[:, 1])]
        wanted = wanted[wanted[:, 5] < len(detector.categories)]  # what has no name is no detection
        assert isinstance(found, Found)
        got = _rows(found, width, height)
        # Where theirs ends at 300 boxes, ours may hold others that are as sure as the last of them.
        is_whole = len(theirs[photo]) < 300
        last = LEAST if is_whole else min(row[4] for row in theirs[photo])
        others += _unmatched(wanted[wanted[:, 4] > last + _NEAR], got)
        if is_whole:
            others += _unmatched(got, wanted)
        n_boxes += len(wanted)
    assert n_boxes > 50
    assert len(others) <= most_others * n_boxes, others


@pytest.mark.parametrize(
    ("package", "name", "kind"),
    [("yolov5", "yolov5n", "megadetector"), ("ultralytics", "yolo11n", "ultralytics")],
)
def test_weights_are_imported(
    package: str,
    name: str,
    kind: str,
    reference: Callable[[str], Path],
    real_images: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    """What the package itself keeps after training, by `camtrap model import`, which compares the boxes."""
    weights = reference(package) / name / f"{name}.pt"
    assert pytestconfig.cache is not None
    target = pytestconfig.cache.mkdir("packages") / package
    command = ["model", "import", kind, str(weights), "--size", "320", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-m", "camtrap_batch", *command, "--pictures", str(real_images)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *sys.path])},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = re.search(r"(\d+) of (\d+) boxes in 23 pictures", ran.stdout)
    assert found
    assert int(found[1]) >= 0.99 * int(found[2]) > 500


def _rows(found: Found, width: int, height: int) -> npt.NDArray[np.float64]:
    corners = found.boxes.astype(np.float64) * [width, height, width, height]
    corners[:, 2:] += corners[:, :2]
    rows = np.concatenate([corners, found.confidence[:, None], found.category[:, None]], axis=1)
    return np.asarray(rows[found.confidence > LEAST])


def _unmatched(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> list[list[float]]:
    """Rows without one among the others within a pixel and 0.005 of confidence, of the same class."""
    missing = []
    for row in some[some[:, 4] > LEAST + _NEAR]:
        near = np.abs(others[:, :4] - row[:4]).max(axis=1) <= 1
        near &= (np.abs(others[:, 4] - row[4]) <= 0.005) & (others[:, 5] == row[5])
        if not near.any():
            missing.append(row.round(3).tolist())
    return missing
