from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from camtrap_batch.errors import InputError
from camtrap_batch.images.framing import Framing
from camtrap_batch.model import import_model, load_model
from camtrap_batch.model.architectures import create_model, evaluation

ARCH = "shufflenet_v2_x0_5"
CARD = {"arch": ARCH, "classes": ["empty", "lion", "heron"]}
State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return create_model(ARCH, 3).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


def write(folder: Path, state: Any, name: str = "weights.safetensors", **card: Any) -> None:
    (folder / "model.json").write_text(json.dumps({**CARD, **card}))
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(dict(state), folder / name)
    else:
        torch.save(state, folder / name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weights.safetensors", dict),
        ("weights.pth", dict),
        (
            "best.ckpt",
            lambda state: {"epoch": 3, "state_dict": {f"module.{key}": state[key] for key in state}},
        ),
        ("last.pt", lambda state: {key: state[key].clone() for key in state if "num_batches" not in key}),
    ],
)
def test_any_state_dict_becomes_a_model_folder(
    folder: Path, network: torch.nn.Module, name: str, change: Any
) -> None:
    write(folder, change(network.state_dict()), name)
    info = import_model(folder, folder.parent / "models")
    loaded, found = load_model(folder.parent / "models" / info.model_id)
    assert found == info
    assert info.classes == ("empty", "lion", "heron")
    assert (info.size, info.temperature, info.mean) == (224, 1.0, (0.485, 0.456, 0.406))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))


def test_the_id_does_not_depend_on_the_kind_of_file(folder: Path, network: torch.nn.Module) -> None:
    write(folder, network.state_dict(), "a.safetensors")
    one = import_model(folder, folder.parent / "models").model_id
    write(folder, network.state_dict(), "b.pth", weights="b.pth")
    assert import_model(folder, folder.parent / "models").model_id == one
    write(
        folder, network.state_dict(), "b.pth", weights="b.pth", temperature=1.5, category_ids=[[0], [90], []]
    )
    assert import_model(folder, folder.parent / "models").model_id != one


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "card", "says"),
    [
        (lambda s: without(s, "fc.weight"), {}, r"not the weights of a shufflenet.*fc\.weight is not there"),
        (
            dict,
            {"classes": ["a", "b"]},
            r"fc\.weight has shape \(3, 1024\), should have \(2, 1024\), for the 2",
        ),
        (dict, {"arch": "resnet18"}, r"not the weights of a resnet18: conv1\.weight is not there"),
        (lambda s: {**s, "extra.bias": torch.zeros(3)}, {}, r"it has no extra\.bias"),
        (
            lambda s: {**s, "fc.bias": torch.full((3,), torch.nan)},
            {},
            "fc.bias holds values that are not finite",
        ),
        (dict, {"arch": "shuflenet_v2_x0_5"}, r"arch: .*did you mean 'shufflenet_v2_x0_5'"),
        (dict, {"classes": ["a", "a", "b"]}, "all different"),
        (dict, {"classes": [{"name": "a"}]}, "classes should be a list of labels"),
        (dict, {"classes": []}, "should have 'classes'"),
        (dict, {"colour": 1}, "unknown key 'colour'"),
        (dict, {"temperature": 0}, "above 0"),
        (dict, {"size": "wide"}, "ValueError"),
        (dict, {"weights": "../weights.safetensors"}, "name of a file beside it"),
        (dict, {"weights": "other.pth"}, r"other\.pth: no such file"),
        (dict, {"format": 9}, '"format": 1'),
    ],
)
def test_what_does_not_fit_is_said_on_one_line(
    folder: Path, network: torch.nn.Module, change: Any, card: dict[str, Any], says: str
) -> None:
    write(folder, change(network.state_dict()), **card)
    with pytest.raises(InputError, match=says) as refused:
        import_model(folder, folder.parent / "models")
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)
    assert not (folder.parent / "models").exists()


class Boom:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("boom"),))


def test_a_pickle_with_code_is_refused_and_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for write_code in (
        lambda path: torch.save({"fc.weight": Boom()}, path),
        lambda path: path.write_bytes(pickle.dumps(Boom())),
    ):
        write(folder, {}, "evil.pth")
        write_code(folder / "evil.pth")
        with pytest.raises(InputError, match="state dict that holds only tensors"):
            import_model(folder, tmp_path / "models")
    assert not (tmp_path / "boom").exists()
    pickle.loads(pickle.dumps(Boom()))  # it would have been run
    assert (tmp_path / "boom").exists()


def test_which_file_is_asked_where_there_are_several_or_none(folder: Path, network: torch.nn.Module) -> None:
    write(folder, network.state_dict(), "a.safetensors")
    write(folder, network.state_dict(), "b.pth")
    with pytest.raises(InputError, match=r"name one file as weights, there are a\.safetensors, b\.pth"):
        import_model(folder, folder.parent / "models")
    (folder / "a.safetensors").unlink()
    (folder / "b.pth").unlink()
    with pytest.raises(InputError, match=r"no weights beside model\.json"):
        import_model(folder, folder.parent / "models")


@pytest.mark.parametrize(
    ("arch", "framing"),
    [
        ("tf_efficientnet_lite0", Framing(224, "crop", 0.875, "bicubic")),
        ("resnet34", Framing(224, "crop", 224 / 256, "bilinear")),
        ("resnet50", Framing(224, "crop", 224 / 232, "bilinear")),
    ],
)
def test_a_model_sees_pictures_as_it_was_evaluated(arch: str, framing: Framing) -> None:
    assert evaluation(arch).framing == framing


def test_the_card_says_otherwise(folder: Path, network: torch.nn.Module) -> None:
    write(folder, network.state_dict(), resize="squash", crop_pct=1, interpolation="bilinear")
    squashed = import_model(folder, folder.parent / "models")
    assert squashed.framing == Framing(224)
    write(folder, network.state_dict())
    published = import_model(folder, folder.parent / "models")
    assert published.framing == evaluation(ARCH).framing
    assert published.model_id != squashed.model_id


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("resize", "crp", "did you mean 'crop'"),
        ("interpolation", "cubic", "did you mean 'bicubic'"),
        ("crop_pct", 1.5, "above 0, and 1 or less"),
        ("antialias", False, "antialias: false requires bilinear"),
    ],
)
def test_a_framing_that_is_not_possible(
    folder: Path, network: torch.nn.Module, key: str, value: Any, words: str
) -> None:
    write(folder, network.state_dict(), **{"interpolation": "bicubic", key: value})
    with pytest.raises(InputError, match=words):
        import_model(folder, folder.parent / "models")


def test_a_tensor_that_nearly_fits_is_named(folder: Path, network: torch.nn.Module) -> None:
    state = dict(network.state_dict())
    state["head.weight"] = state.pop("fc.weight")
    write(folder, state)
    with pytest.raises(InputError, match=r"fc\.weight is not there; the nearest .* head\.weight"):
        import_model(folder, folder.parent / "models")


def test_the_class_that_is_there_twice_is_named(folder: Path, network: torch.nn.Module) -> None:
    write(folder, network.state_dict(), classes=["lion", "empty", "lion"])
    with pytest.raises(InputError, match="more than once: 'lion'"):
        import_model(folder, folder.parent / "models")
