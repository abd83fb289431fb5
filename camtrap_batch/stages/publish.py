"""publish: cameras, events and photos to the job's target, so that a second push changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import if_else
from camtrap_batch.detection.people import SURE, find_people, people_in
from camtrap_batch.errors import (
    CamtrapError,
    Damaged,
    InputError,
    Interrupted,
    LeaseLost,
    StageError,
    TargetUnreachable,
)
from camtrap_batch.events.sequences import HUMAN, MACHINE
from camtrap_batch.images.decode import JPEG
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.job import Job
from camtrap_batch.job.publish import KEY
from camtrap_batch.options import whole_number
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.shards import commit_made
from camtrap_batch.pipeline.stage import Made, Stage, StageOption, StageResult, TableSpec
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import EVENTS, LEDGER, LOCATIONS
from camtrap_batch.store.shards import digest
from camtrap_batch.survey.effort import RATES, rated_events
from camtrap_batch.survey.places import Shown, hides_places, shown_locations
from camtrap_batch.survey.result import read_deployments
from camtrap_batch.targets import (
    PHOTOS,
    LayerRows,
    Push,
    Target,
    Wanted,
    camera_rows,
    event_rows,
    photo_rows,
    targets_of,
)
from camtrap_batch.targets.base import OK, Photo, TakesEventPhotos, TakesPhotos
from camtrap_batch.targets.public import BLUR_KM, is_people, without_metadata, without_people
from camtrap_batch.vocabulary import NO_MODEL, UNCERTAIN, USABLE, plural

_SHOWN_CAMERAS = 20
_SHOWN_FAILURES = 5
_EVENTS_AT_ONCE = 2000
_NOT_IN_NAMES = re.compile(r"\W+")
_BEST_NAME = re.compile(r"best_.*_[0-9a-f]{8}\.jpg")


SNAPSHOT = StageOption(
    "snapshot",
    "an earlier result of merge, as camtrap status lists them (default: the current one)",
    parse=whole_number,
    metavar="N",
)
PRUNE = StageOption(
    "prune", "delete this job's stale rows from the layers of ArcGIS", False, parse=bool, metavar=None
)


class PublishStage(Stage):
    name = "publish"
    help = "push cameras, events and photos to the feature layer"
    sections = ("publish",)
    version = 1
    tables = (TableSpec("ledger", "each edit that the target has answered"),)
    options = (SNAPSHOT, PRUNE)

    def check(self, context: Context) -> None:
        check_target(context.job)

    def run(self, context: Context) -> StageResult:
        """Push the tables `locations` and `events`, and each classified image; edits go to the `ledger`.

        `--snapshot` says which result of `merge`; its rows replace those on the layer. A public target
        beside the job's own gets its part of the same rows, and is pushed to by itself: what goes wrong with
        one of the two does not keep the other from being brought up to date.

        Raises
        ------
        InputError
            The tables do not exist yet, or the target is something other than a layer of ours.
        StageError
            The target can't be written, or more of a layer would be deleted than is allowed, and nothing was
            changed; or some rows failed.
        """
        run, number = context.run, context.option(SNAPSHOT)
        merged = MergeResult.find(run, number)
        # Whoever pushes an older result wants rows that are newer to go.
        most_deleted = context.job.limits.deleted if number is None else 1.0
        targets = targets_of(run, Wanted(context.option(PRUNE), most_deleted, context.stop))
        if len(targets) > 1:
            for _, target in targets:  # both, before either is changed
                target.check(empty_rows(context.job.name))
        result = StageResult(self.name)
        if number is not None:
            holds = "would hold" if context.dry_run else "holds"
            result.notes.append(f"{merged.describe()} is what the layer {holds}")
        wrong: dict[str, CamtrapError] = {}
        edits = 0
        for its, target in targets:
            key = its.job.publish.key
            if key != KEY and context.stop.is_set():
                raise Interrupted(f"publish: interrupted before {key}; the same command goes on")
            try:
                edits += _push(context, result, replace(merged, run=its), target)
            except (LeaseLost, Damaged):
                raise
            except (StageError, InputError) as problem:
                wrong[key] = problem
        _require_all(wrong, [its.job.publish.key for its, _ in targets])
        if context.dry_run and not edits and (ledger := run.current("ledger")) is not None:
            result.snapshots = {"ledger": ledger.number}
        return result


STAGE = PublishStage()


def _push(context: Context, result: StageResult, merged: MergeResult, target: Target) -> int:
    """Push to one target, and add what was done to `result`; returns the number of edits.

    Parameters
    ----------
    merged : what is pushed; its run's job has the target as its only one
    """
    started = time.monotonic()
    job = merged.run.job
    shown = public_places(merged) if job.publish.is_public else None
    rows = layer_rows(merged, job, shown)
    if not context.dry_run:
        context.begin_writing(only_if_needed=True)
    push = target.push(rows, dry_run=context.dry_run)
    n_edits: int = push.edits.num_rows
    result.rows += sum(layer.columns.num_rows for layer in rows)
    answered = push.edits.filter(push.edits["result"].is_valid())
    notes = [*_describe(push), *(shown.notes if shown is not None else ())]
    if not context.dry_run:
        if answered.num_rows:
            context.begin_writing()
            _keep_ledger(context.run, answered.select(LEDGER.names).cast(LEDGER), merged.number, started)
            about = {"key": job.publish.key, "target": job.target_url, "edits": answered.num_rows}
            context.run.log("pushed", stage="publish", **about, locations=merged.number)
        _require_done(push)
        if context.stop.is_set() and answered.num_rows < n_edits:
            raise Interrupted(
                f"publish: interrupted with {plural(n_edits - answered.num_rows, 'edit')} left; the same "
                "command goes on"
            )
        if isinstance(target, TakesPhotos) and target.wants_photos:
            notes += target.attach(_best_photos(merged), _BEST_NAME)
        if isinstance(target, TakesEventPhotos) and target.wants_event_photos:
            notes += target.attach_to_events(_event_photos(merged), _BEST_NAME)
        if answered.num_rows:
            result.shards = result.shards_run = 1
            result.seconds += time.monotonic() - started
    key = job.publish.key
    result.notes += notes if key == KEY else [f"{key}: {note}" for note in notes]
    return n_edits


def _require_all(wrong: Mapping[str, CamtrapError], keys: Sequence[str]) -> None:
    """Raise what went wrong with a target; if the job has two, also say what became of the other."""
    if not wrong:
        return
    if len(keys) == 1:
        raise wrong[keys[0]]
    said = {key: str(problem).removeprefix(f"{KEY}: ") for key, problem in wrong.items()}
    text = "; ".join(f"{key}: {said[key]}" if key in said else f"{key} is up to date" for key in keys)
    for kind in (InputError, TargetUnreachable):
        if all(isinstance(problem, kind) for problem in wrong.values()):
            raise kind(text)
    raise StageError(text)


def _best_photos(merged: MergeResult) -> dict[str, list[Photo]]:
    """Camera location -> a photo of each species: the best image of the most confident event."""
    order = [("confidence", "descending"), ("event_id", "ascending")]
    best: dict[tuple[str, str], str] = {}
    for event in _shown_events(merged).sort_by(order).to_pylist():
        best.setdefault((event["location"], event["label"]), event["best_image_id"])
    pictures = _pictures(merged, set(best.values()))
    photos: dict[str, list[Photo]] = {}
    for (location, label), image_id in sorted(best.items()):
        if (data := pictures.get(image_id)) is not None:
            photos.setdefault(location, []).append(_photo(label, image_id, data))
    return photos


def _event_photos(merged: MergeResult) -> Iterator[dict[str, list[Photo]]]:
    """Event id -> its best image, in batches of some thousand."""
    events = _shown_events(merged).sort_by([("event_id", "ascending")])
    for start in range(0, events.num_rows, _EVENTS_AT_ONCE):
        some = events.slice(start, _EVENTS_AT_ONCE).to_pylist()
        pictures = _pictures(merged, {event["best_image_id"] for event in some})
        photos = {
            event["event_id"]: [_photo(event["label"], event["best_image_id"], data)]
            for event in some
            if (data := pictures.get(event["best_image_id"])) is not None
        }
        if photos:
            yield photos


def _shown_events(merged: MergeResult) -> pa.Table:
    """Events whose photo may be attached: labelled ones, and for the public those without people."""
    events = merged.table("events").to_table(
        columns=["event_id", "location", "label", "confidence", "best_image_id"]
    )
    if merged.run.job.publish.is_public:
        frames = merged.table("frames").to_table(columns=["image_id"])
        people = frames["image_id"].filter(_shows_people(merged, frames))
        is_shown = pc.invert(pc.is_in(events["best_image_id"], people.combine_chunks()))
        events = events.filter(pc.and_(is_shown, pc.invert(is_people(events["label"]))))
    is_known = pc.and_(events["location"].is_valid(), events["best_image_id"].is_valid())
    is_labelled = pc.fill_null(pc.not_equal(events["label"], UNCERTAIN), False)
    return events.filter(pc.and_(is_known, is_labelled))


def _pictures(merged: MergeResult, image_ids: set[str]) -> dict[str, bytes]:
    """Images in the form in which they are attached."""
    wanted = pa.array(sorted(image_ids), pa.string())
    rows = merged.table("manifest").to_table(columns=COLUMNS, filter=pc.field("image_id").isin(wanted))
    ids = rows["image_id"].to_pylist()
    found = find_people(merged.run, ids)
    return {
        ids[index]: _attached(shown, source, is_public=hides_places(merged.run.job))
        for index, data, source in read_pictures(
            merged.run.folder, image_root(merged.run.job), rows, use_thumbnails=True
        )
        if data is not None and (shown := found.picture(ids[index], data)) is not None
    }


def _photo(label: str, image_id: str, data: bytes) -> Photo:
    name = f"best_{_NOT_IN_NAMES.sub('_', label)}_{digest([label, image_id])[:8]}.jpg"
    return Photo(name, len(data), partial(bytes, data))


def _attached(data: bytes, source: str, *, is_public: bool) -> bytes:
    """A picture in the form in which it is attached: a JPEG, and for the public one without any metadata."""
    is_as_taken = source == "original" and (is_public or not data.startswith(JPEG))
    return without_metadata(data) if is_as_taken else data


def _require_done(push: Push) -> None:
    """Raise StageError if the push was stopped, or a row failed."""
    if push.stopped is not None:
        raise push.stopped
    results = push.edits["result"]
    failed = push.edits.filter(pc.and_(results.is_valid(), pc.not_equal(results, OK)))
    if not failed.num_rows:
        return
    some = failed.slice(0, _SHOWN_FAILURES).to_pylist()
    named = "; ".join(f"{row['edit']} {row['key']}: {row['result']}" for row in some)
    more = f"; and {failed.num_rows - len(some):,} more" if failed.num_rows > len(some) else ""
    raise StageError(
        f"publish: {failed.num_rows:,} of {plural(push.edits.num_rows, 'edit')} failed, the others are done: "
        f"{named}{more}"
    )


def check_target(job: Job) -> None:
    """Raise UserError if it is clear beforehand that the target can't be pushed to."""
    for _, target in targets_of(Run(job)):
        target.check(empty_rows(job.name))


def empty_rows(job: str) -> list[LayerRows]:
    """The layers' columns, without rows."""
    locations, events = LOCATIONS.empty_table(), EVENTS.empty_table()
    return [
        camera_rows(locations, job=job),
        event_rows(events, locations, job=job),
        photo_rows(PHOTOS.empty_table(), locations, job=job),
    ]


def public_places(merged: MergeResult) -> Shown:
    """The positions that a public layer shows."""
    return shown_locations(merged, merged.run.job.report.blur_km or BLUR_KM)


def layer_rows(merged: MergeResult, settings: Job, shown: Shown | None = None) -> list[LayerRows]:
    """What a result of `merge` puts on each layer; for the public, with the positions in `shown`."""
    job = settings.name
    locations, frames = merged.table("locations").to_table(), merged.table("frames").to_table()
    images = merged.table("manifest").to_table(
        columns=["image_id", "datetime", "status", "utc_offset_minutes"],
        filter=pc.field("status").cast("string").isin(USABLE),
    )
    predictions = merged.table("predictions").to_table(columns=["image_id", "label", "confidence"])
    for other in (images, predictions):
        if not other["image_id"].equals(frames["image_id"]):
            raise InputError(f"{merged.run.folder.url}: {merged.describe()}: not of the images that it names")
    photos = {
        **{name: frames[name] for name in ("image_id", "file_name", "location", "seq_id", "event_id")},
        **{name: images[name] for name in ("datetime", "status")},
        **_of_photos(merged, frames, predictions),
    }
    events = merged.table("events").to_table()
    offset = images["utc_offset_minutes"]
    of_location = offset.take(_first_known(frames["location"], offset, locations["location"]))
    of_event = offset.take(pc.index_in(events["best_image_id"], frames["image_id"].combine_chunks()))
    table = pa.table(photos)
    if shown is not None:
        is_by_effort = RATES.items() <= merged.snapshot.meta.items()
        rated = rated_events(events, read_deployments(merged)) if is_by_effort else None
        locations = without_people(shown.locations, events, rated)
        is_shown = pc.invert(is_people(events["label"]))
        events, of_event = events.filter(is_shown), of_event.filter(is_shown)
        is_shown = pc.invert(_shows_people(merged, frames))
        table, offset = table.filter(is_shown), offset.filter(is_shown)
    return [
        replace(camera_rows(locations, job=job), utc_offset=of_location),
        replace(event_rows(events, locations, job=job), utc_offset=of_event),
        replace(photo_rows(table, locations, job=job), utc_offset=offset),
    ]


def _of_photos(merged: MergeResult, frames: pa.Table, predictions: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Label and confidence of each image: what a person says about it, otherwise what the model says about
    that image alone.

    `label_source` is present only if people said something, so that other layers stay as they were.
    """
    model = str(merged.snapshot.inputs["model"])
    model_id = pa.scalar(None if model == NO_MODEL else model, pa.string())
    label, confidence = predictions["label"], predictions["confidence"]
    if "label_source" not in frames.column_names:
        return {"label": label, "confidence": confidence, "model_id": pa.repeat(model_id, len(label))}
    is_human = pc.fill_null(pc.equal(frames["label_source"], HUMAN), False)
    made = {
        "label": pc.if_else(is_human, frames["label"], label),
        "confidence": if_else(is_human, None, confidence),
        "model_id": if_else(is_human, None, model_id),
    }
    if pc.any(is_human).as_py():
        made["label_source"] = if_else(pc.is_valid(made["label"]), pc.if_else(is_human, HUMAN, MACHINE), None)
    return made


def _shows_people(merged: MergeResult, frames: pa.Table) -> pa.ChunkedArray:
    """Whether each usable image shows people: by a label (see `people_in`), or a box of a detector."""
    shows = pc.is_in(frames["image_id"], people_in(merged))
    if merged.run.current("detections") is None:
        return shows
    boxes = merged.run.table("detections").to_table(columns=["image_id", "category", "confidence"])
    detection = merged.run.job.detection
    sure = pc.greater_equal(boxes["confidence"], min(SURE, detection[0].threshold) if detection else SURE)
    people = boxes.filter(pc.and_(is_people(boxes["category"]), sure))["image_id"]
    return pc.or_(shows, pc.is_in(frames["image_id"], people.combine_chunks()))


def _first_known(
    location: pa.ChunkedArray, offset: pa.ChunkedArray, wanted: pa.ChunkedArray
) -> pa.ChunkedArray:
    """For each of the wanted locations, its first row whose clock's offset is known."""
    known = pa.array(np.flatnonzero(offset.is_valid()))
    row = pc.index_in(wanted, location.take(known).combine_chunks())
    return pa.chunked_array([known]).take(row)


def _keep_ledger(run: Run, ledger: pa.Table, pushed: int, started: float) -> None:
    """Add the edits to the table `ledger`, which only grows."""
    before = run.current("ledger")
    id_ = digest(["publish", before.number if before else 0, ledger["time"][0].as_py().isoformat()])
    made, earlier = Made({"ledger": ledger}), before.files if before else ()
    commit_made(run, STAGE, id_, made, inputs={"locations": pushed}, started=started, prepend=earlier)


def _describe(push: Push) -> list[str]:
    """Edits by layer and kind, and then by camera."""
    totals: dict[tuple[str, str], int] = {}
    cameras: dict[str, int] = {}
    for layer, edit, location, number in push.counts():
        key = layer.rpartition("=")[2], edit
        totals[key] = totals.get(key, 0) + number
        cameras[location or "unknown"] = cameras.get(location or "unknown", 0) + number
    notes = [f"{layer}: {plural(number, edit)}" for (layer, edit), number in totals.items()]
    notes.append(plural(sum(push.unchanged.values()), "row is", "rows are") + " up to date")
    notes += push.notes
    most = sorted(cameras.items(), key=lambda item: (-item[1], item[0]))
    if most:
        shown = ", ".join(f"{location} {number:,}" for location, number in most[:_SHOWN_CAMERAS])
        more = (
            f", and {plural(len(most) - _SHOWN_CAMERAS, 'more camera')}" if len(most) > _SHOWN_CAMERAS else ""
        )
        notes.append(f"edits by camera: {shown}{more}")
    return notes
