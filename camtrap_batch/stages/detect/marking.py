"""The table `detections` of a large data set, made by workers: which spots cameras repeat, by location, and
then the rows of the boxes with the number of their spot.

Two plans, as spots are numbered over all cameras: a shard of the second has to know how many there are
before it. What it makes is what one shard on the driver would make of all boxes at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.detection.boxes import Repeats, mark_repeats, to_corners
from camtrap_batch.detection.repeats import Spots, match_spots
from camtrap_batch.engine.base import Need, WorkerContext
from camtrap_batch.errors import StageError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job.detect import Detect
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.rows import hash_runs, pack, unpack
from camtrap_batch.pipeline.shards import Done, ask_workers, do_on_workers
from camtrap_batch.pipeline.stage import Part, TableSpec, shard_ids
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.manifest import usable_rows
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import BOXES
from camtrap_batch.store.shards import File, Plan, Receipt, Shard, digest, last_plan
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import finish_shard, open_files, stands

SPOTS = Part("repeats", 1)
DETECTIONS = Part("detections", 1, (TableSpec("detections", "each box that was found"),))

MOST_ON_DRIVER = 1_000_000
"""The driver itself marks this many boxes, in a second."""

_OF_A_SHARD = 250_000  # boxes, or a few more: no camera is divided among shards

SpotsOf = tuple[str, int, list[list[float]]]
"""A location, the number of its first spot, and the box of each."""

_COMPARED = ["x", "y", "w", "h", "confidence", "category"]


def mark_on_workers(context: Context, settings: Detect, detected: Snapshot) -> list[str]:
    """Make `detections`, as the stage's `_mark` does. Returns notes for people."""
    run, boxes = context.run, _Boxes.of(context.run, detected)
    inputs: dict[str, Any] = {"detected": detected.number}
    depends = [settings.repeat.frames, settings.repeat.iou, settings.threshold]

    def need() -> Need:
        return "CPU" if context.executor().offers("CPU") else "GPU"

    pieces = boxes.by_camera()
    ids = shard_ids(SPOTS, depends, boxes.identities(pieces), table="detections")
    plan = boxes.plan(SPOTS, ids, pieces, inputs)
    inputs |= {SPOTS.name: plan.id}
    if _stands(run, plan.id):
        return []
    of_cameras = dict(zip(ids, pieces, strict=True))
    receipts = ask_workers(
        context,
        plan,
        FindSpots(run.folder, (plan.stage, plan.id), settings),
        lambda shard: boxes.payload(of_cameras[shard.id]),
        need=need,
        unit="boxes",
    )
    repeats = Repeats.joined(Repeats.from_meta(receipt.result["about"]) for receipt in receipts)
    spots: dict[str, list[list[float]]] = {}  # in the order of their numbers
    for receipt in receipts:
        for location, *box in receipt.result["spots"]:
            spots.setdefault(location, []).append(box)
    before = np.cumsum([0, *map(len, spots.values())]).tolist()
    first = dict(zip(spots, before[:-1], strict=True))

    def spots_of(piece: _Piece) -> list[SpotsOf]:
        here = boxes.location.slice(piece.start, piece.stop - piece.start).unique().to_pylist()
        return [(name, first[name], spots[name]) for name in here if name in spots]

    pieces = boxes.by_file()
    known = (digest([spots_of(piece)]) for piece in pieces)
    identities = [[*one, of] for one, of in zip(boxes.identities(pieces), known, strict=True)]
    ids = shard_ids(DETECTIONS, depends, identities)
    plan = boxes.plan(DETECTIONS, ids, pieces, inputs)
    of_files = dict(zip(ids, pieces, strict=True))
    meta = {"of": detected.plan_id, "repeats": {"threshold": settings.threshold, **repeats.meta()}}
    result = do_on_workers(
        context,
        plan,
        WriteDetections(run.folder, (plan.stage, plan.id), settings),
        lambda shard: (boxes.payload(of_files[shard.id]), spots_of(of_files[shard.id])),
        ["detections"],
        need=need(),
        finish=lambda plan, receipts: Done(plan, receipts, meta),
        unit="boxes",
    )
    return repeats.notes() if result.shards_run else []


def _stands(run: Run, spots: str) -> bool:
    """Whether the current table was made with the spots of this plan, and nothing of it is to be redone."""
    current, plan = run.current(DETECTIONS.name), last_plan(run.folder, DETECTIONS.name)
    if current is None or plan is None or current.inputs.get(SPOTS.name) != spots:
        return False
    return current.plan_id == plan.id and stands(run.folder, plan, [DETECTIONS.name])


@dataclass(frozen=True)
class _Piece:
    """Images [start, stop) of the manifest's usable rows."""

    start: int
    stop: int


@dataclass(frozen=True)
class Payload:
    """Images, and where their boxes are.

    Attributes
    ----------
    rows : image_id and location of each image, packed
    n_boxes : (images,) number of boxes of each
    files : the files that have them
    skip : number of rows before them in the first file
    """

    rows: bytes
    n_boxes: npt.NDArray[np.int64]
    files: Sequence[File]
    skip: int

    def read(self, folder: Folder, columns: list[str]) -> pa.Table:
        """These columns of the boxes. Raises StageError if they are not those of the images."""
        table = open_files(folder, "boxes", self.files).to_table(columns=columns)
        boxes = table.slice(self.skip, int(self.n_boxes.sum()))
        if boxes.num_rows != self.n_boxes.sum():
            raise StageError(
                f"{folder.url}: the table boxes has {boxes.num_rows} rows where detected says "
                f"{self.n_boxes.sum()}"
            )
        return boxes


@dataclass(frozen=True)
class _Boxes:
    """Where the boxes of a data set are.

    Attributes
    ----------
    rows : image_id and location of each usable row of the manifest
    ends : (images + 1,) number of boxes before each image
    files, file_ends : files of the table `boxes`, and the number of boxes before each
    """

    rows: pa.Table
    ends: npt.NDArray[np.int64]
    files: Sequence[File]
    file_ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, run: Run, detected: Snapshot) -> _Boxes:
        n_boxes = run.table("detected", detected.number).to_table(columns=["n_boxes"])["n_boxes"]
        files = [file for file in run.snapshot("boxes").files if file.rows]
        return cls(
            usable_rows(run, ["image_id", "status", "location"]).select(["image_id", "location"]),
            _sums(n_boxes.fill_null(0).to_numpy()),
            files,
            _sums(np.array([file.rows for file in files], np.int64)),
        )

    @property
    def location(self) -> pa.ChunkedArray:
        return self.rows["location"]

    def by_camera(self) -> list[_Piece]:
        """All images, cut between locations; those of one location stay together wherever they are."""
        codes = self.location.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        named = np.flatnonzero(codes >= 0)
        last = np.zeros(len(self.ends), np.int64)
        last[codes[named]] = named  # of equal indices the last one counts
        until = np.full(len(codes), -1)
        until[named] = last[codes[named]]
        # A cut is allowed where no location before it comes again.
        return self._cut(np.flatnonzero(np.maximum.accumulate(until)[:-1] <= np.arange(len(codes) - 1)) + 1)

    def by_file(self) -> list[_Piece]:
        """All images, cut where files begin."""
        return self._cut(np.searchsorted(self.ends, self.file_ends[1:-1], side="left"))

    def _cut(self, borders: npt.NDArray[np.int64]) -> list[_Piece]:
        """At some of these images, so that each piece has enough boxes."""
        before, start, pieces = self.ends[borders], 0, list[_Piece]()
        borders, before = borders[before < self.ends[-1]], before[before < self.ends[-1]]
        while (at := int(np.searchsorted(before, self.ends[start] + _OF_A_SHARD))) < len(borders):
            pieces.append(_Piece(start, int(borders[at])))
            start = pieces[-1].stop
        return [*pieces, _Piece(start, len(self.ends) - 1)]

    def plan(self, of: Part, ids: Sequence[str], pieces: Sequence[_Piece], inputs: Mapping[str, Any]) -> Plan:
        shards = [
            Shard(id_, int(self.ends[piece.start]), int(self.ends[piece.stop]))
            for id_, piece in zip(ids, pieces, strict=True)
        ]
        return Plan.make(of.name, shards, dict(inputs))

    def identities(self, pieces: Sequence[_Piece]) -> list[list[Any]]:
        """What the boxes of each piece depend on: its images, and the content of files."""
        hashes = hash_runs(self.rows, self.rows.column_names, [(one.start, one.stop) for one in pieces])
        found: list[list[Any]] = []
        for hash_, piece in zip(hashes, pieces, strict=True):
            files, skip = self._files(piece)
            found.append([hash_, [file.sha256 or file.file for file in files], skip])
        return found

    def payload(self, piece: _Piece) -> Payload:
        files, skip = self._files(piece)
        rows = self.rows.slice(piece.start, piece.stop - piece.start)
        return Payload(pack(rows), np.diff(self.ends[piece.start : piece.stop + 1]), files, skip)

    def _files(self, piece: _Piece) -> tuple[Sequence[File], int]:
        start, stop = self.ends[piece.start], self.ends[piece.stop]
        first = max(0, int(np.searchsorted(self.file_ends, start, side="right")) - 1)
        last = int(np.searchsorted(self.file_ends, stop, side="left"))
        return self.files[first:last], int(start - self.file_ends[first])


def _sums(numbers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64)


@dataclass(frozen=True)
class _Marking:
    """What a worker does with some boxes of whole cameras, or of whole files."""

    folder: Folder
    plan: tuple[str, str]
    settings: Detect
    divisible: ClassVar[bool] = False  # half a camera has fewer repeats

    @property
    def image_root(self) -> ImageRoot | None:
        return None

    def crashed(self, shard: Shard, payload: Any) -> Receipt:
        raise NotImplementedError("there is no single image to blame")


@dataclass(frozen=True)
class FindSpots(_Marking):
    """Finds the spots that cameras repeat; they are in the receipt."""

    def run(self, shard: Shard, payload: Payload, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        boxes = payload.read(self.folder, _COMPARED)
        marked = mark_repeats(self.settings, unpack(payload.rows), pa.chunked_array([payload.n_boxes]), boxes)
        spots = [
            [marked.locations[camera], *box]
            for camera, box in zip(marked.spots.camera.tolist(), marked.spots.box.tolist(), strict=True)
        ]
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {},
            started=started,
            worker=here.name,
            result={"spots": spots, "about": marked.repeats.meta()},
        )


@dataclass(frozen=True)
class WriteDetections(_Marking):
    """Writes the rows of `detections`: those of `boxes`, with the number of the spot that each repeats."""

    def run(self, shard: Shard, payload: tuple[Payload, Any], here: WorkerContext) -> Receipt:
        started = time.monotonic()
        images, spots = payload
        boxes = images.read(self.folder, [name for name in BOXES.names if name != "label"])
        number = self._number(images, boxes, spots)
        marked = boxes.append_column("repeat", pa.array(number, pa.int32(), mask=number < 0))
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {"detections": marked},
            started=started,
            worker=here.name,
        )

    def _number(self, images: Payload, boxes: pa.Table, spots: Sequence[SpotsOf]) -> npt.NDArray[np.int32]:
        found = np.full(boxes.num_rows, -1, np.int32)
        if not spots:
            return found
        location = unpack(images.rows)["location"].combine_chunks().dictionary_encode()
        names = {name: camera for camera, name in enumerate(location.dictionary.to_pylist())}
        numbers = np.array([first + n for _, first, some in spots for n in range(len(some))], np.int32)
        known = Spots(
            np.array([names[name] for name, _, some in spots for _ in some], np.int64),
            np.array([box for _, _, some in spots for box in some], np.float32),
        )
        camera = np.repeat(location.indices.fill_null(-1).to_numpy().astype(np.int64), images.n_boxes)
        counts = np.flatnonzero(boxes["confidence"].to_numpy() >= self.settings.threshold)
        spot = match_spots(camera[counts], to_corners(boxes)[counts], known, iou=self.settings.repeat.iou)
        found[counts[spot >= 0]] = numbers[spot[spot >= 0]]
        return found
