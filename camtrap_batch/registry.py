"""Variants of a room by name: ours, and those from packages installed beside ours.

A room with variants (readers, exports, targets, detectors) has one registry in its `base.py`. A variant is
named as text, `module:attribute`, as entry points are, so that nothing is imported before it is used; a
package adds one through an entry point of the registry's group.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from camtrap_batch.errors import UserError, choices

Variant = TypeVar("Variant")


class Registry(Mapping[str, Variant], Generic[Variant]):
    """Name -> variant, imported when it is requested.

    Parameters
    ----------
    group : group of the entry points with which other packages add variants
    ours : name -> `module:attribute` of the variants that come with this package

    Raises
    ------
    UserError
        When a variant is requested: its package can't be imported, or two packages have the same name for it.
    """

    def __init__(self, group: str, ours: Mapping[str, str]) -> None:
        self.group, self._ours = group, ours

    def __getitem__(self, name: str) -> Variant:
        entry = self._entries[name]
        try:
            variant: Variant = entry.load()
        except (ImportError, AttributeError) as problem:
            if self.is_ours(name):
                raise
            raise UserError(f"{self.group}: {name!r} ({entry.value}) can't be loaded: {problem}") from problem
        return variant

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def is_ours(self, name: str) -> bool:
        """Whether the variant `name` comes with this package."""
        return name in self._ours

    def loadable(self) -> Iterator[tuple[str, Variant]]:
        """Name and variant of each that can be loaded: a broken package is in the way only of its own users.

        A message about something that none of them is ends with `broken`.
        """
        for name in self:
            with suppress(UserError):
                yield name, self[name]

    def broken(self) -> str:
        """Why others can't be loaded, to append to a message; nothing if all can."""
        problems = []
        for name in self:
            try:
                self[name]
            except UserError as problem:
                problems.append(f"; {problem}")
        return "".join(problems)

    def choose(self, name: str, key: str) -> Variant:
        """The variant `name`. Raises UserError, with the possible names, if there is none.

        Parameters
        ----------
        key : what named it, for the message: a key of the job file, or an option
        """
        if name not in self._entries:
            raise UserError(f"{key}: {name!r} is not possible; {choices(name, list(self))}")
        return self[name]

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        entries = {name: EntryPoint(name, where, self.group) for name, where in self._ours.items()}
        for entry in entry_points(group=self.group):
            if entry.name in entries:
                both = f"{entries[entry.name].value} and {entry.value}"
                raise UserError(f"{self.group}: {entry.name!r} is defined twice: {both}")
            entries[entry.name] = entry
        return entries


_ROOMS = {
    "camtrap_batch.readers": "camtrap_batch.catalog.base:READERS",
    "camtrap_batch.exports": "camtrap_batch.exports.base:EXPORTS",
    "camtrap_batch.targets": "camtrap_batch.targets.base:TARGETS",
    "camtrap_batch.detectors": "camtrap_batch.detection.base:DETECTORS",
}


def registry(group: str) -> Registry[Any]:
    """The registry of a group, for use in lower rooms: the job file asks for its sections."""
    module, _, name = _ROOMS[group].partition(":")
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found
