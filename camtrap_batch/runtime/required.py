"""What a worker needs in order to compute ONNX files as a plan says.

Two runtimes, or two precisions, differ in the last digits. If each worker took whatever it has, an answer
would depend on which worker gave it; so a worker that can't compute as the plan says is turned away.
"""

from __future__ import annotations

from dataclasses import dataclass

from camtrap_batch.errors import JobError, MissingExtra
from camtrap_batch.runtime.base import Device, Precision, choose_runtime


@dataclass(frozen=True)
class RequiredRuntime:
    """A `Requirement` (see `engine.base`) of work that computes ONNX files.

    Attributes
    ----------
    runtime : the runtime that computes them; None: whichever the worker has
    key : the job file's key that decides on the precision
    """

    device: Device
    precision: Precision
    runtime: str | None
    key: str

    def lacking(self) -> str:
        """What this process lacks, in words that continue from its name; empty if nothing."""
        extra = "onnx-gpu" if self.device == "cuda" else "onnx"
        try:
            name, runtime = choose_runtime(self.device)
        except MissingExtra:
            return f"has nothing that computes ONNX files: install the extra '{extra}' there"
        except JobError as problem:
            return f"can't compute ONNX files: {problem}"
        if self.runtime not in (None, name):
            return (
                f"computes ONNX files in {name}, this run does in {self.runtime}: install the same extra "
                f"('{extra}') there as on this machine"
            )
        if self.precision not in runtime.precisions(self.device):
            return without_precision(self.precision, self.device, self.key)
        return ""


def without_precision(precision: str, device: str, key: str) -> str:
    """The message about a worker whose hardware lacks a precision."""
    return (
        f"does not compute in {precision} on its {'GPU' if device == 'cuda' else 'CPU'}, which this run is "
        f"computed in: use workers that do, or set {key}: float32, which redoes all images"
    )
