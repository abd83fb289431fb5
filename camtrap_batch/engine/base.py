"""What does the shards of a stage: executors, the work they are given, what a worker knows, what they tell.

An `Executor` takes a stage's `Work` and its shards, has workers do them, and tells the driver what happens as
events. Nothing here, and nothing that a stage is given, knows what the workers are: processes of a Dask
cluster (`engine.dask`), or this very process (`engine.inline`). A new executor is one module with a class of
this protocol, and a kind of cluster file that names it (see `camtrap_batch.cluster`).
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

if TYPE_CHECKING:  # torch is loaded on workers alone
    from camtrap_batch.cluster.sections import Cluster
    from camtrap_batch.images import ImageRoot
    from camtrap_batch.model.team import SoloTeam
    from camtrap_batch.monitor.progress import Progress
    from camtrap_batch.store.run import Run

Answer = TypeVar("Answer")

Need = Literal["CPU", "GPU"]
"""What a stage asks of the workers that do its shards."""

Device = Literal["auto", "cpu", "cuda"]
"""What a job file says about where a network is computed."""


# What a worker is given


class Others(Protocol):
    """The other workers of a training team."""

    def problem(self) -> BaseException | None:
        """Why the first of them failed, other than by losing the team; waits a little for it."""


class Joins(Protocol):
    """A training that other workers can join: `join` is what each of them does, in `team`."""

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
    """What a shard's work knows of the worker that it runs on.

    Attributes
    ----------
    name : of the worker, for receipts
    threads : that its share of the machine is worth
    memory : bytes that the worker may take; None: no limit but the machine's
    tell : sends a message (values of JSON) to whoever listens to a topic, see `Executor.listen`
    look_again : to be called with paths of images that were listed and can't be opened: raises UnfitWorker
        where it is not the files that are gone but the disk, or the folder, that they are on
    team : the team that trains together, of this worker and those others that can join now, until the block
        is left; in it, `model.team.TeamLost` is raised where one of them is gone
    """

    name: str = "here"
    threads: int = 1
    memory: int | None = None
    tell: Callable[[str, dict[str, Any]], None] = _tell_nobody
    look_again: Callable[[Iterable[str]], None] = _sees_all
    team: Callable[[Joins, int], AbstractContextManager[tuple[SoloTeam, Others]]] = work_alone


class Requirement(Protocol):
    """What work asks of a worker beside what all work does: packages, hardware.

    Hashable, since a process answers once, and small, since it travels with each task.
    """

    def lacking(self) -> str:
        """What this process lacks, in words that go on from "worker W on host H"; empty where nothing."""


class Work(Protocol):
    """What a stage does with a shard. Small, since it travels with each task.

    One whose answers depend on what a worker has, beside the versions that are compared anyway, says what it
    asks for in an attribute `requirement`, a `Requirement`: see `requirement_of`.
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
        """Where it opens images, if it does: each worker has to see it."""

    def run(self, shard: Shard, payload: Any, here: WorkerContext) -> Receipt:
        """Do the shard, on a worker. Rows in are rows out.

        Raises
        ------
        UnfitWorker
            This worker can't see what it should: the shard is done elsewhere.
        StorageError, UserError, BrokenPromise
            What no other shard can escape either: the stage ends.
        """

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        """Write the row of a single image that kills its worker, on the driver, without opening it."""


def requirement_of(work: Work) -> Requirement | None:
    """What a work asks of a worker for itself, if it does."""
    found: Requirement | None = getattr(work, "requirement", None)
    return found


# What an executor tells


@dataclass(frozen=True)
class Stall:
    """A task (by its key) that made no progress for `seconds`."""

    key: str
    worker: str
    phase: str
    seconds: float

    def __str__(self) -> str:
        return f"no progress for {self.seconds:g} s in the phase {self.phase!r} (stall_s of the cluster file)"


@dataclass(frozen=True)
class ShardDone:
    """A shard is done, on its n-th attempt."""

    shard: Shard
    receipt: Receipt
    attempts: int


@dataclass(frozen=True)
class ShardLost:
    """A worker died while it had this shard; `losses` so far; `stall` where it stood still at this shard."""

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
    """A worker is not fit for the work, and was sent away."""

    worker: str
    reason: str


Event = ShardDone | ShardLost | ShardHalved | ShardErred | ImageCrashed | WorkerTurnedAway


@dataclass
class Outcome:
    """What a fan-out came to: receipts by shard id, and shards that failed, with the reason."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


# Executors


class Executor(Protocol):
    """Has workers do shards.

    Attributes
    ----------
    wait_s : seconds to wait for a first worker of a needed kind, and for one to come back
    stall_s : seconds without any progress after which a worker is ended, and its shard tried again
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
        shards : what is left to do of the plan, in the order in which it shall begin
        payload : what a shard's work needs to know, made when it begins
        observe : called on this thread with each event
        stop : once set, nothing more begins; what is in flight is waited for
        stall_s : instead of the executor's own

        Returns
        -------
        Outcome
            Receipts of every shard (or its halves) that was done, and what failed.

        Raises
        ------
        NoWorker
            No worker offers `need`.
        ClusterError
            One of those that do runs other versions, or does not see the images or the run folder; or none
            has what the work asks for.
        ClusterLost
            The scheduler went away, or all workers of the kind did.
        WorkersDie
            Workers die whatever they are given.
        StorageError, UserError, BrokenPromise
            A shard met what no other can escape: the disk is full, the model can't be read.
        """

    def on_each(
        self, need: Need, function: Callable[..., Answer], *arguments: Any
    ) -> AbstractContextManager[list[Answer]]:
        """Have each worker that offers `need` call `function`, beside what is done in the block.

        After the block, the list holds the answers of those that had ended by then; none is waited for, and
        what one raises is not told.
        """

    def ask(self, need: Need, question: Callable[[], Answer], about: str) -> Answer:
        """What `question` returns on one of the workers that offer `need`; a worker that dies is asked again.

        Parameters
        ----------
        about : what is asked, in a few words that go on from "it was asked"

        Raises
        ------
        NoWorker
            None is there, or comes back in time.
        ClusterError
            Those that were asked died, again and again.
        ClusterLost
            The scheduler went away.
        Exception
            What `question` raised.
        """

    def offers(self, need: Need) -> bool:
        """Whether a worker that is there now offers `need`."""

    def require(self, need: Need) -> int:
        """Threads of the workers that offer `need`. Raises NoWorker where none comes within `wait_s`."""

    def listen(self, topic: str, hear: Callable[[dict[str, Any]], None]) -> AbstractContextManager[None]:
        """Until the block is left, call `hear` with what workers tell about a topic, on whatever thread."""

    def publish(self, progress: Progress) -> list[str]:
        """Show how far the job is where the executor has a page for that, until `close`.

        Called again, nothing happens. Returns lines for people: where to look.
        """

    def report(
        self, run: Run, plan: Plan, stop: threading.Event
    ) -> AbstractContextManager[Callable[[], object]]:
        """Keep a record, in the run folder, of how the block's work went, where the executor has one.

        Making it begins when the function that the block is given is called, at the latest with its end.
        """

    def close(self) -> None:
        """Say that the job has ended. What was opened for the executor is closed by who opened it."""


class ExecutorSource(Protocol):
    """Opens an executor at the first call.

    Attributes
    ----------
    memory : bytes that a worker of each kind may take, as far as that is known before it is open
    """

    @property
    def memory(self) -> Mapping[str, int]: ...

    def executor(self) -> Executor: ...


@dataclass
class GivenExecutor:
    """An executor that is there already."""

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
"""Name, as a kind of cluster gives it -> what opens an executor from its file, until a block is left."""


def choose_workers(executor: Executor, device: Device, has_device: Callable[[], bool], key: str) -> Need:
    """GPU where the job wants it, or leaves it open and a GPU worker has a device; else CPU.

    Parameters
    ----------
    has_device : asked of a worker that offers GPU
    key : of the job file, which said `device`

    Raises
    ------
    ClusterError
        No GPU worker is there or comes back in time; or those asked died again and again, or lack a package.
    ClusterLost
        The scheduler went away.
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
    """Bytes that a worker may take: its limit, or less where the machine has less left."""
    import psutil

    available = int(psutil.virtual_memory().available)
    return min(here.memory, available) if here.memory else available
