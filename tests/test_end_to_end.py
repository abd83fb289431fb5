"""The whole job on the synthetic data set, against the truth that comes with it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.compute as pc
import pyogrio
import pytest
import yaml
from support import PATIENCE_S, Processes, command, run_of

from camtrap_batch.model import read_info
from camtrap_batch.vocabulary import STATUSES, USABLE

pytestmark = pytest.mark.timeout(240)

Camtrap = Callable[..., subprocess.CompletedProcess[str]]


def truth_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "data" / "truth.csv").open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_image_has_the_status_that_it_was_given(undisturbed: Path) -> None:
    manifest = run_of(undisturbed).table("manifest").to_table(columns=["image_id", "status"])
    found = dict(zip(manifest["image_id"].to_pylist(), manifest["status"].to_pylist(), strict=True))
    assert found == {image_id: row["status"] for image_id, row in truth_of(undisturbed).items()}
    assert set(found.values()) == set(STATUSES) - {"crashed"}


def test_night_is_told_from_day(undisturbed: Path) -> None:
    manifest = run_of(undisturbed).table("manifest").to_table(columns=["image_id", "status", "is_night"])
    truth = truth_of(undisturbed)
    for row in manifest.filter(pc.equal(manifest["status"].cast("string"), "ok")).to_pylist():
        assert row["is_night"] == (truth[row["image_id"]]["night"] == "1")


def test_rows_in_are_rows_out(undisturbed: Path) -> None:
    run = run_of(undisturbed)
    ids = [row["image_id"] for row in run.table("catalog").to_table(columns=["image_id"]).to_pylist()]
    assert len(ids) == len(set(ids)) == 400
    manifest = run.table("manifest").to_table(columns=["image_id", "status"]).to_pylist()
    assert [row["image_id"] for row in manifest] == ids
    selection = run.table("selection").to_table(columns=["image_id", "reason"])
    assert selection["image_id"].to_pylist() == ids
    assert selection["reason"].null_count == 0
    predictions = run.table("predictions").to_table(columns=["image_id"])["image_id"].to_pylist()
    assert sorted(predictions) == sorted(row["image_id"] for row in manifest if row["status"] in USABLE)
    sequences = run.table("sequences").to_table(columns=["n_images"])["n_images"]
    assert pc.sum(sequences).as_py() == len(predictions)


def test_locations_add_up(undisturbed: Path) -> None:
    run = run_of(undisturbed)
    locations = run.table("locations").to_table().to_pylist()
    manifest = run.table("manifest").to_table(columns=["location", "status"]).to_pylist()
    events = run.table("events").to_table(columns=["location"])["location"].to_pylist()
    assert len(locations) == 8
    for row in locations:
        here = [image["status"] for image in manifest if image["location"] == row["location"]]
        assert row["n_images"] == len(here)
        for status in STATUSES:
            assert row[f"n_{status}"] == here.count(status)
        assert row["n_events"] == events.count(row["location"])
        assert row["n_events"] - row["n_uncertain"] == sum(entry["n"] for entry in row["events_by_label"])


def test_feature_layer_holds_what_the_tables_hold(undisturbed: Path) -> None:
    run = run_of(undisturbed)
    target = undisturbed / "run" / "locations.gpkg"
    layers = {
        name: pyogrio.read_info(target, layer=name)["features"] for name in ("cameras", "events", "photos")
    }
    assert layers == {
        "cameras": run.table("locations").count_rows(),
        "events": run.table("events").count_rows(),
        "photos": run.table("predictions").count_rows(),
    }
    with sqlite3.connect(target) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert run.table("ledger").count_rows() == sum(layers.values())


def test_the_model_says_what_made_it_and_has_its_figures(undisturbed: Path) -> None:
    run = run_of(undisturbed)
    trained, selection = run.current("model"), run.snapshot("selection")
    assert trained is not None
    folder = undisturbed / "run" / "models" / trained.meta["model_id"]
    origin = read_info(folder).provenance
    assert (origin["job"], origin["selection_snapshot"]) == ("run", selection.number)
    assert origin["train"]["arch"] == "resnet18"
    figures = {"loss.svg", "accuracy.svg", "reliability.svg", "confusion.svg", "batch.svg", "results.svg"}
    assert figures <= {path.name for path in folder.iterdir()}
    # The split is by image: there is nothing else that one could have claimed.
    assert "random_split" not in json.loads((folder / "metrics.json").read_text())


def test_report_fetches_nothing(undisturbed: Path) -> None:
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links = [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
            # What a reader may click on is not fetched.
            self.found += [link for link in links if tag != "a" or not link.startswith("https://")]

    report = undisturbed / "run" / "report"
    links = Links()
    links.feed((report / "index.html").read_text())
    assert links.found
    for link in links.found:  # photos lie beside the page
        assert link.startswith(("#", "data:")) or (report / link).is_file(), link


def test_report_says_what_was_computed_in(undisturbed: Path) -> None:
    page = (undisturbed / "run" / "report" / "index.html").read_text()
    precision = run_of(undisturbed).snapshot("predictions").meta["precision"]["precision"]
    assert f"<dt>Classified in</dt><dd>{precision}" in page


def test_second_run_changes_no_byte_and_needs_no_cluster(undisturbed: Path, camtrap: Camtrap) -> None:
    """At the address that is given nobody answers."""
    before = files_of(undisturbed)
    done = camtrap("reprocess", undisturbed / "job.yaml", "--cluster", "tcp://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    for stage in ("catalog", "validate", "select", "train", "infer", "merge", "publish", "report"):
        line = next(line for line in done.stderr.splitlines() if line.startswith(f"{stage} "))
        assert "nothing to do" in line
    assert files_of(undisturbed) == before


def test_a_new_gap_redoes_merge_and_what_follows_alone(
    undisturbed: Path, tmp_path: Path, camtrap: Camtrap
) -> None:
    """At the address that is given nobody answers."""
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed / "run", folder / "run")
    (folder / "data").symlink_to(undisturbed / "data")
    job = yaml.safe_load((undisturbed / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
    before = run_of(folder).table("events").to_table()
    # So long a gap makes far fewer events: that they go from the layer has to be said.
    settings = ("--set", "events.gap_min=100000", "--set", "limits.deleted=1")
    done = camtrap("reprocess", folder / "job.yaml", *settings, "--cluster", "tcp://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line and line[0] != " "}
    for stage in ("catalog", "validate", "select", "train", "infer"):
        assert "nothing to do" in lines[stage]
    for stage in ("merge", "publish", "report"):
        assert "nothing to do" not in lines[stage]
    run = run_of(folder)
    assert run.table("events").count_rows() < before.num_rows
    assert run.table("events", 1).to_table().equals(before)


def test_a_changed_image_does_its_shard_again_alone(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    folder = tmp_path / "copy"
    job = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
    before = run_of(folder).table("manifest").to_table().to_pylist()
    changed = next(row["file_name"] for row in before if row["status"] == "ok")
    (folder / "data" / "images" / changed).write_bytes(b"")
    done = subprocess.run(command(folder, "validate"), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert re.search(r" 1 of \d+ shards run now", done.stderr), done.stderr
    after = run_of(folder).table("manifest").to_table().to_pylist()
    different = [
        new["file_name"] for old, new in zip(before, after, strict=True) if old["sha256"] != new["sha256"]
    ]
    assert different == [changed]
    assert next(row["status"] for row in after if row["file_name"] == changed) == "empty_file"


POISON = """
import os, sys
from camtrap_batch.images import reading

POISONOUS, OPENED = {poisonous!r}, {opened!r}
judge = reading.judge

def judge_or_die(data, file_name, limits):
    if file_name == POISONOUS:
        os._exit(1)
    return judge(data, file_name, limits)

def dask_setup(worker):
    reading.judge = judge_or_die
    log = os.open(OPENED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def hear(event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            os.write(log, (arguments[0] + "\\n").encode("utf-8", "replace"))
    sys.addaudithook(hear)
"""


def test_a_deadly_image_is_marked_and_an_unsafe_path_never_opened(undisturbed: Path, tmp_path: Path) -> None:
    """Decoding the one kills its worker each time; every file that workers open is listed."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "data").symlink_to(undisturbed / "data")
    job = yaml.safe_load((undisturbed / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
    expected = run_of(undisturbed).table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    poisonous = [row["file_name"] for row in expected if row["status"] == "ok"][200]
    (tmp_path / "poison.py").write_text(POISON.format(poisonous=poisonous, opened=str(tmp_path / "opened")))
    with Processes(tmp_path, preloads=(str(tmp_path / "poison.py"),)) as cluster:
        for stage in ("catalog", "validate"):
            done = subprocess.run(
                command(folder, stage, "--cluster", cluster.address),
                capture_output=True,
                text=True,
                timeout=2 * PATIENCE_S,
            )
            assert done.returncode == 0, done.stderr
    found = run_of(folder).table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    for row in expected:
        if row["file_name"] == poisonous:
            row["status"] = "crashed"
    assert found == expected
    opened = (tmp_path / "opened").read_text()
    assert poisonous in opened
    unsafe = [row["file_name"] for row in expected if row["status"] == "unsafe_path"]
    assert unsafe
    for name in unsafe:
        assert Path(name).name not in opened
