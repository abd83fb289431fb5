"""The end of every kind of training: the model's origin, its charts, its place in the run, its receipt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from camtrap_batch.engine.base import WorkerContext
from camtrap_batch.model.info import HISTORY, LR_FIND
from camtrap_batch.model.library import file_model, read_metrics, read_numbers
from camtrap_batch.report.figures import model_figures
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Receipt, Shard
from camtrap_batch.store.tables import finish_shard

if TYPE_CHECKING:
    from camtrap_batch.stages.train import TrainShard
    from camtrap_batch.stages.train.head import HeadShard


def origin_of(training: TrainShard | HeadShard, settings: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a model; `settings` are those of the job's section."""
    return {
        "job": training.job,
        "train": settings,
        "seed": training.seed,
        "manifest_snapshot": training.manifest.number,
        "selection_snapshot": training.selection.number,
        "selection_plan": training.selection.plan_id,
        "split_by": training.selection.meta["split_by"],
    }


def finish_training(
    training: TrainShard | HeadShard,
    shard: Shard,
    here: WorkerContext,
    model: Path,
    started: float,
    read: float,
    began_with: dict[str, str],
) -> Receipt:
    """Put a model folder on this machine's disk into the run, with charts, and file its receipt."""
    write_figures(Folder(str(model)))
    files = file_model(training.folder, model)
    return finish_shard(
        training.folder,
        training.plan,
        shard,
        {},
        counts={},
        seconds={"read": read},
        started=started,
        worker=here.name,
        result={
            "model_id": model.name,
            "empty": training.selection.meta["empty"],
            **began_with,
            "files": files,
        },
    )


def write_figures(model: Folder) -> None:
    """Add the charts of its figures to a model folder on disk."""
    charts = model_figures(read_metrics(model), read_numbers(model, HISTORY), read_numbers(model, LR_FIND))
    for name, picture in charts.items():
        model.local(name).write_text(picture, encoding="utf-8")
