from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from camtrap_batch.errors import InputError
from camtrap_batch.images import decode_upright
from camtrap_batch.model import Predictor, Samples, TrainResult, load_model, save_model, write_package
from camtrap_batch.model.architectures import create_model

Trained = tuple[Path, TrainResult, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def model(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of shapes, less sure of itself: so that confidences differ from photo to photo."""
    network, info = load_model(trained[0])
    parent = tmp_path_factory.mktemp("models")
    warmer = dataclasses.replace(info, temperature=6 * info.temperature)
    return parent / save_model(parent, network, warmer, trained[1].metrics, []).model_id


@pytest.fixture(scope="module")
def installed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ArcGIS has unpacked the package."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(io.BytesIO(write_package(model, "my cameras"))) as archive:
        archive.extractall(folder)
    return folder


def load(folder: Path) -> Any:
    """The raster function, as ArcGIS finds it: the class that is named as its file."""
    definition = json.loads(next(folder.glob("*.emd")).read_text())
    file = folder / definition["InferenceFunction"]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, file.stem)()


@pytest.fixture(scope="module")
def function(installed: Path) -> Any:
    found = load(installed)
    found.initialize(model=str(installed / "my_cameras.emd"), device=-1)
    found.getConfiguration(batch_size="8")
    return found


def classify(function: Any, rasters: list[Any], masks: list[Any] | None = None) -> list[dict[str, Any]]:
    masks = masks or [np.ones(raster.shape, np.uint8) for raster in rasters]
    answer = function.vectorize(rasters_pixels=tuple(rasters), rasters_mask=tuple(masks))
    features: list[dict[str, Any]] = json.loads(answer["output_vectors"])["features"]
    return features


def raster_of(data: bytes) -> Any:
    """A photo as ArcGIS reads it: all pixels, bands first."""
    pixels = decode_upright(data, 100_000)
    return np.moveaxis(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), -1, 0).copy()


def test_package_is_a_flat_zip_of_what_the_definition_names(model: Path) -> None:
    package = write_package(model, "my cameras")
    assert package == write_package(model, "my cameras")
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        names = archive.namelist()
        definition = json.loads(archive.read("my_cameras.emd"))
    assert names == [
        "my_cameras.emd",
        "my_cameras.pth",
        "CamtrapObjectClassifier.py",
        "model.json",
        "metrics.json",
    ]
    assert {definition["ModelFile"], definition["InferenceFunction"]} <= set(names)
    assert definition["ModelType"] == "ObjectClassification"
    assert [entry["Name"] for entry in definition["Classes"]] == ["cross", "disc", "frame"]
    assert [entry["Value"] for entry in definition["Classes"]] == [1, 2, 3]
    assert all(len(entry["Color"]) == 3 for entry in definition["Classes"])
    assert definition["CamtrapModelId"] == model.name
    assert "balanced accuracy" in definition["Description"]


def test_same_class_and_confidence_as_our_own_inference_on_real_photos(
    model: Path, function: Any, real_images: Path
) -> None:
    files = sorted(path for path in real_images.glob("*/*") if path.suffix.lower() == ".jpg")
    photos = [path.read_bytes() for path in files]
    assert len(photos) >= 9
    found = [feature["attributes"] for feature in classify(function, [raster_of(data) for data in photos])]
    classes = ("cross", "disc", "frame")
    exact = Predictor(model, "cpu", 1, precision=torch.float32).predict(photos)
    assert np.ptp(exact.max(1)) > 0.1  # they do differ
    assert [row["Label"] for row in found] == [classes[index] for index in exact.argmax(1)]
    confidences = np.array([row["Confidence"] for row in found])
    np.testing.assert_allclose(confidences, exact.max(1), atol=0.02)
    assert np.abs(confidences - exact.max(1)).mean() < 0.003
    # As it is used: in bfloat16 where the processor has it.
    usual = Predictor(model, "cpu", 1).predict(photos)
    assert [row["Label"] for row in found] == [classes[index] for index in usual.argmax(1)]
    np.testing.assert_allclose(confidences, usual.max(1), atol=0.05)


def test_arcgis_learns_what_it_needs_to_call_it(function: Any) -> None:
    parameters = {entry["name"]: entry for entry in function.getParameterInfo()}
    assert list(parameters) == ["rasters", "model", "device", "batch_size"]
    assert [name for name, entry in parameters.items() if entry["required"]] == ["rasters", "model"]
    assert all({"dataType", "displayName", "description"} <= set(entry) for entry in parameters.values())
    assert function.getConfiguration(batch_size="3") == {
        "extractBands": (0, 1, 2),
        "tx": 48,
        "ty": 48,
        "batch_size": 3,
        "CropSizeFixed": 0,
        "BlackenAroundFeature": 0,
        "dataRange": (0, 255),
        "inheritProperties": 14,
        "inputMask": True,
    }
    fields = {field["name"]: field["type"] for field in json.loads(function.getFields())["fields"]}
    assert fields == {
        "OID": "esriFieldTypeOID",
        "Confidence": "esriFieldTypeDouble",
        "Shape": "esriFieldTypeGeometry",
        "Label": "esriFieldTypeString",
    }
    assert function.getGeometryType() == 4


def test_rasters_of_any_size_and_kind(function: Any, samples: Samples) -> None:
    raster = raster_of(samples.jpegs[0])
    grey = np.rint(raster.mean(0, keepdims=True)).astype(np.uint8)
    rasters = [
        raster,
        raster.astype(np.float32),
        np.concatenate([raster, raster[:1]]),  # near infrared as a fourth band
        np.repeat(raster, 2, axis=2),
        grey,
        np.repeat(grey, 3, axis=0),
    ]
    found = classify(function, rasters)
    assert [feature["attributes"]["OID"] for feature in found] == [1, 2, 3, 4, 5, 6]
    assert {feature["attributes"]["Label"] for feature in found} == {"cross"}
    first, as_float, four_bands, wide, one_band, three_bands = (
        row["attributes"]["Confidence"] for row in found
    )
    assert first == as_float == four_bands
    assert wide == pytest.approx(first, abs=0.1)
    assert one_band == three_bands
    assert found[3]["geometry"]["rings"] == [[[0, 0], [191, 0], [191, 71], [0, 71], [0, 0]]]


def test_pixels_outside_the_mask_do_not_count(function: Any, samples: Samples) -> None:
    raster = raster_of(samples.jpegs[1])
    mask = np.zeros(raster.shape, np.uint8)
    mask[:, 20:50, 20:60] = 1
    blackened = np.where(mask == 0, 0, raster)
    other = np.where(mask == 0, 255, raster)
    one, two, plane = classify(function, [blackened, other, other], [mask, mask, mask[:1]])
    assert one["attributes"]["Confidence"] == two["attributes"]["Confidence"]
    assert one["attributes"]["Confidence"] == plane["attributes"]["Confidence"]
    assert (other == 255).any()  # what it was given is left as it was


def test_definition_as_text_and_no_rasters(installed: Path) -> None:
    found = load(installed)
    found.initialize(model=(installed / "my_cameras.emd").read_text())
    assert classify(found, []) == []
    with pytest.raises(ValueError, match=r"path of an \.emd file"):
        found.initialize(model="nowhere.emd")


def test_it_needs_neither_this_package_nor_arcgis(installed: Path) -> None:
    code = f"""
import sys
for name in ("camtrap_batch", "arcgis", "arcpy", "fastai", "timm", "safetensors", "simplejpeg", "sklearn"):
    sys.modules[name] = None
sys.path.insert(0, {str(installed)!r})
import numpy as np
from CamtrapObjectClassifier import CamtrapObjectClassifier
function = CamtrapObjectClassifier()
function.initialize(model={str(installed / "my_cameras.emd")!r}, device=-2)
raster = np.zeros((3, 60, 80), np.uint8)
print(function.vectorize(rasters_pixels=(raster,), rasters_mask=(raster + 1,))["output_vectors"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=installed
    )
    assert json.loads(done.stdout)["features"][0]["attributes"]["Label"] in ("cross", "disc", "frame")


@pytest.mark.parametrize(("arch", "size"), [("test_vit", 96), ("googlenet", 64)])
def test_networks_with_options_are_built_alike(
    arch: str, size: int, trained: Trained, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    info = dataclasses.replace(load_model(trained[0])[1], arch=arch, size=size, temperature=0.05)
    saved = save_model(tmp_path, create_model(arch, 3, size=size).eval(), info, {}, [])
    with zipfile.ZipFile(io.BytesIO(write_package(tmp_path / saved.model_id, arch))) as archive:
        archive.extractall(tmp_path / "installed")
    function = load(tmp_path / "installed")
    function.initialize(model=str(tmp_path / "installed" / f"{arch}.emd"), device=-1)
    photo = (np.random.default_rng(0).random((size, size, 3)) * 255).astype(np.uint8)
    (found,) = classify(function, [np.moveaxis(photo, -1, 0)])
    png = io.BytesIO()
    Image.fromarray(photo).save(png, "PNG")
    ours = Predictor(tmp_path / saved.model_id, "cpu", 1, precision=torch.float32).predict([png.getvalue()])
    assert found["attributes"]["Confidence"] == pytest.approx(float(ours.max()), abs=1e-4)
    assert found["attributes"]["Label"] == info.classes[int(ours.argmax())]


def test_an_architecture_that_arcgis_lacks_needs_no_library(trained: Trained, tmp_path: Path) -> None:
    """It goes as TorchScript: timm is not even there."""
    info = dataclasses.replace(load_model(trained[0])[1], arch="test_resnet", size=64)
    saved = save_model(tmp_path, create_model("test_resnet", 3, size=64).eval(), info, {}, [])
    with zipfile.ZipFile(io.BytesIO(write_package(tmp_path / saved.model_id, "theirs"))) as archive:
        archive.extractall(tmp_path / "installed")
        definition = json.loads(archive.read("theirs.emd"))
    assert definition["ModelParameters"]["library"] == "torchscript"
    code = """
import sys
sys.modules["timm"] = None
import numpy as np, CamtrapObjectClassifier as module
function = module.CamtrapObjectClassifier()
function.initialize(model="theirs.emd", device=-1)
rasters = tuple(np.full((3, 70, 50), n, np.uint8) for n in (3, 90, 200))
print(function.vectorize(rasters_pixels=rasters)["output_vectors"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path / "installed",
    )  # fmt: skip
    assert len(json.loads(done.stdout)["features"]) == 3


@pytest.mark.parametrize("library", ["torch", "torchvision"])
def test_libraries_that_are_too_old_are_told(
    installed: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    definition = json.loads((installed / "my_cameras.emd").read_text())
    assert definition["ModelParameters"]["least"] == {"torch": "1.13", "torchvision": "0.14"}
    function = load(installed)
    before = {"torch": "1.12.1+cu116", "torchvision": "0.13"}[library]
    for found, is_old in (("0.9.1", True), (before, True), ("2.0", False)):
        monkeypatch.setattr(f"{library}.__version__", found)
        if is_old:
            with pytest.raises(RuntimeError, match=rf"needs {library} .* or newer, ArcGIS has {found[:4]}"):
                function.initialize(model=str(installed / "my_cameras.emd"), device=-1)
        else:
            function.initialize(model=str(installed / "my_cameras.emd"), device=-1)


def test_what_can_not_be_torchscript_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(load_model(trained[0])[1], arch="test_resnet", size=64)
    saved = save_model(tmp_path, create_model("test_resnet", 3, size=64).eval(), info, {}, [])

    class Stubborn(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_full((len(images), 3), float(len(images)))  # depends on how many there are

    monkeypatch.setattr("camtrap_batch.model.dlpk.load_model", lambda folder: (Stubborn(), info))
    with pytest.raises(InputError, match="do not have test_resnet, and it can't be TorchScript: TorchScr"):
        write_package(tmp_path / saved.model_id, "theirs")


@pytest.mark.skipif(
    importlib.metadata.version("fastai") >= "2",
    reason="arcgis.learn 2.4 needs fastai 1, and can't be imported to any use beside fastai 2",
)
def test_arcgis_learn_finds_the_definition(model: Path, tmp_path: Path) -> None:
    from arcgis.learn._utils.common import _get_emd_path

    (tmp_path / "shapes.dlpk").write_bytes(write_package(model, "shapes"))
    definition = json.loads(Path(_get_emd_path(tmp_path / "shapes.dlpk")).read_text())
    assert definition["CamtrapModelId"] == model.name


@pytest.mark.parametrize("resize", ["crop", "letterbox", "squash"])
def test_raster_function_sees_what_a_published_model_was_evaluated_on(
    model: Path, tmp_path: Path, resize: str
) -> None:
    network, info = load_model(model)
    how = dataclasses.replace(info, resize=resize, crop_pct=0.8, interpolation="bicubic")
    folder = tmp_path / save_model(tmp_path, network, how, {}, []).model_id
    with zipfile.ZipFile(io.BytesIO(write_package(folder, "theirs"))) as archive:
        archive.extractall(tmp_path / "installed")
    function = load(tmp_path / "installed")
    function.initialize(model=str(tmp_path / "installed" / "theirs.emd"), device=-1)
    random = np.random.default_rng(2)
    photos = []
    for height, width in [(120, 200), (200, 120)]:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
        photos.append(file.getvalue())
    answers = Predictor(folder, "cpu", precision=torch.float32).predict(photos)
    features = classify(function, [raster_of(photo) for photo in photos])
    found = [feature["attributes"]["Confidence"] for feature in features]
    assert found == pytest.approx(answers.max(1).tolist(), abs=1e-4)


def test_pictures_that_the_raster_function_can_not_make_are_refused(model: Path, tmp_path: Path) -> None:
    network, info = load_model(model)
    how = dataclasses.replace(info, antialias=False)
    folder = tmp_path / save_model(tmp_path, network, how, {}, []).model_id
    with pytest.raises(InputError, match="without antialias"):
        write_package(folder, "theirs")
