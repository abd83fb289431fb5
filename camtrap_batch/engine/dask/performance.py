"""Dask's performance report of a stage, kept in the run folder: task stream, profiles, load."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from camtrap_batch.store import sums
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan

if TYPE_CHECKING:
    from distributed import Client

_PATIENCE_S = 60.0
_PATIENCE_AFTER_ERROR_S = 5.0


def performance_path(stage: str, plan_id: str) -> str:
    """Where the report of a plan is, in the run folder."""
    return f"performance/{stage}-{plan_id}.html"


@contextmanager
def performance_report(
    client: Client, run: Run, plan: Plan, stop: threading.Event
) -> Iterator[Callable[[], object]]:
    """Write the report of what runs in the block, even if the block ends with an error.

    The scheduler makes it, with bokeh, and does nothing else in that time (a second or two). It is begun when
    the block calls the function it is given, once the work is done, so that the rest of the block goes on
    alongside; at the latest when the block ends. It asks every worker; an error does not wait long for one
    that stands still. Whatever goes wrong with it is a line in the log; it never ends a job. After Ctrl-C no
    report is made.
    """
    # Not distributed's own context manager: that one writes with fsspec, and raises what it meets.
    began, problem, count, patience_s = time.time(), "", 0, _PATIENCE_S
    try:
        count = client.sync(_prepare, client, callback_timeout=_PATIENCE_S)
    except Exception as caught:
        problem = _line(caught)

    def write() -> None:
        nonlocal problem
        if problem or stop.is_set() or client.status != "running":
            return
        try:
            _write(client, run, plan, began, count, patience_s)
        except Exception as caught:
            problem = _line(caught)

    with ThreadPoolExecutor(1) as beside:
        begin = functools.cache(lambda: beside.submit(write))
        try:
            yield begin
        except BaseException:
            patience_s = _PATIENCE_AFTER_ERROR_S
            raise
        finally:
            begin().result()
            if problem and not stop.is_set():
                with suppress(Exception):  # perhaps the same disk; what the block raised says more
                    run.log("no performance report", stage=plan.stage, problem=problem)


def _write(client: Client, run: Run, plan: Plan, began: float, count: int, patience_s: float) -> None:
    scheduler: Any = client.scheduler
    page: str = client.sync(
        scheduler.performance_report,
        start=began,
        last_count=count,
        code=f"camtrap {plan.stage}, plan {plan.id} of {run.job.name}",
        mode="inline",  # read years later, perhaps where there is no internet
        callback_timeout=patience_s,
    )
    run.folder.write(performance_path(plan.stage, plan.id), sums.seal(page.encode()))


async def _prepare(client: Client) -> int:
    """Have the scheduler record each task's times; returns where its record of the machine's load begins."""
    await client.get_task_stream(start=0, stop=0)
    count: int = await client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.monitor.count)
    return count


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0]
