"""The whole job on real photos, from the job file beside this module."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_S

from camtrap_batch import Job, Run, open_run

JOB = Path(__file__).with_name("real_images.yaml")

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def run(real_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = f"output={tmp_path_factory.mktemp('real')}"
    dataset = [f"dataset.metadata={real_images / 'cct.json'}", f"dataset.images={real_images}"]
    settings = [part for value in (output, *dataset) for part in ("--set", value)]
    done = subprocess.run(
        [sys.executable, "-m", "camtrap_batch", "reprocess", str(JOB), *settings],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return open_run(Job.load(JOB, [output, *dataset]))


def content(real_images: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((real_images / "cct.json").read_text())
    return found


def test_the_cut_off_elephant_is_truncated_and_all_others_are_ok(run: Run, real_images: Path) -> None:
    rows = run.table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    assert len(rows) == len(content(real_images)["images"])
    assert [row["file_name"] for row in rows if row["status"] == "truncated"] == [
        "google-cameratrapai/african_elephants_truncated_file.jpg"
    ]
    assert sum(row["status"] == "ok" for row in rows) == len(rows) - 1


def test_cameras_and_dates_come_from_exif(run: Run) -> None:
    rows = run.table("manifest").to_table().to_pylist()
    heron = next(row for row in rows if row["file_name"].endswith("RCNX0031.JPG"))
    assert (heron["camera_make"], heron["camera_model"]) == ("RECONYX", "HYPERFIRE 2 COVERT")
    assert str(heron["datetime_exif"]) == "2021-04-11 20:43:09"
    assert (heron["width"], heron["height"], heron["bytes"]) == (2048, 1440, 297822)
    assert heron["sha256"].startswith("905b3cc1cc9edb49")


def test_the_heron_burst_is_one_sequence_and_one_event(run: Run, real_images: Path) -> None:
    frames = [image for image in content(real_images)["images"] if image["file_name"].startswith("tdwg")]
    burst = {image["seq_id"] for image in frames}
    sequences = run.table("sequences").to_table().to_pylist()
    herons = [row for row in sequences if row["seq_id"] in burst]
    assert [row["n_images"] for row in herons] == [len(frames)]
    events = run.table("events").to_table().to_pylist()
    there = [event for event in events if event["location"] == herons[0]["location"]]
    assert [event["n_images"] for event in there] == [len(frames)]
    taken = [datetime.fromisoformat(frame["datetime"]) for frame in frames]
    assert there[0]["end"] - there[0]["start"] == max(taken) - min(taken)


def test_report_and_layer_are_there(run: Run) -> None:
    assert run.folder.exists("report/index.html")
    assert run.folder.exists("locations.gpkg")
