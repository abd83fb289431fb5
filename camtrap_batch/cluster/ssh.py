"""Kind ssh: workers on machines that this one reaches through ssh; Dask's own classes start them."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator

from camtrap_batch.cluster.sections import (
    Duration,
    MemoryOrAuto,
    Opened,
    OwnCluster,
    Threads,
    lifetime_arguments,
)
from camtrap_batch.errors import ClusterError, MissingExtra
from camtrap_batch.yamlfile import Section

if TYPE_CHECKING:
    from distributed import SpecCluster

# In a folder that nobody else can open or has created; it may be this machine's own.
_KEEP = "umask 077; mkdir {folder} 2>/dev/null; [ -O {folder} ] && cat > {folder}/{file}"


class HostGroup(Section):
    hosts: list[str] = Field(default_factory=list, description="names or addresses of machines")
    workers: int = Field(1, ge=1, description="worker processes on each host")
    threads: Threads = Field(1, description="threads of each worker")
    memory: MemoryOrAuto = Field(
        "auto", description="memory limit of each, such as 4GiB; auto: by its threads"
    )


class Connect(Section):
    port: int = Field(22, ge=1, le=65535, description="port of the ssh servers")
    username: str | None = Field(None, description="user; absent: as for ssh, including ~/.ssh/config")
    client_keys: list[str] = Field(default_factory=list, description="key files; absent: as for ssh")
    known_hosts: str | None = Field(None, description="file of host keys; absent: ~/.ssh/known_hosts")
    timeout_s: float = Field(20, gt=0, strict=False, description="seconds to wait for a connection")

    def options(self) -> dict[str, Any]:
        """Arguments of `asyncssh.connect`. An unknown host key is refused."""
        chosen: dict[str, Any] = {"port": self.port, "login_timeout": self.timeout_s}
        chosen["connect_timeout"] = self.timeout_s
        if self.username:
            chosen["username"] = self.username
        if self.client_keys:
            chosen["client_keys"] = [str(Path(file).expanduser()) for file in self.client_keys]
        if self.known_hosts:
            chosen["known_hosts"] = str(Path(self.known_hosts).expanduser())
        return chosen


class Ssh(OwnCluster):
    kind: Literal["ssh"] = Field(description="machines that are reached through ssh")
    cpu: HostGroup = Field(description="hosts that validate and, without a GPU, classify")
    gpu: HostGroup = Field(default_factory=HostGroup, description="hosts whose workers hold GPU=1 and train")
    scheduler: str | None = Field(None, description="host of the scheduler; absent: the first of cpu.hosts")
    python: str | None = Field(None, description="Python on the hosts; absent: the path of this one")
    connect: Connect = Field(default_factory=Connect, description="how the hosts are reached")
    lifetime: Duration | None = Field(
        None, description="time after which a worker process leaves in order and is restarted, such as 6h"
    )
    dashboard: str = Field("127.0.0.1:8787", description="address of the dashboard on the scheduler's host")

    @field_validator("cpu")
    @classmethod
    def _has_hosts(cls, value: HostGroup) -> HostGroup:
        if not value.hosts:
            raise ValueError("hosts: name at least one")
        return value

    @contextmanager
    def open(self) -> Opened:
        from camtrap_batch.cluster.started import client_of

        require_asyncssh()
        self._check_files()
        with client_of(self._start, self._cant_start()) as client:
            yield client

    @contextmanager
    def secured(self) -> Iterator[Self]:
        with super().secured() as secured:
            if self.security is not None or secured.security is None:
                yield secured
                return
            require_asyncssh()
            self._check_files()
            file = Path(secured.security.key)
            self._on_hosts(
                _KEEP.format(folder=shlex.quote(str(file.parent)), file=file.name), file.read_bytes()
            )
            try:
                yield secured
            finally:
                with suppress(ClusterError):  # a host is gone
                    self._on_hosts(f"rm -rf {shlex.quote(str(file.parent))}", b"")

    def _check_files(self) -> None:
        for file in [*self.connect.client_keys, self.connect.known_hosts]:
            if file is not None and not Path(file).expanduser().is_file():
                raise ClusterError(f"{file}: no such file (connect)")

    def private_folder(self) -> Path:
        return Path("/tmp")  # noqa: S108 - on each host; the folder in it is new, and only ours

    def _on_hosts(self, command: str, given: bytes) -> None:
        """Run a shell command on each host. Raises ClusterError if one fails."""
        import asyncssh

        from camtrap_batch.cluster.started import reason_of

        hosts = sorted({self._scheduler_host(), *self.cpu.hosts, *self.gpu.hosts})

        async def run(host: str) -> None:
            try:
                async with asyncssh.connect(host, **self.connect.options()) as connection:
                    await connection.run(command, input=given, encoding=None, check=True)
            except asyncssh.ProcessError as problem:
                raise ClusterError(
                    f"{self._cant_start()}: {host} can't keep a certificate: exit code {problem.code}"
                ) from None
            except (OSError, asyncssh.Error) as problem:
                raise ClusterError(f"{self._cant_start()}: {reason_of(problem)}") from None

        async def run_all() -> None:
            await asyncio.gather(*(run(host) for host in hosts))

        with ThreadPoolExecutor(1) as pool:  # this thread may have a running loop, as in a notebook
            pool.submit(asyncio.run, run_all()).result()

    def _scheduler_host(self) -> str:
        return self.scheduler or self.cpu.hosts[0]

    def _cant_start(self) -> str:
        hosts = ", ".join([*self.cpu.hosts, *self.gpu.hosts])
        return f"no cluster can be started through ssh on {hosts} (port {self.connect.port})"

    def _start(self) -> SpecCluster:
        from distributed.deploy.ssh import Scheduler, Worker

        from camtrap_batch.cluster.started import StartedCluster

        python = shlex.quote(self.python) if self.python else None
        common = {"connect_options": self.connect.options(), "remote_python": python}
        # Dask's function SSHCluster gives all of its hosts the same resources; its classes do not.
        workers = {
            f"{name.lower()}-{index}": {
                "cls": Worker,
                "options": {
                    **common,
                    "address": host,
                    "kwargs": {
                        "n_workers": group.workers,
                        "nthreads": group.threads,
                        "memory_limit": group.memory,
                        "resources": {name: group.threads if name == "CPU" else 1},
                        "dashboard": False,
                        "dashboard_address": "127.0.0.1:0",
                        **lifetime_arguments(self.lifetime),
                    },
                },
            }
            for name, group in {"CPU": self.cpu, "GPU": self.gpu}.items()
            for index, host in enumerate(group.hosts)
        }
        scheduler = {
            "cls": Scheduler,
            "options": {
                **common,
                "address": self._scheduler_host(),
                "kwargs": {
                    "dashboard_address": self.dashboard,
                    "protocol": "tls://" if self.security else "tcp://",
                },
            },
        }
        return StartedCluster(workers, scheduler, keep=False)


def require_asyncssh() -> None:
    if find_spec("asyncssh") is None:
        raise MissingExtra("ssh", "a cluster file of kind ssh")
