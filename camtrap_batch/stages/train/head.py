"""train.method: head: features of the selected images, computed once, and a last layer fitted to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from camtrap_batch import phases
from camtrap_batch.detection.crops import Picture
from camtrap_batch.engine.base import Need, WorkerContext, choose_workers, memory_here
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.framing import Framing
from camtrap_batch.job import Job, Train
from camtrap_batch.model.info import ONNX_ARCH
from camtrap_batch.model.library import fetch_model, keep_model, open_model
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.rows import unpack
from camtrap_batch.pipeline.stage import Part, StageResult, TableSpec
from camtrap_batch.stages.train.cut import Cut, CutShard, boxes_of, do_cuts, selected_rows
from camtrap_batch.stages.train.finish import finish_training, origin_of
from camtrap_batch.stages.train.selected import Crops, read_crops
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Receipt, Shard
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table

if TYPE_CHECKING:  # torch is loaded only on workers
    from camtrap_batch.model.head import Backbone, Featurer

FEATURES = Part(
    "features",
    1,
    (
        TableSpec("featured", "each selected image"),
        TableSpec("features", "each of them, or each crop that is cut out of it"),
    ),
)

_loaded: dict[Base, Featurer] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class Base:
    """The network that is kept unchanged.

    Attributes
    ----------
    model : a model folder; None: published or other weights
    name : id of that model, or what the job says
    framing : how it sees a picture; None if that must be looked up
    arch, weights, size : for published or other weights, as in the job
    """

    model: Folder | None
    name: str
    framing: Framing | None
    arch: str
    weights: str
    size: int

    def open(self) -> Backbone:
        from camtrap_batch.model.head import open_backbone

        folder = None if self.model is None else fetch_model(self.model)
        return open_backbone(folder, self.arch, self.weights, self.size)


def choose_base(job: Job, run: Run, name: str, *, keep: bool) -> Base:
    """The network that a job's `train.weights` name.

    Parameters
    ----------
    name : the job's weights, with an id in place of latest
    keep : whether to copy a model from elsewhere into the run folder

    Raises
    ------
    InputError
        It is missing or incomplete.
    """
    train = job.train
    if not is_model(name):
        return Base(None, name, Framing(train.size), train.arch, name, train.size)
    model, info = open_model(run, name, "train.weights")
    if info.arch == ONNX_ARCH:
        raise InputError(
            f"train.weights: {name}: a network in an ONNX file gives only its answers, but a head needs what "
            "precedes them; give a model of torchvision or timm (camtrap model import)"
        )
    kept = keep_model(run, model, info.model_id) if keep else model
    return Base(kept, info.model_id, info.framing, info.arch, "", info.size)


def is_model(weights: str) -> bool:
    """Whether `train.weights` names a model, not just weights."""
    return weights not in ("imagenet", "none") and not Path(weights).is_file()


def compute_features(context: Context, base: Base, version: Sequence[int]) -> StageResult:
    """Bring the tables `featured` and `features` up to date with the current selection and boxes.

    Parameters
    ----------
    version : version of the weights, if they are a file
    """
    job = context.job
    rows, boxes = selected_rows(job, context.run)
    work = FeatureShard(
        folder=context.run.folder,
        plan=(FEATURES.name, ""),
        root=image_root(job),
        size=base.size,
        thumbnail=job.validate_.thumbnails,
        timeout_s=job.validate_.timeout_s,
        rules=boxes.rules if boxes else None,
        base=base,
        batch=job.infer.batch,
    )
    known = [base.name] if base.model is not None else [base.arch, base.weights, base.size, *version]
    settings = [*known, work.takes_thumbnails, work.thumbnail if boxes else 0]
    return do_cuts(context, FEATURES, work, settings, rows, boxes, partial(_workers, context))


def _workers(context: Context, work: CutShard) -> Need:
    from camtrap_batch.stages.infer import has_cuda

    return choose_workers(context.executor(), context.job.infer.device, has_cuda, "infer.device")


@dataclass(frozen=True, kw_only=True)
class FeatureShard(CutShard):
    """Computes features of what is cut from the images of a shard, on a worker."""

    base: Base
    batch: int
    tables: ClassVar[tuple[str, str]] = ("featured", "features")
    column: ClassVar[tuple[str, pa.DataType]] = ("features", pa.list_(pa.float16()))

    @property
    def takes_thumbnails(self) -> bool:
        return self.base.framing is not None and self.base.framing.takes_thumbnails(self.thumbnail)

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        featurer = self._featurer(here.threads)
        phases.enter("read and forward")
        rows = unpack(payload)
        cuts = self.cuts(rows)
        kind = self.column[1]
        made = {
            row: pa.array(list(features.astype(np.float16)), kind)
            for row, features in featurer.compute(self._pictures(rows, cuts, here))
        }
        return self.finish(shard, rows, cuts, made, started, worker=here.name)

    def _pictures(
        self, rows: pa.Table, cuts: Sequence[Sequence[Cut]], here: WorkerContext
    ) -> Iterator[tuple[int, Picture]]:
        for row, data in self.pictures(rows, cuts, here):
            yield row, Picture(data, boxes_of(cuts[row]))

    def _featurer(self, threads: int) -> Featurer:
        from camtrap_batch.model.head import Featurer

        with _loading:
            if self.base not in _loaded:
                _loaded.clear()
                _loaded[self.base] = Featurer(self.base.open(), self.device, threads, self.batch)
            return _loaded[self.base]


@dataclass(frozen=True)
class HeadShard:
    """Fits a last layer to all features, on a worker."""

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    config: Train
    seed: int
    selection: Snapshot
    manifest: Snapshot
    crops: Crops
    base: Base
    asked: str
    job: str
    divisible: ClassVar[bool] = False

    @property
    def image_root(self) -> ImageRoot | None:
        return None

    def run(self, shard: Shard, payload: None, here: WorkerContext) -> Receipt:
        # Not on the driver, which may have no torch.
        from camtrap_batch.model.head import train_head
        from camtrap_batch.stages.train import note_doubts, tell

        started = time.monotonic()
        phases.enter("read")
        samples, reasons = read_crops(
            self.folder, self.root, self.selection, self.manifest, self.crops, budget=memory_here(here) // 4
        )
        if self.crops.of_boxes is not None:
            note_doubts(here, reasons)
        values = open_table(self.folder, self.crops.crops).to_table(columns=["features"])["features"]
        features = np.asarray(values.combine_chunks().flatten()).reshape(len(samples), -1)
        read = time.monotonic() - started
        phases.enter("train")
        with TemporaryDirectory() as scratch:
            parent = self.folder.make("models") if self.folder.is_local else Path(scratch)
            result = train_head(
                samples,
                features.astype(np.float32),
                self.base.open(),
                parent,
                {**origin_of(self, self.config.model_dump(mode="json")), "base": self.base.name},
                balance=self.config.balance,
                seed=self.seed,
                tell=partial(tell, here),
            )
            began_with = {"base": self.base.name, "asked": self.asked}
            return finish_training(self, shard, here, parent / result.model_id, started, read, began_with)

    def crashed(self, shard: Shard, payload: None) -> Receipt:
        raise NotImplementedError("training has no single image to blame")


def head_settings(base: Base) -> dict[str, Any]:
    """What a head depends on in its network."""
    return {**asdict(replace(base, model=None)), "model": base.model is not None}
