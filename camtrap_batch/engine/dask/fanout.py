"""Shards over Dask: one task each, a bounded window in flight, receipts back; no image can end a job.

The driver submits a few tasks per thread, and the next one when one ends, so that neither the scheduler nor
the driver ever holds a whole plan. A task returns its receipt, never data. When a worker dies with several
tasks, one of their shards is blamed; `engine.attempts` decides what becomes of it.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any

from distributed import Client, Future, Worker, get_worker, span
from distributed.scheduler import KilledWorker

from camtrap_batch import phases
from camtrap_batch.engine.attempts import Attempt, Attempts
from camtrap_batch.engine.base import Event, Need, Outcome, Stall, Work, WorkerTurnedAway, requirement_of
from camtrap_batch.engine.dask import watchdog
from camtrap_batch.engine.dask.context import here
from camtrap_batch.engine.dask.fitness import Needs, Unfit, check_scheduler, unfit_workers
from camtrap_batch.engine.visibility import Visibility
from camtrap_batch.errors import ClusterError, ClusterLost, ImagesGone, NoWorker, UnfitWorker
from camtrap_batch.images import MOST_ABANDONED, abandoned
from camtrap_batch.monitor import counters
from camtrap_batch.store.shards import Plan, Receipt, Shard, read_receipt, receipt_path

TASKS_PER_THREAD = 3
_UNFIT_BEFORE_GIVING_UP = 20  # one after the other, with no shard done in between
_SHARDS_OF_A_GRAPH = 64  # with payloads of 30 to 100 kB each
_POLL_S = 0.5
_LOOK_AT_WORKERS_S = 5.0
_LAST_ERRORS_ARRIVE_S = 0.2
_RUN_AGAIN = "what was done is kept: run the same command again"


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
    stall_s: float = phases.STALL_S,
) -> Outcome:
    """Do `shards` on the workers that offer `need`: see `Executor.fan_out`."""
    attempts = Attempts(plan, work, payload, observe)
    attempts.add(shards)
    return _FanOut(client, attempts, need, stop, wait_s, stall_s).run()


def require_workers(client: Client, need: Need, wait_s: float) -> tuple[int, dict[str, float] | None]:
    """Number of threads that may run tasks that need `need`, and the resources to ask for.

    Workers that declare no resources at all accept CPU work.

    Raises
    ------
    NoWorker
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
    raise NoWorker(
        f"no worker offers {need}=1 after {wait_s:.0f} s; there are: {there or 'no workers at all'}; "
        f"start one with: dask worker SCHEDULER --resources {need}=1"
    )


def submit_to_each(
    client: Client, need: Need, function: Callable[..., Any], *arguments: Any
) -> list[Future[Any]]:
    """One task for each worker that is there now and offers `need`."""
    try:
        _, resources = require_workers(client, need, wait_s=0)
    except NoWorker:
        return []
    return [
        client.submit(function, *arguments, workers=[address], resources=resources, pure=False)
        for address in _offering(client, need, resources)
    ]


class _FanOut:
    def __init__(
        self,
        client: Client,
        attempts: Attempts,
        need: Need,
        stop: threading.Event,
        wait_s: float,
        stall_s: float,
    ) -> None:
        self.client, self.attempts, self.need, self.stop = client, attempts, need, stop
        self.plan, self.work = attempts.plan, attempts.work
        self.wait_s, self.stall_s = wait_s, stall_s
        self.stalls: dict[str, Stall] = {}  # by task
        self.in_flight: dict[str, tuple[Future[Any], Attempt]] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.window = 0
        self.submitted = 0
        # Otherwise a task that failed before for the same client, and that something keeps, would fail again.
        self.token = uuid.uuid4().hex[:8]
        self.charged: set[str] = set()
        self.known: set[str] = set()
        self.turned_away: dict[str, str] = {}  # with the reason
        visibility = Visibility.make(self.work.folder, self.plan.path, self.work.image_root)
        self.needs = Needs.make(visibility, requirement_of(self.work))
        self.resources: dict[str, float] | None = None
        self.looked_at = 0.0
        self.last_seen = time.monotonic()

    def run(self) -> Outcome:
        attempts = self.attempts
        if not attempts.todo:
            return attempts.outcome
        threads, self.resources = require_workers(self.client, self.need, self.wait_s)
        self._set_window(threads)
        self.plan.freeze(self.work.folder)  # every worker must see it there
        check_scheduler(self.client)
        self._require_fit_ones(_offering(self.client, self.need, self.resources))
        self.looked_at = self.last_seen = time.monotonic()
        # The client keeps the handler beyond the end, but must not keep this object and what its stage reads.
        self.client.subscribe_topic(watchdog.TOPIC, partial(_note_stall, self.stalls))
        try:
            while self._fill_window() or self.in_flight:
                ended = self._wait()
                receipts = self._fetch(future for _, future in ended)
                for attempt, future in ended:
                    self._settle(attempt, future, receipts)
                self._look_at_workers()
            attempts.outcome.interrupted = self.stop.is_set() and bool(attempts.todo or attempts.alone)
        finally:
            # On the way out with an exception: what has not begun must not begin.
            self.client.cancel([future for future, _ in self.in_flight.values()])
            if self.client.status == "running":
                self.client.unsubscribe_topic(watchdog.TOPIC)
        return attempts.outcome

    def _set_window(self, threads: int) -> None:
        self.window, self.attempts.workers = threads * TASKS_PER_THREAD, threads

    def _fill_window(self) -> bool:
        if self.stop.is_set():
            return False
        todo, alone = self.attempts.todo, self.attempts.alone
        free = self.window - len(self.in_flight)
        if next_ones := [todo.popleft() for _ in range(min(free, len(todo)))]:
            self._submit(next_ones)
        if alone and not self.in_flight:
            self._submit([alone.popleft()])
        return bool(self.in_flight)

    def _submit(self, attempts: list[Attempt]) -> None:
        """Submit these in few graphs: each graph costs the scheduler as much as several tasks."""
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
                [self.attempts.payload(attempt.shard) for attempt in attempts],
                key=keys,
                work=self.work,
                needs=self.needs,
                stall_s=self.stall_s,
                batch_size=_SHARDS_OF_A_GRAPH,
                pure=False,
                resources=self.resources,
            )
        for key, future, attempt in zip(keys, futures, attempts, strict=True):
            self.in_flight[key] = (future, attempt)
            future.add_done_callback(lambda _, key=key: self.ended.put(key))

    def _wait(self) -> list[tuple[Attempt, Future[Any]]]:
        """Tasks that ended, except by a worker's death; waits for one, but not for long."""
        keys: list[str] = []
        try:
            keys.append(self.ended.get(timeout=_POLL_S))
            while True:
                keys.append(self.ended.get_nowait())
        except queue.Empty:
            pass
        ended = [self.in_flight.pop(key) for key in keys if key in self.in_flight]
        if any(_is_killed(future) for future, _ in ended):
            # A dead worker takes several tasks with it: look at them together, to blame the right one.
            time.sleep(_LAST_ERRORS_ARRIVE_S)
            while not self.ended.empty():
                key = self.ended.get_nowait()
                if key in self.in_flight:
                    ended.append(self.in_flight.pop(key))
        others = [(attempt, future) for future, attempt in ended if not _is_killed(future)]
        killed = [pair for pair in ended if _is_killed(pair[0]) and not self._was_done(*pair)]
        killed = [pair for pair in killed if not self._was_left(*pair)]
        by_blame = sorted(killed, key=lambda pair: self._blame(*pair))
        blamed = {_lost_worker(future).server_id: attempt for future, attempt in by_blame}  # the last one
        for future, attempt in killed:
            death = _lost_worker(future).server_id
            is_blamed = blamed[death] is attempt and death not in self.charged
            self._count_loss(attempt, future, is_blamed=is_blamed)
        self.charged.update(blamed)
        return others

    def _was_done(self, future: Future[Any], attempt: Attempt) -> bool:
        """Whether its worker did it and died before the answer was out: then it is done, and not to blame."""
        receipt = read_receipt(self.work.folder, receipt_path(*self.work.plan, attempt.shard.id))
        if receipt is None:
            return False
        self.stalls.pop(str(future.key), None)
        future.release()
        self._done(attempt, receipt)
        return True

    def _was_left(self, future: Future[Any], attempt: Attempt) -> bool:
        """Whether its worker left because it was told to: then nothing is to blame, and it begins again.

        The scheduler fails what such a worker runs if a receipt that nobody has fetched is there alone
        (`Scheduler.retire_workers` then gives up, and the worker leaves nevertheless).
        """
        try:
            events = self.client.get_events(_lost_worker(future).address)
        except OSError:  # the scheduler is gone, too: that is said soon
            return False
        actions = [event.get("action") for _, event in events]
        # What is before the last "add-worker" concerns another process.
        if "could-not-retire" not in takewhile(lambda action: action != "add-worker", reversed(actions)):
            return False
        self.stalls.pop(str(future.key), None)
        future.release()
        self.attempts.todo.append(attempt)
        return True

    def _blame(self, future: Future[Any], attempt: Attempt) -> tuple[bool, int, int]:
        """Of the shards that died together, the one with the greatest value is blamed.

        That is the one the worker stood still on, if it did; otherwise the one with the most losses; among
        equals the one submitted first, since a worker runs its tasks in that order.
        """
        return (str(future.key) in self.stalls, attempt.losses, -attempt.number)

    def _count_loss(self, attempt: Attempt, future: Future[Any], *, is_blamed: bool) -> None:
        """Charge a loss to one of the shards that died together; try all of them again."""
        worker = _lost_worker(future)
        deaths = future.exception().allowed_failures + 1 if is_blamed else 0
        stall = self.stalls.pop(str(future.key), None)
        future.release()
        self.attempts.lost(
            attempt, str(worker.address), deaths=deaths, stall=stall, memory=worker.memory_limit or None
        )

    def _fetch(self, futures: Iterable[Future[Any]]) -> dict[str, Receipt]:
        """Receipts of the tasks that are done, by key, fetched together: one by one would slow the driver
        down."""
        finished = [future for future in futures if future.status == "finished"]
        if len(finished) < 2:
            return {}
        try:
            ask = partial(self.client.gather, finished, asynchronous=True)
            receipts = self.client.sync(ask, callback_timeout=self.wait_s)
        except Exception:  # one of them is lost; each is fetched by itself
            return {}
        return {str(future.key): receipt for future, receipt in zip(finished, receipts, strict=True)}

    def _settle(self, attempt: Attempt, future: Future[Any], receipts: Mapping[str, Receipt]) -> None:
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

    def _count_error(self, attempt: Attempt, problem: BaseException) -> None:
        if isinstance(problem, UnfitWorker):
            if missing := self.needs.visibility.missing_now():
                raise ImagesGone(f"this machine, too, {missing}; {_RUN_AGAIN}")
            self._turn_away(problem.address, problem.reason)
            self.attempts.todo.append(attempt)
        elif isinstance(problem, MemoryError) and self.work.divisible:
            self.attempts.lost(attempt, "that had it", deaths=1, stall=None, memory=None)
        else:
            self.attempts.erred(attempt, problem)

    def _require_fit_ones(self, workers: set[str]) -> None:
        """Begin without the workers that lack what the work asks for. Raises ClusterError if none is left."""
        unfit = self._unfit_among(workers)
        for reason in unfit.wrong.values():
            raise ClusterError(reason)
        if unfit.unable and not workers - set(unfit.unable):
            raise ClusterError(next(iter(unfit.unable.values())))
        for worker, reason in unfit.unable.items():
            self.attempts.observe(WorkerTurnedAway(worker, reason))
        if unfit.unable:
            self.client.retire_workers(list(unfit.unable), close_workers=True)

    def _unfit_among(self, workers: set[str]) -> Unfit:
        """Those of `workers` that can't do the work; none is looked at twice."""
        new, self.known = workers - self.known, workers
        if not new:
            return Unfit({}, {})
        return unfit_workers(self.client, new, self.needs)

    def _turn_away(self, worker: str, reason: str) -> None:
        if worker in self.turned_away:  # several of its tasks report it
            return
        self.turned_away[worker] = reason
        if len(self.turned_away) >= _UNFIT_BEFORE_GIVING_UP:
            raise ClusterError(reason)
        self.attempts.observe(WorkerTurnedAway(worker, reason))
        self.client.retire_workers([worker], close_workers=True)

    def _done(self, attempt: Attempt, receipt: Receipt) -> None:
        self.turned_away.clear()
        self.attempts.done(attempt, receipt)

    def _look_at_workers(self) -> None:
        """Follow workers that come and go; give up when all have been gone for `wait_s`."""
        now = time.monotonic()
        if now - self.looked_at < _LOOK_AT_WORKERS_S:
            return
        self.looked_at = now
        try:
            threads, _ = require_workers(self.client, self.need, wait_s=0)
        except NoWorker:
            if now - self.last_seen > self.wait_s:
                why = next(reversed(self.turned_away.values()), None)
                raise ClusterLost(
                    f"every worker that offers {self.need} went away, and none came back in "
                    f"{self.wait_s:.0f} s; "
                    + (f"the last one was dismissed: {why}; " if why else "")
                    + _RUN_AGAIN
                ) from None
        else:
            self.last_seen = now
            self._set_window(threads)
            unfit = self._unfit_among(_offering(self.client, self.need, self.resources))
            for worker, reason in (unfit.wrong | unfit.unable).items():
                self._turn_away(worker, reason)


def _run_shard(shard: Shard, payload: Any, *, work: Work, needs: Needs, stall_s: float) -> Receipt:
    """The task. A shard that was done by an attempt whose answer was lost is not redone."""
    worker = get_worker()
    # What the worker is working on travels with each of its heartbeats.
    worker.metrics.setdefault("camtrap", lambda _: phases.current())
    with (
        phases.working_on(work.plan[0], shard.id, shard.rows) as doing,
        watchdog.watched(worker, doing, stall_s),
    ):
        if (done := read_receipt(work.folder, receipt_path(*work.plan, shard.id))) is not None:
            return done
        needs.check(worker.address)
        receipt = work.run(shard, payload, here(worker, needs.visibility))
        counters.count_here(receipt)
        _renew_where_decodes_hang(worker)
        return receipt


def _renew_where_decodes_hang(worker: Worker) -> None:
    """Threads still decoding can be ended only with their process: its nanny starts another in its place."""
    if (n := abandoned()) >= MOST_ABANDONED and worker.nanny:
        why = f"{n} abandoned decodes still run in this process"
        worker.loop.add_callback(worker.close_gracefully, restart=True, reason=why)


def _note_stall(stalls: dict[str, Stall], event: tuple[float, dict[str, Any]]) -> None:
    """Called by the client before it handles the tasks of the worker that ends itself."""
    stall = Stall(**event[1])
    stalls[stall.key] = stall


def _is_killed(future: Future[Any]) -> bool:
    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _lost_worker(future: Future[Any]) -> Any:
    """The worker that died; its `server_id` names this one process, even if the worker comes back."""
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
