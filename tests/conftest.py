"""What several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from camtrap_batch.cluster import Local, Workers, open_cluster
from camtrap_batch.store.folder import Folder

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in workers, see camtrap_batch/worker.py

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A run folder on disk, and one that is reached through fsspec alone."""
    if request.param == "disk":
        return Folder(str(tmp_path / "run"))
    return Folder(f"memory://{tmp_path.name}/run")


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A local cluster of separate processes: two CPU workers and one that holds GPU=1."""
    spec = Local(cpu=Workers(workers=2), gpu=Workers(workers=1), dashboard="127.0.0.1:0")
    with open_cluster(spec) as client:
        yield client


@pytest.fixture(scope="session")
def real_images() -> Path:
    """24 real camera-trap photos with cct.json."""
    folder = SHARED / "real_images"
    if not folder.is_dir():
        pytest.skip("the real photos (../shared/real_images) are not there")
    return folder
