"""Refuses another data set under the name and output of a finished job, unless asked for."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from camtrap_batch.errors import InputError
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import StageOption
from camtrap_batch.remote import redacted
from camtrap_batch.store.run import Run

REPLACE = StageOption(
    "replace-dataset",
    "let the data set that the job names take the place of another one in the run folder",
    default=False,
    parse=bool,
    metavar=None,
    in_reprocess=True,
)

_SAME = 0.5
"""Smallest fraction of the catalog's images that a new catalog of the same data set must have."""

_COMPARED = ["image_id", "location", "datetime", "video_s", "date_of"]


def require_same_dataset(context: Context, table: pa.Table) -> None:
    """Raise InputError if a new catalog is of another data set than the current one.

    The data set is the same if the job reads the same metadata or the same images as before, whatever has
    become of them, or if the catalog has kept at least half of its images: a data set may be moved.
    """
    run, job = context.run, context.job
    if context.option(REPLACE) or run.current("catalog") is None:
        return
    before, now = _origins_before(run), _origins(job)
    if any(origin == before.get(key) for key, origin in now.items()):
        return
    known = _as_text(run.table("catalog").to_table(columns=_COMPARED))
    kept = pc.sum(pc.is_in(known, _as_text(table).combine_chunks())).as_py() or 0
    if kept >= _SAME * len(known):
        return
    raise InputError(
        f"{run.folder.url}: holds another data set ({_named(before)}), of whose {len(known):,} images "
        f"{kept:,} are in the one that the job reads now ({_named(now)}): give the job another name or "
        f"output, or take the new one in its place with --{REPLACE.name}"
    )


def _origins(job: Job) -> dict[str, str]:
    """Where metadata and images are, by key of the job file, as `job.yaml` names them."""
    found = {key: getattr(job.dataset, key, None) for key in ("metadata", "images")}
    return {key: redacted(origin) for key, origin in found.items() if isinstance(origin, str)}


def _origins_before(run: Run) -> dict[str, str]:
    try:
        content: Any = yaml.safe_load(run.folder.read("job.yaml"))
        found = {key: content["dataset"].get(key) for key in ("metadata", "images")}
    except (FileNotFoundError, AttributeError, KeyError, TypeError, yaml.YAMLError):
        return {}  # somebody's own file
    return {key: origin for key, origin in found.items() if isinstance(origin, str)}


def _named(origins: dict[str, str]) -> str:
    return (
        ", ".join(f"{key} {origin}" for key, origin in origins.items()) or "its job.yaml does not say which"
    )


def _as_text(table: pa.Table) -> pa.ChunkedArray:
    """What the metadata say about each file, without video frames and their dates, which depend on a
    setting."""
    table = table.filter(table["video_s"].is_null())
    dates = pc.if_else(table["date_of"].is_null(), table["datetime"], None)
    columns = (table["image_id"], table["location"], dates.cast(pa.string()))
    return pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="")
