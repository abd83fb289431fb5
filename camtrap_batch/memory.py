"""Memory that a process no longer uses."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import pyarrow as pa


def give_back() -> None:
    """Hand freed memory back to the system, instead of keeping it for what may come.

    For the end of a step that held hundreds of megabytes: beside what the next one takes, they would count.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
