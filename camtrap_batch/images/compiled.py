"""Loops that run as machine code."""

from __future__ import annotations

from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile on the first call, free of the GIL, and keep the machine code for later processes.

    It lies in `__pycache__` beside the module, else in the user's cache, or where NUMBA_CACHE_DIR says.
    """
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)
