"""Shards to redo although they have receipts: people asked for it, or `camtrap check` found damage.

Requests are kept in `redo/<stage>.json`: ids of shards, each with the attempts whose receipts are void. While
there is a request the stage is not up to date; its commit removes the request. So a run that is killed goes
on with what is left, like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, from_json, to_json


@dataclass
class Asked:
    """`shards`: id -> attempts whose receipts are void. `damaged`: files that are not as written."""

    shards: dict[str, list[str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def ask(
    folder: Folder, stage: str, shards: Mapping[str, Collection[str]], damaged: Collection[str] = ()
) -> None:
    """Have shards of a stage redone by its next run.

    Parameters
    ----------
    shards : id -> attempts whose receipts are void; if there are none, the stage only looks for what is left
        to do, and commits
    damaged : their files that do not hold what was written
    """
    # An earlier request may be half done: requested again, it would start over.
    before = read(folder, stage)
    wanted = {name: [*attempts] for name, attempts in shards.items()}
    both = Asked({**wanted, **before.shards}, sorted({*damaged, *before.damaged}), before.more)
    folder.write(_path(stage), to_json(both))


def asked(folder: Folder, stage: str) -> dict[str, list[str]]:
    """What was requested of a stage and is not done yet, as in `ask`."""
    return read(folder, stage).shards


def read(folder: Folder, stage: str) -> Asked:
    """The same, with the files known to be damaged."""
    try:
        return from_json(folder.read(_path(stage)), Asked)
    except FileNotFoundError:
        return Asked()
    except Unreadable as problem:
        say(f"{folder.url}/{_path(stage)}: {problem}; request again what should be redone")
        return Asked()


def is_asked(folder: Folder, stage: str, shard_ids: Iterable[str]) -> bool:
    """Whether any of a plan's shards, or a half of one, is to be redone."""
    wanted = {name.partition(".")[0] for name in asked(folder, stage)}
    return bool(wanted) and not wanted.isdisjoint(shard_ids)


def settle(folder: Folder, stage: str) -> None:
    """Remove the request: it is done."""
    folder.delete(_path(stage))


def _path(stage: str) -> str:
    return f"redo/{stage}.json"
