"""The sections `select` and `train`: what to learn from, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from camtrap_batch.errors import choices
from camtrap_batch.job.base import Fraction, Input, PathOrUrl, Seed
from camtrap_batch.vocabulary import FINDING_KINDS, USABLE
from camtrap_batch.yamlfile import Section

_NO_FILE = re.compile("imagenet|none|latest|[0-9a-f]{16}")
"""Values of `train.weights` that do not name a file."""


class Empty(Section):
    class_: int | str = Field(
        0, alias="class", description="category id or name that means that there is no animal"
    )
    fraction: Fraction = Field(0.5, description="fraction of the empty images to keep")


class Split(Section):
    by: Literal["location", "random"] = Field(
        "location",
        description="location: no camera, sequence or duplicate on two sides; random: the notebook's leaky "
        "split by image",
    )
    valid: Fraction = Field(0.2, description="fraction of the selected images to validate on")
    test: Fraction = Field(0.0, description="fraction of the selected images to test on")
    seed: Seed | None = Field(None, description="separate seed for the split; default: select.seed")

    @model_validator(mode="after")
    def _some_left(self) -> Split:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together leave nothing to train on")
        return self


class Select(Section):
    classes: list[int | str] | None = Field(
        None, min_length=1, description="category ids or names; absent: all"
    )
    empty: Empty = Field(default_factory=Empty, description="what to do with images without an animal")
    statuses: list[str] = Field(list(USABLE), min_length=1, description="statuses of images to train on")
    drop: list[str] = Field(
        default_factory=list,
        description="kinds of findings whose images are left out of training; default: none",
    )
    max_per_class: int | None = Field(
        None,
        ge=2,
        description="maximum number of images per class; the rest is dropped at random; default: all",
    )
    max_per_location: int | None = Field(
        None,
        ge=1,
        description="maximum number of images per location; the rest is dropped at random; default: all",
    )
    split: Split = Field(default_factory=Split, description="how images are divided")
    seed: Seed = Field(42, description="seed for thinning and for the split")

    @field_validator("statuses")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for status in value:
            if status not in USABLE:
                raise ValueError(f"{status!r} can't be trained on; {choices(status, USABLE)}")
        return value

    @field_validator("drop")
    @classmethod
    def _kinds(cls, value: list[str]) -> list[str]:
        for kind in value:
            if kind not in FINDING_KINDS:
                raise ValueError(f"no kind of finding {kind!r}; {choices(kind, FINDING_KINDS)}")
        return value


class Train(Section):
    arch: str = Field("resnet34", description="any torchvision or timm classification architecture")
    weights: Annotated[PathOrUrl, Input(words=_NO_FILE)] = Field(
        "imagenet",
        description="imagenet, none, a file of weights or a model folder, relative to the job file, a model "
        "id of this run, or latest: its last model",
    )
    on: Literal["auto", "frames", "crops"] = Field(
        "auto", description="what to learn from; auto: crops if the job has boxes (detect), otherwise frames"
    )
    method: Literal["finetune", "head"] = Field(
        "finetune",
        description="finetune: the whole network; head: only a new last layer, on what the network of "
        "`weights` computes once",
    )
    size: int = Field(224, ge=32, le=1024, description="side of the model's square input, in pixels")
    epochs: int = Field(5, ge=1, description="passes over the training images")
    batch: int = Field(64, ge=1, description="images per training step")
    lr: float | Literal["find"] = Field("find", description="learning rate, or find: search for one first")

    balance: Literal["sampling", "weights", "none"] = Field(
        "sampling",
        description="rare classes: sampling shows them more often, weights makes their loss count more",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a smaller valid loss, keep the best; default: never",
    )

    @model_validator(mode="after")
    def _something_to_keep(self) -> Train:
        if self.method == "head" and self.weights == "none":
            raise ValueError("method: head keeps a network and needs one: set weights")
        return self

    @field_validator("lr")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if isinstance(value, float | int) and value <= 0:
            raise ValueError(f"{value}: should be above 0, or find")
        return value
