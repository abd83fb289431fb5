"""Every shard in this process, one after the other, without Dask: for a debugger, a profiler, a small job.

The executor of `--cluster inline`. A MemoryError here plays the part of a worker's death on a cluster: the
shard is tried again, halved, and the image that causes it marked. A process that really dies takes the driver
with it, and nothing ends a shard that stands still.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from camtrap_batch import phases
from camtrap_batch.engine.attempts import Attempt, Attempts
from camtrap_batch.engine.base import Event, Executor, Need, Outcome, Work, WorkerContext, requirement_of
from camtrap_batch.engine.visibility import Visibility
from camtrap_batch.errors import ClusterError, ImagesGone, UnfitWorker
from camtrap_batch.store.shards import Plan, Receipt, Shard, read_receipt, receipt_path

if TYPE_CHECKING:
    from camtrap_batch.cluster import Cluster
    from camtrap_batch.monitor.progress import Progress
    from camtrap_batch.store.run import Run

Answer = TypeVar("Answer")
Hear = Callable[[dict[str, Any]], None]

NAME = "inline"
"""Name of the only worker, in receipts."""


class InlineExecutor:
    """An `Executor` whose only worker is the calling thread. It offers whatever is needed."""

    wait_s = 0.0
    stall_s = phases.STALL_S

    def __init__(self) -> None:
        self._listeners: dict[str, list[Hear]] = {}

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
        attempts = Attempts(plan, work, payload, observe)
        attempts.add(shards)
        if not attempts.todo:
            return attempts.outcome
        requirement = requirement_of(work)
        if requirement is not None and (lacking := requirement.lacking()):
            raise ClusterError(f"the worker in this process (--cluster inline) {lacking}")
        plan.freeze(work.folder)
        visibility = Visibility.make(work.folder, plan.path, work.image_root)
        here = WorkerContext(
            name=NAME,
            threads=len(os.sched_getaffinity(0)),
            tell=self._tell,
            look_again=partial(visibility.check_again, NAME),
        )
        while not stop.is_set() and (attempts.todo or attempts.alone):
            self._do(attempts, (attempts.todo or attempts.alone).popleft(), here)
        attempts.outcome.interrupted = bool(attempts.todo or attempts.alone)
        return attempts.outcome

    @contextmanager
    def on_each(self, need: Need, function: Callable[..., Answer], *arguments: Any) -> Iterator[list[Answer]]:
        # Nothing runs beside the block: what is loaded here is ready for it.
        answers: list[Answer] = []
        with suppress(Exception):  # the first shard will say why
            answers.append(function(*arguments))
        yield answers

    def ask(self, need: Need, question: Callable[[], Answer], about: str) -> Answer:
        return question()

    def offers(self, need: Need) -> bool:
        return True

    def require(self, need: Need) -> int:
        return 1

    @contextmanager
    def listen(self, topic: str, hear: Hear) -> Iterator[None]:
        self._listeners.setdefault(topic, []).append(hear)
        try:
            yield
        finally:
            self._listeners[topic].remove(hear)

    def publish(self, progress: Progress) -> list[str]:
        return []

    @contextmanager
    def report(self, run: Run, plan: Plan, stop: threading.Event) -> Iterator[Callable[[], object]]:
        yield lambda: None

    def close(self) -> None:
        pass

    def _do(self, attempts: Attempts, attempt: Attempt, here: WorkerContext) -> None:
        attempt.tries += 1
        shard, work = attempt.shard, attempts.work
        try:
            receipt = _run_shard(shard, attempts.payload(shard), work, here)
        except UnfitWorker as problem:
            raise ImagesGone(f"{problem.reason}; what was done is kept: run the same command again") from None
        except MemoryError as problem:
            if work.divisible:
                attempts.lost(attempt, here.name, deaths=1, stall=None, memory=here.memory)
            else:
                attempts.erred(attempt, problem)
        except Exception as problem:
            attempts.erred(attempt, problem)
        else:
            attempts.done(attempt, receipt)

    def _tell(self, topic: str, message: dict[str, Any]) -> None:
        for hear in self._listeners.get(topic, []):
            hear(message)


def _run_shard(shard: Shard, payload: Any, work: Work, here: WorkerContext) -> Receipt:
    with phases.working_on(work.plan[0], shard.id, shard.rows):
        done = read_receipt(work.folder, receipt_path(*work.plan, shard.id))
        return work.run(shard, payload, here) if done is None else done


@contextmanager
def open_executor(spec: Cluster) -> Iterator[Executor]:
    """The executor; there is nothing to open."""
    yield InlineExecutor()
