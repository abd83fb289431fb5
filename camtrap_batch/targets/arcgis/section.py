"""The section `publish` of a job that pushes to layers of ArcGIS."""

from __future__ import annotations

import re
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from camtrap_batch.errors import choices
from camtrap_batch.job.base import web_address
from camtrap_batch.job.publish import Publish
from camtrap_batch.targets.base import LAYERS, LOCATION


class PublishArcGIS(Publish):
    """Which layers, and what is done with them besides pushing rows."""

    title: ClassVar[str] = "portal"
    form: ClassVar[str] = "arcgis"

    cameras: str | None = Field(
        None, description="URL of the layer for cameras, .../FeatureServer/<number>, or the id of its item"
    )
    events: str | None = Field(None, description="URL of the layer for events, or the id of its item")
    photos: str | None = Field(None, description="URL of the layer for photos, or the id of its item")
    best_photos: bool = Field(
        False, description="attach the best photo of each species to its camera on the layer"
    )
    event_photos: bool = Field(False, description="attach its best photo to each event on the layer")
    append: bool = Field(
        False,
        description="add and update rows by append jobs, thousands at a time: for very large layers",
    )

    @property
    def urls(self) -> dict[str, str]:
        """Layer -> URL or item id, for those that the job names; see `items.resolve_layers`."""
        named = {layer: getattr(self, layer) for layer in LAYERS}
        return {layer: url for layer, url in named.items() if url is not None}

    @property
    def location_field(self) -> str:
        """Field of the layer for cameras that holds the camera location."""
        return self.fields.get("cameras", {}).get(LOCATION, LOCATION)

    @classmethod
    def claims(cls, target: str) -> bool:
        return target == cls.form

    def address(self, run_url: str) -> str:
        return self.portal

    def written(self, run_url: str) -> list[tuple[str, str]]:
        layers = [(f"{self.key}.{layer}", url) for layer, url in self.urls.items() if not ITEM.fullmatch(url)]
        return [*super().written(run_url), *layers]

    @field_validator("cameras", "events", "photos")
    @classmethod
    def _layer_address(cls, value: str | None) -> str | None:
        return value if value is None or ITEM.fullmatch(value) else web_address(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.append and self.anonymous:
            raise ValueError("append jobs require signing in: leave out append, or anonymous")
        if self.event_photos and self.events is None and (self.cameras or self.photos):
            raise ValueError("event_photos are attached to events: also give that layer's URL")
        if self.best_photos and self.cameras is None and (self.events or self.photos):
            raise ValueError("best_photos are attached to cameras: also give that layer's URL")
        for layer in self.fields:
            if layer not in LAYERS:
                raise ValueError(f"fields: no layer {layer!r}; {choices(layer, LAYERS)}")
        return self


ITEM = re.compile(r"([0-9a-f]{32})(?:/(\d+))?")
"""An item's id, and the number of a layer in it."""


def cameras_layer(publish: Publish) -> tuple[str | None, str | None]:
    """URL or item id of the layer for cameras, and its field with the location; None if a job has none."""
    if not isinstance(publish, PublishArcGIS) or publish.cameras is None:
        return None, None
    return publish.cameras, publish.location_field
