"""catalog: whatever describes the data set, as one row an image. Runs on the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import Catalog, read_dataset_periods, reader_of
from camtrap_batch.catalog.cameras import read_camera_names
from camtrap_batch.catalog.names import unmatched
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context, StageResult, do_on_driver, shard_id
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.selection.classes import check_classes
from camtrap_batch.stages.catalog.renames import keep_ids
from camtrap_batch.store.manifest import categories_of

VERSION = 1

_MARK = b"# The job as it ran, written by camtrap: edit a copy of this file, not this file.\n"


def run(context: Context) -> StageResult:
    """Read the metadata into the table `catalog`.

    Raises
    ------
    InputError
        Metadata, image root or camera table are not there, or not what they should be.
    JobError
        The job selects a class that the metadata does not have.
    """
    job = context.job
    dataset = job.dataset
    image_root(job).check()
    cameras = read_camera_names(dataset.cameras) if dataset.cameras is not None else None
    periods, outages, lines = read_dataset_periods(dataset)
    reader = reader_of(dataset)
    id_ = shard_id("catalog", VERSION, "catalog", reader.settings(), reader.fingerprint())
    before = context.run.current("catalog")
    if before is not None and before.inputs.get("shard") == id_:
        check_classes(job, categories_of(before.meta))
        locations = context.run.table("catalog").to_table(columns=["location"])
        _check_cameras(job, cameras, locations)
        lines += _camera_lines(job, cameras, locations)
        check_outages(outages, periods, cameras, locations["location"])
    read: list[Catalog] = []

    def make() -> Mapping[str, pa.Table]:
        catalog = reader.read()
        if reader.ids_are_paths:
            catalog.table, renamed = keep_ids(context.run, image_root(job), catalog.table)
            catalog.notes |= {"files were renamed, and keep their image id": renamed} if renamed else {}
        check_classes(job, catalog.categories)
        _check_cameras(job, cameras, catalog.table)
        lines.extend(_camera_lines(job, cameras, catalog.table))
        check_outages(outages, periods, cameras, catalog.table["location"])
        read.append(catalog)
        return {"catalog": catalog.table}

    def meta() -> dict[str, Any]:
        return {"categories": read[0].categories, "notes": read[0].notes}

    result = do_on_driver(context, "catalog", id_, make, ("catalog",), inputs={}, meta=meta)
    if not context.dry_run:
        save_job(context)
    result.notes += lines
    result.notes += [f"{count:,} {text}" for text, count in (read[0].notes if read else {}).items()]
    return result


def check_outages(
    outages: pa.Table | None,
    periods: pa.Table | None,
    cameras: pa.ChunkedArray | None,
    locations: pa.ChunkedArray,
) -> None:
    """Raise InputError where an outage is of a location that neither the images nor the cameras know."""
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


def _check_cameras(job: Job, cameras: pa.ChunkedArray | None, images: pa.Table) -> None:
    """Raise InputError where the camera table is of other cameras than the images."""
    if cameras is None:
        return
    locations = images["location"].drop_null().unique()
    if len(locations) and not pc.any(pc.is_in(locations, cameras)).as_py():
        theirs, ours = (", ".join(map(repr, names[:3].to_pylist())) for names in (locations, cameras))
        raise InputError(
            f"{job.dataset.cameras}: none of the images' locations is in it (dataset.cameras); the images "
            f"have {theirs}, it has {ours}"
        )


def _camera_lines(job: Job, cameras: pa.ChunkedArray | None, images: pa.Table) -> list[str]:
    """Locations that only the images or only the camera table has, with the nearest in the other."""
    if cameras is None:
        return []
    theirs = images["location"].drop_null().unique().to_pylist()
    ours = cameras.to_pylist()
    table = str(job.dataset.cameras).rpartition("/")[2]
    without = unmatched(theirs, ours, table)
    return [
        *([f"{len(without):,} locations of images are not in {table}: {without.text}"] if without else []),
        *(
            [f"{len(empty):,} cameras of {table} have no image: {empty.text}"]
            if (empty := unmatched(ours, theirs, "the photos"))
            else []
        ),
    ]


def save_job(context: Context) -> None:
    """Keep the job as it ran. A `job.yaml` that is a user's own, there by chance, stays as it is."""
    text = _MARK + context.job.to_yaml().encode()
    folder = context.run.folder
    kept = folder.read("job.yaml") if folder.exists("job.yaml") else _MARK
    if kept.startswith(_MARK) and kept != text:
        folder.write("job.yaml", text)
