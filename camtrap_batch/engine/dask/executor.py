"""The workers of a Dask cluster as an executor, over any client connected to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from distributed import Client, get_worker
from distributed.scheduler import KilledWorker

from camtrap_batch import phases
from camtrap_batch.cluster import DaskCluster, open_cluster
from camtrap_batch.engine.base import Event, Executor, Need, Outcome, Work
from camtrap_batch.engine.dask import fanout, watchdog
from camtrap_batch.engine.dask.performance import performance_report
from camtrap_batch.engine.dask.publisher import Publisher, page_url
from camtrap_batch.errors import ClusterError, ClusterLost
from camtrap_batch.store.shards import Plan, Shard

if TYPE_CHECKING:
    from camtrap_batch.monitor.progress import Progress
    from camtrap_batch.store.run import Run

Answer = TypeVar("Answer")

_MOST_DEATHS = 3
_LOOK_AT_WORKERS_S = 5.0
_PATIENCE_S = 5.0


class DaskExecutor:
    """An `Executor` over a client, which may be the caller's own and is not closed here.

    Parameters
    ----------
    wait_s, stall_s : as in the cluster file
    """

    def __init__(self, client: Client, wait_s: float = 60, stall_s: float = phases.STALL_S) -> None:
        self.client, self.wait_s, self.stall_s = client, wait_s, stall_s
        self._publisher: Publisher | None = None

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
        return fanout.fan_out(
            self.client,
            plan,
            shards,
            work,
            payload,
            need=need,
            observe=observe,
            stop=stop,
            wait_s=self.wait_s,
            stall_s=stall_s or self.stall_s,
        )

    @contextmanager
    def on_each(self, need: Need, function: Callable[..., Answer], *arguments: Any) -> Iterator[list[Answer]]:
        futures = fanout.submit_to_each(self.client, need, function, *arguments)
        answers: list[Answer] = []
        try:
            yield answers
            finished = [one for one in futures if one.status == "finished"]
            with suppress(Exception):  # a worker has gone in the meantime
                ask = partial(self.client.gather, finished, asynchronous=True)
                answers += self.client.sync(ask, callback_timeout=_PATIENCE_S)
        finally:
            self.client.cancel(futures)

    def ask(self, need: Need, question: Callable[[], Answer], about: str) -> Answer:
        for _ in range(_MOST_DEATHS):
            future = self.client.submit(_answer, question, about, pure=False, resources={need: 1})
            try:
                while True:  # it may be busy with another job
                    with suppress(TimeoutError):
                        answer: Answer = future.result(timeout=_LOOK_AT_WORKERS_S)
                        return answer
                    self.require(need)
            except KilledWorker as death:
                worker = str(death.last_worker.address)
            except CancelledError:
                raise ClusterLost(
                    "the connection to the scheduler is lost: run the same command again"
                ) from None
        raise ClusterError(
            f"the {need} worker died {_MOST_DEATHS} times while it was asked {about}; the last one was "
            f"{worker}: see its log"
        )

    def offers(self, need: Need) -> bool:
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(worker["resources"].get(need) for worker in workers)

    def require(self, need: Need) -> int:
        threads, _ = fanout.require_workers(self.client, need, self.wait_s)
        return threads

    @contextmanager
    def listen(self, topic: str, hear: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        self.client.subscribe_topic(topic, lambda event: hear(event[1]))
        try:
            yield
        finally:
            if self.client.status == "running":
                self.client.unsubscribe_topic(topic)

    def publish(self, progress: Progress) -> list[str]:
        if self._publisher is not None:
            return []
        self._publisher = Publisher(progress)
        self._publisher.open(self.client)
        link = self.client.dashboard_link
        if self._publisher.problem is not None:
            return [f"Dask dashboard: {link}", f"no progress page: {self._publisher.problem}"]
        return [f"Dask dashboard: {link}", f"progress page:  {page_url(link)}"]

    def report(
        self, run: Run, plan: Plan, stop: threading.Event
    ) -> AbstractContextManager[Callable[[], object]]:
        return performance_report(self.client, run, plan, stop)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None


@contextmanager
def open_executor(spec: DaskCluster) -> Iterator[Executor]:
    """An executor over the cluster that `spec` describes; whatever was started for it ends with the block.

    Raises
    ------
    ClusterError
        It can't be started or reached.
    """
    with open_cluster(spec) as client:
        executor = DaskExecutor(client, spec.wait_s, spec.stall_s)
        try:
            yield executor
        finally:
            executor.close()


def _answer(question: Callable[[], Answer], about: str) -> Answer:
    """The task of a worker that is asked a question."""
    with (
        phases.working_on("ask", about, 0) as doing,
        watchdog.watched(get_worker(), doing, phases.STALL_S),
    ):
        return question()
