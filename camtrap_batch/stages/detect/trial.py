"""Before images are examined: bfloat16 compared with float32 on some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from camtrap_batch.detection.agreement import compare
from camtrap_batch.detection.base import Found as FoundBoxes
from camtrap_batch.detection.base import Tally
from camtrap_batch.engine import base as engine
from camtrap_batch.engine.base import Need, Requirement, WorkerContext
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.precision import Found, PrecisionCheck, Question, sample
from camtrap_batch.pipeline.stage import Part
from camtrap_batch.runtime import choose_runtime
from camtrap_batch.stages.detect.shard import DetectShard
from camtrap_batch.store.run import Run

PRECISION = Part("detect-precision", 1)
_MOST, _FEWEST, _SHARE = 64, 1, 20
"""Images examined: one in `_SHARE`, so that the check takes a small part of the whole time."""


def known_precision(run: Run, work: DetectShard, device: engine.Device) -> Found | None:
    """What `check_precision` found for this detector; None if it has not been called yet.

    Parameters
    ----------
    device : as in the job file; what was found on CPUs does not hold for a job that asks for GPUs
    """
    return _asked(run, work, device).known(run)


def is_of_cpus(found: Found) -> bool:
    """Whether this was found for CPUs, not for a GPU."""
    return bool(found["precision"] == "bfloat16")


def check_precision(context: Context, work: DetectShard, rows: pa.Table, need: Need) -> Found:
    """The precision to compute in, and what was compared to find it, on a worker.

    Raises
    ------
    Interrupted
        `context.stop` was set.
    """
    some = sample(rows, _SHARE, _FEWEST, _MOST)
    inputs = {"detector": work.detector.detector_id}
    assert context.job.detection is not None  # noqa: S101  # otherwise there would be no detector
    question = _asked(context.run, work, context.job.detection[0].device)
    found = question.ask(context, CheckPrecision(work), some, need, inputs)
    context.run.log("precision chosen", stage="detect", **found)
    return found


def _asked(run: Run, work: DetectShard, device: engine.Device) -> Question:
    question = _question(work)
    found = question.known(run)
    return question.of("cuda") if device == "cuda" and found is not None and is_of_cpus(found) else question


def _question(work: DetectShard) -> Question:
    return Question("detect", PRECISION, "detected", (work.detector.detector_id, work.use_thumbnails))


@dataclass(frozen=True)
class CheckPrecision(PrecisionCheck):
    """Looks at a sample in float32, and in the fastest precision that the worker knows."""

    work: DetectShard

    @property
    def requirement(self) -> Requirement | None:
        return self.work.requirement

    def of(self, plan: tuple[str, str]) -> CheckPrecision:
        return CheckPrecision(replace(self.work, plan=plan))

    def compare(self, rows: pa.Table, here: WorkerContext) -> Found:
        work = self.work
        pictures = list(work.pictures(rows, []))
        fastest = choose_runtime(work.device)[1].precisions(work.device)[0]
        result: Found = {"precision": "float32", "images": len(pictures)}
        if fastest == "float32" or not pictures:
            return result
        found: dict[str, list[FoundBoxes]] = {}
        speeds: dict[str, float] = {}
        for precision in ("float32", fastest):
            tally = Tally()
            answers = work.finder(here.threads, precision).find(iter(pictures), tally)
            found[precision] = [one for one in answers if isinstance(one, FoundBoxes)]
            speeds[precision] = round(len(pictures) / max(tally.forward_s + tally.read_s, 1e-6), 2)
        agreement = compare(found["float32"], found[fastest])
        result |= {
            "tried": fastest,
            "boxes": agreement.boxes,
            "lost": round(agreement.lost, 4),
            "apart": round(agreement.apart, 5),
            "images_per_s": speeds,
        }
        if agreement.holds:
            result["precision"] = fastest
        return result
