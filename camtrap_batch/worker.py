"""What every worker process does first: `dask worker --preload camtrap_batch.worker`."""

from __future__ import annotations

import os
import signal
from typing import Any


async def dask_setup(worker: Any) -> None:
    # Ctrl-C is for the driver: a terminal sends it to the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Read when torch is loaded. Threads that spin while they wait for one another make training 3 to 6
    # times slower (two threads of torch on two cores) as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
