"""One suite over every runtime that is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import at_once
from support_onnx import constant_detector, mean_network, save

from camtrap_batch.errors import InputError, JobError, MissingExtra
from camtrap_batch.runtime import RUNTIMES, Normalising, base, installed_runtimes, open_network, stream
from camtrap_batch.runtime.onnxruntime import providers
from camtrap_batch.runtime.openvino import OpenVinoNetwork


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in installed_runtimes():
        pytest.skip(f"{name} is not installed")
    return name


def test_both_are_tested() -> None:
    assert installed_runtimes() == ["openvino", "onnxruntime"]


def test_batches_of_any_size(tmp_path: Path, runtime: str) -> None:
    network = open_network(mean_network(tmp_path / "a.onnx"), runtime=runtime, threads=2)
    assert (network.runtime, network.device, network.precision) == (runtime, "cpu", "float32")
    for shape in [(1, 3, 8, 8), (5, 3, 8, 8), (2, 3, 16, 4), (1, 3, 9, 7), (4, 3, 8, 8), (1, 3, 8, 8)]:
        batch = np.random.default_rng(1).random(shape, np.float32)
        (answer,) = network.run(batch)
        assert answer == pytest.approx(batch.mean(axis=(2, 3)), abs=1e-6)


def test_answers_stay_when_the_next_batch_comes(tmp_path: Path, runtime: str) -> None:
    network = open_network(mean_network(tmp_path / "a.onnx"), runtime=runtime, threads=1)
    first = network.run(np.zeros((1, 3, 4, 4), np.float32))[0]
    network.run(np.ones((1, 3, 4, 4), np.float32))
    assert (first == 0).all()


def test_many_threads_at_once(tmp_path: Path, runtime: str) -> None:
    network = open_network(mean_network(tmp_path / "a.onnx"), runtime=runtime, threads=2)
    wrong: list[int] = []

    def work(number: int) -> None:
        for side in (4, 6, 8, 10, 12) * 4:
            (answer,) = network.run(np.full((1, 3, side, side), number, np.float32))
            if not (answer == number).all():
                wrong.append(number)

    at_once(4, work)
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_is_in_order(tmp_path: Path, runtime: str, threads: int) -> None:
    network = open_network(mean_network(tmp_path / "a.onnx"), runtime=runtime, threads=threads)
    batches = (np.full((1, 3, 4, 4), number, np.float32) for number in range(20))
    assert [int(outputs[0][0, 0]) for outputs in stream(network, batches)] == list(range(20))


def test_what_does_not_fit(tmp_path: Path, runtime: str) -> None:
    fixed = constant_detector(tmp_path / "a.onnx", {"y": np.zeros((1, 5, 6))}, sides=(32, 32))
    network = open_network(fixed, runtime=runtime)
    for shape in [(1, 3, 16, 16), (2, 3, 32, 32), (3, 32, 32)]:
        with pytest.raises(ValueError, match="a batch of shape"):
            network.run(np.zeros(shape, np.float32))


def test_a_network_with_two_inputs(tmp_path: Path) -> None:
    from onnx import helper

    node = helper.make_node("Add", ["a", "b"], ["y"])
    path = save(tmp_path / "a.onnx", [node], {"a": [1], "b": [1]}, {"y": [1]})
    with pytest.raises(InputError, match=r"one input, the pictures; it has inputs a \[1\], b \[1\]"):
        open_network(path)


def test_no_gpu_here(tmp_path: Path) -> None:
    if base.best_device() == "cuda":
        pytest.skip("there is a GPU")
    path = mean_network(tmp_path / "a.onnx")
    assert open_network(path, "auto").device == "cpu"
    with pytest.raises(JobError, match="device cuda: no GPU that openvino or onnxruntime can use"):
        open_network(path, "cuda")


def test_precision(tmp_path: Path, runtime: str) -> None:
    path = mean_network(tmp_path / "a.onnx")
    able = RUNTIMES[runtime].precisions("cpu")
    assert able[-1] == "float32"
    assert open_network(path, runtime=runtime, precision="auto").precision == able[0]
    missing = next(name for name in ("float16", "bfloat16") if name not in able)
    with pytest.raises(JobError, match=f"does not compute in {missing} on cpu here; possible: .*float32"):
        open_network(path, runtime=runtime, precision=missing)  # type: ignore[arg-type]


def test_nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mean_network(tmp_path / "a.onnx")
    monkeypatch.setattr(base, "_is_installed", lambda runtime: False)
    with pytest.raises(MissingExtra, match=r"extra 'onnx': pip install 'camtrap-batch\[onnx\]'"):
        open_network(path)
    with pytest.raises(MissingExtra, match="extra 'onnx-gpu'"):
        open_network(path, "cuda")


def test_what_onnx_runtime_is_told() -> None:
    assert providers("cpu", "float32") == ["CPUExecutionProvider"]
    assert [name if isinstance(name, str) else name[0] for name in providers("cuda", "float32")] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    first, options = providers("cuda", "float16")[0]
    assert (first, options["trt_fp16_enable"]) == ("TensorrtExecutionProvider", True)


def test_shapes_of_which_only_a_few_are_kept(tmp_path: Path) -> None:
    """Each holds the weights in the layout that it wants: photos of many shapes must not add up."""
    pytest.importorskip("openvino", reason="the extra 'onnx' is not installed")
    network = open_network(mean_network(tmp_path / "a.onnx"), runtime="openvino")
    assert isinstance(network, OpenVinoNetwork)
    for side in range(4, 24):
        network.run(np.zeros((1, 3, side, 4), np.float32))
    assert len(network._compiled) <= 3


def test_pixels_that_it_normalises_itself(tmp_path: Path, runtime: str) -> None:
    normalising = Normalising((0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    path = mean_network(tmp_path / "a.onnx")
    network = open_network(path, runtime=runtime, normalising=normalising)
    (port,) = network.info.inputs
    if runtime != "openvino":  # whose caller is told so
        assert (port.shape, port.dtype) == ((None, 3, None, None), "float32")
        return
    assert (port.shape, port.dtype) == ((None, None, None, 3), "uint8")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3), np.uint8)
    wanted = (pixels.mean(axis=(1, 2)) / 255 - normalising.mean) / normalising.std
    assert network.run(pixels)[0] == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(ValueError, match="a batch of shape"):
        network.run(pixels.transpose(0, 3, 1, 2))
