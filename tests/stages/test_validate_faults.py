"""validate with real processes: a disk that goes away, decodes that hang."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from support import PATIENCE_S, Processes, run_of, start_driver, wait_until
from support_runs import run_on_driver

from camtrap_batch.images import MOST_ABANDONED
from camtrap_batch.rehearsal import write_dataset

pytestmark = pytest.mark.timeout(240)


def make_job(folder: Path, images: int = 300, **validate: object) -> Path:
    write_dataset(folder / "data", cameras=3, images=images, size=(160, 120))
    job = {
        "name": "run",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 10, "thumbnails": 0, **validate},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


def test_a_disk_that_goes_away_makes_nothing_missing(tmp_path: Path, processes: Processes) -> None:
    """The root is there, but empty, as a mount point is whose disk was unmounted."""
    folder = make_job(tmp_path)
    run_on_driver(folder / "job.yaml", "catalog")
    driver = start_driver(folder, "validate", processes)
    receipts = folder / "run" / "receipts" / "validate"
    wait_until(lambda: receipts.is_dir() and any(receipts.glob("*/*.json")))
    disk = folder / "data" / "images"
    disk.rename(folder / "elsewhere")
    disk.mkdir()
    said = driver.communicate(timeout=2 * PATIENCE_S)[1]
    if driver.returncode == 0:  # it was through before
        pytest.skip("the stage ended before the disk went away")
    assert driver.returncode in (2, 3), said
    assert "is the disk mounted?" in said
    with (folder / "data" / "truth.csv").open() as file:
        truly = sum(row["status"] == "missing" for row in csv.DictReader(file))
    done = [json.loads(path.read_text()) for path in receipts.glob("*/*.json")]
    assert sum(receipt["counts"].get("missing", 0) for receipt in done) <= truly

    disk.rmdir()
    (folder / "elsewhere").rename(disk)
    (tmp_path / "again").mkdir()
    with Processes(tmp_path / "again") as cluster:
        again = start_driver(folder, "validate", cluster)
        said = again.communicate(timeout=2 * PATIENCE_S)[1]
    assert again.returncode == 0, said
    statuses = run_of(folder).table("manifest").to_table(columns=["status"])["status"].to_pylist()
    assert statuses.count("missing") == truly


def test_a_process_in_which_decodes_hang_is_replaced(tmp_path: Path) -> None:
    """Twelve files hang for ever: no process keeps more threads than it may, and all others are judged."""
    folder = make_job(tmp_path, images=120, timeout_s=2)
    with (folder / "job.yaml").open("a") as file:
        file.write("limits: {lost: 1}\n")
    preload = tmp_path / "hanging.py"
    preload.write_text(
        f"""
import importlib, os, threading
from camtrap_batch.images import reading

with open({str(tmp_path / "started")!r}, "a") as file:
    print(os.getpid(), file=file)
judge, for_ever = importlib.import_module("camtrap_batch.images.judge").judge, threading.Event()

def hanging(data, file_name, limits):
    if file_name.endswith("3.jpg"):
        with open({str(tmp_path / "hung")!r}, "a") as file:
            print(os.getpid(), file=file)
        for_ever.wait()
    return judge(data, file_name, limits)

reading.judge = hanging
"""
    )
    run_on_driver(folder / "job.yaml", "catalog")
    with Processes(tmp_path, preloads=(str(preload),)) as cluster:
        driver = start_driver(folder, "validate", cluster)
        said = driver.communicate(timeout=2 * PATIENCE_S)[1]
        assert driver.returncode == 0, said
    rows = run_of(folder).table("manifest").to_table(columns=["file_name", "status", "detail"]).to_pylist()
    hung = [row for row in rows if row["detail"] == "not decoded within 2 s"]
    assert len(hung) > 2 * MOST_ABANDONED
    assert all(row["file_name"].endswith("3.jpg") for row in hung)
    assert not any(row["status"] == "crashed" for row in rows)
    pids = (tmp_path / "hung").read_text().split()
    # A shard has at most ten files, of which one or two hang.
    assert max(Counter(pids).values()) <= MOST_ABANDONED + 2
    assert len(set((tmp_path / "started").read_text().split())) > 3  # two, and those in their place
