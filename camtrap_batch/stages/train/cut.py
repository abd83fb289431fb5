"""What is trained on if there are boxes: crops, cut once from the selected images, on workers."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import simplejpeg

from camtrap_batch import phases
from camtrap_batch.detection.boxes import COLUMN as COLUMN_OF_BOXES
from camtrap_batch.detection.boxes import Boxes, Look, Rules, find_boxes
from camtrap_batch.detection.crops import Box, Picture, cut_for_training, thumbnail_shows
from camtrap_batch.engine.base import Need, WorkerContext
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.lost import require_few_lost
from camtrap_batch.pipeline.retries import FAILED, TRIES, Retries, read_failed
from camtrap_batch.pipeline.rows import hash_runs, location_borders, pack, texts, unpack
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Part, StageResult, TableSpec, shard_ids
from camtrap_batch.selection.crops import BACKGROUND, BOX, FRAME
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut
from camtrap_batch.store.tables import finish_shard
from camtrap_batch.vocabulary import EMPTY

CUT = Part(
    "cut",
    1,
    (
        TableSpec("training_images", "each selected image"),
        TableSpec("training_crops", "each crop that was cut out of them"),
    ),
)

_SHARD_SIZE = 256
_QUALITY = 95
_SMALLEST, _LARGEST = 0.12, 0.6  # side of a background, as a fraction of the frame
_DEVICE: dict[Need, Literal["cpu", "cuda"]] = {"CPU": "cpu", "GPU": "cuda"}
_SENT = [*COLUMNS, "width", "height", COLUMN_OF_BOXES]


def cut_crops(context: Context) -> StageResult:
    """Bring the tables `training_images` and `training_crops` up to date with the current selection and
    boxes.

    From each selected image: the boxes that count, by the rules of `infer`; if there is none, a spot without
    a box, from which emptiness is learnt; if its boxes are not known, the whole frame.

    Raises
    ------
    InputError
        There is no selection yet, or `detect` has not been run.
    """
    job = context.job
    rows, boxes = selected_rows(job, context.run)
    work = CutShard(
        folder=context.run.folder,
        plan=(CUT.name, ""),
        root=image_root(job),
        size=job.train.size,
        thumbnail=job.validate_.thumbnails,
        timeout_s=job.validate_.timeout_s,
        rules=boxes.rules if boxes else None,
    )
    return do_cuts(context, CUT, work, [work.size, work.thumbnail], rows, boxes, lambda _: "CPU")


def do_cuts(
    context: Context,
    part: Part,
    work: CutShard,
    settings: list[Any],
    rows: pa.Table,
    boxes: Boxes | None,
    need_of: Callable[[CutShard], Need],
) -> StageResult:
    """Have workers process what is cut from the selected images.

    Parameters
    ----------
    part : the part whose tables are made; the first table has the columns image_id and status
    work : the work, without its plan
    settings : what every shard depends on besides its images and their boxes
    rows, boxes : results of `selected_rows`
    need_of : returns the kind of workers; called if there is something to do
    """
    run = context.run
    runs = cut(texts(rows["image_id"]), _SHARD_SIZE, location_borders(rows).tolist())
    of_boxes = boxes.hashes(runs) if boxes else [""] * len(runs)
    hashes = zip(hash_runs(rows, ["image_id", "sha256"], runs), of_boxes, strict=True)
    names = [table.name for table in part.tables]
    before = run.current(names[0])
    retries = Retries(
        context,
        names[0],
        before,
        read_failed(context, before, FAILED),
        TRIES,
        rows["image_id"],
        shard_ids(part, settings, hashes),
        runs,
    )
    sources = ["selection", "manifest", *(("detected", "detections") if boxes else ())]
    inputs = {name: run.snapshot(name).number for name in sources}
    plan = Plan.make(part.name, retries.shards(), inputs)

    def finish(plan: Plan, receipts: list[Receipt]) -> Done:
        plan, receipts = retries.keep_earlier(plan, receipts)
        require_few_lost(context, part.name, names[0], receipts, before)
        found: Counter[str] = Counter()
        for receipt in receipts:
            found.update(receipt.result)
        return Done(plan, receipts, {"found": dict(found), "tries": retries.record()})

    is_done = context.dry_run or (before is not None and before.plan_id == plan.id)
    need = "CPU" if is_done else need_of(work)
    sent = rows.select([name for name in _SENT if name in rows.column_names])
    result = do_on_workers(
        context,
        plan,
        replace(work, plan=(plan.stage, plan.id), device=_DEVICE[need]),
        lambda shard: pack(sent.slice(shard.start, shard.rows)),
        names,
        need=need,
        finish=finish,
        locations=rows["location"],
    )
    result.notes += retries.notes()
    if not context.dry_run:
        context.progress.end(part.name, "done", result.rows, result.shards, result.counts)
        context.progress.begin("train")  # this was a part of it
    return result


def selected_rows(job: Job, run: Run) -> tuple[pa.Table, Boxes | None]:
    """The selected images, and their boxes if crops are trained on."""
    chosen = run.table("selection").to_table(columns=["label"])["label"].is_valid()
    columns = [*COLUMNS, "sha256", "location", "seq_id", "width", "height"]
    rows = run.table("manifest").to_table(columns=columns).filter(chosen)
    if job.detection is None or not job.trains_on_crops:
        return rows, None
    boxes = find_boxes(job.detection[0], run, rows, EMPTY)
    return rows.append_column(COLUMN_OF_BOXES, boxes.column), boxes


@dataclass(frozen=True)
class CutShard:
    """Cuts crops out of the images of a shard, on a worker.

    Attributes
    ----------
    size : side of the square that the model will see, in pixels
    thumbnail : pixels of the short side of thumbnails; 0: there are none
    rules : rules for the boxes; None: whole frames are used
    """

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    size: int
    thumbnail: int
    timeout_s: float
    rules: Rules | None
    device: Literal["cpu", "cuda"] = "cpu"
    divisible: ClassVar[bool] = True
    tables: ClassVar[tuple[str, str]] = ("training_images", "training_crops")
    column: ClassVar[tuple[str, pa.DataType]] = ("jpeg", pa.binary())

    @property
    def image_root(self) -> ImageRoot | None:
        return self.root

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        phases.enter("read")
        rows = unpack(payload)
        cuts = self.cuts(rows)
        squares: dict[int, pa.Array] = {}
        for index, data in self.pictures(rows, cuts, here):
            try:
                pixels = cut_for_training(Picture(data, boxes_of(cuts[index])), self.size)
            except (ValueError, OSError):
                continue
            jpegs = [simplejpeg.encode_jpeg(square, _QUALITY) for square in pixels]
            squares[index] = pa.array(jpegs, pa.binary())
        return self.finish(shard, rows, cuts, squares, started, worker=here.name)

    def pictures(
        self, rows: pa.Table, cuts: Sequence[Sequence[Cut]], here: WorkerContext
    ) -> Iterator[tuple[int, bytes]]:
        """Row and contents of each image that can be read."""
        gone: list[str] = []
        move = phases.progress()
        use_thumbnails = np.array([self._use_thumbnail(rows, *entry) for entry in enumerate(cuts)])
        for index, data, _ in read_pictures(
            self.folder, self.root, rows, use_thumbnails=use_thumbnails, timeout_s=self.timeout_s
        ):
            move()
            if data is None:
                gone.append(rows["file_name"][index].as_py())
            else:
                yield index, data
        here.look_again(gone)

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        cuts: list[list[Cut]] = [[] for _ in range(rows.num_rows)]
        return self.finish(shard, rows, cuts, {}, time.monotonic(), without="crashed")

    def cuts(self, rows: pa.Table) -> list[list[Cut]]:
        """What is cut from each image: number of the box, None without one, and its corners; None: the whole
        image."""
        if self.rules is None:
            return [[(None, None)] for _ in range(rows.num_rows)]
        column = rows[COLUMN_OF_BOXES].combine_chunks()
        look = Look.at(column, self.rules)
        numbers = look.numbers()
        sides = [look.boxes.field(name).to_numpy() for name in ("x", "y", "w", "h")]
        found: list[list[Cut]] = [[] for _ in range(rows.num_rows)]
        for box in look.classified.tolist():
            corners = tuple(float(side[box]) for side in sides)
            found[int(look.rows_of[box])].append((int(numbers[box]), corners))  # type: ignore[arg-type]
        for row in look.whole.tolist():
            found[row].append((None, None))
        for row, cuts in enumerate(found):
            if not cuts:
                cuts.append((None, background(rows["image_id"][row].as_py())))
        return found

    def _use_thumbnail(self, rows: pa.Table, row: int, cuts: Sequence[Cut]) -> bool:
        if not self.takes_thumbnails:
            return False
        if (boxes := boxes_of(cuts)) is None:
            return True
        sides = (rows[name][row].as_py() or 0 for name in ("width", "height"))
        return thumbnail_shows(boxes, self.size, self.thumbnail, *sides)

    @property
    def takes_thumbnails(self) -> bool:
        return self.thumbnail >= self.size

    def finish(
        self,
        shard: Shard,
        rows: pa.Table,
        cuts: Sequence[Sequence[Cut]],
        made: Mapping[int, pa.Array],
        started: float,
        *,
        worker: str = "driver",
        without: str = "unreadable",
    ) -> Receipt:
        there = sorted(made)
        lengths = [len(made.get(row, ())) for row in range(rows.num_rows)]
        kept = [one for row in there for one in cuts[row]]
        what = [BOX if number is not None else FRAME if box is None else BACKGROUND for number, box in kept]
        status = ["ok" if row in made else without for row in range(rows.num_rows)]
        image_ids = rows["image_id"]
        of_images, of_crops = self.tables
        column, kind = self.column
        tables = {
            of_images: pa.table(
                {"image_id": image_ids, "status": status, "n_crops": pa.array(lengths, pa.int32())}
            ),
            of_crops: pa.table(
                {
                    "image_id": image_ids.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
                    "box": pa.array([number for number, _ in kept], pa.int32()),
                    "what": pa.array(what, pa.string()),
                    column: pa.chunked_array([made[row] for row in there], kind),
                }
            ),
        }
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            tables,
            counts=dict(Counter(status)),
            seconds={},
            started=started,
            worker=worker,
            result=dict(Counter(what)),
        )


def boxes_of(cuts: Sequence[Cut]) -> list[Box] | None:
    """The boxes to cut; None for the whole frame."""
    return [box for _, box in cuts if box is not None] or None


Cut = tuple[int | None, Box | None]
"""Number of a box, and the box."""


def background(image_id: str) -> Box:
    """A spot in a picture, always the same one for an image.

    >>> [round(part, 3) for part in background("an image")]
    [0.134, 0.27, 0.289, 0.289]
    """
    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    side = float(np.exp(random.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
    x, y = (float(part) for part in random.uniform(0, 1 - side, 2))
    return x, y, side, side
