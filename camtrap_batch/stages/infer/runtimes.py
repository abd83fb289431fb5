"""Before images are classified: fast ways to compute the model, compared with float32 on some of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from camtrap_batch import phases
from camtrap_batch.engine.base import Device, Need, WorkerContext
from camtrap_batch.model.required import RequiredToClassify
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.precision import Found, PrecisionCheck, Question, sample
from camtrap_batch.pipeline.stage import Part
from camtrap_batch.stages.infer.shard import InferShard
from camtrap_batch.store.run import Run

if TYPE_CHECKING:
    from camtrap_batch.detection.crops import Picture

PRECISION = Part("precision", 4)
_BEFORE = 3  # its version when there was only torch
_MOST, _FEWEST, _SHARE = 232, 32, 20
"""Images to compare on: one in `_SHARE`, so that the check takes a small part of the whole time."""


def known_precision(run: Run, work: InferShard, device: Device) -> Found | None:
    """What `check_precision` found for this model; None where it was not asked yet.

    Parameters
    ----------
    device : of the job file; what was found on CPUs does not hold for one who asks for GPUs
    """
    return _asked(run, work, device).known(run)


def is_of_cpus(found: Found) -> bool:
    """Whether it is CPUs that compute so, and no GPU."""
    return found.get("runtime") == "openvino"


def check_precision(context: Context, work: InferShard, rows: pa.Table, need: Need) -> Found:
    """The way to compute, and what was compared to find it, on a worker.

    Parameters
    ----------
    rows : rows that will be classified, in the form that `work` needs

    Raises
    ------
    Interrupted
        `context.stop` was set.
    """
    some = sample(rows, _SHARE, _FEWEST, _MOST)
    # In the meantime every worker loads what its first shard would wait for; if it can't, the shard says why.
    with context.executor().on_each(need, _load, work) as loaded:
        question = _asked(context.run, work, context.job.infer.device)
        found = question.ask(context, CheckPrecision(work), some, need, {"model": work.model_id})
    context.run.log("precision chosen", stage="infer", **found, loaded_s=loaded)
    return found


def _asked(run: Run, work: InferShard, device: Device) -> Question:
    question = _question(work)
    found = question.known(run)
    return question.of("cuda") if device == "cuda" and found is not None and is_of_cpus(found) else question


def _question(work: InferShard) -> Question:
    def is_whole(found: Found) -> bool:
        networks = found.get("networks")
        return not networks or set(networks) <= set(work.model.list(""))

    return Question(
        "infer",
        PRECISION,
        "predictions",
        (work.model_id, work.use_thumbnails, work.rules is not None),
        earlier=(_BEFORE,),
        is_whole=is_whole,
    )


def _load(work: InferShard) -> float:
    """Load the runtime, the decoder and, for torch, the model; returns how many seconds it took."""
    began = time.monotonic()
    from camtrap_batch.model.predictor import preload

    preload(work.local_model(), work.device)
    return round(time.monotonic() - began, 2)


@dataclass(frozen=True)
class CheckPrecision(PrecisionCheck):
    """Classifies a sample in every way that the worker supports."""

    work: InferShard

    @property
    def requirement(self) -> RequiredToClassify:
        """Every worker that has torch can look; what it finds is what all others then have to have."""
        return RequiredToClassify("torch", self.work.device, ("float32",), self.work.of_onnx)

    def of(self, plan: tuple[str, str]) -> CheckPrecision:
        return CheckPrecision(replace(self.work, plan=plan))

    def compare(self, rows: pa.Table, here: WorkerContext) -> Found:
        from camtrap_batch.model.agreement import choose  # this loads torch

        work, move = self.work, phases.progress()
        gone: list[str] = []

        def pictures() -> Iterator[Picture]:
            for _, picture, _ in work.pictures(rows, gone):
                move()
                yield picture

        with TemporaryDirectory(prefix="camtrap-networks-") as scratch:
            found = choose(
                work.local_model(), work.device, work.batch, pictures(), here.threads, Path(scratch)
            )
            here.look_again(gone)
            for name in found["networks"]:
                work.model.write(name, (Path(scratch) / name).read_bytes())
        return found
