"""Which position of each camera location anyone may see: the one rule for everything that leaves the run
folder.

The report, the map, exports and public layers take their positions from `shown_locations`. A location where
anyone, machine or person, recorded a sensitive species (`publish.sensitive`) is moved to a grid of
`publish.sensitive_km`, with everything seen there, since its other species have the same position. So is any
location within `NEAR_M` of it. The run folder's own tables, and `camtrap table`, keep exact positions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.base import reader_of
from camtrap_batch.catalog.labels import Taxon, label_key
from camtrap_batch.catalog.tabular import read_table
from camtrap_batch.codes import if_else
from camtrap_batch.errors import InputError
from camtrap_batch.events.codes import Bools
from camtrap_batch.events.taxonomy import LABEL, Taxonomy, taxonomy_of
from camtrap_batch.job import Job
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.survey.grid import Floats, snap
from camtrap_batch.survey.numerics import scipy

NEAR_M = 100.0
"""Metres within which another location's exact position would reveal a sensitive one: cameras in pairs."""

_EARTH_M = 6_371_000.0


@dataclass(frozen=True)
class Sensitive:
    """Species whose positions must not become known.

    Attributes
    ----------
    names : names in the job, in lower case: labels, groups, categories of threat
    grid_km : size of the grid on which locations where they were seen are shown
    taxonomy : groups, category and common name of each label
    taxa : the same, according to the data set itself
    """

    names: frozenset[str]
    grid_km: float
    taxonomy: Taxonomy | None = None
    taxa: tuple[Taxon, ...] = ()

    def covers(self, label: str) -> bool:
        """Whether a label is one of them, in one of their groups, or a group that contains one of them.

        A SpeciesNet class (`id;class;order;family;genus;species;common name`) stands for each of its names.
        """
        return bool(self._words(label)) or label_key(label) in self._above

    def unknown(self, labels: Iterable[str]) -> list[str]:
        """Names that neither a taxonomy nor any of these labels has: perhaps they are spelt differently."""
        known = {word for label in (*labels, *self._further) for word in self._words(label)}
        return sorted(self.names - known)

    def _words(self, label: str) -> set[str]:
        """Names in the job that a label equals, or belongs to."""
        parts = [label_key(part) for part in label.split(";")]
        words = {label_key(label), *parts[1:]} | ({f"{parts[4]} {parts[5]}"} if len(parts) == 7 else set())
        for word in list(words):
            words |= self._further.get(word, set())
        return words & self.names

    @cached_property
    def _further(self) -> dict[str, set[str]]:
        """Label -> groups that it is in, its category, and what people call it."""
        found: dict[str, set[str]] = {}
        if (known := self.taxonomy) is not None:
            for label in known.groups:
                also = known.categories.get(label, ""), known.common.get(label, "")
                found[label] = {*known.names(label), *(label_key(name) for name in also if name)}
        for taxon in self.taxa:
            named = [*taxon.above.values(), *taxon.common.values(), taxon.category or ""]
            found.setdefault(label_key(taxon.label), set()).update(label_key(name) for name in named if name)
        return found

    @cached_property
    def _above(self) -> frozenset[str]:
        """Groups that contain one of the species: the animal may not have been identified further.

        From the data set itself, only genus and family: it also names classes and phyla, which say nothing.
        """
        # The genus of a binomial: Panthera may be Panthera leo.
        found = {words[0] for name in self.names if len(words := name.split()) == 2}
        for label in self.taxonomy.groups if self.taxonomy is not None else ():
            if self.taxonomy is not None and self._words(label):
                found.update(self.taxonomy.names(label))
        for taxon in self.taxa:
            if self._words(taxon.label):
                found |= {label_key(taxon.above.get(rank, "")) for rank in ("genus", "family")} - {""}
        return frozenset(found)


def sensitive_of(job: Job) -> Sensitive | None:
    """The sensitive species of a job; None if it names none.

    Raises
    ------
    InputError
        The list, the taxonomy or the data set's data package can't be read, with file and line.
    """
    given = job.publish.sensitive
    if given is None:
        return None
    if isinstance(given, str):
        table = read_table(given, "publish.sensitive", LABEL)
        column = table.require({"label": LABEL})["label"]
        table.require_cells([column])
        given = [name or "" for name in table.columns[column]]
        if not given:
            raise InputError(f"{job.publish.sensitive}: holds no label (publish.sensitive)")
    names = frozenset(map(label_key, given))
    taxa = tuple(reader_of(job.dataset).taxa())
    return Sensitive(names, job.publish.sensitive_km, taxonomy_of(job.events.taxonomy), taxa)


def hides_places(job: Job) -> bool:
    """Whether photos that are handed out lose their metadata: cameras write their position into EXIF."""
    return job.publish.is_public or job.publish.sensitive is not None


@dataclass(frozen=True)
class Shown:
    """Locations with the positions that may be shown.

    Attributes
    ----------
    locations : schemas.LOCATIONS; longitude and latitude may be moved, geometry is then null
    grid_km : (n,) size of the grid that each is on; 0 if its position is exact
    notes : lines for people
    """

    locations: pa.Table
    grid_km: Floats
    notes: tuple[str, ...] = ()

    @cached_property
    def moved(self) -> frozenset[str]:
        """Names of the locations that are on a grid."""
        return frozenset(self.locations["location"].filter(pa.array(self.grid_km > 0)).to_pylist())


def shown_locations(merged: MergeResult, blur_km: float = 0.0, also: Collection[str] = ()) -> Shown:
    """The table `locations` of a result with the positions that may be shown.

    Parameters
    ----------
    blur_km : grid for all locations, 0: exact if nothing sensitive was seen
    also : locations where something sensitive was seen according to other sources, such as a package

    Raises
    ------
    InputError
        As for `sensitive_of`.
    """
    locations = merged.table("locations").to_table()
    sensitive = sensitive_of(merged.run.job)
    if sensitive is None:
        return Shown(*move(locations, np.full(locations.num_rows, blur_km)))
    recorded = set(_recorded(merged))
    labels = {label for _, label in recorded}
    covered = {label for label in labels if sensitive.covers(label)}
    there = {location for location, label in recorded if label in covered} | set(also)
    is_there = pc.is_in(locations["location"], pa.array(sorted(there), pa.string())).to_numpy()
    is_near = is_there | _near(locations, is_there)
    km = max(sensitive.grid_km, blur_km)
    grid = np.where(is_near, km, blur_km)
    notes = [
        f"publish.sensitive: {int(is_near.sum()):,} of {len(grid):,} locations are on a grid of {km:g} km"
    ]
    predictions = merged.run.snapshot("predictions", merged.snapshot.inputs["predictions"])
    if unknown := sensitive.unknown({*labels, *predictions.meta.get("classes", ())}):
        notes.append(
            f"publish.sensitive: neither a label of this job nor in events.taxonomy: {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        )
    if telling := _named_by_place(merged, locations, is_near):
        notes.append(
            f"publish.sensitive: the name of {telling[0]!r}, or of its files, has its coordinates in it "
            f"(such locations: {len(telling):,}); names are not changed"
        )
    return Shown(*move(locations, grid), tuple(notes))


def move(locations: pa.Table, grid_km: Floats) -> tuple[pa.Table, Floats]:
    """Rows of schemas.LOCATIONS, each moved to its grid (km; 0: not moved), and `grid_km`."""
    x, y = (locations[name].to_numpy().copy() for name in ("longitude", "latitude"))
    known = ~np.isnan(x) & ~np.isnan(y)
    for km in np.unique(grid_km[grid_km > 0]):
        here = known & (grid_km == km)
        x[here], y[here] = snap(x[here], y[here], float(km))
    is_moved = pa.array(grid_km > 0)
    for name, values in (("longitude", pa.array(x, mask=~known)), ("latitude", pa.array(y, mask=~known))):
        locations = locations.set_column(locations.column_names.index(name), name, values)
    if "geometry" in locations.column_names:
        at = locations.column_names.index("geometry")
        shape = if_else(is_moved, pa.scalar(None, pa.binary()), locations["geometry"])
        locations = locations.set_column(at, locations.schema.field("geometry"), shape)
    return locations, grid_km


def uncertainty_m(grid_km: float) -> int:
    """Maximum error in metres of a position on a grid: half the diagonal of a cell."""
    return math.ceil(grid_km * 1000 * math.sqrt(0.5))


def _recorded(merged: MergeResult) -> Iterator[tuple[str, str]]:
    """Location and label of everything that anyone recorded: events, sequences, images, boxes, and the
    source."""
    for pairs in _pairs(merged):
        texts = pa.table({"location": pairs["location"], "label": pairs["label"].cast(pa.string())})
        distinct = texts.group_by(["location", "label"]).aggregate([]).to_pylist()
        yield from (
            (row["location"], row["label"])
            for row in distinct
            if row["label"] and row["location"] is not None
        )


def _pairs(merged: MergeResult) -> Iterator[pa.Table]:
    yield merged.table("events").to_table(columns=["location", "label"])
    frames = merged.table("frames").to_table(columns=["image_id", "location", "label"])
    yield frames
    predicted = merged.table("predictions").to_table(columns=["label"])
    yield pa.table({"location": frames["location"], "label": predicted["label"]})
    run = merged.run
    inputs = run.snapshot("predictions", merged.snapshot.inputs["predictions"]).inputs
    for name in ("crops", "detections"):
        if (number := inputs.get(name)) is None:
            continue
        table = run.table(name, number)
        if "label" not in table.schema.names:  # only boxes
            continue
        boxes = table.to_table(columns=["image_id", "label"])
        row = pc.index_in(boxes["image_id"], frames["image_id"].combine_chunks())
        yield pa.table({"location": frames["location"].take(row), "label": boxes["label"]})
    if run.current("catalog") is not None:
        for batch in run.table("catalog").to_batches(columns=["location", "labels"]):
            names = batch["labels"].flatten().field("name")
            of = pc.list_parent_indices(batch["labels"])
            yield pa.table({"location": batch["location"].take(of), "label": names})


def _named_by_place(merged: MergeResult, locations: pa.Table, is_hidden: Bools) -> list[str]:
    """Hidden locations whose own name, or whose first file's name, says where they are."""
    hidden = locations.filter(pa.array(is_hidden)).select(["location", "longitude", "latitude"])
    frames = merged.table("frames").to_table(
        columns=["location", "file_name"],
        filter=pc.field("location").isin(hidden["location"].combine_chunks()),
    )
    files = frames.group_by("location").aggregate([("file_name", "min")])
    first = dict(zip(files["location"].to_pylist(), files["file_name_min"].to_pylist(), strict=True))
    found = []
    for row in hidden.to_pylist():
        text = f"{row['location']} {first.get(row['location'], '')}".replace(",", ".")
        degrees = [row["longitude"], row["latitude"]]
        if None not in degrees and all(_to_100_m(abs(degree)) in text for degree in degrees):
            found.append(row["location"])
    return found


def _to_100_m(degrees: float) -> str:
    """The first three decimals of degrees, with which their text begins however it is written."""
    return f"{math.floor(degrees * 1000 + 1e-6) / 1000:.3f}"


def _near(locations: pa.Table, is_there: Bools) -> Bools:
    """Which locations are within `NEAR_M` of a marked one."""
    x, y = (np.radians(locations[name].to_numpy()) for name in ("longitude", "latitude"))
    points = _EARTH_M * np.column_stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)])
    known = np.isfinite(points).all(axis=1)
    near = np.zeros(len(points), bool)
    if (known & is_there).any():
        distance, _ = scipy().spatial.cKDTree(points[known & is_there]).query(points[known])
        near[known] = distance <= NEAR_M
    return near
