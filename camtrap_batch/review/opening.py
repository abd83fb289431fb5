"""Opening a run for review: with many images, the first sequences at once, and all of them a while later.

A page on a million images can't wait until they are all read. So it first shows the sequences that come first
by what is known of the sequences alone, without the other classes that each image may show.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints
from camtrap_batch.review.items import Items, Wanted, read_sequences
from camtrap_batch.review.order import Order, after_looks, looks_until, rank
from camtrap_batch.store.run import Run

_AT_ONCE = 100_000
"""Up to this many images are read before anything is shown; otherwise only the first sequences are."""

FIRST = 24
"""Number of sequences that are read first."""


@dataclass(frozen=True)
class Ordering:
    """What to look at first.

    Attributes
    ----------
    n : how many sequences; in a random order, they are drawn as a sample with known probabilities
    until : leave out those after which fewer wrong presence records are expected
    """

    order: Order
    n: int | None = None
    seed: int = 0
    until: float | None = None

    def of(self, items: Items) -> Ints:
        """Numbers of the sequences in this order; only a random one has no more than `n`."""
        if self.order == "random" and self.n is not None:
            return items.draw(self.n, self.seed)
        truth = items.truth if self.order == "disagree" else pa.nulls(len(items), pa.string())
        evidence = items.evidence
        if self.order == "useful" and items.said:
            labels = {number: [one["label"] for one in said.labels] for number, said in items.said.items()}
            evidence = after_looks(evidence, labels, items.empty)
        numbers = rank(self.order, evidence, truth, self.seed)
        return numbers if self.until is None else numbers[: looks_until(items.evidence, numbers, self.until)]


class Opening:
    """The sequences of a run, as far as they have been read.

    Parameters
    ----------
    lock : held while somebody decides

    Attributes
    ----------
    first : numbers of the sequences whose images `soon` has, in order; empty once everything has been read
    total, done : how many sequences there are to look at, and about how many somebody said something; valid
        while `first` is not empty
    ranked : numbers of all, in the requested order, once they have been read

    Raises
    ------
    InputError
        There is no result of `merge` yet.
    """

    def __init__(
        self,
        run: Run,
        ordering: Ordering,
        wanted: Wanted,
        *,
        lock: threading.Lock,
    ) -> None:
        self._run, self._ordering, self._lock = run, ordering, lock
        self._sequences = read_sequences(run)
        self._whole: Future[Items] = Future()
        self._soon: Items | None = None
        self.first: Ints = np.array([], np.int64)
        self.ranked: Ints = self.first
        self.total = self.done = 0
        if run.snapshot("frames").rows <= _AT_ONCE:
            self._read()
            self._whole.result()
            return
        is_of_sequences = wanted == replace(wanted, is_night=None, state=None)
        if is_of_sequences and ordering.order != "disagree" and ordering.until is None:
            self._read_first(wanted)
        threading.Thread(target=self._read, name="review-read", daemon=True).start()

    def __len__(self) -> int:
        return int(self._sequences.num_rows)

    @property
    def is_whole(self) -> bool:
        """Whether everything has been read."""
        return self._whole.done()

    @property
    def soon(self) -> Items:
        """What is available soonest: all, or what was read first; waits for it. Raises as `items` does."""
        return self._soon if self._soon is not None and not self._whole.done() else self.items

    @property
    def items(self) -> Items:
        """Everything; waits until it has been read. Raises whatever reading it raised."""
        return self._whole.result()

    def of(self, *numbers: int) -> Items:
        """Whichever has the images of these sequences soonest."""
        return self.soon if set(numbers) <= set(self.first.tolist()) else self.items

    def close(self) -> None:
        """Wait for what is being read: a thread that reads must not outlive the interpreter."""
        self._whole.exception()

    def _read_first(self, wanted: Wanted) -> None:
        bare = Items(self._run, self._sequences, np.array([], np.int64))
        numbers = self._ordering.of(bare)
        numbers = numbers[bare.select(wanted)[numbers]][: self._ordering.n]
        told = pc.is_in(bare.seq_id, bare.names_told).to_numpy(zero_copy_only=False)
        self.total, self.done = len(numbers), int(told[numbers].sum())
        self.first = numbers[~told[numbers]][:FIRST]
        if len(self.first):
            self._soon = Items(self._run, self._sequences, self.first)
            if self._ordering.order == "random":
                self._ordering.of(self._soon)  # decisions refer to the draw

    def _read(self) -> None:
        try:
            items = Items(self._run, self._sequences)
            self.ranked = self._ordering.of(items)
            with self._lock:
                items.read_what_was_said()
                self._whole.set_result(items)
        except BaseException as problem:
            self._whole.set_exception(problem)
