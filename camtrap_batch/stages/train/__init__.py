"""train: a classifier from the selection, as one task on a worker that holds GPU=1."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from camtrap_batch import phases
from camtrap_batch.engine.base import WorkerContext, memory_here
from camtrap_batch.errors import CamtrapError, InputError, MissingExtra, StageError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Job, Train
from camtrap_batch.model.library import upload_model
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.shards import Done, do_on_workers
from camtrap_batch.pipeline.stage import Stage, StageResult, TableSpec, shard_id
from camtrap_batch.stages.train.figures import write_figures
from camtrap_batch.stages.train.samples import read_samples
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.shards import Plan, Receipt, Shard
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import finish_shard, open_table

if TYPE_CHECKING:
    from camtrap_batch.model import Samples, TrainConfig, TrainResult
    from camtrap_batch.model.checkpoints import Checkpoints
    from camtrap_batch.model.team import SoloTeam

TOPIC = "camtrap-train"
"""What a training tells on this topic is how far it is."""

CHECKPOINTS = "checkpoints"
"""Folder, in the run folder, of trainings that are not committed yet."""

_MOST_LOSSES = 3
_LOG_EVERY_S = 30.0  # a sign of life, within long epochs


class TrainStage(Stage):
    name = "train"
    help = "train a classifier on a worker that holds GPU=1"
    sections = ("train",)
    version = 3
    tables = (TableSpec("model", "no rows; its plan has one for each image that is trained on"),)

    def applies(self, job: Job) -> bool:
        return job.infer.model == "latest"

    def check(self, context: Context) -> None:
        if find_spec("torch") is None or find_spec("fastai") is None:
            raise MissingExtra("train", "training and classifying")
        if context.run.current("model") is None:
            from camtrap_batch.model import check_architecture

            check_architecture(context.job.train.arch)
            check_weights(context.job.train.weights)

    def check_catalog(self, context: Context) -> None:
        train = context.job.train
        if train.weights == "imagenet" and context.run.current("model") is None and not context.dry_run:
            from camtrap_batch.model import check_published

            check_published(train.arch)

    def run(self, context: Context) -> StageResult:
        """Train on the table `selection`; the model goes to `models/<model id>` of the run folder.

        Raises
        ------
        JobError
            The architecture is not known, or a class or a split is empty.
        ClusterError
            No worker holds GPU=1.
        """
        job, run = context.job, context.run
        check_weights(job.train.weights)
        work, shard = _work(job, run)
        inputs = {"selection": work.selection.number, "manifest": work.manifest.number}
        plan = Plan.make(self.name, [shard], inputs)
        work = replace(work, plan=(plan.stage, plan.id))
        trained = run.current("model")
        is_new = trained is None or trained.plan_id != plan.id
        if is_new:
            from camtrap_batch.model import check_architecture

            check_architecture(job.train.arch)  # loads torch
        with ExitStack() as listening:
            if is_new and not context.dry_run:  # asking for the executor opens a cluster
                listening.enter_context(context.executor().listen(TOPIC, _Shown(context)))
            result = do_on_workers(
                context, plan, work, lambda _: None, ("model",), need="GPU", finish=_with_result
            )
        if not context.dry_run:
            for name in run.folder.list(CHECKPOINTS):
                if name.startswith(shard.id):
                    run.folder.delete(f"{CHECKPOINTS}/{name}")
        return result


STAGE = TrainStage()


def _work(job: Job, run: Run) -> tuple[TrainShard, Shard]:
    """The training, without its plan, and the only shard of that."""
    selection, manifest = run.snapshot("selection"), run.snapshot("manifest")
    use_thumbnails = job.validate_.thumbnails >= job.train.size
    id_ = shard_id(
        STAGE,
        job.train.model_dump(mode="json"),
        job.select.seed,
        use_thumbnails,
        selection.plan_id,
        _weights_version(job.train.weights),
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
    )
    labels = open_table(run.folder, selection).to_table(columns=["label"])["label"]
    return work, Shard(id_, 0, len(labels) - labels.null_count)


def _with_result(plan: Plan, receipts: list[Receipt]) -> Done:
    return Done(plan, receipts, receipts[0].result)


class _Shown:
    """Shows what a training tells, and logs some of it."""

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
    divisible: ClassVar[bool] = False

    @property
    def image_root(self) -> ImageRoot | None:
        return None if self.use_thumbnails else self.root

    def run(self, shard: Shard, payload: None, here: WorkerContext) -> Receipt:
        # Not on the driver, which may have no torch.
        import torch

        from camtrap_batch.model import train

        started = time.monotonic()
        phases.enter("read")
        if not torch.cuda.is_available():
            _note(here, "no CUDA device here: training runs on the CPU")
        samples = self._samples(here)
        read = time.monotonic() - started
        with TemporaryDirectory() as scratch:
            parent = self.folder.make("models") if self.folder.is_local else Path(scratch)
            provenance = {
                "job": self.job,
                "train": self.config.model_dump(mode="json"),
                "seed": self.seed,
                "manifest_snapshot": self.manifest.number,
                "selection_snapshot": self.selection.number,
                "selection_plan": self.selection.plan_id,
                "split_by": self.selection.meta["split_by"],
            }
            result = self._together(
                here,
                lambda config, checkpoints, team: train(
                    samples, config, parent, provenance, partial(_tell, here), checkpoints, team
                ),
            )
            write_figures(Folder(str(parent / result.model_id)))
            if not self.folder.is_local:
                upload_model(self.folder, parent / result.model_id)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {},
            counts={},
            seconds={"read": read},
            started=started,
            worker=here.name,
            result={"model_id": result.model_id, "empty": self.selection.meta["empty"]},
        )

    def _together(
        self, here: WorkerContext, train: Callable[[TrainConfig, Checkpoints, SoloTeam], TrainResult]
    ) -> TrainResult:
        """Train with all GPU workers; after a loss, with those that are left, from the last checkpoint."""
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
        """Another worker's part."""
        from camtrap_batch.model import join

        join(self._samples(here), self._config(here, batch), self._checkpoints(), team)

    def _config(self, here: WorkerContext, batch: int) -> TrainConfig:
        from camtrap_batch.model import TrainConfig

        settings = {**self.config.model_dump(), "batch": batch}
        return TrainConfig(**settings, seed=self.seed, cache_bytes=memory_here(here) // 4)

    def _checkpoints(self) -> Checkpoints:
        from camtrap_batch.model.checkpoints import Checkpoints

        return Checkpoints(self.folder, self.checkpoints)

    def crashed(self, shard: Shard, payload: None) -> Receipt:
        raise NotImplementedError("training has no single image to blame")

    def _samples(self, here: WorkerContext) -> Samples:
        return read_samples(
            self.folder,
            self.root,
            self.selection,
            self.manifest,
            use_thumbnails=self.use_thumbnails,
            budget=memory_here(here) // 4,
        )


def check_weights(weights: str) -> None:
    """Raise InputError where the job's weights are a file that is not there."""
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise InputError(
            f"train.weights: {weights}: no such file; possible: imagenet, none, or a file of weights"
        )


def describe(progress: dict[str, Any]) -> tuple[float, str]:
    """How much of the training is done, and a line about it; `progress` as `model.train` tells it."""
    share = progress["batch"] / max(1, progress["batches"]) if "batch" in progress else 0.0
    if progress["phase"] == "lr_find":
        return _SEARCH * min(share, 1.0), "searching a learning rate"
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
"""About which part of a training the search for a learning rate and judging the model take."""


def _note(here: WorkerContext, text: str) -> None:
    _tell(here, {"phase": "note", "text": text})


def _tell(here: WorkerContext, progress: dict[str, Any]) -> None:
    if progress["phase"] != "note":
        phases.enter(progress["phase"])
    here.tell(TOPIC, progress)


def _weights_version(weights: str) -> Sequence[int]:
    if weights in ("imagenet", "none"):
        return ()
    stat = Path(weights).stat()
    return stat.st_size, stat.st_mtime_ns
