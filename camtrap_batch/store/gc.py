"""Garbage collection: files that no snapshot refers to."""

from __future__ import annotations

from camtrap_batch.store import snapshots
from camtrap_batch.store.folder import STAGING, Folder
from camtrap_batch.store.shards import Receipt


def collect(folder: Folder, *, keep: int = 0, dry_run: bool = False) -> tuple[int, int]:
    """Delete files that lost a race, belong to an abandoned plan, or to a snapshot that is not kept.

    Receipts go before the files they name, so that no receipt ever names a file that is gone. Run it while
    no job works on the run folder: what a running job has not committed yet is garbage to it.

    Parameters
    ----------
    keep : snapshots of each table to keep, the newest ones; 0 keeps all. What a kept snapshot reads from
        (the thumbnails of a manifest) is kept as well.
    dry_run : count only

    Returns
    -------
    (files, bytes) that were, or would be, deleted
    """
    kept: dict[str, set[int]] = {}
    for table in folder.list("snapshots"):
        numbers = snapshots.numbers(folder, table)
        current = snapshots.current(folder, table)
        newest = numbers[-keep:] if keep else numbers
        kept[table] = {*newest, *([current.number] if current else [])}
    for table in list(kept):
        for number in kept[table]:
            for other, wanted in snapshots.load(folder, table, number).inputs.items():
                if other in kept and isinstance(wanted, int):
                    kept[other].add(wanted)
    live: set[str] = set()
    plans: set[str] = set()
    garbage: list[str] = []
    for table in kept:
        for number in snapshots.numbers(folder, table):
            if number in kept[table]:
                snapshot = snapshots.load(folder, table, number)
                live |= {file.file for file in snapshot.files}
                plans.add(f"{snapshot.stage}/{snapshot.plan_id}")
                model = snapshot.meta.get("model_id") or snapshot.inputs.get("model")
                live |= {f"models/{model}"} if model else set()
            else:
                garbage.append(f"snapshots/{table}/{number}.json")
    for path in folder.walk("receipts"):
        plan = path.removeprefix("receipts/").rpartition("/")[0]
        files = {file.file for file in Receipt.from_json(folder.read(path)).files}
        is_live = files <= live if files else plan in plans
        if not is_live:
            garbage.append(path)
    garbage += [path for path in folder.walk("plans") if path[len("plans/") : -len(".json")] not in plans]
    garbage += [path for path in folder.walk("tables") if path not in live]
    reports = {f"performance/{plan.replace('/', '-')}.html" for plan in plans}
    garbage += [path for path in folder.walk("performance") if path not in reports]
    garbage += [path for path in folder.walk("models") if path.rpartition("/")[0] not in live]
    garbage += list(folder.walk("checkpoints"))
    garbage += list(folder.walk(STAGING))
    size = sum(folder.size(path) for path in garbage)
    if not dry_run:
        for path in garbage:
            folder.delete(path)
    return len(garbage), size
