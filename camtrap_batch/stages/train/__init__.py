"""train: a classifier from the selection, as one task on a worker that holds GPU=1."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from camtrap_batch import phases
from camtrap_batch.engine.base import WorkerContext, memory_here
from camtrap_batch.errors import CamtrapError, InputError, StageError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Train
from camtrap_batch.model.library import upload_model
from camtrap_batch.pipeline.context import Context, StageResult, do_on_workers, shard_id
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.stages.train.figures import write_figures
from camtrap_batch.stages.train.samples import read_samples
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, Receipt, Shard
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import finish_shard, open_table

if TYPE_CHECKING:
    from camtrap_batch.model import Samples, TrainConfig, TrainResult
    from camtrap_batch.model.checkpoints import Checkpoints
    from camtrap_batch.model.team import SoloTeam

VERSION = 3
TOPIC = "camtrap-train"
"""What a training tells on this topic is how far it is."""

CHECKPOINTS = "checkpoints"
"""Folder, in the run folder, of trainings that are not committed yet."""

_MOST_LOSSES = 3
_LOG_EVERY_S = 30.0  # a sign of life, within long epochs


def run(context: Context) -> StageResult:
    """Train on the table `selection`; the model goes to `models/<model id>` of the run folder.

    Raises
    ------
    JobError
        The architecture is not known, or a class or a split is empty.
    ClusterError
        No worker holds GPU=1.
    """
    job, store = context.job, context.run
    config = job.train
    selection, manifest = store.snapshot("selection"), store.snapshot("manifest")
    check_weights(config.weights)
    use_thumbnails = job.validate_.thumbnails >= config.size
    labels = open_table(store.folder, selection).to_table(columns=["label"])["label"]
    id_ = shard_id(
        "train",
        VERSION,
        "model",
        config.model_dump(mode="json"),
        job.select.seed,
        use_thumbnails,
        selection.plan_id,
        _weights_version(config.weights),
    )
    inputs = {"selection": selection.number, "manifest": manifest.number}
    plan = Plan.make("train", [Shard(id_, 0, len(labels) - labels.null_count)], inputs)
    work = TrainShard(
        store.folder,
        (plan.stage, plan.id),
        image_root(job),
        config,
        job.select.seed,
        use_thumbnails,
        selection,
        manifest,
        f"{CHECKPOINTS}/{id_}-",
        job.name,
    )

    logged = [time.monotonic()]

    def show(progress: dict[str, Any]) -> None:
        if progress["phase"] == "note":
            context.display.note(f"train: {progress['text']}")
            store.log("note", stage="train", text=progress["text"])
        else:
            context.display.reach(*describe(progress))
            context.progress.trained("train", progress)
            if progress["phase"] == "train" and "valid_loss" in progress:
                store.log("epoch", stage="train", **progress)
            elif time.monotonic() - logged[0] >= _LOG_EVERY_S:
                logged[0] = time.monotonic()
                store.log("training", stage="train", **progress)

    def meta(receipts: list[Receipt]) -> dict[str, Any]:
        return receipts[0].result

    trained = store.current("model")
    is_new = trained is None or trained.plan_id != plan.id
    if is_new:
        from camtrap_batch.model import check_architecture

        check_architecture(config.arch)  # loads torch
    with ExitStack() as listening:
        if is_new and not context.dry_run:  # asking for the executor opens a cluster
            listening.enter_context(context.executor().listen(TOPIC, show))
        result = do_on_workers(
            context, plan, work, lambda _: None, ("model",), need="GPU", inputs=inputs, meta=meta
        )
    if not context.dry_run:
        for name in store.folder.list(CHECKPOINTS):
            if name.startswith(id_):
                store.folder.delete(f"{CHECKPOINTS}/{name}")
    return result


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
            _note(here, "the GPU worker has no CUDA device, so training runs on its CPU")
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
    if progress["phase"] == "lr_find":
        return 0.0, "searching a learning rate"
    if progress["phase"] == "evaluate":
        return 1.0, "judging the model"
    epoch, epochs = progress["epoch"], progress["epochs"]
    parts = [f"epoch {epoch}/{epochs}"]
    for name, text in (("train_loss", "loss"), ("valid_loss", "valid loss"), ("accuracy", "accuracy")):
        if progress.get(name) is not None:
            parts.append(f"{text} {progress[name]:.3f}")
    parts.append(f"{progress['images_per_s']:.0f} images/s")
    return (epoch - 1 + progress["batch"] / progress["batches"]) / epochs, ", ".join(parts)


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
