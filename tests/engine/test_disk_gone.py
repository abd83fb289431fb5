"""The disk with the images goes away in the middle of a stage: no image is called missing for that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_S, command, run_of, tables_of, wait_until
from support_cluster import Started, camtrap, write_job

from camtrap_batch.cli import main
from camtrap_batch.engine.visibility import Visibility
from camtrap_batch.errors import UnfitWorker
from camtrap_batch.images import ImageRoot
from camtrap_batch.store.folder import Folder

pytestmark = pytest.mark.timeout(240)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a disk away from a process")


def wait_for_receipts(folder: Path, stage: str, driver: subprocess.Popen[str]) -> None:
    receipts = folder / "run" / "receipts" / stage
    wait_until(lambda: driver.poll() is not None or len(list(receipts.glob("*/*.json"))) >= 3)
    assert driver.poll() is None, driver.communicate()


def statuses(folder: Path, table: str) -> dict[str, int]:
    found = run_of(folder).table(table).to_table(columns=["status"])["status"].to_pylist()
    return {status: found.count(status) for status in set(found)}


@pytest.mark.parametrize("cluster", ["inline", "started"])
def test_a_folder_that_goes_away_while_images_are_validated(
    cluster: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    write_job(tmp_path, images=200, shard_size=2)
    images, elsewhere = tmp_path / "data" / "images", tmp_path / "elsewhere"
    if cluster == "started":
        started: Started = request.getfixturevalue("started")
        cluster = started.scheduler("--host", "127.0.0.1")
        started.worker(cluster)
    validate = camtrap("validate", tmp_path, "--cluster", cluster)
    with subprocess.Popen(validate, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_for_receipts(tmp_path, "validate", driver)
        images.rename(elsewhere)
        said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 3, said
    assert "can't see the images" in said.splitlines()[-1]
    assert "what was done is kept: run the same command again" in said
    assert run_of(tmp_path).current("manifest") is None
    elsewhere.rename(images)
    again = subprocess.run(validate, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stderr
    rows = run_of(tmp_path).table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    assert len(rows) == 200
    assert not [row for row in rows if row["status"] == "missing" and (images / row["file_name"]).exists()]


def test_a_folder_that_goes_away_while_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The empty mount point that is left says of every file that there is none."""
    write_job(tmp_path)
    images = tmp_path / "data" / "images"

    def lose_after_the_first(file: str, flags: int, *arguments: Any, **options: Any) -> int:
        handle = open_(file, flags, *arguments, **options)
        if str(file).startswith(str(images)) and flags & os.O_DIRECTORY:
            images.rename(tmp_path / "elsewhere")
            images.mkdir()
        return handle

    open_ = os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lose_after_the_first)
        assert main(["validate", str(tmp_path / "job.yaml"), "--quiet", "--cluster", "inline"]) == 2
    assert f"{images}: is an empty folder" in capsys.readouterr().err
    assert run_of(tmp_path).current("manifest") is None


@needs_root
def test_a_worker_whose_disk_goes_away_leaves_the_work_to_others(started: Started, tmp_path: Path) -> None:
    """Only that worker's view of the folder is an empty one, from the middle of its work on."""
    write_job(tmp_path, images=200, shard_size=2)
    images = tmp_path / "data" / "images"
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, "--name", "stays")
    started.worker(address, "--name", "loses", inside=["unshare", "--mount"])
    validate = camtrap("validate", tmp_path, "--cluster", address)

    def has_done_something(name: str) -> bool:
        receipts = (tmp_path / "run" / "receipts" / "validate").glob("*/*.json")
        return any(f'"worker":"{name}@' in path.read_text() for path in receipts)

    with subprocess.Popen(validate, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_until(lambda: driver.poll() is not None or has_done_something("loses"))
        inside = ["nsenter", "--mount", "--target", str(started.processes[-1].pid)]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "none", str(images)], check=True, timeout=30)
        said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said
    rows = run_of(tmp_path).table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    assert len(rows) == 200
    assert not [row for row in rows if row["status"] == "missing" and (images / row["file_name"]).exists()]
    assert "turned away: worker tcp://127.0.0.1" in said
    assert f"{images}" in said


def test_a_folder_that_goes_away_while_originals_are_classified(
    job_folder: Callable[..., Path], undisturbed: Path
) -> None:
    folder = job_folder("infer")
    options = ["--cluster", "inline", "--set", "validate.thumbnails=0", "--set", "infer.shard_size=25"]
    infer = command(folder, "infer", *options)
    with subprocess.Popen(infer, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_for_receipts(folder, "infer", driver)
        (folder / "data").rename(folder / "elsewhere")
        said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 3, said
    (folder / "elsewhere").rename(folder / "data")
    again = subprocess.run(infer, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert again.returncode == 0, again.stderr
    assert statuses(folder, "predictions") == statuses(undisturbed, "predictions")
    assert tables_of(folder)["predictions"].num_rows == tables_of(undisturbed)["predictions"].num_rows


def test_one_file_that_is_gone_is_no_reason_to_leave(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / "images" / "a" / name).touch()
    folder = Folder(str(tmp_path / "run"))
    folder.write("plan", b"")
    visibility = Visibility.make(folder, "plan", ImageRoot(str(tmp_path / "images")))
    visibility.check("w")
    (tmp_path / "images" / "a" / "one.jpg").unlink()
    visibility.check_again("w", ["a/one.jpg"])
    visibility.check_again("w", [])
    (tmp_path / "images" / "a" / "two.jpg").unlink()
    with pytest.raises(UnfitWorker, match=r"sees nothing in .*images/a .* is the disk mounted"):
        visibility.check_again("w", ["a/one.jpg"])
    (tmp_path / "images" / "a").rename(tmp_path / "images" / "b")
    with pytest.raises(UnfitWorker, match="is the disk mounted"):
        visibility.check_again("w", ["a/one.jpg"])
