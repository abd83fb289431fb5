"""Shards to do again although they have receipts: people asked for it, or `camtrap check` found damage.

What is asked stands in `redo/<stage>.json`: ids of shards, each with the attempt whose receipt is void. As
long as it stands there the stage is not up to date; its commit takes it away. So a run that is killed goes on
with what is left, as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.notices import say
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, decode, encode


@dataclass
class _Asked:
    shards: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def ask(folder: Folder, stage: str, shards: Mapping[str, str]) -> None:
    """Have shards of a stage done again by its next run.

    Parameters
    ----------
    shards : id -> attempt of the receipt that is void; empty where there is none that can be read
    """
    before = asked(folder, stage)
    folder.write(_path(stage), encode(_Asked({**shards, **before})))


def asked(folder: Folder, stage: str) -> dict[str, str]:
    """What is asked of a stage and not done yet: as in `ask`."""
    try:
        return decode(folder.read(_path(stage)), _Asked).shards
    except FileNotFoundError:
        return {}
    except Unreadable as problem:
        say(f"{folder.url}/{_path(stage)}: {problem}; ask again for what should be done again")
        return {}


def is_asked(folder: Folder, stage: str, shard_ids: Iterable[str]) -> bool:
    """Whether any of a plan's shards, or a half of one, is to be done again."""
    wanted = {name.partition(".")[0] for name in asked(folder, stage)}
    return bool(wanted) and not wanted.isdisjoint(shard_ids)


def settle(folder: Folder, stage: str) -> None:
    """What was asked is done."""
    folder.delete(_path(stage))


def _path(stage: str) -> str:
    return f"redo/{stage}.json"
