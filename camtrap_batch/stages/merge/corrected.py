"""Corrected totals of each location: how many events of a species there are, whatever the model said.

The newest random sample that people reviewed tells how the model errs (`survey.small_areas`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, encode, if_else, one_chunk
from camtrap_batch.events.sequences import HUMAN
from camtrap_batch.review.sample import Draw, find_rows
from camtrap_batch.store.schemas import LOCATIONS
from camtrap_batch.survey.small_areas import Doubles, Totals, Units, location_totals
from camtrap_batch.vocabulary import UNCERTAIN

_FEWEST = 30
"""Reviewed sequences of a sample below which nothing is said of single locations."""

_LEAST = 0.5
"""Events that a species is expected to have at a location to be named there, where none was counted."""

_COLUMN = "corrected_by_label"


@dataclass(frozen=True)
class _Known:
    """Sequences, each once: their names, and what machine and people say; `labels` are those of numbers."""

    location: pa.Array
    seq_id: pa.Array
    units: Units
    labels: list[str]


def with_corrected(
    locations: pa.Table, sequences: pa.Table, frames: pa.Table, draws: Sequence[Draw], empty: str
) -> pa.Table:
    """The table `locations` with corrected totals, where a sample tells enough.

    Parameters
    ----------
    locations, sequences, frames : rows of these tables, of one result of `merge`
    draws : random samples of the run, the newest first
    """
    if not draws or not sequences.num_rows:
        return locations
    known = _known(sequences, frames, one_chunk(locations["location"]))
    for drawn in draws:
        rows = find_rows(drawn, known.location, known.seq_id)
        is_seen = (rows >= 0) & known.units.known[rows]
        if is_seen.sum() < _FEWEST:
            continue
        stratum, sizes = np.array(drawn.stratum, np.int64)[is_seen], np.array(drawn.sizes)
        weight = sizes[stratum] / np.bincount(stratum, minlength=len(sizes))[stratum]
        found = location_totals(known.units, rows[is_seen], weight, locations.num_rows, len(known.labels))
        field = LOCATIONS.field(_COLUMN)
        column = pa.array(_named(found, known.labels, locations["events_by_label"], empty), field.type)
        return locations.set_column(locations.column_names.index(_COLUMN), field, column)
    return locations


def _named(
    found: Totals, labels: list[str], counted: pa.ChunkedArray, empty: str
) -> list[list[dict[str, object]]]:
    """The species counted or expected at each location, those with the most events first."""
    number_of = {label: number for number, label in enumerate(labels)}
    told = []
    for row, events in enumerate(counted.to_pylist()):
        numbers = set(np.flatnonzero(found.value[row] >= _LEAST).tolist())
        numbers |= {number_of[entry["label"]] for entry in events or () if entry["label"] in number_of}
        numbers -= {number_of.get(empty, -1)}
        order = sorted(numbers, key=lambda number: (-found.value[row, number], labels[number]))
        told.append(
            [
                {
                    "label": labels[number],
                    "n": round(float(found.value[row, number]), 2),
                    "low": int(found.low[row, number]),
                    "high": int(found.high[row, number]),
                }
                for number in order
            ]
        )
    return told


def _known(sequences: pa.Table, frames: pa.Table, locations: pa.Array) -> _Known:
    is_human = pc.fill_null(pc.equal(sequences["label_source"], HUMAN), False)
    machine = one_chunk(pc.if_else(is_human, sequences["machine_label"], sequences["label"]))
    machine = if_else(pc.equal(machine, UNCERTAIN), None, machine)
    sure = one_chunk(pc.if_else(is_human, sequences["machine_confidence"], sequences["confidence"]))
    key = one_chunk(pc.binary_join_element_wise(sequences["location"], sequences["seq_id"], "\0"))
    number = key.dictionary_encode()
    of = number.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.unique(of, return_index=True)[1]  # a sequence with several species has a row for each
    said = np.flatnonzero(one_chunk(is_human).to_numpy(zero_copy_only=False))
    code, labels = encode(pa.concat_arrays([one_chunk(sequences["label"]).take(pa.array(said)), machine]))
    is_known = np.zeros(len(first), np.bool_)
    is_known[of[said]] = True
    where = one_chunk(sequences["location"]).take(pa.array(first))
    at = pc.index_in(where, locations).to_numpy(zero_copy_only=False).astype(np.int64)
    confidence = sure.cast(pa.float64()).to_numpy(zero_copy_only=False)[first]
    units = Units(
        at, code[len(said) :][first], confidence, _parts(frames, number.dictionary), is_known, of[said],
        code[: len(said)],
    )  # fmt: skip
    return _Known(where, one_chunk(sequences["seq_id"]).take(pa.array(first)), units, labels.to_pylist())


def _parts(frames: pa.Table, keys: pa.Array) -> Doubles:
    """The part of an event that each sequence is: one of three sequences of an event is a third of it."""
    pairs = frames.group_by(["location", "seq_id", "event_id"], use_threads=False).aggregate([])
    pairs = pairs.filter(pairs["event_id"].is_valid())
    event: Ints = encode(pairs["event_id"])[0]
    share = 1 / np.bincount(event)[event] if len(event) else np.array([], np.float64)
    key = one_chunk(pc.binary_join_element_wise(pairs["location"], pairs["seq_id"], "\0"))
    at = pc.fill_null(pc.index_in(key, keys), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    part = np.zeros(len(keys) + 1)
    np.maximum.at(part, at, share)
    return np.where(part > 0, part, 1.0)[:-1]
