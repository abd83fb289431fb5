"""What a worker needs in order to classify as a plan says; see `runtime.required`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from camtrap_batch.runtime.required import RequiredRuntime, without_precision

Step = tuple[str, float]
"""A precision, and the margin within which an image is computed again as the next step says."""

KEY = "infer.precision"


@dataclass(frozen=True)
class RequiredToClassify:
    """A `Requirement` (see `engine.base`) of work that classifies.

    Attributes
    ----------
    runtime : torch or openvino
    precisions : the precisions that images are computed in
    of_onnx : the runtime by which torch's path computes the model, if the model is an ONNX file
    """

    runtime: str
    device: Literal["cpu", "cuda"]
    precisions: tuple[str, ...]
    of_onnx: str | None = None

    def lacking(self) -> str:
        """What this process lacks, in words that continue from its name; empty if nothing."""
        return self._openvino() if self.runtime == "openvino" else self._torch()

    def _openvino(self) -> str:
        from camtrap_batch.model import on_openvino

        if not on_openvino.is_there():
            return (
                "has no OpenVINO, which this run is computed in: install the extra 'onnx' there, or set "
                f"{KEY}: float32, which redoes all images, with torch"
            )
        missing = (name for name in self.precisions if not on_openvino.computes_in(name))
        return next((without_precision(name, "cpu", KEY) for name in missing), "")

    def _torch(self) -> str:
        if find_spec("torch") is None:
            return "has no torch: install the extra 'train' there"
        if self.of_onnx is not None:
            runtime = self.of_onnx if self.device == "cpu" else None
            if lacking := RequiredRuntime(self.device, "float32", runtime, KEY).lacking():
                return lacking
        short = [name for name in self.precisions if name != "float32"]
        if not short:
            return ""
        import torch

        from camtrap_batch.model import on_torch

        missing = (name for name in short if not on_torch.computes_in(name, torch.device(self.device)))
        return next((without_precision(name, self.device, KEY) for name in missing), "")


def todays_steps(runtime: str, steps: Sequence[Step]) -> list[Step]:
    """The steps that are computed today: torch's own integers, in run folders of earlier versions, are gone.

    Their images are computed as in the next step, which is finer.

    >>> todays_steps("torch", [("int8", 0.2), ("bfloat16", 0.1), ("float32", 0.0)])
    [('bfloat16', 0.1), ('float32', 0.0)]
    """
    return [step for step in steps if runtime != "torch" or step[0] != "int8"]
