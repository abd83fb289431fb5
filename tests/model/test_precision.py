from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camtrap_batch.detection.crops import Picture
from camtrap_batch.errors import InputError
from camtrap_batch.model import (
    Predictor,
    Samples,
    TrainResult,
    agreement,
    load_model,
    load_predictor,
    on_openvino,
    on_torch,
)
from camtrap_batch.model.agreement import choose
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.on_torch import make_ready
from camtrap_batch.model.predictor import lead, squares
from camtrap_batch.model.required import RequiredToClassify, todays_steps
from camtrap_batch.runtime import choose_runtime

Trained = tuple[Path, TrainResult, list[dict[str, Any]]]
CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not on_openvino.is_there(), reason="the extra 'onnx' is not installed")
MODEL = ModelInfo("", "resnet18", ("a", "b"), ((1,), (2,)), 48, (0.5,) * 3, (0.2,) * 3, 1.0)


def pictures(samples: Samples, *part: int) -> list[Picture]:
    return [Picture(data) for data in samples.jpegs[slice(*part)]]


@pytest.fixture(scope="module")
def networks(trained: Trained, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network as OpenVINO has it, in float32 and in integers."""
    folder = tmp_path_factory.mktemp("networks")
    network, info = load_model(trained[0])
    on_openvino.convert(network, info, folder)
    on_openvino.to_integers(squares(pictures(samples, 32), info.framing), folder)
    return folder


def test_batch_normalisation_goes_into_the_convolutions(trained: Trained) -> None:
    network = load_model(trained[0])[0]
    images = torch.randn(4, 3, 48, 48)
    ready = make_ready(copy.deepcopy(network), CPU, torch.float32)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ready.modules())
    with torch.inference_mode():
        torch.testing.assert_close(ready(images), network(images), rtol=1e-3, atol=1e-3)


class Odd(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.mean() > 0 else images.sum((2, 3))


@needs_openvino
def test_a_network_that_can_not_be_rewritten_is_computed_as_it_is(tmp_path: Path) -> None:
    images = torch.ones(2, 3, 8, 8)
    assert make_ready(Odd(), CPU, torch.float32)(images).tolist() == [[1, 1, 1]] * 2
    with pytest.raises(ValueError, match=r"data-dependent|Could not guard"):
        on_openvino.convert(Odd(), MODEL, tmp_path)


@needs_openvino
def test_openvino_says_what_torch_says(trained: Trained, samples: Samples, networks: Path) -> None:
    files = samples.jpegs[32:85]  # no whole number of parts
    right = Predictor(trained[0], "cpu", 1, precision="float32").predict(files)
    found = {
        threads: Predictor(
            trained[0], "cpu", threads, 16, "float32", runtime="openvino", networks=networks
        ).predict(files)
        for threads in (1, 3)
    }
    np.testing.assert_allclose(found[1], right, atol=1e-4)
    np.testing.assert_array_equal(found[1], found[3])


@needs_openvino
def test_an_answer_does_not_depend_on_the_others_of_its_batch(
    trained: Trained, samples: Samples, networks: Path
) -> None:
    for precision in on_openvino.candidates():
        ready = Predictor(trained[0], "cpu", 1, 16, precision, runtime="openvino", networks=networks)
        together = ready.predict(samples.jpegs[:21])
        alone = np.concatenate([ready.predict([data]) for data in samples.jpegs[:21]])
        np.testing.assert_array_equal(together, alone)


@needs_openvino
def test_integers(trained: Trained, samples: Samples, networks: Path) -> None:
    def answers(precision: str, margin: float = 0.0) -> Any:
        ready = Predictor(
            trained[0], "cpu", 1, 16, precision, runtime="openvino", margin=margin, networks=networks
        )
        return ready.predict(samples.jpegs[48:168])

    right, found = answers("float32"), answers("int8")
    assert not np.array_equal(found, right)
    assert (found.argmax(1) == right.argmax(1)).mean() >= 0.97
    np.testing.assert_array_equal(answers("int8", 1.1), right)
    sizes = {
        name: (networks / on_openvino.NETWORKS[name]).with_suffix(".bin").stat().st_size
        for name in ("float32", "int8")
    }
    assert sizes["int8"] < 0.3 * sizes["float32"]


@needs_openvino
def test_a_network_that_was_changed_is_not_computed(trained: Trained, networks: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(trained[0], tmp_path / trained[0].name)
    for file in networks.iterdir():
        shutil.copy(file, folder)
    names = on_openvino.files_for(["int8", "float32"])
    hashes = on_openvino.hash_files(folder, names)
    steps = [("int8", 0.1), ("float32", 0.0)]
    load_predictor(folder, "cpu", 1, 5, steps, "openvino", hashes)
    weights = folder / "openvino-int8.bin"
    weights.write_bytes(b"\1" + weights.read_bytes()[1:])
    with pytest.raises(
        InputError, match=r"openvino-int8\.bin: is not what was made from the model's weights"
    ):
        load_predictor(folder, "cpu", 1, 6, steps, "openvino", hashes)
    weights.unlink()
    with pytest.raises(InputError, match=r"openvino-int8\.bin: can't be read: No such file"):
        load_predictor(folder, "cpu", 1, 6, steps, "openvino", hashes)


@needs_openvino
def test_workers_of_openvino_load_no_torch_and_tell_nobody(
    trained: Trained, samples: Samples, networks: Path, tmp_path: Path
) -> None:
    (tmp_path / "picture.jpg").write_bytes(samples.jpegs[0])
    script = f"""
import sys
from pathlib import Path
from camtrap_batch.model.predictor import Predictor, preload
preload({str(trained[0])!r})
ready = Predictor({str(trained[0])!r}, "cpu", 1, 4, "int8", runtime="openvino", networks={str(networks)!r})
print(ready.predict([Path({str(tmp_path / "picture.jpg")!r}).read_bytes()]).shape)
print(sorted(set(sys.modules) & {{"torch", "fastai", "nncf", "openvino_telemetry.main"}}))
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(home), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.splitlines() == ["(1, 3)", "[]"]
    assert not (home / "intel").exists()


def test_networks_share_what_was_loaded(trained: Trained, samples: Samples) -> None:
    network = load_model(trained[0])[0]
    before = copy.deepcopy(network.state_dict())
    for precision in on_torch.candidates(CPU)[::-1]:
        shared = Predictor(trained[0], "cpu", 1, precision=precision, network=network)
        own = Predictor(trained[0], "cpu", 1, precision=precision)
        assert (shared.predict(samples.jpegs[:8]) == own.predict(samples.jpegs[:8])).all()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_is_compared_on_fewer_than_two_images(
    trained: Trained, samples: Samples, tmp_path: Path, n: int
) -> None:
    found = choose(trained[0], "cpu", 16, pictures(samples, n), 1, tmp_path)
    assert (found["precision"], found["steps"], found["runtime"]) == ("float32", [["float32", 0]], "torch")
    assert (found["images"], found["networks"]) == (n, {})


def fixed_speeds(
    monkeypatch: pytest.MonkeyPatch, speeds: dict[tuple[str, str], float], **spoilt: Any
) -> None:
    """Ways have these speeds, runtime and precision -> images a second; answers of `spoilt` are rolled."""
    real = agreement._classify

    def classify(predictor: Predictor, pixels: Any) -> Any:
        answers, _ = real(predictor, pixels)
        if predictor.precision in spoilt and len(answers):
            answers[0] = np.roll(answers[0], 1)
        return answers, speeds[predictor._forward.runtime, predictor.precision]

    monkeypatch.setattr(agreement, "_classify", classify)
    monkeypatch.setattr(
        agreement._Trial, "probe", lambda trial, runtime, precision, threads: speeds[runtime, precision]
    )


@needs_openvino
@pytest.mark.parametrize("winner", ["openvino", "torch"])
def test_the_runtime_that_wins(
    winner: str, trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fast = {("openvino", "float32"): 10.0, ("openvino", "bfloat16"): 20.0, ("torch", "float32"): 10.0}
    fixed_speeds(monkeypatch, {**fast, ("torch", "bfloat16"): 21.0 if winner == "openvino" else 60.0})
    monkeypatch.setattr(agreement, "candidates", lambda device: ["bfloat16", "float32"])
    monkeypatch.setattr(on_openvino, "candidates", lambda: ["bfloat16", "float32"])
    monkeypatch.setattr(agreement, "MOST_AGAIN", 1.0)
    found = choose(trained[0], "cpu", 16, pictures(samples, 40), 1, tmp_path)
    assert (found["runtime"], found["precision"]) == (winner, "bfloat16")
    assert found["runtimes"] == {"openvino": 20.0, "torch": 21.0 if winner == "openvino" else 60.0}
    files = ["openvino-float32.bin", "openvino-float32.xml"]
    assert sorted(found["networks"]) == (files if winner == "openvino" else [])


def test_the_fastest_that_agrees(trained: Trained, samples: Samples, tmp_path: Path) -> None:
    found = choose(trained[0], "cpu", 16, pictures(samples, 40), 1, tmp_path)
    assert found["images"] == 40
    for name, tried in found["tried"].items():
        if name != "float32":
            assert 0 <= tried["same_top1"] <= 1
    agree = [name for name, tried in found["tried"].items() if tried.get("again", 0) <= agreement.MOST_AGAIN]
    assert found["precision"] == agree[-1]
    assert found["steps"] == [[name, found["tried"][name].get("margin", 0)] for name in agree[::-1]]
    if on_openvino.is_there():
        assert found["why_not"] == {"int8": "fewer than 232 images to try"}
        assert set(found["runtimes"]) == {"openvino", "torch"}


def test_what_does_not_agree_is_not_taken(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(on_openvino, "is_there", lambda: False)
    monkeypatch.setattr(agreement, "candidates", lambda device: ["bfloat16", "float32"])
    speeds = {("torch", "float32"): 10.0, ("torch", "bfloat16"): 20.0}
    fixed_speeds(monkeypatch, speeds, bfloat16=True)  # 1 of 30: another label
    found = choose(trained[0], "cpu", 16, pictures(samples, 30), 1, tmp_path)
    assert (found["precision"], found["steps"]) == ("float32", [["float32", 0]])
    assert found["tried"]["bfloat16"]["same_top1"] < 0.98
    assert found["tried"]["bfloat16"]["again"] == 1


@needs_openvino
def test_a_conversion_that_answers_otherwise_is_not_taken(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    convert = on_openvino.convert

    def wrong(network: nn.Module, info: ModelInfo, folder: Path) -> None:
        other = copy.deepcopy(network)
        with torch.no_grad():
            next(other.parameters()).neg_()
        convert(other, info, folder)

    monkeypatch.setattr(on_openvino, "convert", wrong)
    found = choose(trained[0], "cpu", 16, pictures(samples, 30), 1, tmp_path)
    assert found["runtime"] == "torch"
    assert found["why_not"]["openvino"].startswith("its probabilities are up to ")


@needs_openvino
def test_integers_are_tried_where_there_are_enough_images(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(agreement, "_FEWEST_FOR_INTEGERS", 60)
    monkeypatch.setattr(agreement, "_WORTH", 100)
    monkeypatch.setattr(agreement, "_CLEARLY", 100)
    monkeypatch.setattr(agreement, "MOST_AGAIN", 1)
    monkeypatch.setattr(agreement, "MOST_DIFFERENCE", 0.5)
    found = choose(trained[0], "cpu", 16, pictures(samples, 92), 1, tmp_path)
    assert found["images"] == 60
    assert [name for name, _ in found["steps"]] == on_openvino.candidates()
    assert [margin for _, margin in found["steps"]][:-1] == [
        found["tried"][name]["margin"] for name, _ in found["steps"][:-1]
    ]
    assert (found["precision"], found["runtime"]) == ("int8", "openvino")
    assert found["networks"] == on_openvino.hash_files(tmp_path, on_openvino.files_for(["int8", "float32"]))


def test_nothing_that_decodes(trained: Trained, tmp_path: Path) -> None:
    assert choose(trained[0], "cpu", 16, [Picture(b"<html>")], 1, tmp_path)["precision"] == "float32"


def test_what_a_worker_has_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it is turned away: what it computed otherwise would be another answer."""
    anew = "use workers that do, or set infer.precision: float32, which redoes all images"
    if on_openvino.is_there():
        mine = tuple(on_openvino.candidates())
        assert RequiredToClassify("openvino", "cpu", mine).lacking() == ""
        with monkeypatch.context() as less:
            less.setattr(on_openvino.RUNTIMES["openvino"], "precisions", lambda device: ("float32",))
            said = RequiredToClassify("openvino", "cpu", ("bfloat16", "float32")).lacking()
            assert said == (f"does not compute in bfloat16 on its CPU, which this run is computed in: {anew}")
            less.setattr("camtrap_batch.runtime.openvino.get_host_cpu_features", dict)
            assert (
                "in int8 on its CPU" in RequiredToClassify("openvino", "cpu", ("int8", "float32")).lacking()
            )
    monkeypatch.setattr(on_openvino, "is_there", lambda: False)
    said = RequiredToClassify("openvino", "cpu", ("float32",)).lacking()
    assert said.startswith("has no OpenVINO, which this run is computed in: install the extra 'onnx' there")
    # By torch; run folders of before have its integers, which nothing computes any more.
    steps = todays_steps("torch", (("int8", 0.2), ("bfloat16", 0.1), ("float32", 0.0)))
    assert steps == [("bfloat16", 0.1), ("float32", 0.0)]
    short = RequiredToClassify("torch", "cpu", tuple(name for name, _ in steps))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert short.lacking() == ""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert short.lacking().startswith("does not compute in bfloat16 on its CPU")
    assert RequiredToClassify("torch", "cpu", ("float32",)).lacking() == ""
    assert on_torch.candidates(CPU) == ["float32"]
    other = RequiredToClassify("torch", "cpu", ("float32",), of_onnx="elsewhere").lacking()
    assert other.startswith(f"computes ONNX files in {choose_runtime('cpu')[0]}, this run does in elsewhere:")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert RequiredToClassify("torch", "cpu", ("float32",)).lacking() == (
        "has no torch: install the extra 'train' there"
    )


def unsure(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Answers in float32 and in a way that errs, most where two classes are near, and some images greatly."""
    first = rng.beta(4, 1, n)
    near = rng.random(n) < 0.15
    first[near] = 0.5 + 0.1 * rng.random(near.sum())
    right = np.stack([first, 1 - first], axis=1).astype(np.float32)
    width = 0.02 + 0.3 * (1 - first) * (rng.random(n) < 0.2)
    found = np.clip(right[:, 0] + width * rng.standard_normal(n), 0, 1)
    return right, np.stack([found, 1 - found], axis=1).astype(np.float32)


@pytest.mark.parametrize(("n", "tight"), [(200, True), (200, False), (32, False)])
def test_a_margin_leaves_the_labels_of_float32(n: int, tight: bool) -> None:
    """In 99.5 % of images and more, those that the margin was not taken from, of many samples."""
    rng = np.random.default_rng(1)
    wrong, without = [], []
    for _ in range(300):
        right, found = unsure(rng, n + 4000)
        errors = np.abs(found - right).max(axis=1)
        margin = agreement.margin_of(found[:n], errors[:n], tight=tight)
        differs = (found.argmax(1) != right.argmax(1))[n:]
        without.append(differs.mean())
        wrong.append((differs & (lead(found[n:]) >= margin)).mean())
        assert margin <= agreement.margin_of(found[:n], errors[:n], tight=False)
    assert np.mean(without) > 0.02  # were nothing computed again
    assert np.mean(wrong) <= 0.005


def test_a_small_sample_without_a_near_tie_has_a_margin_all_the_same() -> None:
    right = np.tile(np.array([[0.9, 0.1]], np.float32), (32, 1))
    found = right + np.array([[0.02, -0.02]], np.float32)
    errors = np.abs(found - right).max(axis=1)
    assert agreement.margin_of(found, errors, tight=False) == pytest.approx(0.08, abs=1e-4)
    assert agreement.margin_of(found, errors, tight=True) < 1e-5
