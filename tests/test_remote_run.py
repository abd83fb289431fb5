"""Images and run folder in a bucket, through the command and real workers; a disk that is full."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import s3fs
import yaml
from support import PATIENCE_S, Processes, command, run_of, wait_until
from support_http import web_server

from camtrap_batch.cli import main
from camtrap_batch.rehearsal import write_dataset

pytestmark = pytest.mark.timeout(240)

Write = Callable[..., Path]
Camtrap = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, cameras=4, images=120, size=(320, 240))
    return folder


@pytest.fixture
def write_job(data: Path, tmp_path: Path) -> Write:
    def write(name: str, output: str | None = None, **dataset: Any) -> Path:
        """Folder of a job file, whose catalog is made."""
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        job = {
            "name": "run",
            "output": output or str(folder),
            "dataset": {
                "format": "cct",
                "metadata": str(data / "metadata.json"),
                "images": str(data / "images"),
                **dataset,
            },
            "validate": {"shard_size": 6, "thumbnails": 96},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        assert main(["catalog", str(folder / "job.yaml")]) == 0
        return folder

    return write


def call(folder: Path, stage: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, stage, *options), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def finished(folder: Path, stage: str, *options: str) -> str:
    done = call(folder, stage, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def manifest_of(folder: Path) -> pa.Table:
    """Without what tells where the files are, and who made the row."""
    return run_of(folder).table("manifest").to_table().drop_columns(["thumbnail_file", "modified"])


def assert_the_same_images(elsewhere: pa.Table, on_disk: pa.Table) -> None:
    """Row by row; but a folder that is called x.jpg is no file elsewhere, and on the web a page."""
    is_folder = pc.equal(on_disk["detail"], "Is a directory").fill_null(False)
    assert pc.sum(is_folder).as_py() == 1
    assert elsewhere.filter(is_folder)["status"].to_pylist() in (["missing"], ["not_image"])
    is_file = pc.invert(is_folder)
    assert elsewhere.filter(is_file).to_pylist() == on_disk.filter(is_file).to_pylist()


def receipts_of(folder: Path) -> list[str]:
    return list(run_of(folder).folder.walk("receipts/validate"))


@pytest.fixture
def s3_job(bucket: str, data: Path, write_job: Write) -> Path:
    """A job whose images and run folder are in a bucket."""
    s3fs.S3FileSystem().put(f"{data}/images/", f"{bucket}/photos", recursive=True)
    return write_job("s3", output=f"{bucket}/runs", images=f"{bucket}/photos")


@pytest.fixture
def s3_processes(s3_job: Path) -> Iterator[Processes]:
    """Workers that the bucket is open to."""
    with Processes(s3_job) as cluster:
        yield cluster


def test_a_run_in_a_bucket_killed_and_continued(
    s3_job: Path, s3_processes: Processes, write_job: Write, camtrap: Camtrap
) -> None:
    cluster = ["--cluster", s3_processes.address]

    def start_and_wait(shards: int) -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            command(s3_job, "validate", *cluster), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

        def in_the_middle() -> bool:
            assert driver.poll() is None, driver.communicate()
            return len(receipts_of(s3_job)) >= shards

        wait_until(in_the_middle)
        return driver

    driver = start_and_wait(2)
    driver.kill()
    driver.communicate()
    assert run_of(s3_job).current("manifest") is None
    before = {path: run_of(s3_job).folder.read(path) for path in receipts_of(s3_job)}
    driver = start_and_wait(len(before) + 2)
    os.kill(s3_processes.worker_process(0), signal.SIGKILL)
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, errors
    for path, receipt in before.items():
        assert run_of(s3_job).folder.read(path) == receipt, "a finished shard was done again"

    status = camtrap("status", s3_job / "job.yaml")
    assert (status.returncode, status.stderr) == (0, "")
    assert "done" in status.stdout
    assert "120/120" in status.stdout
    versions = {path: s3fs.S3FileSystem().info(path)["ETag"] for path in everything(s3_job)}
    assert "nothing to do" in finished(s3_job, "validate", *cluster)
    assert {path: s3fs.S3FileSystem().info(path)["ETag"] for path in everything(s3_job)} == versions

    undisturbed = write_job("disk")
    finished(undisturbed, "validate", *cluster)
    assert_the_same_images(manifest_of(s3_job), manifest_of(undisturbed))
    assert (
        run_of(s3_job)
        .table("thumbnails")
        .to_table()
        .equals(run_of(undisturbed).table("thumbnails").to_table())
    )
    assert camtrap("gc", s3_job / "job.yaml").returncode == 0
    assert manifest_of(s3_job).num_rows == 120


def everything(folder: Path) -> list[str]:
    run = run_of(folder)
    return [f"{run.folder.url}/{path}" for path in run.folder.walk()]


def test_images_elsewhere_are_the_same_images(
    data: Path,
    tmp_path: Path,
    write_job: Write,
    processes: Processes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = ["--cluster", processes.address]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in (data / "images").rglob("*"):
            archive.write(path, Path("photos", path.relative_to(data / "images")))
    manifests = {}
    with web_server(data / "images") as server:
        for name, images in {
            "disk": str(data / "images"),
            "zip": str(tmp_path / "photos.zip"),
            "web": f"{server.url('503x1')}?sig=hush",
        }.items():
            folder = write_job(name, images=images)
            said = finished(folder, "validate", *cluster) + "".join(capsys.readouterr())
            assert "catalog" in said
            manifests[name] = manifest_of(folder)
            assert "hush" not in said
        kept = run_of(folder).folder
        assert not [path for path in kept.walk() if b"hush" in kept.read(path)]
    assert_the_same_images(manifests["zip"], manifests["disk"])
    assert_the_same_images(manifests["web"], manifests["disk"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.5 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk"
)
def test_a_full_disk(small_disk: Path, write_job: Write) -> None:
    folder = write_job("full", output=str(small_disk))
    ballast = small_disk / "ballast"
    room = shutil.disk_usage(small_disk).free
    ballast.write_bytes(bytes(room - 150_000))
    full = call(folder, "validate")
    assert full.returncode == 1
    (last,) = full.stderr.strip().splitlines()[-1:]
    assert last.startswith(f"camtrap: {small_disk}/run: no space left on the disk")
    assert "make room and run the same command again" in last
    assert "Traceback" not in full.stderr
    run = run_of(folder)
    assert run.current("manifest") is None
    for path in run.folder.walk("tables"):
        assert pq.read_metadata(run.folder.local(path)).num_rows > 0
    assert run.folder.list("tmp") == []
    before = receipts_of(folder)
    ballast.unlink()
    finished(folder, "validate")
    assert set(before) <= set(receipts_of(folder))
    assert manifest_of(folder).num_rows == 120
