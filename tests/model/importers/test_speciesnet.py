"""camtrap model import speciesnet: a small network of SpeciesNet's structure, saved as its package does."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps
from support_onnx import export
from torch import nn

from camtrap_batch.detection.crops import Picture
from camtrap_batch.errors import InputError
from camtrap_batch.model import Predictor
from camtrap_batch.model.importers import speciesnet
from camtrap_batch.model.importers.speciesnet import (
    Taxon,
    is_allowed,
    labels_of,
    write_species,
    write_taxonomy,
)
from camtrap_batch.model.imports import import_onnx_folder

LABELS = """\
1a;mammalia;carnivora;felidae;panthera;leo;lion
2a;mammalia;carnivora;felidae;;;cat family
3a;;;;;;blank
4a;mammalia;primates;hominidae;homo;sapiens;human
5a;mammalia;carnivora;felidae;panthera;pardus;leopard
6a;aves;;;;;bird
"""
FENCE = {
    "mammalia;carnivora;felidae;panthera;leo": {"allow": {"TZA": [], "USA": ["CA"]}},
    "mammalia;carnivora;felidae;panthera;pardus": {"block": {"USA": ["CA"], "FRA": []}},
}
WEIGHTS = "always_crop_1_epoch_1.pt"


class Small(nn.Module):
    """Channels last, values 0 to 1, as SpeciesNet's network, which was made by TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 8, 7, 8), nn.SiLU(), nn.Conv2d(8, 16, 3, 4), nn.BatchNorm2d(16), nn.SiLU()
        )
        self.head = nn.Linear(16, 6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.convolutions(pixels.permute(0, 3, 1, 2) * 2 - 1)
        return self.head(features.mean((2, 3)))


def write_folder(folder: Path, kind: str = "always_crop", photos: list[Path] | None = None) -> Path:
    onnx2torch = pytest.importorskip("onnx2torch", reason="SpeciesNet's own converter is not installed")
    import onnx

    folder.mkdir()
    torch.manual_seed(3)
    network = Small().train()
    for path in photos or []:  # statistics and a head with which it sees something else in each photo
        network(_pixels(path))
    network.eval()
    if photos:
        with torch.inference_mode():
            head = network.head
            network.head = nn.Identity()  # type: ignore[assignment]
            features = torch.cat([network(_pixels(path)) for path in photos])
            head.weight *= 3 / (features.std(0) + 1e-6)
            head.bias.copy_(-head.weight @ features.mean(0))
            network.head = head
            for path, most in zip(photos, torch.softmax(head(features), 1).topk(2).values, strict=True):
                if most[0] - most[1] < 0.05:  # a near tie, which the rounding of another resize decides
                    path.unlink()
    export(network, torch.zeros(1, 480, 480, 3), folder / "x.onnx", {0: "n"})
    torch.save(onnx2torch.convert(onnx.load(folder / "x.onnx")).eval(), folder / WEIGHTS)
    (folder / "x.onnx").unlink()
    for name in ("labels.txt", "taxonomy_release.txt"):
        (folder / name).write_text(LABELS)
    (folder / "geofence.json").write_text(json.dumps(FENCE))
    write_info(folder, type=kind)
    return folder


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB").resize((480, 480))))[None] / 255


def write_info(folder: Path, **changes: Any) -> None:
    info = {
        "version": "4.0.2a",
        "type": "always_crop",
        "classifier": WEIGHTS,
        "classifier_labels": "labels.txt",
        "detector": "https://example.org/md_v5a.0.0.pt",
        "taxonomy": "taxonomy_release.txt",
        "geofence": "geofence.json",
        **changes,
    }
    (folder / "info.json").write_text(json.dumps({k: v for k, v in info.items() if v is not None}))


@pytest.fixture(scope="module")
def photos(real_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At least eight of the real photos, none of them cut off; `theirs` takes those out that it ties on."""
    folder = tmp_path_factory.mktemp("photos")
    some = sorted(path for path in real_images.rglob("*") if path.suffix.lower() == ".jpg")
    some = [path for path in some if "truncated" not in path.name]
    for number, path in enumerate(some[:: max(1, len(some) // 8)]):
        shutil.copy(path, folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    return write_folder(tmp_path_factory.mktemp("speciesnet") / "4.0.2a", photos=sorted(photos.iterdir()))


@pytest.fixture(scope="module")
def imported(theirs: Path, tmp_path_factory: pytest.TempPathFactory, photos: Path) -> tuple[Path, str]:
    assert len(list(photos.iterdir())) >= 5
    out = tmp_path_factory.mktemp("imported") / "speciesnet"
    command = ["model", "import", "speciesnet", str(theirs), "--country", "usa-ca", "--out", str(out)]
    ended = subprocess.run(
        [sys.executable, "-m", "camtrap_batch", *command, "--pictures", str(photos)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    return out, ended.stdout + ended.stderr


def test_it_says_what_it_does_and_what_it_compared(imported: tuple[Path, str]) -> None:
    _, said = imported
    assert f"{WEIGHTS}: loading it runs the code in it; this is done now, in a separate process" in said
    found = re.search(r"top class on (\d+) of (\d+) pictures", said)
    assert found
    assert found[1] == found[2]
    assert "allows 5 of 6 classes in USA-CA" in said
    assert "detector that it is used with: https://example.org/md_v5a.0.0.pt" in said
    assert "species.csv}" in said


def test_the_folder_answers_as_the_network_does(
    imported: tuple[Path, str], theirs: Path, photos: Path, tmp_path: Path
) -> None:
    """Whole pictures, and boxes cut out as its package cuts them."""
    out, _ = imported
    info = import_onnx_folder(out, None, tmp_path)
    assert info.classes == ("panthera leo", "felidae", "blank", "human", "panthera pardus", "aves")
    predictor = Predictor(tmp_path / info.model_id, "cpu", precision=torch.float32)
    network = torch.load(theirs / WEIGHTS, weights_only=False)
    box = (0.301, 0.402, 0.25, 0.333)
    tops = set()
    for path in sorted(photos.iterdir()):
        (ours,) = predictor.classify([Picture(path.read_bytes(), [box])])
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            width, height = image.size
            left, top = int(box[0] * width), int(box[1] * height)
            right, bottom = left + int(box[2] * width), top + int(box[3] * height)
            pixels = torch.from_numpy(np.array(image.convert("RGB")))[top:bottom, left:right]
        small = nn.functional.interpolate(
            pixels.permute(2, 0, 1)[None].float(), (480, 480), mode="bilinear", antialias=False
        )
        with torch.inference_mode():
            wanted = torch.softmax(network(small.round().permute(0, 2, 3, 1) / 255), 1)[0].numpy()
        assert isinstance(ours, np.ndarray)
        np.testing.assert_allclose(ours[0], wanted, atol=0.01)
        tops.add(int(wanted.argmax()))
    assert len(tops) > 1  # else it would say nothing


def test_taxonomy_and_geofence_are_files_of_a_job(imported: tuple[Path, str]) -> None:
    out, _ = imported
    with (out / "taxonomy.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert rows["panthera leo"] == {
        "label": "panthera leo", "genus": "panthera", "family": "felidae", "order": "carnivora",
        "class": "mammalia",
    }  # fmt: skip
    assert set(rows) == {"panthera leo", "panthera pardus", "felidae", "aves"}  # no blank, no people
    # Not felidae, which would stand for the leopard as well: it is possible where a cat is.
    assert (out / "species.csv").read_text().split("\n")[1:-1] == ["panthera leo", "blank", "human", "aves"]


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        (("TZA", None), {"leo", "pardus"}),
        (("USA", None), {"leo", "pardus"}),
        (("USA", "CA"), {"leo"}),
        (("USA", "NY"), {"pardus"}),
        (("FRA", None), set()),
        (("DEU", None), {"pardus"}),
    ],
)
def test_what_the_geofence_allows(place: tuple[str, str | None], allowed: set[str]) -> None:
    """As should_geofence_animal_classification of speciesnet 5.0.6 has it."""
    taxa = [Taxon.of(line) for line in LABELS.splitlines()]
    found = {taxon.ranks[4] for taxon in taxa if is_allowed(FENCE, taxon, *place)} - {"", "sapiens"}
    assert found == allowed


def test_labels_are_all_different_and_groups_in_one_other(tmp_path: Path) -> None:
    lines = [
        "1;mammalia;rodentia;sciuridae;sciurus;vulgaris;red squirrel",
        "2;mammalia;rodentia;sciuridae;sciurus;vulgaris;squirrel of the north",
        "3;mammalia;rodentia;;sciurus;niger;fox squirrel",
        "4;aves;rodentia;;;;a bird by mistake",
        "5;mammalia;rodentia;;;;rodent",
    ]
    taxa = [Taxon.of(line) for line in lines]
    labels = labels_of(taxa)
    assert labels[:3] == [
        "sciurus vulgaris (red squirrel)", "sciurus vulgaris (squirrel of the north)", "sciurus niger",
    ]  # fmt: skip
    assert len(set(labels)) == 5
    assert write_taxonomy(tmp_path / "t.csv", taxa, labels) == 2  # which also reads it
    with (tmp_path / "t.csv").open() as file:
        assert [row["family"] for row in csv.DictReader(file)] == ["sciuridae"] * 3 + [""] * 2
    assert write_species(tmp_path / "s.csv", taxa, labels, taxa[:3]) == 3


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"type": "half_image"}, "info.json: type 'half_image' is not known; .*always_crop, full_image"),
        ({"geofence": None}, "info.json: should have geofence"),
        ({"classifier": "other.pt"}, "other.pt: no such file, which info.json names as classifier"),
    ],
)
def test_a_folder_that_is_not_speciesnets(tmp_path: Path, info: dict[str, Any], words: str) -> None:
    for name in (WEIGHTS, "labels.txt", "taxonomy_release.txt", "geofence.json"):
        (tmp_path / name).write_text("")
    write_info(tmp_path, **info)
    with pytest.raises(InputError, match=words):
        speciesnet.read_folder(tmp_path)


def refused(folder: Path, scratch: Path, **given: Any) -> str:
    scratch.mkdir()
    pictures = [simplejpeg.encode_jpeg(np.zeros((48, 64, 3), np.uint8))] * 2
    with pytest.raises(InputError) as problem:
        speciesnet.IMPORT.run({"folder": folder, "country": None, "python": None, **given}, pictures, scratch)
    assert problem.value.exit_code == 2
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_what_does_not_fit(theirs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    assert "no such file; should be the folder of a SpeciesNet" in refused(tmp_path, tmp_path / "a")
    assert "has no FRB; did you mean 'FRA'?" in refused(theirs, tmp_path / "b", country="FRB")
    assert "should be three letters" in refused(theirs, tmp_path / "c", country="France")
    shutil.copytree(theirs, folder)
    (folder / "labels.txt").write_text("lion\n")
    assert "labels.txt:1: 'lion' should be uuid;class;order" in refused(folder, tmp_path / "d")
    (folder / "labels.txt").write_text(LABELS + "7a;aves;;;;;another\n")
    assert "has 7 labels, and the network 6 outputs" in refused(folder, tmp_path / "e")
    torch.save({"epoch": 3}, folder / WEIGHTS)
    assert f"{WEIGHTS}: should hold a network of torch" in refused(folder, tmp_path / "f")
    assert "no-python: can't be run: No such file" in refused(folder, tmp_path / "g", python="/no-python")


def test_a_package_that_is_missing_is_named(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python in which onnx2torch can't be imported."""
    (tmp_path / "onnx2torch").mkdir()
    (tmp_path / "onnx2torch" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named onnx2torch', name='onnx2torch')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = refused(theirs, tmp_path / "a")
    assert "needs the package 'onnx2torch'" in line
    assert "pip install onnx2torch" in line
