"""Memory that a process no longer uses."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Generic, TypeVar

import pyarrow as pa

Value = TypeVar("Value")


def release_memory() -> None:
    """Hand freed memory back to the system, instead of keeping it for what may come.

    For the end of a step that held hundreds of megabytes: beside what the next one takes, they would count.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class Handover(Generic[Value]):
    """Something large that changes hands: whoever takes it alone holds it, and can let go of it."""

    def __init__(self) -> None:
        self._value: Value | None = None

    def give(self, value: Value) -> None:
        self._value = value

    def take(self) -> Value | None:
        """What was given, once; None where nothing is there."""
        value, self._value = self._value, None
        return value
