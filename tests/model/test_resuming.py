"""A training that something ends goes on from its last epoch; one that goes wrong keeps what is good."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from camtrap_batch.errors import StageError
from camtrap_batch.model import Samples, TrainConfig, learner, load_model, train
from camtrap_batch.model.checkpoints import Checkpoints
from camtrap_batch.store.folder import Folder


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def quick(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, arch="shufflenet_v2_x0_5", size=32, epochs=3, batch=16)


@pytest.fixture(scope="module")
def few(make: Callable[..., Samples]) -> Samples:
    return make(60, 1)


def kill_in_epoch(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_progress(event: dict[str, Any]) -> None:
        if event["phase"] == "train" and event["epoch"] == epoch:
            raise Killed

    return on_progress


def notes_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events if event["phase"] == "note"]


@pytest.mark.parametrize("given", [False, True], ids=["random weights", "given weights"])
def test_killed_in_any_epoch_it_ends_with_the_same_model(
    given: bool, quick: TrainConfig, few: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "REPORT_EVERY_S", 0.0)
    if given:
        torch.manual_seed(0)
        weights = tmp_path / "given.safetensors"
        safetensors.torch.save_file(learner.create_model(quick.arch, 3).state_dict(), weights)
        quick = dataclasses.replace(quick, weights=str(weights))
    whole = train(few, quick, tmp_path / "whole", {})
    checkpoints = Checkpoints(Folder(str(tmp_path / "checkpoints")))
    for epoch in (1, 2, 3):
        with pytest.raises(Killed):
            train(few, quick, tmp_path / "pieces", {}, kill_in_epoch(epoch), checkpoints)
        kept = checkpoints.load()
        assert (kept.epochs if kept else 0) == epoch - 1
    told: list[dict[str, Any]] = []
    pieces = train(few, quick, tmp_path / "pieces", {}, told.append, checkpoints)
    assert notes_of(told) == ["goes on after epoch 2 of 3, from the checkpoint"]
    assert pieces.model_id == whole.model_id
    histories = [
        [line.rsplit(",", 1)[0] for line in text.splitlines()]
        for text in (
            (tmp_path / name / whole.model_id / "history.csv").read_text() for name in ("whole", "pieces")
        )
    ]
    assert histories[0] == histories[1]
    # Killed after the last epoch, only what follows it is done again.
    again = train(few, quick, tmp_path / "again", {}, kill_in_epoch(3), checkpoints)
    assert again.model_id == whole.model_id


def test_checkpoints_live_in_any_folder_and_run_no_code(folder: Folder) -> None:
    checkpoints = Checkpoints(folder)
    assert checkpoints.load() is None
    with pytest.raises(StageError, match=r"best.pt: no such file"):
        checkpoints.load_best()
    checkpoints.save_best({"a": torch.ones(2)})
    assert torch.equal(checkpoints.load_best()["a"], torch.ones(2))

    whole = folder.read("best.pt")
    at = whole.index(torch.ones(2).numpy().tobytes())
    folder.write("best.pt", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(StageError, match=r"best.pt: not a checkpoint"):
        checkpoints.load_best()

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    folder.write("last.pt", pickle.dumps(Code(), protocol=2))
    with pytest.raises(StageError, match=r"last.pt: not a checkpoint \(UnpicklingError\): delete it"):
        checkpoints.load()


def test_out_of_memory_halves_the_batch_and_goes_on(
    quick: TrainConfig, few: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = learner.Autocast.forward

    def narrow(self: Any, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 8 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, images)

    monkeypatch.setattr(learner.Autocast, "forward", narrow)
    told: list[dict[str, Any]] = []
    result = train(few, dataclasses.replace(quick, batch=32, epochs=2), tmp_path, {}, told.append)
    expected = [
        f"out of memory with {n} images per step: goes on with {n // 2} (train.batch)" for n in (32, 16)
    ]
    assert notes_of(told) == expected == result.metrics["training"]["notes"]
    assert result.metrics["training"]["batch"] == 8
    assert result.metrics["training"]["epochs"] == 2


def test_memory_for_less_than_two_images_is_one_clear_line(
    quick: TrainConfig, few: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, images: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(learner.Autocast, "forward", full)
    with pytest.raises(StageError, match=r"memory is too small.*lower train.size"):
        train(few, dataclasses.replace(quick, batch=4), tmp_path, {})


@pytest.mark.parametrize("blown", [float("nan"), 1e4])
def test_a_training_that_diverges_keeps_the_last_good_epoch(
    blown: float, quick: TrainConfig, few: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, steps = learner._Loss.forward, 0

    def diverging(self: Any, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += logits.requires_grad
        loss = forward(self, logits, truth)
        # 42 training images: 3 steps an epoch.
        return loss * blown if steps > 6 and logits.requires_grad else loss

    monkeypatch.setattr(learner._Loss, "forward", diverging)
    told: list[dict[str, Any]] = []
    checkpoints = Checkpoints(Folder(str(tmp_path / "checkpoints")))
    quick = dataclasses.replace(quick, epochs=5, batch=14)
    result = train(few, quick, tmp_path, {}, told.append, checkpoints)
    training = result.metrics["training"]
    assert (training["epochs"], training["kept_epoch"]) == (2, 2)
    (note,) = notes_of(told)
    assert note in training["notes"]
    assert "diverged at learning rate" in note
    assert "epoch 2, the last good one, is kept" in note
    kept = checkpoints.load()
    assert kept is not None
    saved = load_model(tmp_path / result.model_id)[0].state_dict()
    assert all(torch.equal(saved[name], value) for name, value in kept.network.items())
    assert all(torch.isfinite(value.float()).all() for value in saved.values())


def test_it_stops_where_epochs_no_longer_help_and_keeps_the_best(
    quick: TrainConfig, make: Callable[..., Samples], tmp_path: Path
) -> None:
    few = make(90, 4)
    # What is right on valid is wrong in training: the better it learns, the worse it judges.
    turned = {"cross": "disc", "disc": "frame", "frame": "cross"}
    labels = [
        turned[label] if side == "valid" else label
        for label, side in zip(few.labels, few.splits, strict=True)
    ]
    told: list[dict[str, Any]] = []
    settings = dataclasses.replace(quick, epochs=30, patience=2, lr=4e-3)
    result = train(dataclasses.replace(few, labels=labels), settings, tmp_path, {}, told.append)
    training = result.metrics["training"]
    losses = [event["valid_loss"] for event in told if "valid_loss" in event]
    best = int(np.argmin(losses)) + 1
    assert len(losses) == training["epochs"] == best + 2 < 30
    assert training["kept_epoch"] == best
    assert notes_of(told) == [f"stopped early: 2 epochs without a smaller valid loss than epoch {best}"]


def test_class_weights_are_those_of_the_images(few: Samples, config: TrainConfig) -> None:
    logits, truth = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 1, 2, 0, 1, 1]),
    )
    weights = torch.tensor([0.5, 2.0, 1.0])
    loss = learner._Loss(weights)
    expected = torch.nn.functional.cross_entropy(
        logits, truth, weights, label_smoothing=learner.LABEL_SMOOTHING
    )
    assert torch.allclose(loss(logits, truth), expected)
    assert float(loss.counted) == 8.0
    padded = torch.cat([truth[:5], torch.tensor([learner.IGNORED])])
    assert torch.allclose(loss(logits, padded), loss(logits[:5], truth[:5]))
