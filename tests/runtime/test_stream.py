from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from camtrap_batch.runtime.stream import beside, in_order


def test_items_in_their_order_made_before_they_are_asked_for() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            made.append(number)
            yield number

    ahead = beside(items(), 2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:  # taken 1, waiting 2, in hand 1
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(ahead) == [1, 2, 3, 4, 5]


def test_an_error_arrives_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no such disk")

    ahead = beside(items(), 3)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="no such disk"):
        next(ahead)


def test_a_consumer_that_leaves_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    before = threading.active_count()
    ahead = beside(endless(), 1)
    next(ahead)
    ahead.close()
    assert threading.active_count() == before


def test_results_in_order_and_not_too_many() -> None:
    running: list[int] = []
    lead: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number

    def items() -> Iterator[int]:
        for number in range(20):
            running.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        for result in in_order(pool, work, items(), 5):
            lead.append(len(running) - result)
    assert lead[0] == 6
    assert max(lead) == 6
