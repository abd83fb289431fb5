"""Doing a stage's shards: executors, the work they are given, what a worker knows, the events they report.

An `Executor` takes a stage's `Work` and its shards, has workers do them, and reports what happens to the
driver as events. Nothing here, and nothing that a stage is given, knows what the workers are: processes of a
Dask cluster (`engine.dask`), or this process itself (`engine.inline`). A new executor is one module with a
class that follows this protocol, and a kind of cluster file that names it (see `camtrap_batch.cluster`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from camtrap_batch.errors import ClusterError
from camtrap_batch.registry import Registry
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, Receipt, Shard

if TYPE_CHECKING:  # torch is loaded only on workers
    from camtrap_batch.cluster.sections import Cluster
    from camtrap_batch.images import ImageRoot
    from camtrap_batch.model.team import SoloTeam
    from camtrap_batch.monitor.progress import Progress
    from camtrap_batch.store.run import Run

Answer = TypeVar("Answer")

Need = Literal["CPU", "GPU"]
"""What a stage asks of the workers that do its shards."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a network is computed, as a job file says."""


# What a worker is given


class Others(Protocol):
    """The other workers of a training team."""

    def problem(self) -> BaseException | None:
        """Why the first member failed, for a reason other than losing the team; waits briefly for it."""


class Joins(Protocol):
    """A training that other workers can join: `join` is what each of them runs, in `team`."""

    def join(self, team: SoloTeam, batch: int, here: WorkerContext) -> None: ...


class Nobody:
    """The others of a team of one."""

    def problem(self) -> BaseException | None:
        return None


@contextmanager
def work_alone(work: Joins, batch: int) -> Iterator[tuple[SoloTeam, Others]]:
    """The team of one worker."""
    from camtrap_batch.model.team import SoloTeam

    yield SoloTeam(), Nobody()


def _tell_nobody(topic: str, message: dict[str, Any]) -> None:
    pass


def _sees_all(files: Iterable[str]) -> None:
    pass


@dataclass(frozen=True)
class WorkerContext:
    """What a shard's work knows about the worker that it runs on.

    Attributes
    ----------
    name : name of the worker, for receipts
    threads : how many threads its share of the machine is worth
    memory : bytes that the worker may use; None: no limit but the machine's
    tell : sends a message (JSON values) to whoever listens to a topic, see `Executor.listen`
    look_again : to be called with paths of images that were listed but can't be opened: raises UnfitWorker if
        it is not the files that are gone but the disk, or the folder, that they are on
    team : a context with the team that trains together: this worker and the others that can join now; in the
        block, `model.team.TeamLost` is raised if one of them is gone
    """

    name: str = "here"
    threads: int = 1
    memory: int | None = None
    tell: Callable[[str, dict[str, Any]], None] = _tell_nobody
    look_again: Callable[[Iterable[str]], None] = _sees_all
    team: Callable[[Joins, int], AbstractContextManager[tuple[SoloTeam, Others]]] = work_alone


class Requirement(Protocol):
    """What work asks of a worker beyond what all work asks: packages, hardware.

    Hashable, since a process answers once, and small, since it travels with each task.
    """

    def lacking(self) -> str:
        """What this process lacks, in words that continue from "worker W on host H"; empty if nothing."""


class Work(Protocol):
    """What a stage does with a shard. Small, since it travels with each task.

    Work with answers that depend on what a worker has, beyond the versions that are compared anyway, says
    what it asks for in an attribute `requirement`, a `Requirement`: see `requirement_of`.
    """

    @property
    def folder(self) -> Folder: ...

    @property
    def plan(self) -> tuple[str, str]:
        """Stage and plan id."""

    @property
    def divisible(self) -> bool:
        """Whether half a shard makes sense."""

    @property
    def image_root(self) -> ImageRoot | None:
        """Where it opens images, if it does: every worker must see it."""

    def run(self, shard: Shard, payload: Any, here: WorkerContext) -> Receipt:
        """Do the shard, on a worker. Rows in are rows out.

        Raises
        ------
        UnfitWorker
            This worker can't see what it should: the shard is done elsewhere.
        StorageError, UserError, BrokenPromise
            What no other shard could escape either: the stage ends.
        """

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        """Write the row of a single image that kills its worker, on the driver, without opening it."""


def requirement_of(work: Work) -> Requirement | None:
    """What some work itself asks of a worker; None if it asks for nothing."""
    found: Requirement | None = getattr(work, "requirement", None)
    return found


# What an executor tells


@dataclass(frozen=True)
class Stall:
    """A task (by its key) that has made no progress for `seconds`."""

    key: str
    worker: str
    phase: str
    seconds: float

    def __str__(self) -> str:
        return f"no progress for {self.seconds:g} s in the phase {self.phase!r} (stall_s of the cluster file)"


@dataclass(frozen=True)
class ShardDone:
    """A shard is done, on this attempt (counted from 1)."""

    shard: Shard
    receipt: Receipt
    attempts: int


@dataclass(frozen=True)
class ShardLost:
    """A worker died while it had this shard; `losses` so far; `stall` is set if it stood still on this
    shard."""

    shard: Shard
    worker: str
    losses: int
    stall: Stall | None = None


@dataclass(frozen=True)
class ShardHalved:
    """A shard kept losing its worker; its halves are done instead."""

    shard: Shard
    halves: tuple[Shard, Shard]


@dataclass(frozen=True)
class ShardErred:
    """The shard's work raised; it is tried again unless `final`."""

    shard: Shard
    error: str
    final: bool


@dataclass(frozen=True)
class ImageCrashed:
    """The single image of this shard kills its worker: its row gets the status `crashed`."""

    shard: Shard


@dataclass(frozen=True)
class WorkerTurnedAway:
    """A worker is not fit for the work, and was dismissed."""

    worker: str
    reason: str


Event = ShardDone | ShardLost | ShardHalved | ShardErred | ImageCrashed | WorkerTurnedAway


@dataclass
class Outcome:
    """The result of a fan-out: receipts by shard id, and shards that failed, with the reason."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


# Executors


class Executor(Protocol):
    """Has workers do shards.

    Attributes
    ----------
    wait_s : seconds to wait for a first worker of a needed kind, and for one to come back
    stall_s : seconds without progress after which a worker is ended, and its shard tried again
    """

    @property
    def wait_s(self) -> float: ...

    @property
    def stall_s(self) -> float: ...

    def fan_out(
        self,
        plan: Plan,
        shards: Iterable[Shard],
        work: Work,
        payload: Callable[[Shard], Any],
        *,
        need: Need,
        observe: Callable[[Event], None],
        stop: threading.Event,
        stall_s: float | None = None,
    ) -> Outcome:
        """Do `shards` on the workers that offer `need`; a shard that has a receipt is not done again.

        Parameters
        ----------
        shards : what is left to do of the plan, in the order in which it is to begin
        payload : what a shard's work needs to know, made when it begins
        observe : called on this thread with each event
        stop : once set, nothing more begins; what is in flight is awaited
        stall_s : overrides the executor's own

        Returns
        -------
        Outcome
            Receipts of every shard (or half of one) that was done, and what failed.

        Raises
        ------
        NoWorker
            No worker offers `need`.
        ClusterError
            One of those that do runs other versions, or does not see the images or the run folder; or none
            has what the work asks for.
        ClusterLost
            The scheduler is gone, or all workers of the kind are.
        WorkersDie
            Workers die whatever work they get.
        StorageError, UserError, BrokenPromise
            A shard met what no other could escape: the disk is full, the model can't be read.
        """

    def on_each(
        self, need: Need, function: Callable[..., Answer], *arguments: Any
    ) -> AbstractContextManager[list[Answer]]:
        """Have each worker that offers `need` call `function`, alongside what the block does.

        After the block, the list holds the answers that had arrived by then; none is awaited, and what a
        worker raises is not reported.
        """

    def ask(self, need: Need, question: Callable[[], Answer], about: str) -> Answer:
        """What `question` returns on one of the workers that offer `need`; if a worker dies, it is asked
        again.

        Parameters
        ----------
        about : what is asked, in a few words that continue "it was asked"

        Raises
        ------
        NoWorker
            There is none, and none comes back in time.
        ClusterError
            The workers that were asked kept dying.
        ClusterLost
            The scheduler is gone.
        Exception
            What `question` raised.
        """

    def offers(self, need: Need) -> bool:
        """Whether a worker that offers `need` is there now."""

    def require(self, need: Need) -> int:
        """Number of threads of the workers that offer `need`. Raises NoWorker if none comes within
        `wait_s`."""

    def listen(self, topic: str, hear: Callable[[dict[str, Any]], None]) -> AbstractContextManager[None]:
        """Until the block ends, call `hear` with what workers send to a topic, on any thread."""

    def publish(self, progress: Progress) -> list[str]:
        """Show the job's progress, if the executor has a page for that, until `close`.

        A second call does nothing. Returns lines for people: where to look.
        """

    def report(
        self, run: Run, plan: Plan, stop: threading.Event
    ) -> AbstractContextManager[Callable[[], object]]:
        """Keep a record, in the run folder, of how the block's work went, if the executor makes one.

        It is begun when the block calls the function it is given, or at the latest when the block ends.
        """

    def close(self) -> None:
        """Say that the job has ended. Whoever opened something for the executor closes it."""


class ExecutorSource(Protocol):
    """Opens an executor on the first call.

    Attributes
    ----------
    memory : bytes that a worker of each kind may use, as far as that is known before it is open
    """

    @property
    def memory(self) -> Mapping[str, int]: ...

    def executor(self) -> Executor: ...


@dataclass
class GivenExecutor:
    """An executor that is already open."""

    given: Executor
    memory: Mapping[str, int] = field(default_factory=dict)

    def executor(self) -> Executor:
        return self.given


EXECUTORS: Registry[Callable[[Cluster], AbstractContextManager[Executor]]] = Registry(
    "camtrap_batch.executors",
    {
        "dask": "camtrap_batch.engine.dask.executor:open_executor",
        "inline": "camtrap_batch.engine.inline:open_executor",
    },
)
"""Name, as a kind of cluster gives it -> context that opens an executor from its file."""


def choose_workers(executor: Executor, device: Device, has_device: Callable[[], bool], key: str) -> Need:
    """GPU if the job wants it, or leaves it open and a GPU worker has a device; otherwise CPU.

    Parameters
    ----------
    has_device : run on a worker that offers GPU
    key : the key of the job file that said `device`

    Raises
    ------
    ClusterError
        There is no GPU worker, and none comes back in time; or those asked kept dying, or lack a package.
    ClusterLost
        The scheduler is gone.
    """
    if device == "cpu":
        return "CPU"
    if device == "cuda":
        executor.require("GPU")
        return "GPU"
    if not executor.offers("GPU"):
        return "CPU"
    try:
        return "GPU" if executor.ask("GPU", has_device, "for its CUDA device") else "CPU"
    except ClusterError as problem:
        problem.args = (f"{problem}; or set {key}: cpu",)
        raise
    except ImportError as problem:
        missing = problem.name or "torch"
        raise ClusterError(
            f"the GPU worker has no {missing} ({problem}): install the extra 'train' there, or set {key}: cpu"
        ) from None


def memory_here(here: WorkerContext) -> int:
    """Bytes that a worker may use: its limit, or less if the machine has less left."""
    import psutil

    available = int(psutil.virtual_memory().available)
    return min(here.memory, available) if here.memory else available
