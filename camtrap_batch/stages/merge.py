"""merge: frames into sequences, sequences into events, events into one row a location. Runs on the driver."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import read_dataset_cameras, read_dataset_periods
from camtrap_batch.codes import one_chunk
from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.events import (
    UNKNOWN_LOCATION,
    Events,
    Sequences,
    SpeciesLists,
    Taxonomy,
    combine,
    find_events,
    make_taxonomy,
    read_species,
    read_taxonomy,
    summarise,
)
from camtrap_batch.job import Job
from camtrap_batch.model.info import ModelInfo, read_info
from camtrap_batch.model.library import fetch_model, model_folder
from camtrap_batch.pipeline.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.selection.classes import empty_class
from camtrap_batch.store import schemas
from camtrap_batch.store.manifest import current_findings, usable_rows
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import DEPLOYMENTS
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.survey.checks import check_deployments, check_texts
from camtrap_batch.survey.effort import Counting, effort_by_location, make_deployments
from camtrap_batch.vocabulary import DATE_FINDINGS, NO_EVENT, UNCERTAIN, USABLE

VERSION = 3
TABLES = ("locations", "frames", "sequences", "events", "deployments")

_FROM_MANIFEST = ("location", "deployment", "status", "datetime", "utc_offset_minutes", "is_night")
_BATCH = 8192
_SHOWN = 5


def run(context: Context) -> StageResult:
    """Make the tables `frames`, `sequences`, `events` and `locations` from `manifest` and `predictions`.

    Raises
    ------
    InputError
        There are no predictions yet, they belong to another manifest, or a file of the section `events` is
        not there or not what it should be.
    """
    job, store = context.job, context.run
    manifest, predictions = store.snapshot("manifest"), store.snapshot("predictions")
    findings = current_findings(store)
    model_id = str(predictions.inputs["model"])
    info = read_info(fetch_model(model_folder(store, model_id)))
    cameras = read_dataset_cameras(job.dataset)
    periods, outages, lines = read_dataset_periods(job.dataset)
    taxonomy, species = read_rules(job)
    empty = empty_class(job, info)
    settings: dict[str, Any] = {
        "min_confidence": job.infer.min_confidence,
        "gap_min": job.events.gap_min,
        "empty": empty,
        "taxonomy": taxonomy and {label: list(groups) for label, groups in taxonomy.groups.items()},
        "species": species and _as_json(species),
    }
    told = []
    if periods is not None or outages is not None:  # what a run without them holds is what it always was
        told = [[] if table is None else table.to_pylist() for table in (periods, outages)]
        settings["effort"] = job.events.effort
    id_ = shard_id(
        "merge",
        VERSION,
        "locations",
        [schemas.fingerprint(name) for name in TABLES if name != "deployments"],
        settings,
        cameras.to_pylist() if cameras is not None else None,
        manifest.plan_id,
        predictions.plan_id,
        findings.plan_id if findings else None,
        *told,
    )
    counts: Counter[str] = Counter()

    def make() -> dict[str, pa.Table]:
        frames = usable_frames(store, predictions)
        sequences = combine(
            frames,
            empty=empty,
            min_confidence=job.infer.min_confidence,
            classes=predictions.meta.get("classes", info.classes),
            scores=lambda: _scores(store, predictions),
            taxonomy=taxonomy,
            species=species,
        )
        events = find_events(sequences.frames, empty=empty, gap_min=job.events.gap_min)
        images = store.table("manifest").to_table(columns=["image_id", *_FROM_MANIFEST])
        deployments, effort = find_effort(
            images, sequences.frames, periods, outages, empty=empty, counting=job.events.effort
        )
        dubious = _dubious(store, findings)
        locations = summarise(
            images,
            sequences.sequences,
            events.events,
            cameras,
            empty=empty,
            model_id=model_id,
            predictions_snapshot=predictions.number,
            run_time=dt.datetime.fromisoformat(predictions.created),
            dubious=dubious,
            effort=effort,
        )
        table = frame_rows(frames, sequences, events, empty)
        if pc.sum(locations["n_images"]).as_py() not in (images.num_rows, None):
            raise BrokenPromise("merge: the locations' images are not the manifest's; nothing was committed")
        if table["event_id"].null_count != pc.count(table["no_event"]).as_py():
            raise BrokenPromise("merge: an image is in no event, and nothing says why; nothing was committed")
        counts.update(_count(table, sequences.sequences, locations, dubious))
        return {
            "locations": locations,
            "frames": table,
            "sequences": sequences.sequences,
            "events": events.events,
            "deployments": deployments,
        }

    inputs = {"manifest": manifest.number, "predictions": predictions.number, "model": model_id}
    if findings is not None:
        inputs["findings"] = findings.number
    result = do_on_driver(
        context, "merge", id_, make, TABLES, inputs=inputs, meta=lambda: {**settings, "found": dict(counts)}
    )
    result.notes += lines
    if not context.dry_run:
        result.notes += _notes(store, taxonomy, info)
    return result


def find_effort(
    images: pa.Table,
    frames: pa.Table,
    periods: pa.Table | None,
    outages: pa.Table | None,
    *,
    empty: str,
    counting: Counting,
) -> tuple[pa.Table, pa.Table | None]:
    """Rows of the table `deployments`, and the effort of the locations of which somebody wrote them down.

    Parameters
    ----------
    images : the manifest's columns `_FROM_MANIFEST`
    frames : its usable images as `combine` labels them, in the same order
    """
    usable = images.filter(pc.is_in(images["status"].cast(pa.string()), pa.array(USABLE)))
    deployments, _ = make_deployments(usable, periods, outages)
    is_empty = pc.fill_null(pc.equal(frames["label"], empty), False)
    checks = check_deployments(deployments, usable, one_chunk(is_empty).to_numpy(zero_copy_only=False))
    texts = pa.array(check_texts(checks, deployments.num_rows), DEPLOYMENTS.field("checks").type)
    deployments = deployments.set_column(deployments.column_names.index("checks"), "checks", texts)
    if periods is None:
        return deployments, None
    is_told = pc.is_in(deployments["location"], periods["location"].combine_chunks())
    return deployments, effort_by_location(deployments.filter(is_told), counting)


def read_rules(job: Job) -> tuple[Taxonomy | None, SpeciesLists | None]:
    """The job's taxonomy and its species lists. Raises InputError where a file of them is wrong."""
    events = job.events
    if isinstance(events.taxonomy, str):
        taxonomy: Taxonomy | None = read_taxonomy(events.taxonomy)
    else:
        taxonomy = make_taxonomy(events.taxonomy) if events.taxonomy is not None else None
    return taxonomy, read_species(events.species, events.regions) if events.species is not None else None


def usable_frames(store: Run, predictions: Snapshot) -> pa.Table:
    """The usable rows of the manifest with label, confidence and count of their predictions beside them."""
    frames = usable_rows(
        store, ["image_id", "file_name", "location", "seq_id", "frame_num", "datetime", "status"]
    )
    table = store.table("predictions", predictions.number)
    counts = [name for name in ("n_boxes",) if name in table.schema.names]
    predicted = table.to_table(columns=["image_id", "label", "confidence", *counts])
    if not predicted["image_id"].equals(frames["image_id"]):
        raise InputError(f"{store.folder.url}: the predictions are of another manifest; run infer first")
    for name in ("label", "confidence"):
        frames = frames.append_column(name, predicted[name])
    return frames.append_column("count", predicted["n_boxes"]) if counts else frames


def frame_rows(frames: pa.Table, sequences: Sequences, events: Events, empty: str) -> pa.Table:
    """Rows of the table `frames`."""
    labelled = sequences.frames
    n = frames.num_rows
    whys = [
        labelled["datetime"].is_null(),
        labelled["label"].is_null(),
        pc.fill_null(pc.equal(labelled["label"], empty), False),
    ]
    why = pc.case_when(
        pc.make_struct(*(one.combine_chunks() for one in whys)), *(pa.repeat(text, n) for text in NO_EVENT)
    )
    return pa.table(
        {
            "file_name": frames["file_name"],
            **{name: labelled[name] for name in ("image_id", "location", "seq_id", "label", "confidence")},
            "image_confidence": labelled["image_confidence"],
            "event_id": events.event_id,
            "count": frames["count"] if "count" in frames.column_names else pa.nulls(n, pa.int32()),
            "no_event": why,
        }
    ).select(schemas.FRAMES.names)


def _scores(store: Run, predictions: Snapshot) -> Iterator[pa.RecordBatch]:
    """Probabilities, batch by batch: of many classes they are more than a driver's memory should hold."""
    table = store.table("predictions", predictions.number)
    columns = [name for name in ("top5", "probs") if name in table.schema.names]
    batches: Iterator[pa.RecordBatch] = table.to_batches(
        columns=columns, batch_size=_BATCH, batch_readahead=2, fragment_readahead=2
    )
    return batches


def _dubious(store: Run, findings: Snapshot | None) -> pa.Table | None:
    """Image, location and kinds of the usable images whose date is a finding."""
    if findings is None:
        return None
    found = store.table("findings", findings.number).to_table(
        columns=["image_id", "location", "kind"], filter=pc.field("kind").isin(DATE_FINDINGS)
    )
    usable = usable_rows(store, ["image_id", "status"])["image_id"] if found.num_rows else found["image_id"]
    found = found.filter(pc.is_in(found["image_id"], usable.combine_chunks()))
    by_image = found.group_by(["image_id", "location"], use_threads=False).aggregate([("kind", "list")])
    return by_image.set_column(
        1, "location", by_image["location"].cast(pa.string()).fill_null(UNKNOWN_LOCATION)
    )


def _count(
    frames: pa.Table, sequences: pa.Table, locations: pa.Table, dubious: pa.Table | None
) -> dict[str, int]:
    """What `_notes` tells of, beside rows."""
    dated_wrong = Counter(dubious["kind_list"].combine_chunks().flatten().to_pylist() if dubious else ())
    return {
        **{why: pc.sum(pc.equal(frames["no_event"], why)).as_py() or 0 for why in NO_EVENT},
        "uncertain": pc.sum(pc.equal(sequences["label"], UNCERTAIN)).as_py() or 0,
        "group": pc.count(sequences["rank"]).as_py(),
        "set aside": pc.count(sequences["set_aside"]).as_py(),
        "without images": pc.sum(pc.equal(locations["n_images"], 0)).as_py() or 0,
        **dated_wrong,
    }


def _notes(store: Run, taxonomy: Taxonomy | None, info: ModelInfo) -> list[str]:
    """What the current tables came to, and whatever is counted apart in them."""
    locations = store.snapshot("locations")
    found: dict[str, int] = locations.meta["found"]
    labelled = [
        f"{found[key]:,} {text}"
        for key, text in (
            ("uncertain", "uncertain"),
            ("group", "with the label of a group"),
            ("set aside", "with a species set aside"),
        )
        if found[key]
    ]
    notes = [
        f"{store.snapshot('sequences').rows:,} sequences" + (f": {', '.join(labelled)}" if labelled else ""),
        f"{store.snapshot('events').rows:,} events",
    ]
    if found["no date"]:
        notes.append(f"images without a date, in no event (table frames, no_event): {found['no date']:,}")
    dates = ", ".join(f"{kind} {found[kind]:,}" for kind in DATE_FINDINGS if found.get(kind))
    if dates:
        notes.append(f"dates that may be wrong count as they are (table findings): {dates}")
    if found["without images"]:
        rows = store.table("locations").to_table(columns=["location"], filter=pc.field("n_images") == 0)
        names = rows["location"].to_pylist()
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        notes.append(f"cameras without an image: {len(names):,} ({', '.join(names[:_SHOWN])}{more})")
    if taxonomy is not None:
        strange = [
            name for name in info.classes if not taxonomy.above(name) and name != locations.meta["empty"]
        ]
        if strange:
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            notes.append(f"events.taxonomy has no group for {', '.join(strange[:_SHOWN])}{more}")
    predictions = locations.inputs["predictions"]
    notes.append(
        f"snapshot {locations.number}, of predictions {predictions} (camtrap diff, publish --snapshot)"
    )
    return notes


def _as_json(species: SpeciesLists) -> dict[str, Any]:
    """The lists as a snapshot keeps them, in an order that is always the same."""
    return {
        "everywhere": sorted(species.everywhere),
        "by_region": {name: sorted(labels) for name, labels in species.by_region.items()},
        "by_location": {name: sorted(labels) for name, labels in species.by_location.items()},
        "regions": dict(species.regions),
    }
