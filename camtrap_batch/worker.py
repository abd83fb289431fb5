"""What every worker process of a local cluster does first (a Dask preload module)."""

from __future__ import annotations

import signal
from typing import Any


async def dask_setup(worker: Any) -> None:
    """Leave Ctrl-C to the driver: a terminal sends it to the whole process group."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
