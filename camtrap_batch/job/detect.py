"""The section `detect`: where the boxes in the pictures come from, and which of them count."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from camtrap_batch.job.base import Fraction, Input, InputPath, PathOrUrl
from camtrap_batch.yamlfile import Section

CATALOG = "catalog"
"""The value of `detect.results` that is not a file: the boxes in the metadata."""


class Repeat(Section):
    frames: int = Field(
        50,
        ge=0,
        description="number of images of a camera with the same box that make it a repeat; 0: off",
    )
    iou: float = Field(
        0.9, ge=0.5, le=1, strict=False, description="overlap (intersection over union) of the same box"
    )


class Detect(Section):
    model: InputPath | None = Field(
        None, description="a detector as an ONNX file (docs/detectors.md), relative to the job file"
    )
    results: Annotated[PathOrUrl, Input(words=re.compile(CATALOG))] | None = Field(
        None,
        description="instead of a model: results of MegaDetector or SpeciesNet; or catalog: the boxes "
        "in the metadata",
    )
    threshold: Fraction = Field(0.2, description="a box with less confidence does not count")
    animal_category: str = Field("animal", description="the detector's category whose boxes are classified")
    size: int | None = Field(
        None, ge=32, le=4096, description="side of what the detector sees, in pixels; default: what it says"
    )
    tiles: Literal[1, 2] = Field(
        1, description="2: also look at overlapping quarters of large pictures, for small animals"
    )
    batch: int = Field(8, ge=1, description="maximum number of pictures per forward pass on a GPU")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="auto: GPU workers where a runtime can use their GPU, otherwise CPU workers",
    )
    precision: Literal["auto", "float32"] = Field(
        "auto", description="auto: bfloat16 where the hardware has it and the boxes stay; float32: exact"
    )
    shard_size: int = Field(
        128, ge=1, le=10_000, description="maximum number of images in one shard, that is in one Dask task"
    )
    repeat: Repeat = Field(
        default_factory=Repeat, description="which boxes show something that always stands there"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Detect:
        if (self.model is None) == (self.results is None):
            raise ValueError("give either model or results")
        if self.results is not None and (self.tiles != 1 or self.size is not None):
            raise ValueError("size and tiles apply to a model: boxes in results are taken as they are")
        return self
