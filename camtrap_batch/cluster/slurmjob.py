"""One SLURM job with Dask workers."""

from __future__ import annotations

import shlex
from typing import Any

from dask_jobqueue.slurm import SLURMJob
from distributed.core import Status


class WorkerJob(SLURMJob):
    """A SLURMJob that says how it ended: `SpecCluster` asks if not all could be started.

    Paths of its logs may contain spaces; sbatch treats quotes like a shell, and `%%` as `%`.
    """

    def __init__(self, *args: Any, log_directory: str, **options: Any) -> None:
        super().__init__(*args, log_directory=log_directory, **options)  # type: ignore[no-untyped-call]
        escaped = log_directory.replace("%", "%%")
        lines = str(self.job_header).splitlines()
        for number, line in enumerate(lines):
            if line.startswith(("#SBATCH -e ", "#SBATCH -o ")):
                option, path = line[:11], line[11:]
                lines[number] = option + shlex.quote(path.replace(log_directory, escaped, 1))
        self.job_header = "\n".join(lines)

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except Exception:
            self.status = Status.failed
            raise

    async def close(self) -> None:
        await super().close()  # type: ignore[no-untyped-call]
        self.status = Status.closed
