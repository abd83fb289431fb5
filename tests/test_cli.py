"""The command: what it prints and what it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from camtrap_batch.cli import main
from camtrap_batch.stages import STAGES

CCT = json.dumps(
    {
        "images": [{"id": "a", "file_name": "a.jpg", "location": 1}],
        "annotations": [],
        "categories": [{"id": 0, "name": "empty"}, {"id": 7, "name": "panthera onca"}],
    }
)

JOB = """\
name: run
output: {output}
dataset: {{format: cct, metadata: cct.json, images: images}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "cct.json").write_text(CCT)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(output=tmp_path / "runs"))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command is answered with."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_teaches_its_keys(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for block in STAGES[stage].keys:
        assert f"{block}." in text
    assert "--cluster" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cct.json", None), "cct.json: no such file"),
        (("cct.json", "{"), "cct.json: "),
        (("cct.json", '{"images": 3}'), "images"),
        (("images", None), "images"),
        (("job.yaml", "name: x\nnome: y"), "job.yaml:2: nome: unknown key; did you mean 'name'?"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    job: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str | None], message: str
) -> None:
    path = job.parent / change[0]
    if change[1] is not None:
        path.write_text(change[1])
    elif path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    before = sorted(job.parent.rglob("*"))
    for command in ("catalog", "reprocess"):
        assert message in refused(capsys, command, str(job))
    assert sorted(job.parent.rglob("*")) == before


def test_unknown_class_is_refused_before_anything_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "reprocess", str(job), "--set", "select.classes=[pantera onca]")
    assert "select.classes: the data set has no class 'pantera onca'; did you mean 'panthera onca'?" in line
    assert not (job.parent / "runs").exists()


def test_unknown_architecture_is_refused_before_anything_is_written(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "reprocess", str(job), "--set", "train.arch=resnet43")
    assert "resnet43" in line
    assert not (job.parent / "runs").exists()


def test_stage_without_its_input(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the table catalog is not there yet" in refused(capsys, "validate", str(job))


def test_nothing_there_for_status_and_table(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(job)]) == 0
    assert "waiting" in capsys.readouterr().out
    assert "catalog is not there yet" in refused(capsys, "table", str(job), "catalog", "--out", "x.csv")
    assert "possible: catalog, events" in refused(capsys, "table", str(job), "catalogue", "--out", "x.csv")
    assert "can't write .xls" in refused(capsys, "table", str(job), "catalog", "--out", "x.xls")


def test_dry_run_writes_nothing(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", str(job), "--dry-run"]) == 0
    assert "1 rows would be written" in capsys.readouterr().err
    assert not (job.parent / "runs").exists()


def test_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validat", "x"])
    assert ended.value.code == 2
    assert "validate" in capsys.readouterr().err


def test_import_of_the_package_is_light() -> None:
    """Neither torch nor geopandas nor arcgis, and no stage's own libraries."""
    heavy = ("torch", "fastai", "geopandas", "arcgis", "sklearn")
    code = f"import sys, camtrap_batch.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
