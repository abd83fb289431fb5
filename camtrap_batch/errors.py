"""Every error that a user can meet, in one tree.

CamtrapError
├── UserError              exit code 2: a file or the command line is wrong; nothing was written
│   ├── JobError               the job file, or a value set with --set
│   ├── ClusterError           the cluster file, the scheduler's address, a missing kind of worker
│   │   ├── UnfitWorker            a worker with other versions, or one that can't see images or run folder
│   │   ├── ClusterUnreachable     exit code 3: nobody answers where the cluster should be
│   │   └── NoWorker               exit code 3: no worker of a needed kind came in time
│   ├── InputError             metadata, image folder or camera table: not there, or not what it should be
│   │   └── NotMade                a table that its stage has not made yet
│   └── MissingExtra           a package of an optional extra is not installed
├── StageError             exit code 1: a stage could not be finished
│   ├── ShardsFailed           some shards failed; the others have receipts
│   ├── ClusterLost            the scheduler, or every worker of a kind, was lost during the work
│   ├── ImagesGone             exit code 3: the disk or folder with the images is gone
│   ├── TargetUnreachable      exit code 3: the target of a push does not answer
│   ├── WorkersDie             workers die whatever they are given: no image is to blame
│   ├── StorageError           the run folder can't be written: disk full, read-only, no permission
│   ├── Damaged                a file of the run folder is not what was written
│   ├── LeaseHeld              exit code 3: another driver is working on the run folder
│   └── LeaseLost              exit code 3: this driver stood still for so long that another took over
├── BrokenPromise          exit code 1: a commit was refused because rows in are not rows out
└── Interrupted            exit code 130: Ctrl-C; what was in flight has its receipts

Exit code 3 is for what may pass by itself: the same command may succeed later. StoreUnreachable also has it;
it is an OSError, so that a task that meets it is tried again.

A message says what was wrong, where (file, key, line) and what would be right, on one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CamtrapError(Exception):
    """Base class; `exit_code` is the command's exit code."""

    exit_code = 1


class UserError(CamtrapError):
    exit_code = 2


class JobError(UserError):
    pass


class ClusterError(UserError):
    pass


class UnfitWorker(ClusterError):
    """`address` is the worker's."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(reason)
        self.address, self.reason = address, reason

    def __reduce__(self) -> tuple[type[UnfitWorker], tuple[str, str]]:
        return UnfitWorker, (self.address, self.reason)


class ClusterUnreachable(ClusterError):
    exit_code = 3


class NoWorker(ClusterError):
    exit_code = 3


class InputError(UserError):
    pass


class NotMade(InputError):
    """A table that its stage has not made yet."""


class MissingExtra(UserError):
    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'camtrap-batch[{extra}]'")
        self.extra, self.what = extra, what

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return MissingExtra, (self.extra, self.what)


class StageError(CamtrapError):
    pass


class ShardsFailed(StageError):
    pass


class ClusterLost(StageError):
    pass


class TargetUnreachable(StageError):
    exit_code = 3


class ImagesGone(StageError):
    exit_code = 3


class WorkersDie(StageError):
    pass


class StorageError(StageError):
    pass


class StoreUnreachable(OSError):
    """The run folder's disk or store does not answer, or says that it can't at the moment."""

    exit_code = 3


class Damaged(StageError):
    """`file` is the path in the run folder, `fault` what is wrong with it, `advice` what would help."""

    def __init__(self, url: str, file: str, fault: str, advice: str = "") -> None:
        super().__init__(f"{url}/{file}: {fault}" + (f"; {advice}" if advice else ""))
        self.url, self.file, self.fault, self.advice = url, file, fault, advice

    def __reduce__(self) -> tuple[type[Damaged], tuple[str, str, str, str]]:
        return Damaged, (self.url, self.file, self.fault, self.advice)


class LeaseHeld(StageError):
    exit_code = 3


class LeaseLost(StageError):
    exit_code = 3


class BrokenPromise(CamtrapError):
    pass


class Interrupted(CamtrapError):
    exit_code = 130


def exit_code_of(problem: BaseException) -> int:
    """The exit code of a command that raises this."""
    if isinstance(problem, KeyboardInterrupt):
        return Interrupted.exit_code
    return problem.exit_code if isinstance(problem, CamtrapError | StoreUnreachable) else 1


def explain(problem: BaseException) -> str:
    """The message of a command that raises this, on one line."""
    text = str(problem)
    if isinstance(problem, KeyboardInterrupt):
        text = "stopped at once; finished shards are kept: the same command goes on"
    elif isinstance(problem, OSError):  # from a disk or a file system that every stage needs
        text = f"{problem.filename}: {problem.strerror}" if problem.filename else text
    elif not isinstance(problem, CamtrapError):  # a fault in this package
        text = f"{type(problem).__name__}: {text} ({_where(problem)})"
    return " ".join(text.split("\n"))


def _where(problem: BaseException) -> str:
    """The line of code at which an exception began."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"


def choices(wrong: str, known: Iterable[str], most: int = 12) -> str:
    """The end of a message about an unknown name: the nearest known name, and the possible ones.

    >>> choices("resnet43", ["resnet34", "resnet50"])
    "did you mean 'resnet34'? possible: resnet34, resnet50"
    """
    names = sorted(set(known))
    lowered = {name.lower(): name for name in names}
    most = len(names) if len(names) <= most + 3 else most  # "and 2 more" takes the room of two names
    near = difflib.get_close_matches(wrong.lower(), lowered, n=1, cutoff=0.6)
    listed = ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
    hint = f"did you mean '{lowered[near[0]]}'? " if near else ""
    return f"{hint}possible: {listed or 'none'}"
