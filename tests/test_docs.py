"""The documentation: it builds with every link whole, and the commands of its tutorials do what it says."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import data_folder

from camtrap_batch.cli import make_parser
from camtrap_batch.exports import EXPORTS

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


def commands() -> Iterator[tuple[str, str]]:
    """Page and text of each `camtrap ...` in the docs: a line of a block, or between backticks."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "cluster").rglob("*.md")]
    for page in pages:
        text = page.read_text()
        for found in re.finditer(r"^ *camtrap (.+)$|`camtrap ([^`]+)`", text, re.MULTILINE):
            words = re.split(r"  |#|;", (found[1] or found[2]).replace("\\n", " "))[0].strip()
            yield str(page.relative_to(ROOT)), words


def test_commands_that_the_docs_show_exist() -> None:
    """Each is one of ours, and so are its options."""
    known = options_by_command()
    wrong = []
    for page, text in commands():
        words = text.split()
        command = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if not re.fullmatch(r"[a-z-]+", words[0]):
            continue  # such as camtrap catalog|validate|... JOB
        flags = re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", text)
        if command not in known:
            wrong.append((page, text, "no such command"))
        wrong += [
            (page, text, flag) for flag in flags if flag not in known.get(command, ()) and flag != "--help"
        ]
    assert wrong == []


def options_by_command() -> dict[str, set[str]]:
    """The options of each command, those that depend on what it is to write included."""
    found: dict[str, set[str]] = {"help": set()}

    def look(name: str, parser: argparse.ArgumentParser) -> None:
        found[name] = {flag for action in parser._actions for flag in action.option_strings}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner, below in action.choices.items():
                    look(f"{name} {inner}".strip(), below)
                    found[name] |= found[f"{name} {inner}".strip()] if name else set()

    look("", make_parser())
    found["export"] |= {f"--{option.name}" for name in EXPORTS for option in EXPORTS[name].options}
    return found


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
