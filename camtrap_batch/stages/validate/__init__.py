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
from camtrap_batch.memory import Handover, release_memory
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.lost import require_few_lost
from camtrap_batch.pipeline.retries import ALWAYS, Retries, read_failed, retry_option
from camtrap_batch.pipeline.rows import hash_runs, pack, texts, unpack
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Stage, StageResult, TableSpec, identity, shard_ids
from camtrap_batch.remote import redacted
from camtrap_batch.stages.validate.findings import FINDINGS, FROM_MANIFEST, add_findings
from camtrap_batch.stages.validate.reuse import known_verdicts, point_at_known
from camtrap_batch.store import schemas
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import CATALOG, MANIFEST, THUMBNAILS
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import finish_shard, new_attempt, open_files, open_table
from camtrap_batch.vocabulary import RETRIED

RETRY = retry_option(
    RETRIED,
    "listed images that were unreadable or missing are tried by every run",
    in_reprocess=True,
)
_TRIES = {"unreadable": ALWAYS, "missing": ALWAYS}

_ENTRY = "entry"  # where a file is in an archive; it is not part of the work
_NO_FRAME = "no frame of this video can be read; the table videos says why"
_OF_VIDEOS = ("video_frames", "date_of")  # columns of the catalog that the manifest expresses differently

_FROM_CATALOG = [name for name in CATALOG.names if name in MANIFEST.names and name not in ("width", "height")]
_SENT = [*_FROM_CATALOG, *_OF_VIDEOS]
_FROM_VERDICT = [
    "status", "detail", "format", "mode", "width", "height", "bytes", "sha256", "dhash",
    "datetime_exif", "camera_make", "camera_model", "is_night", "orientation",
]  # fmt: skip


class ValidateStage(Stage):
    name = "validate"
    help = "open every image once: status, size, hashes, EXIF, thumbnail; then what looks wrong"
    sections = ("validate", "findings")
    version = 3
    tables = (
        TableSpec("manifest", "each image of the catalog"),
        TableSpec("thumbnails", "each image that decodes"),
    )
    rows_of = "catalog"
    options = (RETRY,)
    parts = (FINDINGS,)

    def run(self, context: Context) -> StageResult:
        """Read every image of the catalog into the tables `manifest` and `thumbnails`; then `findings`.

        An image that was `unreadable`, or `missing` though it was listed, is tried again by the next run, as
        is one with a status that `--retry` names; if that changes nothing, the tables keep their content and
        plan id.

        Raises
        ------
        InputError
            There is no catalog yet, or the image root or all of its files are missing.
        """
        validation = _Validation(context)
        result = validation.run()
        columns = validation.columns
        del validation
        release_memory()  # 0.3 kB per image, which would add to what findings take
        result.notes += add_findings(context, columns)
        return result


STAGE = ValidateStage()


class _Validation:
    """What this run's shards cover, what each is told, and what is committed for them."""

    def __init__(self, context: Context) -> None:
        job, run = context.job, context.run
        self._context = context
        self._catalog, self._manifest = run.snapshot("catalog"), run.current("manifest")
        self._root = image_root(job)
        self._rows, self._entries = _listed(run, self._catalog, self._root)
        self._limits = Limits(job.validate_.max_pixels, job.validate_.timeout_s, job.validate_.thumbnails)
        # The files' place is not part of the work: a data set that was moved is not read again.
        self._settings = [*identity(STAGE), *astuple(self._limits)]
        runs = cut(texts(self._rows["image_id"]), job.validate_.shard_size)
        # A column that the catalog did not have at first counts if it says something.
        later = set(schemas.later_columns("catalog"))
        hashed = [
            name
            for name in self._rows.column_names
            if name not in later or self._rows[name].null_count < self._rows.num_rows
        ]
        hashes = hash_runs(self._rows, hashed, runs)
        ids = shard_ids(STAGE, astuple(self._limits), ((hash_,) for hash_ in hashes))
        failed = read_failed(context, self._manifest, RETRIED, listed=True)
        images = self._rows["image_id"]
        self._retries = Retries(context, "manifest", self._manifest, failed, _TRIES, images, ids, runs)
        self.columns: Handover[pa.Table] = Handover()
        """The columns of a new manifest that findings are made from."""

    def run(self) -> StageResult:
        folder = self._context.run.folder
        plan = Plan.make(STAGE.name, self._retries.shards(), {"catalog": self._catalog.number})
        return do_on_workers(
            self._context,
            plan,
            ValidateShard(folder, (plan.stage, plan.id), self._root, self._limits),
            lambda shard: pack(self._told.slice(shard.start, shard.rows)),
            ("manifest", "thumbnails") if self._limits.thumbnail else ("manifest",),
            need="CPU",
            finish=self._finish,
            locations=self._rows["location"],
        )

    @functools.cached_property
    def _told(self) -> pa.Table:
        """What workers are told about each image."""
        rows = self._rows if self._entries is None else self._rows.append_column(_ENTRY, self._entries)
        if self._manifest is None or self._manifest.meta.get("settings") != self._settings:
            return rows
        return point_at_known(
            self._context.run.folder, self._manifest, rows, {"unreadable", *self._retries.statuses}
        )

    def _finish(self, plan: Plan, receipts: list[Receipt]) -> Done:
        plan, receipts = self._retries.keep_earlier(plan, receipts)
        files = [file for receipt in receipts for file in receipt.files if file.table == "manifest"]
        # Everything that findings need, at once: reading the footers of thousands of files takes longer than
        # the columns.
        table = open_files(self._context.run.folder, "manifest", files)
        columns = table.to_table(columns=FROM_MANIFEST)
        if not columns["image_id"].equals(self._rows["image_id"]):
            raise BrokenPromise("validate: the manifest's rows are not the catalog's; nothing was committed")
        is_listed = pc.greater_equal(self._rows["listed_bytes"], 0)
        require_few_lost(self._context, STAGE.name, "manifest", receipts, self._manifest, is_listed)
        self.columns.give(columns)
        return Done(plan, receipts, {"settings": self._settings, "tries": self._retries.record()})


def _listed(run: Run, catalog: Snapshot, root: ImageRoot) -> tuple[pa.Table, pa.Array | None]:
    """The catalog's rows with size and version of each file, and its position in an archive, if it is in one.

    Raises InputError if the image root or all of its files are missing.
    """
    rows = open_table(run.folder, catalog).to_table(columns=_SENT)
    root.check()
    listing = root.listing(texts(rows["file_name"]))
    root.check()  # a disk that went away in the meantime left nothing to be listed
    if rows.num_rows and not (listing.sizes >= 0).any():
        # An unmounted disk, or another folder, is no reason to call a whole data set missing.
        raise InputError(
            f"{redacted(root.url)}: none of the {rows.num_rows:,} catalogued files is in this folder "
            f"(dataset.images): no {rows['file_name'][0].as_py()!r}"
        )
    rows = rows.append_column("listed_bytes", pa.array(listing.sizes, pa.int64()))
    return rows.append_column("modified", pa.array(listing.modified, pa.string())), listing.entries


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
        is_frame = rows["video_s"].is_valid().to_pylist()
        phases.enter("read and decode")  # at the same time
        verdicts = dict(known)
        for of_frames in (False, True):
            numbers = [row for row in range(rows.num_rows) if row not in known and is_frame[row] == of_frames]
            if numbers:
                read = rows if len(numbers) == rows.num_rows else rows.take(pa.array(numbers))
                judged = self._judge(read, seconds, of_frames=of_frames)
                here.look_again(gone(read, judged))
                verdicts |= dict(zip(numbers, judged, strict=True))
        in_order = [verdicts[row] for row in range(rows.num_rows)]
        tell_videos(in_order, rows["video_frames"].to_pylist())
        return self._finish(shard, rows, in_order, seconds, started, here.name)

    def _judge(self, rows: pa.Table, clock: dict[str, float], *, of_frames: bool) -> list[Verdict]:
        names, sizes = rows["file_name"].to_pylist(), rows["listed_bytes"].to_pylist()
        entries = rows[_ENTRY].to_pylist() if _ENTRY in rows.column_names else None
        if not of_frames:
            return judge_files(self.root, names, self.limits, sizes=sizes, entries=entries, clock=clock)
        from camtrap_batch.images.video_frames import judge_video_frames

        seconds = rows["video_s"].to_pylist()
        return judge_video_frames(
            self.root, names, seconds, self.limits, sizes=sizes, entries=entries, clock=clock
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
    """Files that the driver has just listed but that could not be opened."""
    return [
        row["file_name"]
        for row, verdict in zip(rows.select(["file_name", "listed_bytes"]).to_pylist(), verdicts, strict=True)
        if verdict.status in ("missing", "unreadable") and row["listed_bytes"] >= 0
    ]


def tell_videos(verdicts: Sequence[Verdict], frames: Sequence[int | None]) -> None:
    """Set the verdict on videos: how many of their frames have rows, or that nothing of them can be read.

    Parameters
    ----------
    frames : for each row, how many of its frames have rows; 0: none can be read; None: not a video that is
        read
    """
    for verdict, number in zip(verdicts, frames, strict=True):
        is_video = verdict.status == "video" or verdict.detail == _NO_FRAME
        if is_video or (verdict.status == "not_image" and number):
            verdict.status = "corrupt" if number == 0 else "video"
            verdict.detail = (
                None if number is None else _NO_FRAME if number == 0 else f"{number} frames of it have rows"
            )


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
        _date_source(rows),
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
    numbers = iter(range(sum(kept)))
    columns["thumbnail_row"] = pa.array([next(numbers) if is_kept else None for is_kept in kept], pa.int32())
    return pa.table({name: columns[name] for name in MANIFEST.names})


def _date_source(rows: pa.Table) -> Any:
    """Where the catalog's dates come from."""
    if "date_of" not in rows.column_names:
        return "catalog"
    return pc.coalesce(rows["date_of"].combine_chunks(), "catalog")


def thumbnail_rows(rows: pa.Table, verdicts: list[Verdict]) -> pa.Table:
    """The rows of thumbnails for a shard: one for each image that has one, in order."""
    kept = [
        (image_id, verdict.thumbnail)
        for image_id, verdict in zip(rows["image_id"].to_pylist(), verdicts, strict=True)
        if verdict.thumbnail is not None
    ]
    columns: dict[str, list[Any]] = {"image_id": [image_id for image_id, _ in kept]}
    for name in ("jpeg", "width", "height", "scale"):
        columns[name] = [getattr(thumbnail, name) for _, thumbnail in kept]
    return pa.table(columns, THUMBNAILS)
