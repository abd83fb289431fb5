"""How good the labels are: judged by a random sample that people reviewed, and by the metadata's labels.

The first holds for the whole data set, whatever the model got wrong; the second for the labelled images,
without those that the model was trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.model.metrics import bootstrap
from camtrap_batch.review.boxes import settle_boxes
from camtrap_batch.review.sample import Draw, read_draws
from camtrap_batch.store.corrections import read_corrections, standing
from camtrap_batch.store.manifest import usable_rows
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import METRICS
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.survey.design import Estimate, Sample
from camtrap_batch.vocabulary import NO_MODEL

Row = dict[str, Any]

_FEWEST = 10
"""With fewer reviewed sequences of a draw, nothing is said."""


def judged_by(run: Run, predictions: Snapshot) -> list[Any]:
    """What the metrics depend on besides the result of `merge`; JSON values."""
    draws = [[one.name, one.created] for one in read_draws(run)]
    trained = run.current("model")
    return [draws, trained.inputs.get("selection") if trained else None, str(predictions.inputs["model"])]


def measure(run: Run, predictions: Snapshot, empty: str) -> pa.Table:
    """Rows of the table metrics."""
    rows = [*_by_samples(run, empty), *_by_labels(run, predictions)]
    model = str(predictions.inputs["model"])
    by = predictions.meta.get("made_by") if model == NO_MODEL else model
    return pa.Table.from_pylist([{**row, "model_id": by} for row in rows], METRICS)


def describe(table: pa.Table) -> list[str]:
    """Notes for people: the accuracies."""
    is_whole = pc.and_(pc.equal(table["figure"], "accuracy"), pc.is_null(table["label"]))
    notes = []
    for row in table.filter(is_whole).to_pylist():
        by_sample = row["judged_by"] == "sample"
        what = "sequences drawn at random" if by_sample else "labelled images that it was not trained on"
        interval = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
        notes.append(f"accuracy {row['value']:.3f}{interval}, by {row['n']:,} {what}")
    return notes


# --- by a random sample


def _by_samples(run: Run, empty: str) -> list[Row]:
    draws = read_draws(run)
    if not draws:
        return []
    sequences = run.table("sequences").to_table(
        columns=["seq_id", "location", "label", "label_source", "machine_label"]
    )
    is_human = pc.fill_null(pc.equal(sequences["label_source"], "human"), False)
    machine = pc.if_else(is_human, sequences["machine_label"], sequences["label"])
    known = pa.table({"location": sequences["location"], "seq_id": sequences["seq_id"], "label": machine})
    known = known.group_by(["location", "seq_id"], use_threads=False).aggregate([("label", "first")])
    pairs = zip(known["location"].to_pylist(), known["seq_id"].to_pylist(), strict=True)
    predicted = dict(zip(pairs, known["label_first"].to_pylist(), strict=True))
    truth = _truth(run, empty)
    weights = _weights(run)
    counted = {
        "sequences": _counted(machine),
        "events": _counted(run.table("events").to_table(columns=["label"])["label"]),
    }
    found = []
    for drawn in draws:
        found += _of_draw(drawn, predicted, truth, weights, counted, empty)
    return found


def _truth(run: Run, empty: str) -> dict[tuple[str, str], frozenset[str]]:
    """What people say that sequences show, by location and name."""
    corrections = read_corrections(run)
    if not corrections.num_rows:
        return {}
    images = usable_rows(run, ["image_id", "sha256", "status"])
    said = settle_boxes(run, standing(corrections, images), images["image_id"], empty).said
    frames = run.table("frames").to_table(columns=["location", "seq_id"])
    row = said["row"].to_numpy()
    found: dict[tuple[str, str], set[str]] = {}
    where, name = frames["location"].take(pa.array(row)), frames["seq_id"].take(pa.array(row))
    for pair, label in zip(
        zip(where.to_pylist(), name.to_pylist(), strict=True), said["label"].to_pylist(), strict=True
    ):
        found.setdefault(pair, set()).add(label)
    return {pair: frozenset(labels - {empty} or {empty}) for pair, labels in found.items()}


def _weights(run: Run) -> dict[tuple[str, str], float]:
    """Each sequence's share of its event: one of three sequences of an event is a third of it."""
    frames = run.table("frames").to_table(columns=["location", "seq_id", "event_id"])
    pairs = frames.group_by(["location", "seq_id", "event_id"], use_threads=False).aggregate([])
    pairs = pairs.filter(pairs["event_id"].is_valid())
    in_event = pairs.group_by("event_id", use_threads=False).aggregate([("seq_id", "count")])
    row = pc.index_in(pairs["event_id"], one_chunk(in_event["event_id"]))
    share = 1 / in_event["seq_id_count"].take(row).to_numpy()
    weights: dict[tuple[str, str], float] = {}
    names = zip(pairs["location"].to_pylist(), pairs["seq_id"].to_pylist(), strict=True)
    for pair, part in zip(names, share.tolist(), strict=True):
        weights[pair] = max(weights.get(pair, 0.0), part)
    return weights


def _counted(labels: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(one_chunk(labels)).to_pylist()}


def _of_draw(
    drawn: Draw,
    predicted: dict[tuple[str, str], str | None],
    truth: dict[tuple[str, str], frozenset[str]],
    weights: dict[tuple[str, str], float],
    counted: dict[str, dict[str, int]],
    empty: str,
) -> list[Row]:
    pairs = list(zip(drawn.location, drawn.seq_id, strict=True))
    # Within a stratum the order is random, so those reviewed so far are a random part of those drawn.
    seen = [number for number, pair in enumerate(pairs) if pair in truth and pair in predicted]
    if len(seen) < _FEWEST:
        return []
    sample = Sample(np.array(drawn.stratum, np.int64)[seen], np.array(drawn.sizes, np.int64))
    says = [predicted[pairs[number]] for number in seen]
    shows = [truth[pairs[number]] for number in seen]
    part = np.array([weights.get(pairs[number], 1.0) for number in seen])
    right = np.array([label in there for label, there in zip(says, shows, strict=True)], bool)
    rows = [_row("accuracy", None, sample.share(right))]
    labels = sorted({label for there in shows for label in there} | {label for label in says if label})
    for label in labels:
        said = np.array([label == one for one in says], bool)
        there = np.array([label in one for one in shows], bool)
        rows.append(_row("precision", label, sample.share(right, said)))
        rows.append(_row("recall", label, sample.share(right & said, there)))
        totals = {"sequences": there.astype(float), "events": there * part}
        for figure, y in totals.items():
            if figure == "sequences" or label != empty:
                there_are = {"counted": float(counted[figure].get(label, 0))}
                rows.append(_row(figure, label, sample.sum(y)) | there_are)
    return [{"judged_by": "sample", "draw": drawn.name, **row} for row in rows]


def _row(figure: str, label: str | None, found: Estimate) -> Row:
    value, low, high = (None if np.isnan(one) else one for one in (found.value, found.low, found.high))
    return {"figure": figure, "label": label, "value": value, "low": low, "high": high, "n": found.n}


# --- by the labels of the metadata


def _by_labels(run: Run, predictions: Snapshot) -> list[Row]:
    """Judge each label; images with labels of several classes can't be judged, as a model names only one."""
    table = run.table("predictions", predictions.number).to_table(columns=["image_id", "label"])
    if table["label"].null_count == table.num_rows:
        return []
    manifest = run.snapshot("manifest", int(predictions.inputs["manifest"]))
    catalog = run.table("catalog", int(manifest.inputs["catalog"])).to_table(
        columns=["image_id", "location", "labels"], filter=pc.field("labelled_by").is_null()
    )
    labels = one_chunk(catalog["labels"])
    is_single = pc.fill_null(pc.equal(pc.list_value_length(labels), 1), False)
    catalog = catalog.filter(is_single)
    if not catalog.num_rows:
        return []
    truth = pc.list_flatten(one_chunk(catalog["labels"])).field("name")
    row = one_chunk(pc.index_in(catalog["image_id"], one_chunk(table["image_id"])))
    said = one_chunk(table["label"]).take(row)
    keep = pc.and_(pc.is_valid(said), pc.is_valid(truth))
    trained = _trained_on(run, predictions)
    if trained is not None:
        keep = pc.and_(keep, pc.invert(pc.is_in(one_chunk(catalog["image_id"]), trained)))
    truth, said = (pc.utf8_lower(one).filter(keep) for one in (truth, said))
    if not len(truth):
        return []
    codes, names = encode(pa.concat_arrays([truth, said]))
    t, p = codes[: len(truth)], codes[len(truth) :]
    where = encode(catalog["location"].cast(pa.string()).fill_null("").filter(keep))[0]
    return [{"judged_by": "labels", **one} for one in _judge(t, p, names.to_pylist(), where)]


def _judge(truth: Ints, said: Ints, names: list[str], location: Ints) -> list[Row]:
    intervals = bootstrap(said, truth, names, location)
    right = truth == said
    n_true, n_said = (np.bincount(one, minlength=len(names)) for one in (truth, said))
    hits = np.bincount(truth[right], minlength=len(names))

    def row(figure: str, label: str | None, value: float, of: npt.NDArray[Any] | int, between: Any) -> Row:
        low, high = between or (None, None)
        known = None if np.isnan(value) else float(value)
        return {"figure": figure, "label": label, "value": known, "low": low, "high": high, "n": int(of)}

    rows = [row("accuracy", None, float(right.mean()), len(truth), intervals["accuracy"])]
    with np.errstate(invalid="ignore"):
        figures = {
            "precision": (hits / n_said, n_said),
            "recall": (hits / n_true, n_true),
            "f1": (2 * hits / (n_said + n_true), n_true),
        }
    seen = n_true > 0
    recall = figures["recall"][0][seen]
    rows.append(row("balanced_accuracy", None, recall.mean(), len(truth), intervals["balanced_accuracy"]))
    f1 = figures["f1"][0][seen]
    rows.append(row("macro_f1", None, f1.mean(), len(truth), intervals["macro_f1"]))
    for number, name in enumerate(names):
        for figure, (values, of) in figures.items():
            between = intervals["per_class"][name][figure]
            rows.append(row(figure, name, float(values[number]), of[number], between))
    return rows


def _trained_on(run: Run, predictions: Snapshot) -> pa.Array | None:
    """Ids of the images that the model learnt from, if it was trained in this run."""
    trained = run.current("model")
    if trained is None or trained.meta["model_id"] != predictions.inputs["model"]:
        return None
    selection = run.table("selection", trained.inputs["selection"])
    rows = selection.to_table(columns=["image_id"], filter=pc.field("split") == "train")
    return one_chunk(rows["image_id"])
