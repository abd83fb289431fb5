"""Work for executors: it fails, kills and waits where it is told to."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from camtrap_batch import phases
from camtrap_batch.engine.base import Event, Executor, Need, Outcome, WorkerContext
from camtrap_batch.errors import StorageError
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import THUMBNAILS
from camtrap_batch.store.shards import Plan, Receipt, Shard
from camtrap_batch.store.tables import finish_shard

Death = Literal["memory", "kill"]
"""What an image that kills does: raise MemoryError (where the only process is this one), or kill."""


@dataclass(frozen=True)
class Lacks:
    """A `Requirement` that nobody meets, or everybody."""

    what: str

    def lacking(self) -> str:
        return self.what


@dataclass(frozen=True)
class Toy:
    """Writes the rows' numbers; dies, raises, hangs (the first time only, or always) at the rows named.

    `kills_after` are rows at which it dies once their receipt is written; `tells` is a topic on which it
    tells each shard's id before anything else.
    """

    folder: Folder
    plan: tuple[str, str]
    kills: frozenset[int] = frozenset()
    kills_after: frozenset[int] = frozenset()
    death: Death = "kill"
    raises: frozenset[int] = frozenset()
    raises_once: frozenset[int] = frozenset()
    disk_full: frozenset[int] = frozenset()
    hangs_once: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    row_s: float = 0.0
    phase: str = "forward"
    divisible: bool = True
    tells: str | None = None
    requirement: Lacks | None = None
    image_root: ClassVar[None] = None

    def run(self, shard: Shard, payload: Any, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        if self.tells:
            here.tell(self.tells, {"shard": shard.id})
        rows = range(shard.start, shard.stop)
        tried = Path(f"{self.folder.url}.tries")
        is_first = not tried.exists() or shard.id not in tried.read_text()
        with tried.open("a") as tries:
            tries.write(f"{shard.id}\n")
        phases.enter(self.phase)
        move = phases.progress()
        for row in rows:
            time.sleep(self.row_s)
            move()
            if row in self.hangs or (is_first and row in self.hangs_once):
                pipe = Path(f"{self.folder.url}.{shard.id}-{time.time_ns()}")
                os.mkfifo(pipe)
                pipe.open("wb").close()  # waits for a reader in the system, as on a disk that does not answer
        if self.kills & set(rows):
            if self.death == "memory":
                raise MemoryError
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raises & set(rows) or (is_first and self.raises_once & set(rows)):
            raise ZeroDivisionError("on purpose")
        if self.disk_full & set(rows):
            raise StorageError("no space left")
        receipt = self._write(shard, "ok", started, here.name)
        if self.kills_after & set(rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        return self._write(shard, "crashed", time.monotonic(), "driver")

    def _write(self, shard: Shard, status: str, started: float, worker: str) -> Receipt:
        ids = [str(row) for row in range(shard.start, shard.stop)]
        blank = [None] * len(ids)
        table = pa.table([ids, blank, blank, blank, blank], schema=THUMBNAILS)
        counts = {status: shard.rows}
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {"thumbnails": table},
            counts=counts,
            seconds={},
            started=started,
            worker=worker,
        )


def make_plan(n_shards: int, rows: int) -> Plan:
    shards = (Shard(f"{number:016x}", number * rows, (number + 1) * rows) for number in range(n_shards))
    return Plan.make("validate", shards, {})


def fan_out(
    executor: Executor,
    plan: Plan,
    work: Toy,
    stop: threading.Event | None = None,
    need: Need = "CPU",
    stall_s: float | None = None,
    observe: Callable[[Event], None] = lambda event: None,
    shards: Sequence[Shard] | None = None,
) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        observe(event)

    outcome = executor.fan_out(
        plan,
        plan.shards if shards is None else shards,
        work,
        lambda shard: None,
        need=need,
        observe=note,
        stop=stop or threading.Event(),
        stall_s=stall_s,
    )
    return outcome, events


def tries_of(work: Toy) -> list[str]:
    return Path(f"{work.folder.url}.tries").read_text().split()
