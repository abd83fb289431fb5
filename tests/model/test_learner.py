from __future__ import annotations

import csv
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camtrap_batch.errors import JobError, StageError
from camtrap_batch.model import Samples, TrainConfig, TrainResult, device, learner, load_model, train

Trained = tuple[Path, TrainResult, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def quick(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, arch="shufflenet_v2_x0_5", size=32, epochs=2)


def test_learns_shapes(trained: Trained) -> None:
    _, result, _ = trained
    for split, n_images, n_locations in (("valid", 72, 2), ("test", 36, 1)):
        figures = result.metrics[split]
        assert figures["n_images"] == n_images
        assert figures["n_locations"] == n_locations
        assert figures["balanced_accuracy"] > 0.9
        assert figures["by_light"]["night"]["n"] > 0
        assert sum(map(sum, figures["confusion"])) == n_images
    assert result.metrics["valid"]["ece"] < 0.1
    assert result.metrics["not_decoded"] == {}


def test_model_folder_is_complete(trained: Trained, config: TrainConfig) -> None:
    folder, result, _ = trained
    _, info = load_model(folder)
    assert info.model_id == folder.name == result.model_id
    assert info.arch == "resnet18"
    assert info.classes == ("cross", "disc", "frame")
    assert info.category_ids == ((3, 4), (1,), (2,))
    assert info.provenance == {"job": "shapes", "selection": 3}
    assert info.temperature == result.metrics["temperature"]
    assert info.metrics["valid"]["accuracy"] == result.metrics["valid"]["accuracy"]
    assert json.loads((folder / "metrics.json").read_text()) == result.metrics
    with (folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in history] == list(range(1, config.epochs + 1))
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    assert float(history[-1]["accuracy"]) > 0.9
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_progress_is_told(trained: Trained, config: TrainConfig) -> None:
    told = trained[2]
    ends = [event for event in told if "valid_loss" in event]
    assert [event["epoch"] for event in ends] == list(range(1, config.epochs + 1))
    assert all(event["phase"] == "train" and event["epochs"] == config.epochs for event in ends)
    assert all(event["batch"] == event["batches"] and event["images_per_s"] > 0 for event in ends)
    assert {event["phase"] for event in told} == {"train", "evaluate"}


def test_same_seed_same_model(make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path) -> None:
    samples = make(60, 1)
    one, again = (train(samples, quick, tmp_path / str(run), {}) for run in range(2))
    other = train(samples, dataclasses.replace(quick, seed=7), tmp_path / "2", {})
    assert one.model_id == again.model_id != other.model_id


def test_search_and_fine_tuning_keep_the_given_body(
    trained: Trained,
    make: Callable[..., Samples],
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner, "REPORT_EVERY_S", 0.0)
    weights = str(trained[0] / "model.safetensors")
    settings = dataclasses.replace(config, weights=weights, lr="find", epochs=2, size=32)
    told: list[dict[str, Any]] = []
    result = train(make(90, 2), settings, tmp_path, {}, told.append)
    assert 1e-6 < result.metrics["training"]["lr"] < 1
    steps = [event["batch"] for event in told if event["phase"] == "lr_find"]
    assert steps == sorted(steps)
    assert len(steps) > 20
    assert all(event["batch"] <= event["batches"] and event["epoch"] <= event["epochs"] for event in told)
    with (tmp_path / result.model_id / "lr_find.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert len(rates) > 20
    assert rates == sorted(rates)
    given = load_model(trained[0])[0].state_dict()["conv1.weight"]
    tuned = load_model(tmp_path / result.model_id)[0].state_dict()["conv1.weight"]
    assert 0 < float((given - tuned).abs().mean()) < 0.01 * float(given.abs().mean())


def test_images_that_do_not_decode_are_left_out_and_named(
    make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path
) -> None:
    whole = make(90, 3)
    bad = {whole.of_split("train")[4], whole.of_split("valid")[2]}
    files = [b"<html>" if index in bad else data for index, data in enumerate(whole.jpegs)]
    result = train(make(90, 3, jpegs=files), quick, tmp_path, {})
    assert set(result.metrics["not_decoded"]) == {whole.image_ids[index] for index in bad}
    assert result.metrics["valid"]["n_images"] == len(whole.of_split("valid")) - 1
    files = [b"<html>" if index % 5 == 0 else data for index, data in enumerate(whole.jpegs)]
    with pytest.raises(StageError, match="18 of 90 images can't be decoded, the first is image-"):
        train(make(90, 3, jpegs=files), quick, tmp_path / "bad", {})
    assert not (tmp_path / "bad").exists()


def test_lost_loss_leaves_nothing(make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"diverged at learning rate.*train\.lr"):
        train(make(60), dataclasses.replace(quick, lr=1e30), tmp_path / "models", {})
    assert not (tmp_path / "models").exists()


def test_an_error_in_progress_comes_out_unchanged(
    make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match=r"^enough$"):
        train(make(60), quick, tmp_path, {}, stop)


def test_nothing_to_learn_is_refused_before_anything_is_built(
    make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path
) -> None:
    classes = {"disc": [1], "cross": [3, 4], "frame": [2], "okapi": [9]}
    with pytest.raises(JobError, match="no training image of 'okapi'"):
        train(make(60, category_ids=classes), quick, tmp_path, {})


def test_heavier_images_are_learnt_better(
    make: Callable[..., Samples], config: TrainConfig, tmp_path: Path
) -> None:
    """Discs almost never shown are almost never recognised."""
    even = make(120, 5)
    weights = np.array([0.001 if label == "disc" else 1 for label in even.labels], np.float32)
    settings = dataclasses.replace(config, size=32, epochs=10)
    result = train(make(120, 5, weights=weights), settings, tmp_path, {})
    recall = {label: row["recall"] for label, row in result.metrics["valid"]["per_class"].items()}
    assert recall["disc"] < min(recall["cross"], recall["frame"])


def test_float16_scales_its_gradients(
    make: Callable[..., Samples], quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU without bfloat16 runs; without CUDA torch switches the scaling itself off."""
    monkeypatch.setattr(device, "choose_precision", lambda _: torch.float16)
    monkeypatch.setattr(learner, "choose_precision", lambda _: torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = train(make(60), dataclasses.replace(quick, epochs=1), tmp_path, {})
    assert result.metrics["training"]["precision"] == "float16"
    assert not torch.is_autocast_enabled("cpu")
