"""The section `publish`: where the result goes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from camtrap_batch.errors import choices
from camtrap_batch.job.base import SignIn, web_address

LAYERS = ("cameras", "events", "photos")
"""What a job pushes; `publish` has a key with the URL of each."""


ARCGIS = "arcgis"
"""The `publish.target` that is no file: layers of a portal."""


class Publish(SignIn):
    target: str = Field(
        "locations.gpkg",
        description="a GeoPackage (.gpkg; relative: in the run folder), or arcgis: layers of a portal",
    )
    cameras: str | None = Field(None, description="URL of the layer for cameras, .../FeatureServer/<number>")
    events: str | None = Field(None, description="URL of the layer for events")
    photos: str | None = Field(None, description="URL of the layer for photos")
    fields: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="names of fields of one's own, such as {photos: {ClassLabel: Species}}",
    )
    best_photos: bool = Field(
        False, description="attach the best photo of each species to its camera on the layer"
    )
    append: bool = Field(
        False,
        description="add and update rows by append jobs, thousands at a time: for very large layers",
    )

    @field_validator("cameras", "events", "photos")
    @classmethod
    def _layer_address(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value)

    @model_validator(mode="after")
    def _one_target(self) -> Publish:
        if self.target != ARCGIS and (self.cameras or self.events or self.photos or self.best_photos):
            raise ValueError(f"layers are for `target: arcgis`; here it is {self.target}")
        if self.append and self.target != ARCGIS:
            raise ValueError(f"append is for `target: arcgis`; here it is {self.target}")
        if self.append and self.anonymous:
            raise ValueError("append jobs are for someone who signs in: leave out append, or anonymous")
        if self.best_photos and self.cameras is None and (self.events or self.photos):
            raise ValueError("best_photos are attached to cameras: give that layer's URL, too")
        for layer in self.fields:
            if layer not in LAYERS:
                raise ValueError(f"fields: no layer {layer!r}; {choices(layer, LAYERS)}")
        return self

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        if value == ARCGIS:
            return value
        if not value.endswith(".gpkg"):
            raise ValueError(f"{value!r}: should be arcgis, or a file name that ends in .gpkg")
        if "://" in value:
            raise ValueError(
                f"{value!r}: should be a path; a relative one is in the run folder, also in a bucket"
            )
        if not Path(value).is_absolute() and len(Path(value).parts) != 1:
            raise ValueError(f"{value!r}: should be a file name, for the run folder, or an absolute path")
        return value
