"""Labels that people gave elsewhere -> corrections of the images of a run."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.labels import label_key, without_author
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.errors import InputError
from camtrap_batch.images.sources.base import path_key
from camtrap_batch.review.given import Given, Names
from camtrap_batch.store.corrections import TRAITS, Correction, Scope, read_corrections, standing
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import PERSONS, is_word_for_empty

PERSON = "person"


@dataclass
class Matched:
    """The result of matching a file.

    Attributes
    ----------
    corrections : corrections to record
    unmatched : rows that name no image and no event of the run
    unchanged : rows that repeat what already stands, or that were read before
    unknown_labels : label that is no class or category of the data set, and was never given before -> rows
    at_odds : image -> who said something different about it before, and what
    """

    corrections: list[Correction] = field(default_factory=list)
    unmatched: list[Given] = field(default_factory=list)
    unchanged: int = 0
    unknown_labels: Counter[str] = field(default_factory=Counter)
    at_odds: dict[str, tuple[str, str]] = field(default_factory=dict)


class Images:
    """The images of a run, found by the names that people use for them."""

    def __init__(self, run: Run) -> None:
        self.rows = run.table("manifest").to_table(columns=["image_id", "file_name", "sha256"])
        self._ids = self.rows["image_id"].combine_chunks()
        self._names = self.rows["file_name"].combine_chunks()
        self._by_end: dict[str, list[int]] | None = None
        frames = run.current("frames")
        self._frames = (
            run.table("frames").to_table(columns=["image_id", "event_id", "seq_id"]) if frames else None
        )

    def find(self, wanted: Sequence[Names]) -> list[int | None]:
        """Row of each image, None if none has such a name.

        An id counts first, then the path below the image root, then a path that ends with, or is the end of,
        just one image's path.
        """
        found: list[int | None] = [None] * len(wanted)
        flat = [(at, name) for at, names in enumerate(wanted) for name in names]
        if not flat:
            return found
        names = pa.array([tidy_name(name) for _, name in flat], pa.string())
        for column in (self._ids, self._names):
            for (at, _), row in zip(flat, pc.index_in(names, column).to_pylist(), strict=True):
                if row is not None and found[at] is None:
                    found[at] = row
        for (at, _), name in zip(flat, names.to_pylist(), strict=True):
            if found[at] is None:
                found[at] = self._by_its_end(name)
        return found

    def of_event(self, name: str) -> tuple[Scope, list[int]]:
        """The images of an event or a sequence; none if there is no such event or sequence."""
        if self._frames is None:
            return "event", []
        scopes: tuple[tuple[Scope, str], ...] = (("event", "event_id"), ("sequence", "seq_id"))
        for scope, column in scopes:
            ids = self._frames["image_id"].filter(pc.equal(self._frames[column], name))
            if len(ids):
                return scope, pc.index_in(ids, self._ids).to_pylist()
        return "event", []

    def _by_its_end(self, name: str) -> int | None:
        if self._by_end is None:
            self._by_end = {}
            for row, path in enumerate(self._names.to_pylist()):
                self._by_end.setdefault(path_key(path.rpartition("/")[2]), []).append(row)
        wanted = path_key(name)
        alike = []
        for row in self._by_end.get(wanted.rpartition("/")[2], ()):
            path = path_key(self._names[row].as_py())
            if path == wanted or path.endswith(f"/{wanted}") or wanted.endswith(f"/{path}"):
                alike.append(row)
        return alike[0] if len(alike) == 1 else None


def match(
    run: Run,
    given: Iterable[Given],
    *,
    known_labels: Iterable[str],
    empty: str,
    who: str,
    when: dt.datetime,
    source: str,
) -> Matched:
    """Corrections from the rows of a file.

    Parameters
    ----------
    known_labels : classes and categories; a label that differs from one of these, from one that people gave
        before, or from one further up in the file only in case or blanks is taken for it
    empty : the label that means that there is no animal
    who, when : defaults for rows that do not say
    source : where it was said; rows of a source that were recorded before are not recorded again

    Raises
    ------
    InputError
        No row is about an image of this run.
    """
    rows = list(given)
    images = Images(run)
    before = read_corrections(run)
    read_before = _read_before(before, source)
    spelling = _spelling(known_labels, before)
    known = frozenset(spelling)
    found = images.find([names for row in rows for names in row.images])
    matched, at = Matched(), 0
    for row in rows:
        numbers: list[int] = [number for number in found[at : at + len(row.images)] if number is not None]
        at += len(row.images)
        scope: Scope = "box" if row.box is not None else "image" if row.event is None else "event"
        if not numbers and row.event is not None:
            scope, numbers = images.of_event(row.event)
        if not numbers:
            matched.unmatched.append(row)
            continue
        label = spell(row.label, spelling, empty)
        if label_key(label) not in known and label not in (empty, PERSON):
            spelling.setdefault(label_key(label), label)
            matched.unknown_labels[label] += 1
        picked = images.rows.take(pa.array(numbers))
        correction = Correction(
            label=label,
            images=tuple(picked["image_id"].to_pylist()),
            sha256=tuple(picked["sha256"].to_pylist()),
            who=row.who or who,
            when=row.when or when,
            source=source,
            scope=scope,
            event=row.event,
            box=row.box,
            **row.more,
        )
        if (label_key(label), *correction.images) in read_before:
            matched.unchanged += 1
        else:
            matched.corrections.append(correction)
    if rows and len(matched.unmatched) == len(rows):
        first = matched.unmatched[0]
        named = first.event if first.event is not None else " or ".join(first.images[0])
        raise InputError(
            f"{first.where}: none of the file's {len(rows):,} rows is about an image of this job "
            f"({run.folder.url}); the first names {named!r}"
        )
    return _without_what_stands(matched, before, images.rows)


def _read_before(before: pa.Table, source: str) -> set[tuple[str, ...]]:
    """What was recorded from this source: a label's key, and the images that have it."""
    recorded = zip(*(before[name].to_pylist() for name in ("label", "images", "source")), strict=True)
    return {(label_key(label or ""), *ids) for label, ids, its_source in recorded if its_source == source}


def _spelling(known_labels: Iterable[str], before: pa.Table) -> dict[str, str]:
    """Key of a label -> how it is written: as the data set has it, or as people first wrote it, so that
    another spelling does not become another species."""
    spelling = {label_key(label): label for label in known_labels}
    for label in before["label"].drop_null().unique().to_pylist():
        if not is_word_for_empty(label) and label_key(label) not in PERSONS:
            spelling.setdefault(label_key(label), label)
    return spelling


def _without_what_stands(matched: Matched, before: pa.Table, images: pa.Table) -> Matched:
    """Leave out decisions that repeat what is recorded; name those that the remaining ones replace."""
    rows = standing(before, images)
    stands: dict[tuple[str, Any], set[Any]] = {}
    decided: dict[tuple[str, Any], tuple[str, str]] = {}
    for row in rows.to_pylist():
        target = (images["image_id"][row["row"]].as_py(), tuple(row["box"]) if row["box"] else None)
        stands.setdefault(target, set()).add(_said(row))
        decided[target] = (row["decision"], row["who"])
    by_decision: dict[str, list[Correction]] = {}
    for correction in matched.corrections:
        by_decision.setdefault(correction.decision, []).append(correction)
    matched.corrections = []
    for corrections in by_decision.values():
        first = corrections[0]
        box = tuple(np.array(first.box, np.float32).tolist()) if first.box is not None else None
        says = {_said(correction.as_row()) for correction in corrections}
        if all(stands.get((image, box)) == says for image in first.images):
            matched.unchanged += len(corrections)
            continue
        for image in first.images:
            if (image, box) in decided and decided[image, box][1] != first.who:
                labels = sorted(said[0] for said in stands[image, box])
                matched.at_odds[image] = decided[image, box][1], ", ".join(labels)
        replaced = decided.get((first.images[0], box), (None, ""))[0]
        matched.corrections += [
            Correction(**{**correction.__dict__, "replaces": replaced}) for correction in corrections
        ]
    return matched


def _said(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["label"], *(row[name] for name in TRAITS))


def spell(given: str, spelling: dict[str, str], empty: str) -> str:
    """A label in its known spelling: `spelling` maps the result of `label_key` to how it is written."""
    key = label_key(given)
    if key in spelling:
        return spelling[key]
    if is_word_for_empty(given):
        return empty
    if key in PERSONS:  # the data set's own word for people, if it has one
        return next((spelling[word] for word in PERSONS if word in spelling), PERSON)
    return without_author(given)
