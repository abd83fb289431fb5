"""Shards over Dask: a task for each, a bounded window in flight, receipts back; no image can end a job.

The driver submits a few tasks for every thread and the next one when one ends, so that neither the scheduler
nor the driver ever holds a whole plan. A task returns its receipt, never data.

When a worker dies, the shards it was working on are tried again; a shard that keeps losing its worker is
halved, and its halves in turn, until the single image that does it is found. Only a loss in a cluster that
runs nothing else convicts an image; its row is then written with the status `crashed`.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from distributed import Client, Future, get_worker, span
from distributed.scheduler import KilledWorker

from camtrap_batch import phases
from camtrap_batch.engine.dask import metrics, watchdog
from camtrap_batch.engine.dask.fitness import Sight, check_here, check_scheduler, unfit_workers
from camtrap_batch.errors import (
    BrokenPromise,
    ClusterError,
    ClusterLost,
    StorageError,
    UnfitWorker,
    UserError,
)
from camtrap_batch.images import ImageRoot
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, Receipt, Shard, read_receipt, receipt_path

Need = Literal["CPU", "GPU"]

TASKS_PER_THREAD = 3
LOSSES_BEFORE_HALVING = 3
ERRORS_BEFORE_FAILED = 3
LOSSES_ALONE_BEFORE_CRASHED = 2
_UNFIT_BEFORE_GIVING_UP = 20  # one after the other, with no shard done between them
_SHARDS_OF_A_GRAPH = 64  # with payloads of 30 to 100 kB each
_POLL_S = 0.5
_LOOK_AT_WORKERS_S = 5.0
_LAST_ERRORS_ARRIVE_S = 0.2
_RUN_AGAIN = "what was done is kept: run the same command again"


class Work(Protocol):
    """What a stage does with a shard. Small, since it travels with each task."""

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

    def run(self, shard: Shard, payload: Any, worker: str) -> Receipt:
        """Do the shard, on a worker."""

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        """Write the row of a single image that kills its worker, on the driver, without opening it."""


@dataclass(frozen=True)
class ShardDone:
    """A shard is done, at the so-many-th of its tries."""

    shard: Shard
    receipt: Receipt
    tries: int


@dataclass(frozen=True)
class ShardLost:
    """A worker died while it had this shard; `losses` so far; `stall` where it stood still at this shard."""

    shard: Shard
    worker: str
    losses: int
    stall: watchdog.Stall | None = None


@dataclass(frozen=True)
class ShardHalved:
    shard: Shard
    halves: tuple[Shard, Shard]


@dataclass(frozen=True)
class ShardErred:
    """The shard's task raised; it is tried again unless `final`."""

    shard: Shard
    error: str
    final: bool


@dataclass(frozen=True)
class ImageCrashed:
    shard: Shard


@dataclass(frozen=True)
class WorkerTurnedAway:
    """A worker that joined later is not fit for the work (see `fitness`), and was sent away."""

    worker: str
    reason: str


Event = ShardDone | ShardLost | ShardHalved | ShardErred | ImageCrashed | WorkerTurnedAway


@dataclass
class Outcome:
    """What a fan-out came to: receipts by shard id, and shards that failed, with the reason."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


@dataclass
class _Attempt:
    shard: Shard
    losses: int = 0
    errors: int = 0
    tries: int = 0
    losses_alone: int = 0
    number: int = 0

    @property
    def is_suspect(self) -> bool:
        return self.losses >= LOSSES_BEFORE_HALVING - 1

    @property
    def must_run_alone(self) -> bool:
        return self.shard.rows == 1 and self.losses >= LOSSES_BEFORE_HALVING


def fan_out(
    client: Client,
    plan: Plan,
    shards: Iterable[Shard],
    work: Work,
    payload: Callable[[Shard], Any],
    *,
    need: Need,
    observe: Callable[[Event], None],
    stop: threading.Event,
    wait_s: float = 60,
    stall_s: float = watchdog.STALL_S,
) -> Outcome:
    """Do `shards` on the workers that offer `need`.

    Parameters
    ----------
    shards : what is left to do of the plan, in the order in which it shall begin
    payload : what a shard's task needs to know, made when it is submitted
    observe : called on this thread with each event
    stop : once set, nothing more is submitted; what is in flight is waited for
    wait_s : seconds to wait for a first worker that offers `need`, and for one to come back
    stall_s : seconds without any progress after which a worker is ended, and its shard tried again

    Returns
    -------
    Outcome
        Receipts of every shard (or its halves) that was done, and what failed.

    Raises
    ------
    ClusterError
        No worker offers `need`, or one of those that do runs other versions, or does not see the images or
        the run folder.
    ClusterLost
        The scheduler went away, or all workers of the kind did.
    StorageError, UserError, BrokenPromise
        A task met what no other shard can escape: the disk is full, the model can't be read.
    """
    return _FanOut(client, plan, work, payload, need, observe, stop, wait_s, stall_s).run(shards)


def require_workers(client: Client, need: Need, wait_s: float) -> tuple[int, dict[str, float] | None]:
    """Threads that may run tasks that need `need`, and the resources to ask for.

    Workers that declare no resources at all take CPU work.

    Raises
    ------
    ClusterError
        None came within `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    while True:
        workers = _workers(client)
        threads = sum(info["nthreads"] for info in workers.values() if info["resources"].get(need))
        if threads:
            return threads, {need: 1}
        if need == "CPU" and workers and not any(info["resources"] for info in workers.values()):
            return sum(info["nthreads"] for info in workers.values()), None
        if time.monotonic() >= deadline:
            break
        time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
    there = ", ".join(f"{address} ({_offers(info)})" for address, info in sorted(workers.items())[:4])
    raise ClusterError(
        f"no worker offers {need}=1 after {wait_s:.0f} s; there are: {there or 'no workers at all'}; "
        f"start one with: dask worker SCHEDULER --resources {need}=1"
    )


def submit_to_each(
    client: Client, need: Need, function: Callable[..., Any], *arguments: Any
) -> list[Future[Any]]:
    """A task for each worker that is there now and offers `need`."""
    try:
        _, resources = require_workers(client, need, wait_s=0)
    except ClusterError:
        return []
    return [
        client.submit(function, *arguments, workers=[address], resources=resources, pure=False)
        for address in _offering(client, need, resources)
    ]


class _FanOut:
    def __init__(
        self,
        client: Client,
        plan: Plan,
        work: Work,
        payload: Callable[[Shard], Any],
        need: Need,
        observe: Callable[[Event], None],
        stop: threading.Event,
        wait_s: float,
        stall_s: float,
    ) -> None:
        self.client, self.plan, self.work, self.payload = client, plan, work, payload
        self.need, self.observe, self.stop, self.wait_s = need, observe, stop, wait_s
        self.stall_s = stall_s
        self.stalls: dict[str, watchdog.Stall] = {}  # by task
        self.outcome = Outcome()
        self.todo: deque[_Attempt] = deque()
        self.alone: deque[_Attempt] = deque()
        self.in_flight: dict[str, tuple[Future[Any], _Attempt]] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.window = 0
        self.submitted = 0
        # Else a task that failed for the same client before, and that something keeps, would fail again.
        self.token = uuid.uuid4().hex[:8]
        self.charged: set[str] = set()
        self.known: set[str] = set()
        self.turned_away: set[str] = set()
        self.sight = Sight.make(work.folder, plan.path, work.image_root)
        self.resources: dict[str, float] | None = None
        self.looked_at = 0.0
        self.last_seen = time.monotonic()

    def run(self, shards: Iterable[Shard]) -> Outcome:
        self.todo.extend(_Attempt(shard) for shard in shards)
        if not self.todo:
            return self.outcome
        threads, self.resources = require_workers(self.client, self.need, self.wait_s)
        self.window = threads * TASKS_PER_THREAD
        self.plan.freeze(self.work.folder)  # each worker has to see it there
        check_scheduler(self.client)
        for reason in self._unfit_among(_offering(self.client, self.need, self.resources)).values():
            raise ClusterError(reason)
        self.looked_at = self.last_seen = time.monotonic()
        # The client keeps the handler also after the end; not this object with it, and what its stage reads.
        self.client.subscribe_topic(watchdog.TOPIC, partial(_note_stall, self.stalls))
        try:
            while self._fill_window() or self.in_flight:
                ended = self._wait()
                receipts = self._fetch(future for _, future in ended)
                for attempt, future in ended:
                    self._settle(attempt, future, receipts)
                self._look_at_workers()
            self.outcome.interrupted = self.stop.is_set() and bool(self.todo or self.alone)
        finally:
            # On the way out by an exception: what has not begun shall not begin.
            self.client.cancel([future for future, _ in self.in_flight.values()])
            if self.client.status == "running":
                self.client.unsubscribe_topic(watchdog.TOPIC)
        return self.outcome

    def _fill_window(self) -> bool:
        if self.stop.is_set():
            return False
        free = self.window - len(self.in_flight)
        if next_ones := [self.todo.popleft() for _ in range(min(free, len(self.todo)))]:
            self._submit(next_ones)
        if self.alone and not self.in_flight:
            self._submit([self.alone.popleft()])
        return bool(self.in_flight)

    def _submit(self, attempts: list[_Attempt]) -> None:
        """Submit these in few graphs, since each one costs the scheduler as much as several tasks."""
        keys = []
        for attempt in attempts:
            keys.append(f"{self.plan.stage}-{self.plan.id}-{attempt.shard.id}-{attempt.tries}-{self.token}")
            attempt.tries += 1
            self.submitted += 1
            attempt.number = self.submitted
        with span("camtrap", self.plan.stage):
            futures = self.client.map(
                _run_shard,
                [attempt.shard for attempt in attempts],
                [self.payload(attempt.shard) for attempt in attempts],
                key=keys,
                work=self.work,
                sight=self.sight,
                stall_s=self.stall_s,
                batch_size=_SHARDS_OF_A_GRAPH,
                pure=False,
                resources=self.resources,
            )
        for key, future, attempt in zip(keys, futures, attempts, strict=True):
            self.in_flight[key] = (future, attempt)
            future.add_done_callback(lambda _, key=key: self.ended.put(key))

    def _wait(self) -> list[tuple[_Attempt, Future[Any]]]:
        """Tasks that ended, other than by a worker's death; waits for one, but not for long."""
        keys: list[str] = []
        try:
            keys.append(self.ended.get(timeout=_POLL_S))
            while True:
                keys.append(self.ended.get_nowait())
        except queue.Empty:
            pass
        ended = [self.in_flight.pop(key) for key in keys if key in self.in_flight]
        if any(_is_killed(future) for future, _ in ended):
            # A dead worker takes several tasks with it: see them together, to blame the right one.
            time.sleep(_LAST_ERRORS_ARRIVE_S)
            while not self.ended.empty():
                key = self.ended.get_nowait()
                if key in self.in_flight:
                    ended.append(self.in_flight.pop(key))
        killed = [(future, attempt) for future, attempt in ended if _is_killed(future)]
        by_blame = sorted(killed, key=lambda pair: self._blame(*pair))
        blamed = {_lost_worker(future).server_id: attempt for future, attempt in by_blame}  # the last one
        others = [(attempt, future) for future, attempt in ended if not _is_killed(future)]
        for future, attempt in killed:
            death = _lost_worker(future).server_id
            is_blamed = blamed[death] is attempt and death not in self.charged
            self._count_loss(attempt, future, is_blamed=is_blamed)
        self.charged.update(blamed)
        return others

    def _blame(self, future: Future[Any], attempt: _Attempt) -> tuple[bool, int, int]:
        """Of the shards that died together, the greatest is blamed.

        It is the one at which the worker stood still, if it did; else the one with most losses; among equals
        the one submitted first, since a worker runs its tasks in that order.
        """
        return (str(future.key) in self.stalls, attempt.losses, -attempt.number)

    def _count_loss(self, attempt: _Attempt, future: Future[Any], *, is_blamed: bool) -> None:
        """Charge a loss to one of the shards that died together; try all of them again."""
        shard, ran_alone = attempt.shard, attempt.must_run_alone
        worker = str(_lost_worker(future).address)
        deaths = future.exception().allowed_failures + 1
        stall = self.stalls.pop(str(future.key), None)
        future.release()
        if is_blamed:
            attempt.losses += deaths
            attempt.losses_alone += deaths if ran_alone else 0
        self.observe(ShardLost(shard, worker, attempt.losses, stall))
        if attempt.losses < LOSSES_BEFORE_HALVING:
            (self.todo.appendleft if attempt.is_suspect else self.todo.append)(attempt)
        elif not self.work.divisible or (stall is not None and stall.phase == "write"):
            why = str(stall or "out of memory?")  # where the run folder hangs, no image is to blame
            self._fail(attempt, f"its worker died {attempt.losses} times, the last one was {worker}; {why}")
        elif shard.rows > 1:
            halves = shard.halves()
            self.observe(ShardHalved(shard, halves))
            for half in reversed(halves):
                self.todo.appendleft(_Attempt(half, losses=LOSSES_BEFORE_HALVING - 1))
        elif attempt.losses_alone < LOSSES_ALONE_BEFORE_CRASHED:
            self.alone.append(attempt)
        else:
            self.observe(ImageCrashed(shard))
            self._done(attempt, self.work.crashed(shard, self.payload(shard)))

    def _fetch(self, futures: Iterable[Future[Any]]) -> dict[str, Receipt]:
        """Receipts of those that are done, by key, asked for at once: one by one sets the driver's pace."""
        finished = [future for future in futures if future.status == "finished"]
        if len(finished) < 2:
            return {}
        try:
            ask = partial(self.client.gather, finished, asynchronous=True)
            receipts = self.client.sync(ask, callback_timeout=self.wait_s)
        except Exception:  # one of them is lost; each is asked for by itself
            return {}
        return {str(future.key): receipt for future, receipt in zip(finished, receipts, strict=True)}

    def _settle(self, attempt: _Attempt, future: Future[Any], receipts: Mapping[str, Receipt]) -> None:
        status = future.status
        if (receipt := receipts.get(str(future.key))) is not None:
            self._done(attempt, receipt)
        elif status == "finished":
            try:
                receipt = future.result(timeout=self.wait_s)
            except Exception as problem:  # the worker that held the receipt died before it could be fetched
                self._count_error(attempt, problem)
            else:
                self._done(attempt, receipt)
        elif status == "error":
            self._count_error(attempt, future.exception())
        elif status in ("lost", "pending"):
            # The worker that held the receipt died before it could be fetched: Dask runs the task again,
            # which finds the receipt in the run folder. (A callback would be called at once.)
            key = str(future.key)
            self.in_flight[key] = (future, attempt)
            threading.Timer(_POLL_S, self.ended.put, [key]).start()
            return
        else:
            raise ClusterLost(f"the connection to the scheduler is lost; {_RUN_AGAIN}")
        future.release()

    def _count_error(self, attempt: _Attempt, problem: BaseException) -> None:
        if isinstance(problem, UnfitWorker):
            self._turn_away(problem.address, problem.reason)
            self.todo.append(attempt)
            return
        if isinstance(problem, StorageError | UserError | BrokenPromise):
            raise problem
        attempt.errors += 1
        text = f"{type(problem).__name__}: {problem}".replace("\n", " ")
        if attempt.errors >= ERRORS_BEFORE_FAILED:
            self._fail(attempt, text)
        else:
            self.observe(ShardErred(attempt.shard, text, final=False))
            self.todo.append(attempt)

    def _fail(self, attempt: _Attempt, reason: str) -> None:
        self.outcome.failed[attempt.shard.id] = reason
        self.observe(ShardErred(attempt.shard, reason, final=True))

    def _unfit_among(self, workers: set[str]) -> dict[str, str]:
        """Those of `workers` that can't do the work, with the reason; none is looked at twice."""
        new, self.known = workers - self.known, workers
        if not new:
            return {}
        return unfit_workers(self.client, new, self.sight)

    def _turn_away(self, worker: str, reason: str) -> None:
        if worker in self.turned_away:  # several of its tasks say so
            return
        self.turned_away.add(worker)
        if len(self.turned_away) >= _UNFIT_BEFORE_GIVING_UP:
            raise ClusterError(reason)
        self.observe(WorkerTurnedAway(worker, reason))
        self.client.retire_workers([worker], close_workers=True)

    def _done(self, attempt: _Attempt, receipt: Receipt) -> None:
        self.turned_away.clear()
        self.outcome.receipts[attempt.shard.id] = receipt
        self.observe(ShardDone(attempt.shard, receipt, attempt.tries))

    def _look_at_workers(self) -> None:
        """Follow workers that come and go; give up when all have been gone for `wait_s`."""
        now = time.monotonic()
        if now - self.looked_at < _LOOK_AT_WORKERS_S:
            return
        self.looked_at = now
        try:
            threads, _ = require_workers(self.client, self.need, wait_s=0)
        except ClusterError:
            if now - self.last_seen > self.wait_s:
                raise ClusterLost(
                    f"every worker that offers {self.need} went away, none came back in {self.wait_s:.0f} s; "
                    + _RUN_AGAIN
                ) from None
        else:
            self.last_seen = now
            self.window = threads * TASKS_PER_THREAD
            for worker, reason in self._unfit_among(
                _offering(self.client, self.need, self.resources)
            ).items():
                self._turn_away(worker, reason)


def _run_shard(shard: Shard, payload: Any, *, work: Work, sight: Sight, stall_s: float) -> Receipt:
    """The task. A shard that was done by a try whose answer got lost is not done again."""
    worker = get_worker()
    # What the worker is at travels with each of its heartbeats.
    worker.metrics.setdefault("camtrap", lambda _: phases.current())
    with (
        phases.working_on(work.plan[0], shard.id, shard.rows) as doing,
        watchdog.watched(worker, doing, stall_s),
    ):
        if (done := read_receipt(work.folder, receipt_path(*work.plan, shard.id))) is not None:
            return done
        check_here(worker.address, sight)
        receipt = work.run(shard, payload, str(worker.name))
        metrics.count_here(receipt)
        return receipt


def _note_stall(stalls: dict[str, watchdog.Stall], event: tuple[float, dict[str, Any]]) -> None:
    """Called by the client, before the tasks of the worker that ends itself are."""
    stall = watchdog.Stall(**event[1])
    stalls[stall.key] = stall


def _is_killed(future: Future[Any]) -> bool:
    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _lost_worker(future: Future[Any]) -> Any:
    """The worker that died; its `server_id` is of this process alone, also where it comes back."""
    return future.exception().last_worker


def _workers(client: Client) -> Mapping[str, dict[str, Any]]:
    workers: Mapping[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _offering(client: Client, need: Need, resources: dict[str, float] | None) -> set[str]:
    """Addresses of the workers that may be given a shard."""
    return {
        address
        for address, info in _workers(client).items()
        if resources is None or info["resources"].get(need)
    }


def _offers(info: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in info["resources"].items()) or "no resources"
