"""What work is told about the Dask worker that it runs on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from camtrap_batch.engine.base import WorkerContext
from camtrap_batch.engine.dask.recruiting import gathered
from camtrap_batch.engine.visibility import Visibility

if TYPE_CHECKING:
    from distributed import Worker


def here(worker: Worker, visibility: Visibility) -> WorkerContext:
    """The context for work on this worker; `visibility` is what the work needs to see."""
    return WorkerContext(
        name=str(worker.name),
        threads=int(worker.state.nthreads),
        memory=worker.memory_manager.memory_limit or None,
        tell=worker.log_event,
        look_again=partial(visibility.check_again, worker.address),
        team=partial(gathered, worker, visibility),
    )
