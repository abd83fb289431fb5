"""Two results of `merge` -> what is different between them. Arrow tables in, rows of numbers out.

An image has the label of its sequence. Events in both results are the same if they share the label and an
image: the first and last image, and so the id, may differ. An event is lost if no event of the other result
has one of its images under its label, and gained the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.vocabulary import UNCERTAIN

NOT_CLASSIFIED = "not classified"
"""Stands for the label of an image in which nothing could be classified."""

NOT_THERE = "not there"
"""Stands for the label of an image that one of the two results does not have."""


@dataclass(frozen=True)
class Side:
    """One of the two results.

    Attributes
    ----------
    name : name for people
    frames, events, locations : as in store.schemas
    classes : labels of its model
    groups : label in lower case -> names of the groups above it, in lower case
    """

    name: str
    frames: pa.Table
    events: pa.Table
    locations: pa.Table
    classes: Sequence[str] = ()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)


class Flow(NamedTuple):
    """Images whose label was `before` and is `after`."""

    before: str
    after: str
    images: int


class LabelChange(NamedTuple):
    """A label in numbers. `split` events became several, `joined` ones were several before."""

    label: str
    images_before: int
    images_after: int
    images_kept: int
    events_before: int
    events_after: int
    lost: int
    gained: int
    split: int
    joined: int


class CameraChange(NamedTuple):
    """A camera's species before and after; None if the camera was not there."""

    location: str
    top_before: str | None
    top_after: str | None
    richness_before: int | None
    richness_after: int | None
    events_before: int | None
    events_after: int | None

    @property
    def is_changed(self) -> bool:
        """Whether its top species or richness differs, or it was not there."""
        return (self.top_before, self.richness_before) != (self.top_after, self.richness_after)


class EventChange(NamedTuple):
    """An event that is lost or gained."""

    change: str
    event_id: str
    location: str
    label: str
    start: object
    end: object
    n_images: int
    animals: int
    confidence: float


class Accuracy(NamedTuple):
    """Labels against annotations, as numbers of images.

    `right` is the annotated class, `group` a group that it belongs to, `uncertain` includes not classified.
    """

    of: str
    images: int
    right_before: int
    right_after: int
    group_before: int
    group_after: int
    uncertain_before: int
    uncertain_after: int

    def share(self, n: int) -> float:
        """Share of the images."""
        return n / self.images


class ChangedImage(NamedTuple):
    """An image whose label was `before` and is `after`."""

    image_id: str
    before: str
    after: str


@dataclass(frozen=True)
class Diff:
    """What is different.

    Attributes
    ----------
    before, after : names of the sides
    n_images, n_changed : number of images in either, and of those with another label
    flow : every pair of labels, including equal ones; those with the most images first
    labels : every label; those with the most changed images first
    cameras : those that changed
    n_cameras : number of cameras in either
    events : gained and lost, by location and start
    accuracy : for all annotated images, then for those that neither model was trained on; empty without truth
    by_class : the same for each annotated class, for the last of these
    n_unknown : number of annotated images of classes that neither model has; they are not in `accuracy`
    truth_note : what to know about the truth
    examples : some images with another label, those of the most frequent changes first
    causes : what made the two differ, for people
    """

    before: str
    after: str
    n_images: int
    n_changed: int
    flow: list[Flow]
    labels: list[LabelChange]
    cameras: list[CameraChange]
    n_cameras: int
    events: list[EventChange]
    accuracy: list[Accuracy]
    by_class: list[Accuracy]
    n_unknown: int
    truth_note: str
    examples: list[ChangedImage] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Events that are lost."""
        return sum(row.lost for row in self.labels)

    @property
    def gained(self) -> int:
        """Events that are gained."""
        return sum(row.gained for row in self.labels)


def compare(before: Side, after: Side, truth: pa.Table | None = None, truth_note: str = "") -> Diff:
    """Compare two results.

    Parameters
    ----------
    truth
        image_id, label, and is_trained_on: whether the model of either side learnt from it; null: unknown.
        Each image at most once. None: nothing is annotated.
    truth_note
        Note for people.
    """
    both = _side_by_side(before.frames, after.frames)
    pairs = both.groupby(["before", "after"], as_index=False, observed=True).size()
    flow = [Flow(str(one), str(other), int(n)) for one, other, n in pairs.itertuples(index=False)]
    matches = _matches(both)
    lost = _unmatched(before.events, matches["event_before"])
    gained = _unmatched(after.events, matches["event_after"])
    accuracy, by_class, n_unknown = _accuracy(both, before, after, truth)
    cameras = _cameras(before.locations, after.locations)
    return Diff(
        before=before.name,
        after=after.name,
        n_images=len(both),
        n_changed=sum(row.images for row in flow if row.before != row.after),
        flow=sorted(flow, key=lambda row: (-row.images, row.before, row.after)),
        labels=_labels(flow, before.events, after.events, lost, gained, matches),
        cameras=[row for row in cameras if row.is_changed],
        n_cameras=len(cameras),
        events=sorted(
            [*_events("lost", lost), *_events("gained", gained)],
            key=lambda row: (row.location, str(row.start), row.label, row.change),
        ),
        accuracy=accuracy,
        by_class=by_class,
        n_unknown=n_unknown,
        truth_note=truth_note,
        examples=_examples(both, flow),
    )


def _examples(both: pd.DataFrame, flow: list[Flow]) -> list[ChangedImage]:
    """Some images for each of the most frequent changes, without those that one result does not have."""
    found = []
    changes = [row for row in flow if row.before != row.after and NOT_THERE not in (row.before, row.after)]
    for row in sorted(changes, key=lambda row: (-row.images, row.before, row.after))[:_MOST_CHANGES]:
        of_it = both[(both["before"] == row.before) & (both["after"] == row.after)]
        # One per event, so that they are not frames of one burst.
        several = of_it.drop_duplicates("event_after") if of_it["event_after"].notna().any() else of_it
        some = several["image_id"].head(_MOST_OF_A_CHANGE)
        found += [ChangedImage(str(image_id), row.before, row.after) for image_id in some]
    return found


_MOST_CHANGES, _MOST_OF_A_CHANGE = 8, 3


def _side_by_side(before: pa.Table, after: pa.Table) -> pd.DataFrame:
    """image_id, label and event of each image of either result."""
    sides = []
    for name, frames in (("before", before), ("after", after)):
        label = frames["label"].cast(pa.string()).fill_null(NOT_CLASSIFIED)
        columns = {"image_id": frames["image_id"], name: label, f"event_{name}": frames["event_id"]}
        sides.append(pa.table(columns))
    one, other = sides
    if one["image_id"].equals(other["image_id"]):
        both = pa.table({name: side[name] for side in sides for name in side.column_names})
    else:
        both = one.join(other, "image_id", join_type="full outer").sort_by("image_id")
    frame: pd.DataFrame = both.to_pandas()
    for name in ("before", "after"):
        frame[name] = frame[name].fillna(NOT_THERE)
    return frame


def _matches(both: pd.DataFrame) -> pd.DataFrame:
    """Pairs of events with their label and an image in common."""
    same = both[
        both["event_before"].notna() & both["event_after"].notna() & (both["before"] == both["after"])
    ]
    return same[["before", "event_before", "event_after"]].drop_duplicates()


def _unmatched(events: pa.Table, matched: pd.Series) -> pa.Table:
    known = pa.array(matched, pa.string(), from_pandas=True)
    return events.filter(pc.invert(pc.is_in(events["event_id"], known)))


def _events(change: str, events: pa.Table) -> list[EventChange]:
    columns = ["event_id", "location", "label", "start", "end", "n_images", "count", "confidence"]
    return [EventChange(change, *row.values()) for row in events.select(columns).to_pylist()]


def _labels(
    flow: list[Flow],
    before: pa.Table,
    after: pa.Table,
    lost: pa.Table,
    gained: pa.Table,
    matches: pd.DataFrame,
) -> list[LabelChange]:
    images = [{name: 0 for row in flow for name in row[:2]} for _ in range(3)]
    for row in flow:
        images[0][row.before] += row.images
        images[1][row.after] += row.images
        images[2][row.before] += row.images if row.before == row.after else 0
    events = [_by_label(table) for table in (before, after, lost, gained)]
    split, joined = (_several(matches, name) for name in ("event_before", "event_after"))
    rows = [
        LabelChange(
            name,
            *(counts[name] for counts in images),
            *(counts.get(name, 0) for counts in (*events, split, joined)),
        )
        for name in images[0]
        if name != NOT_THERE
    ]
    return sorted(rows, key=lambda row: (-(row[1] + row[2] - 2 * row.images_kept), -row[1], row.label))


def _several(matches: pd.DataFrame, name: str) -> dict[str, int]:
    """By label, events of one result that match several of the other."""
    times = matches.groupby(["before", name], as_index=False).size()
    counted = times[times["size"] > 1]["before"].value_counts()
    return {str(label): int(n) for label, n in counted.items()}


def _by_label(events: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(events["label"])
    return {str(entry["values"]): int(entry["counts"]) for entry in counted.to_pylist()}


def _cameras(before: pa.Table, after: pa.Table) -> list[CameraChange]:
    columns = ["location", "top_label", "richness", "n_events"]
    one, other = (
        {row["location"]: row for row in table.select(columns).to_pylist()} for table in (before, after)
    )
    nothing = dict.fromkeys(columns)
    return [
        CameraChange(
            name,
            *(side.get(name, nothing)[column] for column in columns[1:] for side in (one, other)),
        )
        for name in sorted({*one, *other})
    ]


def _accuracy(
    both: pd.DataFrame, before: Side, after: Side, truth: pa.Table | None
) -> tuple[list[Accuracy], list[Accuracy], int]:
    known = {label.casefold() for side in (before, after) for label in side.classes}
    if truth is None or not truth.num_rows or both.empty or not known:
        return [], [], 0
    at = pc.index_in(pa.array(both["image_id"], pa.string()), truth["image_id"].combine_chunks())
    judged = both.loc[at.is_valid().to_numpy(zero_copy_only=False), ["before", "after"]].reset_index(
        drop=True
    )
    annotated = truth.take(at.drop_null())
    judged["truth"] = annotated["label"].to_pandas()
    is_known = judged["truth"].str.casefold().isin(known)
    for name, side in (("before", before), ("after", after)):
        judged[f"outcome_{name}"] = _outcomes(judged, name, side)
    counted = judged[is_known]
    parts = [("annotated images", counted)]
    trained = annotated["is_trained_on"].to_pandas()
    if trained.notna().all():
        parts.append(("annotated images not trained on", counted[~trained[is_known].astype(bool)]))
    rows = [_count(of, part) for of, part in parts if len(part)]
    by_class = [_count(str(label), part) for label, part in parts[-1][1].groupby("truth", sort=True)]
    return rows, by_class, int((~is_known).sum())


def _outcomes(judged: pd.DataFrame, name: str, side: Side) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """right, group, uncertain or wrong: determined once for each pair of annotation and label."""
    number = judged.groupby(["truth", name], sort=False).ngroup().to_numpy()
    _, firsts = np.unique(number, return_index=True)
    kinds = []
    for row in judged[["truth", name]].iloc[firsts].itertuples(index=False):
        truth, label = (str(value).casefold() for value in row)
        if truth == label:
            kinds.append("right")
        elif label in (UNCERTAIN, NOT_CLASSIFIED, NOT_THERE):
            kinds.append("uncertain")
        else:
            kinds.append("group" if label in side.groups.get(truth, ()) else "wrong")
    return np.array(kinds, object)[number]


def _count(of: str, part: pd.DataFrame) -> Accuracy:
    return Accuracy(
        of,
        len(part),
        *(
            int((part[f"outcome_{side}"] == kind).sum())
            for kind in ("right", "group", "uncertain")
            for side in ("before", "after")
        ),
    )
