"""train: a classifier from the selection, as one task on a worker that holds GPU=1."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import get_worker

from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot, image_root
from camtrap_batch.job import Train
from camtrap_batch.stages.context import Context, StageResult, do_on_workers, shard_id
from camtrap_batch.stages.pictures import COLUMNS, read_pictures
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Plan, Receipt, Shard
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import finish_shard, open_table

VERSION = 1
TOPIC = "camtrap-train"
"""Dask topic on which a training task tells how far it is."""


def run(context: Context) -> StageResult:
    """Train on the table `selection`; the model goes to `models/<model id>` of the run folder.

    Raises
    ------
    JobError
        The architecture is not known, or a class or a split is empty.
    ClusterError
        No worker holds GPU=1.
    """
    from camtrap_batch.model import check_architecture

    job, store = context.job, context.run
    config = job.train
    check_architecture(config.arch)
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
    )

    def show(event: tuple[float, dict[str, Any]]) -> None:
        progress = event[1]
        if progress["phase"] == "device":
            if progress["device"] == "cpu":
                context.display.note("train: the GPU worker has no CUDA device, so training runs on its CPU")
        else:
            context.display.reach(*describe(progress))
            if progress["phase"] == "train" and "valid_loss" in progress:
                store.log("epoch", stage="train", **progress)

    def meta(receipts: list[Receipt]) -> dict[str, Any]:
        return receipts[0].result

    # The topic is listened to only where there is work: asking for the client opens a cluster.
    trained = store.current("model")
    listening = not context.dry_run and (trained is None or trained.plan_id != plan.id)
    if listening:
        context.cluster.client().subscribe_topic(TOPIC, show)
    try:
        return do_on_workers(
            context, plan, work, lambda _: None, ("model",), need="GPU", inputs=inputs, meta=meta
        )
    finally:
        if listening:
            context.cluster.client().unsubscribe_topic(TOPIC)


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
    divisible: ClassVar[bool] = False

    def run(self, shard: Shard, payload: None, worker: str) -> Receipt:
        # Not on the driver, which may have no torch.
        import torch

        from camtrap_batch.model import TrainConfig, train

        started = time.monotonic()
        _tell({"phase": "device", "device": "cuda" if torch.cuda.is_available() else "cpu"})
        samples = self._samples()
        read = time.monotonic() - started
        with TemporaryDirectory() as scratch:
            parent = self.folder.local("models") if self.folder.is_local else Path(scratch)
            result = train(
                samples,
                TrainConfig(**self.config.model_dump(), seed=self.seed),
                parent,
                {"selection_plan": self.selection.plan_id, "split_by": self.selection.meta["split_by"]},
                _tell,
            )
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
            worker=worker,
            result={"model_id": result.model_id, "empty": self.selection.meta["empty"]},
        )

    def crashed(self, shard: Shard, payload: None) -> Receipt:
        raise NotImplementedError("training has no single image to blame")

    def _samples(self) -> Any:
        from camtrap_batch.model import Samples

        chosen = open_table(self.folder, self.selection).to_table(
            columns=["image_id", "label", "split", "weight"]
        )
        rows = open_table(self.folder, self.manifest).to_table(columns=[*COLUMNS, "location", "is_night"])
        is_chosen = chosen["label"].is_valid()
        chosen, rows = chosen.filter(is_chosen), rows.filter(is_chosen)
        jpegs: list[bytes | None] = [None] * rows.num_rows
        for index, data, _ in read_pictures(self.folder, self.root, rows, use_thumbnails=self.use_thumbnails):
            jpegs[index] = data
        readable = pa.array([data is not None for data in jpegs])
        chosen, rows = chosen.filter(readable), rows.filter(readable)
        return Samples(
            image_ids=chosen["image_id"].to_pylist(),
            labels=chosen["label"].to_pylist(),
            splits=chosen["split"].to_pylist(),
            weights=chosen["weight"].to_numpy().astype(np.float32),
            locations=rows["location"].fill_null("").to_pylist(),
            is_night=pc.fill_null(rows["is_night"], False).to_numpy(),
            category_ids=self.selection.meta["ids_by_label"],
            jpegs=[data for data in jpegs if data is not None],
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


def upload_model(folder: Folder, model: Path) -> None:
    """Copy a model folder from the local disk into the run folder."""
    for file in sorted(model.iterdir()):
        folder.write(f"models/{model.name}/{file.name}", file.read_bytes())


def _tell(progress: dict[str, Any]) -> None:
    get_worker().log_event(TOPIC, progress)


def _weights_version(weights: str) -> Sequence[int]:
    if weights in ("imagenet", "none"):
        return ()
    stat = Path(weights).stat()
    return stat.st_size, stat.st_mtime_ns
