"""Which species live where: lists of the possible labels, for everywhere, a region or a camera location."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from camtrap_batch.catalog.labels import label_key
from camtrap_batch.catalog.names import unmatched
from camtrap_batch.catalog.tabular import read_table
from camtrap_batch.errors import InputError, choices
from camtrap_batch.events.codes import Bools
from camtrap_batch.events.taxonomy import LABEL, Taxonomy


@dataclass(frozen=True)
class SpeciesLists:
    """Labels (in lower case) that are possible.

    Attributes
    ----------
    everywhere : labels possible at every camera
    by_region : region -> labels
    by_location : camera location (* and ? stand for any text and any letter) -> labels
    regions : camera location, written the same way -> its region
    where : the file, for messages
    """

    everywhere: frozenset[str]
    by_region: Mapping[str, frozenset[str]]
    by_location: Mapping[str, frozenset[str]]
    regions: Mapping[str, str]
    where: str = "events.species"

    @property
    def labels(self) -> frozenset[str]:
        """All labels in the lists."""
        return self.everywhere.union(*self.by_region.values(), *self.by_location.values())

    def at(self, location: str) -> tuple[frozenset[str], str] | None:
        """The labels possible at a camera, and what the list covers; None if no list applies.

        If all labels are for certain regions or cameras, a camera in none of them has no list.
        """
        possible = self.everywhere
        names: list[str] = []
        region = next((self.regions[name] for name in _matching(location, self.regions)), None)
        if region is not None and region in self.by_region:
            possible, names = possible | self.by_region[region], [region]
        for name in _matching(location, self.by_location):
            possible, names = possible | self.by_location[name], [*names, name]
        if not names and (self.by_region or self.by_location):
            return None
        return possible, " and ".join(names) or "the job"


def _matching(location: str, names: Mapping[str, object]) -> Iterator[str]:
    """The names that equal a location, or match it by * and ?; its own first."""
    if location in names:
        yield location
    for name in names:
        if (
            ("*" in name or "?" in name)
            and fnmatchcase(location, name.replace("[", "[[]"))
            and name != location
        ):
            yield name


def read_species(path: str, regions: str | None = None) -> SpeciesLists:
    """Species lists from a CSV file: `label`, and optionally `region` and `location`.

    A row without either holds everywhere. `regions` is a CSV file of `location` and `region`.

    Raises
    ------
    InputError
        A file can't be read, or a region in the list has no camera in `regions`; with the line.
    """
    of = _read_regions(regions) if regions is not None else {}
    everywhere: set[str] = set()
    by_region: dict[str, set[str]] = {}
    by_location: dict[str, set[str]] = {}
    table = read_table(path, "events.species", ("label", "region", "location"))
    columns = table.require({"label": LABEL})
    table.require_cells(columns.values())
    for where, row in table.rows():
        label = label_key(row[columns["label"]] or "")
        region, location = row.get("region"), row.get("location")
        if region and location:
            raise InputError(f"{where}: names a region and a location (events.species); it should name one")
        if region:
            if region not in of.values():
                hint = choices(region, of.values()) if regions else "give events.regions: location,region"
                raise InputError(f"{where}: no camera is in region {region!r} (events.species); {hint}")
            by_region.setdefault(region, set()).add(label)
        elif location:
            by_location.setdefault(location, set()).add(label)
        else:
            everywhere.add(label)
    if not (everywhere or by_region or by_location):
        raise InputError(f"{path}: holds no label (events.species)")
    return SpeciesLists(
        frozenset(everywhere),
        {name: frozenset(labels) for name, labels in by_region.items()},
        {name: frozenset(labels) for name, labels in by_location.items()},
        of,
        path,
    )


def unused_lines(
    classes: Sequence[str], taxonomy: Taxonomy | None, species: SpeciesLists | None, where: str = "the model"
) -> list[str]:
    """Notes on labels in the taxonomy and the species lists that match no class, or group of one.

    Parameters
    ----------
    where : what has the classes: the model, or the labels, if people gave them all
    """
    ours = {label_key(label) for label in classes}
    found = {}
    if taxonomy is not None:
        groups = {name.casefold() for label in classes for _, name in taxonomy.above(label)}
        labels = [name for name in taxonomy.groups if name not in groups]
        found["events.taxonomy"] = unmatched(labels, sorted(ours), where)
        ours |= groups
    if species is not None:
        found["events.species"] = unmatched(sorted(species.labels), sorted(ours), where)
    what = "are not classes of the model" if where == "the model" else "no image has"
    return [
        f"labels of {key} that {what}: {len(names):,} ({names.text})" for key, names in found.items() if names
    ]


def unused_cameras(species: SpeciesLists, locations: Sequence[str]) -> list[str]:
    """Notes on cameras in the lists that are not locations, with the nearest location."""
    lines = []
    for key, names in (("events.regions", species.regions), ("events.species", species.by_location)):
        meant = {name for location in locations for name in _matching(location, names)}
        if found := unmatched([name for name in names if name not in meant], locations, "the data set"):
            lines.append(f"cameras of {key} that are not locations: {len(found):,} ({found.text})")
    return lines


def _read_regions(path: str) -> dict[str, str]:
    regions: dict[str, str] = {}
    table = read_table(path, "events.regions", ("location", "region"))
    table.require({"location": ("location",), "region": ("region",)})
    table.require_cells(("location", "region"))
    for where, row in table.rows():
        location, region = str(row["location"]), str(row["region"])
        if regions.setdefault(location, region) != region:
            raise InputError(f"{where}: {location!r} has another region further up (events.regions)")
    return regions


def possible_classes(
    lists: SpeciesLists,
    locations: Sequence[str],
    classes: Sequence[str],
    taxonomy: Taxonomy | None,
    empty: str,
) -> tuple[Bools, list[str | None]]:
    """(locations, classes) whether a class is possible there, and what each list covers (None: no list).

    A class is possible if the list has it or a group above it, and a class that stands for a group if a class
    below it is possible; `empty` always is.

    Raises
    ------
    InputError
        None of the model's classes is on any list.
    """
    names = [set(taxonomy.names(label)) if taxonomy else {label_key(label)} for label in classes]
    mask = np.ones((len(locations), len(classes)), np.bool_)
    of: list[str | None] = []
    rows: dict[frozenset[str], Bools] = {}
    for number, location in enumerate(locations):
        found = lists.at(location)
        of.append(found[1] if found else None)
        if found is not None:
            possible = found[0]
            if possible not in rows:
                there: set[str] = {label_key(empty)}
                for name in names:
                    there |= name if not name.isdisjoint(possible) else set()
                rows[possible] = np.array([label_key(label) in there for label in classes], np.bool_)
            mask[number] = rows[possible]
    listed = lists.labels
    if all(name.isdisjoint(listed) for name in names):
        known = ", ".join(map(repr, classes[:3]))
        raise InputError(
            f"{lists.where}: none of the model's classes is in it (events.species); the model has {known}; "
            f"{choices(classes[0] if classes else '', listed)}"
        )
    return mask, of
