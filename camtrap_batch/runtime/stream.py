"""Work alongside the caller's: an iterator that runs ahead of its consumer, an ordered map over threads."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_S = 0.2


def beside(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`items`, produced on a separate thread, up to `depth` of them in advance.

    Whatever producing them raises is raised here. A consumer that stops early also ends the thread.
    """
    made: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(depth)
    left = threading.Event()

    def put(is_item: bool, content: Item | BaseException | None) -> bool:
        while not left.is_set():
            try:
                made.put((is_item, content), timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as problem:
            put(False, problem)

    thread = threading.Thread(target=work, name="beside", daemon=True)
    thread.start()
    try:
        while True:
            is_item, content = made.get()
            if is_item:
                yield content  # type: ignore[misc]
            elif isinstance(content, BaseException):
                raise content
            else:
                return
    finally:
        left.set()
        thread.join()


def in_order(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`map(work, items)` on the threads of `pool`, no more than `ahead` results before the one asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
