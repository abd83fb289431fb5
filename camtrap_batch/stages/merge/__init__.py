"""merge: frames into sequences, sequences into events, events into one row per location, on the driver."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import as_photos_have_it, read_dataset_cameras, read_dataset_periods
from camtrap_batch.clocks import with_some_offsets
from camtrap_batch.codes import one_chunk
from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.events import (
    UNKNOWN_LOCATION,
    SpeciesLists,
    Taxonomy,
    combine,
    find_events,
    frame_rows,
    read_species,
    summarise,
    taxonomy_of,
    unused_cameras,
    unused_lines,
)
from camtrap_batch.events.human import overrule
from camtrap_batch.events.labels import Names, of_corrections, of_metadata, one_of_each
from camtrap_batch.job import Job
from camtrap_batch.job.results import Labels
from camtrap_batch.model.info import read_info
from camtrap_batch.model.library import fetch_model, model_folder
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Part, Stage, StageResult, TableSpec, shard_id
from camtrap_batch.review.boxes import Rest, scores_with_rest, settle_boxes, with_rest
from camtrap_batch.review.sample import Draw, read_draws
from camtrap_batch.selection.classes import empty_class, empty_of_data_set
from camtrap_batch.stages.merge.corrected import with_corrected
from camtrap_batch.stages.merge.quality import describe, judged_by, measure
from camtrap_batch.store import schemas
from camtrap_batch.store.corrections import fold, read_corrections, standing
from camtrap_batch.store.manifest import categories_of, current_findings, usable_rows
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import DEPLOYMENTS
from camtrap_batch.store.shards import Plan, Shard, digest
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import stands
from camtrap_batch.survey.checks import check_deployments, check_texts
from camtrap_batch.survey.effort import (
    HALF_KNOWN,
    RATES,
    Counting,
    effort_by_location,
    make_deployments,
    rated_events,
)
from camtrap_batch.vocabulary import (
    DATE_FINDINGS,
    FROM_METADATA,
    NO_EVENT,
    NO_MODEL,
    UNCERTAIN,
    USABLE,
    plural,
)

_FROM_MANIFEST = (
    "location",
    "deployment",
    "status",
    "datetime",
    "utc_offset_minutes",
    "date_only",
    "is_night",
)
_BATCH = 8192
_SHOWN = 5
_OF_BOXES = "boxes-1"  # what people say of boxes speaks for these alone


METRICS = Part("metrics", 1, (TableSpec("metrics", "each figure"),))


class MergeStage(Stage):
    name = "merge"
    help = "combine frames into sequences, events and locations"
    sections = ("events", "infer")
    version = 3
    tables = (
        TableSpec("locations", "each camera location"),
        TableSpec("frames", "each usable image of the manifest"),
        TableSpec("sequences", "each sequence"),
        TableSpec("events", "each event"),
        TableSpec("deployments", "each deployment of a camera"),
    )
    parts = (METRICS,)

    def check(self, context: Context) -> None:
        read_rules(context.job)

    def run(self, context: Context) -> StageResult:
        """Make `frames`, `sequences`, `events` and `locations` from `manifest` and `predictions`.

        Raises
        ------
        InputError
            There are no predictions yet, they belong to another manifest, or a file of the section `events`
            is missing or not what it should be.
        """
        sources = _read_sources(context)
        result = do_on_driver(
            context, self, _id(sources), lambda: _merge(context.run, sources), inputs=sources.inputs
        )
        if not context.dry_run:
            result.notes += [*sources.notes, *_notes(context.run, sources), *_judge(context, sources)]
        return result


STAGE = MergeStage()


@dataclass
class _Sources:
    """What is merged, and by which rules; `settings` is what a result records about these.

    Attributes
    ----------
    classes : of the model, or of the results that take its place; none where people alone labelled
    labels : whose count
    said : what people said of the usable images, as `events.human` wants it; None: nothing
    said_hash : of what they said
    rest : usable images of which they only found boxes empty: what the others say
    draws : random samples, of which they may have reviewed some
    """

    manifest: Snapshot
    predictions: Snapshot
    findings: Snapshot | None
    classes: list[str]
    labels: Labels
    cameras: pa.Table | None
    periods: pa.Table | None
    outages: pa.Table | None
    taxonomy: Taxonomy | None
    species: SpeciesLists | None
    settings: dict[str, Any]
    counting: Counting
    notes: list[str]
    said: pa.Table | None
    said_hash: list[str]
    rest: dict[int, Rest]
    draws: list[Draw]

    @property
    def told(self) -> list[list[dict[str, Any]]]:
        """Recorded deployments; without any, a run stays as it was before there were deployments."""
        if self.periods is None and self.outages is None:
            return []
        return [[] if table is None else table.to_pylist() for table in (self.periods, self.outages)]

    @property
    def model_id(self) -> str:
        return str(self.predictions.inputs["model"])

    @property
    def inputs(self) -> dict[str, Any]:
        numbers = {
            "manifest": self.manifest.number,
            "predictions": self.predictions.number,
            "model": self.model_id,
        }
        return numbers | ({"findings": self.findings.number} if self.findings is not None else {})


def _read_sources(context: Context) -> _Sources:
    job, run = context.job, context.run
    manifest, predictions = run.snapshot("manifest"), run.snapshot("predictions")
    categories = categories_of(run.snapshot("catalog", int(manifest.inputs["catalog"])).meta)
    if (model := str(predictions.inputs["model"])) != NO_MODEL:
        info = read_info(fetch_model(model_folder(run, model)))
        classes, empty = list(predictions.meta.get("classes", info.classes)), empty_class(job, info)
    else:
        classes, empty = list(predictions.meta["classes"]), empty_of_data_set(job, categories)
    labels = _whose_labels(job, predictions)
    cameras, periods, outages, notes = _read_cameras(job, run)
    taxonomy, species = read_rules(job)
    settings: dict[str, Any] = {
        "min_confidence": job.infer.min_confidence,
        "gap_min": job.events.gap_min,
        "empty": empty,
        "taxonomy": taxonomy and {label: list(groups) for label, groups in taxonomy.groups.items()},
        "species": species and _as_json(species),
    }
    if periods is not None or outages is not None:
        settings["effort"] = job.events.effort
    if periods is not None:
        settings |= RATES
        if pc.any(pc.xor(periods["start"].is_null(), periods["end"].is_null())).as_py():
            settings |= HALF_KNOWN
    if labels != "machine":
        settings["labels"] = labels
    said, said_hash, rest = _said(
        context, labels, Names(empty, [*classes, *(name for _, name in categories)]), empty
    )
    return _Sources(
        manifest=manifest,
        predictions=predictions,
        findings=current_findings(run),
        classes=classes,
        labels=labels,
        cameras=cameras,
        periods=periods,
        outages=outages,
        taxonomy=taxonomy,
        species=species,
        settings=settings,
        counting=job.events.effort,
        notes=notes,
        said=said,
        said_hash=said_hash,
        rest=rest,
        draws=read_draws(run) if said_hash else [],
    )


def _whose_labels(job: Job, predictions: Snapshot) -> Labels:
    """`events.labels`; without a model the labels of people count, before a machine's in the metadata."""
    if predictions.inputs["model"] != NO_MODEL:
        return job.events.labels
    if predictions.meta.get(FROM_METADATA) and "labels" not in job.events.model_fields_set:
        return "human_first"
    return job.events.labels if predictions.meta["classes"] else "human"


def _read_cameras(job: Job, run: Run) -> tuple[pa.Table | None, pa.Table | None, pa.Table | None, list[str]]:
    """Coordinates, deployments and outages, with the locations as the images have them, and notes."""
    periods, outages, notes = read_dataset_periods(job.dataset)
    cameras, periods, outages = (
        None if table is None else as_photos_have_it(table, lambda: _locations(run))
        for table in (read_dataset_cameras(job.dataset), periods, outages)
    )
    return cameras, periods, outages, notes


def _locations(run: Run) -> pa.ChunkedArray:
    return run.table("manifest").to_table(columns=["location"])["location"]


def _said(
    context: Context, labels: Labels, names: Names, empty: str
) -> tuple[pa.Table | None, list[str], dict[int, Rest]]:
    """What people said about the usable images, hashes of it, and what they left to other boxes.

    A correction replaces what the metadata say about its image.
    """
    run = context.run
    if not context.dry_run:
        fold(run)
    corrections = read_corrections(run)
    told, hashes, rest = None, list[str](), dict[int, Rest]()
    if corrections.num_rows:
        images = usable_rows(run, ["image_id", "sha256", "status"])
        found = standing(corrections, images)
        if found.num_rows:
            hashes = [digest(found["correction_id"].to_pylist())]
            if pc.any(pc.equal(found["scope"], "box")).as_py():
                hashes.append(_OF_BOXES)
            settled = settle_boxes(run, found, images["image_id"], empty)
            rest = settled.rest
            told = of_corrections(settled.said) if settled.said.num_rows else None
    if labels != "machine":
        catalog = run.table("catalog", int(run.snapshot("manifest").inputs["catalog"]))
        rows = catalog.to_table(columns=["image_id", "labels", "labelled_by"])
        usable = usable_rows(run, ["image_id", "status"])["image_id"]
        # The manifest's plan, on which a result depends, also stands for what the catalog says.
        told = one_of_each(of_metadata(rows, usable, names), told)
    return (told if told is not None and told.num_rows else None), hashes, rest


def _id(sources: _Sources) -> str:
    return shard_id(
        STAGE,
        [schemas.fingerprint(table.name) for table in STAGE.tables if table.name != "deployments"],
        sources.settings,
        sources.cameras.to_pylist() if sources.cameras is not None else None,
        sources.manifest.plan_id,
        sources.predictions.plan_id,
        sources.findings.plan_id if sources.findings else None,
        *sources.told,
        *sources.said_hash,
        *([one.name, one.created] for one in sources.draws),
    )


def _judge(context: Context, sources: _Sources) -> list[str]:
    """Make `metrics`, if there is anything to judge labels by; returns notes for people."""
    run = context.run
    locations = run.snapshot("locations")
    id_ = shard_id(METRICS, locations.plan_id, *judged_by(run, sources.predictions))
    before = run.current("metrics")
    asked = Plan.make(METRICS.name, [Shard(id_, 0, before.rows if before is not None else 0)], {})
    if before is None or before.inputs.get("shard") != id_ or not stands(run.folder, asked, ["metrics"]):
        table = measure(run, sources.predictions, sources.settings["empty"])
        if not table.num_rows and before is None:
            return []
        do_on_driver(
            context, METRICS, id_, lambda: Made({"metrics": table}), inputs={"locations": locations.number}
        )
    return describe(run.table("metrics").to_table())


def _merge(run: Run, sources: _Sources) -> Made:
    settings, predictions = sources.settings, sources.predictions
    empty = settings["empty"]
    frames = with_rest(usable_frames(run, predictions), sources.rest)
    sequences = combine(
        frames,
        empty=empty,
        min_confidence=settings["min_confidence"],
        classes=sources.classes,
        scores=lambda: scores_with_rest(_scores(run, predictions), sources.rest),
        # Labels of people alone are neither rolled up nor set aside.
        taxonomy=sources.taxonomy if sources.classes else None,
        species=sources.species if sources.classes else None,
    )
    shown = sequences.frames
    alone = sources.labels == "human"
    if sources.said is not None or alone:
        sequences, shown = overrule(sequences, sources.said, empty=empty, alone=alone)
    events = find_events(shown, empty=empty, gap_min=settings["gap_min"])
    images = run.table("manifest").to_table(columns=["image_id", *_FROM_MANIFEST])
    deployments, effort = find_effort(
        images,
        sequences.frames,
        sources.periods,
        sources.outages,
        empty=empty,
        counting=sources.counting,
    )
    rated = None if effort is None else rated_events(events.events, deployments)
    dubious = _dubious(run, sources.findings)
    locations = summarise(
        images,
        sequences.sequences,
        events.events,
        sources.cameras,
        empty=empty,
        model_id=None if sources.model_id == NO_MODEL else sources.model_id,
        predictions_snapshot=predictions.number,
        run_time=dt.datetime.fromisoformat(predictions.created),
        dubious=dubious,
        effort=effort,
        rated=rated,
    )
    table = frame_rows(frames, sequences, events, empty, shown)
    locations = with_corrected(locations, sequences.sequences, table, sources.draws, empty)
    _require_all_images(images, locations, table)
    tables = {
        "locations": locations,
        "frames": table,
        "sequences": sequences.sequences,
        "events": events.events,
        "deployments": deployments,
    }
    found = _count(table, sequences.sequences, locations, dubious)
    if rated is not None:
        found["outside effort"] = int((~rated).sum())
    return Made(tables, {**settings, "found": found})


def _require_all_images(images: pa.Table, locations: pa.Table, frames: pa.Table) -> None:
    if pc.sum(locations["n_images"]).as_py() not in (images.num_rows, None):
        raise BrokenPromise("merge: the locations' images are not the manifest's; nothing was committed")
    if frames["event_id"].null_count != pc.count(frames["no_event"]).as_py():
        raise BrokenPromise("merge: an image is in no event, and nothing says why; nothing was committed")


def find_effort(
    images: pa.Table,
    frames: pa.Table,
    periods: pa.Table | None,
    outages: pa.Table | None,
    *,
    empty: str,
    counting: Counting,
) -> tuple[pa.Table, pa.Table | None]:
    """Rows of the table `deployments`, and the effort of locations whose deployments were recorded.

    Parameters
    ----------
    images : the manifest's columns `_FROM_MANIFEST`
    frames : its usable images as labelled by `combine`, in the same order
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
    """The job's taxonomy and its species lists. Raises InputError if one of these files is wrong."""
    events = job.events
    taxonomy = taxonomy_of(events.taxonomy)
    return taxonomy, read_species(events.species, events.regions) if events.species is not None else None


def usable_frames(run: Run, predictions: Snapshot) -> pa.Table:
    """The usable rows of the manifest, joined with label, confidence and count of their predictions."""
    of_image = ["image_id", "file_name", "location", "seq_id", "frame_num", "status"]
    frames = usable_rows(run, [*of_image, "datetime", "utc_offset_minutes", "date_only"])
    table = run.table("predictions", predictions.number)
    counts = [name for name in ("n_boxes",) if name in table.schema.names]
    predicted = table.to_table(columns=["image_id", "label", "confidence", *counts])
    if not predicted["image_id"].equals(frames["image_id"]):
        raise InputError(f"{run.folder.url}: the predictions are of another manifest; run infer first")
    for name in ("label", "confidence"):
        frames = frames.append_column(name, predicted[name])
    return frames.append_column("count", predicted["n_boxes"]) if counts else frames


def _scores(run: Run, predictions: Snapshot) -> Iterator[pa.RecordBatch]:
    """Probabilities, batch by batch: with many classes they exceed what a driver's memory should hold."""
    table = run.table("predictions", predictions.number)
    columns = [name for name in ("top5", "probs") if name in table.schema.names]
    batches: Iterator[pa.RecordBatch] = table.to_batches(
        columns=columns, batch_size=_BATCH, batch_readahead=2, fragment_readahead=2
    )
    return batches


def _dubious(run: Run, findings: Snapshot | None) -> pa.Table | None:
    """Image, location and kinds of the usable images whose date is a finding."""
    if findings is None:
        return None
    found = run.table("findings", findings.number).to_table(
        columns=["image_id", "location", "kind"], filter=pc.field("kind").isin(DATE_FINDINGS)
    )
    usable = usable_rows(run, ["image_id", "status"])["image_id"] if found.num_rows else found["image_id"]
    found = found.filter(pc.is_in(found["image_id"], usable.combine_chunks()))
    by_image = found.group_by(["image_id", "location"], use_threads=False).aggregate([("kind", "list")])
    return by_image.set_column(
        1, "location", by_image["location"].cast(pa.string()).fill_null(UNKNOWN_LOCATION)
    )


def _count(
    frames: pa.Table, sequences: pa.Table, locations: pa.Table, dubious: pa.Table | None
) -> dict[str, int]:
    """What `_notes` reports besides rows."""
    dated_wrong = Counter(dubious["kind_list"].combine_chunks().flatten().to_pylist() if dubious else ())
    return {
        **{why: pc.sum(pc.equal(frames["no_event"], why)).as_py() or 0 for why in NO_EVENT},
        "uncertain": pc.sum(pc.equal(sequences["label"], UNCERTAIN)).as_py() or 0,
        "group": pc.count(sequences["rank"]).as_py(),
        "set aside": pc.count(sequences["set_aside"]).as_py(),
        "without images": pc.sum(pc.equal(locations["n_images"], 0)).as_py() or 0,
        **dated_wrong,
    }


def _labelled_undated(run: Run) -> str:
    """A note on how many images without a date people have labelled, as what, and how to give dates; or
    nothing."""
    is_lost = (pc.field("no_event") == "no date") & (pc.field("label_source") == "human")
    labels = run.table("frames").to_table(columns=["label"], filter=is_lost)["label"].drop_null()
    if not len(labels):
        return ""
    counts = Counter(labels.to_pylist()).most_common()
    listed = ", ".join(f"{label} {number:,}" for label, number in counts[:_SHOWN])
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return (
        f"; people labelled {len(labels):,} of them ({listed}{more}), which are in no event until they have "
        "a date: in the photo's EXIF, or in the metadata (docs/csv.md: datetime)"
    )


def _labels_in(run: Run) -> list[str]:
    """The labels that images have."""
    labels = {name for _, name in categories_of(run.snapshot("catalog").meta)}
    labels.update(run.table("sequences").to_table(columns=["label"])["label"].drop_null().to_pylist())
    return sorted(labels - {UNCERTAIN})


def _notes(run: Run, sources: _Sources) -> list[str]:
    """Notes on the current tables, and on whatever is counted separately in them."""
    taxonomy, classes = sources.taxonomy, sources.classes
    locations = run.snapshot("locations")
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
        plural(run.snapshot("sequences").rows, "sequence") + (f": {', '.join(labelled)}" if labelled else ""),
        plural(run.snapshot("events").rows, "event"),
    ]
    if found["no date"]:
        notes.append(
            f"images without a date, in no event (table frames, no_event): {found['no date']:,}"
            + _labelled_undated(run)
        )
    if found["not classified"]:
        is_by_people = locations.inputs["model"] == "none"
        why = "that nobody has labelled" if is_by_people else "that could not be classified"
        notes.append(
            f"images {why}, in no event (table frames, no_event): {found['not classified']:,}"
            + ("; `camtrap review` shows them" if is_by_people else "")
        )
    if outside := found.get("outside effort"):
        notes.append(
            f"events at a time when no camera worked by its deployments: {outside:,}; they do not count in "
            "rates (table deployments, checks)"
        )
    dates = ", ".join(f"{kind} {found[kind]:,}" for kind in DATE_FINDINGS if found.get(kind))
    if dates:
        notes.append(f"dates that may be wrong count as they are (table findings): {dates}")
    dated = run.table("manifest").to_table(columns=["location", "datetime", "utc_offset_minutes"])
    if some := with_some_offsets(dated):
        more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
        notes.append(
            "cameras of which only some dates have an offset from UTC, so that their clocks count: "
            f"{len(some):,} ({', '.join(some[:_SHOWN])}{more}); dataset.utc_offset gives it to the others"
        )
    if found["without images"]:
        rows = run.table("locations").to_table(columns=["location"], filter=pc.field("n_images") == 0)
        names = rows["location"].to_pylist()
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        notes.append(f"cameras without an image: {len(names):,} ({', '.join(names[:_SHOWN])}{more})")
    if taxonomy is not None and any(taxonomy.groups.values()):  # otherwise it has only names
        strange = [name for name in classes if not taxonomy.above(name) and name != locations.meta["empty"]]
        if strange:
            more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
            notes.append(f"events.taxonomy has no group for {', '.join(strange[:_SHOWN])}{more}")
    if taxonomy is not None or sources.species is not None:
        known, where = (classes, "the model") if classes else (_labels_in(run), "the labels")
        notes += unused_lines(known, taxonomy, sources.species, where)
    if sources.species is not None and (sources.species.regions or sources.species.by_location):
        cameras = run.table("locations").to_table(columns=["location"])["location"].drop_null()
        notes += unused_cameras(sources.species, cameras.to_pylist())
    predictions = locations.inputs["predictions"]
    notes.append(
        f"snapshot {locations.number}, of predictions {predictions} (camtrap diff, publish --snapshot)"
    )
    return notes


def _as_json(species: SpeciesLists) -> dict[str, Any]:
    """The lists in the form that a snapshot keeps, in a fixed order."""
    return {
        "everywhere": sorted(species.everywhere),
        "by_region": {name: sorted(labels) for name, labels in species.by_region.items()},
        "by_location": {name: sorted(labels) for name, labels in species.by_location.items()},
        "regions": dict(species.regions),
    }
