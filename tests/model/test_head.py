"""A last layer fitted to features: what it finds, and that the network with it gives just that."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camtrap_batch.detection.crops import Picture, decode_picture
from camtrap_batch.errors import JobError
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.device import Normalise
from camtrap_batch.model.head import Featurer, carry_over, fit_head, open_backbone, with_head
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.package import save_model


def blobs(n: int, classes: int, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    middles = random.normal(0, 3, (classes, width))
    truth = random.integers(0, classes, n)
    return (middles[truth] + random.normal(0, 1, (n, width))).astype(np.float32), truth


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_that_can_be_told_apart_are(classes: int) -> None:
    features, truth = blobs(300, classes)
    features[:, 3] = 7.0  # says nothing, and does not vary
    groups = np.arange(300) % 6
    strength, weight, bias = fit_head(features[:200], truth[:200], np.ones(200), groups[:200])
    assert strength > 0
    assert (weight.shape, bias.shape) == ((classes, 12), (classes,))
    assert (features[200:] @ weight.T + bias).argmax(1).tolist() == pytest.approx(truth[200:].tolist())


def test_weights_make_a_rare_class_count() -> None:
    random = np.random.default_rng(1)
    truth = (np.arange(400) % 20 == 0).astype(np.int64)
    features = (random.normal(0, 1, (400, 4)) + truth[:, None]).astype(np.float32)
    found = {}
    for name, weights in (("none", np.ones(400)), ("balanced", np.where(truth == 1, 10.0, 0.53))):
        _, weight, bias = fit_head(features, truth, weights, np.arange(400) % 5)
        found[name] = ((features @ weight.T + bias).argmax(1) == 1)[truth == 1].mean()
    assert found["balanced"] > found["none"] + 0.2


def save(folder: Path, classes: tuple[str, ...], arch: str = "test_resnet") -> Path:
    torch.manual_seed(2)
    network = create_model(arch, len(classes), size=64).eval()
    ids = tuple((number,) for number in range(len(classes)))
    info = ModelInfo("", arch, classes, ids, 64, (0.5,) * 3, (0.25,) * 3, 1.0)
    return folder / save_model(folder, network, info, {}, []).model_id


def pictures(n: int) -> list[tuple[int, Picture]]:
    found = []
    for number in range(n):
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        boxes = [(0.1, 0.1, 0.4, 0.4), (0.5, 0.2, 0.3, 0.5)] if number % 2 else None
        found.append((number, Picture(file.getvalue(), boxes)))
    return found


@pytest.mark.parametrize("arch", ["test_resnet", "resnet18"])
def test_the_network_with_the_layer_gives_what_the_layer_gives(tmp_path: Path, arch: str) -> None:
    backbone = open_backbone(save(tmp_path, ("a", "b", "c"), arch), "", "", 0)
    some = pictures(5)
    given = dict(Featurer(backbone, "cpu", 1, 3).compute([*some, (9, Picture(b"no picture"))]))
    assert {number: len(features) for number, features in given.items()} == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1}
    width = given[0].shape[1]
    random = np.random.default_rng(3)
    weight, bias = (random.normal(0, 1, shape).astype(np.float32) for shape in ((4, width), 4))
    network = with_head(backbone, weight, bias)
    other = open_backbone(save(tmp_path, ("a", "b", "c"), arch), "", "", 0)
    assert torch.equal(
        other.network.state_dict()[f"{other.layer}.weight"],
        backbone.network.state_dict()[f"{backbone.layer}.weight"],
    ), "the base stays as it is"
    normalise = Normalise(backbone.info.mean, backbone.info.std, torch.device("cpu"))
    for number, picture in some:
        squares = torch.from_numpy(decode_picture(picture, backbone.info.framing))
        with torch.inference_mode():
            logits = network(normalise(squares)).numpy()
        expected = given[number] @ weight.T + bias
        np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())


def test_a_network_whose_last_layer_is_not_linear_is_refused() -> None:
    with pytest.raises(JobError, match="the last layer of squeezenet1_1 is not a linear one"):
        open_backbone(None, "squeezenet1_1", "none", 64)


def test_rows_of_the_last_layer_go_with_their_classes(tmp_path: Path) -> None:
    folder = save(tmp_path, ("a", "b", "c"))
    old = carry_over(folder, ["a", "b", "c"])
    new = carry_over(folder, ["c", "d", "a"])
    name = next(name for name in old if name.startswith("fc") and name.endswith("weight"))
    assert torch.equal(new[name][0], old[name][2])
    assert torch.equal(new[name][2], old[name][0])
    assert torch.allclose(new[name][1], old[name][[2, 0]].mean(0))
    assert name not in carry_over(folder, ["x", "y"])
