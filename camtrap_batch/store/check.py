"""Reads everything in a run folder, names what is wrong with it, and has it repaired.

Files of tables and models are compared with the hashes in their receipts, and records are parsed. (Where an
earlier version wrote no hashes, tables are decoded and their rows counted, and models are compared with their
ids.) Anything damaged that can't be made again exactly as it was is put aside, never deleted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from camtrap_batch.errors import CamtrapError, Damaged
from camtrap_batch.store import copies, corrections, identity, lease, redo, schemas, snapshots
from camtrap_batch.store.folder import Entry, Folder, is_staged
from camtrap_batch.store.log import LOG, PARTS
from camtrap_batch.store.loose import Loose, find_loose
from camtrap_batch.store.records import OTHER_BYTES, Unreadable, from_json
from camtrap_batch.store.shards import File, Plan, Receipt, receipt_path, settled
from camtrap_batch.store.snapshots import Overtaken, Snapshot
from camtrap_batch.store.tables import find_damage, read_file, shard_of
from camtrap_batch.vocabulary import plural

GROWING = {"ledger": "publish", "corrections": "corrections"}
"""Tables that keep the files of their earlier snapshots and are not made again, with the stage of their
receipts."""

ASIDE = "damaged"
"""Folder, in the run folder, for what a repair puts aside; nothing in it is read or deleted."""

_WEIGHTS = ("model.safetensors", "model.onnx")
_OF_MODELS = frozenset({"model.json", *_WEIGHTS})
"""Files without which a model can't be used; the others say how good it is."""

_RECORDS = {"snapshots": 2, "receipts": 3, "plans": 2, "redo": 1, "lease": 1}
"""Folders of records, and how deep in the run folder they lie; anything else there is not ours."""

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
    folder: Folder,
    *,
    repair: bool = False,
    model_fault: Callable[[Folder], str | None] = lambda _: None,
    figure_faults: Callable[[Folder], dict[str, str]] = lambda _: {},
    detector_fault: Callable[[Folder], str | None] = lambda _: None,
) -> Report:
    """Read a run folder.

    Parameters
    ----------
    repair : have the next run make again what is damaged, and put right what needs no run
    model_fault : returns what is wrong with a model's folder, None if nothing is; called for models whose
        receipts have no hashes
    figure_faults : returns the files of figures of such a model that can't be read, and why
    detector_fault : returns what is wrong with a detector's folder; called for those without sums

    Raises
    ------
    LeaseHeld
        A repair was requested while a driver is at work there.
    InputError
        It is not a run folder, or a newer version wrote it.
    """
    checking = _Check(folder, repair, model_fault, figure_faults, detector_fault)
    if not repair:
        return checking.run()
    if folder.exists("format.json"):
        # Otherwise nothing could be repaired when this very file is the damaged one.
        _mend_identity(folder)
    with lease.hold(folder, "-", "check --repair"):
        return checking.run()


def _mend_identity(folder: Folder) -> None:
    try:
        identity.check_identity(folder)
    except CamtrapError as problem:
        if problem.exit_code == 2:  # from a newer version, which nothing here would understand
            raise
        identity.write_identity(folder, again=True)


class _Check:
    def __init__(
        self,
        folder: Folder,
        repair: bool,
        model_fault: Callable[[Folder], str | None],
        figure_faults: Callable[[Folder], dict[str, str]],
        detector_fault: Callable[[Folder], str | None],
    ) -> None:
        self.folder, self.repair = folder, repair
        self.model_fault, self.figure_faults = model_fault, figure_faults
        self.detector_fault = detector_fault
        self.report = Report()
        self.snapshots: dict[tuple[str, int], Snapshot] = {}
        self.receipts: dict[str, Receipt] = {}
        self.entries: dict[str, Entry] = {}
        self._lost: set[tuple[str, int]] = set()
        self._hashes: dict[str, str] = {}
        self._asked: dict[str, dict[str, set[str]]] = {}
        self._spoilt: dict[str, list[str]] = {}

    def run(self) -> Report:
        # Receipts are listed before the files they name: while a job runs, a file is there before its
        # receipt.
        records = {
            folder_name: dict(
                self.folder.read_many(
                    path
                    for path in self.folder.walk(folder_name)
                    if path.count("/") == depth and path.endswith((".json", "/CURRENT"))
                )
            )
            for folder_name, depth in _RECORDS.items()
        }
        self.entries = {entry.path: entry for entry in self.folder.entries() if not is_staged(entry.path)}
        self.report.files = len(self.entries)
        self.report.bytes = sum(entry.bytes for entry in self.entries.values())
        self._identity()
        self._links()
        self._snapshots(records["snapshots"])
        self._receipts(records["receipts"])
        self._growing(records["snapshots"])
        self._files()
        self._plans(records["plans"])
        self._journal()
        self._models()
        self._copies()
        self._loose()
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
        lost = self._lost
        for path, data in records.items():
            _, table, name = path.split("/", 2)
            if not (stem := name.removesuffix(".json")).isdecimal():
                continue
            number = int(stem)
            try:
                snapshot = from_json(data, Snapshot)
                if (snapshot.table, snapshot.number) != (table, number):
                    raise Unreadable(f"is snapshot {snapshot.number} of {snapshot.table}, not of its name")
                self.snapshots[table, number] = snapshot
            except Unreadable as problem:
                lost.add((table, number))
                then = "it is deleted, and what was made of it committed again"
                if table in GROWING:
                    then = "it is deleted; what it listed is taken from the receipts"
                self._found(path, str(problem), then)
                if self.repair:
                    self.folder.delete(path)
        for table, number in sorted(lost):
            # Whatever was made from it names its number; committed again, it names the one that exists.
            for key in self._current():
                made = self.snapshots[key]
                if made.inputs.get(table) == number or made.table == table or key[0] == table:
                    self._commit_again(made)
        for table in sorted({path.split("/")[1] for path in records}):
            there = [each for other, each in self.snapshots if other == table]
            path = snapshots.pointer(table)
            text = records.get(path, b"").strip()
            is_readable = text.isdigit() and (table, int(text)) in self.snapshots
            if there and (not is_readable or int(text) != max(there)):
                what = "is missing" if path not in records else "does not name a snapshot that can be read"
                # A driver that was killed in its commit leaves an older one; readers go by the newest.
                what = f"names {int(text)}, and {max(there)} is the newest" if is_readable else what
                self._found(path, what, f"it names {max(there)} again", counts=not is_readable)
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
                is_current = (stage, plan) in current and stage not in GROWING.values()
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
                if file.table == corrections.TABLE and file.sha256:
                    self._hashes[file.file] = file.sha256
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

    def _growing(self, records: dict[str, bytes]) -> None:
        """Tables that only grow: whether the newest snapshot lists all that earlier ones and receipts do."""
        for table, stage in GROWING.items():
            known: dict[str, File] = self._left_over() if table == corrections.TABLE else {}
            of_table = [each for (other, _), each in sorted(self.snapshots.items()) if other == table]
            done = sorted(
                (each for each in self.receipts.values() if each.stage == stage),
                key=lambda each: each.finished,
            )
            newest = of_table[-1] if of_table else None
            is_of_people = table == corrections.TABLE
            if not is_of_people and not self._has_lost_snapshots(table, records, newest):
                done = []  # what a killed driver had not committed
            for files in [each.files for each in of_table] + [each.files for each in done]:
                known |= {file.file: file for file in files if file.table == table}
            listed = {file.file for file in newest.files} if newest is not None else set()
            lacking = [
                file for path, file in known.items() if path not in listed and self._fault_of(file) is None
            ]
            if is_of_people:
                # A fold killed before its commit leaves them in the journal.
                lacking = [file for file in lacking if not self._is_said_elsewhere(file, listed)]
            number = newest.number if newest is not None else 0
            numbers = snapshots.numbers(self.folder, table)
            if not lacking or any(other > number and (table, other) not in self._lost for other in numbers):
                continue  # in the second case somebody has added to it in the meantime
            rows = sum(file.rows for file in lacking)
            path = snapshots.path_of(table, number or 1)
            self._found(path, f"lacks {plural(rows, 'row')} of {lacking[0].file}", "taken in again")
            if self.repair:
                whole = (*(newest.files if newest is not None else ()), *lacking)
                base = newest or _first_snapshot(table, stage, done[-1].plan_id if done else "")
                with suppress(Overtaken):
                    snapshots.commit(self.folder, base.with_files(whole), after=number)

    def _left_over(self) -> dict[str, File]:
        """Files of people's corrections that may be in no snapshot, and in no receipt that can be read."""
        found: dict[str, File] = {}
        named = {file.file for snapshot in self.snapshots.values() for file in snapshot.files}
        named |= {file.file for receipt in self.receipts.values() for file in receipt.files}
        for path in list(self.entries):
            if path in named or not path.startswith(f"tables/{corrections.TABLE}/"):
                continue
            if not path.endswith(".parquet"):
                continue
            # Every column is read, as the checksums of the pages are all that tells of damage.
            for source in (path, copies.path_of(path)):
                with suppress(Damaged, FileNotFoundError):
                    rows = read_file(self.folder, source).num_rows
                    if source != path:
                        self._restore(path, OTHER_BYTES, self.folder.read(source))
                    size, sha256 = self.entries[source].bytes, self._hash_of(source)
                    found[path] = File(corrections.TABLE, path, rows, size, sha256)
                    break
        return found

    def _has_lost_snapshots(self, table: str, records: dict[str, bytes], newest: Snapshot | None) -> bool:
        """Whether a table had snapshots that are gone now."""
        numbers = [
            int(name)
            for path in records
            if path.startswith(f"snapshots/{table}/")
            and (name := path.rpartition("/")[2].removesuffix(".json")).isdecimal()
        ]
        named = records.get(snapshots.pointer(table), b"").strip()
        numbers += [int(named)] if named.isdigit() else []
        return bool(numbers) and max(numbers) > (newest.number if newest is not None else 0)

    def _is_said_elsewhere(self, file: File, listed: set[str]) -> bool:
        """Whether each correction in a file is in the journal, or in one of these files of the table."""
        names = ["correction_id"]
        wanted = set(read_file(self.folder, file.file, names)["correction_id"].to_pylist())
        try:
            wanted -= set(corrections.read_journal(self.folder)[1]["correction_id"].to_pylist())
            for other in listed if wanted else ():
                wanted -= set(read_file(self.folder, other, names)["correction_id"].to_pylist())
        except (Damaged, FileNotFoundError):  # reported elsewhere
            return False
        return not wanted

    def _journal(self) -> None:
        for path, data in self.folder.read_many(
            path
            for path in self.entries
            if path.startswith(f"{corrections.JOURNAL}/") and path.endswith(".json")
        ):
            try:
                corrections.parse_journal(data)
            except ValueError as problem:
                self._found(
                    path,
                    f"what people said in it can't be read ({problem})",
                    "repair it, or move it away; it is not passed over until then",
                )

    def _damaged(self, file: File, what: str, receipts: list[Receipt], used: Snapshot | None) -> None:
        if file.table in GROWING:
            if (data := copies.find(self.folder, file.file, file.sha256)) is not None:
                self._restore(file.file, what, data)
                return
            if used is None:
                self._found(file.file, what, "only older snapshots need it", counts=False)
                return
            then = (
                f"table {file.table} goes on without its {plural(file.rows, 'row')}: restore it, if you can"
            )
            if what != "is missing":
                then += f"; it is put aside as {ASIDE}/{file.file}"
            self._found(file.file, what, then)
            if self.repair:
                self._leave_out(used, file.file)
                self._put_aside(file.file)
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
            is_current = any((receipt.stage, receipt.plan_id) in current for receipt in receipts)
            self._found(file.file, what, "its receipt is void", counts=is_current)
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
        try:
            found = self._hash_of(file.file)
        except FileNotFoundError:
            return "is missing"
        return None if found == file.sha256 else OTHER_BYTES

    def _hash_of(self, path: str) -> str:
        found = hashlib.sha256()
        with self.folder.open(path) as handle:
            for chunk in iter(functools.partial(handle.read, _CHUNK), b""):
                found.update(chunk)
        return found.hexdigest()

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
            for receipt in sorted(self.receipts.values(), key=lambda receipt: receipt.finished)
            if receipt.stage == "train" and "model_id" in receipt.result
        }
        there = {
            path.split("/")[1] for path in self.entries if path.startswith("models/") and path.count("/") == 2
        }
        there = {name for name in there if not name.startswith(".")}
        for name in sorted(there | made.keys()):
            where, receipt = f"models/{name}", made.get(name)
            is_whole = self._restore_files(where, receipt) if receipt is not None and name in there else None
            if is_whole:
                continue
            model = Folder(f"{self.folder.url}/{where}")
            what = self.model_fault(model) if name in there else "is missing"
            if what is None and is_whole is None:
                for file, why in self.figure_faults(model).items():
                    self._spoilt_figures(f"{where}/{file}", f"is damaged ({why})")
                continue
            what = what or OTHER_BYTES
            paths = [path for path in self.entries if path.startswith(f"{where}/")]
            if receipt is None:
                self._found(where, what, "copy or import it again")
                continue
            aside = f"put aside as {ASIDE}/{where}, and " if paths else ""
            self._found(where, what, f"it is {aside}trained again")
            self._again(receipt.stage, receipt.shard_id, receipt.attempt)
            # A model that already exists would be left as it is.
            for path in paths:
                self._put_aside(path)

    def _restore_files(self, where: str, receipt: Receipt) -> bool | None:
        """Compare a model's files with the hashes in its receipt, and have those that differ replaced by
        their copies; returns whether the model can be used afterwards, None if there are no hashes."""
        hashes: dict[str, str] = receipt.result.get("files", {})
        is_whole = True
        for name, sha256 in sorted(hashes.items()):
            path = f"{where}/{name}"
            self._hashes[path] = sha256
            if path in self.entries and self._hash_of(path) == sha256:
                continue
            what = OTHER_BYTES if path in self.entries else "is missing"
            if (data := copies.find(self.folder, path, sha256)) is not None:
                self._restore(path, what, data)
            elif name in _OF_MODELS:
                is_whole = False
            elif path in self.entries:
                self._spoilt_figures(path, what)
            else:
                self._found(path, what, "it only held figures about the model", counts=False)
        return is_whole if hashes else None

    def _spoilt_figures(self, path: str, what: str) -> None:
        then = f"it only holds figures about the model, and is put aside as {ASIDE}/{path}"
        self._found(path, what, then)
        self._put_aside(path)

    def _copies(self) -> None:
        """Second copies that no longer match their originals, or are missing."""
        for original, sha256 in self._hashes.items():
            path = copies.path_of(original)
            is_copied = path in self.entries or original.endswith(_WEIGHTS)
            if not is_copied and original in self.entries and self._hash_of(original) == sha256:
                self._found(path, "is missing", "it is made again", counts=False)
                if self.repair:
                    copies.keep(self.folder, [original])
        for path in [path for path in self.entries if path.startswith(f"{copies.COPIES}/")]:
            original = path.removeprefix(f"{copies.COPIES}/")
            if original.startswith("samples/"):  # see `loose`
                continue
            right = self._hashes.get(original)
            if right is None:
                if original in self.entries and self._hash_of(path) != self._hash_of(original):
                    what = f"differs from {original}, and nothing says which of the two is right"
                    self._found(path, what, counts=False)
                continue
            if self._hash_of(path) == right:
                continue
            is_there = original in self.entries and self._hash_of(original) == right
            then = "it is made again" if is_there else "so is the original: it is put aside"
            self._found(path, OTHER_BYTES, then)
            self._put_aside(path)
            if is_there and self.repair:
                self.folder.write(path, self.folder.read(original))

    def _loose(self) -> None:
        """Files that nothing names."""
        # All are found before the first is mended: of two faults in one report each is named.
        for fault in list(find_loose(self.folder, self.entries, self.detector_fault)):
            self._found(fault.file, fault.what, fault.then)
            if self.repair:
                self._mend(fault)

    def _mend(self, fault: Loose) -> None:
        for path in fault.files or (fault.file,):
            if fault.action == "aside":
                self._put_aside(path)
            elif fault.action == "replace":
                self._replace(path, fault.data)
            elif fault.action == "delete":
                self.folder.delete(path)
                self.entries.pop(path, None)

    def _restore(self, path: str, what: str, data: bytes) -> None:
        self._found(path, what, "it is restored from its copy")
        if self.repair:
            self._replace(path, data)

    def _replace(self, path: str, data: bytes) -> None:
        self._put_aside(path)
        self.folder.write(path, data)
        self.entries[path] = Entry(path, len(data), None)

    def _put_aside(self, path: str) -> None:
        """Move a file to where nothing is read or deleted."""
        if not self.repair or path not in self.entries:
            return
        data, number = self.folder.read(path), 1
        while not self.folder.create(kept := f"{ASIDE}/{path}" + (f".{number}" if number > 1 else ""), data):
            if self.folder.read(kept) == data:
                break
            number += 1
        self.folder.delete(path)
        del self.entries[path]

    def _others(self, records: dict[str, bytes]) -> None:
        for path, data in records.items():
            try:
                from_json(data, lease.Holder if path.startswith("lease/") else redo.Asked)
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

    # Helpers for the above.

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
        """Have a snapshot committed again; nothing is redone: its stage commits the receipts it finds."""
        if snapshot.table in GROWING:
            return
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
        try:
            snapshots.commit(self.folder, newest.with_files(files), after=newest.number)
        except Overtaken:  # somebody has added to it in the meantime
            self._leave_out(snapshot, file)

    def _ask(self) -> None:
        for stage, shards in self._asked.items():
            attempts = {shard: sorted(found) for shard, found in shards.items()}
            redo.ask(self.folder, stage, attempts, self._spoilt.get(stage, ()))


def _first_snapshot(table: str, stage: str, plan_id: str) -> Snapshot:
    """The snapshot of a table that only grows, when none of its snapshots can be read."""
    return Snapshot(
        table=table,
        number=0,
        plan_id=plan_id,
        stage=stage,
        files=(),
        rows=0,
        bytes=0,
        counts={},
        inputs={},
        schema=schemas.fingerprint(table),
        meta={},
    )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
