"""One SLURM job with Dask workers."""

from __future__ import annotations

from dask_jobqueue.slurm import SLURMJob
from distributed.core import Status


class WorkerJob(SLURMJob):
    """A SLURMJob that says how it ended: `SpecCluster` asks, where not all could be started."""

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except Exception:
            self.status = Status.failed
            raise

    async def close(self) -> None:
        await super().close()  # type: ignore[no-untyped-call]
        self.status = Status.closed
