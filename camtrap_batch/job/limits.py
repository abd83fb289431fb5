"""The section `limits`: guard rails, so that a fault in the environment is not taken for a result."""

from __future__ import annotations

from pydantic import Field

from camtrap_batch.job.base import Fraction
from camtrap_batch.yamlfile import Section


class Limits(Section):
    lost: Fraction = Field(
        0.02,
        description="a stage stops where a larger part of the images that were there can't be read; 1: never",
    )
    deleted: Fraction = Field(
        0.2, description="a push stops where it would delete a larger part of a layer's rows; 1: never"
    )
