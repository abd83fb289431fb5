"""The sections `validate` and `findings`: reading every image, and what looks wrong."""

from __future__ import annotations

from pydantic import Field

from camtrap_batch.yamlfile import Section


class Validate(Section):
    shard_size: int = Field(
        500, ge=1, le=1000, description="maximum number of images in one shard, that is in one Dask task"
    )
    thumbnails: int = Field(
        256, ge=0, le=2048, description="short side of the thumbnails kept, in pixels; 0: none"
    )
    max_pixels: int = Field(200_000_000, ge=1, description="an image with more pixels is too_large")
    timeout_s: float = Field(60, gt=0, strict=False, description="maximum seconds for one image")


class Findings(Section):
    near_bits: int = Field(
        2,
        ge=0,
        le=2,
        description="maximum number of bits, of 64, by which hashes of near duplicates (same second and "
        "location) differ",
    )
