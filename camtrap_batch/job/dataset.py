"""The section `dataset`: where metadata and images are."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from camtrap_batch.job.base import Place, SignIn, web_address
from camtrap_batch.yamlfile import Section

_SECRET = re.compile(
    r"^key$|secret|token|password|account_key|credential|connection_string|authorization|cookie",
    re.IGNORECASE,
)


_NO_SECRETS = (None, "", "anon", "cloud", "google_default", "cache")


class FeatureLayer(SignIn):
    location_field: str | None = Field(
        None,
        description="field that names the camera location; default: features at one place are one camera",
    )
    date_field: str | None = Field(
        None, description="field with the date of a feature's photos; default: their EXIF"
    )


class Location(Section):
    level: int | None = Field(
        None, ge=0, description="folder level that names the camera location, 0 = the first"
    )
    regex: str | None = Field(
        None, description="regular expression on the path; group `location`, else the first"
    )

    @model_validator(mode="after")
    def _one(self) -> Location:
        if (self.level is None) == (self.regex is None):
            raise ValueError("give either level or regex")
        return self

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as problem:
                raise ValueError(f"{value!r} is not a regular expression: {problem}") from None
            if not groups:
                raise ValueError(f"{value!r} has no group; put the location's part in (?P<location>...)")
        return value


class Dataset(Section):
    format: Literal["cct", "csv", "camtrap-dp", "folder", "feature-layer"] = Field(
        description="cct (COCO Camera Traps JSON), csv (file_name,category_id), camtrap-dp (data package), "
        "folder (paths alone) or feature-layer (points of ArcGIS with photos attached)"
    )
    metadata: Place | None = Field(
        None, description="file or URL, relative to the job file; a feature layer's URL; not for folder"
    )
    images: Place | None = Field(
        None,
        description="image root: a folder, an fsspec URL, or a .zip in either, relative to the job file; not "
        "for feature-layer",
    )
    layer: FeatureLayer | None = Field(
        None, description="feature-layer: how to read it, and where to sign in"
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the image root's fsspec file system, such as {token: anon}",
    )
    location: Location | None = Field(
        None, description="csv and folder: where a path names the camera location"
    )
    cameras: Place | None = Field(
        None,
        description="location, latitude, longitude in WGS 84: .csv or .geojson; camtrap-dp has its own",
    )
    utc_offset: str | None = Field(None, description='what the cameras\' clocks show, such as "+02:00"')

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, option in value.items():
            if isinstance(option, dict):
                cls._no_secrets(option)
            elif _SECRET.search(str(key)) and option not in _NO_SECRETS:
                raise ValueError(
                    f"`{key}` may hold a secret, which has no place in a job file: set it in the environment"
                )
        return value

    @field_validator("utc_offset")
    @classmethod
    def _offset(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[+-](0\d|1[0-4]):[0-5]\d", value):
            raise ValueError(f'{value!r}: should look like "+02:00"')
        return value

    @model_validator(mode="after")
    def _metadata(self) -> Dataset:
        if self.format != "folder" and self.metadata is None:
            raise ValueError(f"format {self.format} needs the key `metadata`: the file that lists the images")
        if self.format == "folder" and self.metadata is not None:
            raise ValueError("format folder reads no metadata file: leave out the key `metadata`")
        if self.format == "feature-layer":
            if self.images is not None:
                raise ValueError("format feature-layer reads attachments: leave out the key `images`")
            web_address(str(self.metadata))
        elif self.images is None:
            raise ValueError(f"format {self.format} needs the key `images`: where the images are")
        elif self.layer is not None:
            raise ValueError(f"layer is for format feature-layer; here it is {self.format}")
        return self
