"""What people say takes precedence over what the machine says.

A label that a person gave an image holds for that image and its sequence: if people looked at some frames of
a sequence and saw animals, the sequence has their labels; if they looked at every frame and all are empty, it
is empty; if they found only some frames empty, the machine's label of the others stays. A sequence in which
people saw several species has a row for each.

If only people's labels count, each image keeps what was said about itself: beside an animal an empty image
stays empty, and one that nobody labelled has no label. So events are those of the labelled images, as in
camtrapR's `recordTable`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import encode, if_else, one_chunk
from camtrap_batch.events.sequences import HUMAN, TRAIT_TYPES, TRAITS, Sequences, says_something
from camtrap_batch.store.schemas import SEQUENCES

_SURE = 1.0

Rows = npt.NDArray[np.int64]


def overrule(
    found: Sequences, said: pa.Table | None, *, empty: str, alone: bool = False
) -> tuple[Sequences, pa.Table]:
    """Replace what the machine says by what people said.

    Parameters
    ----------
    found
        The result of `combine`.
    said
        row (of `found.frames`), label, count, and whatever is known of `TRAITS`: one row for each image and
        label, for what counts now. None: nothing.
    empty
        Label that means: no animal.
    alone
        Only people's labels count: `found` has none, and each image keeps its own.

    Returns
    -------
    sequences : like those of `combine`, with `label_source`; a sequence with several species has a row for
        each
    frames : those of `sequences`, followed by one row for each further species in an image, by image; for
        `find_events`
    """
    if alone:
        found = _unlabelled(found)
    if said is None:
        return found, found.frames
    said = _whole(said).sort_by([("row", "ascending"), ("label", "ascending")])
    frames = found.frames
    if "count" not in frames.column_names:
        frames = frames.append_column("count", pa.nulls(frames.num_rows, pa.int32()))
    row = said["row"].to_numpy()
    key = pc.binary_join_element_wise(frames["location"], frames["seq_id"], "\0")
    names = one_chunk(key).dictionary_encode()
    of = names.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    n_frames = np.bincount(of)
    looked_at = np.bincount(of[np.unique(row)], minlength=len(n_frames))
    is_animal = one_chunk(pc.not_equal(said["label"], empty)).to_numpy(zero_copy_only=False)
    has_animal = np.bincount(of[row[is_animal]], minlength=len(n_frames)) > 0
    # A sequence is empty only if all its frames were called so; beside an animal an empty frame is just that.
    counts = has_animal | (looked_at == n_frames)
    speaks = counts[of[row]] & (is_animal | ~has_animal[of[row]])
    if alone:
        shows_animal = np.bincount(row[is_animal], minlength=len(of)) > 0
        kept = is_animal | ~shows_animal[row]
    else:
        kept = speaks
    said, row, speaks = said.filter(pa.array(kept)), row[kept], speaks[kept]
    if not len(row):
        return found, found.frames
    per_frame = _first_of(row)
    source = np.full(len(of), -1, np.int64)
    told, sequence = said.filter(pa.array(speaks)), of[row[speaks]]
    per_sequence = _labels_of(sequence, one_chunk(told["label"]))
    if not alone:
        # A frame that nobody looked at gets its sequence's first label.
        first_label = np.full(len(n_frames), -1, np.int64)
        first_label[sequence[per_sequence[::-1]]] = np.flatnonzero(speaks)[per_sequence[::-1]]
        source = np.where(counts[of], first_label[of], -1)
    source[row[per_frame]] = per_frame
    is_looked_at = np.zeros(len(of), bool)
    is_looked_at[row] = True
    # Boxes show how many animals there are, not how many of each species.
    is_shared = np.bincount(row, minlength=len(of)) > 1
    labelled = _told(frames, said, source, is_looked_at, is_shared)
    more = np.setdiff1d(np.arange(len(row)), per_frame)
    every = np.ones(len(more), bool)
    extra = _told(frames.take(pa.array(row[more])), said, more, every, every)
    first_image = frames["image_id"].take(pa.array(row[speaks][per_sequence]))
    sequences = _sequences(found.sequences, names.dictionary, told, sequence, per_sequence, first_image)
    return Sequences(sequences, labelled), pa.concat_tables([labelled, extra])


def _unlabelled(found: Sequences) -> Sequences:
    """Sequences and frames without a label, and so without a source of one."""

    def without(table: pa.Table) -> pa.Table:
        nothing = ("label", "confidence", "image_confidence", "best_image_id", "rank", "set_aside", "reason")
        columns = {
            name: pa.nulls(table.num_rows, table[name].type)
            if name in (*nothing, "label_source")
            else table[name]
            for name in table.column_names
        }
        if "machine_label" in columns:
            columns |= {"machine_label": table["label"], "machine_confidence": table["confidence"]}
        return pa.table(columns, schema=table.schema)

    return Sequences(without(found.sequences), without(found.frames))


def _whole(said: pa.Table) -> pa.Table:
    """What was said, with all columns that are used here."""
    columns = {name: said[name] for name in ("row", "label", "count")}
    for name, kind in TRAIT_TYPES.items():
        columns[name] = said[name].cast(kind) if name in said.column_names else pa.nulls(said.num_rows, kind)
    return pa.table(columns)


def _first_of(row: Rows) -> Rows:
    """Marks the first of equal rows, for sorted rows."""
    return np.flatnonzero(np.r_[True, row[1:] != row[:-1]])


def _labels_of(sequence: Rows, label: pa.Array) -> Rows:
    """One row for each label of each sequence, by sequence and label."""
    if not len(sequence):
        return np.array([], np.int64)
    code = label.dictionary_encode()
    rank = pc.rank(code.dictionary, sort_keys="ascending").to_numpy()
    order = np.lexsort((np.arange(len(sequence)), rank[code.indices.to_numpy()], sequence))
    by = np.stack([sequence[order], code.indices.to_numpy()[order].astype(np.int64)])
    return order[np.flatnonzero(np.r_[True, (by[:, 1:] != by[:, :-1]).any(axis=0)])]


def _told(
    frames: pa.Table,
    said: pa.Table,
    source: Rows,
    looked_at: npt.NDArray[np.bool_],
    shared: npt.NDArray[np.bool_],
) -> pa.Table:
    """Frames with the label of row `source` of what was said; -1: they stay as they are.

    Parameters
    ----------
    looked_at : whether somebody said it about this very frame
    shared : whether the frame shows several species
    """
    take = pa.array(np.maximum(source, 0), mask=source < 0)
    is_changed, is_seen = pa.array(source >= 0), pa.array(looked_at & (source >= 0))
    columns = {name: one_chunk(frames[name]) for name in frames.column_names}
    columns["label"] = pc.if_else(is_changed, one_chunk(said["label"]).take(take), columns["label"])
    columns["confidence"] = pc.if_else(is_changed, pa.scalar(_SURE, pa.float32()), columns["confidence"])
    columns["rank"] = if_else(is_changed, pa.scalar(None, pa.string()), columns["rank"])
    columns["label_source"] = pc.if_else(is_changed, HUMAN, columns["label_source"])
    for name in TRAITS:
        columns[name] = pc.if_else(is_seen, one_chunk(said[name]).take(take), columns[name])
    counted = pc.and_kleene(is_seen, one_chunk(said["count"]).take(take).is_valid())
    boxes = if_else(pa.array(shared), None, columns["count"].cast(pa.int32()))
    columns["count"] = pc.if_else(counted, one_chunk(said["count"]).take(take), boxes)
    return pa.table(columns)


def _sequences(
    sequences: pa.Table,
    keys: pa.Array,
    said: pa.Table,
    sequence: Rows,
    per_sequence: Rows,
    first_image: pa.ChunkedArray,
) -> pa.Table:
    """The table with people's labels: a row for each label of a sequence.

    Its best image is the machine's, if there is one; otherwise the first in which somebody saw it.
    """
    own = pc.binary_join_element_wise(sequences["location"], sequences["seq_id"], "\0")
    wanted = keys.take(pa.array(sequence[per_sequence]))
    row = pc.index_in(wanted, one_chunk(own)).to_numpy(zero_copy_only=False).astype(np.int64)
    untouched = np.ones(sequences.num_rows, bool)
    untouched[row] = False
    rows = sequences.take(pa.array(row))
    columns = {name: one_chunk(rows[name]) for name in rows.column_names}
    n = len(row)
    columns |= {
        "label": one_chunk(said["label"]).take(pa.array(per_sequence)),
        "confidence": pa.repeat(pa.scalar(_SURE, pa.float32()), n),
        "rank": pa.nulls(n, pa.string()),
        "set_aside": pa.nulls(n, pa.string()),
        "reason": pa.nulls(n, pa.string()),
        "label_source": pa.repeat(HUMAN, n),
        "best_image_id": pc.coalesce(columns["best_image_id"], one_chunk(first_image)),
        "machine_label": pc.coalesce(columns["label"], columns["machine_label"]),
        "machine_confidence": pc.coalesce(columns["confidence"], columns["machine_confidence"]),
    }
    label = one_chunk(said["label"])
    for name in TRAITS:
        columns[name] = _only(label, one_chunk(said[name]), sequence, per_sequence)
    together = pa.concat_tables([sequences.filter(pa.array(untouched)), pa.table(columns, schema=SEQUENCES)])
    position = np.append(np.flatnonzero(untouched), row)
    return together.take(pa.array(np.lexsort((encode(together["label"])[0], position))))


def _only(label: pa.Array, trait: pa.Array, sequence: Rows, per_sequence: Rows) -> pa.Array:
    """What is said about each label of a sequence, if everybody who says something agrees."""
    known = np.flatnonzero(says_something(trait))
    if not len(known):
        return pa.nulls(len(per_sequence), trait.type)
    codes, names = encode(label)
    values, texts = encode(trait)
    key = sequence * len(names) + codes
    wanted, pair = np.unique(key[per_sequence], return_inverse=True)
    pairs = np.unique(np.stack([np.searchsorted(wanted, key[known]), values[known]]), axis=1)
    times, one = np.bincount(pairs[0], minlength=len(wanted)), np.zeros(len(wanted), np.int64)
    np.maximum.at(one, pairs[0], pairs[1])
    if pa.types.is_timestamp(trait.type):  # the last time counts
        times = np.minimum(times, 1)
    return texts.take(pa.array(one[pair], mask=times[pair] != 1))
