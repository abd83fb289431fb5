"""A run: one job's run folder, as a program sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from camtrap_batch.errors import InputError, NotMade, choices
from camtrap_batch.job import Job
from camtrap_batch.store import schemas, snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.identity import check_identity
from camtrap_batch.store.log import Log
from camtrap_batch.store.shards import now
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import Table, open_table


class Run:
    """The run folder of a job: its tables, its log, and where its files are."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = Folder(job.run_url)
        self._log = Log(self.folder)
        self._is_ours = False

    def table(self, name: str, snapshot: int | None = None) -> Table:
        """A table's rows as a pyarrow dataset that also has `.to_pandas()` and `.to_dask()`.

        Parameters
        ----------
        name : str
            catalog, manifest, thumbnails, findings, selection, predictions, frames, sequences, events,
            locations or ledger.
        snapshot : int, optional
            Number of a snapshot; default: the current one.

        Raises
        ------
        InputError
            There is no such table, or it has no such snapshot yet.
        """
        return open_table(self.folder, self.snapshot(name, snapshot))

    def snapshot(self, name: str, number: int | None = None) -> Snapshot:
        """What `table` reads: files and totals. Raises as `table` does."""
        if name not in schemas.SCHEMAS:
            raise InputError(f"no table {name!r}; {choices(name, schemas.SCHEMAS)}")
        self._look()
        found = self.current(name) if number is None else snapshots.load(self.folder, name, number)
        if found is None:
            raise NotMade(f"{self.folder.url}: the table {name} is not there yet; {self._maker_of(name)}")
        return found

    def _maker_of(self, name: str) -> str:
        """What makes a table that is not there."""
        stage = schemas.MADE_BY.get(name)
        if stage is None:
            return "`camtrap review JOB` makes it"
        if stage == "detect" and self.job.detect is None and self.job.infer.detections is None:
            return "it needs a section detect in the job file (docs/detectors.md)"
        if any(by == stage and self.current(other) for other, by in schemas.MADE_BY.items()):
            return f"`camtrap {stage}` has run without making it; docs/tables.md says when it does"
        return f"run `camtrap {stage} JOB` first (or `camtrap reprocess JOB`)"

    def current(self, name: str) -> Snapshot | None:
        """The newest snapshot of a table (or of `model`), None if there is none yet.

        Raises InputError if it is not a run folder, or a newer version wrote it.
        """
        self._look()
        return snapshots.current(self.folder, name)

    def _look(self) -> None:
        """Once: whether this version can read the run folder at all."""
        if not self._is_ours:
            self._is_ours = check_identity(self.folder)

    def log(self, event: str, **details: Any) -> None:
        """Add a line to the run's log. In a bucket, lines about finished shards may be held back."""
        line = json.dumps({"time": now(), "event": event, **details}, ensure_ascii=False, default=str)
        self._log.add(line.encode() + b"\n", may_wait=event == "shard done")

    def flush_log(self) -> None:
        """Write the lines that were held back."""
        self._log.flush()


def open_run(job: Job | str | Path) -> Run:
    """The run of a job, given as a `Job` or as the path of a job file."""
    return Run(job if isinstance(job, Job) else Job.load(job))
