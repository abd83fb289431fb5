"""Clusters that the driver starts itself, and ends.

Kinds local, ssh and slurm differ in the class that starts a worker. All use a `SpecCluster` with workers of
several kinds, each with a name that begins with its group (`cpu-0`, `gpu-0`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Client, SpecCluster
from distributed.deploy.adaptive import Adaptive

from camtrap_batch.cluster.sections import Adapt
from camtrap_batch.errors import CamtrapError, ClusterError

CPU, GPU = "cpu", "gpu"


class StartedCluster(SpecCluster):
    """A SpecCluster in which CPU workers come and go, and ended workers are restarted.

    Parameters
    ----------
    workers : worker specs by name; added workers get that of the first CPU worker
    adapt : bounds of the number of CPU worker processes; None: the number is fixed
    security : Dask's security; None: by its settings
    keep : whether an ended worker (or a group of them, one SLURM job) is replaced; otherwise its nanny, which
        is still there, restarts it
    """

    def __init__(
        self,
        workers: dict[str, Any],
        scheduler: dict[str, Any],
        adapt: Adapt | None = None,
        *,
        keep: bool,
        security: Any = None,
    ) -> None:
        self._keep = keep
        one = next((spec for name, spec in workers.items() if name.startswith(CPU)), None)
        super().__init__(  # type: ignore[no-untyped-call]
            workers=workers,
            scheduler=scheduler,
            worker=one,
            name="camtrap",
            silence_logs=logging.CRITICAL,
            security=security,
        )
        cpu, gpu = self.count(CPU), self.count(GPU)
        if adapt is not None:
            self.adapt(_CpuAdaptive, minimum=gpu + adapt.min, maximum=gpu + adapt.max)
        elif keep:
            self.adapt(_CpuAdaptive, minimum=gpu + cpu, maximum=gpu + cpu)

    def count(self, group: str) -> int:
        """Worker processes that a group has or will have."""
        specs = [spec for name, spec in self.worker_spec.items() if name.startswith(group)]
        return sum(len(spec.get("group", [""])) for spec in specs)

    def scale(self, n: int = 0, memory: Any = None, cores: Any = None) -> Any:
        """Have `n` worker processes in all, by starting CPU workers; 0 ends all of them."""
        gpu_specs = sum(name.startswith(GPU) for name in self.worker_spec)
        each = len(self.new_spec.get("group", [""])) if self.new_spec else 1
        specs = gpu_specs + math.ceil((n - self.count(GPU)) / each) if n else 0
        return super().scale(specs)  # type: ignore[no-untyped-call]

    def _new_worker_name(self, worker_number: int) -> str:
        return f"{CPU}-{worker_number}"

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if not self._keep:  # on a busy machine, a nanny needs longer than SpecCluster is willing to wait
            super(SpecCluster, self)._update_worker_status(op, msg)  # type: ignore[no-untyped-call]
            return
        if op == "remove":
            name = str(self.scheduler_info["workers"][msg]["name"])
            owner = next((key for key, spec in self.worker_spec.items() if name in _members(key, spec)), None)
            if owner is not None and owner != name:
                delay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
                job = self.workers.get(owner)
                asyncio.get_running_loop().call_later(delay, self._forget_if_gone, owner, job)
        super()._update_worker_status(op, msg)  # type: ignore[no-untyped-call]

    def _forget_if_gone(self, owner: str, job: Any) -> None:
        """What SpecCluster does for a single worker: `adapt` restarts one that has ended.

        It is called for each worker that a job loses, and the next job may already be waiting under the same
        name.
        """
        here = {str(info["name"]) for info in self.scheduler_info["workers"].values()}
        if (
            job is not None
            and self.workers.get(owner) is job
            and here.isdisjoint(_members(owner, self.worker_spec.get(owner, {})))
        ):
            self._futures.add(asyncio.ensure_future(self.workers.pop(owner).close()))


class _CpuAdaptive(Adaptive):
    """Counts CPU workers, and never closes an idle GPU worker: its stage may be about to begin."""

    async def target(self) -> int:
        cluster: Any = self.cluster
        return int(await super().target()) + int(cluster.count(GPU))  # type: ignore[no-untyped-call]

    async def workers_to_close(self, target: int) -> list[str]:
        cluster: Any = self.cluster
        # Add the number of GPU workers, which may be all that the scheduler would name.
        found = await super().workers_to_close(max(0, target - cluster.count(GPU)))
        names = [name for name in found if not str(name).startswith(GPU)]
        return names[: max(0, len(self.observed) - target)]


def _members(name: str, spec: dict[str, Any]) -> set[str]:
    return {f"{name}{suffix}" for suffix in spec.get("group", [""])}


@contextmanager
def client_of(start: Callable[[], Any], wrong: str) -> Iterator[Client]:
    """A client of the cluster that `start` creates; it ends with the block.

    `wrong` begins the ClusterError that is raised if it can't be started.
    """
    with _without_ctrl_c():
        try:
            started = start()
        except CamtrapError:
            raise
        except Exception as problem:  # the system, ssh, SLURM, Kubernetes: each has its own errors
            raise ClusterError(f"{wrong}: {reason_of(problem)}") from None
    try:
        with started as cluster, Client(cluster, set_as_default=False) as client:
            yield client
    except KeyboardInterrupt:
        # Otherwise Dask waits 10 s at exit for things to close; workers end when they lose this process.
        started.shutdown_on_close = False
        raise


def reason_of(problem: BaseException) -> str:
    """The first line of an exception's text; for a command that failed, its output."""
    text = str(problem)
    _, _, said = text.partition("stderr:\n")
    return error_lines(said) or next(iter(text.splitlines()), "") or type(problem).__name__


def error_lines(said: str) -> str:
    """What a command said on standard error, on one line.

    >>> error_lines("sbatch: error: no such partition\\nsbatch: error: submission failed\\n")
    'no such partition; submission failed'
    """
    return "; ".join(line.rpartition("error: ")[2] for line in said.splitlines() if line.strip())


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold back Ctrl-C until the block ends; threads and processes that begin in it never get it.

    A terminal sends Ctrl-C to all processes, and a worker that is just starting would die of it.
    """
    resource_tracker.ensure_running()  # when it starts, it lets Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
