"""The stages of a job in order, and the ways to run them: one, or all that the job needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.errors import (
    InputError,
    Interrupted,
    JobError,
    LeaseLost,
    NotMade,
    StageError,
    UserError,
    choices,
)
from camtrap_batch.job import Job
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import Planned, Stage, StageOption, StageResult
from camtrap_batch.registry import Registry
from camtrap_batch.store.run import open_run

if TYPE_CHECKING:  # commands without a cluster do not wait for the import
    from distributed import Client

STAGES: Registry[Stage] = Registry(
    "camtrap_batch.stages",
    {
        "catalog": "camtrap_batch.stages.catalog:STAGE",
        "validate": "camtrap_batch.stages.validate:STAGE",
        "detect": "camtrap_batch.stages.detect:STAGE",
        "select": "camtrap_batch.stages.select:STAGE",
        "train": "camtrap_batch.stages.train:STAGE",
        "infer": "camtrap_batch.stages.infer:STAGE",
        "merge": "camtrap_batch.stages.merge:STAGE",
        "publish": "camtrap_batch.stages.publish:STAGE",
        "report": "camtrap_batch.stages.report:STAGE",
    },
)
"""Stages by name, in the order in which they run; those of other packages come last."""


def plans() -> list[Planned]:
    """Whatever has plans in a run folder: the stages that keep tables, each followed by its parts."""
    found: list[Planned] = []
    for stage in STAGES.values():
        found += [stage, *stage.parts] if stage.tables else stage.parts
    return found


def run_one(context: Context, name: str) -> StageResult:
    """Do one stage. Raises CamtrapError; JobError if there is no such stage."""
    if name not in STAGES:
        raise JobError(f"no stage {name!r}; {choices(name, STAGES)}")
    if context.stop.is_set():
        raise Interrupted(f"{name}: interrupted before it began; the same command goes on")
    progress = context.progress
    progress.begin(name)
    try:
        with context.driving(name):
            result = STAGES[name].run(context)
    except BaseException as problem:
        is_interrupted = isinstance(problem, Interrupted | KeyboardInterrupt)
        progress.end(name, "unfinished" if is_interrupted else "failed")
        raise
    progress.end(name, "done", result.rows, result.shards, result.counts)
    return result


def reprocess(context: Context) -> Iterator[StageResult]:
    """Do every stage that the job needs, in order; each does only what is not done yet.

    What a stage can find wrong at once is reported before the first one begins (see `Stage.check`). If
    `publish` can't be finished, the report is still made of what is there before the error is raised. A dry
    run says what it can of every stage, and raises at its end what a run would have stopped at.
    """
    stages = [stage for stage in STAGES.values() if stage.applies(context.job)]
    context.progress.expect({stage.name: stage.help for stage in stages})
    with context.display.waiting("checking the job, and loading what its stages need ..."):
        for stage in stages:
            stage.check(context)
    changed: list[str] = []
    wrong: InputError | None = None
    with context.driving("reprocess"):
        for number, stage in enumerate(stages):
            try:
                if number == 1:  # the first stage has made the catalog
                    for other in stages:
                        other.check_catalog(context)
                result = run_one(context, stage.name)
                yield _as_it_would_be(result, changed) if context.dry_run else result
            except InputError as problem:
                if not context.dry_run:
                    raise
                why = f"yet: {problem}"
                if changed and isinstance(problem, NotMade):
                    why = f"before {changed[0]} has run"
                elif not changed and not isinstance(problem, NotMade):
                    wrong = problem
                changed.append(stage.name)
                yield StageResult(stage.name, notes=[f"how much there is to do can't be said {why}"])
            except StageError as problem:
                if stage.name == "publish" and not isinstance(problem, LeaseLost):
                    yield from _report_all_the_same(context)
                raise
    if wrong is not None:
        raise wrong


def _as_it_would_be(result: StageResult, changed: list[str]) -> StageResult:
    """The result of a dry run, which sees what is there now and not what the stages before it would make.

    Parameters
    ----------
    changed : those of them that would make something; the stage is added, where it would
    """
    if result.notes and not result.snapshots:
        changed.append(result.stage)
    elif changed:
        note = f"done for what is there now; what {' and '.join(changed)} will change can't be said yet"
        return replace(result, snapshots={}, notes=[*result.notes, note])
    return result


def _report_all_the_same(context: Context) -> Iterator[StageResult]:
    """The report after a failed `publish`; an error of its own must not hide that of `publish`."""
    try:
        yield run_one(context, "report")
    except (StageError, UserError) as problem:
        context.display.note(f"report    not made: {problem}")


def run_stage(job: Job | str | Path, name: str, client: Client, **options: Any) -> StageResult:
    """Do what `camtrap NAME JOB` does, on a client of your own; `job` may be the path of a job file.

    Workers that declare no resources accept CPU work; `train` needs one that offers GPU=1. `options` are
    those of the stage's command, such as `retry` of validate (an iterable of statuses) or `snapshot` of
    publish.

    Raises
    ------
    CamtrapError
        See `camtrap_batch.errors`.
    """
    from camtrap_batch.engine.dask.executor import DaskExecutor

    if name not in STAGES:
        raise JobError(f"no stage {name!r}; {choices(name, STAGES)}")
    values = parse_options(options, STAGES[name].options)
    run = open_run(job)
    executor = DaskExecutor(client)
    try:
        return run_one(Context(run.job, run, GivenExecutor(executor), options=values), name)
    finally:
        executor.close()


def reprocess_options() -> list[StageOption]:
    """The stages' options that `camtrap reprocess` also has."""
    return [option for stage in STAGES.values() for option in stage.options if option.in_reprocess]


def parse_options(given: Mapping[str, Any], known: Iterable[StageOption]) -> dict[str, Any]:
    """The values of options, from what was typed or passed in Python; None: not given.

    Raises
    ------
    UserError
        There is no such option, or it can't have this value.
    """
    by_name = {option.name: option for option in known}
    values = {}
    for name, value in given.items():
        option = by_name.get(name.replace("_", "-"))
        if option is None:
            raise UserError(f"no option {name!r}; {choices(name, by_name)}")
        if value is not None:
            try:
                values[option.name] = option.parse(value)
            except ValueError as problem:
                raise UserError(f"--{option.name}: {problem}") from None
    return values
