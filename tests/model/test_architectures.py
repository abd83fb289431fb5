from __future__ import annotations

import pickle
import socket
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import timm
import torch
import torchvision.models

from camtrap_batch.errors import InputError, JobError
from camtrap_batch.model.architectures import (
    check_published,
    create_model,
    evaluation,
    head_parameters,
    known_architectures,
)
from camtrap_batch.model.names import USUAL, check_architecture

SMALL = "shufflenet_v2_x0_5"


def test_known_are_torchvisions_and_timms_classifiers() -> None:
    known = known_architectures()
    assert {"resnet34", "convnext_tiny", "resnet10t", "vit_tiny_patch16_224"} <= set(known)
    assert "fasterrcnn_resnet50_fpn" not in known
    assert set(USUAL) <= set(known)
    check_architecture("resnet34")
    check_architecture("resnet34.a1_in1k")


@pytest.mark.parametrize("arch", ["resnet43", "resnet34.no_such_tag", "hf-hub:somebody/model", ""])
def test_unknown_is_refused_with_choices(arch: str) -> None:
    with pytest.raises(JobError, match=r"train\.arch.*possible: .*resnet34"):
        create_model(arch, 3)


@pytest.mark.parametrize(
    ("arch", "size", "head"),
    [
        (SMALL, 64, {"fc.weight", "fc.bias"}),
        ("squeezenet1_1", 64, {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v3_small", 64, {"classifier.3.weight", "classifier.3.bias"}),
        ("resnet10t", 64, {"fc.weight", "fc.bias"}),
        ("vit_tiny_patch16_224", 96, {"head.weight", "head.bias"}),
    ],
)
def test_answers_one_logit_a_class(arch: str, size: int, head: set[str]) -> None:
    network = create_model(arch, 7, size=size).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert head_parameters(network) == head


@pytest.mark.parametrize(("arch", "size"), [("squeezenet1_1", 8), ("resnet10t", 0)])
def test_size_that_does_not_fit(arch: str, size: int) -> None:
    with pytest.raises(JobError, match=r"train\.size: .* can't take images of"):
        create_model(arch, 3, size=size)


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "nested", "parallel", "inside"])
def test_weights_from_a_file(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    source = create_model(SMALL, 5, size=64).state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(source, path)
    elif kind == "nested":
        torch.save({"model": source, "opt": {"lr": 0.1}}, path)
    else:
        before = {"parallel": "module.", "inside": "base_model."}.get(kind, "")
        torch.save({f"{before}{k}": v for k, v in source.items()}, path)
    torch.manual_seed(1)
    same = create_model(SMALL, 5, str(path), size=64).state_dict()
    assert all(torch.equal(same[name], source[name]) for name in source)
    other = create_model(SMALL, 6, str(path), size=64).state_dict()
    body = [name for name in source if not name.startswith("fc.")]
    assert all(torch.equal(other[name], source[name]) for name in body)
    assert other["fc.weight"].shape[0] == 6


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(create_model("squeezenet1_1", 5, size=64).state_dict(), path)
    with pytest.raises(InputError, match=r"another network.*conv1\.0\.weight is not there"):
        create_model(SMALL, 5, str(path), size=64)


def test_a_tensor_that_nearly_fits_is_named(tmp_path: Path) -> None:
    state = dict(create_model(SMALL, 5, size=64).state_dict())
    state["stem.0.weight"] = state.pop("conv1.0.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"conv1\.0\.weight is not there.*nearest .* is stem\.0\.weight"):
        create_model(SMALL, 5, str(tmp_path / "w.safetensors"), size=64)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_a_file_of_weights_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"weights": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(InputError, match="not a file of weights") as caught:
            create_model(SMALL, 5, name, size=64)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_no_such_file() -> None:
    with pytest.raises(InputError, match=r"no/where\.pth: no such file"):
        create_model(SMALL, 5, "no/where.pth", size=64)


def test_imagenet_weights_keep_all_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.get_model(SMALL, weights=None).state_dict()
    kind = type(torchvision.models.get_model_weights(SMALL).DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **options: published)
    state = create_model(SMALL, 4, "imagenet", size=64).state_dict()
    assert torch.equal(state["conv5.0.weight"], published["conv5.0.weight"])
    assert state["fc.weight"].shape[0] == 4


def test_imagenet_without_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise URLError("Name or service not known")

    kind = type(torchvision.models.get_model_weights(SMALL).DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", unreachable)
    with pytest.raises(InputError, match=r"can't be downloaded.*weights: none") as caught:
        create_model(SMALL, 4, "imagenet", size=64)
    assert "\n" not in str(caught.value)
    build = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **o: unreachable() if o.get("pretrained") else build(*a, **o)
    )
    with pytest.raises(InputError, match=r"resnet10t can't be downloaded.*weights: none"):
        create_model("resnet10t", 4, "imagenet", size=64)


def test_imagenet_is_looked_for_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(address: tuple[str, int], timeout: float) -> None:
        raise OSError(f"no way to {address[0]}")

    monkeypatch.setattr("camtrap_batch.model.architectures.getproxies", dict)
    monkeypatch.setattr("socket.create_connection", nowhere)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"resnet18: not in .*pytorch\.org can't be reached.*weights: none"):
        check_published("resnet18")
    with pytest.raises(InputError, match=r"resnet10t: not in .*can't be reached"):
        check_published("resnet10t")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    check_published("resnet18")
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: socket.socket())
    check_published("resnet34")


def test_normalisation_is_the_published_one() -> None:
    for arch, mean, std in (
        ("resnet34", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ):
        published = evaluation(arch)
        assert (published.mean, published.std) == (mean, std)
