"""What every worker process runs first; loaded under the name `camtrap_batch.worker`."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


async def dask_setup(worker: Any) -> None:
    # Ctrl-C is for the driver: a terminal sends it to the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Read when torch is loaded. Threads that spin while they wait for one another make training 3 to 6
    # times slower (two threads of torch on two cores) as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    # Garbage collection at Python's exit would search all that torch and fastai have loaded, in vain:
    # 1 to 2 s of a core in each worker, which the end of the cluster would wait for.
    atexit.register(gc.freeze)


def _keep_freed_memory() -> None:
    """Undo the nanny's `MALLOC_TRIM_THRESHOLD_=65536`, which makes every large array take new pages.

    With it, pages of a freed tensor went back to the system at once, and training spent half of its time
    getting new ones. The limits are those that glibc's own rule can reach (mallopt(3)).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
