"""train: a classifier from the selection, as one task on a worker that holds GPU=1."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from camtrap_batch import phases
from camtrap_batch.detection.boxes import make_rules
from camtrap_batch.engine.base import Need, Work, WorkerContext, memory_here
from camtrap_batch.errors import CamtrapError, InputError, MissingExtra, StageError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Job, Train
from camtrap_batch.model.info import CARD, WEIGHTS
from camtrap_batch.model.library import fetch_model, keep_model, model_folder, open_model
from camtrap_batch.model.names import check_architecture
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Stage, StageResult, TableSpec, shard_id
from camtrap_batch.selection.crops import KNOWN
from camtrap_batch.stages.detect import bring_detections
from camtrap_batch.stages.train.cut import CUT, cut_crops
from camtrap_batch.stages.train.finish import finish_training, origin_of
from camtrap_batch.stages.train.head import (
    FEATURES,
    HeadShard,
    choose_base,
    compute_features,
    head_settings,
    is_model,
)
from camtrap_batch.stages.train.selected import BoxTables, Crops, read_crops, read_samples
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard, digest
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table
from camtrap_batch.vocabulary import EMPTY, plural

if TYPE_CHECKING:
    from camtrap_batch.model import Samples, TrainConfig, TrainResult
    from camtrap_batch.model.checkpoints import Checkpoints
    from camtrap_batch.model.team import SoloTeam

TOPIC = "camtrap-train"
"""Topic on which a training reports its progress."""

CHECKPOINTS = "checkpoints"
"""Folder, in the run folder, of trainings that are not committed yet."""

_MOST_LOSSES = 3
_LOG_EVERY_S = 30.0  # a sign of life during long epochs


class TrainStage(Stage):
    name = "train"
    help = "train a classifier on the selected images"
    sections = ("train",)
    version = 3
    tables = (TableSpec("model", "no rows; its plan has one for each image that is trained on"),)
    parts = (CUT, FEATURES)

    def applies(self, job: Job) -> bool:
        return job.infer.model == "latest"

    def check(self, context: Context) -> None:
        if any(find_spec(name) is None for name in ("torch", "torchvision", "timm", "fastai")):
            raise MissingExtra("train", "training and classifying")
        if context.run.current("model") is None:
            check_architecture(context.job.train.arch)
            check_weights(context.job.train.weights)

    def check_catalog(self, context: Context) -> None:
        train = context.job.train
        if train.weights == "imagenet" and context.run.current("model") is None and not context.dry_run:
            from camtrap_batch.model import check_published

            check_published(train.arch)

    def run(self, context: Context) -> StageResult:
        """Train on the table `selection`; the model is stored as `models/<model id>` in the run folder.

        If the job has boxes, training uses crops (see `cut.cut_crops`), which are cut first.

        Raises
        ------
        JobError
            The architecture is unknown, or a class or a split is empty.
        ClusterError
            No worker holds GPU=1.
        """
        job, run = context.job, context.run
        check_weights(job.train.weights)
        if job.trains_on_crops:
            bring_detections(context)
        base = find_base(job, run)
        if job.train.method == "head":
            return _train_head(context, base)
        if job.trains_on_crops:
            cutting = cut_crops(context)
            if context.dry_run and cutting.notes:
                return StageResult(self.name, notes=[f"crops would be cut first: {cutting.notes[0]}"])
        work, shard = plan_training(job, run, base)
        inputs = {"selection": work.selection.number, "manifest": work.manifest.number}
        if work.crops is not None:
            inputs["training_images"] = work.crops.images.number
        plan = Plan.make(self.name, [shard], inputs)
        work = replace(work, plan=(plan.stage, plan.id))
        trained = run.current("model")
        is_new = trained is None or trained.plan_id != plan.id
        if is_new:
            check_architecture(job.train.arch)
        if is_new and base is not None and not context.dry_run:
            keep_model(run, *_model_for(job, run, base))
        result = _do(context, plan, work, "GPU", listen=is_new)
        if not context.dry_run:
            for name in run.folder.list(CHECKPOINTS):
                if name.startswith(shard.id):
                    run.folder.delete(f"{CHECKPOINTS}/{name}")
        return result


STAGE = TrainStage()


def _do(context: Context, plan: Plan, work: Work, need: Need, *, listen: bool) -> StageResult:
    with ExitStack() as listening:
        if listen and not context.dry_run:  # asking for the executor opens a cluster
            listening.enter_context(context.executor().listen(TOPIC, _Shown(context)))
        return do_on_workers(context, plan, work, lambda _: None, ("model",), need=need, finish=_with_result)


def _train_head(context: Context, base: str | None) -> StageResult:
    """Train only a last layer, on features that are computed once."""
    job, run = context.job, context.run
    chosen = choose_base(job, run, base or job.train.weights, keep=not context.dry_run)
    version = _weights_version(job.train.weights)
    computing = compute_features(context, chosen, version)
    if context.dry_run and computing.notes:
        return StageResult(STAGE.name, notes=[f"features would be computed first: {computing.notes[0]}"])
    selection = run.snapshot("selection")
    images, features = run.snapshot("featured"), run.snapshot("features")
    of_boxes = _box_tables(job, run, selection) if job.trains_on_crops else None
    asked = _asked(job, run)
    work = HeadShard(
        folder=run.folder,
        plan=(STAGE.name, ""),
        root=image_root(job),
        config=job.train,
        seed=job.select.seed,
        selection=selection,
        manifest=run.snapshot("manifest"),
        crops=Crops(images, features, of_boxes, job.select.classes is not None),
        base=chosen,
        asked=asked,
        job=job.name,
    )
    id_ = shard_id(STAGE, "head", asked, images.plan_id, head_settings(chosen))
    labels = open_table(run.folder, selection).to_table(columns=["label"])["label"]
    shard = Shard(id_, 0, len(labels) - labels.null_count)
    inputs = {"selection": selection.number, "featured": images.number}
    plan = Plan.make(STAGE.name, [shard], inputs)
    trained = run.current("model")
    is_new = trained is None or trained.plan_id != plan.id
    return _do(context, plan, replace(work, plan=(plan.stage, plan.id)), "CPU", listen=is_new)


def find_base(job: Job, run: Run) -> str | None:
    """The model whose weights the job begins with: its id, or its folder; None if it names no model.

    For `latest`, the run's last model, or, if that was made from another one just as it would be made now,
    that one.

    Raises
    ------
    InputError
        There is no model yet; or, for fine-tuning, it has another architecture.
    """
    weights = job.train.weights
    if not is_model(weights):
        return None
    if weights == "latest":
        trained = run.current("model")
        if trained is None:
            raise InputError(
                "train.weights: latest: no model is trained yet in this run; train one first, with weights "
                "imagenet, none, or of a file or model folder"
            )
        is_that = trained.meta.get("asked") == _asked(job, run)
        weights = trained.meta["base"] if is_that else trained.meta["model_id"]
    if job.train.method == "finetune":
        _model_for(job, run, weights)
    return str(weights)


def _model_for(job: Job, run: Run, name: str) -> tuple[Folder, str]:
    """The folder and id of a model to continue from. Raises InputError if it is another network."""
    model, info = open_model(run, name, "train.weights")
    train = job.train
    if (info.arch, info.size) != (train.arch, train.size):
        raise InputError(
            f"train.weights: {name}: a {info.arch} of {info.size} pixels, and train says {train.arch} of "
            f"{train.size}; set train.arch and train.size to go on from it"
        )
    return model, info.model_id


def _asked(job: Job, run: Run) -> str:
    """What a training that begins with another model depends on, apart from that model."""
    selection = run.snapshot("selection")
    more: list[Any] = []
    if job.trains_on_crops:
        tables = _box_tables(job, run, selection)
        more = [tables.detections.plan_id, asdict(tables.rules)]
    settings = _settings(job.train) | {"method": job.train.method}
    return digest([settings, job.select.seed, job.validate_.thumbnails, selection.plan_id, *more])


def plan_training(job: Job, run: Run, base: str | None = None) -> tuple[TrainShard, Shard]:
    """The training, without its plan, and the plan's only shard; `base` is the result of `find_base`."""
    selection, manifest = run.snapshot("selection"), run.snapshot("manifest")
    use_thumbnails = job.validate_.thumbnails >= job.train.size
    crops = _crops(job, run, selection) if job.trains_on_crops else None
    # Trainings on frames keep the ids from before there was a choice.
    more: list[Any] = []
    if crops is not None and crops.of_boxes is not None:
        tables = crops.of_boxes
        more = [crops.images.plan_id, tables.detections.plan_id, asdict(tables.rules)]
    if base is not None:
        more.append(_model_for(job, run, base)[1])
    id_ = shard_id(
        STAGE,
        _settings(job.train),
        job.select.seed,
        use_thumbnails,
        selection.plan_id,
        _weights_version(job.train.weights),
        *more,
    )
    work = TrainShard(
        folder=run.folder,
        plan=(STAGE.name, ""),
        root=image_root(job),
        config=job.train,
        seed=job.select.seed,
        use_thumbnails=use_thumbnails,
        selection=selection,
        manifest=manifest,
        checkpoints=f"{CHECKPOINTS}/{id_}-",
        job=job.name,
        crops=crops,
        base=None if base is None else model_folder(run, _model_for(job, run, base)[1]),
        asked="" if base is None else _asked(job, run),
    )
    labels = open_table(run.folder, selection).to_table(columns=["label"])["label"]
    return work, Shard(id_, 0, len(labels) - labels.null_count)


def _settings(train: Train) -> dict[str, Any]:
    """What a training depends on in the job's section; for fine-tuning on frames as before there was a
    choice."""
    settings = train.model_dump(mode="json")
    del settings["on"], settings["method"]
    return settings


def _crops(job: Job, run: Run, selection: Snapshot) -> Crops:
    return Crops(
        run.snapshot("training_images"),
        run.snapshot("training_crops"),
        _box_tables(job, run, selection),
        job.select.classes is not None,
        job.train.size,
    )


def _box_tables(job: Job, run: Run, selection: Snapshot) -> BoxTables:
    assert job.detection is not None  # noqa: S101 - otherwise training uses frames
    detected = run.snapshot("detected")
    empty = selection.meta["empty"]
    rules = make_rules(
        job.detection[0],
        tuple(detected.meta["categories"]),
        empty if empty in selection.meta["ids_by_label"] else EMPTY,
    )
    return BoxTables(detected, run.snapshot("detections"), run.snapshot("boxes"), rules)


def _with_result(plan: Plan, receipts: list[Receipt]) -> Done:
    result = {name: value for name, value in receipts[0].result.items() if name != "files"}
    return Done(plan, receipts, result)


class _Shown:
    """Shows what a training reports, and logs some of it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._logged = time.monotonic()

    def __call__(self, progress: dict[str, Any]) -> None:
        context, run = self._context, self._context.run
        if progress["phase"] == "note":
            context.display.note(f"train: {progress['text']}")
            run.log("note", stage="train", text=progress["text"])
            return
        fraction, text = describe(progress)
        context.display.reach(fraction, text)
        context.progress.trained("train", progress, fraction, text)
        if progress["phase"] == "train" and "valid_loss" in progress:
            run.log("epoch", stage="train", **progress)
        elif time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            run.log("training", stage="train", **progress)


@dataclass(frozen=True)
class TrainShard:
    """Trains on the whole selection, on a worker."""

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    config: Train
    seed: int
    use_thumbnails: bool
    selection: Snapshot
    manifest: Snapshot
    checkpoints: str
    job: str
    crops: Crops | None = None
    base: Folder | None = None
    asked: str = ""
    divisible: ClassVar[bool] = False

    @property
    def image_root(self) -> ImageRoot | None:
        return None if self.use_thumbnails or self.crops is not None else self.root

    def run(self, shard: Shard, payload: None, here: WorkerContext) -> Receipt:
        # Not on the driver, which may have no torch.
        import torch

        from camtrap_batch.model import train

        started = time.monotonic()
        phases.enter("read")
        if not torch.cuda.is_available():
            _note(here, "no CUDA device here: training runs on the CPU")
        samples = self.samples(here)
        read = time.monotonic() - started
        with TemporaryDirectory() as scratch:
            parent = self.folder.make("models") if self.folder.is_local else Path(scratch)
            carried = self._carried(samples.classes, Path(scratch))
            provenance = {
                **({} if self.base is None else {"base": self.base.url.rpartition("/")[2]}),
                **origin_of(self, _settings(self.config)),
            }
            result = self._together(
                here,
                lambda config, checkpoints, team: train(
                    samples, carried(config), parent, provenance, partial(tell, here), checkpoints, team
                ),
            )
            return finish_training(
                self, shard, here, parent / result.model_id, started, read, self._began_with()
            )

    def _began_with(self) -> dict[str, str]:
        return {} if self.base is None else {"base": self.base.url.rpartition("/")[2], "asked": self.asked}

    def _together(
        self, here: WorkerContext, train: Callable[[TrainConfig, Checkpoints, SoloTeam], TrainResult]
    ) -> TrainResult:
        """Train with all GPU workers; after losing one, with the others, from the last checkpoint."""
        from camtrap_batch.model.learner import halve, is_out_of_memory
        from camtrap_batch.model.team import TeamLost

        checkpoints = self._checkpoints()
        batch, losses, epochs = self.config.batch, 0, -1
        while True:
            with here.team(self, batch) as (team, others):
                if team.size > 1:
                    _note(here, f"{team.size} GPU workers train together")
                try:
                    return train(self._config(here, batch), checkpoints, team)
                except (TeamLost, MemoryError, RuntimeError) as problem:
                    cause = others.problem() if isinstance(problem, TeamLost) else problem
                    if team.size == 1 or not (isinstance(problem, TeamLost) or is_out_of_memory(problem)):
                        raise
            if isinstance(cause, CamtrapError):
                raise cause
            if cause is not None and is_out_of_memory(cause):
                batch, text = halve(batch)
                _note(here, text)
                continue
            before = checkpoints.load()
            done = before.epochs if before else 0
            losses = losses + 1 if done == epochs else 1
            epochs = done
            if losses > _MOST_LOSSES:
                raise StageError(f"a GPU worker was lost {losses} times in epoch {done + 1}; out of memory?")
            _note(here, f"a GPU worker was lost: goes on after epoch {done} with those that are there")

    def join(self, team: SoloTeam, batch: int, here: WorkerContext) -> None:
        """The part of another worker."""
        from camtrap_batch.model import join

        samples = self.samples(here)
        with TemporaryDirectory() as scratch:
            carried = self._carried(samples.classes, Path(scratch))
            join(samples, carried(self._config(here, batch)), self._checkpoints(), team)

    def _carried(self, classes: list[str], scratch: Path) -> Callable[[TrainConfig], TrainConfig]:
        """Makes the settings begin with the weights of the model that the job names, if it names one."""
        if self.base is None:
            return lambda config: config
        from safetensors.torch import save_file

        from camtrap_batch.model.head import carry_over

        path = scratch / WEIGHTS
        save_file(carry_over(fetch_model(self.base), classes), path)
        return lambda config: replace(config, weights=str(path))

    def _config(self, here: WorkerContext, batch: int) -> TrainConfig:
        from camtrap_batch.model import TrainConfig

        settings = {**_settings(self.config), "batch": batch}
        return TrainConfig(**settings, seed=self.seed, cache_bytes=memory_here(here) // 4)

    def _checkpoints(self) -> Checkpoints:
        from camtrap_batch.model.checkpoints import Checkpoints

        return Checkpoints(self.folder, self.checkpoints)

    def crashed(self, shard: Shard, payload: None) -> Receipt:
        raise NotImplementedError("training has no single image to blame")

    def samples(self, here: WorkerContext) -> Samples:
        if self.crops is not None:
            budget = memory_here(here) // 4
            samples, reasons = read_crops(
                self.folder, self.root, self.selection, self.manifest, self.crops, budget=budget
            )
            note_doubts(here, reasons)
            return samples
        return read_samples(
            self.folder,
            self.root,
            self.selection,
            self.manifest,
            use_thumbnails=self.use_thumbnails,
            budget=memory_here(here) // 4,
        )


def note_doubts(here: WorkerContext, reasons: Counter[str]) -> None:
    """Report how many crops are used for learning and judging, how many are not, and why."""
    text = f"{plural(reasons[KNOWN], 'crop')} whose label is known, to learn from and to be judged by"
    in_doubt = Counter({why: n for why, n in reasons.items() if why != KNOWN})
    if in_doubt:
        named = ", ".join(f"{why} {n:,}" for why, n in in_doubt.most_common())
        text += f"; {plural(in_doubt.total(), 'other is', 'others are')} not learnt from ({named})"
    _note(here, text)


def check_weights(weights: str) -> None:
    """Raise InputError if the job's weights are a missing file or folder."""
    if weights in ("imagenet", "none", "latest") or re.fullmatch("[0-9a-f]{16}", weights):
        return
    if not Path(weights).is_file() and not Folder(weights).exists(CARD):
        raise InputError(
            f"train.weights: {weights}: no such file; possible: imagenet, none, latest, a model id of this "
            f"run, a file of weights, or a model folder (with {CARD})"
        )


def describe(progress: dict[str, Any]) -> tuple[float, str]:
    """How much of the training is done, and a line about it; `progress` as reported by `model.train`."""
    share = progress["batch"] / max(1, progress["batches"]) if "batch" in progress else 0.0
    if progress["phase"] == "lr_find":
        return _SEARCH * min(share, 1.0), "searching for a learning rate"
    if progress["phase"] == "evaluate":
        return 1 - _JUDGING * (1 - min(share, 1.0)), "judging the model"
    epoch, epochs = progress["epoch"], progress["epochs"]
    parts = [f"epoch {epoch}/{epochs}"]
    for name, text in (("train_loss", "loss"), ("valid_loss", "valid loss"), ("accuracy", "accuracy")):
        if progress.get(name) is not None:
            parts.append(f"{text} {progress[name]:.3f}")
    parts.append(f"{progress['images_per_s']:.0f} images/s")
    done = (epoch - 1 + share) / max(1, epochs)
    return _SEARCH + (1 - _SEARCH - _JUDGING) * done, ", ".join(parts)


_SEARCH, _JUDGING = 0.02, 0.02
"""The approximate share of a training that searching for a learning rate and judging the model take."""


def _note(here: WorkerContext, text: str) -> None:
    tell(here, {"phase": "note", "text": text})


def tell(here: WorkerContext, progress: dict[str, Any]) -> None:
    """Report the training's progress to the driver."""
    if progress["phase"] != "note":
        phases.enter(progress["phase"])
    here.tell(TOPIC, progress)


def _weights_version(weights: str) -> Sequence[int]:
    if not Path(weights).is_file():
        return ()
    stat = Path(weights).stat()
    return stat.st_size, stat.st_mtime_ns
