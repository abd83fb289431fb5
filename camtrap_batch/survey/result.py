"""What a survey is made from: deployments and events of one result of `merge`, and which of them count."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError, choices
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.survey.effort import Counting, make_deployments
from camtrap_batch.vocabulary import PEOPLE, UNCERTAIN, USABLE

_IMAGES = ["location", "deployment", "status", "datetime", "utc_offset_minutes"]


@dataclass(frozen=True)
class Counted:
    """Which events count as records of a species. Uncertain ones never do.

    Attributes
    ----------
    min_confidence : an event with less does not count
    groups : whether groups of species (events.taxonomy) also count
    people : whether people and vehicles also count
    labels : human or machine: only events with labels from these
    species : only events with these labels count; empty: all
    """

    min_confidence: float = 0.0
    groups: bool = False
    people: bool = False
    labels: Literal["all", "human", "machine"] = "all"
    species: tuple[str, ...] = ()

    def of(self, events: pa.Table) -> pa.Table:
        """The rows of the table `events` that count.

        Raises
        ------
        InputError
            A name in `species` is the label of no event; or people's labels are requested but the result does
            not say where its labels come from.
        """
        known = events["label"].unique().to_pylist()
        for name in self.species:
            if name not in known:
                raise InputError(f"--species: no event has the label {name!r}; {choices(name, known)}")
        keep = pc.and_(
            pc.not_equal(events["label"], UNCERTAIN),
            pc.greater_equal(events["confidence"].fill_null(1), pa.scalar(self.min_confidence, pa.float32())),
        )
        if not self.groups:
            keep = pc.and_(keep, pc.is_null(events["rank"]))
        if not self.people:
            is_people = pc.is_in(pc.utf8_lower(events["label"]), pa.array(PEOPLE))
            keep = pc.and_(keep, pc.invert(is_people))
        if self.labels != "all":
            if "label_source" in events.column_names:
                keep = pc.and_(keep, pc.fill_null(pc.equal(events["label_source"], self.labels), False))
            elif self.labels == "human":
                raise InputError("--labels human: this result has no labels of people; run merge first")
        if self.species:
            keep = pc.and_(keep, pc.is_in(events["label"], pa.array(self.species)))
        return events.filter(keep)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_deployments(merged: MergeResult) -> pa.Table:
    """The table `deployments` of a result; for a result of an older version, derived from its images."""
    if "deployments" in merged.snapshot.inputs:
        table = merged.table("deployments").to_table()
        if table.num_rows:
            return table
    images = merged.table("manifest").to_table(columns=_IMAGES)
    usable = images.filter(pc.is_in(images["status"].cast(pa.string()), pa.array(USABLE)))
    return make_deployments(usable)[0]


def counting_of(merged: MergeResult) -> Counting:
    """How cameras at one location were counted when the result was made."""
    counting: Counting = merged.snapshot.meta.get("effort", "station")
    return counting
