"""What people say counts before what the machine says.

A label that a person gave an image is that image's, and its sequence's: where people looked at some frames of
a sequence and saw animals there, the sequence has their labels; where all that they looked at is empty and
they looked at every frame, it is empty; where they found only some frames empty, the machine's label of the
others stays. A sequence in which people saw several species has a row for each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import one_chunk
from camtrap_batch.events.sequences import HUMAN, TRAITS, Sequences
from camtrap_batch.store.schemas import SEQUENCES

_SURE = 1.0

Rows = npt.NDArray[np.int64]


def overrule(found: Sequences, said: pa.Table, *, empty: str) -> tuple[Sequences, pa.Table]:
    """Put what people said in the place of what the machine says.

    Parameters
    ----------
    found
        As `combine` makes it.
    said
        row (of `found.frames`), label, count, sex, life_stage, behaviour, individual: one row for each image
        and label; what counts now.
    empty
        Label that means: no animal.

    Returns
    -------
    sequences : as `combine` makes them, with `label_source`; a sequence with several species has a row each
    frames : those of `sequences`, and after them a row for each further species that an image shows; for
        `find_events`
    """
    said = pa.table({name: said[name] for name in ("row", "label", "count", *TRAITS)})
    said = said.sort_by([("row", "ascending"), ("label", "ascending")])
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
    # Of empties, all frames have to be said so; beside an animal an empty frame is just that.
    counts = has_animal | (looked_at == n_frames)
    kept = counts[of[row]] & (is_animal | ~has_animal[of[row]])
    said, row = said.filter(pa.array(kept)), row[kept]
    if not len(row):
        return found, found.frames
    sequence, label = of[row], one_chunk(said["label"])
    per_frame = _first_of(row)
    per_sequence = _labels_of(sequence, label)
    # A frame that nobody looked at has its sequence's first label.
    first_label = np.full(len(n_frames), -1, np.int64)
    first_label[sequence[per_sequence[::-1]]] = per_sequence[::-1]
    source = np.where(counts[of], first_label[of], -1)
    source[row[per_frame]] = per_frame
    is_looked_at = np.zeros(len(of), bool)
    is_looked_at[row] = True
    changed = source >= 0
    labelled = _told(frames, said, source, changed, is_looked_at)
    more = np.setdiff1d(np.arange(len(row)), per_frame)
    extra = _told(
        frames.take(pa.array(row[more])), said, more, np.ones(len(more), bool), np.ones(len(more), bool)
    )
    sequences = _sequences(found.sequences, names.dictionary, said, sequence, per_sequence)
    return Sequences(sequences, labelled), pa.concat_tables([labelled, extra])


def _first_of(row: Rows) -> Rows:
    """The first of the sorted rows that are alike."""
    return np.flatnonzero(np.r_[True, row[1:] != row[:-1]])


def _labels_of(sequence: Rows, label: pa.Array) -> Rows:
    """One row of each label of each sequence, by sequence and label."""
    code = label.dictionary_encode()
    rank = pc.rank(code.dictionary, sort_keys="ascending").to_numpy()
    order = np.lexsort((np.arange(len(sequence)), rank[code.indices.to_numpy()], sequence))
    by = np.stack([sequence[order], code.indices.to_numpy()[order].astype(np.int64)])
    return order[np.flatnonzero(np.r_[True, (by[:, 1:] != by[:, :-1]).any(axis=0)])]


def _told(
    frames: pa.Table,
    said: pa.Table,
    source: Rows,
    changed: npt.NDArray[np.bool_],
    looked_at: npt.NDArray[np.bool_],
) -> pa.Table:
    """Frames with the label of the row `source` of what was said, where they are `changed`."""
    take = pa.array(np.maximum(source, 0), mask=source < 0)
    is_changed, is_seen = pa.array(changed), pa.array(looked_at & changed)
    columns = {name: one_chunk(frames[name]) for name in frames.column_names}
    columns["label"] = pc.if_else(is_changed, one_chunk(said["label"]).take(take), columns["label"])
    columns["confidence"] = pc.if_else(is_changed, pa.scalar(_SURE, pa.float32()), columns["confidence"])
    columns["rank"] = pc.if_else(is_changed, pa.scalar(None, pa.string()), columns["rank"])
    columns["label_source"] = pc.if_else(is_changed, HUMAN, columns["label_source"])
    for name in TRAITS:
        columns[name] = pc.if_else(is_seen, one_chunk(said[name]).take(take), columns[name])
    counted = pc.and_kleene(is_seen, one_chunk(said["count"]).take(take).is_valid())
    columns["count"] = pc.if_else(
        counted, one_chunk(said["count"]).take(take), columns["count"].cast(pa.int32())
    )
    return pa.table(columns)


def _sequences(
    sequences: pa.Table, keys: pa.Array, said: pa.Table, sequence: Rows, per_sequence: Rows
) -> pa.Table:
    """The table with the labels that people gave: a row for each label of a sequence."""
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
    }
    label = one_chunk(said["label"])
    for name in TRAITS:
        columns[name] = _only(label, one_chunk(said[name]), sequence, per_sequence)
    together = pa.concat_tables([sequences.filter(pa.array(untouched)), pa.table(columns, schema=SEQUENCES)])
    by = [(name, "ascending") for name in ("location", "start", "seq_id", "label")]
    return together.take(pc.sort_indices(together, sort_keys=by))


def _only(label: pa.Array, trait: pa.Array, sequence: Rows, per_sequence: Rows) -> pa.Array:
    """What is said of each label of a sequence, where all who say something say the same."""
    found: dict[tuple[int, str], set[str]] = {}
    known = np.flatnonzero(trait.is_valid().to_numpy(zero_copy_only=False))
    for at in known.tolist():
        found.setdefault((int(sequence[at]), label[at].as_py()), set()).add(trait[at].as_py())
    values = [found.get((int(sequence[at]), label[at].as_py()), set()) for at in per_sequence.tolist()]
    return pa.array([next(iter(some)) if len(some) == 1 else None for some in values], pa.string())
