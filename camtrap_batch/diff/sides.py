"""The two results of `merge` to compare, and the truth to judge them by, from a run folder."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.diff.compare import Side
from camtrap_batch.errors import InputError
from camtrap_batch.store import snapshots
from camtrap_batch.store.merged import MergeResult, list_merged
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import plural


def read_sides(run: Run, before: int | None, after: int | None) -> tuple[MergeResult, MergeResult]:
    """The results with these numbers; by default the current one, and the one before it.

    Raises
    ------
    InputError
        There is no such result, or none before it.
    """
    second = MergeResult.find(run, after)
    if before is not None:
        return MergeResult.find(run, before), second
    older = [merged for merged in list_merged(run) if merged.number < second.number]
    if not older:
        raise InputError(
            f"{run.folder.url}: there is no result of merge before snapshot {second.number}; after a new "
            "model, threshold or event rule there will be two"
        )
    return older[0], second


def read_side(merged: MergeResult) -> Side:
    """What `compare` needs to know about a result."""
    groups = merged.snapshot.meta["taxonomy"] or {}
    predictions = merged.table("predictions")
    # For predictions that do not name the model's classes: the classes that it chose.
    classes = (
        predictions.snapshot.meta.get("classes")
        or predictions.to_table(columns=["label"])["label"].drop_null().unique().to_pylist()
    )
    frames = merged.table("frames").to_table(columns=["image_id", "label", "event_id"])
    return Side(
        merged.describe(),
        frames,
        merged.table("events").to_table(),
        merged.table("locations").to_table(columns=["location", "top_label", "richness", "n_events"]),
        classes,
        {label: frozenset(name.casefold() for _, name in chain) for label, chain in groups.items()},
    )


def read_truth(run: Run, sides: tuple[MergeResult, MergeResult]) -> tuple[pa.Table | None, str]:
    """Annotated images (`compare`'s `truth`), and a note on them; None if nothing is annotated.

    Only images with annotations of one class can be judged: a sequence has one label.
    """
    catalog = run.current("catalog")
    if catalog is None:
        return None, ""
    rows = run.table("catalog", catalog.number).to_table(columns=["image_id", "labels"])
    labels = rows["labels"].combine_chunks()
    of = pc.list_parent_indices(labels)
    names = pa.table({"row": of, "label": pc.list_flatten(labels).field("name")})
    names = names.group_by(["row", "label"]).aggregate([]).filter(pc.field("label").is_valid())
    once = names.group_by("row").aggregate([("label", "count"), ("label", "min")])
    n_annotated = once.num_rows
    once = once.filter(pc.equal(once["label_count"], 1)).sort_by("row")
    if not once.num_rows:
        return None, ""
    image_id = rows["image_id"].take(once["row"])
    trained, missing = _trained_on(run, sides)
    notes = []
    if n_annotated > once.num_rows:
        notes.append(
            f"{plural(n_annotated - once.num_rows, 'image')} with annotations of several classes left out."
        )
    if missing:
        notes.append(
            f"Which images {' and '.join(missing)} was trained on is not known, so these are not set apart."
        )
    is_trained_on = (
        pa.nulls(once.num_rows, pa.bool_())
        if trained is None
        else pc.is_in(image_id, trained.combine_chunks())
    )
    table = pa.table({"image_id": image_id, "label": once["label_min"], "is_trained_on": is_trained_on})
    return table, " ".join(notes)


def _trained_on(run: Run, sides: tuple[MergeResult, MergeResult]) -> tuple[pa.ChunkedArray | None, list[str]]:
    """The images that the models of the two sides were trained on; or None, and whose are not known."""
    selections = {}
    for number in snapshots.numbers(run.folder, "model"):
        model = snapshots.load(run.folder, "model", number)
        selections[model.meta["model_id"]] = model.inputs["selection"]
    models = sorted({str(merged.snapshot.inputs["model"]) for merged in sides})
    missing = [f"model {model}" for model in models if model not in selections]
    if missing:
        return None, missing
    found = [
        run.table("selection", selections[model]).to_table(
            columns=["image_id"], filter=pc.field("split") == "train"
        )
        for model in models
    ]
    return pa.concat_tables(found)["image_id"], []
