"""What several rooms' tests share."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client
from hypothesis import HealthCheck, settings
from support import Processes, command, data_folder
from support_cluster import Started
from support_s3 import ENVIRONMENT, s3_server

from camtrap_batch.cli import main
from camtrap_batch.cluster import Local, Workers, open_cluster
from camtrap_batch.pipeline import STAGES
from camtrap_batch.registry import Registry, registry
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.store.folder import Folder

# No test is timed: a loaded machine draws data slowly, which says nothing about what is tested.
settings.register_profile("camtrap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("camtrap")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in workers, see camtrap_batch/worker.py

_MODIFIED = 1_719_792_000  # seconds since 1970: when the images of the old job were modified


TOGETHER = ("undisturbed", "trained")
"""Fixtures that take long to make: pytest-xdist runs all files that name one of them in one process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """File by file, so that a module's fixtures are made once, but for the files of `TOGETHER`."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return group_of(config.rootpath / file) or file

    return Files(config, log) if config.getoption("dist") == "loadfile" else None


@functools.cache
def group_of(file: Path) -> str | None:
    """The first fixture of `TOGETHER` that a test of the file takes."""
    text = file.read_text()
    return next((name for name in TOGETHER if re.search(rf"\b{name}: ", text)), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, where processes share the tests, so that none is left with one at the end."""

    def limit(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return marker.args[0] if marker else 0.0

    if hasattr(config, "workerinput"):
        items.sort(key=limit, reverse=True)


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str, str], None]:
    """Installs a package beside ours, for one test: its module, the module's text, a group of entry points,
    and the lines of that group."""

    def install(module: str, text: str, group: str, lines: str) -> None:
        (info := tmp_path / "site" / f"{module}-1.0.dist-info").mkdir(parents=True)
        (info.parent / f"{module}.py").write_text(text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        monkeypatch.syspath_prepend(str(info.parent))
        ours = STAGES if group == STAGES.group else registry(group)
        monkeypatch.setitem(vars(ours), "_entries", Registry(group, ours._ours)._entries)

    return install


@pytest.fixture
def camtrap(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, in this process."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        arguments = [str(word) for word in words]
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A run folder on disk, one that is reached through fsspec alone, and one in a bucket."""
    if request.param == "disk":
        return Folder(str(tmp_path / "run"))
    if request.param == "memory":
        return Folder(f"memory://{tmp_path.name}/run")
    return Folder(f"{request.getfixturevalue('bucket')}/runs/run")


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A local cluster of separate processes: two CPU workers and one that holds GPU=1."""
    spec = Local(cpu=Workers(workers=2), gpu=Workers(workers=1), dashboard="127.0.0.1:0")
    with open_cluster(spec) as client:
        yield client


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Real camera-trap photos with cct.json: all 24, or in a clone alone nine of them."""
    return data_folder("real_images")


@pytest.fixture(scope="session")
def camtrap_dp_example() -> Path:
    """The official Camtrap DP example: 423 media of four deployments."""
    return data_folder("camtrap-dp-1.0.2") / "example"


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3 server on loopback."""
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3_address: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty bucket, to which the environment of this process leads."""
    import s3fs

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3_address}.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    name = f"b{abs(hash(request.node.nodeid)):x}"
    s3fs.S3FileSystem(anon=False).mkdir(name)
    yield f"s3://{name}"
    forget_connections()


def forget_connections() -> None:
    """Let what is opened from now on see the environment as it is now."""
    import s3fs

    from camtrap_batch.images.sources import root

    root._open.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set (`data`), a job file, and the run folder (`run`) of the whole job."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_dataset(folder / "data", cameras=8, images=400, size=(320, 240))
    job = {
        "name": "run",
        "output": str(folder),
        "dataset": {
            "format": "cct",
            "metadata": "data/metadata.json",
            "images": "data/images",
            "cameras": "data/cameras.csv",
        },
        "validate": {"shard_size": 10, "thumbnails": 96},
        "select": {"classes": ["panthera leo", "loxodonta africana"], "split": {"by": "random"}},
        "train": {"arch": "resnet18", "weights": "none", "size": 64, "epochs": 1, "batch": 16, "lr": 0.001},
        "infer": {"min_confidence": 0.0, "batch": 8},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = subprocess.run(command(folder, "reprocess"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def job_folder(undisturbed: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the undisturbed run as it was before some stages, without a log; `data` is shared."""

    def make(*stages: str) -> Path:
        folder = tmp_path / "job"
        folder.mkdir()
        (folder / "data").symlink_to(undisturbed / "data")
        job = yaml.safe_load((undisturbed / "job.yaml").read_text())
        (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
        shutil.copytree(undisturbed / "run", folder / "run", ignore=shutil.ignore_patterns("log.jsonl"))
        tables = {"validate": ["manifest", "thumbnails"], "infer": ["predictions"]}
        for stage in stages:
            shutil.rmtree(folder / "run" / "receipts" / stage)
            shutil.rmtree(folder / "run" / "plans" / stage)
            for table in tables[stage]:
                shutil.rmtree(folder / "run" / "snapshots" / table)
                shutil.rmtree(folder / "run" / "tables" / table)
        return folder

    return make


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the job that commit 6a7384e did (see tests/old_run), its images as old as they were."""
    folder = tmp_path / "old"
    shutil.copytree(Path(__file__).with_name("old_run"), folder)
    for root, folders, files in os.walk(folder / "data"):
        for name in (*folders, *files):
            os.utime(Path(root) / name, (_MODIFIED, _MODIFIED))
    return folder


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Processes of a cluster, ended with the test."""
    (tmp_path / "dask").mkdir()
    started = Started(tmp_path / "dask")
    try:
        yield started
    finally:
        started.stop()
