"""Tables as Parquet files: how a shard's rows are written, and how a plan's shards become a snapshot.

The order makes it safe to kill anything at any time: first the files, under their final, unique names; then
the shard's receipt; when every shard has one, the snapshots; last of all, `CURRENT`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from camtrap_batch import phases
from camtrap_batch.errors import BrokenPromise, CamtrapError, Damaged, StageError
from camtrap_batch.notices import say_all
from camtrap_batch.store import redo, schemas, snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, to_json
from camtrap_batch.store.shards import File, Plan, Receipt, Shard, file_receipt, find_faults
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.vocabulary import plural

_ROW_GROUP = {"thumbnails": 256, "training_crops": 256}
"""Rows per row group: some 4 MB of thumbnails, so that a reader can shuffle and read ahead by row group."""

_ALL_DIFFER = frozenset(
    ["image_id", "file_name", "sha256", "jpeg", "event_id", "best_image_id", "key", "row_hash"]
)
"""Columns written without a dictionary: a useless one takes a fifth of the time of writing a catalog."""

_FILES_AT_ONCE = 256

_ROWS_OF_A_FILE = 350_000
"""More rows than this go into several files: tables that the driver makes from a whole data set are written
by several threads."""

_WRITES_AT_ONCE = 4

_VERSIONS = ("camtrap-batch", "pyarrow", "pillow", "simplejpeg", "numpy", "torch")


ADVICE = "`camtrap check JOB --repair` finds all that is damaged, and has the next run make it again"

_OF_DAMAGE = re.compile(
    r"checksum|corrupt|deserializ|magic bytes|end of (?:stream|file)|decompress|zstd|snappy|page header"
    r"|footer|metadata|invalid|unexpected|malformed|data page|level|dictionary|encod",
    re.IGNORECASE,
)
"""What Arrow says about a file that does not hold what was written; unreachable stores are worded
differently."""


class Table(ds.FileSystemDataset):  # type: ignore[misc]
    """A pyarrow dataset over exactly the files of one snapshot.

    Pages are read with their checksums compared. Where a file is damaged, `to_batches`, `to_table` and
    `to_pandas` raise Damaged, which names it.
    """

    snapshot: Snapshot
    folder: Folder
    sizes: dict[str, int | None]

    def to_batches(self, columns: Any = None, **options: Any) -> Iterator[pa.RecordBatch]:
        """Like a dataset's, with the rows in order.

        A dataset keeps the footer of each file it has read, 0.1 MB in memory: too much for thousands of
        files, which are therefore read some hundreds at a time.
        """
        for some in self._in_parts():
            with _damage_named(self.folder, {file: self.sizes[file] for file in some.files}):
                yield from some.to_batches(columns=columns, **options)

    def to_table(self, columns: Any = None, **options: Any) -> pa.Table:
        """Like a dataset's, with the rows in order; reads as `to_batches` does."""
        parts = []
        for some in self._in_parts():
            with _damage_named(self.folder, {file: self.sizes[file] for file in some.files}):
                parts.append(some.to_table(columns=columns, **options))
        return pa.concat_tables(parts)

    def _in_parts(self) -> Iterator[ds.FileSystemDataset]:
        for start in range(0, max(1, len(self.files)), _FILES_AT_ONCE):
            files = self.files[start : start + _FILES_AT_ONCE]
            fragments = [
                self.format.make_fragment(file, self.filesystem, file_size=self.sizes[file]) for file in files
            ]
            yield ds.FileSystemDataset(fragments, self.schema, self.format, self.filesystem)

    def to_pandas(self, columns: list[str] | None = None) -> pd.DataFrame:
        """The rows, in the snapshot's order."""
        frame: pd.DataFrame = self.to_table(columns=columns).to_pandas()
        return frame

    def to_dask(self, columns: list[str] | None = None) -> Any:
        """The rows as a Dask DataFrame, with one partition per file."""
        import dask.dataframe

        frames: Any = dask.dataframe
        empty = self.schema.empty_table()
        meta = (empty.select(columns) if columns else empty).to_pandas()
        fragments = list(self.get_fragments())
        if not fragments:
            return frames.from_pandas(meta, npartitions=1)
        return frames.from_map(_fragment_frame, fragments, schema=self.schema, columns=columns, meta=meta)


def _fragment_frame(fragment: ds.Fragment, schema: pa.Schema, columns: list[str] | None) -> pd.DataFrame:
    frame: pd.DataFrame = fragment.to_table(schema=schema, columns=columns).to_pandas()
    return frame


def open_table(folder: Folder, snapshot: Snapshot) -> Table:
    """The rows of a snapshot as a dataset."""
    schema = schemas.schema_of(snapshot.table, snapshot.schema)
    table = open_files(folder, snapshot.table, snapshot.files, schema)
    table.snapshot = snapshot
    return table


def open_files(
    folder: Folder, name: str, files: Iterable[File | str], schema: pa.Schema | None = None
) -> Table:
    """The rows of some files of a table as a dataset, in their order; it has no snapshot.

    In a bucket the sizes of files given by path alone are requested. `schema`: the one they were written
    with, if the table no longer has it.
    """
    sizes = {
        file if isinstance(file, str) else file.file: None if isinstance(file, str) else file.bytes
        for file in files
    }
    filesystem = folder.arrow_of({file: size for file, size in sizes.items() if size is not None})
    # On a disk, buffering each whole file takes longer.
    reading = ds.ParquetFragmentScanOptions(pre_buffer=not folder.is_local, page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=reading)
    fragments = [parquet.make_fragment(file, filesystem, file_size=size) for file, size in sizes.items()]
    table = Table(fragments, schema or schemas.SCHEMAS[name], parquet, filesystem)
    table.folder, table.sizes = folder, sizes
    return table


def take_rows(table: Table, rows: Iterable[int], columns: list[str]) -> pa.Table:
    """Some rows of a snapshot by their numbers, ascending: files that have none of them are not opened."""
    wanted = np.asarray(list(rows), np.int64)
    start, parts = 0, [table.schema.empty_table().select(columns)]
    for file in table.snapshot.files:
        here = wanted[(wanted >= start) & (wanted < start + file.rows)] - start
        start += file.rows
        if len(here):
            part = open_files(table.folder, table.snapshot.table, [file], table.schema)
            parts.append(part.to_table(columns=columns).take(pa.array(here)))
    return pa.concat_tables(parts)


def read_file(folder: Folder, file: str, columns: list[str] | None = None) -> pa.Table:
    """One file of a table. Raises Damaged, or FileNotFoundError."""
    with _damage_named(folder, {file: None}):
        return pq.read_table(file, columns=columns, filesystem=folder.arrow, page_checksum_verification=True)


def read_whole_files(
    folder: Folder, snapshot: Snapshot, columns: list[str], *, but_shards: Collection[str] = ()
) -> tuple[pa.Table, list[File]]:
    """The rows of a snapshot's undamaged files, and these files; the others are reported.

    For a stage that remakes what is damaged from what is not.

    Parameters
    ----------
    but_shards : ids of shards whose files are also left out
    """
    faults = find_faults(folder, snapshot.files)
    files = [file for file in snapshot.files if file.file not in faults]
    files = [file for file in files if shard_of(file.file) not in but_shards]
    while True:
        try:
            table = open_files(folder, snapshot.table, files).to_table(columns)
            break
        except Damaged as problem:
            faults[problem.file] = problem.fault
            files = [file for file in files if file.file != problem.file]
    say_all([f"{folder.url}/{file}: {fault}; ignored" for file, fault in faults.items()])
    return table, files


def shard_of(file: str) -> str:
    """Id of the shard, or half of one, that wrote a file of a table.

    >>> shard_of("tables/manifest/01/89ab.0-1f2e.parquet"), shard_of("tables/events/01/89ab-1f-35.parquet")
    ('89ab.0', '89ab')
    """
    return file.rpartition("/")[2].partition("-")[0]


def stands(folder: Folder, plan: Plan, tables: Iterable[str]) -> bool:
    """Whether the current snapshots of a plan's tables are complete, and none of it is to be redone.

    Files are only looked for, not read. Anything wrong is reported.
    """
    if redo.is_asked(folder, plan.stage, (shard.id for shard in plan.shards)):
        return False
    first: Snapshot | None = None
    for name in tables:
        snapshot = snapshots.current(folder, name)
        if snapshot is None:
            continue
        first = first or snapshot
        # Those that were committed together belong together.
        together = first.inputs.get(name)
        if isinstance(together, int) and snapshot.number < together:
            return False
        faults = find_faults(folder, snapshot.files)
        if (model := snapshot.meta.get("model_id")) and name == "model":
            faults |= find_lost_model(folder, model)
        say_all([f"{folder.url}/{file}: {fault}; it is remade" for file, fault in faults.items()])
        if faults:
            return False
    return True


def find_lost_model(folder: Folder, model_id: str) -> dict[str, str]:
    """Files of a model that are missing: path -> what is wrong."""
    there = folder.sizes(f"models/{model_id}")
    paths = [f"models/{model_id}/{name}" for name in ("model.json", "model.safetensors")]
    return {path: "is missing" for path in paths if not there.get(path)}


@contextmanager
def _damage_named(folder: Folder, files: Mapping[str, int | None]) -> Iterator[None]:
    """Raise Damaged, which names the file, if Arrow can't read one; `files`: path -> bytes, if known."""
    try:
        yield
    except CamtrapError:
        raise
    except (OSError, pa.ArrowException) as problem:
        file, fault = _find_damage(folder, files, problem)
        if not file:
            raise
        raise Damaged(folder.url, file, fault, ADVICE) from problem


def _find_damage(folder: Folder, files: Mapping[str, int | None], problem: Exception) -> tuple[str, str]:
    """Which of some files is damaged, and how; empty if none is."""
    there: dict[str, int] = {}
    for parent in sorted({file.rpartition("/")[0] for file in files}):
        there |= folder.sizes(parent)
    for file, size in files.items():
        if file not in there:
            return file, "is missing"
        if size is not None and size != there[file]:
            return file, f"has {there[file]:,} bytes instead of {size:,}"
    if not isinstance(problem, pa.ArrowInvalid) and not _OF_DAMAGE.search(str(problem)):
        return "", ""
    for file in files:
        if (fault := find_damage(folder, file)) is not None:
            return file, fault
    return "", ""


def find_damage(folder: Folder, file: str, rows: int | None = None) -> str | None:
    """What is wrong with a Parquet file, read whole, with its page checksums compared; None if nothing is.

    Parameters
    ----------
    rows : how many it should have
    """
    try:
        with folder.open(file) as handle:
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group)
            found = parquet.metadata.num_rows
    except FileNotFoundError:
        return "is missing"
    except (OSError, pa.ArrowException) as problem:
        text = " ".join(str(problem).split())
        if isinstance(problem, OSError) and not _OF_DAMAGE.search(text):
            raise
        return f"is damaged ({text[:120]})"
    if rows is not None and found != rows:
        return f"has {plural(found, 'row')} instead of {rows:,}"
    return None


def finish_shard(
    folder: Folder,
    plan: tuple[str, str],
    shard: Shard,
    tables: Mapping[str, pa.Table],
    *,
    started: float,
    counts: dict[str, int] | None = None,
    seconds: dict[str, float] | None = None,
    worker: str = "driver",
    attempt: str | None = None,
    result: dict[str, Any] | None = None,
) -> Receipt:
    """Write the files of a shard, check them, and file its receipt.

    Parameters
    ----------
    plan : (stage, plan id)
    tables : table name -> pyarrow.Table
        The first one has one row for each row of the shard.
    counts : rows by status
    seconds : wall-clock by phase; `write` and `total` are added
    started : time.monotonic() when work on the shard began
    attempt : unique name of this attempt; by default a new one (see `new_attempt`)
    result : what the shard made besides rows, such as a model's id

    Returns
    -------
    Receipt
        The one in the run folder: this one, or that of the attempt that finished the same shard first.
    """
    stage, plan_id = plan
    attempt = attempt or new_attempt()
    began = time.monotonic()
    phases.enter("write")
    files: tuple[File, ...] = ()
    for name, table in tables.items():
        stem = f"tables/{name}/{plan_id}/{shard.id}-{attempt}"
        if table.num_rows <= _ROWS_OF_A_FILE:
            files += (write_table(folder, name, f"{stem}.parquet", table),)
            continue
        starts = range(0, table.num_rows, _ROWS_OF_A_FILE)
        paths = [f"{stem}-{start}.parquet" for start in starts]
        parts = [table.slice(start, _ROWS_OF_A_FILE) for start in starts]
        with ThreadPoolExecutor(_WRITES_AT_ONCE) as pool:
            files += tuple(pool.map(functools.partial(write_table, folder, name), paths, parts))
    rows = sum(file.rows for file in files if file.table == files[0].table)
    if files and rows != shard.rows:
        raise BrokenPromise(f"{stage}: shard {shard.id} has {shard.rows} rows in and {rows} rows out")
    ended = time.monotonic()
    seconds = {**(seconds or {}), "write": ended - began, "total": ended - started}
    return file_receipt(
        folder,
        Receipt(
            stage=stage,
            plan_id=plan_id,
            shard_id=shard.id,
            rows=shard.rows,
            files=files,
            counts=counts or {},
            seconds={phase: round(value, 4) for phase, value in seconds.items()},
            versions=library_versions(),
            worker=f"{worker}@{socket.gethostname()}",
            attempt=attempt,
            result=result or {},
        ),
    )


def new_attempt() -> str:
    """A unique name for one attempt at a shard."""
    return uuid.uuid4().hex[:8]


def write_table(folder: Folder, name: str, path: str, table: pa.Table) -> File:
    """Write one Parquet file of a table; it is complete and checked when this returns."""
    table = table.select(schemas.SCHEMAS[name].names).cast(schemas.SCHEMAS[name])
    hashed = _Hashed()

    def fill(file: BinaryIO) -> None:
        hashed.file = file
        pq.write_table(
            table,
            hashed,
            row_group_size=_ROW_GROUP.get(name, 65_536),
            compression="none" if name == "thumbnails" else "zstd",
            use_dictionary=[column for column in table.column_names if column not in _ALL_DIFFER],
            write_statistics=name != "thumbnails",
            write_page_checksum=True,
        )

    size = folder.write_with(path, fill)
    with folder.open(path, size) as file:
        rows = pq.ParquetFile(file).metadata.num_rows
    if rows != table.num_rows:
        raise StageError(f"{folder.url}/{path}: {table.num_rows} rows were written, its footer says {rows}")
    return File(name, path, rows, size, hashed.hash.hexdigest())


class _Hashed:
    """A file that is written from beginning to end, and the SHA-256 of what is written."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.file: BinaryIO | None = None

    def write(self, data: Any) -> int:
        assert self.file is not None  # noqa: S101
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        pass  # the folder does it, once everything is written

    def close(self) -> None:
        pass


def commit_plan(
    folder: Folder,
    plan: Plan,
    done: Sequence[Receipt],
    tables: Iterable[str],
    *,
    inputs: dict[str, Any],
    meta: dict[str, Any] | None = None,
    prepend: tuple[File, ...] = (),
    after: int | None = None,
) -> dict[str, Snapshot]:
    """Make snapshots of what a plan's shards have written; the last of `tables` becomes current last.

    Parameters
    ----------
    done : receipts that cover the plan, in row order (see `all_settled`)
    tables : the first one has one row for each row of the plan
    prepend : files of the table's last snapshot that stay, for a table that only grows
    after : number of that snapshot, see `snapshots.commit`

    Raises
    ------
    BrokenPromise
        Rows are lost or added on the way, or a file in a receipt is missing or of another size.
    Overtaken
        Another process was first.
    """
    rows_out = sum(receipt.rows for receipt in done)
    if rows_out != plan.rows:
        raise BrokenPromise(f"{plan.stage}: {plan.rows} rows in, {rows_out} rows out; nothing was committed")
    faults = find_faults(folder, [file for receipt in done for file in receipt.files])
    for path, fault in faults.items():
        raise BrokenPromise(
            f"{plan.stage}: {folder.url}/{path}: {fault}; nothing was committed, and the same command makes "
            "it again"
        )
    counts: dict[str, int] = {}
    for receipt in done:
        for status, rows in receipt.counts.items():
            counts[status] = counts.get(status, 0) + rows
    committed: dict[str, Snapshot] = {}
    names = list(tables)
    for name in names[1:] + names[:1]:
        files = prepend + tuple(file for receipt in done for file in receipt.files if file.table == name)
        committed[name] = snapshots.commit(
            folder,
            Snapshot(
                table=name,
                number=0,
                plan_id=plan.id,
                stage=plan.stage,
                files=files,
                # A model is not a table: its snapshot has no files, and its rows are those it was trained on.
                rows=sum(file.rows for file in files) if name in schemas.SCHEMAS else plan.rows,
                bytes=sum(file.bytes for file in files),
                counts=counts,
                inputs={**inputs, **{other: snapshot.number for other, snapshot in committed.items()}},
                schema=schemas.fingerprint(name) if name in schemas.SCHEMAS else "",
                meta=meta or {},
            ),
            after=after,
        )
    asked = redo.read(folder, plan.stage)
    for snapshot in committed.values():
        _heal(folder, snapshot, done, asked.damaged)
    if asked.shards:
        redo.settle(folder, plan.stage)
    return committed


def _heal(folder: Folder, committed: Snapshot, done: Sequence[Receipt], damaged: Collection[str]) -> None:
    """Make earlier snapshots of a table list a shard's new files in place of damaged ones.

    A shard's id stands for everything its rows depend on, so the rows are the same. Whatever was made from an
    earlier snapshot still names it.
    """
    earlier = [number for number in snapshots.numbers(folder, committed.table) if number < committed.number]
    if not damaged and not _may_be_of_an_earlier_plan(folder, committed, earlier):
        return
    new: dict[str, list[File]] = {}
    for receipt in done:
        for file in receipt.files:
            if file.table == committed.table:
                new.setdefault(receipt.shard_id, []).append(file)
    for number in reversed(earlier):
        try:
            snapshot = snapshots.load(folder, committed.table, number)
        except Damaged:
            continue
        if not damaged and snapshot.plan_id != committed.plan_id:
            continue  # a plan is committed twice only if something was wrong
        faults = {*find_faults(folder, snapshot.files), *damaged}
        # The tables of one shard name one another's files: all of them are replaced.
        spoilt = {shard_of(file) for file in faults}
        files: list[File] = []
        for file in snapshot.files:
            shard = shard_of(file.file)
            if shard not in spoilt or shard not in new:
                files.append(file)
            elif new[shard][0] not in files:
                files += new[shard]
        healed = tuple(files)
        if healed != snapshot.files and sum(file.rows for file in healed) == snapshot.rows:
            folder.write(
                snapshots.path_of(committed.table, number),
                to_json(
                    dataclasses.replace(snapshot, files=healed, bytes=sum(file.bytes for file in healed))
                ),
            )


def _may_be_of_an_earlier_plan(folder: Folder, committed: Snapshot, earlier: Sequence[int]) -> bool:
    """Whether an earlier snapshot may belong to the plan of the one being committed.

    None does if the plan was written after the last of them: then they need not be read, however many.
    """
    if not earlier:
        return False
    try:
        last = snapshots.load(folder, committed.table, earlier[-1])
        plan = Plan.from_json(folder.read(f"plans/{committed.stage}/{committed.plan_id}.json"))
    except (Damaged, Unreadable, FileNotFoundError):
        return True
    return not plan.created or plan.created <= last.created


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that a table's content depends on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
