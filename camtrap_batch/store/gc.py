"""Garbage collection: files that no snapshot refers to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from camtrap_batch.errors import InputError
from camtrap_batch.store import copies, lease, snapshots
from camtrap_batch.store.folder import STAGING, Entry, Folder, is_staged
from camtrap_batch.store.identity import OURS, check_identity
from camtrap_batch.store.records import Unreadable
from camtrap_batch.store.shards import Receipt
from camtrap_batch.store.snapshots import Snapshot

_SAID = "tables/corrections/"

MIN_AGE_S = 3600.0
"""Seconds for which a file that no snapshot refers to is left alone: a worker may still file it."""


def collect(
    folder: Folder, *, keep: int = 0, dry_run: bool = False, min_age_s: float = MIN_AGE_S
) -> tuple[int, int]:
    """Delete files that lost a race, or belong to an abandoned plan or to a snapshot that is not kept.

    Receipts go before the files they name, so that no receipt ever names a file that is gone. What people
    said stays, whatever snapshot it is in, and so does what a repair has put aside.

    Parameters
    ----------
    keep : how many of the newest snapshots of each table to keep; 0 keeps all. What a kept snapshot reads
        from (the thumbnails of a manifest) is kept as well.
    dry_run : only count
    min_age_s : files that no snapshot ever referred to are deleted only when older than this; files of
        snapshots that are not kept are deleted at any age

    Returns
    -------
    (files, bytes) that were, or would be, deleted

    Raises
    ------
    LeaseHeld
        A driver is working on the run folder: what it has not committed yet would look like garbage.
    Damaged
        A snapshot that is to be kept can't be read: what it refers to would look like garbage. Nothing is
        deleted.
    InputError
        The folder is not a run folder.
    """
    entries = set(folder.list(""))
    if entries and entries.isdisjoint(OURS):
        raise InputError(
            f"{folder.url}: is not a run folder: it has none of {', '.join(sorted(OURS))}; nothing was "
            "deleted"
        )
    check_identity(folder)
    with nullcontext() if dry_run else lease.hold(folder, "-", "gc"):
        garbage = list(_garbage(folder, _sort_out(folder, keep), time.time() - min_age_s))
        if not dry_run:
            for entry in garbage:
                folder.delete(entry.path)
    return len(garbage), sum(entry.bytes for entry in garbage)


@dataclass
class _Known:
    """What snapshots refer to.

    `kept` and `dropped` are paths: files of tables, snapshots, folders of models. `plans` made the snapshots
    that are kept, `dropped_plans` the others. `trained` are folders of models that were trained here.
    """

    kept: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    plans: set[str] = field(default_factory=set)
    dropped_plans: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)


def _sort_out(folder: Folder, keep: int) -> _Known:
    """Which snapshots are kept, and what they and the others refer to."""
    found = {
        (table, number): snapshots.load(folder, table, number)
        for table in folder.list("snapshots")
        for number in snapshots.numbers(folder, table)
    }
    kept: set[tuple[str, int]] = set()
    for table in {table for table, _ in found}:
        numbers = sorted(number for other, number in found if other == table)
        kept |= {(table, number) for number in (numbers[-keep:] if keep else numbers)}
    kept |= {
        (other, number)
        for key in list(kept)
        for other, number in found[key].inputs.items()
        if isinstance(number, int) and (other, number) in found
    }
    known = _Known()
    for (table, number), snapshot in found.items():
        if table == "model":
            known.trained.add(f"models/{snapshot.meta.get('model_id', '')}")
        if (table, number) in kept:
            known.kept |= {snapshots.path_of(table, number), *_referred_to(snapshot)}
            known.plans.add(f"{snapshot.stage}/{snapshot.plan_id}")
        else:
            known.dropped |= {snapshots.path_of(table, number), *_referred_to(snapshot)}
            known.dropped_plans.add(f"{snapshot.stage}/{snapshot.plan_id}")
    known.dropped -= known.kept
    known.dropped_plans -= known.plans
    return known


def _referred_to(snapshot: Snapshot) -> set[str]:
    model = snapshot.meta.get("model_id") or snapshot.inputs.get("model")
    return {file.file for file in snapshot.files} | ({f"models/{model}"} if model else set())


def _garbage(folder: Folder, known: _Known, written_before: float) -> Iterator[Entry]:
    """What to delete, in the order in which to delete it."""

    def is_old(entry: Entry) -> bool:
        return entry.modified is None or entry.modified <= written_before

    def unless_kept(entries: Iterable[Entry], names: dict[str, str] | None = None) -> Iterator[Entry]:
        """The paths that no snapshot refers to, directly or by the name that `names` maps them to."""
        for entry in entries:
            name = (names or {}).get(entry.path, entry.path)
            if name not in known.kept and (name in known.dropped or is_old(entry)):
                yield entry

    everything = list(folder.entries(""))
    named = [entry for entry in everything if not is_staged(entry.path)]

    def below(folder_name: str) -> list[Entry]:
        return [entry for entry in named if entry.path.startswith(f"{folder_name}/")]

    yield from (entry for entry in below("snapshots") if entry.path in known.dropped)
    yield from _receipts(folder, below("receipts"), known, is_old)
    for folder_name in ("plans", "performance"):
        for entry in below(folder_name):
            plan = entry.path.removeprefix(f"{folder_name}/").rpartition(".")[0]
            plan = plan if folder_name == "plans" else plan.replace("-", "/", 1)
            if plan not in known.plans and (
                folder_name == "performance" or plan in known.dropped_plans or is_old(entry)
            ):
                yield entry
    tables = below("tables")
    yield from unless_kept(entry for entry in tables if not entry.path.startswith(_SAID))
    models = {
        entry.path: "/".join(entry.path.removeprefix(f"{copies.COPIES}/").split("/")[:2])
        for entry in [*below("models"), *below(copies.path_of("models"))]
    }
    # A model that was not trained here was given to us by somebody.
    of_models = (
        entry
        for entry in named
        if (model := models.get(entry.path, "")) in known.trained or model.startswith("models/.")
    )
    yield from unless_kept(of_models, models)
    yield from filter(is_old, below("checkpoints"))
    yield from filter(is_old, below(STAGING))
    yield from (entry for entry in everything if is_staged(entry.path) and is_old(entry))


def _receipts(
    folder: Folder, entries: list[Entry], known: _Known, is_old: Callable[[Entry], bool]
) -> Iterator[Entry]:
    by_path = {entry.path: entry for entry in entries}
    referred_to = known.kept | known.dropped
    for path, data in folder.read_many(by_path):
        plan = path.removeprefix("receipts/").rpartition("/")[0]
        try:
            receipt = Receipt.from_json(data)
            files = {file.file for file in receipt.files}
            known.trained.add(f"models/{receipt.result.get('model_id', '')}")
        except Unreadable:  # counts as none
            files = {path}
        is_kept = files <= known.kept if files else plan in known.plans
        was_dropped = files <= referred_to if files else plan in known.dropped_plans
        if not is_kept and (was_dropped or is_old(by_path[path])):
            yield by_path[path]
