"""Who works on a run folder: one driver at a time, which keeps showing that it is alive.

`lease/<n>.json` is made by exclusive creation, on a disk and in a bucket alike: whoever makes the greatest
number holds the lease, and writes the time into it every few seconds. A lease that was released, or that has
lost its holder, is followed by the next number, so no two drivers can take the same one. A holder on this
machine is gone when its process is, whatever has happened to the clock in the meantime. A holder on another
machine is gone when it has been silent for two minutes, by the clocks of both, and stays silent while one
waits for it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

from camtrap_batch.errors import LeaseHeld, LeaseLost, StorageError
from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.identity import check_identity, write_identity
from camtrap_batch.store.records import Unreadable, from_json, to_json
from camtrap_batch.store.shards import now

BEAT_S = 10.0
"""Seconds between signs of life."""
LAPSE_S = 120.0
"""Seconds of silence after which a holder on another machine counts as gone."""

_FOLDER = "lease"

State = Literal["free", "held", "gone", "silent"]


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, or held it.

    Attributes
    ----------
    id : id of this lease
    host, machine, pid, started : the process: its machine's name and identity, when it began (s since 1970)
    ticks : when it began, in clock ticks since the machine booted, which setting the clock does not change;
        0 if unknown
    job, command : the job it works on, and the command it runs
    since, beat : when the lease was taken, and the last sign of life, in UTC
    released : whether it was given back
    """

    id: str
    host: str
    machine: str
    pid: int
    started: float
    job: str
    command: str
    since: str
    beat: str
    released: bool = False
    number: int = 0
    ticks: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    def state(self, lapse_s: float = LAPSE_S) -> State:
        """Whether its holder is alive; `silent`: it is on another machine and has not been heard of for
        long."""
        if self.released:
            return "free"
        is_alive = _is_alive(self.pid, self.started, self.ticks) if self.machine == _machine() else None
        if is_alive is not None:
            return "held" if is_alive else "gone"
        return "held" if 0 <= self.silence_s() < lapse_s else "silent"

    def silence_s(self) -> float:
        """Seconds since the last sign of life, by this machine's clock."""
        return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(self.beat)).total_seconds()

    def describe(self) -> str:
        """Text for people.

        >>> Holder("", "node7", "", 81, 0, "wcs", "infer", "2026-11-30T08:00:00.000Z", "", True).describe()
        'infer of job wcs, process 81 on node7, since 2026-11-30 08:00:00 UTC'
        """
        since = self.since[:19].replace("T", " ")
        return f"{self.command} of job {self.job}, process {self.pid} on {self.host}, since {since} UTC"


class Lease:
    """A lease that this process holds; a thread keeps it alive until `release`.

    Attributes
    ----------
    lost : set once another driver has taken it over, because this process stood still for too long
    has_written : whether its holder has changed anything; if not, it leaves no trace, provided that the lease
        before it was released (otherwise a holder that stood still would not notice that it has lost its own)
    """

    def __init__(self, folder: Folder, holder: Holder, *, is_first: bool, has_written: bool) -> None:
        self.folder, self.holder = folder, holder
        self.has_written, self._is_first = has_written, is_first
        self.lost = threading.Event()
        self.thread = threading.get_ident()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="camtrap-lease", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Raise LeaseLost if another driver has taken it over."""
        if not self.lost.is_set() and _newest_number(self.folder) > self.holder.number:
            self.lost.set()
        if self.lost.is_set():
            raise LeaseLost(
                f"{self.folder.url}: another driver has taken over, because this one gave no sign of life "
                "for too long; this one commits nothing more"
            )

    def release(self) -> None:
        """Release it."""
        self._ended.set()
        self._beating.join()
        # A full disk, or a store that is gone, has already been reported.
        with suppress(OSError, StorageError):
            if self.lost.is_set() or _newest_number(self.folder) > self.holder.number:
                return
            if self._is_first and not self.has_written:
                self.folder.delete(_path(self.holder.number))
                return
            self._write(released=True)
            for number in _numbers(self.folder):
                if number < self.holder.number:
                    self.folder.delete(_path(number))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError, StorageError):  # the next attempt is a few seconds away
                if _newest_number(self.folder) > self.holder.number:
                    self.lost.set()
                    return
                self._write()

    def _write(self, *, released: bool = False) -> None:
        self.holder = dataclasses.replace(self.holder, beat=now(), released=released)
        self.folder.write(_path(self.holder.number), to_json(self.holder))


_held: dict[str, Lease] = {}
_guard = threading.Lock()


@contextmanager
def hold(folder: Folder, job: str, command: str, *, only_if_needed: bool = False) -> Iterator[Lease]:
    """Hold the lease of a run folder; does nothing if this thread already holds it.

    Parameters
    ----------
    only_if_needed : there may be nothing to do; the caller sets `has_written` if there was something

    Raises
    ------
    LeaseHeld
        Another driver is at work there.
    """
    if (mine := _mine(folder)) is not None:
        if mine.thread != threading.get_ident():
            raise LeaseHeld(_refusal(folder, mine.holder))
        mine.has_written |= not only_if_needed
        yield mine
        return
    lease = take(folder, job, command, only_if_needed=only_if_needed)
    with _guard:
        _held[folder.url] = lease
    try:
        yield lease
    finally:
        with _guard:
            del _held[folder.url]
        lease.release()


def take(folder: Folder, job: str, command: str, *, only_if_needed: bool = False) -> Lease:
    """Take the lease of a run folder; parameters as for `hold`.

    Raises
    ------
    LeaseHeld
        Another driver is at work there.
    InputError
        The folder is not a run folder, or a newer version wrote it.
    """
    check_identity(folder)
    watched: Holder | None = None
    while True:
        before, newest = _look(folder)
        state = before.state(LAPSE_S) if before is not None else "free"
        if before is not None and (state == "held" or (watched and before != watched)):
            raise LeaseHeld(_refusal(folder, before))
        if before is not None and state == "silent" and watched is None:
            # Its clock, or this machine's, may be wrong.
            say(
                f"{folder.url}: no sign of life from {before.describe()} for {before.silence_s():.0f} s; "
                f"it has {2 * BEAT_S:.0f} s more to show that it is there"
            )
            watched = before
            threading.Event().wait(2 * BEAT_S)
            continue
        holder = Holder(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=float(psutil.Process().create_time()),
            ticks=_ticks(os.getpid()),
            job=job,
            command=command,
            since=now(),
            beat=now(),
            number=newest + 1,
        )
        if folder.create(_path(holder.number), to_json(holder)):
            write_identity(folder)
            is_first = newest == 0 or (before is not None and before.released and before.number == newest)
            return Lease(folder, holder, is_first=is_first, has_written=not only_if_needed)


def look(folder: Folder) -> Holder | None:
    """Who holds the lease of a run folder, or held it last; None if it was never taken."""
    return _look(folder)[0]


def _look(folder: Folder) -> tuple[Holder | None, int]:
    """The same, and the highest number, whether its file is readable or not; 0 if there is none."""
    numbers = _numbers(folder)
    for number in reversed(numbers):
        # Without hard links, a new file may be there before its content is.
        for wait_s in (0.3, 0):
            try:
                return dataclasses.replace(
                    from_json(folder.read(_path(number)), Holder), number=number
                ), numbers[-1]
            except FileNotFoundError:
                break
            except (IsADirectoryError, PermissionError) as problem:
                raise StorageError(
                    f"{folder.url}/{_path(number)}: can't be read ({problem.strerror}); remove it, if no "
                    "driver is at work here"
                ) from None
            except Unreadable as problem:
                if not wait_s:
                    say(f"{folder.url}/{_path(number)}: {problem}; ignored")
                time.sleep(wait_s)
    return None, max(numbers, default=0)


def check_held(folder: Folder) -> None:
    """Raise LeaseLost if this process has lost the lease of a folder; does nothing if it never had one."""
    if (mine := _mine(folder)) is not None:
        mine.check()


def _mine(folder: Folder) -> Lease | None:
    with _guard:
        mine = _held.get(folder.url)
    return mine if mine is not None and mine.holder.pid == os.getpid() else None


def _refusal(folder: Folder, holder: Holder) -> str:
    heard = "" if holder.machine == _machine() else f", last heard of {holder.silence_s():.0f} s ago"
    return (
        f"{folder.url}: another driver is at work here: {holder.describe()}{heard}; wait until it has ended, "
        "or stop it, and run the same command again"
    )


def _numbers(folder: Folder) -> list[int]:
    names = (name.removesuffix(".json") for name in folder.list(_FOLDER) if name.endswith(".json"))
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def _newest_number(folder: Folder) -> int:
    return max(_numbers(folder), default=0)


def _path(number: int) -> str:
    return f"{_FOLDER}/{number}.json"


@cache
def _machine() -> str:
    """Identifies where a process id means the same process: this boot of the machine, and the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return "/".join(parts)


def _is_alive(pid: int, started: float, ticks: int) -> bool | None:
    """Whether this very process is running, not another that got its number; None if that can't be told."""
    try:
        process = psutil.Process(pid)
        since_start = _ticks(pid) if ticks else 0
        # Once the clock has been set, the start time by the clock is a different one.
        is_it = since_start == ticks if since_start else abs(process.create_time() - started) < 2
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return None
    except psutil.NoSuchProcess:
        return None if _is_hidden(pid) else False


def _is_hidden(pid: int) -> bool:
    """Whether such a process exists but is hidden, since it is somebody else's (`hidepid`)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _ticks(pid: int) -> int:
    """When a process began, in clock ticks since the machine booted; 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
