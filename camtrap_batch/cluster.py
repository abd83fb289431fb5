"""The cluster file: where to run. Opens a Dask cluster of its kind, or connects to one."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
from pydantic import Field, field_validator, model_validator

from camtrap_batch.errors import ClusterError, choices
from camtrap_batch.yamlfile import Section, parse, read_yaml

if TYPE_CHECKING:  # a cluster file is read by each command, a cluster opened by few
    from distributed import Client, SpecCluster

_LEAST_MEMORY = 200_000_000  # bytes that a worker needs before it has read an image
_ADDRESS = re.compile(r"(tcp|tls|wss?|ucx)://.+:\d+")
_CONNECT_S = 10.0  # a scheduler with an address is running already


class Workers(Section):
    workers: int | Literal["auto"] = Field("auto", description="worker processes; auto: one for each core")
    threads: int = Field(1, ge=1, description="threads of each")
    memory: str = Field(
        "auto", description="limit of each, such as 4GiB; auto: an equal share of the machine's"
    )

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{value}: should be 0 or more, or auto")
        return value

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str) -> str:
        from dask.utils import parse_bytes

        if value != "auto":
            try:
                enough = parse_bytes(value) >= _LEAST_MEMORY
            except ValueError:
                enough = False
            if not enough:
                raise ValueError(
                    f"{value!r}: should be an amount of memory such as 4GiB, at least 200MB, or auto"
                )
        return value


class Tls(Section):
    ca_file: str = Field(description="certificate of the authority")
    cert: str = Field(description="certificate of this side")
    key: str = Field(description="private key of this side")


class Local(Section):
    kind: Literal["local"] = Field("local", description="processes of this machine")
    cpu: Workers = Field(
        default_factory=Workers, description="workers that validate and, without a GPU, classify"
    )
    gpu: Workers = Field(Workers(workers=1), description="workers that hold GPU=1 and train")
    dashboard: str = Field(
        ":8787", description="address of the Dask dashboard; another port where it is taken"
    )
    wait_s: float = Field(60, gt=0, strict=False, description="seconds to wait for a worker of a needed kind")


class Address(Section):
    kind: Literal["address"] = Field("address", description="a cluster that is running already")
    address: str | None = Field(None, description="of its scheduler, such as tcp://host:8786")
    scheduler_file: str | None = Field(None, description="file that its scheduler wrote; instead of address")
    security: Tls | None = Field(None, description="TLS certificates, where the cluster wants them")
    wait_s: float = Field(
        60,
        gt=0,
        strict=False,
        description="seconds to wait for scheduler_file, and for a needed worker",
    )

    @field_validator("address")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r}: should look like tcp://host:8786")
        return value

    @model_validator(mode="after")
    def _one(self) -> Address:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("give either address or scheduler_file")
        return self


KINDS: dict[str, type[Local | Address]] = {"local": Local, "address": Address}


def load_cluster(spec: str | None) -> Local | Address:
    """The cluster that `--cluster` names: a cluster file, a scheduler's address, or None for this machine.

    Raises
    ------
    ClusterError
        There is no such file, or a key or value in it is wrong.
    """
    if spec is None:
        return Local()
    if "://" in spec:
        return parse(Address, {"kind": "address", "address": spec}, "--cluster", {}, ClusterError)
    path = Path(spec)
    content, lines = read_yaml(path, ClusterError)
    kind = content.get("kind", "local")
    if not isinstance(kind, str) or kind not in KINDS:
        line = f":{lines['kind',]}" if ("kind",) in lines else ""
        raise ClusterError(f"{path}{line}: kind: {kind!r} is not possible; {choices(str(kind), KINDS)}")
    return parse(KINDS[kind], content, str(path), lines, ClusterError)


class ClusterHandle:
    """A cluster that is opened when the first stage needs it, and closed at the end.

    `announce` is called once, with the client.
    """

    def __init__(self, spec: Local | Address, announce: Any) -> None:
        self.spec, self._announce = spec, announce
        self._stack = ExitStack()
        self._client: Client | None = None

    @property
    def wait_s(self) -> float:
        return self.spec.wait_s

    def client(self) -> Client:
        """A client of the cluster. Raises ClusterError where it can't be reached."""
        if self._client is None:
            self._client = self._stack.enter_context(open_cluster(self.spec))
            self._announce(self._client)
        return self._client

    def __enter__(self) -> ClusterHandle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()


@contextmanager
def open_cluster(spec: Local | Address) -> Iterator[Client]:
    """A client of the cluster that `spec` describes; what was started for it ends with the block."""
    import dask
    from distributed import Client

    with dask.config.set(_SETTINGS | (_LOCAL_SETTINGS if isinstance(spec, Local) else {})), _quiet():
        if isinstance(spec, Local):
            with _without_ctrl_c():
                started = _start_local(spec)
            try:
                with started as cluster, Client(cluster, set_as_default=False) as client:
                    yield client
            except KeyboardInterrupt:
                # Else Dask waits 10 s at exit for what is closing; workers end when they lose this process.
                started.shutdown_on_close = False
                raise
        else:
            with _connect(spec) as client:
                yield client


_SETTINGS = {
    # Losses are counted by the driver, which knows what to make of them.
    "distributed.scheduler.allowed-failures": 0,
    # A worker that stands still has its nanny restart it after so long without a heartbeat; 5 minutes else.
    "distributed.scheduler.worker-ttl": "2 minutes",
    # Tasks return receipts: there is nothing to spill, and what grows is the task itself.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.preload": ["camtrap_batch.worker"],
    # Every 10 ms, the default, takes a tenth of a training task's time.
    "distributed.worker.profile.interval": "100ms",
    # What every process does many times a second, busy or not: a twentieth of two cores by default.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "200ms",
    "distributed.comm.timeouts.connect": "20s",
}

_LOCAL_SETTINGS = {
    # 15 s after a worker's death Dask looks whether there is one of its name, and gives the place up for ever
    # where that one has just died as well. Nannies bring theirs back by themselves.
    "distributed.deploy.lost-worker-timeout": "365 days",
}


def _start_local(spec: Local) -> SpecCluster:
    from dask.utils import parse_bytes
    from distributed import Nanny, Scheduler, SpecCluster

    cores = len(os.sched_getaffinity(0))
    groups = {"CPU": spec.cpu, "GPU": spec.gpu}
    numbers = {name: cores if group.workers == "auto" else group.workers for name, group in groups.items()}
    share = psutil.virtual_memory().total // max(1, sum(numbers.values()))
    workers = {
        f"{name.lower()}-{index}": {
            "cls": Nanny,
            "options": {
                "nthreads": group.threads,
                "memory_limit": share if group.memory == "auto" else parse_bytes(group.memory),
                "resources": {name: group.threads if name == "CPU" else 1},
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            },
        }
        for name, group in groups.items()
        for index in range(numbers[name])
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": spec.dashboard, "host": "127.0.0.1"}}
    try:
        return SpecCluster(
            workers=workers, scheduler=scheduler, name="camtrap", silence_logs=logging.CRITICAL
        )
    except (RuntimeError, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise ClusterError(
            f"no cluster can be started here with this `dashboard` and `memory`: {reason}"
        ) from None


def _connect(spec: Address) -> Client:
    from distributed import Client
    from distributed.security import Security

    tls = spec.security
    security = (
        Security(
            tls_ca_file=tls.ca_file, tls_client_cert=tls.cert, tls_client_key=tls.key, require_encryption=True
        )
        if tls
        else None
    )
    address = spec.address or _read_address(Path(str(spec.scheduler_file)), spec.wait_s)
    try:
        return Client(
            address,
            security=security,
            timeout=min(_CONNECT_S, spec.wait_s),
            set_as_default=False,
        )
    except (OSError, TimeoutError, ValueError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ClusterError(f"no scheduler answers at {address}: {reason}") from None


def _read_address(scheduler_file: Path, wait_s: float) -> str:
    """The address in a scheduler's file, which may still be about to be written."""
    deadline = time.monotonic() + wait_s
    while not scheduler_file.exists():
        if time.monotonic() >= deadline:
            raise ClusterError(f"{scheduler_file}: no such file after {wait_s:.0f} s (scheduler_file)")
        time.sleep(0.2)
    try:
        return str(json.loads(scheduler_file.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(
            f"{scheduler_file}: names no address; it should be what `dask scheduler --scheduler-file` writes"
        ) from None


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back until the block is left; threads and processes that begin in it never get it.

    A terminal sends Ctrl-C to all processes, and a worker that is only starting would die of it.
    """
    resource_tracker.ensure_running()  # when it starts, it lets Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Distributed's loggers say on stderr what the driver reports by itself (lost workers, lost links)."""
    # Those to which Distributed gives a handler of their own.
    loggers = [
        logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
