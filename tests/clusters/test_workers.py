"""Workers that are not fit for the work: other versions, a disk that is not mounted, no worker at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from distributed import Client
from support import wait_until
from support_cluster import Started, camtrap, write_job

from camtrap_batch.cli import main
from camtrap_batch.engine.dask import fitness
from camtrap_batch.engine.dask.performance import performance_report
from camtrap_batch.engine.visibility import Visibility
from camtrap_batch.errors import ClusterError, UnfitWorker
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan

pytestmark = pytest.mark.timeout(180)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a disk away from a process")


def validate(folder: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = camtrap("validate", folder, "--cluster", address, "--quiet", *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def without(folder: Path) -> list[str]:
    """What a command begins with that shall find an empty folder there, as where a disk is not mounted."""
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh"]


def has_workers(address: str, number: int) -> None:
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(number, timeout=60)


@needs_root
def test_a_worker_that_cannot_see_the_images(started: Started, tmp_path: Path) -> None:
    write_job(tmp_path)
    images = tmp_path / "data" / "images"
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address)
    started.worker(address, inside=without(images))
    has_workers(address, 2)
    refused = validate(tmp_path, address)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f"{images}: is an empty folder (dataset.images); is the disk mounted?" in refused.stderr
    assert f"on host {os.uname().nodename} can't see" in refused.stderr
    assert not list((tmp_path / "run" / "receipts" / "validate").glob("*/*"))


@needs_root
def test_a_worker_that_cannot_see_the_run_folder(started: Started, tmp_path: Path) -> None:
    run = write_job(tmp_path)
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, inside=without(tmp_path / "run"))
    has_workers(address, 1)
    refused = validate(tmp_path, address)
    assert refused.returncode == 2, refused.stderr
    assert f"in the run folder {run.folder.url} (output)" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


@needs_root
def test_of_workers_that_join_late_the_fit_ones_take_part(started: Started, tmp_path: Path) -> None:
    """One without the disk would call each image missing: it is turned away, and the job goes on."""
    run = write_job(tmp_path, images=200, shard_size=1)
    images = tmp_path / "data" / "images"
    receipts = tmp_path / "run" / "receipts" / "validate"
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, "--name", "first")
    has_workers(address, 1)
    command = camtrap("validate", tmp_path, "--cluster", address)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_until(lambda: any(receipts.glob("*/*")))
        driver.send_signal(signal.SIGSTOP)  # it goes on when the others are there
        started.worker(address, "--name", "late")
        started.worker(address, "--name", "blind", inside=without(images))
        has_workers(address, 3)
        driver.send_signal(signal.SIGCONT)
        said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    assert "turned away: worker tcp://127.0.0.1" in said
    assert f"{images}: is an empty folder (dataset.images); is the disk mounted?" in said
    rows = run.table("manifest").to_table(columns=["file_name", "status"]).to_pylist()
    assert len(rows) == 200
    assert not [row for row in rows if row["status"] == "missing" and (images / row["file_name"]).exists()]
    workers = {json.loads(path.read_text())["worker"].partition("@")[0] for path in receipts.glob("*/*")}
    assert workers == {"first", "late"}


def test_versions_that_differ_are_named_one_by_one(started: Started, tmp_path: Path) -> None:
    """An older simplejpeg and pandas, as a worker's environment describes them."""
    write_job(tmp_path)
    for package, version in (("simplejpeg", "1.0.1"), ("pandas", "2.2.0")):
        folder = tmp_path / "old" / f"{package}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    path = os.pathsep.join([str(tmp_path / "old"), *filter(None, [os.environ.get("PYTHONPATH")])])
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, PYTHONPATH=path)
    has_workers(address, 1)
    refused = validate(tmp_path, address)
    assert refused.returncode == 2, refused.stderr
    assert "simplejpeg 1.0.1 there" in refused.stderr
    assert "pandas 2.2.0 there" in refused.stderr
    assert "numpy" not in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr


# What Distributed says of it by itself, to whoever connects.
other_versions = pytest.mark.filterwarnings("ignore:Mismatched versions")


@other_versions
def test_one_that_stands_still_keeps_no_other_from_being_checked(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two workers, one runs an older pandas, and the other does not answer."""
    folder = tmp_path / "old" / "pandas-2.2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pandas\nVersion: 2.2.0\n")
    path = os.pathsep.join([str(tmp_path / "old"), *filter(None, [os.environ.get("PYTHONPATH")])])
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, "--name", "old", PYTHONPATH=path)
    started.worker(address, "--name", "still")
    has_workers(address, 2)
    run_folder = Folder(str(tmp_path / "run"))
    run_folder.write("plan", b"")
    needs = fitness.Needs.make(Visibility.make(run_folder, "plan", None))
    with Client(address, set_as_default=False) as client:
        workers = {info["name"]: where for where, info in client.scheduler_info()["workers"].items()}
        pid = client.run(os.getpid, workers=[workers["still"]])[workers["still"]]
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(fitness, "_PATIENCE_S", 5.0)
        try:
            unfit = fitness.unfit_workers(client, workers.values(), needs)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert list(unfit.wrong) == [workers["old"]]
    assert "pandas 2.2.0 there" in unfit.wrong[workers["old"]]
    assert unfit.unable == {}


def test_an_error_does_not_wait_long_for_one_that_stands_still(started: Started, tmp_path: Path) -> None:
    """The performance report, which asks every worker, waited a minute for it."""
    run, plan = write_job(tmp_path), Plan.make("validate", [], {})
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address)
    has_workers(address, 1)
    with Client(address, set_as_default=False) as client:
        (pid,) = client.run(os.getpid).values()
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            with (
                pytest.raises(ClusterError, match="other versions"),
                performance_report(client, run, plan, threading.Event()),
            ):
                raise ClusterError("other versions")
        finally:
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 40


@other_versions
def test_a_worker_that_could_not_answer_looks_by_itself(started: Started, tmp_path: Path) -> None:
    """At its versions, too, before its own first shard."""
    folder = tmp_path / "old" / "pandas-2.2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: pandas\nVersion: 2.2.0\n")
    path = os.pathsep.join([str(tmp_path / "old"), *filter(None, [os.environ.get("PYTHONPATH")])])
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, PYTHONPATH=path)
    run_folder = Folder(str(tmp_path / "run"))
    run_folder.write("plan", b"")
    needs = fitness.Needs.make(Visibility.make(run_folder, "plan", None))
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(UnfitWorker, match=r"runs other versions than this machine: pandas 2\.2\.0 there"):
            client.submit(needs.check, "tcp://it").result(timeout=60)


def test_one_that_computes_otherwise_is_turned_away(started: Started, tmp_path: Path) -> None:
    """A worker without OpenVINO would compute in what else it has: other answers in the last digits."""
    pytest.importorskip("openvino", reason="the extra 'onnx' is not installed")
    from support_onnx import spot_detector

    run = write_job(tmp_path, shard_size=40)
    spot_detector(tmp_path / "spots.onnx")
    job = tmp_path / "job.yaml"
    job.write_text(job.read_text() + "detect: {model: spots.onnx, shard_size: 4}\n")
    assert main(["validate", str(job), "--cluster", "inline", "--quiet"]) == 0
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    path = os.pathsep.join([str(tmp_path / "bare"), *filter(None, [os.environ.get("PYTHONPATH")])])
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, "--name", "bare", PYTHONPATH=path)
    has_workers(address, 1)
    command = camtrap("detect", tmp_path, "--cluster", address)
    alone = subprocess.run([*command, "--quiet"], capture_output=True, text=True, timeout=120)
    assert alone.returncode == 2, alone.stderr
    assert alone.stderr.count("\n") == 1, alone.stderr
    assert f"on host {os.uname().nodename} " in alone.stderr
    assert "ONNX files" in alone.stderr
    assert "install the" in alone.stderr
    started.worker(address, "--name", "whole")
    has_workers(address, 2)
    both = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert both.returncode == 0, both.stderr
    assert "turned away: worker tcp://127.0.0.1" in both.stdout + both.stderr
    receipts = (tmp_path / "run" / "receipts" / "detect").glob("*/*")
    assert {json.loads(path.read_text())["worker"].partition("@")[0] for path in receipts} == {"whole"}
    assert run.table("detected").count_rows() > 20


def test_nobody_offers_what_is_needed(started: Started, tmp_path: Path) -> None:
    write_job(tmp_path)
    file = tmp_path / "cluster.yaml"
    file.write_text(f"kind: address\naddress: {started.scheduler('--host', '127.0.0.1')}\nwait_s: 1\n")
    refused = validate(tmp_path, str(file))
    assert refused.returncode == 3, refused.stderr
    assert "no worker offers CPU=1 after 1 s; there are: no workers at all" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
