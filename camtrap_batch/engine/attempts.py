"""What is left to do of a plan's shards, and what becomes of those that fail: the same for every executor.

A shard whose work raises is tried again, and fails for good on its third attempt. One that loses its worker
is also tried again; one that keeps losing workers is halved, and its halves in turn, until the single image
that causes it is found. An image is convicted only by losses while nothing else ran on the worker, and only
if other shards succeeded in the meantime: its row is then written with the status `crashed`. If nothing
succeeds, it is not the images that kill the workers, and the stage ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.engine.base import (
    Event,
    ImageCrashed,
    Outcome,
    ShardDone,
    ShardErred,
    ShardHalved,
    ShardLost,
    Stall,
    Work,
)
from camtrap_batch.errors import BrokenPromise, StorageError, UserError, WorkersDie
from camtrap_batch.store.shards import Plan, Receipt, Shard, find_receipts

LOSSES_BEFORE_HALVING = 3
ERRORS_BEFORE_FAILED = 3
LOSSES_ALONE_BEFORE_CRASHED = 2
LOSSES_IN_A_ROW = 12
"""Losses in a row, with no shard done in between, that end a stage; single images that run alone don't count.

Three per worker if that is more: whoever owns the workers may take all of them away at once.
"""


@dataclass
class Attempt:
    """A shard on its way; `succeeded` is how many others were done when it was first lost."""

    shard: Shard
    losses: int = 0
    errors: int = 0
    tries: int = 0
    losses_alone: int = 0
    number: int = 0
    succeeded: int | None = None

    @property
    def is_suspect(self) -> bool:
        return self.losses >= LOSSES_BEFORE_HALVING - 1

    @property
    def must_run_alone(self) -> bool:
        return self.shard.rows == 1 and self.losses >= LOSSES_BEFORE_HALVING


@dataclass
class Attempts:
    """The shards of a fan-out.

    Attributes
    ----------
    todo : what may begin, in this order
    alone : single images under suspicion, each of which must run with nothing else beside it
    workers : number of workers, or of their threads
    """

    plan: Plan
    work: Work
    payload: Callable[[Shard], Any]
    observe: Callable[[Event], None]
    outcome: Outcome = field(default_factory=Outcome)
    todo: deque[Attempt] = field(default_factory=deque)
    alone: deque[Attempt] = field(default_factory=deque)
    workers: int = 1
    succeeded: int = 0
    losses_in_a_row: int = 0

    def add(self, shards: Iterable[Shard]) -> None:
        self.todo.extend(Attempt(shard) for shard in shards)

    def done(self, attempt: Attempt, receipt: Receipt) -> None:
        """A worker has done it."""
        self.succeeded += 1
        self.losses_in_a_row = 0
        self._settle(attempt, receipt)

    def erred(self, attempt: Attempt, problem: BaseException) -> None:
        """Its work raised. Re-raises what no other shard could escape."""
        if isinstance(problem, StorageError | UserError | BrokenPromise):
            raise problem
        attempt.errors += 1
        text = f"{type(problem).__name__}: {problem}".replace("\n", " ")
        if attempt.errors >= ERRORS_BEFORE_FAILED:
            self.failed(attempt, text)
        else:
            self.observe(ShardErred(attempt.shard, text, final=False))
            self.todo.append(attempt)

    def failed(self, attempt: Attempt, reason: str) -> None:
        self.outcome.failed[attempt.shard.id] = reason
        self.observe(ShardErred(attempt.shard, reason, final=True))

    def lost(
        self, attempt: Attempt, worker: str, *, deaths: int, stall: Stall | None, memory: int | None
    ) -> None:
        """Its worker died.

        Parameters
        ----------
        deaths : how many it is blamed for; 0 if another shard on the same worker is
        memory : bytes that the worker was allowed

        Raises
        ------
        WorkersDie
            Nothing was finished while workers died: no image is to blame.
        """
        shard, ran_alone = attempt.shard, attempt.must_run_alone
        if deaths:
            attempt.losses += deaths
            attempt.losses_alone += deaths if ran_alone else 0
            attempt.succeeded = self.succeeded if attempt.succeeded is None else attempt.succeeded
            self.losses_in_a_row += 0 if ran_alone else 1
        self.observe(ShardLost(shard, worker, attempt.losses, stall))
        if self.losses_in_a_row >= max(LOSSES_IN_A_ROW, 3 * self.workers):
            raise self._whatever_they_are_given(shard, worker, memory)
        if attempt.losses < LOSSES_BEFORE_HALVING:
            (self.todo.appendleft if attempt.is_suspect else self.todo.append)(attempt)
        elif not self.work.divisible or (stall is not None and stall.phase == "write"):
            why = str(stall or "out of memory?")  # if the run folder hangs, no image is to blame
            self.failed(attempt, f"its worker died {attempt.losses} times, the last one was {worker}; {why}")
        elif shard.rows > 1:
            halves = shard.halves()
            self.observe(ShardHalved(shard, halves))
            for half in reversed(halves):
                self.todo.appendleft(
                    Attempt(half, losses=LOSSES_BEFORE_HALVING - 1, succeeded=attempt.succeeded)
                )
        elif attempt.losses_alone < LOSSES_ALONE_BEFORE_CRASHED:
            self.alone.append(attempt)
        elif not self._others_succeeded(attempt):
            raise self._whatever_they_are_given(shard, worker, memory)
        else:
            self.observe(ImageCrashed(shard))
            self._settle(attempt, self.work.crashed(shard, self.payload(shard)))

    def _settle(self, attempt: Attempt, receipt: Receipt) -> None:
        self.outcome.receipts[attempt.shard.id] = receipt
        self.observe(ShardDone(attempt.shard, receipt, attempt.tries))

    def _others_succeeded(self, attempt: Attempt) -> bool:
        """Whether workers have done other shards since this one was first lost.

        This also holds if another part of the halved shard has a receipt from an earlier run, or if all other
        shards were done before and only this image is under suspicion.
        """
        if self.succeeded > (attempt.succeeded or 0):
            return True
        if self.succeeded and not self.alone and not self.todo:
            return True
        whole = attempt.shard.id.partition(".")[0]
        shards = [shard for shard in self.plan.shards if shard.id == whole]
        parts = find_receipts(self.work.folder, Plan.make(self.plan.stage, shards, {})).values()
        return any(set(part.counts) - {"crashed"} for part in parts)

    def _whatever_they_are_given(self, shard: Shard, worker: str, memory: int | None) -> WorkersDie:
        had = f"with {memory / 2**20:,.0f} MiB of memory each" if memory else "without a memory limit"
        return WorkersDie(
            f"workers die whatever they are given, {had}: nothing was done between their deaths, so no image "
            f"is to blame; the last was {worker}, at shard {shard.id} ({shard.rows} rows): give them more "
            "memory, or look at their logs; what was done is kept"
        )
