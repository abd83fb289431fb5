from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from camtrap_batch.errors import InputError, StorageError
from camtrap_batch.model import ModelInfo, load_model, read_info, save_model
from camtrap_batch.model.architectures import create_model

INFO = ModelInfo(
    model_id="",
    arch="shufflenet_v2_x0_5",
    classes=("empty", "lion"),
    category_ids=((0,), (90, 91)),
    size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    temperature=1.7,
    provenance={"selection": 3},
    metrics={"valid": {"accuracy": 0.9}},
)
HISTORY = [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": 0.25}]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(INFO.arch, 2, size=64).to(memory_format=torch.channels_last).eval()


def save(parent: Path, network: torch.nn.Module, **changes: Any) -> tuple[Path, ModelInfo]:
    info = save_model(parent, network, dataclasses.replace(INFO, **changes), {"valid": {"n": 1}}, HISTORY)
    return parent / info.model_id, info


def test_round_trip(tmp_path: Path, network: torch.nn.Module) -> None:
    folder, info = save(tmp_path / "models", network)
    loaded, found = load_model(folder)
    assert found == info == read_info(folder)
    assert found.classes == INFO.classes
    assert found.category_ids == INFO.category_ids
    assert found.provenance == {"selection": 3}
    assert found.versions["torch"] == torch.__version__.partition("+")[0]
    assert not loaded.training
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))
    assert json.loads((folder / "metrics.json").read_text()) == {"valid": {"n": 1}}
    with (folder / "history.csv").open() as file:
        assert list(csv.DictReader(file))[1] == {"epoch": "2", "train_loss": "0.25"}
    assert not (folder / "lr_find.csv").exists()


def test_same_content_same_id(tmp_path: Path, network: torch.nn.Module) -> None:
    folder, _ = save(tmp_path, network)
    before = (folder / "model.json").stat().st_mtime_ns
    again, _ = save(tmp_path, network, provenance={"selection": 4}, metrics={})
    assert again == folder
    assert (folder / "model.json").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1.8},
        {"classes": ("empty", "tiger")},
        {"category_ids": ((0,), (90,))},
        {"size": 96},
        {"std": (0.25, 0.25, 0.26)},
    ],
)
def test_what_changes_predictions_changes_the_id(
    tmp_path: Path, network: torch.nn.Module, change: dict[str, Any]
) -> None:
    assert save(tmp_path, network)[0] != save(tmp_path, network, **change)[0]


def test_other_weights_other_id(tmp_path: Path, network: torch.nn.Module) -> None:
    other = create_model(INFO.arch, 2, size=64)
    assert save(tmp_path, network)[0] != save(tmp_path, other)[0]


def test_a_changed_file_is_refused(tmp_path: Path, network: torch.nn.Module) -> None:
    folder, _ = save(tmp_path, network)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="was changed"):
        load_model(damaged)
    edited = tmp_path / "edited"
    shutil.copytree(folder, edited)
    card = json.loads((edited / "model.json").read_text())
    card["classes"].reverse()
    (edited / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="was changed"):
        load_model(edited)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: can't be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "can't be read"),
        ("[]", "format"),
        ('{"format": 99}', "format"),
        ('{"format": 1}', "KeyError: 'model_id'"),
        ('{"format": 1, "colour": 2}', "unknown key 'colour'"),
    ],
)
def test_not_a_model(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_info(tmp_path)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_info(tmp_path)


def test_a_card_that_contradicts_the_weights(tmp_path: Path, network: torch.nn.Module) -> None:
    folder, _ = save(tmp_path, network, classes=("a", "b", "c"), category_ids=((1,), (2,), (3,)))
    with pytest.raises(InputError, match="not the weights of a shufflenet_v2_x0_5"):
        load_model(folder)


@pytest.mark.parametrize("step", ["write_text", "rename"])
def test_interrupted_saving_leaves_nothing(
    tmp_path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(StorageError, match="No space left"):
            save(tmp_path, network)
    assert list(tmp_path.iterdir()) == []
    folder, _ = save(tmp_path, network)
    load_model(folder)


def test_info_is_readable_without_torch(tmp_path: Path, network: torch.nn.Module) -> None:
    folder, info = save(tmp_path, network)
    code = f"""
import sys
sys.modules["torch"] = None
import camtrap_batch.model as model
assert model.read_info({str(folder)!r}).model_id == {info.model_id!r}
assert model.TrainConfig().arch == "resnet34"
from camtrap_batch.errors import MissingExtra
try:
    model.save_model
except MissingExtra as problem:
    print(problem)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "camtrap-batch[train]" in done.stdout


def test_importing_the_room_imports_neither_torch_nor_fastai() -> None:
    code = "import sys, camtrap_batch.model; print({'torch', 'fastai', 'timm', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
