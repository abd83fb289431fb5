"""validate: open every image once, on the CPU workers: status, size, hashes, EXIF and a thumbnail."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch import phases
from camtrap_batch.engine.base import WorkerContext
from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.images import ImageRoot, Limits, Verdict, judge_files
from camtrap_batch.memory import give_back
from camtrap_batch.pipeline.context import Context, StageResult, do_on_workers
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.rows import hash_runs, pack, texts, unpack
from camtrap_batch.remote import shown
from camtrap_batch.stages.validate.findings import FROM_MANIFEST, add_findings
from camtrap_batch.stages.validate.retries import Tries
from camtrap_batch.stages.validate.reuse import known_verdicts, point_at_known
from camtrap_batch.store import schemas
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import CATALOG, MANIFEST, THUMBNAILS
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut, digest
from camtrap_batch.store.tables import finish_shard, new_attempt, open_files, open_table

VERSION = 3

_PLACE = "place"  # of a file in an archive; it is not part of the work

_FROM_CATALOG = [name for name in CATALOG.names if name not in ("labels", "width", "height", "source")]
_FROM_VERDICT = [
    "status", "detail", "format", "mode", "width", "height", "bytes", "sha256", "dhash",
    "datetime_exif", "camera_make", "camera_model", "is_night",
]  # fmt: skip


def run(context: Context) -> StageResult:
    """Read every image of the catalog into the tables `manifest` and `thumbnails`.

    An image that was `unreadable` is tried again by the next run, and one with a status of `context.retry`;
    where that changes nothing, the tables keep the content, and the plan id, that they had.

    Raises
    ------
    InputError
        There is no catalog yet, or the image root is not there, or none of its files.
    """
    files: list[pa.Table] = []
    result = _validate(context, files)
    give_back()  # 0.3 kB an image, which findings would be beside
    result.notes += add_findings(context, files)
    return result


def _validate(context: Context, files: list[pa.Table]) -> StageResult:
    """Of a new manifest, what findings are made of is put into `files`."""
    job, store = context.job, context.run
    catalog = store.snapshot("catalog")
    rows = open_table(store.folder, catalog).to_table(columns=_FROM_CATALOG)
    root = image_root(job)
    root.check()
    listing = root.listing(texts(rows["file_name"]))
    if rows.num_rows and not (listing.sizes >= 0).any():
        # A disk that is not mounted, or another folder: no reason to call a whole data set missing.
        raise InputError(
            f"{shown(root.url)}: none of the {rows.num_rows:,} catalogued files is in this folder "
            f"(dataset.images): no {rows['file_name'][0].as_py()!r}"
        )
    rows = rows.append_column("listed_bytes", pa.array(listing.sizes, pa.int64()))
    rows = rows.append_column("modified", pa.array(listing.modified, pa.string()))
    limits = Limits(job.validate_.max_pixels, job.validate_.timeout_s, job.validate_.thumbnails)
    # Where the files lie is not part of the work: a data set that was moved is not read again.
    settings = [VERSION, schemas.fingerprint("manifest"), *astuple(limits)]
    runs = cut(texts(rows["image_id"]), job.validate_.shard_size)
    ids = [digest(["validate", settings, *hashes]) for hashes in _hashes(rows, runs)]
    manifest = store.current("manifest")
    tries = Tries(store, manifest, context.retry, rows["image_id"], ids, runs)
    inputs = {"catalog": catalog.number}
    plan = Plan.make("validate", tries.shards(), inputs)
    tables = ("manifest", "thumbnails") if limits.thumbnail else ("manifest",)
    work = ValidateShard(store.folder, (plan.stage, plan.id), root, limits)

    @functools.cache
    def payload_rows() -> pa.Table:
        with_places = rows if listing.places is None else rows.append_column(_PLACE, listing.places)
        if manifest is None or manifest.meta.get("settings") != settings:
            return with_places
        return point_at_known(store.folder, manifest, with_places, {"unreadable", *context.retry})

    def check(receipts: list[Receipt]) -> None:
        """Row by row, the manifest is the catalog."""
        names = [file.file for receipt in receipts for file in receipt.files if file.table == "manifest"]
        # All that findings need, at once: the footers of thousands of files take longer than the columns.
        files.append(open_files(store.folder, "manifest", names).to_table(columns=FROM_MANIFEST))
        if not files[0]["image_id"].equals(rows["image_id"]):
            raise BrokenPromise("validate: the manifest's rows are not the catalog's; nothing was committed")

    return do_on_workers(
        context,
        plan,
        work,
        lambda shard: pack(payload_rows().slice(shard.start, shard.rows)),
        tables,
        need="CPU",
        inputs=inputs,
        check=check,
        settle=lambda done: tries.settle(plan, done),
        meta=lambda _: {"settings": settings, "tries": tries.record()},
        locations=rows["location"],
    )


@dataclass(frozen=True)
class ValidateShard:
    """Judges the images of a shard, on a worker."""

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    limits: Limits
    divisible: ClassVar[bool] = True

    @property
    def image_root(self) -> ImageRoot:
        return self.root

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        rows = unpack(payload)
        seconds: dict[str, float] = {}
        known = known_verdicts(self.folder, rows)
        others = [row for row in range(rows.num_rows) if row not in known]
        read = rows.take(pa.array(others, pa.int64())) if known else rows
        phases.enter("read and decode")  # at the same time
        judged = judge_files(
            self.root,
            read["file_name"].to_pylist(),
            self.limits,
            sizes=read["listed_bytes"].to_pylist(),
            places=read[_PLACE].to_pylist() if _PLACE in read.column_names else None,
            clock=seconds,
        )
        here.look_again(gone(read, judged))
        verdicts = known | dict(zip(others, judged, strict=True))
        return self._finish(
            shard, rows, [verdicts[row] for row in range(rows.num_rows)], seconds, started, here.name
        )

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        verdict = Verdict(status="crashed", detail="killed the worker that opened it")
        return self._finish(shard, rows, [verdict], {}, time.monotonic(), "driver")

    def _finish(
        self,
        shard: Shard,
        rows: pa.Table,
        verdicts: list[Verdict],
        seconds: dict[str, float],
        started: float,
        worker: str,
    ) -> Receipt:
        attempt = new_attempt()
        thumbnail_file = f"tables/thumbnails/{self.plan[1]}/{shard.id}-{attempt}.parquet"
        tables = {"manifest": manifest_rows(rows, verdicts, thumbnail_file)}
        if self.limits.thumbnail:
            tables["thumbnails"] = thumbnail_rows(rows, verdicts)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            tables,
            counts=dict(Counter(verdict.status for verdict in verdicts)),
            seconds=seconds,
            started=started,
            worker=worker,
            attempt=attempt,
        )


def gone(rows: pa.Table, verdicts: Sequence[Verdict]) -> list[str]:
    """Files that the driver has just listed, and that could not be opened."""
    return [
        row["file_name"]
        for row, verdict in zip(rows.select(["file_name", "listed_bytes"]).to_pylist(), verdicts, strict=True)
        if verdict.status in ("missing", "unreadable") and row["listed_bytes"] >= 0
    ]


def _hashes(rows: pa.Table, runs: Sequence[tuple[int, int]]) -> list[list[str]]:
    """What stands for the rows of each run: a second hash where some have a date without a time of day.

    So do shards of before there was a column for it keep their ids.
    """
    hashes = [
        [hash_]
        for hash_ in hash_runs(rows, [name for name in rows.column_names if name != "date_only"], runs)
    ]
    if rows["date_only"].null_count < rows.num_rows:
        some = hash_runs(rows, ["image_id", "date_only"], runs)
        for (start, stop), hash_, found in zip(runs, some, hashes, strict=True):
            if rows["date_only"].slice(start, stop - start).null_count < stop - start:
                found.append(hash_)
    return hashes


def manifest_rows(rows: pa.Table, verdicts: list[Verdict], thumbnail_file: str) -> pa.Table:
    """The manifest's rows of a shard, from the catalog's (with the listing's `modified`) and the verdicts."""
    columns: dict[str, Any] = {name: rows[name] for name in _FROM_CATALOG}
    for name in _FROM_VERDICT:
        kind = MANIFEST.field(name).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        columns[name] = pa.array([getattr(verdict, name) for verdict in verdicts], plain)
    columns["modified"] = rows["modified"]
    dated, by_exif = rows["datetime"].combine_chunks(), columns["datetime_exif"]
    date_only = rows["date_only"].combine_chunks()
    # EXIF knows the time of a date that the metadata give without one.
    is_same_day = pc.equal(pc.floor_temporal(by_exif, unit="day"), pc.floor_temporal(dated, unit="day"))
    is_timed = pc.fill_null(pc.and_(date_only, is_same_day), False)
    from_catalog = pc.and_not(dated.is_valid(), is_timed)
    columns["datetime"] = pc.if_else(from_catalog, dated, by_exif)
    columns["date_only"] = pc.if_else(from_catalog, date_only, None)
    columns["datetime_source"] = pc.if_else(
        from_catalog,
        "catalog",
        pc.if_else(by_exif.is_valid(), "exif", pa.scalar(None, pa.string())),
    )
    offsets = pa.array([verdict.exif_offset_minutes for verdict in verdicts], pa.int32())
    columns["utc_offset_minutes"] = pc.coalesce(
        rows["utc_offset_minutes"].combine_chunks(), pc.if_else(from_catalog, None, offsets)
    )
    kept = [verdict.thumbnail is not None for verdict in verdicts]
    columns["thumbnail_file"] = pa.array(
        [thumbnail_file if is_kept else None for is_kept in kept], pa.string()
    )
    places = iter(range(sum(kept)))
    columns["thumbnail_row"] = pa.array([next(places) if is_kept else None for is_kept in kept], pa.int32())
    return pa.table({name: columns[name] for name in MANIFEST.names})


def thumbnail_rows(rows: pa.Table, verdicts: list[Verdict]) -> pa.Table:
    """The thumbnails' rows of a shard: one for each image that has one, in order."""
    kept = [
        (image_id, verdict.thumbnail)
        for image_id, verdict in zip(rows["image_id"].to_pylist(), verdicts, strict=True)
        if verdict.thumbnail is not None
    ]
    columns: dict[str, list[Any]] = {"image_id": [image_id for image_id, _ in kept]}
    for name in ("jpeg", "width", "height", "scale"):
        columns[name] = [getattr(thumbnail, name) for _, thumbnail in kept]
    return pa.table(columns, THUMBNAILS)
