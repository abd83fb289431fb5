"""Reads everything in a run folder, names what is wrong with it, and has it repaired.

Files of tables are compared with the hashes in their receipts (where an earlier version wrote none, they are
decoded and their rows counted), records are parsed, models are compared with their ids.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from camtrap_batch.errors import CamtrapError
from camtrap_batch.store import identity, lease, redo, snapshots
from camtrap_batch.store.folder import Entry, Folder, is_staged
from camtrap_batch.store.log import LOG, PARTS
from camtrap_batch.store.records import Unreadable, decode
from camtrap_batch.store.shards import File, Plan, Receipt, receipt_path, settled
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import find_damage, shard_of
from camtrap_batch.vocabulary import plural

GROWING = ("ledger", "corrections")
"""Tables that keep the files of their earlier snapshots; these can't be remade."""

_AT_ONCE = 8
_CHUNK = 2**20


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    Attributes
    ----------
    file : its path in the run folder
    what : what is wrong with it, as the rest of a sentence about the file
    then : what a repair does about it, or what people can do
    counts : whether the job's present state is affected; False if only older snapshots need the file
    """

    file: str
    what: str
    then: str = ""
    counts: bool = True


@dataclass
class Report:
    """What was read, what was found, and which shards the next run redoes because of it, by stage."""

    files: int = 0
    bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    again: dict[str, set[str]] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        return not any(fault.counts for fault in self.faults)


def check(
    folder: Folder, *, repair: bool = False, model_fault: Callable[[Folder], str | None] = lambda _: None
) -> Report:
    """Read a run folder.

    Parameters
    ----------
    repair : have the next run remake what is damaged, and fix at once what needs no run
    model_fault : returns what is wrong with a model's folder, None if nothing is

    Raises
    ------
    LeaseHeld
        A repair was asked for while a driver is at work there.
    InputError
        It is not a run folder, or a newer version wrote it.
    """
    if not repair:
        return _Check(folder, repair=False, model_fault=model_fault).run()
    if folder.exists("format.json"):
        # Otherwise nothing could be repaired when this very file is the damaged one.
        _mend_identity(folder)
    with lease.hold(folder, "-", "check --repair"):
        return _Check(folder, repair=True, model_fault=model_fault).run()


def _mend_identity(folder: Folder) -> None:
    try:
        identity.check_identity(folder)
    except CamtrapError as problem:
        if problem.exit_code == 2:  # a newer version, which nothing here would understand
            raise
        identity.write_identity(folder, anew=True)


class _Check:
    def __init__(self, folder: Folder, *, repair: bool, model_fault: Callable[[Folder], str | None]) -> None:
        self.folder, self.repair, self.model_fault = folder, repair, model_fault
        self.report = Report()
        self.snapshots: dict[tuple[str, int], Snapshot] = {}
        self.receipts: dict[str, Receipt] = {}
        self.entries: dict[str, Entry] = {}
        self._asked: dict[str, dict[str, set[str]]] = {}
        self._spoilt: dict[str, list[str]] = {}

    def run(self) -> Report:
        # Receipts are listed before the files they name: while a job runs, a file is there before its
        # receipt.
        records = {
            folder_name: dict(self.folder.read_many(self.folder.walk(folder_name)))
            for folder_name in ("snapshots", "receipts", "plans", "redo", "lease")
        }
        self.entries = {entry.path: entry for entry in self.folder.entries() if not is_staged(entry.path)}
        self.report.files = len(self.entries)
        self.report.bytes = sum(entry.bytes for entry in self.entries.values())
        self._identity()
        self._links()
        self._snapshots(records["snapshots"])
        self._receipts(records["receipts"])
        self._files()
        self._plans(records["plans"])
        self._models()
        self._others({**records["redo"], **records["lease"]})
        self.report.faults.sort(key=lambda fault: (not fault.counts, fault.file))
        if self.repair:
            self._ask()
        return self.report

    # Each of these looks at one kind of file, and fixes what needs no run.

    def _identity(self) -> None:
        try:
            identity.check_identity(self.folder)
        except CamtrapError as problem:
            if problem.exit_code == 2:
                raise
            self._found("format.json", "can't be read", "it is written again")

    def _links(self) -> None:
        if not self.folder.is_local:
            return
        for path in self.folder.local("").rglob("*"):
            name = path.relative_to(self.folder.local("")).as_posix()
            if path.is_symlink():
                self._found(name, "is a symbolic link; nothing is written through one", "remove it")
            elif path.is_dir() and (path.name == "CURRENT" or path.suffix in (".json", ".parquet")):
                self._found(name, "is a folder where a file should be", "remove it")

    def _snapshots(self, records: dict[str, bytes]) -> None:
        lost: list[tuple[str, int]] = []
        for path, data in records.items():
            _, table, name = path.split("/", 2)
            if not (stem := name.removesuffix(".json")).isdecimal():
                continue
            number = int(stem)
            try:
                snapshot = decode(data, Snapshot)
                if (snapshot.table, snapshot.number) != (table, number):
                    raise Unreadable(f"is snapshot {snapshot.number} of {snapshot.table}, not of its name")
                self.snapshots[table, number] = snapshot
            except Unreadable as problem:
                lost.append((table, number))
                self._found(path, str(problem), "it is deleted, and what was made from it is committed again")
                if self.repair:
                    self.folder.delete(path)
        for table, number in lost:
            # What was made from it names its number; committed again, it names one that exists.
            for key in self._current():
                made = self.snapshots[key]
                if made.inputs.get(table) == number or made.table == table or key[0] == table:
                    self._commit_again(made)
        for table in sorted({path.split("/")[1] for path in records}):
            there = [each for other, each in self.snapshots if other == table]
            path = snapshots.pointer(table)
            text = records.get(path, b"").strip()
            if there and (not text.isdigit() or (table, int(text)) not in self.snapshots):
                what = "is missing" if path not in records else "does not name a snapshot that can be read"
                self._found(path, what, f"it names {max(there)} again")
                if self.repair:
                    snapshots.point_at_newest(self.folder, table)

    def _receipts(self, records: dict[str, bytes]) -> None:
        current = self._current_plans()
        for path, data in records.items():
            _, stage, plan, name = path.split("/", 3)
            shard = name.removesuffix(".json")
            try:
                receipt = Receipt.from_json(data)
                if receipt.path != path:
                    raise Unreadable(f"is the receipt of {receipt.path}, not of its name")
                self.receipts[path] = receipt
            except Unreadable as problem:
                is_current = (stage, plan) in current
                then = f"shard {shard} of {stage} is done again" if is_current else "it is deleted"
                self._found(path, str(problem), then)
                if is_current:
                    self._again(stage, shard)
                if self.repair:
                    self.folder.delete(path)

    def _files(self) -> None:
        wanted: dict[str, File] = {}
        listed = [snapshot.files for snapshot in self.snapshots.values()]
        for files in listed + [receipt.files for receipt in self.receipts.values()]:
            for file in files:
                if file.file not in wanted or not wanted[file.file].sha256:
                    wanted[file.file] = file
        by_file: dict[str, list[Receipt]] = {}
        for receipt in self.receipts.values():
            for file in receipt.files:
                by_file.setdefault(file.file, []).append(receipt)
        current = {
            file.file: self.snapshots[key] for key in self._current() for file in self.snapshots[key].files
        }
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(self._fault_of, wanted.values())
            for file, what in zip(wanted.values(), found, strict=True):
                if what is not None:
                    self._damaged(file, what, by_file.get(file.file, []), current.get(file.file))

    def _damaged(self, file: File, what: str, receipts: list[Receipt], used: Snapshot | None) -> None:
        if file.table in GROWING:
            then = (
                f"table {file.table} goes on without its {plural(file.rows, 'row')}: restore it, if you can"
            )
            self._found(file.file, what, then if used else "only older snapshots need it", counts=bool(used))
            if used and self.repair:
                self._leave_out(used, file.file)
            return
        current = self._current_plans()
        for stage in {receipt.stage for receipt in receipts} | ({used.stage} if used else set()):
            self._spoilt.setdefault(stage, []).append(file.file)
        for receipt in receipts:
            if (receipt.stage, receipt.plan_id) in current or used is not None:
                self._again(receipt.stage, receipt.shard_id, receipt.attempt)
            elif self.repair:
                self.folder.delete(receipt.path)
        if used is not None and not receipts:
            self._again(used.stage, shard_of(file.file))
        if used is not None:
            self._found(file.file, what, f"shard {shard_of(file.file)} of {used.stage} is done again")
        elif receipts:
            self._found(file.file, what, "its receipt is void")
        else:
            self._found(file.file, what, "only older snapshots need it (camtrap gc --keep)", counts=False)

    def _fault_of(self, file: File) -> str | None:
        entry = self.entries.get(file.file)
        if entry is None:
            return "is missing"
        if entry.bytes != file.bytes:
            return f"has {entry.bytes:,} bytes instead of {file.bytes:,}"
        if not file.sha256:
            return find_damage(self.folder, file.file, file.rows)
        found = hashlib.sha256()
        try:
            with self.folder.open(file.file) as handle:
                for chunk in iter(functools.partial(handle.read, _CHUNK), b""):
                    found.update(chunk)
        except FileNotFoundError:
            return "is missing"
        return None if found.hexdigest() == file.sha256 else "is damaged (not the bytes that were written)"

    def _plans(self, records: dict[str, bytes]) -> None:
        known = {(snapshot.stage, snapshot.plan_id): snapshot for snapshot in self.snapshots.values()}
        for stage, plan_id in sorted(self._current_plans()):
            path, made = f"plans/{stage}/{plan_id}.json", known[stage, plan_id]
            if path not in records and made.table not in GROWING:
                self._found(path, "is missing", "it is written again")
                self._commit_again(made)
        for path, data in records.items():
            _, stage, name = path.split("/", 2)
            try:
                plan = Plan.from_json(data)
                if Plan.make(plan.stage, plan.shards, {}).path != path:
                    raise Unreadable("is not the plan of its name")
                snapshot = known.get((plan.stage, plan.id))
                if snapshot is not None and snapshot.table not in GROWING:
                    self._lost_receipts(plan)
            except Unreadable as problem:
                self._found(path, str(problem), "it is written again")
                if self.repair:
                    self.folder.delete(path)
                if (stage, name.removesuffix(".json")) in known:
                    self._commit_again(known[stage, name.removesuffix(".json")])

    def _lost_receipts(self, plan: Plan) -> None:
        """Shards of a current plan that have no receipt; receipts that can't be read are reported."""
        if (plan.stage, plan.id) not in self._current_plans():
            return
        of_stage = (receipt for receipt in self.receipts.values() if receipt.stage == plan.stage)
        done = {receipt.shard_id: receipt for receipt in of_stage}
        told = {name.partition(".")[0] for name in self.report.again.get(plan.stage, ())}
        for shard in plan.shards:
            if shard.id not in told and settled(shard, done) is None:
                path = receipt_path(plan.stage, plan.id, shard.id)
                self._found(path, "is missing", f"shard {shard.id} of {plan.stage} is done again")
                self._again(plan.stage, shard.id)

    def _models(self) -> None:
        made = {
            str(receipt.result["model_id"]): receipt
            for receipt in self.receipts.values()
            if receipt.stage == "train" and "model_id" in receipt.result
        }
        there = {
            path.split("/")[1] for path in self.entries if path.startswith("models/") and path.count("/") == 2
        }
        there = {name for name in there if not name.startswith(".")}
        for name in sorted(there | made.keys()):
            where = f"models/{name}"
            what = self.model_fault(Folder(f"{self.folder.url}/{where}")) if name in there else "is missing"
            if what is None:
                continue
            if (receipt := made.get(name)) is None:
                self._found(where, what, "copy or import it again")
                continue
            self._found(where, what, "it is trained again")
            self._again(receipt.stage, receipt.shard_id, receipt.attempt)
            if self.repair:
                # A model that is already there is left as it is.
                for path in [path for path in self.entries if path.startswith(f"{where}/")]:
                    self.folder.delete(path)

    def _others(self, records: dict[str, bytes]) -> None:
        for path, data in records.items():
            if not path.endswith(".json"):
                continue
            try:
                decode(data, lease.Holder if path.startswith("lease/") else redo.Asked)
            except Unreadable as problem:
                self._found(path, str(problem), "it is deleted")
                if self.repair:
                    self.folder.delete(path)
        for path, data in self.folder.read_many(
            path for path in self.entries if path == LOG or path.startswith(f"{PARTS}/")
        ):
            lines = data.splitlines(keepends=True)
            # The last line may be cut off, if the driver was killed.
            good = [line for line in lines if _is_json(line)]
            if bad := sum(not _is_json(line) for line in lines[:-1]):
                self._found(path, f"{plural(bad, 'line is', 'lines are')} not JSON", "removed")
                if self.repair:
                    self.folder.write(path, b"".join(good))
        for entry in self.entries.values():
            size = entry.path.rpartition("-")[2]
            if entry.path.startswith("attachments/") and size.isdecimal() and int(size) != entry.bytes:
                what = f"has {entry.bytes:,} bytes instead of {int(size):,}"
                self._found(entry.path, what, "it is downloaded again")
                if self.repair:
                    self.folder.delete(entry.path)

    # Helpers of the above.

    @functools.cached_property
    def _newest(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for table, number in self.snapshots:
            found[table] = max(number, found.get(table, 0))
        return found

    def _current(self) -> set[tuple[str, int]]:
        """The newest snapshots, and those they were made from."""
        pending, found = list(self._newest.items()), set[tuple[str, int]]()
        while pending:
            key = pending.pop()
            if key in found or key not in self.snapshots:
                continue
            found.add(key)
            pending += [
                (table, number)
                for table, number in self.snapshots[key].inputs.items()
                if isinstance(number, int)
            ]
        return found

    def _current_plans(self) -> set[tuple[str, str]]:
        return {(self.snapshots[key].stage, self.snapshots[key].plan_id) for key in self._current()}

    def _found(self, file: str, what: str, then: str = "", *, counts: bool = True) -> None:
        self.report.faults.append(Fault(file, what, then, counts))

    def _again(self, stage: str, shard: str, attempt: str = "") -> None:
        self._asked.setdefault(stage, {}).setdefault(shard, set()).update({attempt} - {""})
        self.report.again.setdefault(stage, set()).add(shard)

    def _commit_again(self, snapshot: Snapshot) -> None:
        """None of it is redone: its stage finds its receipts, and commits them."""
        prefix = f"receipts/{snapshot.stage}/{snapshot.plan_id}/"
        names = [
            path.removeprefix(prefix).removesuffix(".json")
            for path in self.entries
            if path.startswith(prefix)
        ]
        for name in names[:1]:
            self._asked.setdefault(snapshot.stage, {}).setdefault(name, set())

    def _leave_out(self, snapshot: Snapshot, file: str) -> None:
        newest = snapshots.current(self.folder, snapshot.table)
        if newest is None:
            return
        files = tuple(each for each in newest.files if each.file != file)
        snapshots.commit(self.folder, newest.with_files(files))

    def _ask(self) -> None:
        for stage, shards in self._asked.items():
            attempts = {shard: sorted(found) for shard, found in shards.items()}
            redo.ask(self.folder, stage, attempts, self._spoilt.get(stage, ()))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
