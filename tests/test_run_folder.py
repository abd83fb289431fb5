"""The command on run folders that are held, damaged, foreign or newer: one line, and what helps."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support import PATIENCE_S, Processes, receipts, run_of, start_driver, tables_of, wait_until
from support_runs import predict, run_on_driver, write_run

from camtrap_batch.cli import main
from camtrap_batch.store import snapshots
from camtrap_batch.store.tables import shard_of

pytestmark = pytest.mark.timeout(600)

JobFolder = Callable[..., Path]


@dataclass
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def call(folder: Path, name: str, *options: str) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([name, str(folder / "job.yaml"), *options])
    return Done(code, out.getvalue(), err.getvalue())


def refused(folder: Path, name: str, *options: str, code: int) -> str:
    """The one line that a command ends with."""
    done = call(folder, name, *options)
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = done.stderr.splitlines()
    if name == "reprocess":  # stages before it have said that they have nothing to do
        lines = [line for line in lines if line.startswith("camtrap: ")]
    (line,) = lines
    assert line.startswith("camtrap: ")
    return line


def images(number: int = 6) -> list[dict[str, object]]:
    return [{"image_id": f"i{n}", "location": "a", "truth": "lion"} for n in range(number)]


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """Folder of a job of which everything before `merge` is done, and merge."""
    job = write_run(tmp_path, images())
    predict(job, {f"i{n}": {"lion": 0.9, "empty": 0.1} for n in range(6)})
    run_on_driver(job, "merge")
    return tmp_path


def test_a_second_driver_and_gc_leave_a_running_job_alone(
    job_folder: JobFolder, undisturbed: Path, tmp_path: Path
) -> None:
    folder = job_folder("validate")
    with Processes(tmp_path) as cluster:
        driver = start_driver(folder, "validate", cluster)
        try:
            wait_until(lambda: len(receipts(folder, "validate")) >= 3)
            workers = [cluster.worker_process(number) for number in range(2)]
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)  # so that it is still at work
            for name in ("validate", "reprocess", "gc"):
                line = refused(folder, name, code=3)
                assert f"another driver is at work here: validate of job run, process {driver.pid} on" in line
            status = json.loads(call(folder, "status", "--json").stdout)
            assert status["driver"]["state"] == "held"
            assert status["driver"]["pid"] == driver.pid
            assert state_of(status, "validate") == "running"
            driver.kill()
            driver.communicate()
            said = call(folder, "status").stdout
            assert f"process {driver.pid}" in said
            assert "it was killed" in said
            status = json.loads(call(folder, "status", "--json").stdout)
            assert status["driver"]["state"] == "gone"
            assert state_of(status, "validate") == "unfinished", "at once, not after two minutes"
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
            again = start_driver(folder, "validate", cluster)
            _, errors = again.communicate(timeout=PATIENCE_S)
            assert again.returncode == 0, errors
        finally:
            driver.kill()
            driver.communicate()
    assert tables_of(folder)["manifest"].equals(tables_of(undisturbed)["manifest"])
    assert json.loads(call(folder, "status", "--json").stdout)["driver"]["state"] == "free"


def state_of(status: dict[str, list[dict[str, object]]], stage: str) -> object:
    return next(entry["state"] for entry in status["stages"] if entry["stage"] == stage)


def test_a_log_that_is_a_symbolic_link(merged: Path) -> None:
    victim = merged / "victim"
    victim.write_text("precious\n")
    (merged / "run" / "log.jsonl").unlink()
    (merged / "run" / "log.jsonl").symlink_to(victim)
    line = refused(merged, "merge", "--set", "events.gap_min=7", code=1)
    assert f"{merged}/run/log.jsonl: is a symbolic link" in line
    assert victim.read_text() == "precious\n"


@pytest.mark.parametrize("name", ["merge", "status", "gc", "table", "corrections"])
def test_a_run_folder_of_a_newer_version(merged: Path, name: str) -> None:
    (merged / "said.csv").write_text("image_id,label,who\ni1,lion,ada\n")
    more = {
        "table": ("manifest", "--out", str(merged / "manifest.csv")),
        "corrections": (str(merged / "said.csv"),),
    }.get(name, ())
    (merged / "run" / "format.json").write_text('{"format": 7, "written_by": "9.1", "new": 1}')
    line = refused(merged, name, *more, code=2)
    assert not (merged / "run" / "corrections").exists()
    assert f"{merged}/run/format.json: written by a newer camtrap-batch (9.1, format 7" in line


@pytest.mark.parametrize("name", ["merge", "status", "gc"])
def test_a_foreign_folder(tmp_path: Path, name: str) -> None:
    write_run(tmp_path, images())
    (tmp_path / "run").rename(tmp_path / "before")
    (tmp_path / "run" / "photos").mkdir(parents=True)
    (tmp_path / "run" / "photos" / "a.jpg").write_bytes(b"1")
    assert f"{tmp_path}/run: is not a run folder" in refused(tmp_path, name, code=2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["photos"]


def test_flipped_bytes_stop_merge_and_name_the_file(merged: Path) -> None:
    run = run_of(merged)
    file = run.snapshot("manifest").files[0].file
    path = run.folder.local(file)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    line = refused(merged, "merge", "--set", "events.gap_min=7", code=1)
    assert line.startswith(f"camtrap: {path}: is damaged (")
    assert "`camtrap check JOB --repair`" in line
    assert run.snapshot("events").number == 1


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("snapshots/locations/CURRENT", b""),
        ("snapshots/locations/1.json", b'{"table": "loca'),
        ("plans/merge/*.json", b"{"),
        ("receipts/merge/*/*.json", b""),
    ],
)
@pytest.mark.parametrize("name", ["merge", "status", "table"])
def test_a_damaged_record_is_named_and_done_without(
    merged: Path, name: str, path: str, content: bytes
) -> None:
    (found,) = (merged / "run").glob(path)
    found.write_bytes(content)
    options = ["locations", "--out", str(merged / "out.csv")] if name == "table" else []
    done = call(merged, name, *options)
    is_of_use = not (name == "table" and path.endswith("1.json"))
    assert done.returncode == (0 if is_of_use else 2), done.stderr
    # merge looks at receipts where something is to be done, and a table at its snapshots alone.
    if "snapshots" in path or name == "status":
        assert f"{found}: is " in done.stderr
    if name == "merge":
        assert snapshots.current(run_of(merged).folder, "locations") is not None


@pytest.mark.parametrize("path", ["snapshots/manifest/1.json", "tables/manifest/*/*.parquet"])
def test_status_goes_on_where_cameras_cant_be_counted(merged: Path, path: str) -> None:
    (found,) = (merged / "run").glob(path)
    found.write_bytes(found.read_bytes()[:40])
    done = call(merged, "status")
    assert done.returncode == 0, done.stderr
    assert f"{found}: " in done.stderr
    assert "merge" in done.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b'{"test": '),
        ("metrics.json", b"[1]"),
        ("history.csv", b"epoch,loss\n1,0$3\n"),
        ("batch.svg", b"<svg><image"),
    ],
)
def test_a_report_leaves_out_damaged_figures_of_a_model(merged: Path, name: str, content: bytes) -> None:
    found = merged / "run" / "models" / ("a" * 16) / name
    found.write_bytes(content)
    done = call(merged, "report")
    assert done.returncode == 0, done.stderr
    assert f"camtrap: {found}: is damaged (" in done.stderr


@pytest.mark.parametrize("harm", ["cut off", "flipped"])
def test_a_damaged_catalog_is_made_again_with_the_same_ids(tmp_path: Path, harm: str) -> None:
    """A renamed file has the id of its first name, which the manifest knows, too."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
    job = {"name": "run", "output": str(tmp_path), "dataset": {"format": "folder", "images": "images"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    inline = ("--cluster", "inline")
    assert call(tmp_path, "catalog").returncode == call(tmp_path, "validate", *inline).returncode == 0
    (tmp_path / "images" / "1.jpg").rename(tmp_path / "images" / "new.jpg")
    assert call(tmp_path, "catalog").returncode == call(tmp_path, "validate", *inline).returncode == 0
    run = run_of(tmp_path)
    before = run.table("catalog").to_table()
    assert before["image_id"].to_pylist() == ["0.jpg", "2.jpg", "1.jpg"]
    (file,) = run.snapshot("catalog").files
    path = run.folder.local(file.file)
    data = bytearray(path.read_bytes())
    for at in range(4, len(data) // 2, 7):
        data[at] ^= 5
    path.write_bytes(data[: len(data) // 2] if harm == "cut off" else data)
    if harm == "flipped":  # as long as nobody has looked, its size tells nothing
        assert f"camtrap: {path}: is damaged" in refused(tmp_path, "catalog", code=1)
        assert call(tmp_path, "check", "--repair").returncode == 0
    done = call(tmp_path, "catalog")
    assert done.returncode == 0, done.stderr
    assert run.table("catalog").to_table().equals(before)
    assert call(tmp_path, "check").returncode == 0
    assert "nothing to do" in call(tmp_path, "validate").stderr


def test_a_damaged_card_of_a_model_is_named(merged: Path) -> None:
    found = merged / "run" / "models" / ("a" * 16) / "model.json"
    found.write_bytes(b'{"format": 1, "arch')
    assert f"camtrap: {found}: can't be read as a model's description" in refused(merged, "report", code=2)


def test_old_tables_without_checksums_are_read(merged: Path) -> None:
    """As an earlier version wrote them: no hash, no lease, no format."""
    run = run_of(merged)
    for path in [*run.folder.walk("receipts"), *run.folder.walk("snapshots")]:
        if path.endswith(".json"):
            record = json.loads(run.folder.read(path))
            for file in record["files"]:
                del file["sha256"]
            run.folder.write(path, json.dumps(record).encode())
    before = time.time_ns()
    for path in ("format.json", *run.folder.walk("lease")):
        run.folder.delete(path)
    done = call(merged, "merge")
    assert done.returncode == 0
    assert "nothing to do" in done.stderr
    assert all(
        path.stat().st_mtime_ns < before for path in (merged / "run" / "tables").rglob("*") if path.is_file()
    )


def test_check_names_what_is_damaged_and_has_it_made_again(
    job_folder: JobFolder, undisturbed: Path, tmp_path: Path
) -> None:
    """A manifest, the thumbnails of another shard, a receipt of a third; validate does these three again."""
    folder = job_folder()
    run = run_of(folder)
    shutil.rmtree(folder / "run" / "models")
    shutil.copytree(undisturbed / "run" / "models", folder / "run" / "models")
    done = call(folder, "check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("MB read: all is well\n")
    manifest, thumbnails = run.snapshot("manifest"), run.snapshot("thumbnails")
    flipped, zeroed = manifest.files[1].file, thumbnails.files[3].file
    (lost,) = run.folder.local("receipts/validate").glob(f"*/{shard_of(manifest.files[5].file)}.json")
    data = bytearray(run.folder.read(flipped))
    data[300] ^= 4
    run.folder.local(flipped).write_bytes(data)
    run.folder.local(zeroed).write_bytes(bytes(thumbnails.files[3].bytes))
    lost.write_bytes(lost.read_bytes()[:50])
    done = call(folder, "check")
    assert done.returncode == 1
    for path in (str(run.folder.local(flipped)), str(run.folder.local(zeroed)), str(lost)):
        assert sum(line.startswith(f"{path}: is ") for line in done.stdout.splitlines()) == 1, done.stdout
    before = receipts(folder, "validate")
    done = call(folder, "check", "--repair")
    assert done.returncode == 0, done.stdout
    assert "the next run redoes these shards: 3 of validate" in done.stdout
    done = call(folder, "validate", "--cluster", "inline")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b3 of \d\d shards run now", done.stderr), done.stderr
    after = receipts(folder, "validate")
    again = {shard_of(flipped), shard_of(zeroed), lost.stem}
    assert {Path(name).stem for name in after if after[name] != before.get(name)} == again
    found, expected = tables_of(folder), tables_of(undisturbed)
    for name in ("manifest", "thumbnails"):
        assert found[name].equals(expected[name])
    assert call(folder, "check").returncode == 0
    one = shard_of(manifest.files[0].file)
    done = call(folder, "validate", "--cluster", "inline", "--redo", f"validate:{one[:6]}")
    assert re.search(r"\b1 of \d\d shards run now", done.stderr), done.stderr
    assert call(folder, "validate", "--redo", "validate:nosuch").returncode == 2
