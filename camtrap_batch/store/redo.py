"""Shards to do again although they have receipts: people asked for it, or `camtrap check` found damage.

What is asked stands in `redo/<stage>.json`: ids of shards, each with the attempts whose receipts are void. As
long as it stands there the stage is not up to date; its commit takes it away. So a run that is killed goes on
with what is left, as any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, decode, encode


@dataclass
class Asked:
    """`shards`: id -> attempts whose receipts are void. `damaged`: files that are not what was written."""

    shards: dict[str, list[str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def ask(
    folder: Folder, stage: str, shards: Mapping[str, Collection[str]], damaged: Collection[str] = ()
) -> None:
    """Have shards of a stage done again by its next run.

    Parameters
    ----------
    shards : id -> attempts whose receipts are void; where there are none, it is enough that the stage looks
        for what is left to do, and commits
    damaged : files of theirs that are not what was written
    """
    # What is asked already may be half done: asked again, it would start over.
    before = read(folder, stage)
    wanted = {name: [*attempts] for name, attempts in shards.items()}
    both = Asked({**wanted, **before.shards}, sorted({*damaged, *before.damaged}), before.more)
    folder.write(_path(stage), encode(both))


def asked(folder: Folder, stage: str) -> dict[str, list[str]]:
    """What is asked of a stage and not done yet: as in `ask`."""
    return read(folder, stage).shards


def read(folder: Folder, stage: str) -> Asked:
    """The same, with the files that are known to be damaged."""
    try:
        return decode(folder.read(_path(stage)), Asked)
    except FileNotFoundError:
        return Asked()
    except Unreadable as problem:
        say(f"{folder.url}/{_path(stage)}: {problem}; ask again for what should be done again")
        return Asked()


def is_asked(folder: Folder, stage: str, shard_ids: Iterable[str]) -> bool:
    """Whether any of a plan's shards, or a half of one, is to be done again."""
    wanted = {name.partition(".")[0] for name in asked(folder, stage)}
    return bool(wanted) and not wanted.isdisjoint(shard_ids)


def settle(folder: Folder, stage: str) -> None:
    """What was asked is done."""
    folder.delete(_path(stage))


def _path(stage: str) -> str:
    return f"redo/{stage}.json"
