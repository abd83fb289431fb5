"""Which shard each thread of this process is working on, and in which phase: what a worker reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

STALL_S = 900.0
"""Seconds without a sign of progress after which a worker is ended, unless the cluster file says otherwise.

This is more than the 10 minutes for which GPU workers that train together wait for one another.
"""


@dataclass
class Doing:
    """What a thread is working on; `signs` changes with each sign of progress."""

    stage: str
    shard: str
    rows: int
    began: float
    phase: str
    phase_began: float
    signs: int = 0

    def move(self) -> None:
        """Give a sign of progress, from any thread; a sign lost to a race is not the only one."""
        self.signs += 1


_doing: dict[int, Doing] = {}  # by thread


@contextmanager
def working_on(stage: str, shard: str, rows: int) -> Iterator[Doing]:
    """Mark this thread as working on a shard until the block ends."""
    now = time.monotonic()
    doing = _doing[threading.get_ident()] = Doing(stage, shard, rows, now, "start", now)
    try:
        yield doing
    finally:
        _doing.pop(threading.get_ident(), None)


def enter(phase: str) -> None:
    """Mark this thread as being in this phase of its shard, and making progress; does nothing without a
    shard."""
    doing = _doing.get(threading.get_ident())
    if doing is None:
        return
    doing.move()
    if doing.phase != phase:
        doing.phase, doing.phase_began = phase, time.monotonic()


def progress() -> Callable[[], None]:
    """What to call, on any thread, whenever part of this thread's shard is done; it is cheap."""
    doing = _doing.get(threading.get_ident())
    return doing.move if doing is not None else lambda: None


def current() -> list[dict[str, Any]]:
    """What the threads are doing. Durations, not times: the clock of another machine may be wrong."""
    now = time.monotonic()
    return [
        {
            "stage": doing.stage,
            "shard": doing.shard,
            "rows": doing.rows,
            "phase": doing.phase,
            "seconds": round(now - doing.began, 1),
            "phase_seconds": round(now - doing.phase_began, 1),
        }
        for doing in list(_doing.values())
    ]
