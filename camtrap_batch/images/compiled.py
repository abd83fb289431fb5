"""Loops that run as machine code."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile on the first call, free of the GIL, and keep the machine code for later processes.

    It lies in `__pycache__` beside the module, else in the user's cache, or where NUMBA_CACHE_DIR says.
    """
    try:
        dispatcher = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # none of these can be written
        return njit(nogil=True)(function)
    keep = dispatcher._cache.save_overload

    def keep_if_there_is_room(*compiled: Any) -> None:
        with suppress(OSError):  # a full disk or a quota is no fault of the image that is being decoded
            keep(*compiled)

    dispatcher._cache.save_overload = keep_if_there_is_room
    return dispatcher
