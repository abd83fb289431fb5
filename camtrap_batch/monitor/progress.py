"""The progress of each stage: as counted by the driver for the page, and as read by `camtrap status`.

Both fill the same `StageStatus`, whose size does not grow with the job.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.monitor.counters import Totals
from camtrap_batch.store.shards import Plan, Receipt, Shard, unsettled

State = Literal["waiting", "running", "unfinished", "failed", "done", "not needed"]

RECENT_S = 60.0
"""Period over which the present rate is measured."""

_MOST_FAILED = 20
_MOST_LOSSES = 400


@dataclass
class StageStatus:
    """The progress of a stage.

    Attributes
    ----------
    rows, rows_done, shards, shards_done : numbers of its plan
    rows_per_s, rows_per_s_mean : now, and over all the time that shards were worked on
    seconds_left : at the present speed
    counts : rows by status
    seconds : time of all shards together, by phase; `total` is their wall-clock time
    bytes : size of the tables written
    lost : number of attempts that ended with their worker
    halved : number of shards that were halved
    failed : shards that failed (at most 20 of them), with the reason
    cameras, cameras_done : number of locations of the rows, and of those whose rows are all done
    training : the last report of training: phase, epoch of epochs, images_per_s
    losses : `epoch` (a part of it while it lasts), `train_loss`, and at an epoch's end `valid_loss`
    fraction, text : of a stage that is one long shard: its part that is done, what it is at; None: its rows
        tell
    labels : images by label so far, of those that are classified; or by what a detector finds in them
    help : what the stage does, for people
    """

    stage: str
    state: State = "waiting"
    rows: int = 0
    rows_done: int = 0
    shards: int = 0
    shards_done: int = 0
    rows_per_s: float = 0.0
    rows_per_s_mean: float = 0.0
    seconds_left: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    lost: int = 0
    halved: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    cameras: int = 0
    cameras_done: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    fraction: float | None = None
    text: str = ""
    labels: dict[str, int] = field(default_factory=dict)
    help: str = ""

    def add(self, receipt: Receipt) -> None:
        """Count a receipt."""
        self.rows_done += receipt.rows
        self.bytes += sum(file.bytes for file in receipt.files)
        add_up(self.counts, receipt.counts)
        add_up(self.seconds, receipt.seconds)
        add_up(self.labels, receipt.result.get("labels") or {})

    def fail(self, shard: str, reason: str) -> None:
        if len(self.failed) < _MOST_FAILED:
            self.failed[shard] = reason

    def trained(self, progress: Mapping[str, Any]) -> None:
        """Store what training reports (see `model.train`)."""
        keys = ("phase", "epoch", "epochs", "batch", "batches", "images_per_s")
        self.training = {key: progress[key] for key in keys if key in progress}
        if progress.get("phase") != "train" or progress.get("train_loss") is None:
            return
        share = progress["batch"] / max(1, progress["batches"]) if "batch" in progress else 1.0
        point = {"epoch": round(progress["epoch"] - 1 + share, 4), "train_loss": progress["train_loss"]}
        if progress.get("valid_loss") is not None:
            point |= {"valid_loss": progress["valid_loss"]}
            if progress.get("accuracy") is not None:
                point["accuracy"] = progress["accuracy"]
        self.losses.append(point)
        if len(self.losses) > _MOST_LOSSES:  # every second point, except the ends of epochs
            self.losses = [
                point for number, point in enumerate(self.losses) if number % 2 or "valid_loss" in point
            ][-_MOST_LOSSES:]


class Cameras:
    """Counts the locations of a stage's rows that are done.

    Parameters
    ----------
    locations : location of each row; rows without one belong to no camera
    """

    def __init__(self, locations: pa.ChunkedArray) -> None:
        codes = pc.dictionary_encode(locations.cast(pa.string())).combine_chunks()
        if isinstance(codes, pa.ChunkedArray):  # a table without rows
            codes = codes.chunk(0) if codes.num_chunks else pa.array([], pa.string()).dictionary_encode()
        self._codes = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        self._left = np.bincount(self._codes[self._codes >= 0], minlength=len(codes.dictionary))
        self.total = len(codes.dictionary)

    def add(self, shard: Shard) -> None:
        """The rows of this shard, which has not been added yet, are done."""
        codes = self._codes[shard.start : shard.stop]
        self._left -= np.bincount(codes[codes >= 0], minlength=self.total)

    @property
    def done(self) -> int:
        return int((self._left == 0).sum())


class Progress:
    """What the driver knows about the stages of a job; threads may share it.

    Parameters
    ----------
    job, folder : name of the job, URL of its run folder
    """

    def __init__(self, job: str, folder: str) -> None:
        self.job, self.folder = job, folder
        self.totals = Totals()
        self._lock = threading.Lock()
        self._stages: dict[str, StageStatus] = {}
        self._help: dict[str, str] = {}
        self._now: StageStatus | None = None
        self._cameras: Cameras | None = None
        self._left: dict[str, int] = {}  # rows of each shard of the plan
        self._began = time.monotonic()
        self._rows_before = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=1)
        self._first_share: tuple[float, float] | None = None

    def expect(self, stages: Mapping[str, str]) -> None:
        """These stages will come, in this order: name -> what it does, for people."""
        self._help = dict(stages)
        with self._lock:
            for stage, text in stages.items():
                self._stages.setdefault(stage, StageStatus(stage, help=text))

    def begin(self, stage: str) -> None:
        """A stage begins; what it has to do is not known yet."""
        with self._lock:
            self._now = self._stages[stage] = StageStatus(stage, "running", help=self._help.get(stage, ""))
            self._cameras = None
            self._start_clock()

    def planned(self, plan: Plan, receipts: Mapping[str, Receipt], locations: pa.ChunkedArray | None) -> None:
        """The stage's plan, how much of it was done before, and the location of each row, if it has one."""
        cameras = Cameras(locations) if locations is not None else None
        about = self._help.get(plan.stage, "")
        status = StageStatus(plan.stage, "running", plan.rows, shards=len(plan.shards), help=about)
        count_plan(status, plan, dict(receipts), cameras)
        with self._lock:
            self._make_room(plan.stage)
            self._now = self._stages[plan.stage] = status
            self._cameras = cameras
            self._left = {shard.id: shard.rows for shard in plan.shards}
            for name, receipt in receipts.items():
                if "." in name:
                    self._left[_whole(name)] -= receipt.rows
            self._start_clock()
        # Prometheus does not see the growth of a counter that begins at 1.
        for result in ("done", "lost", "halved", "erred", "failed"):
            self.totals.add("camtrap_shards", (plan.stage, result), 0)

    def _make_room(self, stage: str) -> None:
        """A part of a stage, which nobody expected, stands before the stage that runs."""
        names = list(self._stages)
        running = [name for name in names if name in self._help and self._stages[name].state == "running"]
        if stage not in names and running:
            names.insert(names.index(running[0]), stage)
            none = StageStatus(stage)
            self._stages = {name: self._stages.get(name, none) for name in names}

    def shard_done(self, shard: Shard, receipt: Receipt) -> None:
        with self._lock:
            status = self._current(receipt.stage)
            status.add(receipt)
            whole = _whole(shard.id)
            self._left[whole] -= shard.rows
            status.shards_done += self._left[whole] <= 0
            if self._cameras is not None:
                self._cameras.add(shard)
                status.cameras_done = self._cameras.done
            self._note_rows(status.rows_done)
        self.totals.add_receipt(receipt)

    def cameras(self, stage: str) -> tuple[int, int]:
        """Locations of a stage's rows, and how many of them are done; 0 if they are not counted."""
        with self._lock:
            status = self._current(stage)
            return status.cameras, status.cameras_done

    def shard_lost(self, stage: str) -> None:
        with self._lock:
            self._current(stage).lost += 1
        self.totals.add("camtrap_shards", (stage, "lost"), 1)

    def shard_halved(self, stage: str, shard: Shard) -> None:
        with self._lock:
            self._current(stage).halved += "." not in shard.id
        self.totals.add("camtrap_shards", (stage, "halved"), 1)

    def shard_erred(self, stage: str, shard: Shard, reason: str, *, final: bool) -> None:
        if final:
            with self._lock:
                self._current(stage).fail(shard.id, reason)
        self.totals.add("camtrap_shards", (stage, "failed" if final else "erred"), 1)

    def trained(self, stage: str, progress: Mapping[str, Any], fraction: float, text: str) -> None:
        """What training reports; how much of it is done, and what it is doing, as shown on the terminal."""
        with self._lock:
            status = self._current(stage)
            status.trained(progress)
            status.fraction, status.text = max(fraction, status.fraction or 0.0), text
            status.rows_per_s = progress.get("images_per_s", 0.0)
            now = time.monotonic()
            if self._first_share is None:  # reading the images and loading torch is over
                self._first_share = (now, fraction)
            began, share = self._first_share
            if fraction > share:
                status.seconds_left = (now - began) * (1 - fraction) / (fraction - share)

    def end(
        self, stage: str, state: State, rows: int = 0, shards: int = 0, counts: dict[str, int] | None = None
    ) -> None:
        """A stage has ended; if it is done, with this many rows and shards."""
        with self._lock:
            status = self._current(stage)
            status.state = state
            status.seconds_left = status.fraction = None
            status.rows_per_s, status.text = 0.0, ""
            if state == "done":
                status.rows = status.rows_done = rows
                status.shards = status.shards_done = shards
                status.counts = dict(counts) if counts else status.counts
                status.cameras_done = status.cameras

    def as_record(self) -> dict[str, Any]:
        """Everything, as values that JSON can hold."""
        with self._lock:
            self._measure()
            stages = [asdict(status) for status in self._stages.values()]
        return {"job": self.job, "folder": self.folder, "stages": stages, "totals": self.totals.items()}

    def _current(self, stage: str) -> StageStatus:
        return self._stages.setdefault(stage, StageStatus(stage))

    def _start_clock(self) -> None:
        self._first_share = None
        self._began = time.monotonic()
        self._rows_before = self._now.rows_done if self._now is not None else 0
        self._recent = deque([(self._began, self._rows_before)], maxlen=int(RECENT_S) + 1)

    def _note_rows(self, rows: int) -> None:
        """Keep one count per second."""
        now = time.monotonic()
        if now - self._recent[-1][0] >= 1 or len(self._recent) < 2:
            self._recent.append((now, rows))
        else:
            self._recent[-1] = (self._recent[-1][0], rows)

    def _measure(self) -> None:
        status = self._now
        if status is None or status.state != "running" or status.training or not status.shards:
            return
        now = time.monotonic()
        spent = now - self._began
        status.rows_per_s_mean = round((status.rows_done - self._rows_before) / max(spent, 1e-3), 2)
        then, rows = next(
            entry for entry in self._recent if now - entry[0] <= RECENT_S or entry is self._recent[-1]
        )
        status.rows_per_s = round((status.rows_done - rows) / max(now - then, 1e-3), 2)
        rate = status.rows_per_s or status.rows_per_s_mean
        status.seconds_left = round((status.rows - status.rows_done) / rate, 1) if rate else None


def count_plan(
    status: StageStatus, plan: Plan, receipts: Mapping[str, Receipt], cameras: Cameras | None
) -> None:
    """Add to a status what is done of a plan."""
    halved: dict[str, dict[str, Receipt]] = {}
    for name, receipt in receipts.items():
        if "." in name:
            halved.setdefault(_whole(name), {})[name] = receipt
    for shard in plan.shards:
        if shard.id in receipts:
            parts, is_done = [receipts[shard.id]], True
        elif shard.id in halved:
            parts = list(halved[shard.id].values())
            is_done = not unsettled([shard], halved[shard.id])
        else:
            continue
        for receipt in parts:
            status.add(receipt)
        status.shards_done += is_done
        if cameras is not None and is_done:
            cameras.add(shard)
    status.halved = len(halved)
    if cameras is not None:
        status.cameras, status.cameras_done = cameras.total, cameras.done


def add_up(into: dict[str, Any], numbers: Mapping[str, float]) -> None:
    """Add numbers by name."""
    for name, number in numbers.items():
        into[name] = round(into.get(name, 0) + number, 4)


def _whole(shard_id: str) -> str:
    """Id of the plan's shard that a shard is, or belongs to."""
    return shard_id.partition(".")[0]
