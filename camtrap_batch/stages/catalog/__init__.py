"""catalog: whatever describes the data set, as one row per image. Runs on the driver."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import Reader, as_photos_have_it, read_dataset_periods, reader_of
from camtrap_batch.catalog.cameras import read_camera_names
from camtrap_batch.catalog.names import as_files_have_it, outside_of_root, unmatched
from camtrap_batch.catalog.paths import location_finder
from camtrap_batch.catalog.table import NO_LOCATION, row_order
from camtrap_batch.errors import Damaged, InputError, choices
from camtrap_batch.job import Job, Label, WithLabel, WithLocation
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.shards import do_on_driver
from camtrap_batch.pipeline.stage import Made, Stage, StageResult, TableSpec, shard_id
from camtrap_batch.selection.classes import check_classes
from camtrap_batch.stages.catalog.keywords import PART as KEYWORDS
from camtrap_batch.stages.catalog.keywords import ask_keywords, with_keywords
from camtrap_batch.stages.catalog.other import REPLACE, require_same_dataset
from camtrap_batch.stages.catalog.renames import count_gone, keep_ids
from camtrap_batch.stages.catalog.videos import PART as VIDEOS
from camtrap_batch.stages.catalog.videos import ask_videos, check_videos, with_frames
from camtrap_batch.store import sums
from camtrap_batch.store.manifest import categories_of
from camtrap_batch.store.shards import Plan, Shard
from camtrap_batch.store.tables import stands
from camtrap_batch.vocabulary import EMPTY, counted, is_word_for_empty, plural

_SHOWN = 3

_MARK = b"# The job as it ran, written by camtrap: edit a copy of this file, not this file.\n"


class CatalogStage(Stage):
    name = "catalog"
    help = "read what describes the data set, one row per image"
    sections = ("dataset",)
    version = 1
    tables = (TableSpec("catalog", "each image that the metadata name, or that lies in the folder"),)
    options = (REPLACE,)
    parts = (KEYWORDS, VIDEOS)

    def check(self, context: Context) -> None:
        check_videos(context)

    def run(self, context: Context) -> StageResult:
        """Read the metadata into the table `catalog`.

        Raises
        ------
        InputError
            Metadata, image root or camera table are missing, or not what they should be; or the run folder
            holds another data set.
        JobError
            The job selects a class that the metadata does not have.
        """
        job, run = context.job, context.run
        check_videos(context)
        image_root(job).check()
        cameras = read_camera_names(job.dataset.cameras) if job.dataset.cameras is not None else None
        periods, outages, lines = read_dataset_periods(job.dataset)
        reader = reader_of(job.dataset)
        id_ = shard_id(self, reader.settings(), reader.fingerprint())
        read = functools.cache(lambda: _read(context, reader))

        def rows() -> pa.Table:
            table = read().tables["catalog"]
            require_same_dataset(context, table)  # before anything is written
            return table

        label, video = getattr(job.dataset, "label", None), job.dataset.video
        asked: list[str] = []
        keywords = videos = None
        if isinstance(label, Label) and label.is_of_photos:
            keywords, asked = ask_keywords(context, id_, rows)
            id_ = shard_id(self, id_, keywords)
        if video is not None:
            videos, more = ask_videos(context, video, id_, rows)
            asked += more
            id_ = shard_id(self, id_, videos)
        before = run.current("catalog")
        if before is not None and before.inputs.get("shard") == id_:
            check_classes(job, categories_of(before.meta))
            try:
                locations = run.table("catalog").to_table(columns=["location"])["location"]
                lines += _compare(job, cameras, locations)
                check_outages(outages, periods, cameras, locations)
            except Damaged:
                if stands(run.folder, Plan.make(self.name, [Shard(id_, 0, before.rows)], {}), ["catalog"]):
                    raise  # otherwise it is remade, and compared then

        def make() -> Made:
            made = read()
            if isinstance(label, Label) and keywords is not None:
                where = str(job.dataset.metadata or job.dataset.images)
                made = with_keywords(made, run.table("keywords").to_table(), label, where)
            if video is not None and videos is not None:
                table = with_frames(made.tables["catalog"], run.table("videos").to_table(), video.every_s)
                made = replace(made, tables={"catalog": table})
            if not context.dry_run or not asked:
                check_classes(job, categories_of(made.meta))
            require_same_dataset(context, made.tables["catalog"])
            locations = made.tables["catalog"]["location"]
            compared = _compare(job, cameras, locations)
            check_outages(outages, periods, cameras, locations)
            return replace(made, notes=[*compared, *made.notes])

        result = do_on_driver(context, self, id_, make, inputs={})
        if not context.dry_run:
            save_job(context)
            categories = categories_of(run.snapshot("catalog").meta)
            for told in (_without_empty, _words_for_empty, _doubtful_zero):
                lines += told(job, categories)
        result.notes = [*lines, *result.notes, *asked]
        return result


STAGE = CatalogStage()


def _read(context: Context, reader: Reader[Any]) -> Made:
    catalog = reader.read()
    if reader.names_are_given:
        notes: Counter[str] = Counter()
        given = catalog.table["file_name"]
        locations = catalog.table["location"]
        names = as_files_have_it(given, image_root(context.job), notes, locations)
        catalog.table = _with(catalog.table, "file_name", names)
        if names is not given:
            catalog.table = _located(catalog.table, given, context.job)
            without = {NO_LOCATION: catalog.table["location"].null_count}
            catalog.notes = {text: n for text, n in (catalog.notes | without).items() if n}
        outside = outside_of_root(names)
        if outside is not None:
            text = f"file names outside dataset.images, not opened, such as {outside[0]!r}"
            notes[text] += len(outside)
        catalog.notes |= notes
    if reader.ids_are_paths:
        catalog.table, renamed = keep_ids(context.run, image_root(context.job), catalog.table)
        text = "files were renamed, and keep their" if renamed != 1 else "file was renamed, and keeps its"
        catalog.notes |= {f"{text} image id": renamed} if renamed else {}
    told = [counted(n, text) for text, n in catalog.notes.items()]
    if reader.ids_are_paths and (n_gone := count_gone(context.run, catalog.table)):
        text = "images of the last catalog are gone" if n_gone > 1 else "image of the last catalog is gone"
        told.append(counted(n_gone, text))
    meta = {"categories": catalog.categories, "notes": catalog.notes}
    return Made({"catalog": catalog.table}, meta, told)


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    column = table.schema.get_field_index(name)
    return table.set_column(column, table.schema.field(column), values)


def _located(table: pa.Table, given: pa.ChunkedArray, job: Job) -> pa.Table:
    """Rows whose file was found under another name get the location of its path, unless one was given."""
    if not isinstance(job.dataset, WithLocation):
        return table
    label = job.dataset.path_label if isinstance(job.dataset, WithLabel) else None
    find = location_finder(job.dataset.location, label)
    locations = table["location"].to_pylist()
    names, before = table["file_name"].to_pylist(), given.to_pylist()
    for row in np.flatnonzero(pc.not_equal(table["file_name"], given)).tolist():
        found, was = find(names[row]), locations[row]
        # Accents are encoded in locations as they were given (see `as_photos_have_it`).
        if was in (None, find(before[row])) and (was is None or not found or _nfc(was) != _nfc(found)):
            locations[row] = found
    table = _with(table, "location", pa.chunked_array([locations], pa.string()))
    return table.take(pa.array(row_order(table)))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _without_empty(job: Job, categories: list[tuple[int, str]]) -> list[str]:
    """A note if photos are labelled, but none of the labels means that there is no animal."""
    names = [name for number, name in categories if number != 0]
    is_named = job.select.empty.class_ != 0 or EMPTY in map(str.casefold, names)
    if is_named or not names or len(names) < len(categories):
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        f"none of the labels ({', '.join(names[:_SHOWN])}{more}) is taken to mean that there is no animal; "
        "if one does, name it in select.empty.class"
    ]


def _words_for_empty(job: Job, categories: list[tuple[int, str]]) -> list[str]:
    """A line where labels count as animals that are usual words for: no animal."""
    given = str(job.select.empty.class_).casefold()
    found = [
        name
        for number, name in categories
        if number not in (0, job.select.empty.class_)
        and name.casefold() not in (given, EMPTY)
        and is_word_for_empty(name)
    ]
    if not found:
        return []
    label = getattr(job.dataset, "label", None)
    if isinstance(job.dataset, WithLabel):
        known = label.empty if label is not None and "empty" in label.model_fields_set else []
        key = f"dataset.label: {{empty: [{', '.join([*known, *found])}]}}"
    else:
        key = f"select: {{empty: {{class: {found[0]}}}}}"
    are = (
        f"{found[0]!r} counts as an animal"
        if len(found) == 1
        else f"{', '.join(map(repr, found))} count as animals"
    )
    return [f"the label{'s' * (len(found) > 1)} {are}; if it means that there is none: {key}"]


def _doubtful_zero(job: Job, categories: list[tuple[int, str]]) -> list[str]:
    """A line where the category 0 has the name of something."""
    name = dict(categories).get(0, EMPTY)
    if job.select.empty.class_ != 0 or is_word_for_empty(name) or name == "category 0":
        return []
    return [
        f"the category 0 is {name!r} and counts as: no animal; if it is one, number the categories from 1, "
        "or name another in select.empty.class"
    ]


def check_outages(
    outages: pa.Table | None,
    periods: pa.Table | None,
    cameras: pa.ChunkedArray | None,
    locations: pa.ChunkedArray,
) -> None:
    """Raise InputError if an outage is of a location that neither the images nor the cameras know."""
    if outages is None:
        return
    known = {*locations.unique().to_pylist(), *(() if cameras is None else cameras.to_pylist())}
    known |= set() if periods is None else set(periods["location"].to_pylist())
    for row in outages.select(["location", "where"]).to_pylist():
        if row["location"] not in known:
            raise InputError(
                f"{row['where']}: location: {row['location']!r} has neither a camera nor an image "
                f"(dataset.outages); {choices(row['location'], filter(None, known))}"
            )


def _compare(job: Job, cameras: pa.ChunkedArray | None, of_images: pa.ChunkedArray) -> list[str]:
    """Notes on locations that only the images or only the camera table has.

    Raises InputError if the camera table describes other cameras than those of the images.
    """
    if cameras is None:
        return []
    locations = of_images.drop_null().unique()
    cameras = as_photos_have_it(pa.table({"location": cameras}), lambda: locations)["location"]
    if len(locations) and not pc.any(pc.is_in(locations, cameras)).as_py():
        theirs, ours = (", ".join(map(repr, names[:3].to_pylist())) for names in (locations, cameras))
        raise InputError(
            f"{job.dataset.cameras}: none of the images' locations is in it (dataset.cameras); the images "
            f"have {theirs}, it has {ours}"
        )
    return _camera_lines(job, cameras, of_images)


def _camera_lines(job: Job, cameras: pa.ChunkedArray, of_images: pa.ChunkedArray) -> list[str]:
    """Locations that only the images or only the camera table has, with the nearest match in the other."""
    theirs = of_images.drop_null().unique().to_pylist()
    ours = cameras.to_pylist()
    table = str(job.dataset.cameras).rpartition("/")[2]
    without = unmatched(theirs, ours, table)
    empty = unmatched(ours, theirs, "the photos")
    lines: list[str] = []
    if without:
        what = plural(len(without), "location of images is", "locations of images are")
        lines.append(f"{what} not in {table}: {without.text}")
    if empty:
        what = plural(len(empty), f"camera of {table} has", f"cameras of {table} have")
        lines.append(f"{what} no image: {empty.text}")
    return lines


def save_job(context: Context) -> None:
    """Keep the job as it ran. A user's own file that happens to be called `job.yaml` is not touched."""
    text = sums.seal(_MARK + sums.SEALED + context.job.to_yaml().encode(), comment=sums.HASH_SIGN)
    folder = context.run.folder
    kept = folder.read("job.yaml") if folder.exists("job.yaml") else _MARK
    if kept.startswith(_MARK) and kept != text:
        folder.write("job.yaml", text)
