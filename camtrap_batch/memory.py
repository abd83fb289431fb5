"""Memory that a process no longer uses."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Generic, TypeVar

import pyarrow as pa

Value = TypeVar("Value")


def release_memory() -> None:
    """Return freed memory to the system, instead of keeping it for later.

    For the end of a step that held hundreds of megabytes: they would add to what the next step takes.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Handover(Generic[Value]):
    """Something large that changes hands: whoever takes it is its only holder, and can release it."""

    def __init__(self) -> None:
        self._value: Value | None = None

    def give(self, value: Value) -> None:
        self._value = value

    def take(self) -> Value | None:
        """The object, once; None if it has been taken."""
        value, self._value = self._value, None
        return value
