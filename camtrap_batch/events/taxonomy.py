"""Groups of species, as given by a job: genus, family, ... of each label.

A label that names a group itself ("felidae" among the model's classes) is that group: its own probability
counts towards it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from camtrap_batch.catalog.labels import CATEGORY, label_key, tidy_label
from camtrap_batch.catalog.tabular import read_table
from camtrap_batch.codes import Ints
from camtrap_batch.errors import InputError, choices
from camtrap_batch.events.codes import Bools
from camtrap_batch.vocabulary import UNCERTAIN

LABEL = ("label", "species", "scientific_name", "scientificname")
"""Possible names of the column with the label."""

COMMON_NAME = ("common_name", "vernacular_name", "vernacularname", "english_name")
"""Possible names of the column with the common name, which is not a rank either."""

Group = tuple[str, str]
"""Rank and name of a group, such as ("genus", "panthera")."""


@dataclass(frozen=True)
class Taxonomy:
    """The groups above each label, the lowest first. Labels are compared by `labels.label_key`.

    Attributes
    ----------
    categories : label -> its category of threat (`CATEGORY`), as written
    common : label -> the common name
    """

    groups: Mapping[str, tuple[Group, ...]]
    where: str = "events.taxonomy"
    categories: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, str] = field(default_factory=dict)

    def above(self, label: str) -> tuple[Group, ...]:
        """The groups that a label belongs to; none if it is not in the taxonomy."""
        return self.groups.get(label_key(label), ())

    def names(self, label: str) -> list[str]:
        """A label and the names of the groups above it, in lower case."""
        return [label_key(label), *(name.casefold() for _, name in self.above(label))]


def taxonomy_of(given: str | Mapping[str, Mapping[str, str]] | None) -> Taxonomy | None:
    """The taxonomy in `events.taxonomy`: a file, or groups. Raises like `read_taxonomy`."""
    if given is None:
        return None
    return read_taxonomy(given) if isinstance(given, str) else make_taxonomy(given)


def read_taxonomy(path: str) -> Taxonomy:
    """A taxonomy from a CSV file: a column `label`, then one for each rank, the lowest first.

    A group's cell may be empty. A column named as in `CATEGORY` or `COMMON_NAME` is not a rank.

    Raises
    ------
    InputError
        The file can't be read, or a group is below two others; with the line.
    """
    table = read_table(path, "events.taxonomy", LABEL)
    column = table.require({"label": LABEL})["label"]
    table.require_cells([column])
    ranks = [name for name in table.columns if name not in (column, *CATEGORY, *COMMON_NAME)]
    category, common = table.name_of(CATEGORY), table.name_of(COMMON_NAME)
    if not ranks and not common:
        raise InputError(
            f"{path}:1: no column for a rank (events.taxonomy); it should have some, such as genus,family"
        )
    return _taxonomy(
        (
            (
                where,
                row[column] or "",
                [(rank, row[rank] or "") for rank in ranks],
                (category and row[category]) or "",
                (common and row[common]) or "",
            )
            for where, row in table.rows()
        ),
        path,
    )


def make_taxonomy(content: Mapping[str, Mapping[str, str]]) -> Taxonomy:
    """A taxonomy from label -> rank -> group, the lowest rank first. Raises like `read_taxonomy`."""
    where = "events.taxonomy"
    return _taxonomy((_row(f"{where}.{label}", label, groups) for label, groups in content.items()), where)


_Row = tuple[str, str, list[Group], str, str]
"""Its place in the file, label, groups, category of threat, common name."""


def _row(where: str, label: str, given: Mapping[str, str]) -> _Row:
    named = {rank: "_".join(rank.casefold().split()) for rank in given}
    groups = [(rank, name) for rank, name in given.items() if named[rank] not in (*CATEGORY, *COMMON_NAME)]
    category, common = (
        next((given[rank] for rank in given if named[rank] in names), "") for names in (CATEGORY, COMMON_NAME)
    )
    return where, label, groups, category, common


def _taxonomy(rows: Iterator[_Row], where: str) -> Taxonomy:
    groups: dict[str, tuple[Group, ...]] = {}
    parents: dict[str, str] = {}
    ranks: dict[str, str] = {}
    categories: dict[str, str] = {}
    called: dict[str, str] = {}
    for where, label, given, category, common in rows:
        key = label_key(label)
        if common.strip():
            called.setdefault(key, " ".join(common.split()))
        if category.strip() and categories.setdefault(key, category.strip()) != category.strip():
            raise InputError(
                f"{where}: {label!r} is {categories[key]} further up; it should have one category"
            )
        named = [(rank.strip(), tidy_label(name)) for rank, name in given if name.strip()]
        chain = tuple((rank, name) for rank, name in named if name.casefold() != key)
        if groups.setdefault(key, chain) != chain:
            raise InputError(f"{where}: {label!r} has other groups further up; it should have one line")
        for rank, name in chain:
            if name.casefold() in (UNCERTAIN, ""):
                raise InputError(f"{where}: {rank}: {name!r} can't be the name of a group")
            if ranks.setdefault(name.casefold(), rank) != rank:
                raise InputError(
                    f"{where}: {name!r} is a {rank} here and a {ranks[name.casefold()]} elsewhere; "
                    "a name should stand for one group"
                )
        path = [key, *(name for _, name in chain)]
        for child, parent in pairwise(path):
            if parents.setdefault(child.casefold(), parent.casefold()) != parent.casefold():
                raise InputError(
                    f"{where}: {child!r} is in {parent!r} here and in {parents[child.casefold()]!r} "
                    "elsewhere; a group should be in one other"
                )
    for start in parents:
        seen, at = {start}, parents.get(start)
        while at is not None:
            if at in seen:
                raise InputError(f"{where}: {start!r} is above itself (events.taxonomy)")
            seen.add(at)
            at = parents.get(at)
    if not groups:
        raise InputError(f"{where}: holds no label (events.taxonomy)")
    return Taxonomy(groups, where, categories, called)


class Tree:
    """A taxonomy over a model's classes, as arrays.

    Attributes
    ----------
    names, ranks : names and ranks of the groups
    above : (classes, depth) number of each group above a class, the lowest first, then -1
    members : (groups, classes) whether a class belongs to a group
    """

    def __init__(self, classes: Sequence[str], taxonomy: Taxonomy | None) -> None:
        chains = [taxonomy.above(label) if taxonomy else () for label in classes]
        self.names: list[str] = []
        self.ranks: list[str] = []
        number: dict[str, int] = {}
        for rank, name in (group for chain in chains for group in chain):
            if name.casefold() not in number:
                number[name.casefold()] = len(self.names)
                self.names.append(name)
                self.ranks.append(rank)
        depth = max(map(len, chains), default=0)
        self.above: Ints = np.full((len(classes), depth), -1, np.int64)
        self.members: Bools = np.zeros((len(self.names), len(classes)), np.bool_)
        for code, chain in enumerate(chains):
            for level, (_, name) in enumerate(chain):
                self.above[code, level] = number[name.casefold()]
                self.members[number[name.casefold()], code] = True
        for code, label in enumerate(classes):
            if label.casefold() in number:
                self.members[number[label.casefold()], code] = True
        if taxonomy is not None and depth == 0 and any(taxonomy.groups.values()):
            known = ", ".join(map(repr, classes[:3]))
            raise InputError(
                f"{taxonomy.where}: none of the model's classes is in it (events.taxonomy); the model has "
                f"{known}; {choices(classes[0] if classes else '', taxonomy.groups)}"
            )
