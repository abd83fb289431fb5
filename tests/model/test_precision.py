from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from camtrap_batch.detection.crops import Picture
from camtrap_batch.errors import InputError
from camtrap_batch.model import Predictor, Samples, TrainResult, agreement, load_model
from camtrap_batch.model.agreement import choose
from camtrap_batch.model.info import OBSERVED
from camtrap_batch.model.precision import (
    candidates,
    load_observed,
    make_ready,
    name_of,
    observe,
    pack_observed,
    possible,
)

Trained = tuple[Path, TrainResult, list[dict[str, Any]]]
CPU = torch.device("cpu")
has_integers = pytest.mark.skipif(
    torch.int8 not in candidates(CPU), reason="this CPU does not multiply 8-bit integers"
)


def test_batch_normalisation_goes_into_the_convolutions(trained: Trained) -> None:
    network = load_model(trained[0])[0]
    images = torch.randn(4, 3, 48, 48)
    ready = make_ready(copy.deepcopy(network), CPU, torch.float32)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ready.modules())
    with torch.inference_mode():
        torch.testing.assert_close(ready(images), network(images), rtol=1e-3, atol=1e-3)


def test_a_network_that_can_not_be_rewritten_is_computed_as_it_is() -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.mean() > 0 else images.sum((2, 3))

    images = torch.ones(2, 3, 8, 8)
    assert make_ready(Odd(), CPU, torch.float32)(images).tolist() == [[1, 1, 1]] * 2
    with pytest.raises(ValueError, match="can't be computed in int8"):
        observe(Odd(), images, 2)


@has_integers
def test_integers_are_the_same_wherever_the_ranges_come_from(
    trained: Trained, samples: Samples, tmp_path: Path
) -> None:
    exact = Predictor(trained[0], "cpu", 1, precision=torch.float32)
    pixels = exact.squares(Picture(data) for data in samples.jpegs[:48])
    observed = observe(load_model(trained[0])[0], exact.network_input(pixels), 16)
    (tmp_path / OBSERVED).write_bytes(pack_observed(observed))
    one, other = (
        Predictor(trained[0], "cpu", 1, precision=torch.int8, observed=ranges).predict(samples.jpegs[48:168])
        for ranges in (observed, load_observed(tmp_path))
    )
    assert (one == other).all()
    right = exact.predict(samples.jpegs[48:168])
    assert (one.argmax(1) == right.argmax(1)).mean() >= 0.97
    near = Predictor(trained[0], "cpu", 1, precision=torch.int8, observed=observed, margin=1.1)
    np.testing.assert_allclose(near.predict(samples.jpegs[48:168]), right, atol=1e-6)
    with pytest.raises(InputError, match=r"int8\.safetensors: can't be read"):
        Predictor(trained[0], "cpu", 1, precision=torch.int8)


def test_networks_share_what_was_loaded(trained: Trained, samples: Samples) -> None:
    network = load_model(trained[0])[0]
    before = copy.deepcopy(network.state_dict())
    for precision in candidates(CPU)[::-1]:
        if precision != torch.int8:
            shared = Predictor(trained[0], "cpu", 1, precision=precision, network=network)
            own = Predictor(trained[0], "cpu", 1, precision=precision)
            assert (shared.predict(samples.jpegs[:8]) == own.predict(samples.jpegs[:8])).all()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_is_compared_on_fewer_than_two_images(trained: Trained, samples: Samples, n: int) -> None:
    found, observed = choose(trained[0], "cpu", 16, [Picture(data) for data in samples.jpegs[:n]])
    assert (found["precision"], found["steps"]) == ("float32", [["float32", 0]])
    assert (found["images"], observed) == (n, None)


def test_the_fastest_that_agrees(trained: Trained, samples: Samples) -> None:
    found, observed = choose(trained[0], "cpu", 16, [Picture(data) for data in samples.jpegs[:40]])
    assert found["images"] == 40
    for name, tried in found["tried"].items():
        if name != "float32":
            assert 0 <= tried["same_top1"] <= 1
    agree = [name for name, tried in found["tried"].items() if tried.get("again", 0) <= agreement.MOST_AGAIN]
    assert found["precision"] == agree[-1]
    assert found["steps"] == [[name, found["tried"][name].get("margin", 0)] for name in agree[::-1]]
    assert observed is None
    if torch.int8 in candidates(CPU):
        assert found["why_not"]["int8"] == "fewer than 232 images to try"


def test_what_does_not_agree_is_not_taken(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "candidates", lambda device: [torch.bfloat16, torch.float32])
    real = agreement._classify

    def classify(predictor: Predictor, pixels: Any) -> Any:
        answers, speed = real(predictor, pixels)
        if predictor.precision == torch.bfloat16:
            answers[0] = np.roll(answers[0], 1)  # 1 of 30: another label
        return answers, speed

    monkeypatch.setattr(agreement, "_classify", classify)
    found, _ = choose(trained[0], "cpu", 16, [Picture(data) for data in samples.jpegs[:30]])
    assert (found["precision"], found["steps"]) == ("float32", [["float32", 0]])
    assert found["tried"]["bfloat16"]["same_top1"] < 0.98
    assert found["tried"]["bfloat16"]["again"] == 1


@has_integers
def test_integers_are_tried_where_there_are_enough_images(
    trained: Trained, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "_FEWEST_FOR_INTEGERS", 60)
    monkeypatch.setattr(agreement, "_WORTH", 100)
    monkeypatch.setattr(agreement, "MOST_AGAIN", 1)
    monkeypatch.setattr(agreement, "MOST_DIFFERENCE", 0.5)
    found, observed = choose(trained[0], "cpu", 16, [Picture(data) for data in samples.jpegs[:92]])
    assert found["images"] == 60
    assert [name for name, _ in found["steps"]] == [name_of(one) for one in candidates(CPU)]
    assert [margin for _, margin in found["steps"]][:-1] == [
        found["tried"][name]["margin"] for name, _ in found["steps"][:-1]
    ]
    assert found["precision"] == "int8"
    assert observed is not None


def test_nothing_that_decodes(trained: Trained) -> None:
    assert choose(trained[0], "cpu", 16, [Picture(b"<html>")])[0]["precision"] == "float32"


def test_a_precision_that_the_machine_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert possible("float32", "cpu") == torch.float32
    assert possible("int8", "cpu") == torch.int8
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert possible("bfloat16", "cpu") == torch.float32
    assert candidates(CPU) == [torch.float32]
