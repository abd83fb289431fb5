"""What a stage is, what it makes, its result, and the ids of its shards.

A stage is one module of `camtrap_batch.stages` with a class of this protocol, and one line in
`camtrap_batch.pipeline.order`. Its work is a *plan*: rows, cut into *shards*. Each shard leaves a receipt,
so that nothing is done twice, and once all are there the driver commits *snapshots* of the stage's tables.

One rule holds a job together, and is checked with each shard and at each commit: **the first table of a stage
has one row for each row of its plan**. No image gets lost, whatever is wrong with it: it has a row, with a
status that says so. Further tables may have any number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.pipeline.context import Context
from camtrap_batch.store import schemas
from camtrap_batch.store.shards import digest


@dataclass(frozen=True)
class TableSpec:
    """A table that a stage promises to make.

    Attributes
    ----------
    name : name of a schema in `store.schemas`; or `model`, whose snapshots have no files
    rows : what each row stands for
    """

    name: str
    rows: str


class Planned(Protocol):
    """Something with its own plans: a stage, or a part of one.

    Attributes
    ----------
    name : name of its plans and receipts in the run folder
    version : version of the code; a new version redoes all shards
    tables : the tables it commits; **the first has one row for each row of the plan**
    rows_of : the table whose rows are the plan's, if there is one: catalog, or manifest (its usable rows)
    is_part : whether it belongs to a stage, and not every job has it
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def tables(self) -> tuple[TableSpec, ...]: ...

    @property
    def rows_of(self) -> str | None: ...

    @property
    def is_part(self) -> bool: ...


@dataclass(frozen=True)
class Part:
    """Work within a stage that is planned separately, and shown separately by `camtrap status`."""

    name: str
    version: int
    tables: tuple[TableSpec, ...] = ()
    rows_of: str | None = None
    is_part: ClassVar[bool] = True


class Stage(Protocol):
    """One step of a job, as users know it: it reads snapshots of tables, and commits its own tables.

    Attributes
    ----------
    name : its command, `camtrap NAME JOB`
    help : what it does, in one line
    sections : the sections of the job file that it reads
    version, tables, rows_of, is_part : see `Planned`
    options : options of its own command; `Context.option` has their values
    parts : what it plans besides its own tables
    """

    name: ClassVar[str]
    help: ClassVar[str]
    sections: ClassVar[tuple[str, ...]]
    version: ClassVar[int]
    tables: ClassVar[tuple[TableSpec, ...]]
    rows_of: ClassVar[str | None] = None
    is_part: ClassVar[bool] = False
    options: ClassVar[tuple[StageOption, ...]] = ()
    parts: ClassVar[tuple[Part, ...]] = ()

    def applies(self, job: Job) -> bool:
        """Whether this job needs it: `reprocess` skips stages that it does not need."""
        return True

    def check(self, context: Context) -> None:
        """Raise CamtrapError if it is clear before anything is done that this stage can't succeed.

        `reprocess` asks every stage before the first one begins: hours of work should not end in a message
        that could have been given at once. It should take seconds, and change nothing.
        """
        return

    def check_catalog(self, context: Context) -> None:
        """Like `check`, called once the catalog exists, before any image is read."""
        return

    def run(self, context: Context) -> StageResult:
        """Do what is not done yet. Raises CamtrapError."""
        ...


@dataclass(frozen=True)
class StageOption(Option):
    """An option of a stage's command; `in_reprocess`: `camtrap reprocess` also has it."""

    in_reprocess: bool = False


@dataclass
class Made:
    """What a stage has made on the driver.

    Attributes
    ----------
    tables : name -> rows, for each of the stage's tables
    meta : what is kept in their snapshots besides the rows
    notes : lines for people
    """

    tables: Mapping[str, pa.Table]
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class StageResult:
    """The result of a stage.

    Attributes
    ----------
    rows, shards : how many the whole plan has
    shards_run : how many this call did; the others had receipts
    counts : rows by status
    snapshots : table -> number of its present snapshot
    notes : lines for people
    """

    stage: str
    rows: int = 0
    shards: int = 0
    shards_run: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def shard_id(of: Planned, *depends_on: Any, table: str | None = None) -> str:
    """Id of the only shard of a plan: a hash of name, version, schema, and what the work depends on.

    Parameters
    ----------
    depends_on : JSON values; the same ones are the same work, in any run of this job
    table : the table whose schema counts; default: the first of `of`
    """
    return digest([of.name, *identity(of, table), *depends_on])


def shard_ids(
    of: Planned, settings: Iterable[Any], inputs: Iterable[Iterable[Any]], *, table: str | None = None
) -> list[str]:
    """Ids of the shards of a plan, in order.

    Parameters
    ----------
    settings : what all shards depend on, JSON values
    inputs : what each shard depends on besides: hashes of its rows
    table : the table whose schema counts; default: the first of `of`
    """
    # Nested differently from `shard_id`: run folders hold ids of both kinds.
    common = [*identity(of, table), *settings]
    return [digest([of.name, common, *parts]) for parts in inputs]


def identity(of: Planned, table: str | None = None) -> list[Any]:
    """Version and schema, on which every shard depends; without a schema, the table's name."""
    name = table or of.tables[0].name
    return [of.version, schemas.fingerprint(name) if name in schemas.SCHEMAS else name]
