"""Loops that run as machine code."""

from __future__ import annotations

import functools
from typing import Any

from numba import njit


def compiled(function: Any) -> Any:
    """Compile on the first call, free of the GIL, and keep the machine code for later processes.

    It is kept in `__pycache__` beside the module, otherwise in the user's cache, or where NUMBA_CACHE_DIR
    says. What other compiled functions call is compiled with `njit` instead.
    """
    try:
        machine_code = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # none of these folders can be written
        return njit(nogil=True)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return machine_code(*arguments)
        except OSError:
            # A full disk or a quota, where the new machine code should be kept, is no fault of the image that
            # is being decoded. These loops do no I/O; the code is compiled now.
            return machine_code(*arguments)

    return call
