"""report: one self-contained HTML file about the run, from its tables. Runs on the driver."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.people import find_people
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.model.info import BATCH, CARD, HISTORY, LR_FIND, METRICS
from camtrap_batch.model.library import model_folder, read_numbers
from camtrap_batch.monitor.status import read_status
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.order import plans
from camtrap_batch.pipeline.stage import Stage, StageResult, shard_id
from camtrap_batch.remote import redacted
from camtrap_batch.report import Example, Finding, ReportData, render
from camtrap_batch.selection.choice import reason_counts
from camtrap_batch.store.manifest import current_findings, kind_counts
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import library_versions, open_table
from camtrap_batch.vocabulary import UNCERTAIN

PAGE = "report/index.html"

_TABLES = (
    "catalog",
    "manifest",
    "findings",
    "selection",
    "predictions",
    "frames",
    "sequences",
    "events",
    "locations",
)
_MOST_BROKEN = 200
_MOST_PHOTOS = 12
_MOST_UNDATED = 50
_MOST_OF_A_KIND, _MOST_SEEN = 6, 5000


class ReportStage(Stage):
    name = "report"
    help = "write the report, one HTML file"
    sections = ("report",)
    version = 3
    tables = ()

    def run(self, context: Context) -> StageResult:
        """Write `report/index.html`. Raises InputError where not even the manifest is there."""
        started = time.monotonic()
        run = context.run
        run.snapshot("manifest")
        snapshots = {name: found.number for name in _TABLES if (found := run.current(name)) is not None}
        mark = f"<!-- {shard_id(self, snapshots, context.job.to_yaml(), table='html')} -->".encode()
        result = StageResult(self.name, shards=1)
        if context.dry_run:
            result.notes.append(f"{PAGE} would be written")
            return result
        # No lease is needed, and nothing is committed: the page says of itself what it was made of.
        if run.folder.exists(PAGE) and run.folder.read(PAGE).endswith(mark):
            return result
        run.folder.write(PAGE, render(collect(context, snapshots)).encode() + mark)
        result.shards_run, result.seconds = 1, time.monotonic() - started
        return result


STAGE = ReportStage()


def collect(context: Context, snapshots: dict[str, int]) -> ReportData:
    """All that the report shows, from the run's tables."""
    job, run = context.job, context.run
    manifest, findings = run.snapshot("manifest"), current_findings(run)
    catalog, selected = run.current("catalog"), run.current("selection")
    trained = run.current("model") if job.infer.model == "latest" else None
    predicted = run.current("predictions")
    model_id = trained.meta["model_id"] if trained else predicted.inputs["model"] if predicted else None
    model = _model(run, model_id) if model_id else {}
    return ReportData(
        job_name=job.name,
        created=dt.datetime.now(dt.UTC),
        run_folder=run.folder.url,
        job_yaml=job.to_yaml(),
        dataset={
            "format": job.dataset.format,
            "metadata": redacted(job.dataset.metadata or "") or None,
            "images": redacted(image_root(job).url),
        },
        notes=catalog.meta["notes"] if catalog else {},
        n_images=manifest.rows,
        status_counts=manifest.counts,
        status_examples=_broken(run),
        finding_counts=kind_counts(findings) if findings else None,
        finding_examples=_findings(context, findings) if findings else [],
        selection_reasons=reason_counts(run) if selected else {},
        split_counts=selected.meta["by_class"] if selected else {},
        split_by=selected.meta["split_by"] if selected else "location",
        split_across=selected.meta["across"] if selected else {},
        **model,
        computed_in=_computed_in(predicted) if predicted and predicted.inputs["model"] == model_id else None,
        locations=run.table("locations").to_table() if "locations" in snapshots else None,
        events=run.table("events").to_table() if "events" in snapshots else None,
        best_photos=_best_photos(context) if "events" in snapshots else [],
        **_undated(run),
        worst_mistakes=_worst_mistakes(context) if {"selection", "predictions"} <= set(snapshots) else [],
        detections=predicted.meta.get("detections") if predicted else None,
        stages=[
            {
                "stage": status.stage,
                "shards": status.shards,
                "rows": status.rows,
                "rows_per_s": status.rows_per_s,
                "failed": len(status.failed),
            }
            for status in read_status(run, plans())
            if status.shards
        ],
        versions=library_versions(),
        snapshots=snapshots,
        blur_km=job.report.blur_km,
    )


def _computed_in(predicted: Snapshot) -> str | None:
    precision: str | None = predicted.meta.get("precision", {}).get("precision")
    again = ", ".join(f"{n:,} in {name}" for name, n in predicted.meta.get("again", {}).items())
    return f"{precision}; near ties again: {again}" if again else precision


def _model(run: Run, model_id: str) -> dict[str, Any]:
    """What a report says of the model: its card, its figures on the split to be judged by, its history."""
    folder = model_folder(run, model_id)
    card = json.loads(folder.read(CARD))
    figures = json.loads(folder.read(METRICS)) if folder.exists(METRICS) else {}
    judged = figures.get("test") or figures.get("valid")
    metrics = judged and {
        "classes": card["classes"],
        **judged,
        "split": "test" if figures.get("test") else "valid",
        "split_by": card["provenance"].get("split_by", "location"),
        "random_split": figures.get("random_split"),
    }
    return {
        "model": {**card, "training": figures.get("training", {})},
        "metrics": metrics,
        "history": read_numbers(folder, HISTORY),
        "lr_find": read_numbers(folder, LR_FIND),
        "batch": folder.read(BATCH).decode() if folder.exists(BATCH) else None,
    }


def _broken(run: Run) -> list[tuple[str, str, str | None, str | None]]:
    """Status, file name, location and detail of images that are not ok: some of each status."""
    rows = run.table("manifest").to_table(columns=["status", "file_name", "location", "detail"])
    frame = rows.filter(pc.not_equal(rows["status"].cast(pa.string()), "ok")).to_pandas()
    statuses = max(1, frame["status"].nunique())
    some = frame.groupby("status", sort=False, observed=True).head(max(1, _MOST_BROKEN // statuses))
    some = some.astype(object).where(some.notna(), None)
    return list(some.itertuples(index=False, name=None))


def _findings(context: Context, snapshot: Snapshot) -> list[Finding]:
    """Some findings of each kind, of different cameras and comparisons as far as there are."""
    table = open_table(context.run.folder, snapshot)
    kinds = [table.head(_MOST_SEEN, filter=pc.field("kind") == kind) for kind in kind_counts(snapshot)]
    if not kinds:
        return []
    frame = pa.concat_tables(kinds).to_pandas()
    frame["here"] = frame.groupby(["kind", "location"], dropna=False).cumcount()
    frame["of_other"] = frame.groupby(["kind", "other_image_id"]).cumcount()
    chosen = frame.sort_values(["of_other", "here"], kind="stable").groupby("kind").head(_MOST_OF_A_KIND)
    chosen = chosen.sort_index().astype(object)
    rows = chosen.where(chosen.notna(), None).to_dict("records")
    ids = [row[name] for row in rows for name in ("image_id", "other_image_id") if row[name] is not None]
    pictures = _pictures(context, ids)
    return [
        Finding(
            row["kind"],
            row["file_name"],
            row["location"],
            row["detail"],
            jpeg=picture.jpeg if (picture := pictures.get(row["image_id"])) else None,
            other_jpeg=other.jpeg if (other := pictures.get(row["other_image_id"])) else None,
            other_file_name=other.file_name if other else None,
        )
        for row in rows
    ]


def _undated(run: Run) -> dict[str, Any]:
    """How many usable images have no date, and some of them."""
    if run.current("frames") is None:
        return {}
    table = run.table("frames")
    without = pc.field("no_event") == "no date"
    some = table.head(_MOST_UNDATED, columns=["file_name", "location", "label"], filter=without)
    return {
        "n_undated": table.count_rows(filter=without),
        "undated": [tuple(row.values()) for row in some.to_pylist()],
    }


def _best_photos(context: Context) -> list[Example]:
    """The most confident photo of each species."""
    events = context.run.table("events").to_table(
        columns=["label", "confidence", "best_image_id", "location"]
    )
    frame = events.to_pandas()
    frame = frame[frame["label"] != UNCERTAIN].sort_values("confidence", ascending=False)
    chosen = frame.drop_duplicates("label").head(_MOST_PHOTOS)
    return _examples(
        context,
        chosen["best_image_id"].tolist(),
        chosen["label"].tolist(),
        chosen["confidence"].tolist(),
        [None] * len(chosen),
    )


def _worst_mistakes(context: Context) -> list[Example]:
    """Images of held-out splits whose label is wrong, the most confident first."""
    run = context.run
    truth = run.table("selection").to_table(columns=["image_id", "label", "split"])
    held_out = truth.filter(pc.is_in(truth["split"], pa.array(["valid", "test"]))).to_pandas()
    predicted = run.table("predictions").to_table(columns=["image_id", "label", "confidence"]).to_pandas()
    both = held_out.merge(predicted, on="image_id", suffixes=("_truth", ""))
    wrong = both[both["label"] != both["label_truth"]].dropna(subset=["label"])
    worst = wrong.sort_values("confidence", ascending=False).head(_MOST_PHOTOS)
    return _examples(
        context,
        worst["image_id"].tolist(),
        worst["label"].tolist(),
        worst["confidence"].tolist(),
        worst["label_truth"].tolist(),
    )


def _examples(
    context: Context,
    image_ids: list[str],
    labels: list[str],
    confidences: list[float],
    truths: list[str | None],
) -> list[Example]:
    """Examples with their thumbnails; those without one are left out."""
    pictures = _pictures(context, image_ids)
    return [
        Example(
            pictures[image_id].jpeg, image_id, pictures[image_id].location, label, float(confidence), truth
        )
        for image_id, label, confidence, truth in zip(image_ids, labels, confidences, truths, strict=True)
        if image_id in pictures
    ]


class _Picture(NamedTuple):
    jpeg: bytes
    file_name: str
    location: str | None


def _pictures(context: Context, image_ids: list[str]) -> dict[str, _Picture]:
    """Thumbnails by image id, as far as there are any: originals are too large for a page.

    People are shown as `report.people` has it.
    """
    job, run = context.job, context.run
    rows = run.table("manifest").to_table(
        columns=[*COLUMNS, "location"], filter=pc.field("image_id").isin(pa.array(image_ids, pa.string()))
    )
    rows = rows.filter(rows["thumbnail_file"].is_valid())
    people = find_people(run, image_ids)
    found = {}
    for index, data, _ in read_pictures(run.folder, image_root(job), rows, use_thumbnails=True):
        image_id = rows["image_id"][index].as_py()
        if data is not None and (shown := people.picture(image_id, data)) is not None:
            found[image_id] = _Picture(
                shown, rows["file_name"][index].as_py(), rows["location"][index].as_py()
            )
    return found
