"""Which shard each thread of this process is at, and in which phase: what a worker tells while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class _Doing:
    stage: str
    shard: str
    rows: int
    began: float
    phase: str
    phase_began: float


_doing: dict[int, _Doing] = {}  # by thread


@contextmanager
def working_on(stage: str, shard: str, rows: int) -> Iterator[None]:
    """This thread works on a shard until the block is left."""
    now = time.monotonic()
    _doing[threading.get_ident()] = _Doing(stage, shard, rows, now, "start", now)
    try:
        yield
    finally:
        _doing.pop(threading.get_ident(), None)


def enter(phase: str) -> None:
    """This thread is in another phase of its shard; without a shard, nothing is noted."""
    doing = _doing.get(threading.get_ident())
    if doing is not None and doing.phase != phase:
        doing.phase, doing.phase_began = phase, time.monotonic()


def current() -> list[dict[str, Any]]:
    """What the threads are at. Seconds, not times: the clock of another machine may be wrong."""
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
