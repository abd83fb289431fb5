"""A push to one layer of ArcGIS: each row there exactly once, whatever happens on the way.

Rows are identified by their key. Edits are derived from what the layer holds now; each batch is sent once,
and if its outcome is unknown, the layer is queried by key before anything is sent again. With `append`, adds
and updates are first sent as append jobs, which say nothing about single rows: the layer is read, and what
they left undone is sent in batches. Afterwards the layer is read back and compared. Two simultaneous pushes
that add the same row end with one: through the layer's unique index if it has one, otherwise because both
remove the younger copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.portal.reading import AT_ONCE
from camtrap_batch.portal.service import MOST_REFUSALS, Service, ServiceRefused, Unknown
from camtrap_batch.targets.arcgis import append
from camtrap_batch.targets.arcgis.layer import Outcome, RemoteLayer, Sent
from camtrap_batch.targets.base import EDITS, OK, LayerRows, Wanted
from camtrap_batch.targets.edits import plan_edits, too_many_deleted
from camtrap_batch.vocabulary import plural

BATCH = 250
"""Maximum number of rows in one request."""

_TRIES = 6
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
_ROUNDS = 3
_MOST_FAILED_JOBS = 3  # in a row; then the rest is sent in batches


@dataclass
class _Edit:
    """One row's edit and its outcome."""

    kind: str
    key: str
    row: int | None
    object_id: int | None
    location: str | None
    row_hash: str | None
    result: str | None = None
    time: datetime | None = None

    def record(self, result: str, object_id: int | None = None) -> None:
        self.result, self.time = result, datetime.now(UTC)
        if object_id is not None:
            self.object_id = object_id


class LayerPush:
    """The edits of one layer: planned, then sent.

    Parameters
    ----------
    names : column -> name of its field on the layer, if that differs
    by_append : first add and update rows by append jobs

    Raises
    ------
    InputError
        There is no such layer, or it can't take such rows.
    """

    def __init__(
        self,
        service: Service,
        job: str,
        rows: LayerRows,
        url: str,
        names: Mapping[str, str],
        *,
        by_append: bool = False,
        wanted: Wanted | None = None,
    ) -> None:
        self._service, self._job, self._by_append = service, job, by_append
        self._wanted = wanted or Wanted()
        self._stop = self._wanted.stop
        self.remote = RemoteLayer(service, url, rows, dict(names))
        if by_append:
            append.require_append(self.remote)
        self._sent: Sent = self.remote.sent(rows)
        self._rows = rows
        self._edits: list[_Edit] = []
        self._renamed: set[str] = set()  # keys that the layer has in another case: no append job finds them
        self._refusals, self._refusal = (
            0,
            "",
        )  # requests refused one after the other, and why the last one was
        self.unchanged = 0
        self.notes = list(self._sent.notes)

    def plan(self) -> str | None:
        """Derive the edits from what the layer holds now; returns why they must not be done, or None.

        Raises
        ------
        InputError
            A key belongs to a row of another job.
        """
        self._require_own()
        stored, copies = _once(self.remote, self.remote.read_job(self._job))
        plan = plan_edits(self._rows, self._sent.hashes, self._sent.compare(stored), self.remote.url)
        edits = [
            _Edit(row["edit"], row["key"], row["row"], row["object_id"], row["location"], row["row_hash"])
            for row in plan.to_pylist()
        ]
        held = {row[self.remote.key] for row in stored}
        self._renamed = {edit.key for edit in edits if edit.kind == "update" and edit.key not in held}
        refused = None
        stale = [edit for edit in edits if edit.kind == "delete"]
        if self._wanted.prune:
            refused = too_many_deleted(self._rows, plan, len(stored), self._wanted.most_deleted)
        elif stale:
            self.notes.append(
                f"{self._rows.layer}: {plural(len(stale), 'stale row')} of this job; delete with --prune"
            )
            edits = edits[len(stale) :]
        self._edits = [self._removal(row) for row in copies] + edits
        if self._edits and self.remote.lacking:
            lacking = ", ".join(definition["name"] for definition in self.remote.lacking)
            self.notes.append(f"{self._rows.layer}: new fields: {lacking}")
        self.unchanged = self._rows.columns.num_rows - sum(edit.row is not None for edit in edits)
        if not self.remote.key_is_unique:
            self.notes.append(
                f"{self._rows.layer}: the layer has no unique index on {self.remote.key}; "
                "`camtrap layer create JOB` adds one"
            )
        return refused

    def prepare(self) -> None:
        """Give the layer the fields that the edits need. Raises InputError if that is not allowed."""
        if self._edits:
            self.remote.add_lacking()

    def send(self) -> None:
        """Do the edits, then read the layer back and compare."""
        if self._by_append:
            self._append(
                [edit for edit in self._edits if edit.kind != "delete" and edit.key not in self._renamed]
            )
        else:
            self._require_shown(next((edit for edit in self._edits if edit.kind == "add"), None))
        self._send([edit for edit in self._edits if edit.result is None])
        if not self._edits or self._stop.is_set():
            return
        for _ in range(_ROUNDS):
            stored, copies = _once(self.remote, self.remote.read_job(self._job))
            if not copies:
                break
            # Another push at the same time has added the same rows.
            removals = [self._removal(row) for row in copies]
            self._edits += removals
            self._send(removals)
        self._compare(stored)

    def _require_shown(self, first: _Edit | None) -> None:
        """Add one row, and look for it; if the layer hides it, `_take_back`.

        An append job is harmless there: it requires a unique index.
        """
        if first is None:
            return
        self._batch([first])
        if first.result != OK or first.object_id is None or self.remote.read_keys([first.key]):
            return
        self._take_back([first])

    def _take_back(self, hidden: Sequence[_Edit]) -> None:
        """Delete rows that were added, but that the layer does not show: each push would add them again.

        Raises StageError.
        """
        for some in _parts(hidden, BATCH):
            self.remote.apply([], [], [int(edit.object_id or 0) for edit in some])
            for edit in some:
                edit.result = None
        rows, are = ("a row", "is") if len(hidden) == 1 else (f"{len(hidden):,} rows", "are")
        raise StageError(
            f"{self.remote.url}: does not show {rows} that it has just taken ({hidden[0].key!r}), which "
            f"{are} deleted again: is it a view, or limited to some rows? push to the layer that holds them "
            "all"
        )

    def table(self) -> pa.Table:
        """The edits as base.EDITS."""
        return pa.Table.from_pylist(
            [
                {
                    "layer": self.remote.url,
                    "key": edit.key,
                    "row_hash": edit.row_hash,
                    "edit": edit.kind,
                    "object_id": edit.object_id,
                    "result": edit.result,
                    "time": edit.time,
                    "location": edit.location,
                    "row": edit.row,
                }
                for edit in self._edits
            ],
            EDITS,
        )

    def _require_own(self) -> None:
        ours = self._sent.index
        if self.remote.key_is_unique:  # many databases ignore case in it
            ours = {key.lower(): index for key, index in ours.items()}
        for key, owner in self.remote.taken(self._job):
            if (key.lower() if self.remote.key_is_unique else key) in ours:
                raise InputError(f"{self.remote.url}: {self._not_ours(key, owner)}")

    def _not_ours(self, key: str, owner: str | None) -> str:
        whose = "no job" if owner is None else f"job {owner!r}"
        here = f"not to job {self._job!r}; publish to another layer"
        return f"{self.remote.key} {key!r} belongs to {whose}, {here}"

    def _removal(self, row: dict[str, Any]) -> _Edit:
        return _Edit("delete", row[self.remote.key], None, int(row[self.remote.object_id]), None, None)

    def _append(self, edits: Sequence[_Edit]) -> None:
        """Do adds and updates by append jobs, one after the other; those left undone have no result."""
        if not edits:
            return
        size, index, failed, said = append.ROWS, 0, 0, ""
        completed: list[_Edit] = []
        try:
            while index < len(edits) and failed < _MOST_FAILED_JOBS and not self._stop.is_set():
                some = edits[index : index + size]
                features = self._sent.features(list(map(_row, some)))
                try:
                    complaint = append.run_job(self._service, self.remote, features, self._stop)
                except ServiceRefused as problem:
                    if problem.is_too_large and size > BATCH:
                        size = max(size // 2, BATCH)
                        continue
                    said, failed = str(problem), failed + 1
                except Unknown as problem:
                    said, failed = str(problem), failed + 1
                    self._stop.wait(problem.retry_after_s or 0.0)
                else:
                    said, failed = complaint or said, 0
                    completed += [] if complaint else some
                index += len(some)
            self._settle(edits, self.remote.read_job(self._job))
        except StageError:
            for edit in completed:  # as far as the server has said; the next push reads the layer
                edit.record(OK)
            raise
        left = sum(edit.result is None for edit in edits)
        if left and not self._stop.is_set():
            self.notes.append(
                f"{self._rows.layer}: {plural(left, 'row was', 'rows were')} not done by append jobs, "
                "now sent in batches"
                f"{': ' if said else ''}{said[:200]}"
            )

    def _send(self, edits: Sequence[_Edit]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = [pool.submit(self._batch, batch) for batch in _parts(edits, BATCH)]
            failures = [failure for future in done if (failure := future.exception())]
        if failures:
            raise failures[0]
        if self._refusals >= MOST_REFUSALS:
            left = sum(edit.result is None for edit in self._edits)
            raise StageError(
                f"{self.remote.url}: refused {self._refusals} requests one after the other, {left:,} rows "
                f"are not sent: {self._refusal}"
            )

    def _batch(self, edits: Sequence[_Edit]) -> None:
        """Do edits, however many attempts it takes; each has a result afterwards."""
        if self._stop.is_set():
            return
        pause, rest, reason = _PAUSE_S, 0.0, ""
        left = list(edits)
        for attempt in range(_TRIES):
            if attempt:
                if self._stop.wait(max(pause, rest)):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            if self._refusals >= MOST_REFUSALS:
                return
            try:
                reason = self._try(left)
                self._refusals = 0
            except Unknown as problem:
                reason, rest = str(problem), problem.retry_after_s or 0.0
                self._ask_what_is_there(left)
            except ServiceRefused as problem:
                # A call that was rolled back also says this: some of it may be there.
                reason = str(problem)
                self._refusals += not problem.is_too_large
                self._refusal = reason
                self._ask_what_is_there(left)
                left = [edit for edit in left if edit.result is None]
                if len(left) == 1 and not problem.is_too_large:
                    left[0].record(reason)
                elif left:
                    half = (len(left) + 1) // 2
                    self._batch(left[:half])
                    self._batch(left[half:])
                return
            left = [edit for edit in left if edit.result is None]
            if not left:
                return
        for edit in left:
            edit.record(f"given up after {_TRIES} attempts: {reason}")

    def _try(self, edits: Sequence[_Edit]) -> str:
        """Send edits once and record what the server says about each; returns the reason for trying some
        again."""
        kinds: dict[str, list[_Edit]] = defaultdict(list)
        for edit in edits:
            kinds[edit.kind].append(edit)
        adds, updates, deletes = kinds["add"], kinds["update"], kinds["delete"]
        outcomes = self.remote.apply(
            self._sent.features(list(map(_row, adds))),
            self._sent.features(list(map(_row, updates)), [edit.object_id for edit in updates]),
            [int(edit.object_id or 0) for edit in deletes],
        )
        refused: list[tuple[_Edit, Outcome]] = []
        for some, said in zip((adds, updates, deletes), outcomes, strict=True):
            for edit, outcome in zip(some, said, strict=True):
                if outcome.done:
                    edit.record(OK, outcome.object_id)
                else:
                    refused.append((edit, outcome))
        if not refused:
            return ""
        # A row that is already there, by an earlier attempt or another push, is refused although it is as it
        # should be.
        self._ask_what_is_there([edit for edit, _ in refused])
        for edit, outcome in refused:
            if edit.result is None and not _was_rolled_back(outcome):
                edit.record(outcome.reason)
        return refused[-1][1].reason

    def _ask_what_is_there(self, edits: Sequence[_Edit]) -> None:
        """Resolve edits whose outcome is unknown."""
        self._settle(edits, self.remote.read_keys(sorted({edit.key for edit in edits})))

    def _settle(self, edits: Sequence[_Edit], found: Sequence[dict[str, Any]]) -> None:
        """Resolve edits by the layer's rows with their keys.

        An add whose row exists but differs becomes an update, an update whose row is gone becomes an add; if
        another job now has a row with the key, the edit has failed.
        """
        id_, owner = self.remote.object_id, self.remote.owner
        there: dict[str, list[dict[str, Any]]] = defaultdict(list)
        foreign: dict[str, str | None] = {}
        for row in sorted(found, key=lambda row: int(row[id_])):
            if row[owner] == self._job:
                there[row[self.remote.key]].append(row)
            else:
                foreign[row[self.remote.key]] = row[owner]
        pairs = [(edit, row) for edit in edits if edit.kind != "delete" for row in there[edit.key]]
        different = self._sent.differences([_row(edit) for edit, _ in pairs], [row for _, row in pairs])
        for number, (edit, row) in enumerate(pairs):
            if number not in different and edit.result is None:  # of copies, the oldest
                edit.record(OK, int(row[id_]))
        for edit in edits:
            ids = [int(row[id_]) for row in there[edit.key]]
            if edit.kind == "delete":
                if edit.object_id not in ids:
                    edit.record(OK)
            elif edit.result is not None:
                continue
            elif not ids and edit.key in foreign:
                edit.record(self._not_ours(edit.key, foreign[edit.key]))
            elif ids and edit.kind == "add":
                edit.kind, edit.object_id = "update", ids[0]
            elif not ids and edit.kind == "update":
                edit.kind, edit.object_id = "add", None

    def _compare(self, stored: Sequence[dict[str, Any]]) -> None:
        """Edits that the server reported as done but that are not on the layer count as not done.

        Raises StageError if it does not show rows that it has just taken.
        """
        held = {row[self.remote.key]: row for row in stored}
        done = [edit for edit in self._edits if edit.result == OK]
        sent = [edit for edit in done if edit.kind != "delete" and edit.key in held]
        found = self._sent.differences(list(map(_row, sent)), [held[edit.key] for edit in sent])
        differs = {id(sent[number]): names for number, names in found.items()}
        absent = []
        for edit in done:
            row = held.get(edit.key)
            if edit.kind == "delete":
                if row is not None and int(row[self.remote.object_id]) == edit.object_id:
                    edit.record("was reported as deleted, but is still on the layer")
            elif row is None:
                edit.record(f"was reported as done ({edit.kind}), but is not on the layer")
                if edit.kind == "add" and edit.object_id is not None:
                    absent.append(edit)
            elif different := differs.get(id(edit)):
                edit.record(
                    f"was reported as done ({edit.kind}), but differs on the layer: {', '.join(different)}"
                )
            else:
                edit.object_id = int(row[self.remote.object_id])
        there = {
            int(row[self.remote.object_id]) for row in self.remote.read_keys([one.key for one in absent])
        }
        if hidden := [edit for edit in absent if edit.object_id not in there]:
            self._take_back(hidden)


def _parts(edits: Sequence[_Edit], size: int) -> list[Sequence[_Edit]]:
    return [edits[start : start + size] for start in range(0, len(edits), size)]


def _row(edit: _Edit) -> int:
    return cast(int, edit.row)  # only a delete has none


def _was_rolled_back(outcome: Outcome) -> bool:
    return "rolled back" in outcome.reason.lower()


def _once(
    remote: RemoteLayer, rows: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows with a key, only the oldest for each key, and their younger copies."""
    seen: set[str] = set()
    first: list[dict[str, Any]] = []
    copies: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: int(row[remote.object_id])):
        key = row[remote.key]
        if key is None:
            continue
        (copies if key in seen else first).append(row)
        seen.add(key)
    return first, copies
