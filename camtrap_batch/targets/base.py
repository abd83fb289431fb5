"""What a target is: something a job's layers are pushed to, where a second push changes nothing.

A new target is a class that follows `Target`, with its section of the job file (`job.publish.Publish`), in
one module; a line in `TARGETS`, or an entry point of the group `camtrap_batch.targets`, adds it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.job.publish import Publish
from camtrap_batch.registry import Registry
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import LEDGER
from camtrap_batch.vocabulary import plural

LAYERS = ("cameras", "events", "photos")
"""What a job pushes (see `rows`)."""

JOB = "job"
"""Field of every layer: the job a row belongs to. A push updates and deletes rows of its own job only."""

LOCATION = "location"
"""Field of every layer: the camera location a row belongs to."""

EDITS = pa.schema([*LEDGER, pa.field("location", pa.string()), pa.field("row", pa.int64())])
"""Edits: the ledger's columns, the camera location, and the row's number in LayerRows (null: delete)."""

OK = "ok"
"""Result of a successful edit."""


@dataclass(frozen=True)
class LayerRows:
    """Everything that a job puts on one layer.

    Attributes
    ----------
    layer : name of the layer
    key : field that identifies a row, text
    columns : attributes, among them the key, `JOB` and `LOCATION`
        Text, integers, floating point numbers and timestamps; timestamps without a time zone are local camera
        time. A field's metadata may say what it means (`fields.described`).
    longitude, latitude : float64, degrees, WGS 84
        Null if the position is not known: a row without geometry.
    description : text for people who open the layer
    utc_offset : int32, offset of the row's camera time in minutes east of UTC, null if not known
    is_derived : whether keys depend on what the model says, so that another model removes rows and adds
        others for the same animals; those of one camera that replace each other do not count as deleted

    Raises
    ------
    InputError
        A key is null, or occurs twice.
    """

    layer: str
    key: str
    columns: pa.Table
    longitude: pa.ChunkedArray
    latitude: pa.ChunkedArray
    description: str = ""
    utc_offset: pa.ChunkedArray | None = None
    is_derived: bool = False

    def __post_init__(self) -> None:
        require_unique(self.columns[self.key], f"rows for layer {self.layer}: {self.key}")


@dataclass(frozen=True)
class Push:
    """What a push did, or would do.

    Attributes
    ----------
    edits : EDITS
        Deletes, updates and adds, layer by layer. Result and time are null in a dry run.
    unchanged : layer -> number of rows that were up to date
    notes : what people should know about the layers
    stopped : why the rest was not sent, such as an expired token
    """

    edits: pa.Table
    unchanged: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: StageError | None = None

    def counts(self) -> list[tuple[str, str, str | None, int]]:
        """(layer, edit, camera location, number of edits), in that order."""
        grouped = self.edits.group_by(["layer", "edit", "location"]).aggregate([([], "count_all")])
        names = ["layer", "edit", "location"]
        rows = grouped.sort_by([(name, "ascending") for name in names]).select([*names, "count_all"])
        return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def require_unique(keys: pa.ChunkedArray, what: str) -> None:
    """Raise InputError if a key is null, or occurs twice."""
    if keys.null_count:
        raise InputError(f"{what} is empty in {plural(keys.null_count, 'row')}; every row needs one")
    if pc.count_distinct(keys).as_py() != len(keys):
        counted = pc.value_counts(keys)
        twice = counted.filter(pc.greater(counted.field("counts"), 1))[0]["values"].as_py()
        raise InputError(f"{what} {twice!r} occurs more than once; it should identify a row")


@dataclass(frozen=True)
class Photo:
    """A file to attach to a row."""

    name: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Wanted:
    """What the command asks of a push.

    Attributes
    ----------
    prune : delete stale rows from targets that otherwise keep them
    most_deleted : largest fraction of a layer's rows that may be deleted; a push that would delete more sends
        nothing
    stop : set by Ctrl-C: what is in flight is finished, the rest is left for the next push
    """

    prune: bool = False
    most_deleted: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)


class Target(Protocol):
    """Something that a job's rows are pushed to.

    All targets promise (`tests/targets/test_contract.py`): a second push makes no edit; a changed row is one
    edit, a stale one a delete; columns that a layer lacks are added; rows of other jobs, and of none, are not
    changed; whatever goes wrong in the middle, the next push makes the layer exact.

    Attributes
    ----------
    section : its section of the job file, which also says which values of `publish.target` are its own
    help : what it is, for help texts
    """

    section: ClassVar[type[Publish]]
    help: ClassVar[str]

    @classmethod
    def of(cls, run: Run, wanted: Wanted) -> Self:
        """The target of a job (`run.job.publish`).

        Raises
        ------
        MissingExtra
            A package that it needs is not installed.
        InputError
            It can't be reached.
        """
        ...

    def check(self, layers: Sequence[LayerRows]) -> None:
        """Raise InputError if it can't take rows with these columns; nothing is changed."""
        ...

    def push(self, layers: Sequence[LayerRows], *, dry_run: bool = False) -> Push:
        """Bring the layers up to date; in a dry run, say which edits that takes.

        Raises
        ------
        InputError
            It is missing, or something other than expected; nothing was changed.
        StageError
            It can't be changed, or more would be deleted than `Wanted.most_deleted` allows.
        """
        ...

    def describe(self) -> str:
        """Text for people: what it is, and where."""
        ...


@runtime_checkable
class HasIdentity(Protocol):
    """A target that can be named in several ways: two with an identity in common write to the same thing."""

    def identities(self) -> dict[str, str]:
        """What it writes to: its identity, however the job file names it -> text for people.

        Raises
        ------
        InputError, TargetUnreachable
            It can't be asked.
        """
        ...


@runtime_checkable
class TakesPhotos(Protocol):
    """A target to which photos can be attached."""

    @property
    def wants_photos(self) -> bool:
        """Whether the job asks for it."""
        ...

    def attach(self, photos: Mapping[str, Sequence[Photo]], ours: re.Pattern[str]) -> list[str]:
        """Attach photos to the cameras at their locations, each once; what was done, one line each.

        Parameters
        ----------
        photos : camera location -> its photos
        ours : names of what earlier pushes attached; what is no longer in `photos` is removed
        """
        ...


@runtime_checkable
class TakesEventPhotos(Protocol):
    """A target to which photos can be attached, one to each event."""

    @property
    def wants_event_photos(self) -> bool:
        """Whether the job asks for it."""
        ...

    def attach_to_events(
        self, photos: Iterable[Mapping[str, Sequence[Photo]]], ours: re.Pattern[str]
    ) -> list[str]:
        """Like `TakesPhotos.attach`; `photos` are by event id, in batches."""
        ...


@runtime_checkable
class MakesMaps(Protocol):
    """A target of which a separate command, `camtrap layer map`, makes a map."""

    def make_map(self, labels: Sequence[str]) -> list[str]:
        """Make a map of the job's layers, or bring it up to date; what was done, one line each.

        Parameters
        ----------
        labels : species and others, most frequent first
        """
        ...


@runtime_checkable
class MakesLayers(Protocol):
    """A target whose layers are created by a separate command, `camtrap layer create`."""

    def create(self, layers: Sequence[LayerRows], labels: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Create layers, or add what they lack; returns keys of `publish` to set, and what was done, one line
        each.

        Parameters
        ----------
        labels : species and others, most frequent first
        """
        ...


TARGETS: Registry[type[Target]] = Registry(
    "camtrap_batch.targets",
    {
        ".gpkg": "camtrap_batch.targets.geopackage:GeoPackageTarget",
        ".parquet": "camtrap_batch.targets.geoparquet:GeoParquetTarget",
        "postgresql": "camtrap_batch.targets.postgis:PostGISTarget",
        "arcgis": "camtrap_batch.targets.arcgis.target:ArcGISTarget",
    },
)
"""Name -> target; the first whose section claims the value of `publish.target` is used."""


def targets_of(run: Run, wanted: Wanted | None = None) -> list[tuple[Run, Target]]:
    """The target that a job names, and the public one beside it if it has one (`publish.public`).

    Each comes with the run whose job has it as its only target.

    Raises
    ------
    InputError
        Both are the same, or share a layer. Otherwise like `Target.of`.
    """
    runs = [run if job is run.job else Run(job) for job in run.job.by_target]
    found = [(one, _target_of(one, wanted or Wanted())) for one in runs]
    if len(found) > 1:
        first, second = (target for _, target in found)
        theirs = _identities(first) if type(first) is type(second) else {}
        if shared := sorted(text for identity, text in _identities(second).items() if identity in theirs):
            raise InputError(
                f"publish.public: {shared[0]} is also publish.target, which holds exact positions and "
                "people; name another target"
            )
    return found


def _target_of(run: Run, wanted: Wanted) -> Target:
    section = type(run.job.publish)
    kind = next(target for _, target in TARGETS.loadable() if target.section is section)
    return kind.of(run, wanted)


def _identities(target: Target) -> dict[str, str]:
    if isinstance(target, HasIdentity):
        return target.identities()
    return {target.describe(): target.describe()}
