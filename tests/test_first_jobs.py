"""The jobs of docs/first_jobs.md, each as it stands there, up to where a trained model would be needed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import yaml
from support_onnx import spot_detector

import camtrap_batch
from camtrap_batch.cli import main

DOCS = Path(__file__).parents[1] / "docs" / "first_jobs.md"
NAMES = [
    f"CAM{camera}/{species}/{n}.jpg" for camera in (1, 2, 3) for species in ("fox", "badger") for n in (1, 2)
]


def jobs() -> dict[str, str]:
    """Name of each job -> its text."""
    blocks = re.findall(r"(?:^    .*\n)+", DOCS.read_text(), re.MULTILINE)
    texts = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]
    return {yaml.safe_load(text)["name"]: text for text in texts}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camtrap_dp_example: Path) -> Path:
    """Everything that the jobs name but a model and a layer."""
    for number, name in enumerate(NAMES):
        pixels = np.full((96, 128, 3), 20 + number, np.uint8)
        pixels[32:48, 16:32] = 220
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(simplejpeg.encode_jpeg(pixels))
    images = [{"id": name, "file_name": name, "location": name[:4]} for name in NAMES]
    marks = [{"image_id": name, "category_id": 1 + ("badger" in name)} for name in NAMES]
    categories = [{"id": 1, "name": "fox"}, {"id": 2, "name": "badger"}]
    cct = {"images": images, "annotations": marks, "categories": categories}
    (tmp_path / "metadata.json").write_text(json.dumps(cct))
    rows = "".join(f"{name},{name.split('/')[1]},{name[:4]}\n" for name in NAMES)
    (tmp_path / "images.csv").write_text(f"file_name,species,station\n{rows}")
    box = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.2, 0.2]}
    results = {
        "info": {"format_version": "1.5"},
        "detection_categories": {"1": "animal"},
        "images": [{"file": name, "detections": [box]} for name in NAMES],
    }
    (tmp_path / "md_results.json").write_text(json.dumps(results))
    spot_detector(tmp_path / "detector.onnx")
    shutil.copytree(camtrap_dp_example, tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(here: Path, name: str) -> Path:
    text = jobs()[name]
    assert len(text.splitlines()) <= 5
    (here / "job.yaml").write_text(text)
    return here / "job.yaml"


def rows(job: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = camtrap_batch.open_run(job).table(table).to_table().to_pylist()
    return found


def do(job: Path, *stages: str) -> None:
    for stage in stages:
        assert main([stage, str(job), "--cluster", "inline", "--quiet"]) == 0


def test_each_is_tried() -> None:
    assert set(jobs()) == {
        *("sorted", "unsorted", "found", "results", "coco", "table", "package", "layer"),
    }


@pytest.mark.parametrize("name", ["sorted", "coco", "table"])
def test_images_with_labels(here: Path, name: str) -> None:
    job = write(here, name)
    do(job, "catalog", "validate", "select")
    found = {row["file_name"]: (row["location"], row["labels"][0]["name"]) for row in rows(job, "catalog")}
    assert found == {path: (path[:4], path.split("/")[1]) for path in NAMES}
    assert {row["status"] for row in rows(job, "manifest")} == {"ok"}
    assert {row["reason"] for row in rows(job, "selection")} == {"kept"}


@pytest.mark.parametrize("name", ["unsorted", "found", "results"])
def test_images_and_what_others_know(here: Path, name: str) -> None:
    job = write(here, name)
    do(job, "catalog", "validate", *(["detect"] if name != "unsorted" else []))
    assert {row["location"] for row in rows(job, "catalog")} == {"CAM1", "CAM2", "CAM3"}
    if name != "unsorted":
        boxes = [box for box in rows(job, "detections") if box["confidence"] > 0.5]
        assert [box["image_id"] for box in boxes] == [row["image_id"] for row in rows(job, "manifest")]


def test_a_model_that_is_not_there_is_told_before_anything_is_done(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reprocess", str(write(here, "unsorted")), "--cluster", "inline"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert "my-model" in told[-1]
    assert "infer.model" in told[-1]
    assert not (here / "runs").exists()


def test_a_data_package(here: Path) -> None:
    job = write(here, "package")
    do(job, "catalog")
    assert len(rows(job, "catalog")) == 423


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL of a layer with a photo at each of two points, and of its portal."""
    pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")
    from camtrap_batch.portal import Portal, Service, connect
    from camtrap_batch.rehearsal.layerserver import LayerServer
    from camtrap_batch.targets.arcgis.attach import Attacher, Photo

    with LayerServer(tmp_path_factory.mktemp("portal")) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
            service = Service(connect(Portal(server.url)))
            definition = {"name": "cameras", "geometryType": "esriGeometryPoint", "hasAttachments": True}
            names = (("id", "OID"), ("g", "GlobalID"))
            fields = [{"name": name, "type": f"esriFieldType{kind}"} for name, kind in names]
            server.create_service("open", [definition | {"fields": fields}], anonymous="read")
            url = server.layer_url(0, "open")
            adds = [{"geometry": {"x": 10.0 * n, "y": 5.0}, "attributes": {}} for n in (1, 2)]
            service.send(f"{url}/applyEdits", {"adds": adds})
            data = simplejpeg.encode_jpeg(np.full((96, 128, 3), 90, np.uint8))
            photos = {str(n): [Photo("a.jpg", len(data), lambda: data)] for n in (1, 2)}
            assert Attacher(service, url, one_feature=True).attach(photos).attached == 2
        yield url, server.url


def test_a_layer(here: Path, layer: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    job = write(here, "layer")
    content = yaml.safe_load(job.read_text())
    content["dataset"] |= {"metadata": layer[0], "layer": {"portal": layer[1], "anonymous": True}}
    job.write_text(yaml.safe_dump(content))
    do(job, "catalog", "validate")
    assert [row["status"] for row in rows(job, "manifest")] == ["ok", "ok"]


def test_init_on_a_layer(
    here: Path, layer: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its portal, and that everybody may read it, are told by its server."""
    monkeypatch.setenv("HOME", str(here))
    assert main(["init", layer[0], "--out", "new.yaml"]) == 0
    told = capsys.readouterr().out
    assert "its name is 'cameras'; everybody can read it" in told
    assert "2 images of 2 camera locations" in told
    dataset = yaml.safe_load((here / "new.yaml").read_text())["dataset"]
    assert dataset == {
        "format": "feature-layer",
        "metadata": layer[0],
        "layer": {"portal": layer[1], "anonymous": True},
    }
    do(here / "new.yaml", "catalog", "validate")
    assert main(["init", layer[0].replace("/open/", "/none/"), "--out", "none.yaml"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["init", "http://127.0.0.1:1/rest/services/a/FeatureServer/0", "--out", "none.yaml"]) == 2
    assert "no feature server answers there (camtrap init)" in capsys.readouterr().err


def test_a_dry_run_does_not_take_later_stages_for_done(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write(here, "sorted")
    job.write_text(job.read_text() + "infer: {model: none}\n")
    do(job, "reprocess")
    capsys.readouterr()

    def told() -> dict[str, list[str]]:
        assert main(["reprocess", str(job), "--cluster", "inline", "--dry-run"]) == 0
        of: dict[str, list[str]] = {}
        for line in "".join(capsys.readouterr()).splitlines():
            of.setdefault(line.split()[0] if line[:1].strip() else list(of)[-1], []).append(line)
        return of

    assert all("nothing to do" in lines[0] for lines in told().values())
    shutil.copy(here / "photos" / NAMES[0], here / "photos" / "CAM1" / "fox" / "new.jpg")
    after = told()
    assert "would be written" in " ".join(after["catalog"])
    for stage in ("validate", "infer", "merge", "report"):
        assert "nothing to do" not in " ".join(after[stage])
        assert "what catalog will change can't be said yet" in " ".join(after[stage])


def test_a_dry_run_of_a_job_that_would_stop_at_once_is_not_all_right(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write(here, "sorted")
    job.write_text(job.read_text().replace("images: photos", "images: nowhere") + "infer: {model: none}\n")
    assert main(["reprocess", str(job), "--cluster", "inline", "--dry-run"]) == 2
    told, wrong = capsys.readouterr()
    assert "report" in told + wrong  # what can be said of the later stages is still said
    assert "nowhere: no such folder (dataset.images)" in wrong.splitlines()[-1]
