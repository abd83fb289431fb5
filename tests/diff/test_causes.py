"""What made two results differ, of runs in which just that was changed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support_exports import image, write_run
from support_runs import commit, predict, run_on_driver

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.diff import find_causes, read_sides
from camtrap_batch.images.pixels import make_thumbnail


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A run with a first result: lions, then an oryx."""
    rows = [
        image(f"i{n}", 600 * n, "lion" if n < 4 else "oryx", seq_id=f"s{n}", sha256=f"h{n}") for n in range(6)
    ]
    write_run(tmp_path, rows)
    jpeg = make_thumbnail(np.full((600, 800, 3), 120, np.uint8), 600, 85).jpeg
    for row in rows:
        (tmp_path / "images" / f"{row['image_id']}.jpg").write_bytes(jpeg)
    return tmp_path / "job.yaml"


def causes(job: Path) -> list[str]:
    return find_causes(*read_sides(open_run(job), None, None))


def test_a_result_beside_itself(job: Path) -> None:
    assert find_causes(*read_sides(open_run(job), 1, 1)) == ["Nothing: both are the same result."]


def test_a_rule(job: Path) -> None:
    run_on_driver(job, "merge", "events.gap_min=5")
    assert causes(job) == ["events.gap_min: 30 before, 5 after."]


def test_a_model(job: Path) -> None:
    predict(job, {f"i{n}": {"lion": 0.9} for n in range(6)}, "f" * 16)
    run_on_driver(job, "merge")
    assert causes(job) == [f"Model: 0123456789abcdef before, {'f' * 16} after."]


def test_a_detector(job: Path) -> None:
    run = open_run(job)
    before = run.snapshot("predictions")
    commit(run, "detect", "detected", [{"image_id": "i0", "status": "ok"}], {"detector": "md"})
    inputs = {**before.inputs, "detected": run.snapshot("detected").number}
    commit(run, "infer", "predictions", run.table("predictions").to_table().to_pylist(), inputs)
    run_on_driver(job, "merge")
    assert causes(job) == ["Detector: none before, md after."]


def test_what_people_said(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "said.csv").write_text("file,label\ni0.jpg,oryx\n")
    assert main(["corrections", str(job), str(tmp_path / "said.csv")]) == 0
    run_on_driver(job, "merge")
    assert causes(job) == ["Corrections: 0 images with labels of people before, 1 after."]
    out = tmp_path / "diff.html"
    assert main(["diff", str(job), "--out", str(out)]) == 0
    assert "Corrections: 0 images with labels of people before, 1 after." in capsys.readouterr().out
    html = out.read_text()
    assert "Corrections: 0 images with labels" in html
    (figure,) = re.findall(r"<figure class=\"photo\">(.*?)</figure>", html, re.S)
    assert "<b>lion</b> → <b>oryx</b>" in figure
    assert "i0.jpg" in figure
    assert 'src="data:image/jpeg;base64,/9j/' in figure


def test_people_who_change_their_minds(job: Path, tmp_path: Path) -> None:
    for number, label in enumerate(("oryx", "zebra"), 1):
        (tmp_path / "said.csv").write_text(f"file,label,when\ni0.jpg,{label},2026-11-30 12:0{number}\n")
        assert main(["corrections", str(job), str(tmp_path / "said.csv")]) == 0
        run_on_driver(job, "merge")
    assert causes(job) == ["Corrections: people now say something else about 1 image."]


def test_a_camera_that_is_put_elsewhere(job: Path, tmp_path: Path) -> None:
    for latitude in (1, 2):
        (tmp_path / "cameras.csv").write_text(f"location,latitude,longitude\nA,{latitude},3\n")
        run_on_driver(job, "merge", f"dataset.cameras={tmp_path / 'cameras.csv'}")
    assert causes(job) == ["Cameras: 1 camera with other coordinates."]


def test_two_models_beside_what_people_had_decided(job: Path, tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text("file,label\ni0.jpg,oryx\ni1.jpg,lion\n")
    assert main(["corrections", str(job), str(tmp_path / "said.csv")]) == 0
    run_on_driver(job, "merge")
    predict(job, {f"i{n}": {"oryx": 0.9} if n != 1 else {"lion": 0.9} for n in range(6)}, "f" * 16)
    run_on_driver(job, "merge")
    assert causes(job) == [
        f"Model: 0123456789abcdef before, {'f' * 16} after.",
        "Of 2 images that people had decided, and that keep their labels, "
        "the earlier model says the same about 1 "
        "(50.0%), the later one about 2 (100.0%).",
    ]
