"""A complete data package: what came in comes back out, with our observations beside those of the package.

Every row of the package's deployments, media and observations is written unchanged, cell by cell, as is every
member of its description; observations that an earlier export of ours had added are replaced by the present
ones.
"""

from __future__ import annotations

import copy
import datetime as dt
import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.camtrap_dp import locations_of, opened_package
from camtrap_batch.catalog.datapackage import DataPackage
from camtrap_batch.codes import Ints, if_else
from camtrap_batch.errors import InputError
from camtrap_batch.events.codes import Bools
from camtrap_batch.exports import camtrap_dp as ours
from camtrap_batch.exports.images import Images
from camtrap_batch.exports.written import Written
from camtrap_batch.survey.grid import snap
from camtrap_batch.survey.places import uncertainty_m
from camtrap_batch.vocabulary import NO_MODEL, USABLE

_OURS = r"^(media|box:\d+|event):"
"""Prefix of the ids of observations that we add; their `classifiedBy` is a model id."""
_MODEL = r"^[0-9a-f]{16}$"


def write_whole(images: Images, path: Path, left_out: Path, source: str, rules: ours.Rules) -> Written:
    """Write the package into the new folder `path`, and to `left_out` a list of what is not in it.

    Parameters
    ----------
    source : the data set's own package, as named by `dataset.metadata`

    Raises
    ------
    InputError
        The package has changed since the catalog was read from it.
    """
    written = Written(path, listed=left_out)
    notes: Counter[str] = Counter()
    path.mkdir()
    with opened_package(source, notes) as package, ExitStack() as opened:
        tables = {name: package.table(name, (), columns).data for name, columns in ours.TABLES.items()}
        for name, columns in ours.TABLES.items():
            if others := [column for column in package.header(name) if column not in columns]:
                text = f"columns of {name} that Camtrap DP does not have, left out: {', '.join(others)}"
                written.notes[text] = len(others)
        writers = {
            name: opened.enter_context(ours.CsvWriter(path / f"{name}.csv", columns, as_text=True))
            for name, columns in ours.TABLES.items()
        }
        unlisted = opened.enter_context(ours.CsvWriter(left_out, ours.LEFT_OUT))
        people = _with_people(images, tables) if rules.without_people else pa.array([], pa.string())
        tables, moved = _hide_places(images, tables)
        media = _without(tables["media"], "mediaID", people)
        observations = _of_source(tables["observations"], people, rules, written)
        deployments = ours.rounded(tables["deployments"], rules.decimals)
        writers["deployments"].write(deployments)
        writers["media"].write(media)
        writers["observations"].write(observations)
        known = observations["observationID"].combine_chunks()
        taxa = _add_ours(images, tables, people, known, writers["observations"], unlisted, written)
        files = [] if moved else _copy_others(package, path)
        descriptor = _descriptor(images, package.descriptor, taxa, files, rules)
        if moved:
            n_others = len(_others(package))
            written.notes["other tables of the package left out, as they may reveal positions"] = n_others
            descriptor["spatial"] = ours.spatial(deployments)
    ours.write_descriptor(path, descriptor)
    written.notes["deployments of the package, as they were"] = deployments.num_rows
    written.notes["media of the package, as they were"] = media.num_rows
    written.notes["observations of the package, as they were"] = observations.num_rows
    return written


def _hide_places(images: Images, tables: dict[str, pa.Table]) -> tuple[dict[str, pa.Table], bool]:
    """The tables with the positions that may leave (`survey.places`), and whether any has changed."""
    if (sensitive := images.sensitive) is None:
        return tables, False
    deployments, media, observations = (tables[name] for name in ours.TABLES)
    location = locations_of(deployments)
    names = observations["scientificName"].drop_null().unique().to_pylist()
    covered = [name for name in names if sensitive.covers(name)]
    seen = observations.filter(pc.is_in(observations["scientificName"], pa.array(covered, pa.string())))
    also = location.filter(pc.is_in(deployments["deploymentID"], seen["deploymentID"].combine_chunks()))
    moved = images.show(also.unique().to_pylist()).moved
    is_moved = pc.is_in(location, pa.array(sorted(moved), pa.string()))
    if not pc.any(is_moved).as_py():
        return tables, False
    mask = is_moved.to_numpy()
    x, y, off = (
        pc.cast(deployments[name], pa.float64()).to_numpy(zero_copy_only=False).copy()
        for name in ("longitude", "latitude", "coordinateUncertainty")
    )
    x[mask], y[mask] = snap(x[mask], y[mask], sensitive.grid_km)
    off[mask] = np.fmax(off[mask], uncertainty_m(sensitive.grid_km))
    for name, values, decimals in (
        ("longitude", x, 6),
        ("latitude", y, 6),
        ("coordinateUncertainty", off, 0),
    ):
        texts = [None if np.isnan(value) else f"{value:.{decimals}f}" for value in values.tolist()]
        column = pc.if_else(is_moved, pa.array(texts, pa.string()), deployments[name])
        deployments = deployments.set_column(deployments.column_names.index(name), name, column)
    of_moved = pc.is_in(media["deploymentID"], deployments["deploymentID"].filter(is_moved).combine_chunks())
    exif = if_else(of_moved, pa.scalar(None, pa.string()), media["exifData"])  # may hold a position
    media = media.set_column(media.column_names.index("exifData"), "exifData", exif)
    return {"deployments": deployments, "media": media, "observations": observations}, True


def _add_ours(
    images: Images,
    tables: dict[str, pa.Table],
    people: pa.Array,
    known: pa.Array,
    observations: ours.CsvWriter,
    unlisted: ours.CsvWriter,
    written: Written,
) -> set[str]:
    """Write what the model and people say about media and events; returns the names in it.

    Parameters
    ----------
    known : ids of observations that are already written: what people said in an earlier run stays
    """
    ids = tables["media"]["mediaID"].combine_chunks()
    deployments = _Deployments(tables["deployments"]["deploymentID"])
    events = ours.EventTimes(images.events.num_rows)
    by_people = ours.People(images)
    taxa: set[str] = set()
    # Without a model and boxes, what a machine says is the package's own.
    is_new = images.has_boxes or not (images.is_by_metadata or images.model_id == NO_MODEL)
    for block in images.blocks(list(ours.FROM_MANIFEST), boxes=images.has_boxes):
        is_known = pc.is_in(block.rows["image_id"], ids)
        if not pc.all(is_known).as_py():
            name = block.rows["image_id"].filter(pc.invert(is_known))[0].as_py()
            raise InputError(
                f"{images.run.job.dataset.metadata}: no medium {name!r}, which the catalog has from it: the "
                "package has changed since; run catalog again"
            )
        shows_people = np.asarray(pc.is_in(block.rows["image_id"], people).to_numpy(), bool)
        ours.list_left_out(unlisted, block, shows_people, ours.SHOWS_PEOPLE, written)
        written.images += int((~shows_people).sum())
        # A medium that is not a picture, or has no date, is in the package, and nothing is said about it.
        status = pc.is_in(block.rows["status"], pa.array(USABLE))
        is_in = np.asarray(pc.and_(status, pc.is_valid(block.rows["datetime"])).to_numpy(), bool)
        is_in &= ~shows_people
        said = by_people.of(is_in)
        if not is_in.any():
            continue
        rows = block.rows.filter(pa.array(is_in))
        number = deployments.add(rows)
        seen = ours.seen(images, block, np.flatnonzero(is_in))
        # What people say in the package is already in it.
        seen = seen.filter(pc.invert(seen["is_human"]))
        if not is_new:
            seen = seen.slice(0, 0)
        events.observed(seen, said, number, rows)
        table = ours.of_media(images, rows, deployments.ids(number), seen)
        told = ours.of_people(images, rows, deployments.ids(number), *said)
        told = told.filter(pc.invert(pc.is_in(told["observationID"], known)))
        for made in (table, told):
            taxa.update(made["scientificName"].drop_null().unique().to_pylist())
            observations.write(made)
        written.notes["observations added, of media"] += table.num_rows
        written.notes[ours.BY_PEOPLE] += told.num_rows
    is_ours = ~_of_package(images.events, with_machine=not is_new)
    return taxa | ours.write_events(
        images, events, deployments, observations, unlisted, written, known, is_ours=is_ours
    )


def _of_package(events: pa.Table, *, with_machine: bool) -> Bools:
    """Whether events are what people say in the package: nobody gave their labels here.

    `with_machine`: those of a machine are the package's, too.
    """
    if "classified_at" not in events.column_names:
        return np.full(events.num_rows, with_machine)
    is_human = pc.fill_null(pc.equal(events["label_source"], "human"), False)
    is_told = pc.or_(is_human, pa.scalar(with_machine))
    return np.asarray(pc.and_(is_told, pc.is_null(events["classified_at"])).to_numpy(), bool)


class _Deployments:
    """The package's own deployments, by number."""

    def __init__(self, ids: pa.ChunkedArray) -> None:
        self._ids = ids.combine_chunks()

    def add(self, rows: pa.Table) -> Ints:
        """The number of each row's deployment."""
        found = pc.index_in(rows["deployment"].cast(pa.string()), self._ids).combine_chunks()
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def ids(self, number: Ints) -> pa.Array:
        return self._ids.take(pa.array(number, mask=number < 0))


def _of_source(table: pa.Table, people: pa.Array, rules: ours.Rules, written: Written) -> pa.Table:
    """The package's observations, without those that an earlier export of ours added."""
    is_ours = pc.and_(
        pc.fill_null(pc.match_substring_regex(table["observationID"], _OURS), False),
        pc.fill_null(pc.match_substring_regex(table["classifiedBy"], _MODEL), False),
    )
    # What could not be classified has no model's id, and its own form.
    is_unclassified = pc.and_(
        pc.fill_null(pc.match_substring_regex(table["observationID"], _OURS), False),
        pc.fill_null(pc.equal(table["observationType"], "unclassified"), False),
    )
    is_ours = pc.or_(is_ours, is_unclassified)
    written.notes["observations of an earlier export, which today's replace"] = pc.sum(is_ours).as_py() or 0
    table = table.filter(pc.invert(is_ours))
    if rules.without_people:
        table = _without(table.filter(pc.invert(_is_people(table))), "mediaID", people)
    return table


def _with_people(images: Images, tables: dict[str, pa.Table]) -> pa.Array:
    """Ids of media that show people or their vehicles, as the package's observations or the model say."""
    observations = tables["observations"]
    is_people = _is_people(observations)
    found = set(observations.filter(is_people)["mediaID"].drop_null().to_pylist())
    # An observation of an event is of all its media.
    events = observations.filter(is_people)["eventID"].drop_null()
    of_events = pc.is_in(observations["eventID"], events.combine_chunks())
    found |= set(observations.filter(of_events)["mediaID"].drop_null().to_pylist()) if len(events) else set()
    for block in images.blocks(["image_id"], boxes=images.has_boxes):
        found |= set(block.rows["image_id"].filter(pa.array(ours.shows_people(images, block))).to_pylist())
    return pa.array(sorted(found), pa.string())


def _is_people(observations: pa.Table) -> pa.ChunkedArray:
    """Whether each is of people or their vehicles."""
    kinds = pa.array(["human", "vehicle"])
    return pc.fill_null(pc.is_in(observations["observationType"].cast(pa.string()), kinds), False)


def _without(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    if not len(values):
        return table
    return table.filter(pc.invert(pc.is_in(table[column], values)))


def _others(package: DataPackage) -> list[dict[str, Any]]:
    resources = package.descriptor.get("resources", [])
    made = {*ours.TABLES, *(f"{name}{ours.IN_PARQUET}" for name in ours.TABLES)}
    return [one for one in resources if isinstance(one, dict) and one.get("name") not in made]


def _copy_others(package: DataPackage, path: Path) -> list[dict[str, Any]]:
    """Tables and files of the package that do not belong to Camtrap DP; they are copied to the same place."""
    found = []
    for resource in _others(package):
        found.append(resource)
        paths = resource.get("path", [])
        for name in [paths] if isinstance(paths, str) else paths:
            if "://" in name:
                continue
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with package.opened(name, None, "datapackage.json") as file:
                target.write_bytes(file.read())
    return found


def _descriptor(
    images: Images,
    source: dict[str, Any],
    taxa: set[str],
    others: list[dict[str, Any]],
    rules: ours.Rules,
) -> dict[str, Any]:
    """The package's description, with what was added."""
    found = copy.deepcopy(source)
    found["resources"] = [*ours.resources(), *others]
    found["profile"] = ours.PROFILE
    found.pop("$schema", None)
    found["created"] = ours.utc(dt.datetime.now(dt.UTC).isoformat())
    sources = found.get("sources") or []
    found["sources"] = [one for one in sources if one.get("title") != ours.TOOL] + [ours.source()]
    project = found.get("project")
    if isinstance(project, dict):
        levels = project.get("observationLevel") or []
        levels = [levels] if isinstance(levels, str) else levels
        project["observationLevel"] = list(dict.fromkeys([*levels, "media", "event"]))
    known = {str(one.get("scientificName", "")).casefold() for one in found.get("taxonomic") or []}
    added = [one for one in ours.taxonomic(images, taxa) if one["scientificName"].casefold() not in known]
    found["taxonomic"] = [*(found.get("taxonomic") or []), *added]
    if "name" in found:
        found["name"] = re.sub(r"[^a-z0-9._/-]", "-", str(found["name"]).lower())
    return ours.described(found, rules)
