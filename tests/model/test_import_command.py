"""camtrap model import: what is written answers as the library's own network does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from camtrap_batch.cli import main
from camtrap_batch.images.framing import Framing
from camtrap_batch.model import import_model, load_model, read_info
from camtrap_batch.model.architectures import Evaluation, create_model
from camtrap_batch.rehearsal import write_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos to compare on."""
    return write_dataset(tmp_path_factory.mktemp("drawn"), cameras=6, images=24, broken=False).images


@pytest.fixture(scope="module")
def undecided(drawn: Path) -> dict[str, torch.Tensor]:
    """A network of three classes that sees something else in each photo, and is not sure of it."""
    torch.manual_seed(1)
    network = create_model("shufflenet_v2_x0_5", 3).eval()
    transform: Any = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.transforms()
    head, network.fc = network.fc, torch.nn.Identity()
    with torch.inference_mode():
        photos = torch.stack([transform(Image.open(path)) for path in sorted(drawn.rglob("*.jpg"))])
        features = network(photos)
        shift, scale = features.mean(0), features.std(0) + 1e-9
        head.weight /= scale
        head.bias -= head.weight @ shift
        answers = torch.softmax(head(features), 1)
    assert len(set(answers.argmax(1).tolist())) > 1
    assert answers.max(1).values.median() < 0.99
    network.fc = head
    return network.state_dict()


@pytest.fixture
def weights(undecided: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(undecided, tmp_path / "theirs.pth")
    (tmp_path / "labels.txt").write_text("empty\nlion\nheron\n")
    return tmp_path / "theirs.pth"


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["model", "import", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_network_of_torchvision(
    weights: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "model"
    options = ["torchvision", "shufflenet_v2_x0_5", str(weights), "--classes", str(labels), "--out", str(out)]
    assert main(["model", "import", *options, "--pictures", str(drawn)]) == 0
    network, info = load_model(out)
    assert info.classes == ("empty", "lion", "heron")
    assert (info.resize, round(info.crop_pct, 3), info.interpolation) == ("crop", 0.875, "bilinear")
    assert info.provenance["library"] == "torchvision"
    assert torch.equal(network.state_dict()["fc.weight"], torch.load(weights)["fc.weight"])
    text = capsys.readouterr().out
    assert info.model_id in text
    assert re.search(r"the original's top class on 2[34] of 24 pictures, confidence 0\.0[0-2]", text)
    assert "already exists" in refused(capsys, *options)


def test_a_name_that_both_libraries_have_is_timms_where_it_is_asked_for(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(2)
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "model"
    assert main(["model", "import", "timm", "resnet18", str(tmp_path / "theirs.pth"), "--out", str(out)]) == 0
    info = read_info(out)
    assert info.arch == f"resnet18.{timm.get_pretrained_cfg('resnet18').tag}"
    assert info.interpolation == timm.get_pretrained_cfg("resnet18").interpolation
    assert len(set(info.classes)) == 1000
    assert info.classes[0] == "tench"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "shufflenet_v2_x0_6"}, "did you mean 'shufflenet_v2_x0_5'"),
        ({"labels": "lion\nlion\nheron"}, "more than once: 'lion'"),
        ({"labels": "lion\nheron"}, "fc.weight has shape (3, 1024), should have (2, 1024)"),
        ({"labels": "lion\n\nheron"}, "label 2 should be text"),
        ({"labels": "[1, 2]"}, "label 1 should be text, it is 1"),
        ({"file": "nothing.pth"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    (tmp_path / "labels.txt").write_text(change.get("labels", "empty\nlion\nheron"))
    line = refused(
        capsys,
        "torchvision",
        change.get("name", "shufflenet_v2_x0_5"),
        str(tmp_path / change.get("file", weights.name)),
        "--classes",
        str(tmp_path / "labels.txt"),
        "--out",
        str(tmp_path / "model"),
    )
    assert words in line
    assert not (tmp_path / "model").exists()


def test_an_import_that_answers_otherwise_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    # As it was before: every picture squeezed, whatever the network was evaluated with.
    monkeypatch.setattr(
        "camtrap_batch.model.imports.evaluation",
        lambda arch, size=None: Evaluation(Framing(64)),
    )
    line = refused(
        capsys,
        "torchvision",
        "shufflenet_v2_x0_5",
        str(weights),
        "--classes",
        str(tmp_path / "labels.txt"),
        "--out",
        str(tmp_path / "model"),
    )
    assert "does not answer as the original does" in line
    assert not (tmp_path / "model").exists()


def test_a_network_inside_another_with_how_pictures_were_prepared(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As DeepFaune saves its weights: below a name, at another size, beside torchvision's transforms."""
    import timm
    from torchvision import transforms

    torch.manual_seed(4)
    arch = "vit_small_patch14_dinov2.lvd142m"
    network = timm.create_model(arch, pretrained=False, num_classes=3, dynamic_img_size=True)
    network.pos_embed.data.normal_(std=0.5)  # else it would not matter where a patch is
    prepared = transforms.Compose(
        [
            transforms.Resize((98, 98), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])),
        ]
    )
    state = {f"base_model.{name}": value for name, value in network.state_dict().items()}
    file = tmp_path / "deepfaune.pt"
    torch.save({"args": {"transforms": prepared, "seen": {1, 2}}, "state_dict": state}, file)
    (tmp_path / "labels.txt").write_text("badger\nibex\nlynx\n")
    command = ["model", "import", "timm", arch, str(file), "--classes", str(tmp_path / "labels.txt")]
    seen = ["--size", "98", "--resize", "squash", "--interpolation", "bicubic", "--crop-pct", "1"]
    out = tmp_path / "model"
    assert main([*command, *seen, "--out", str(out), "--pictures", str(drawn)]) == 0
    info = read_info(out)
    assert info.framing == Framing(98, "squash", 1.0, "bicubic")
    assert load_model(out)[0].pos_embed.shape == (1, 7 * 7 + 1, 384)  # type: ignore[union-attr]
    text = capsys.readouterr().out
    assert re.search(r"the original's top class on 2[34] of 24 pictures, confidence 0\.0[0-2]", text)


def test_what_the_last_layer_reads_has_to_be_said(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of DINOv3 fit a network that reads the class token, and one that reads the mean."""
    timm = pytest.importorskip("timm")
    arch = "vit_tiny_patch16_dinov3_qkvb"
    if arch not in timm.list_models():
        pytest.skip("this timm has no DINOv3")
    torch.manual_seed(1)
    theirs = timm.create_model(arch, num_classes=3, global_pool="token").eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pt")
    (tmp_path / "labels.txt").write_text("empty\nlion\nheron\n")
    out = tmp_path / "out"
    command = ["timm", arch, str(tmp_path / "theirs.pt"), "--classes", str(tmp_path / "labels.txt")]
    command += ["--size", "64", "--out", str(out)]
    assert "may read the class token" in (said := refused(capsys, *command))
    assert said.endswith("say which it was trained with, pool: token or avg (--pool)")
    assert main(["model", "import", *command, "--pool", "token", "--pictures", str(drawn)]) == 0
    assert read_info(out).pool == "token"
    network, _ = load_model(out)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), theirs(images))
    card = json.loads((out / "model.json").read_text())
    assert card["pool"] == "token"
    # Of networks that have no class token.
    torch.save(create_model("test_resnet", 3, size=64).state_dict(), tmp_path / "theirs.pt")
    command[1] = "test_resnet"
    assert "can't be built with the pool 'token'" in refused(capsys, *command[:-1], "x", "--pool", "token")


def test_a_pool_that_is_not_said_changes_no_card(undecided: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(undecided, tmp_path / "weights.pth")
    (tmp_path / "model.json").write_text('{"arch": "shufflenet_v2_x0_5", "classes": ["a", "b", "c"]}')
    info = import_model(tmp_path, tmp_path / "models")
    assert "pool" not in json.loads((tmp_path / "models" / info.model_id / "model.json").read_text())


def test_classes_and_licence_as_timm_has_them(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a network with the classes of ImageNet-12k, whose weights are not downloaded here."""
    timm = pytest.importorskip("timm")
    made = timm.create_model("test_resnet", num_classes=11821).eval().state_dict()
    made["fc.bias"][7] = 5.0  # else a near tie of thousands
    published = replace(timm.get_pretrained_cfg("test_resnet"), num_classes=11821, license="cc-by-nc-4.0")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: published)
    monkeypatch.setattr("camtrap_batch.model.importers.published.published_state", lambda *_: made)
    out = tmp_path / "out"
    command = ["model", "import", "timm", "test_resnet", "--out", str(out), "--pictures", str(drawn)]
    assert main(command) == 0
    assert "licence of the weights, as timm says: cc-by-nc-4.0" in capsys.readouterr().out
    info = read_info(out)
    assert len(set(info.classes)) == 11821
    assert info.provenance["licence"] == "cc-by-nc-4.0"
