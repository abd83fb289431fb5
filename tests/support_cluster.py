"""A small job without training, the commands of a Dask cluster, and two hosts as network namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from distributed import Client, LocalCluster
from support import end_family, wait_until

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.store.run import Run


def write_job(folder: Path, images: int = 40, **validate: object) -> Run:
    """A data set of 40 photos in `folder`/data, its job in `folder`/job.yaml, and the catalog made."""
    write_dataset(folder / "data", cameras=4, images=images, size=(160, 120))
    job = {
        "name": "run",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 5, "thumbnails": 64, **validate},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    assert main(["catalog", str(folder / "job.yaml"), "--quiet"]) == 0
    return open_run(folder / "job.yaml")


def camtrap(stage: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "camtrap_batch", stage, str(folder / "job.yaml"), *options]


@contextmanager
def client_here(n_workers: int = 1, threads: int = 1) -> Iterator[Client]:
    """A cluster in this process, so that a test can reach into its workers."""
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=False,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@dataclass
class Started:
    """Processes of a Dask cluster, each below a command such as `ip netns exec NAME`."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def scheduler(self, *options: str, inside: Sequence[str] = ()) -> str:
        """Address of a new scheduler."""
        file = self.folder / f"scheduler-{len(self.processes)}.json"
        ports = ["--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(file)]
        self._start("scheduler", *ports, *options, inside=inside)
        wait_until(lambda: file.exists() and bool(file.read_text().strip()))
        return str(json.loads(file.read_text())["address"])

    def worker(self, address: str, *options: str, inside: Sequence[str] = (), **environment: str) -> None:
        """A new CPU worker."""
        common = ["--nthreads", "1", "--resources", "CPU=1", "--preload", "camtrap_batch.worker"]
        scratch = ["--no-dashboard", "--local-directory", str(self.folder)]
        self._start("worker", address, *common, *scratch, *options, inside=inside, **environment)

    def _start(self, command: str, *options: str, inside: Sequence[str], **environment: str) -> None:
        with (self.folder / f"dask-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*inside, sys.executable, "-m", "dask", command, *options],
                stdout=log,
                stderr=log,
                env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0", **environment},
            )
        self.processes.append(process)

    def stop(self) -> None:
        for process in self.processes:
            end_family(process)


def why_no_hosts() -> str | None:
    """Why no network namespaces can be made here; None where they can."""
    if shutil.which("ip") is None:
        return "not installed: ip (iproute2)"
    return None if os.geteuid() == 0 else "only root can make network namespaces"


@contextmanager
def two_hosts() -> Iterator[dict[str, list[str]]]:
    """Two hosts that know nothing but one another: address -> what a command on that host begins with."""
    names = [f"camtrap-{os.getpid()}-{side}" for side in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip(
            "link",
            "add",
            "veth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            names[1],
        )
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
            for device in ("lo", "veth0"):
                _ip("-n", name, "link", "set", device, "up")
        yield {address: ["ip", "netns", "exec", name] for name, address in zip(names, addresses, strict=True)}
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)
