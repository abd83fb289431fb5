"""What a command shows while it works: a live line on a terminal, plain lines in a file, JSON, or nothing."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from camtrap_batch.store.shards import now

_PLAIN_EVERY_S = 10.0


class Display(Protocol):
    """One stage at a time: `begin`, any number of `advance` and `reach`, `end`."""

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        """`done` of `rows` rows were done before, `counts` of them by status."""

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        """This many more rows are done."""

    def reach(self, fraction: float, text: str) -> None:
        """The share of the stage that is done, and what it is doing now: for a stage that is one shard."""

    def end(self) -> None: ...

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """The block takes a while before there is anything to count: show on a terminal what it does."""

    def note(self, text: str) -> None:
        """Show a line that stays."""


class Silent:
    """A display that shows nothing."""

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        pass

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        pass

    def reach(self, fraction: float, text: str) -> None:
        pass

    def end(self) -> None:
        pass

    def waiting(self, text: str) -> AbstractContextManager[object]:
        return nullcontext()

    def note(self, text: str) -> None:
        pass


class _Counting:
    """Rows done, their rate, statuses so far and the time left; for one long shard, the share that is
    done."""

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        self.stage, self.rows, self.unit = stage, rows, unit
        self.done = self.done_before = done
        self.counts = dict(counts)
        self.text = ""
        self.in_rows = True
        self.began = time.monotonic()

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        self.done = min(self.rows, self.done + rows)
        for status, number in counts.items():
            self.counts[status] = self.counts.get(status, 0) + number

    def waiting(self, text: str) -> AbstractContextManager[object]:
        return nullcontext()

    def reach(self, fraction: float, text: str) -> None:
        self.done = max(self.done, int(self.rows * min(fraction, 1.0)))
        self.text = text
        self.in_rows = False

    @property
    def rate(self) -> float:
        return (self.done - self.done_before) / max(time.monotonic() - self.began, 1e-6)

    def amount(self) -> str:
        if self.in_rows:
            return f"{self.done:,}/{self.rows:,} {self.unit}"
        return f"{self.done / max(1, self.rows):.0%}"

    def speed(self) -> str:
        if self.done == self.done_before:
            return ""
        parts = [f"{self.rate:,.0f} {self.unit}/s"] if self.in_rows else []
        if self.done < self.rows:
            parts.append(f"{duration((self.rows - self.done) / self.rate)} left")
        return ", ".join(parts)

    def statuses(self) -> str:
        most = sorted(self.counts.items(), key=lambda item: -item[1])
        return " ".join(f"{status} {number:,}" for status, number in most)


class Live(_Counting):
    """A progress line on a terminal that moves while the stage runs and stays when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        super().begin(stage, rows, done, counts, unit)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("[bold]{task.description:9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}"),
            TextColumn("[cyan]{task.fields[speed]}"),
            TextColumn("[dim]{task.fields[text]}"),
            console=self.console,
            refresh_per_second=5,
        )
        self._progress.start()
        self._task = self._progress.add_task(
            stage, total=rows, completed=done, amount=self.amount(), speed="", text=self.statuses()
        )

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        super().advance(rows, counts)
        self._show(self.statuses())

    def reach(self, fraction: float, text: str) -> None:
        super().reach(fraction, text)
        self._show(text)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def waiting(self, text: str) -> AbstractContextManager[object]:
        return self.console.status(text)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def _show(self, text: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=self.done, amount=self.amount(), speed=self.speed(), text=text
            )


class Plain(_Counting):
    """A line now and then, for output to a file."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self._last = 0.0

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        super().begin(stage, rows, done, counts, unit)
        self._last = time.monotonic()

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        super().advance(rows, counts)
        self.text = self.statuses()
        self._line_now_and_then()

    def reach(self, fraction: float, text: str) -> None:
        super().reach(fraction, text)
        self._line_now_and_then()

    def _line_now_and_then(self) -> None:
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self._last = time.monotonic()
            self._line()

    def end(self) -> None:
        self._line()

    def note(self, text: str) -> None:
        print(text, file=self.file, flush=True)

    def _line(self) -> None:
        parts = [f"{self.stage}: {self.amount()}", self.speed(), self.text]
        self.note(" · ".join(part for part in parts if part))


class JsonLines(_Counting):
    """One JSON object per line, for programs; each has the job's name, or null if it is not known."""

    def __init__(self, file: TextIO, job: str | None) -> None:
        self.file, self.job = file, job

    def begin(self, stage: str, rows: int, done: int, counts: dict[str, int], unit: str = "images") -> None:
        super().begin(stage, rows, done, counts, unit)
        self.event("begin", stage=stage, rows=rows, done=done)

    def advance(self, rows: int, counts: dict[str, int]) -> None:
        super().advance(rows, counts)
        self.event(
            "advance",
            stage=self.stage,
            rows=self.rows,
            done=self.done,
            rows_per_s=round(self.rate, 1),
            counts=self.counts,
        )

    def reach(self, fraction: float, text: str) -> None:
        super().reach(fraction, text)
        self.event("reach", stage=self.stage, fraction=fraction, text=text)

    def end(self) -> None:
        self.event("end", stage=self.stage, rows=self.rows, done=self.done)

    def note(self, text: str) -> None:
        self.event("note", text=text)

    def event(self, name: str, **details: Any) -> None:
        line = json.dumps({"time": now(), "job": self.job, "event": name, **details}, ensure_ascii=False)
        print(line, file=self.file, flush=True)


def make_display(*, quiet: bool, log_json: bool, job: str | None = None) -> Display:
    """The display that suits the options and standard error, for the job with this name."""
    if log_json:
        return JsonLines(sys.stderr, job)
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Plain(sys.stderr)


def duration(seconds: float) -> str:
    """
    >>> duration(3.2), duration(75), duration(7300)
    ('3 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
