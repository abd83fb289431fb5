"""The documentation: it builds with every link whole, and the commands of its tutorials do what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import data_folder

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_AT_END = ", at its end"


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Kind, title and content of each fenced block of a page. `bash` is run; `sh` is only shown."""
    return _FENCE.findall((ROOT / "docs" / page).read_text())


def test_the_site_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed (extra docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    keys = (tmp_path / "site" / "reference" / "job.html").read_text()
    assert "<code>validate.thumbnails</code>" in keys
    fetched = re.findall(
        r'(?:src|href)="(https?://[^"]+\.(?:js|css)[^"]*)"', (tmp_path / "site" / "index.html").read_text()
    )
    assert fetched == []  # it opens without a network


@pytest.mark.parametrize("page", ["photos.md", "labels.md", "published.md"])
def test_a_tutorial(page: str, tmp_path: Path) -> None:
    """Files that a page shows with a name are written, its commands run as they stand there."""
    photos = sorted(data_folder("real_images").rglob("*.[jJ][pP][gG]"))
    wanted = {
        "african_elephants_truncated_file.jpg": "CAM1", "4383.jpg": "CAM1",
        "american_black_bear.jpg": "CAM2", "blank.jpg": "CAM3",
    }  # fmt: skip
    found = {photo.name: photo for photo in photos}
    if missing := wanted.keys() - found.keys():
        pytest.skip(f"not in this clone: {', '.join(sorted(missing))}")
    for name, camera in wanted.items():
        (folder := tmp_path / "photos" / camera).mkdir(parents=True, exist_ok=True)
        shutil.copy(found[name], folder)
    (tmp_path / "md_results.json").write_text(_RESULTS)
    (tools := tmp_path / "tools").mkdir()
    (tools / "camtrap").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m camtrap_batch "$@"\n')
    (tools / "camtrap").chmod(0o755)
    ran = 0
    for kind, title, content in blocks(f"start/{page}"):
        if kind == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", content],
                cwd=tmp_path,
                env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{content}{done.stdout}{done.stderr}"
            ran += 1
        elif title.endswith(_AT_END):
            with (tmp_path / title.removesuffix(_AT_END)).open("a") as file:
                file.write(content)
        elif title:
            (tmp_path / title).write_text(content)
    assert ran
    runs = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert [(run / "report" / "index.html").exists() for run in runs] == [True]
    assert [(run / "locations.gpkg").exists() for run in runs] == [True]


_RESULTS = """{
 "info": {"format_version": "1.4", "detector": "md"},
 "detection_categories": {"1": "animal", "2": "person"},
 "classification_categories": {"0": "Loxodonta africana", "1": "Ursus americanus"},
 "images": [
  {"file": "CAM1/african_elephants_truncated_file.jpg", "detections": [
   {"category": "1", "conf": 0.94, "bbox": [0.1, 0.2, 0.5, 0.6], "classifications": [["0", 0.98]]}]},
  {"file": "CAM1/4383.jpg", "detections": []},
  {"file": "CAM2/american_black_bear.jpg", "detections": [
   {"category": "1", "conf": 0.9, "bbox": [0.3, 0.3, 0.3, 0.4], "classifications": [["1", 0.9]]}]},
  {"file": "CAM3/blank.jpg", "detections": []}
 ]
}
"""
