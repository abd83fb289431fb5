"""benchmarks/gpu.py without a GPU: what it measures, leaves out, goes on with, and judges."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra 'train' is not installed")

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def run(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def test_parts_are_measured_once_and_the_next_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    broken = {"parts": {"decode": {"error": "it was begun, and did not end"}}}
    out.write_text(json.dumps(broken))
    first = run(out, "--parts", "detect-yolo11s")
    assert first.returncode == 0, first.stderr
    found = json.loads(out.read_text())["parts"]
    assert found["decode"] == broken["parts"]["decode"]
    part = found["detect-yolo11s"]
    assert set(part["ways"]) == {"camtrap detect", "ONNX Runtime and Pillow", "torch, ready tensors"}
    assert all(way["images"] > 0 and way["images_per_s"] > 0 for way in part["ways"].values())
    speeds = {name: way["images_per_s"] for name, way in part["ways"].items()}
    ratio = speeds["camtrap detect"] / speeds["ONNX Runtime and Pillow"]
    assert part["of_onnxruntime"] == pytest.approx(ratio, abs=0.01)
    before = out.read_text()
    again = run(out, "--parts", "detect-yolo11s", "decode")
    assert "detect-yolo11s: done before" in again.stdout
    assert "decode: it was begun, and did not end" in again.stdout
    assert again.returncode == 1
    assert json.loads(out.read_text())["parts"] == json.loads(before)["parts"]


def test_a_way_whose_package_is_missing_is_left_out(gpu: ModuleType, tmp_path: Path) -> None:
    setting = gpu.Setting("cpu", 0.01, True, tmp_path, [b""])

    def needs_fastai(seconds: float) -> int:
        raise ModuleNotFoundError("No module named 'fastai.vision'", name="fastai")

    def fails(seconds: float) -> int:
        raise RuntimeError("CUDA out of\nmemory")

    setting.measure("plain fastai", needs_fastai)
    setting.measure("large", fails)
    setting.measure("ours", lambda seconds: 7)
    assert setting.left_out == {"plain fastai": "needs fastai", "large": "RuntimeError: CUDA out of memory"}
    assert setting.ways["ours"]["images"] == 7
    # No ratio to what is not there.
    assert gpu.ratios(setting, "ours", {"of_fastai": "plain fastai"}) == {}


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"of_fastai": 2.0}, 1), ({"busy": 0.5}, 1), ({"error": "RuntimeError: no"}, 1)],
)
def test_targets(
    gpu: ModuleType, changes: dict[str, Any], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    part: dict[str, Any] = {"ways": {"camtrap": {"images_per_s": 9.0, "busy": 0.9}}, "of_fastai": 6.0}
    part["ways"]["camtrap"] |= {key: value for key, value in changes.items() if key == "busy"}
    part |= {key: value for key, value in changes.items() if key != "busy"}
    assert gpu.judge({"infer": part}, ["infer"], has_targets=True) == code
    assert ("MISSED" in capsys.readouterr().out) == (code == 1 and "error" not in changes)
    assert gpu.judge({}, ["train"], has_targets=True) == 1  # not measured is not held


def test_the_networks_have_the_work_of_those_that_they_stand_for(gpu: ModuleType) -> None:
    weights, gflops = gpu.count_work(gpu.random_detector("yolov5x6"), 1280)
    assert weights == pytest.approx(140.7, rel=0.05)
    assert gflops == pytest.approx(839, rel=0.05)
