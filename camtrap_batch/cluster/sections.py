"""What several kinds of cluster files have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from camtrap_batch.cluster.settings import Tls
from camtrap_batch.phases import STALL_S
from camtrap_batch.yamlfile import Section

if TYPE_CHECKING:
    from distributed import Client

_LEAST_MEMORY = 200_000_000  # bytes that a worker needs before it reads any image


def _amount(value: str) -> str:
    from dask.utils import parse_bytes

    try:
        enough = parse_bytes(value) >= _LEAST_MEMORY
    except ValueError:
        enough = False
    if not enough:
        raise ValueError(f"{value!r}: should be an amount of memory such as 4GiB, at least 200MB")
    return value


def _amount_or_auto(value: str) -> str:
    try:
        return value if value == "auto" else _amount(value)
    except ValueError as problem:
        raise ValueError(f"{problem}, or auto") from None


def _duration(value: str) -> str:
    from dask.utils import parse_timedelta

    try:
        seconds = parse_timedelta(value, default=False)
    except (ValueError, KeyError, TypeError):
        seconds = 0
    if seconds <= 0:
        raise ValueError(f"{value!r}: should be a time such as 90min or 6h")
    return value


Memory = Annotated[str, AfterValidator(_amount)]
MemoryOrAuto = Annotated[str, AfterValidator(_amount_or_auto)]
Duration = Annotated[str, AfterValidator(_duration)]
Wait = Annotated[float, Field(gt=0, strict=False)]
Threads = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]


class Workers(Section):
    workers: int | Literal["auto"] = Field("auto", description="worker processes; auto: one for each core")
    threads: Threads = Field(1, description="threads of each worker")
    memory: MemoryOrAuto = Field(
        "auto", description="memory limit of each, such as 4GiB; auto: an equal share of the machine's"
    )

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{value}: should be 0 or more, or auto")
        return value


class Adapt(Section):
    """How many CPU workers there are, depending on the waiting work.

    At least one: how long its first shards take shows how many others are worth starting.
    """

    min: int = Field(1, ge=1, description="minimum number of CPU workers")
    max: int = Field(ge=1, description="maximum number of CPU workers")

    @model_validator(mode="after")
    def _ordered(self) -> Adapt:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Cluster(Section):
    """Where to run, of any kind; `executor` names the executor for it (see `engine.base.EXECUTORS`)."""

    executor: ClassVar[str]

    wait_s: Wait = Field(60, description="seconds to wait for a worker of a needed kind")
    stall_s: Wait = Field(
        STALL_S,
        description="seconds without progress of its shard after which a worker is ended and replaced",
    )

    def worker_memory(self) -> dict[str, int]:
        """Bytes that a worker of each kind may use, by CPU and GPU, as far as the file says."""
        from dask.utils import parse_bytes

        groups = {name: getattr(self, name.lower(), None) for name in ("CPU", "GPU")}
        stated = {name: getattr(group, "memory", "auto") for name, group in groups.items()}
        return {name: parse_bytes(memory) for name, memory in stated.items() if memory != "auto"}


class Inline(Cluster):
    """Only this process: `--cluster inline`. It needs no file, and no Dask."""

    executor: ClassVar[str] = "inline"

    def worker_memory(self) -> dict[str, int]:
        return {}  # it has no groups of workers


class DaskCluster(Cluster):
    """A cluster file, of any kind."""

    executor: ClassVar[str] = "dask"

    security: Tls | None = Field(None, description="TLS certificates; absent: no encryption")

    @contextmanager
    def secured(self) -> Iterator[Self]:
        """This cluster with what it needs to be opened: one that we start has certificates, at least for its
        lifetime."""
        yield self

    @abstractmethod
    def open(self) -> AbstractContextManager[Client]:
        """A client of the cluster; whatever was started for it ends with the block.

        It is called with Dask's settings from `settings`. Raises ClusterError.
        """


Opened = Iterator["Client"]


class OwnCluster(DaskCluster):
    """A cluster that we start ourselves. Nobody else gets in."""

    security: Tls | None = Field(
        None, description="TLS certificates; absent: one made for this cluster, which is deleted with it"
    )

    @contextmanager
    def secured(self) -> Iterator[Self]:
        if self.security is not None:
            yield self
            return
        from camtrap_batch.cluster.certificates import temporary_certificate

        with temporary_certificate(self.private_folder()) as tls:
            yield self.model_copy(update={"security": tls})

    def private_folder(self) -> Path | None:
        """Where that certificate is kept; None: where this machine keeps temporary files."""
        return None


def lifetime_arguments(lifetime: str | None) -> dict[str, str | bool]:
    """Options of Dask workers that leave in order after `lifetime`, not all at once, and are restarted."""
    if lifetime is None:
        return {}
    from dask.utils import parse_timedelta

    seconds = parse_timedelta(lifetime)
    return {
        "lifetime": f"{seconds:.0f}s",
        "lifetime_stagger": f"{seconds / 10:.0f}s",
        "lifetime_restart": True,
    }
