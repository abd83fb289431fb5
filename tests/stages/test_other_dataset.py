"""A run folder keeps to its data set, unless another one is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from support_runs import run_on_driver, table

from camtrap_batch.cli import main
from camtrap_batch.rehearsal import write_dataset


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write_dataset(folder / "one", cameras=4, images=60, size=(160, 120), seed=1)
    write_dataset(folder / "two", cameras=4, images=60, size=(160, 120), seed=2)
    return folder


def job_of(folder: Path, dataset: Path) -> Path:
    """A job of always the same name and output."""
    content = {
        "name": "run",
        "output": str(folder),
        "dataset": {
            "format": "cct",
            "metadata": str(dataset / "metadata.json"),
            "images": str(dataset / "images"),
        },
    }
    file = folder / f"{dataset.name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_another_dataset_is_refused_naming_both(
    datasets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (job_of(tmp_path, datasets / name) for name in ("one", "two"))
    assert main(["catalog", str(one), "--quiet"]) == 0
    before = table(one, "catalog")
    capsys.readouterr()
    assert main(["catalog", str(two), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds another data set" in line
    for name in ("one", "two"):
        assert str(datasets / name / "metadata.json") in line
    assert "--replace-dataset" in line
    assert table(one, "catalog") == before
    assert main(["catalog", str(two), "--quiet", "--replace-dataset"]) == 0
    assert table(two, "catalog") != before


def test_a_dataset_that_moved_and_one_that_lost_images_is_the_same(datasets: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(datasets / "one", moved)
    run_on_driver(job_of(tmp_path, datasets / "one"), "catalog")
    before = table(job_of(tmp_path, datasets / "one"), "catalog")
    assert run_on_driver(job_of(tmp_path, moved), "catalog").rows == 60
    assert table(job_of(tmp_path, moved), "catalog") == before


def test_metadata_may_change_where_they_are(datasets: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(datasets / "one", here)
    run_on_driver(job_of(tmp_path, here), "catalog")
    shutil.rmtree(here)
    shutil.copytree(datasets / "two", here)
    assert run_on_driver(job_of(tmp_path, here), "catalog").rows == 60
