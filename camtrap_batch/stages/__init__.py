"""The stages of a job, in order. Each plans on the driver, works on workers, and commits on the driver."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from camtrap_batch.catalog import reader_of
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.errors import InputError, Interrupted, JobError, MissingExtra, choices
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context, StageResult
from camtrap_batch.store.lease import hold
from camtrap_batch.store.run import open_run
from camtrap_batch.vocabulary import RETRIED

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "STAGES",
    "Context",
    "Stage",
    "StageResult",
    "check_retry",
    "reprocess",
    "run_one",
    "run_stage",
]


@dataclass(frozen=True)
class Stage:
    """What a stage is for, which tables it makes, and which blocks of the job file it reads."""

    help: str
    tables: tuple[str, ...]
    keys: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "catalog": Stage("read what describes the data set, one row an image", ("catalog",), ("dataset",)),
    "validate": Stage(
        "open every image once: status, size, hashes, EXIF, thumbnail; then what looks wrong",
        ("manifest", "thumbnails", "findings"),
        ("validate", "findings"),
    ),
    "select": Stage("choose the images to train on, and say why not the others", ("selection",), ("select",)),
    "train": Stage("train a classifier on a worker that holds GPU=1", ("model",), ("train",)),
    "infer": Stage("classify every usable image, fanned out over locations", ("predictions",), ("infer",)),
    "merge": Stage(
        "combine frames into sequences, events and locations",
        ("locations", "frames", "sequences", "events"),
        ("events", "infer"),
    ),
    "publish": Stage("push cameras, events and photos to the feature layer", ("ledger",), ("publish",)),
    "report": Stage("write the report, one HTML file", (), ("report",)),
}
"""Stage name -> Stage, in the order in which they run."""

_TRAINING = ("select", "train")


def run_one(context: Context, name: str) -> StageResult:
    """Do one stage. Raises CamtrapError; JobError where there is no such stage."""
    if name not in STAGES:
        raise JobError(f"no stage {name!r}; {choices(name, STAGES)}")
    if context.stop.is_set():
        raise Interrupted(f"{name}: interrupted before it began; the same command goes on")
    progress = context.progress
    progress.begin(name)
    try:
        with _lease(context, name):
            result: StageResult = importlib.import_module(f"{__name__}.{name}").run(context)
    except BaseException as problem:
        is_interrupted = isinstance(problem, Interrupted | KeyboardInterrupt)
        progress.end(name, "unfinished" if is_interrupted else "failed")
        raise
    progress.end(name, "done", result.rows, result.shards, result.counts)
    return result


def reprocess(context: Context) -> Iterator[StageResult]:
    """Do every stage in order; each does only what is not done yet.

    A job that names a model of its own (`infer.model`) selects and trains nothing.
    """
    names = [name for name in STAGES if context.job.infer.model == "latest" or name not in _TRAINING]
    context.progress.expect(names)
    _check_before_hours_of_work(context, names)
    with _lease(context, "reprocess"):
        for name in names:
            try:
                if name == "validate" and "train" in names:
                    _check_classes_suffice(context)
                yield run_one(context, name)
            except InputError as problem:
                if not context.dry_run:
                    raise
                yield StageResult(name, notes=[f"can't be planned yet: {problem}"])


def _lease(context: Context, command: str) -> AbstractContextManager[object]:
    """The run folder's lease, for what writes into it; a report may be written beside a job."""
    if context.dry_run or command == "report":
        return nullcontext()
    return hold(context.run.folder, context.job.name, command)


def run_stage(
    job: Job | str | Path,
    name: str,
    client: Client,
    *,
    retry: Iterable[str] = (),
    snapshot: int | None = None,
) -> StageResult:
    """What `camtrap NAME JOB` does, on a client of one's own; `job` may be the path of a job file.

    Workers that declare no resources take CPU work; `train` needs one that offers GPU=1. `retry` is what
    `--retry` is to `validate`, `snapshot` what `--snapshot` is to `publish`.

    Raises
    ------
    CamtrapError
        See `camtrap_batch.errors`.
    """
    run = open_run(job)
    from camtrap_batch.engine.dask.executor import DaskExecutor

    executor = DaskExecutor(client)
    context = Context(run.job, run, GivenExecutor(executor), retry=check_retry(retry), snapshot=snapshot)
    try:
        return run_one(context, name)
    finally:
        executor.close()


def check_retry(statuses: Iterable[str]) -> frozenset[str]:
    """The statuses to try again. Raises JobError where one can't be."""
    statuses = frozenset(statuses)
    for status in sorted(statuses - set(RETRIED)):
        raise JobError(f"--retry: {status!r} is not tried again; {choices(status, RETRIED)}")
    return statuses


def _check_before_hours_of_work(context: Context, names: list[str]) -> None:
    job = context.job
    if "train" in names and not reader_of(job.dataset).has_labels:
        raise JobError(
            f"dataset.format: a {job.dataset.format} has no labels to train on; set infer.model to a model "
            "folder or id"
        )
    if find_spec("torch") is None or find_spec("fastai") is None:
        raise MissingExtra("train", "training and classifying")
    from camtrap_batch.stages.merge import read_rules

    read_rules(job)
    if "train" in names and context.run.current("model") is None:
        from camtrap_batch.model import check_architecture
        from camtrap_batch.stages.train import check_weights

        check_architecture(job.train.arch)
        check_weights(job.train.weights)
    if job.infer.model != "latest":
        from camtrap_batch.model.library import open_model

        open_model(context.run, job.infer.model)
    from camtrap_batch.stages.publish import check_target

    check_target(job)


def _check_classes_suffice(context: Context) -> None:
    from camtrap_batch.selection.classes import choose_classes
    from camtrap_batch.store.manifest import categories_of

    chosen = choose_classes(context.job, categories_of(context.run.snapshot("catalog").meta)).ids_by_label
    if len(chosen) < 2:
        raise JobError(
            f"select.classes: {', '.join(chosen) or 'none'}: training needs at least 2 classes; choose "
            "more, or set infer.model"
        )
