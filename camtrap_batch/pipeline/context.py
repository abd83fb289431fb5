"""What every stage receives: one command's view of a job."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.engine.base import Executor, ExecutorSource
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import Display, Silent
from camtrap_batch.monitor.progress import Progress
from camtrap_batch.options import Option
from camtrap_batch.store.identity import check_identity
from camtrap_batch.store.lease import hold
from camtrap_batch.store.run import Run


@dataclass
class Context:
    """One command's view of a job.

    Attributes
    ----------
    cluster : where shards run; it is not opened by a stage that has nothing to do there
    stop : set by Ctrl-C: finish what is in flight, then leave
    dry_run : say what would be done, write nothing
    options : values of the present stage's options, by name (see `Stage.options`)
    job_file : name of the job file, for suggested commands
    """

    job: Job
    run: Run
    cluster: ExecutorSource
    display: Display = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)
    dry_run: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    job_file: str = "JOB"

    def __post_init__(self) -> None:
        self.progress = Progress(self.job.name, self.run.folder.url)
        self._command = ""
        self._leases: ExitStack | None = None

    @contextmanager
    def driving(self, command: str) -> Iterator[None]:
        """The block in which a command works: at its end, what `begin_writing` took is released.

        Raises InputError if the folder is not a run folder, or a newer version wrote it.
        """
        if self._leases is not None:  # a stage of `reprocess`
            yield
            return
        check_identity(self.run.folder)
        with ExitStack() as leases:
            self._leases, self._command = leases, command
            try:
                yield
            finally:
                self._leases = None

    def begin_writing(self, *, only_if_needed: bool = False) -> None:
        """Take the run folder's lease, unless it is held. Raises LeaseHeld if another driver has it.

        A command that finds its input wrong does not get here, and leaves no trace. Nor does one that may
        have nothing to do (`only_if_needed`), unless it calls this again.
        """
        if self._leases is not None:
            held = hold(self.run.folder, self.job.name, self._command, only_if_needed=only_if_needed)
            self._leases.enter_context(held)

    def option(self, option: Option) -> Any:
        """The value of a stage's option."""
        return self.options.get(option.name, option.default)

    def executor(self) -> Executor:
        """The executor; the first call opens it, and shows where its progress can be watched."""
        executor = self.cluster.executor()
        for line in executor.publish(self.progress):
            self.display.note(line)
        return executor

    def stall_s(self, executor: Executor) -> float:
        """`stall_s` of the cluster file, but at least twice what an image may take to be read and decoded."""
        return max(executor.stall_s, 4 * self.job.validate_.timeout_s)
