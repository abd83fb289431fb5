"""Many images: read ahead on threads while one is decoded, each within a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from camtrap_batch import phases
from camtrap_batch.images.decode import one_line
from camtrap_batch.images.judge import Limits, Verdict, judge, prepare, status_of
from camtrap_batch.images.kinds import other_kind
from camtrap_batch.images.sources.root import ImageRoot, is_unsafe

MOST_BYTES = 256 * 2**20
"""Files with more bytes are not read to the end."""

MOST_ABANDONED = 4
"""A process in which this many abandoned decodes still run should be ended: each may hold 1 GB."""

_BYTES_AHEAD = 64 * 2**20
_AHEAD_PER_READER = 2
_TYPICAL_BYTES = 2**20  # assumed for a file whose size the listing does not know
_HUNG_READS = 16
_LOOKS = 8  # how often to check on a decode within its time


def judge_files(
    root: ImageRoot,
    file_names: Sequence[str],
    limits: Limits,
    *,
    sizes: Sequence[int] | None = None,
    entries: Sequence[dict[str, int] | None] | None = None,
    clock: dict[str, float],
) -> list[Verdict]:
    """A verdict for each file, in order.

    As many files are read ahead as the root can serve at once, and as fit into 64 MiB. A read or a decode
    that hangs holds up the others for no longer than `limits.timeout_s`: its thread is left behind, and
    counted (see `abandoned`) as long as it runs.

    Parameters
    ----------
    sizes : bytes of each file as the listing says, 0 or less where it does not know
    entries : for files in an archive, each file's entry in the listing
    clock : seconds spent waiting for `read`, and in `decode`, are added to it
    """
    prepare()  # so that it does not count as an image's time
    n = len(file_names)
    ahead = _ReadAhead(root, file_names, limits, sizes or [-1] * n, entries or [None] * n)
    verdicts: list[Verdict] = []
    try:
        while len(verdicts) < n:
            decoder = _Decoder(ahead, file_names, limits, first=len(verdicts))
            verdicts += decoder.watch()
            for phase, seconds in decoder.clock.items():
                clock[phase] = clock.get(phase, 0.0) + seconds
    finally:
        ahead.close()
    return verdicts


def read_files(root: ImageRoot, file_names: Sequence[str], limits: Limits) -> Iterator[bytes | Verdict]:
    """The bytes of each file, in order, or a verdict if there are none; read ahead as in `judge_files`.

    Raises reading errors that are no fault of a single file, such as missing credentials.
    """
    n = len(file_names)
    ahead = _ReadAhead(root, file_names, limits, [-1] * n, [None] * n)
    try:
        for index in range(n):
            yield ahead.take(index)
    finally:
        ahead.close()


def abandoned() -> int:
    """How many abandoned decodes are still running in this process."""
    return _abandoned.count


def count_abandoned(number: int) -> None:
    """Change the number of abandoned decodes that are still running."""
    _abandoned.add(number)


class _Count:
    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self.count += number


_abandoned = _Count()


class _Decoder:
    """A thread that judges files from `first` on, until it is done or hangs at one.

    The thread goes from file to file by itself: handing over each file would cost more than hashing it.
    """

    def __init__(self, ahead: _ReadAhead, file_names: Sequence[str], limits: Limits, first: int) -> None:
        self.clock = {"read": 0.0, "decode": 0.0}
        self._ahead, self._file_names, self._limits, self._first = ahead, file_names, limits, first
        self._verdicts: list[Verdict] = []
        self._problem: BaseException | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._began: float | None = None  # when the present decode began
        self._bytes = 0
        self._is_abandoned = False

    def watch(self) -> list[Verdict]:
        """Run the thread; yields its verdicts, the last one on the file at which it hangs, if it does."""
        threading.Thread(target=self._work, name="decode", daemon=True).start()
        move, seen = phases.progress(), 0
        while not self._ended.wait(self._limits.timeout_s / _LOOKS):
            if len(self._verdicts) > seen:
                move()
                seen = len(self._verdicts)
            if self._abandon_where_it_hangs():
                break
        if self._problem is not None:
            raise self._problem
        return self._verdicts

    def _abandon_where_it_hangs(self) -> bool:
        with self._lock:
            if self._began is None or (spent := time.perf_counter() - self._began) < self._limits.timeout_s:
                return False
            self._is_abandoned = True
            _abandoned.add(1)
            self.clock["decode"] += spent
            detail = f"not decoded within {self._limits.timeout_s:g} s"
            self._verdicts.append(Verdict("unreadable", detail, bytes=self._bytes))
            return True

    def _work(self) -> None:
        try:
            for index in range(self._first, len(self._file_names)):
                asked = time.perf_counter()
                content = self._ahead.take(index)
                began = time.perf_counter()
                self.clock["read"] += began - asked
                if isinstance(content, Verdict):
                    self._verdicts.append(content)
                    continue
                self._bytes, self._began = len(content), began
                verdict = judge(content, self._file_names[index], self._limits)
                del content
                with self._lock:
                    if self._is_abandoned:
                        _abandoned.add(-1)
                        return
                    self._began = None
                    self._verdicts.append(verdict)
                    self.clock["decode"] += time.perf_counter() - began
        except BaseException as problem:
            self._problem = problem
        finally:
            self._ended.set()


class _ReadAhead:
    """Files of a list, read on threads, in order."""

    def __init__(
        self,
        root: ImageRoot,
        file_names: Sequence[str],
        limits: Limits,
        sizes: Sequence[int],
        entries: Sequence[dict[str, int] | None],
    ) -> None:
        self._root, self._file_names, self._limits, self._entries = root, file_names, limits, entries
        self._sizes = [_TYPICAL_BYTES if size <= 0 else min(size, MOST_BYTES) for size in sizes]
        self._readers = min(root.reads_at_once, len(file_names))
        self._most_ahead = self._readers * _AHEAD_PER_READER
        self._lock = threading.Lock()
        self._arrived, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._contents: dict[int, bytes | Verdict | BaseException] = {}
        self._reading: dict[int, float] = {}  # when each read began
        self._next = 0  # the next file to read
        self._taken = 0
        self._bytes = 0  # of files being read, or read and not taken yet
        self._hung = 0
        for _ in range(self._readers):
            self._add_reader()

    def take(self, index: int) -> bytes | Verdict:
        """The bytes of a file, or a verdict if there are none to judge; each file once, in order.

        Raises reading errors that are no fault of a single file, such as missing credentials.
        """
        with self._lock:
            while index not in self._contents:
                began = self._reading.get(index)
                if began is None:  # not yet begun
                    self._arrived.wait(self._limits.timeout_s)
                elif (left := began + self._limits.timeout_s - time.monotonic()) > 0:
                    self._arrived.wait(left)
                else:
                    self._give_up(index)
            self._taken = index + 1
            self._bytes -= self._sizes[index]
            # Readers are woken for several files at once: each waking costs the decoder some time.
            if self._next - self._taken <= self._most_ahead // 2:
                self._room.notify_all()
            content = self._contents.pop(index)
        if isinstance(content, BaseException):
            raise content
        return content

    def close(self) -> None:
        """Make each reader end when it is done with its file."""
        with self._lock:
            self._next = len(self._file_names)
            self._room.notify_all()

    def _add_reader(self) -> None:
        threading.Thread(target=self._work, name="read", daemon=True).start()

    def _give_up(self, index: int) -> None:
        """Give a verdict on a file whose read hangs, and replace the hanging reader."""
        del self._reading[index]
        self._contents[index] = Verdict("unreadable", f"not read within {self._limits.timeout_s:g} s")
        self._hung += 1
        if self._hung < _HUNG_READS:
            self._add_reader()
            return
        # The store is gone: every further file would use up its time limit and a thread.
        for other in range(self._next, len(self._file_names)):
            self._contents[other] = Verdict("unreadable", f"not tried after {self._hung} reads that hang")
        self._next = len(self._file_names)
        self._room.notify_all()

    def _work(self) -> None:
        content: bytes | Verdict | BaseException
        while (index := self._claim()) is not None:
            try:
                content = _read(self._root, self._file_names[index], self._limits, self._entries[index])
            except BaseException as problem:
                content = problem
            with self._lock:
                if self._reading.pop(index, None) is None:
                    return  # given up, and replaced by another reader
                self._contents[index] = content
                del content
                if index == self._taken:
                    self._arrived.notify_all()

    def _claim(self) -> int | None:
        """The next file to read, once there is room for it; None if there are no more."""
        with self._lock:
            while self._next < len(self._file_names):
                size = self._sizes[self._next]
                is_full = self._next - self._taken >= self._most_ahead or self._bytes + size > _BYTES_AHEAD
                # A single file may be larger than the whole budget.
                if not is_full or self._next == self._taken:
                    index = self._next
                    self._next += 1
                    self._bytes += size
                    self._reading[index] = time.monotonic()
                    return index
                self._room.wait()
            return None


def _read(
    root: ImageRoot, file_name: str, limits: Limits, entry: dict[str, int] | None = None
) -> bytes | Verdict:
    """The bytes of what may be an image; a verdict on anything else."""
    if is_unsafe(file_name):
        return Verdict("unsafe_path", "not a path inside the image root; it was not opened")
    try:
        data = root.read(file_name, MOST_BYTES, entry)
    except (FileNotFoundError, NotADirectoryError):
        return Verdict("missing")
    except OSError as problem:
        # Only the reason: the full path would tie the row to the folder's present position.
        return Verdict("unreadable", problem.strerror or one_line(problem))
    kind = other_kind(data)
    if len(data) > MOST_BYTES:
        status = "too_large" if kind is None else status_of(kind)
        return Verdict(status, f"more than {MOST_BYTES} bytes", format=kind)
    # Videos are large: they are released at once, instead of waiting for their turn.
    return data if kind is None else judge(data, file_name, limits)
