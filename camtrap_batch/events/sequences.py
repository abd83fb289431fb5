"""Images -> sequences: which frames belong together, and what their combined evidence says.

An animal walks into the picture and out again, so some frames of a sequence with an animal are rightly empty.
Hence the rule: frames whose most probable label is not empty, and that are sure of it, speak for the
sequence, about animals only; if there are none, all frames speak, about everything. The sequence's
probabilities are the mean of those of the frames that speak. Wildlife Insights labels in the same spirit: a
mix of blank images and animals is not blank (wildlifeinsights.org, "Identify images in sequence projects").

With a taxonomy, a frame is also sure if a group of its label is probable enough, and a sequence whose most
probable class is not sure gets the lowest group above it that is. Species that are not on the list of the
camera's region can't be the label, but they are evidence for the groups above them; SpeciesNet's ensemble
rolls up in the same spirit (github.com/google/cameratrapai).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import NO_TIME, elapsed, microseconds, timestamps
from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.events.codes import (
    UNKNOWN_LOCATION,
    Bools,
    encode_locations,
    flags,
    short_hash,
    starts_of_groups,
)
from camtrap_batch.events.evidence import Evidence, Found
from camtrap_batch.events.species import SpeciesLists
from camtrap_batch.events.taxonomy import Taxonomy
from camtrap_batch.store.schemas import SEQUENCES

MACHINE, HUMAN = "machine", "human"
"""Whose label it is: `label_source`."""

TRAITS = ("sex", "life_stage", "behaviour", "individual", "classified_by", "classified_at")
"""What is known besides a person's label and count: about the animal, and who said so, and when."""

TRAIT_TYPES = {name: SEQUENCES.field(name).type for name in TRAITS}

BURST_GAP_S = 60.0
"""Longest gap within a burst, seconds; as in Wildlife Insights and MegaDetector's `create_sequences`."""

FRAMES = pa.schema(
    [
        ("image_id", pa.string()),
        ("location", pa.string()),
        ("seq_id", pa.string()),
        ("datetime", pa.timestamp("us")),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("image_confidence", pa.float32()),
        ("rank", pa.string()),
        ("label_source", pa.string()),
        *TRAIT_TYPES.items(),
    ]
)
"""Images with the label, the confidence and the rank of their sequence.

`image_confidence` is the image's own probability of that label, or of the best guess if it is uncertain.
"""


def by_machine(n: int) -> dict[str, pa.Array]:
    """The columns for n rows about which nobody said anything."""
    return {
        "label_source": pa.repeat(MACHINE, n),
        **{name: pa.nulls(n, kind) for name, kind in TRAIT_TYPES.items()},
    }


def says_something(trait: pa.Array | pa.ChunkedArray) -> Bools:
    """Whether values of a trait say anything: "unknown" does not contradict other values."""
    said = pc.is_valid(trait)
    if pa.types.is_string(trait.type):
        said = pc.and_(said, pc.fill_null(pc.not_equal(trait, "unknown"), False))
    return np.asarray(one_chunk(said).to_numpy(zero_copy_only=False), np.bool_)


class Sequences(NamedTuple):
    """`sequences`: schemas.SEQUENCES, by location, start, seq_id. `frames`: FRAMES, in the order given."""

    sequences: pa.Table
    frames: pa.Table


def combine(
    frames: pa.Table,
    *,
    empty: str,
    min_confidence: float,
    classes: Sequence[str] | None = None,
    scores: Callable[[], Iterable[pa.RecordBatch]] | None = None,
    taxonomy: Taxonomy | None = None,
    species: SpeciesLists | None = None,
) -> Sequences:
    """Group images into sequences and give each one label.

    A sequence is a `seq_id` at one location: data sets use the same one at two. Images without a `seq_id` are
    grouped by time: a burst continues while each image of its location follows the one before within
    `BURST_GAP_S`. An image without a date as well, or without a known location, is a sequence of its own.

    Parameters
    ----------
    frames
        Usable images: image_id (unique), location, seq_id, datetime, and from the predictions label,
        confidence, top5 and, where there is one, probs. An image without a label could not be classified; it
        belongs to a sequence but has no say in it. Optional columns: `count` is passed on,
        `utc_offset_minutes` gives elapsed time if it is known for all of a location, and an image with
        `date_only` is in no burst.
    empty
        Label that means: no animal.
    min_confidence
        Minimum probability with which an image speaks for its sequence; a sequence below it is `UNCERTAIN`,
        or gets the label of a group.
    classes
        The model's classes, in the order of `probs`; default: those in label and top5.
    scores
        Yields top5 and probs batch by batch, in the order of `frames`, each time it is called; default: those
        in `frames`. `probs` are the calibrated probabilities of all classes; without them, classes outside an
        image's top5, or without that outside its label, count as probability 0.
    taxonomy, species
        Groups of classes; the classes that are possible at each location. Default: neither.

    Returns
    -------
    Sequences
        A sequence without any classified image has null for label, confidence and best image. Between equally
        probable labels the alphabetically first wins, between images the smallest image_id.

    Raises
    ------
    InputError
        None of the classes is in the taxonomy, or on a species list.
    """
    images = _group_images(frames)
    evidence = Evidence(
        frames,
        scores,
        classes=classes,
        empty=empty,
        min_confidence=min_confidence,
        taxonomy=taxonomy,
        species=species,
        locations=images.locations.to_pylist(),
    )
    found = evidence.judge(images.group, images.location[images.first])
    sequences = _rows_of_sequences(images, found)
    labelled = _rows_of_frames(images, found, frames, one_chunk(sequences["confidence"]))
    first = images.first
    order = np.lexsort((encode(images.seq_id)[0], images.moment[first], images.location[first]))
    return Sequences(sequences.take(pa.array(order)), labelled)


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Images and the sequences that they form.

    Attributes
    ----------
    location, time, moment : of each image: index in `locations`, what its clock showed, elapsed time
    rank : each image's index in `image_ids`, which are sorted
    group : number of each image's sequence
    begins : of each sequence: where it begins if images are sorted by sequence
    first, last : of each sequence: its first image, and its last one with a date
    seq_id : of each sequence
    """

    locations: pa.Array
    location: Ints
    time: Ints
    moment: Ints
    image_ids: pa.Array
    rank: Ints
    group: Ints
    begins: Ints
    first: Ints
    last: Ints
    seq_id: pa.Array


def _group_images(frames: pa.Table) -> _Grouped:
    location, locations = encode_locations(frames["location"])
    time = microseconds(frames["datetime"])
    name, names = encode(frames["seq_id"])
    moment = elapsed(frames, time, location)
    group = _group(location, locations, name, moment, flags(frames, "date_only"))
    rank, image_ids = encode(frames["image_id"])
    order = np.lexsort((rank, moment, group))
    begins = np.flatnonzero(starts_of_groups(group[order]))
    first = order[begins]
    # Undated images come last in their sequence.
    dated = np.where(time[order] == NO_TIME, -1, np.arange(len(order)))
    last = order[np.maximum(np.maximum.reduceat(dated, begins), 0)] if len(first) else first
    seq_id = pc.coalesce(
        names.take(pa.array(name[first], mask=name[first] < 0)),
        _made_names(locations.to_pylist(), location[first], image_ids, rank[first], name[first] < 0),
    )
    return _Grouped(locations, location, time, moment, image_ids, rank, group, begins, first, last, seq_id)


def _rows_of_sequences(images: _Grouped, found: Found) -> pa.Table:
    first, begins = images.first, images.begins
    best_image = np.lexsort((images.rank, -found.own, images.group))[begins]  # NaN sorts last
    start = images.time[first]
    end = np.where(start == NO_TIME, NO_TIME, images.time[images.last])
    is_known = found.label.is_valid().to_numpy(zero_copy_only=False)
    return pa.table(
        {
            "seq_id": images.seq_id,
            "location": images.locations.take(pa.array(images.location[first])),
            "label": found.label,
            "confidence": pa.array(found.confidence, pa.float32(), mask=~is_known),
            "n_images": pa.array(np.diff(begins, append=len(images.group)), pa.int32()),
            "start": timestamps(start),
            "end": timestamps(end),
            "best_image_id": images.image_ids.take(pa.array(images.rank[best_image], mask=~is_known)),
            "rank": found.rank,
            "set_aside": found.set_aside,
            "reason": found.reason,
            **by_machine(len(first)),
            "machine_label": pa.nulls(len(first), pa.string()),
            "machine_confidence": pa.nulls(len(first), pa.float32()),
        },
        schema=SEQUENCES,
    )


def _rows_of_frames(images: _Grouped, found: Found, frames: pa.Table, confidence: pa.Array) -> pa.Table:
    """`FRAMES`, and what is passed on of `frames`; `confidence` is that of the sequences."""
    of = pa.array(images.group)
    labelled = pa.table(
        {
            "image_id": frames["image_id"],
            "location": images.locations.take(pa.array(images.location)),
            "seq_id": images.seq_id.take(of),
            "datetime": timestamps(images.time),
            "label": found.label.take(of),
            "confidence": confidence.take(of),
            "image_confidence": pa.array(found.own, pa.float32(), mask=np.isnan(found.own)),
            "rank": found.rank.take(of),
            **by_machine(len(images.group)),
        },
        schema=FRAMES,
    )
    for passed_on in ("count", "utc_offset_minutes", "date_only"):
        if passed_on in frames.column_names:
            labelled = labelled.append_column(passed_on, frames[passed_on])
    return labelled


def _group(location: Ints, locations: pa.Array, name: Ints, time: Ints, date_only: Bools) -> Ints:
    """Number of each image's sequence, from 0 without gaps."""
    group = np.empty(len(name), np.int64)
    is_named = name >= 0
    key = location[is_named] * (name.max(initial=0) + 1) + name[is_named]
    distinct, group[is_named] = np.unique(key, return_inverse=True)
    rest = np.flatnonzero(~is_named)
    rest = rest[np.lexsort((time[rest], location[rest]))]
    where, when = location[rest], time[rest]
    is_elsewhere = pc.equal(locations, UNKNOWN_LOCATION).to_numpy(zero_copy_only=False)
    begins = starts_of_groups(where) | (when == NO_TIME) | is_elsewhere[where] | date_only[rest]
    begins[1:] |= np.diff(when) > round(BURST_GAP_S * 1e6)
    group[rest] = len(distinct) + np.cumsum(begins) - 1
    return group


def _made_names(
    locations: list[str], location: Ints, image_ids: pa.Array, image: Ints, is_nameless: Bools
) -> pa.Array:
    """Names for sequences that the source does not name, from location and first image; otherwise null."""
    made = np.full(len(location), None, object)
    ids = image_ids.take(pa.array(image[is_nameless])).to_pylist()
    made[is_nameless] = [
        f"burst-{short_hash(locations[where], id_)}"
        for where, id_ in zip(location[is_nameless].tolist(), ids, strict=True)
    ]
    return pa.array(made, pa.string())
