"""Ends a worker whose shard makes no progress: a thread that hangs in a system call can't be ended otherwise.

A shard makes progress with each image that is read or judged, each batch that is classified or trained on,
and each change of phase (see `phases`). A worker that ends takes its shard with it, which is tried again as
after any death; the worker's last message tells the driver which shard it was.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from camtrap_batch import phases
from camtrap_batch.engine.base import Stall

if TYPE_CHECKING:
    from distributed import Worker

TOPIC = "camtrap-stalled"
"""Dask topic on which a worker announces, as a `Stall`, that it ends itself."""

_LOOKS = 30  # within `stall_s`
_LAST_WORDS_S = 0.5

logger = logging.getLogger(__name__)


@contextmanager
def watched(worker: Worker, doing: phases.Doing, stall_s: float) -> Iterator[None]:
    """Until the block ends, end `worker` if what it is `doing` stands still for `stall_s` seconds.

    A process with a nanny ends at once, and its nanny starts another. One without may be more than a worker:
    only the worker in it is closed.
    """
    left = threading.Event()
    key = str(worker.get_current_task())
    watch = threading.Thread(
        target=_watch, args=(worker, key, doing, stall_s, left), name="watchdog", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        left.set()


def _watch(worker: Worker, key: str, doing: phases.Doing, stall_s: float, left: threading.Event) -> None:
    looks, seen = 0, -1
    # Looks are counted, not seconds: in a process that was stopped for a while, nothing could make progress.
    while looks < _LOOKS:
        if left.wait(stall_s / _LOOKS):
            return
        looks, seen = (looks + 1, seen) if doing.signs == seen else (0, doing.signs)
    stall = Stall(key, worker.address, doing.phase, stall_s)
    logger.critical("shard %s on worker %s: %s: the worker ends", doing.shard, stall.worker, stall)
    worker.log_event(TOPIC, asdict(stall))
    time.sleep(_LAST_WORDS_S)
    if worker.nanny:
        os._exit(1)
    worker.loop.add_callback(worker.close, executor_wait=False, reason=str(stall))
