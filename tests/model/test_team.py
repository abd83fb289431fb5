"""Several processes, one model: over gloo, on loopback."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from camtrap_batch.model import Samples, TrainConfig, batches, join, load_model, train
from camtrap_batch.model.checkpoints import Checkpoints
from camtrap_batch.model.learner import create_model
from camtrap_batch.model.team import WAIT, SoloTeam, Team, TeamLost, open_store
from camtrap_batch.store.folder import Folder

HOST, CPU = "127.0.0.1", torch.device("cpu")


def in_another_process(work: Callable[..., None], *arguments: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def share(team: SoloTeam, values: list[float], weight: float) -> tuple[list[float], list[float], str]:
    layer = torch.nn.Linear(1, 2)
    layer.weight.grad, layer.bias.grad = torch.tensor([[values[0]], [values[1]]]), torch.tensor(values[2:])
    team.average_gradients(list(layer.parameters()), weight)
    norm = torch.nn.BatchNorm1d(1)
    norm.running_mean = torch.tensor([values[0]])
    team.average_buffers(norm)
    rate = team.first("rate", lambda: repr(values[3]))
    return (
        [*layer.weight.grad.flatten().tolist(), *layer.bias.grad.tolist()],
        norm.running_mean.tolist(),
        rate,
    )


def second(port: int) -> None:
    store, _ = open_store(HOST, port, WAIT)
    with Team(store, 1, 2, CPU) as team:
        share(team, [2.0, 4.0, 6.0, 8.0], 3.0)
    # The second time it is gone before its step.


def test_gradients_are_averaged_by_weight_and_a_death_is_noticed() -> None:
    store, port = open_store(HOST, None, WAIT)
    process = in_another_process(second, port)
    with Team(store, 0, 2, CPU) as team:
        gradients, buffers, rate = share(team, [0.0, 0.0, 2.0, 4.0], 1.0)
        assert np.allclose(gradients, [1.5, 3.0, 5.0, 7.0])
        assert buffers == [1.0]
        assert rate == "4.0"
        process.join()
        with pytest.raises(TeamLost):
            team.add(torch.ones(1))


def test_a_team_meets_where_nobody_else_can_listen() -> None:
    store, port = open_store(HOST, None, WAIT)
    mine = [one.laddr for one in psutil.Process().net_connections("inet") if one.status == "LISTEN"]
    assert [address.ip for address in mine if address.port == port] == [HOST]
    store.set("met", "here")
    other, _ = open_store(HOST, port, WAIT)
    assert other.get("met") == b"here"


def test_alone_nothing_changes() -> None:
    gradients, buffers, rate = share(SoloTeam(), [1.0, 2.0, 3.0, 4.0], 2.0)
    assert (gradients, buffers, rate) == ([1.0, 2.0, 3.0, 4.0], [1.0], "4.0")


def take_part(port: int, samples: Samples, config: TrainConfig, folder: str) -> None:
    batches.vary = unvaried
    store, _ = open_store(HOST, port, WAIT)
    with Team(store, 1, 2, CPU) as team:
        join(samples, config, Checkpoints(Folder(folder)), team)


def unvaried(images: torch.Tensor, *_: object) -> torch.Tensor:
    return images


def test_two_train_the_model_that_one_does(
    make: Callable[..., Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding, where images are not varied at random and each is normalised by itself."""
    monkeypatch.setattr(batches, "vary", unvaried)
    samples = make(90, 3)
    config = TrainConfig("test_efficientnet_gn", "none", 48, 2, 16, 1e-3, threads=1, device="cpu")
    alone = train(samples, config, tmp_path / "alone", {})
    store, port = open_store(HOST, None, WAIT)
    process = in_another_process(take_part, port, samples, config, str(tmp_path / "checkpoints"))
    told: list[dict[str, Any]] = []
    with Team(store, 0, 2, CPU) as team:
        checkpoints = Checkpoints(Folder(str(tmp_path / "checkpoints")))
        together = train(samples, config, tmp_path / "two", {}, told.append, checkpoints, team)
    process.join()
    assert process.exitcode == 0
    assert together.metrics["training"]["workers"] == 2
    assert together.metrics["valid"]["n_images"] == alone.metrics["valid"]["n_images"]
    torch.manual_seed(config.seed)
    begin = create_model(config.arch, 3, "none", config.size).state_dict()
    one, two = (
        load_model(tmp_path / name / result.model_id)[0].state_dict()
        for name, result in (("alone", alone), ("two", together))
    )

    def distance(first: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        return float(sum((first[name] - other[name]).square().sum() for name in first) ** 0.5)

    assert distance(one, two) < 0.1 * distance(begin, one)
