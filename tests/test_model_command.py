"""camtrap model, and infer.model with a folder from elsewhere."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from support_portal import TOKEN, serve_portal

pytest.importorskip("torch", reason="the extra 'train' is not installed")

from camtrap_batch import Job, Run
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.model import ModelInfo, load_model, save_model
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.library import open_model

INFO = ModelInfo(
    model_id="",
    arch="shufflenet_v2_x0_5",
    classes=("empty", "lion"),
    category_ids=((0,), (90,)),
    size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    temperature=1.7,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a job file, its run folder with one model, and its images."""
    (tmp_path / "images").mkdir()
    torch.manual_seed(0)
    saved = save_model(tmp_path / "run" / "models", create_model(INFO.arch, 2, size=64), INFO, {}, [])
    job = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "folder", "images": "images"},
        "infer": {"model": saved.model_id},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    return tmp_path


def camtrap(folder: Path, action: str, *options: str) -> int:
    return main(["model", action, str(folder / "job.yaml"), *options])


def refused(capsys: pytest.CaptureFixture[str], folder: Path, action: str, *options: str) -> str:
    assert camtrap(folder, action, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "lions.dlpk"
    assert camtrap(folder, "export", "--to", "dlpk", "--out", str(out)) == 0
    assert "(shufflenet_v2_x0_5, 2 classes) written to" in capsys.readouterr().out
    with zipfile.ZipFile(out) as archive:
        assert {"run.emd", "run.pth"} <= set(archive.namelist())
    assert camtrap(folder, "export", "--to", "safetensors", "--out", str(folder / "lions.safetensors")) == 0
    state = safetensors.torch.load_file(folder / "lions.safetensors")
    assert state["fc.weight"].shape == (2, 1024)
    assert json.loads((folder / "lions.json").read_text())["classes"] == ["empty", "lion"]
    assert camtrap(folder, "export", "--to", "safetensors", "--out", str(folder / "lions")) == 0
    (model,) = (folder / "run" / "models").iterdir()
    assert load_model(folder / "lions")[1].model_id == model.name
    assert {path.name for path in folder.iterdir()} == {
        "images", "job.yaml", "run", "lions", "lions.dlpk", "lions.json", "lions.safetensors"
    }  # fmt: skip
    (folder / "lions.json").write_text("[1]")
    assert camtrap(folder, "export", "--to", "safetensors", "--out", str(folder / "lions.safetensors")) == 0
    assert (folder / "lions.kept-1.json").read_text() == "[1]"
    assert not (folder / "lions.kept-1.safetensors").exists()


def test_wrong_exports_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def to(kind: str, out: str, *options: str) -> str:
        return refused(capsys, folder, "export", "--to", kind, "--out", str(folder / out), *options)

    assert "should end in .dlpk" in to("dlpk", "lions.zip")
    assert "there is no folder" in to("dlpk", "nowhere/lions.dlpk")
    assert "which a job never changes" in to("dlpk", "images/lions.dlpk")
    assert "already exists" in to("safetensors", "run")
    assert "no model '0123456789abcdef'" in to("dlpk", "lions.dlpk", "--model", "0123456789abcdef")


def test_publish(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")
    monkeypatch.delenv("CAMTRAP_ARCGIS_TOKEN", raising=False)
    with serve_portal() as portal:
        where = ("--set", f"publish.portal={portal.url}")
        assert camtrap(folder, "publish", "--dry-run", *where) == 0
        assert "set CAMTRAP_ARCGIS_TOKEN, " in refused(capsys, folder, "publish", *where)
        assert portal.requests == []
        monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", TOKEN)
        assert camtrap(folder, "publish", *where) == 0
        (item,) = portal.items.values()
        with zipfile.ZipFile(io.BytesIO(item["data"])) as archive:
            assert "run.emd" in archive.namelist()
        assert "added" in capsys.readouterr().out
    assert TOKEN not in (folder / "run" / "log.jsonl").read_text()


def test_a_folder_from_elsewhere_is_a_model_of_the_job(folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.mkdir()
    torch.manual_seed(1)
    torch.save(create_model(INFO.arch, 3).state_dict(), theirs / "best.pth")
    (theirs / "model.json").write_text(json.dumps({"arch": INFO.arch, "classes": ["a", "b", "c"]}))
    run = Run(Job.load(folder / "job.yaml"))
    model, info = open_model(run, str(theirs))
    assert info.classes == ("a", "b", "c")
    assert load_model(model.local(""))[1] == info
    assert open_model(run, str(theirs))[0] == model
    assert {path.name for path in theirs.iterdir()} == {"best.pth", "model.json"}  # an input is never changed
    (folder / "other").mkdir()
    (folder / "other" / "model.json").write_text(json.dumps({"arch": INFO.arch, "classes": ["a", "b"]}))
    (folder / "other" / "best.pth").write_bytes((theirs / "best.pth").read_bytes())
    with pytest.raises(InputError, match=r"fc\.weight has shape \(3, 1024\), should have \(2, 1024\)"):
        open_model(run, str(folder / "other"))
