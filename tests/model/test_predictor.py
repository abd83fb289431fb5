from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camtrap_batch.detection.crops import Picture
from camtrap_batch.errors import InputError, JobError
from camtrap_batch.model import Predictor, Samples, TrainResult, load_predictor, on_openvino, predictor
from camtrap_batch.model.device import choose_device, choose_precision
from camtrap_batch.model.on_torch import TorchForward
from camtrap_batch.model.predictor import Tally, lead, preload
from camtrap_batch.runtime import count_threads

Trained = tuple[Path, TrainResult, list[dict[str, Any]]]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ready(trained: Trained) -> Predictor:
    return Predictor(trained[0], "cpu", threads=1, batch=16)


def test_probabilities_of_the_right_classes(ready: Predictor, samples: Samples, trained: Trained) -> None:
    valid = samples.of_split("valid")
    probs = ready.predict([samples.jpegs[index] for index in valid])
    assert probs.shape == (len(valid), 3)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-4)
    accuracy = (probs.argmax(1) == samples.truth[valid]).mean()
    assert accuracy == pytest.approx(trained[1].metrics["valid"]["accuracy"], abs=0.02)
    assert ready.info.classes == ("cross", "disc", "frame")


def test_temperature_is_applied(ready: Predictor, samples: Samples) -> None:
    warmer = copy.copy(ready)
    warmer.info = dataclasses.replace(ready.info, temperature=2 * ready.info.temperature)
    root = np.sqrt(ready.predict(samples.jpegs[:20]))
    np.testing.assert_allclose(
        warmer.predict(samples.jpegs[:20]), root / root.sum(1, keepdims=True), atol=1e-4
    )


def test_batch_size_does_not_matter(trained: Trained, samples: Samples) -> None:
    files = samples.jpegs[:21]
    one, other = (Predictor(trained[0], "cpu", 1, batch, torch.float32).predict(files) for batch in (4, 64))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_nothing_to_classify(ready: Predictor) -> None:
    assert ready.predict([]).shape == (0, 3)


def unsure(predictor: Predictor) -> Predictor:
    """The same, and all finer ones, with less confidence."""
    one: Predictor | None = predictor
    while one is not None:
        one.info = dataclasses.replace(one.info, temperature=3)
        one = one.finer
    return predictor


def test_near_ties_are_computed_again_in_float32(trained: Trained, samples: Samples) -> None:
    tally = Tally()

    def answers(precision: torch.dtype, margin: float = 0.0) -> Any:
        ready = unsure(Predictor(trained[0], "cpu", 1, 16, precision, margin=margin))
        return np.concatenate(ready.classify((Picture(data) for data in samples.jpegs), tally))

    exact, short = answers(torch.float32), answers(torch.bfloat16)
    margin = float(np.median(lead(short)))
    near = lead(short) < margin
    assert near.sum() > 64  # several batches
    assert not np.allclose(short[near], exact[near], atol=1e-6)
    assert not tally.again
    found = answers(torch.bfloat16, margin)
    assert tally.again == {"float32": near.sum()}
    np.testing.assert_array_equal(found[~near], short[~near])
    np.testing.assert_allclose(found[near], exact[near], atol=1e-6)
    np.testing.assert_allclose(answers(torch.bfloat16, 1.1), exact, atol=1e-6)


def test_near_ties_go_from_step_to_step(trained: Trained, samples: Samples) -> None:
    pictures = [Picture(data) for data in samples.jpegs]
    exact = unsure(Predictor(trained[0], "cpu", 1, 16, torch.float32))
    short = unsure(Predictor(trained[0], "cpu", 1, 16, torch.bfloat16))
    right, middle = exact.predict(samples.jpegs), short.predict(samples.jpegs)
    wide, narrow = (float(np.quantile(lead(middle), share)) for share in (0.7, 0.2))
    steps = [(torch.bfloat16, wide), (torch.bfloat16, narrow), (torch.float32, 0.0)]
    ready, tally = unsure(load_predictor(trained[0], "cpu", 1, 16, steps)), Tally()
    found = np.concatenate(ready.classify(pictures, tally))
    # In other batches bfloat16 may be off by a little.
    near = lead(middle) < 0.9 * narrow
    np.testing.assert_allclose(found[near], right[near], atol=1e-6)
    far = lead(middle) > 1.1 * narrow
    np.testing.assert_allclose(found[far], middle[far], atol=0.02)
    assert (lead(middle) < wide).sum() == tally.again["bfloat16"] > tally.again["float32"] >= near.sum() > 0


def test_steps_end_where_float32_is_reached(trained: Trained) -> None:
    steps = [(torch.bfloat16, 0.2), (torch.float32, 0.1), (torch.float32, 0.0)]
    ready = load_predictor(trained[0], "cpu", 1, 3, steps)
    assert ready.finer is not None
    assert ready.finer.precision == "float32"
    assert ready.finer.finer is None


def test_how_far_the_first_class_is_ahead() -> None:
    answers = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]], np.float32)
    np.testing.assert_allclose(lead(answers), [0.5, 0], atol=1e-6)
    assert lead(np.ones((2, 1), np.float32)).tolist() == [1, 1]


@pytest.mark.skipif(
    choose_precision(CPU) == torch.float32, reason="this CPU has no bfloat16 instructions: always float32"
)
def test_bfloat16_says_the_same_as_float32(trained: Trained, samples: Samples) -> None:
    short = Predictor(trained[0], "cpu", 1, precision=torch.bfloat16).predict(samples.jpegs)
    exact = Predictor(trained[0], "cpu", 1, precision=torch.float32).predict(samples.jpegs)
    assert (short.argmax(1) == exact.argmax(1)).mean() >= 0.98
    assert np.abs(short - exact).mean() < 0.02


def test_an_image_that_does_not_decode_is_named(ready: Predictor, samples: Samples) -> None:
    files = [*samples.jpegs[:20], b"<html>", *samples.jpegs[21:30]]
    with pytest.raises(ValueError, match=r"^image 20: not a picture"):
        ready.predict(files)


def test_out_of_memory_halves_the_batch(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = Predictor(trained[0], "cpu", 1, batch=16)
    expected = tight.predict(samples.jpegs[:20])
    forward = tight._forward
    assert isinstance(forward, TorchForward)
    network, seen = forward.network, []

    class Tight(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            seen.append(len(images))
            return network(images)

    monkeypatch.setattr(forward, "network", Tight())
    np.testing.assert_allclose(tight.predict(samples.jpegs[:20]), expected, atol=0.03)
    assert tight.batch == 4
    assert sum(seen) == 20

    class Full(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward, "network", Full())
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        tight.predict(samples.jpegs[:3])


def test_several_threads_at_once(ready: Predictor, samples: Samples) -> None:
    parts = [samples.jpegs[start : start + 20] for start in range(0, 80, 20)]
    expected = [ready.predict(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(ready.predict, parts), expected, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-5)


def test_a_process_loads_a_model_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = predictor._load
    monkeypatch.setattr(predictor, "_load", lambda folder: loads.append(folder) or real(folder))
    monkeypatch.setattr(predictor, "_loaded", type(predictor._loaded)())
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: load_predictor(trained[0], "cpu", 1), range(8)))
    assert len(found) == len(loads) == 1
    for batch in (1, 2, 3):
        load_predictor(trained[0], "cpu", 1, batch)
    assert len(predictor._loaded) == 2


def test_what_was_preloaded_is_loaded_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = predictor._load
    monkeypatch.setattr(predictor, "_load", lambda folder: loads.append(folder) or real(folder))
    monkeypatch.setattr(predictor, "_loaded", type(predictor._loaded)())
    monkeypatch.setattr(predictor, "_preloaded", {})
    monkeypatch.setattr(on_openvino, "is_there", lambda: False)
    preload(trained[0])
    load_predictor(trained[0], "cpu", 1)
    assert loads == [trained[0]]
    assert predictor._preloaded == {}
    load_predictor(trained[0], "cpu", 1, batch=2)
    assert len(loads) == 2


def test_no_model(tmp_path: Path) -> None:
    for load in (load_predictor, preload):
        with pytest.raises(InputError, match="no such file"):
            load(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said() -> None:
    with pytest.raises(JobError, match="finds no CUDA GPU"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert choose_precision(CPU) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert choose_precision(CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert choose_precision(torch.device("cuda")) == torch.float16


def test_threads() -> None:
    assert count_threads(3) == 3
    assert count_threads(None) >= 1
