"""Everything that a report shows, from the run's tables: one function for each part."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.base import reader_of
from camtrap_batch.catalog.labels import Taxon
from camtrap_batch.codes import one_chunk
from camtrap_batch.errors import CamtrapError, InputError
from camtrap_batch.job import Job
from camtrap_batch.model.info import BATCH, CARD, HISTORY, LR_FIND, read_card
from camtrap_batch.model.library import fetch_model, model_folder, read_metrics, read_numbers, read_picture
from camtrap_batch.monitor.status import read_status
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.order import plans
from camtrap_batch.remote import redacted
from camtrap_batch.report import Dates, Detected, Example, Finding, Names, ReportData, find_dates
from camtrap_batch.report.judged import judged
from camtrap_batch.selection.choice import reason_counts
from camtrap_batch.stages.merge import read_rules
from camtrap_batch.stages.report.photos import choose_photos, read_photos
from camtrap_batch.store.manifest import current_findings, kind_counts
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import library_versions, open_table
from camtrap_batch.survey.derived import species_rows
from camtrap_batch.survey.estimates import ESTIMATES
from camtrap_batch.survey.places import shown_locations
from camtrap_batch.survey.result import Counted, read_deployments
from camtrap_batch.vocabulary import DATE_FINDINGS, NO_MODEL, UNCERTAIN, USABLE

TABLES = (
    "catalog",
    "manifest",
    "findings",
    "selection",
    "detected",
    "detections",
    "predictions",
    "frames",
    "sequences",
    "events",
    "locations",
    "deployments",
    "corrections",
    "metrics",
)
"""Tables that a report is made from."""

_MOST_BROKEN = 200
_MOST_PHOTOS = 12
_MOST_UNDATED = 50
_MOST_OF_A_KIND, _MOST_SEEN = 6, 5000
_MOST_ESTIMATED = 400_000
"""With more cells of detection histories, occupancy is left to `camtrap table JOB occupancy`."""

Known = dict[str, Any]


def collect(context: Context, snapshots: dict[str, int]) -> ReportData:
    """Everything that the report shows; `snapshots` are the current ones of `TABLES`."""
    run, job = context.run, context.job
    known = {
        **_of_job(context, snapshots),
        **_images(run),
        **_findings(run),
        **_selection(run),
        **_model(run, job.infer.model),
        **_judged(run),
        **_detector(run),
    }
    if {"locations", "events", "frames"} <= set(snapshots):
        known |= _results(context)
    known |= _photos(context, known)
    return ReportData(**known)


def _of_job(context: Context, snapshots: dict[str, int]) -> Known:
    job, run = context.job, context.run
    taxonomy, _ = read_rules(job)
    return {
        "job_name": job.name,
        "job_file": context.job_file,
        "created": dt.datetime.now(dt.UTC),
        "run_folder": run.folder.url,
        "job_yaml": job.to_yaml(),
        "dataset": {
            "format": job.dataset.format,
            "metadata": redacted(job.dataset.metadata or "") or None,
            "images": redacted(image_root(job).url),
        },
        "stages": [
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
        "versions": library_versions(),
        "snapshots": snapshots,
        "blur_km": job.report.blur_km,
        "people": None if job.report.people == "show" else job.report.people,
        "single_file": job.report.single_file,
        "tiles": _tiles(job.report.tiles),
        "names": Names.of(taxonomy, _taxa(job)),
    }


def _taxa(job: Job) -> list[Taxon]:
    """What the data set itself says of species; a package that is gone since says nothing."""
    try:
        return reader_of(job.dataset).taxa()
    except InputError:
        return []


def _tiles(tiles: str | None) -> str | bytes | None:
    """A URL unchanged; an archive on disk as its content, so that the report needs no server for it."""
    if tiles is None or "://" in tiles:
        return tiles
    from pathlib import Path

    try:
        return Path(tiles).read_bytes()
    except OSError as problem:
        raise InputError(f"report.tiles: {tiles}: can't be read: {problem.strerror}") from None


def _images(run: Run) -> Known:
    manifest, catalog = run.snapshot("manifest"), run.current("catalog")
    return {
        "n_images": manifest.rows,
        "status_counts": manifest.counts,
        "status_examples": _broken(run),
        "notes": catalog.meta["notes"] if catalog else {},
    }


def _broken(run: Run) -> list[tuple[str, str, str | None, str | None]]:
    """Status, file name, location and detail of some images of each status that is not ok."""
    rows = run.table("manifest").to_table(columns=["status", "file_name", "location", "detail"])
    frame = rows.filter(pc.not_equal(rows["status"].cast(pa.string()), "ok")).to_pandas()
    statuses = max(1, frame["status"].nunique())
    some = frame.groupby("status", sort=False, observed=True).head(max(1, _MOST_BROKEN // statuses))
    some = some.astype(object).where(some.notna(), None)
    return list(some.itertuples(index=False, name=None))


def _findings(run: Run) -> Known:
    """How many of each kind, with examples from different cameras and comparisons as far as possible."""
    snapshot = current_findings(run)
    if snapshot is None:
        return {}
    table = open_table(run.folder, snapshot)
    counts = kind_counts(snapshot)
    kinds = [table.head(_MOST_SEEN, filter=pc.field("kind") == kind) for kind in counts]
    if not kinds:
        return {"finding_counts": counts}
    frame = pa.concat_tables(kinds).to_pandas()
    frame["here"] = frame.groupby(["kind", "location"], dropna=False).cumcount()
    frame["of_other"] = frame.groupby(["kind", "other_image_id"]).cumcount()
    chosen = frame.sort_values(["of_other", "here"], kind="stable").groupby("kind").head(_MOST_OF_A_KIND)
    chosen = chosen.sort_index().astype(object)
    columns = ["kind", "file_name", "location", "detail", "image_id", "other_image_id"]
    rows = chosen.where(chosen.notna(), None)[columns].to_dict("records")
    return {"finding_counts": counts, "finding_examples": [Finding(**row) for row in rows]}


def _selection(run: Run) -> Known:
    selected = run.current("selection")
    if selected is None:
        return {}
    return {
        "selection_reasons": reason_counts(run),
        "split_counts": selected.meta["by_class"],
        "split_by": selected.meta["split_by"],
        "split_across": selected.meta["across"],
        "worst_mistakes": _worst_mistakes(run) if run.current("predictions") is not None else [],
    }


def _worst_mistakes(run: Run) -> list[Example]:
    """Images of held-out splits with wrong labels, the most confident first."""
    truth = run.table("selection").to_table(columns=["image_id", "label", "split"])
    held_out = truth.filter(pc.is_in(truth["split"], pa.array(["valid", "test"]))).to_pandas()
    predicted = run.table("predictions").to_table(columns=["image_id", "label", "confidence"]).to_pandas()
    both = held_out.merge(predicted, on="image_id", suffixes=("_truth", ""))
    wrong = both[both["label"] != both["label_truth"]].dropna(subset=["label"])
    worst = wrong.sort_values("confidence", ascending=False).head(_MOST_PHOTOS)
    columns = (worst[name].tolist() for name in ("image_id", "label", "confidence", "label_truth"))
    return [Example(*row) for row in zip(*columns, strict=True)]


def _model(run: Run, wanted: str) -> Known:
    """What a report says about the model: its card, its figures on the split that judges it, its history."""
    trained = run.current("model") if wanted == "latest" else None
    predicted = run.current("predictions")
    model_id = trained.meta["model_id"] if trained else predicted.inputs["model"] if predicted else None
    if model_id in (None, NO_MODEL):
        return {}
    folder = model_folder(run, model_id)
    if not folder.exists(CARD):
        return {}
    card = read_card(fetch_model(folder))
    figures = read_metrics(folder)
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
        "batch": read_picture(folder, BATCH),
        "computed_in": _computed_in(predicted, model_id),
    }


def _judged(run: Run) -> Known:
    if run.current("metrics") is None:
        return {}
    metrics = run.table("metrics").to_table()
    return {"reviewed": judged(metrics, "sample"), "by_labels": judged(metrics, "labels")}


def _computed_in(predicted: Snapshot | None, model_id: str) -> str | None:
    if predicted is None or predicted.inputs["model"] != model_id:
        return None
    found = predicted.meta.get("precision", {})
    precision: str | None = found.get("precision")
    if precision and found.get("runtime", "torch") != "torch":
        precision += f" by {found['runtime']}"
    again = ", ".join(f"{n:,} in {name}" for name, n in predicted.meta.get("again", {}).items())
    return f"{precision}; near ties again: {again}" if again else precision


def _detector(run: Run) -> Known:
    """The boxes that count, by image and category, and the spots where boxes repeat."""
    predicted, detected, boxes = (run.current(name) for name in ("predictions", "detected", "detections"))
    repeats = predicted.meta.get("detections") if predicted else None
    known: Known = {"detections": repeats}
    if detected is None or boxes is None or "repeats" not in boxes.meta:
        return known
    threshold = boxes.meta["repeats"]["threshold"]
    columns = ["image_id", "category", "confidence", "repeat"]
    counted = run.table("detections").to_table(
        columns=columns, filter=(pc.field("confidence") >= threshold) & pc.field("repeat").is_null()
    )
    by_category = counted.group_by("category").aggregate(
        [("image_id", "count_distinct"), ("image_id", "count")]
    )
    rows = sorted(by_category.to_pylist(), key=lambda row: -row["image_id_count"])
    status = run.table("detected").to_table(columns=["status"])["status"].cast("string")
    n_looked_at = pc.sum(pc.equal(status, "ok")).as_py() or 0
    settings = run.job.detection[0] if run.job.detection else None
    name = str((settings.model or settings.results) if settings else "") or "not known"
    known["detector"] = Detected(
        name=redacted(name),
        detector_id=str(detected.inputs.get("detector", "")),
        threshold=float(threshold),
        n_images=n_looked_at,
        n_failed=len(status) - n_looked_at,
        n_with={row["category"]: row["image_id_count_distinct"] for row in rows},
        n_boxes={row["category"]: row["image_id_count"] for row in rows},
        description=detected.meta.get("detector", ""),
        n_without=n_looked_at - pc.count_distinct(counted["image_id"]).as_py(),
    )
    return known


def _results(context: Context) -> Known:
    """What was seen, according to the current result of `merge`."""
    run = context.run
    merged = MergeResult(run, run.snapshot("locations"))
    events = run.table("events").to_table()
    deployments = read_deployments(merged)
    ids, strips = choose_photos(run, events, context.job.report.photos)
    return {
        **_places(merged, context.job.report.blur_km),
        "events": events,
        "deployments": deployments,
        "dates": _dates(run),
        "files": _files(run, events["best_image_id"]),
        "strips": strips,
        "best_photos": _best_photos(events),
        "n_corrected": _corrected(run),
        "n_unlabelled": _unlabelled(merged),
        **_undated(run),
        **_estimates(merged, events, deployments),
        "photos": dict.fromkeys(ids),
    }


def _places(merged: MergeResult, blur_km: float) -> Known:
    """The table `locations` with the positions that may be shown, and which of them are on a coarser grid."""
    shown = shown_locations(merged, blur_km)
    grids = zip(shown.locations["location"].to_pylist(), shown.grid_km.tolist(), strict=True)
    return {"locations": shown.locations, "hidden": {name: km for name, km in grids if km > blur_km}}


def _dates(run: Run) -> Dates:
    """The period of the usable images whose dates are not in doubt."""
    rows = run.table("manifest").to_table(columns=["image_id", "location", "datetime", "status"])
    rows = rows.filter(pc.is_in(rows["status"].cast(pa.string()), pa.array(USABLE)))
    doubted: npt.NDArray[np.bool_] = np.zeros(rows.num_rows, np.bool_)
    findings = current_findings(run)
    if findings is not None:
        found = run.table("findings", findings.number).to_table(
            columns=["image_id"], filter=pc.field("kind").isin([*DATE_FINDINGS, "outside_deployment"])
        )
        doubted = one_chunk(pc.is_in(rows["image_id"], one_chunk(found["image_id"]))).to_numpy(
            zero_copy_only=False
        )
    return find_dates(rows["location"], rows["datetime"], doubted)


def _files(run: Run, image_ids: pa.ChunkedArray) -> dict[str, str]:
    """image_id -> file name of these images."""
    rows = run.table("frames").to_table(columns=["image_id", "file_name"])
    some = rows.filter(pc.is_in(rows["image_id"], one_chunk(image_ids)))
    return dict(zip(some["image_id"].to_pylist(), some["file_name"].to_pylist(), strict=True))


def _best_photos(events: pa.Table) -> list[Example]:
    """The most confident photo of each species; if only people labelled it, one without a confidence."""
    frame = events.select(["label", "confidence", "best_image_id"]).to_pandas()
    if "label_source" in events.column_names:
        said = pc.fill_null(pc.equal(events["label_source"], "human"), False)
        frame.loc[said.to_pandas().to_numpy(bool), "confidence"] = np.nan
    frame = frame[frame["label"] != UNCERTAIN].sort_values("confidence", ascending=False, kind="stable")
    chosen = frame.drop_duplicates("label").head(_MOST_PHOTOS)
    columns = (chosen[name].tolist() for name in ("best_image_id", "label", "confidence"))
    return [
        Example(image_id, label, None if np.isnan(confidence) else confidence)
        for image_id, label, confidence in zip(*columns, strict=True)
    ]


def _corrected(run: Run) -> int:
    table = run.table("frames")
    if "label_source" not in table.schema.names:
        return 0
    return int(table.count_rows(filter=pc.field("label_source") == "human"))


def _unlabelled(merged: MergeResult) -> int:
    """How many usable images have no label, where only people give labels."""
    if merged.snapshot.inputs["model"] != "none":
        return 0
    return int(merged.table("frames").count_rows(filter=pc.field("label").is_null()))


def _undated(run: Run) -> Known:
    """How many usable images have no date, and some of them."""
    table = run.table("frames")
    without = pc.field("no_event") == "no date"
    some = table.head(_MOST_UNDATED, columns=["file_name", "location", "label"], filter=without)
    return {
        "n_undated": table.count_rows(filter=without),
        "undated": [tuple(row.values()) for row in some.to_pylist()],
    }


def _estimates(merged: MergeResult, events: pa.Table, deployments: pa.Table) -> Known:
    """Rates of species, and occupancy and activity where they can be estimated in a moment."""
    counted = Counted()
    some = counted.of(events)
    found: Known = {"rates": species_rows(some, deployments, merged.snapshot.meta.get("effort", "station"))}
    days = sum(value or 0 for value in deployments["days"].to_pylist())
    if len(some["label"].unique()) * days <= _MOST_ESTIMATED:
        for name in ("occupancy", "activity"):
            try:
                with np.errstate(all="ignore"):  # from values that a fit tries on its way
                    found[name] = ESTIMATES[name](merged, counted, 7)
            except (CamtrapError, ValueError):  # too little data for an estimate: the report leaves it out
                continue
    return found


def _photos(context: Context, known: Known) -> Known:
    """The photos of every part that shows some; none if the job wants none."""
    most = context.job.report.photos
    if not most:
        return {"photos": {}}
    examples = [*known.get("best_photos", ()), *known.get("worst_mistakes", ())]
    findings = known.get("finding_examples", ())
    ids = [example.image_id for example in examples]
    ids += [image_id for row in findings for image_id in (row.image_id, row.other_image_id) if image_id]
    return {"photos": read_photos(context.run, list(dict.fromkeys([*ids, *known.get("photos", {})]))[:most])}
