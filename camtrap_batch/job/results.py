"""The sections `infer`, `events` and `report`: from images to what is said about them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from camtrap_batch.job.base import Fraction, Input, InputPath, PathOrUrl
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import NO_MODEL
from camtrap_batch.yamlfile import Section

_NO_FOLDER = re.compile(rf"latest|{NO_MODEL}|[0-9a-f]{{16}}")
"""Values of `infer.model` that do not name a folder."""

PeopleShown = Literal["blur", "leave_out", "show"]
"""How people are treated in pictures that are handed out."""


class Infer(Section):
    model: Annotated[PathOrUrl, Input(words=_NO_FOLDER)] = Field(
        "latest",
        description="latest, a model id of this run, a model folder, relative to the job file, or none: the "
        "labels of people, or those in detect.results, are the result",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: GPU workers where one has a GPU that torch can use, otherwise CPU workers"
    )
    batch: int = Field(64, ge=1, description="images per forward pass")
    min_confidence: Fraction = Field(
        0.5, description="a sequence below it is uncertain, or gets the label of a group (events.taxonomy)"
    )
    shard_size: int = Field(
        256, ge=1, le=10_000, description="maximum number of images in one shard, that is in one Dask task"
    )
    precision: Literal["auto", "float32"] = Field(
        "auto",
        description="auto: the fastest with the labels of float32 (99.5 % of them); float32: exact",
    )
    detections: InputPath | None = Field(
        None, description="MegaDetector results: file or URL, relative to the job file; crops are classified"
    )
    detection_threshold: Fraction = Field(0.2, description="a box with less confidence does not count")
    animal_category: str = Field("animal", description="the detector's category whose boxes are classified")
    repeat_frames: int = Field(
        50,
        ge=0,
        description="images of a camera with the same box that make it a repeat; 0: none are looked for",
    )
    repeat_iou: float = Field(
        0.9, ge=0.5, le=1, strict=False, description="overlap (intersection over union) of the same box"
    )


Labels = Literal["machine", "human_first", "human"]
"""Whose labels count; corrections always do."""


class Events(Section):
    labels: Labels = Field(
        "machine",
        description="machine; human_first: the metadata's labels if there are any; human: no others",
    )
    gap_min: float = Field(
        30, gt=0, strict=False, description="minutes from the previous image that end an event"
    )
    effort: Literal["station", "cameras"] = Field(
        "station",
        description="two cameras at one location: station counts a day once, cameras counts it for each",
    )
    taxonomy: InputPath | dict[str, dict[str, str]] | None = Field(
        None,
        description="label groups: a .csv of label,genus,family,... or {label: {genus: ..., family: ...}}",
    )
    species: InputPath | None = Field(
        None,
        description="which species are possible: a .csv of label[,region][,location]; others are ruled out",
    )
    regions: InputPath | None = Field(
        None, description="which region each camera is in: a .csv of location,region"
    )

    @field_validator("taxonomy", mode="before")
    @classmethod
    def _file_or_groups(cls, value: Any) -> Any:
        groups = list(value.values()) if isinstance(value, dict) else []
        is_text = all(
            isinstance(name, str) for some in groups if isinstance(some, dict) for name in some.values()
        )
        if (
            not isinstance(value, str | dict | None)
            or not all(isinstance(some, dict) for some in groups)
            or not is_text
        ):
            raise ValueError(
                f"{value!r}: should be a .csv file, or groups such as {{panthera leo: {{genus: panthera}}}}"
            )
        return value

    @model_validator(mode="after")
    def _regions_of_species(self) -> Events:
        if self.regions is not None and self.species is None:
            raise ValueError(
                "`regions` requires `species`: it says which cameras are in the regions named there"
            )
        return self


class Report(Section):
    blur_km: float = Field(
        0, ge=0, strict=False, description="round positions in the report to a grid of this many km"
    )
    people: PeopleShown = Field(
        "blur",
        description="people in pictures of the report and on layers: blur, leave_out or show",
    )
    photos: int = Field(
        400, ge=0, le=20_000, description="maximum number of photos in the report, about 40 kB each; 0: none"
    )
    single_file: bool = Field(
        False, description="everything in one .html file, instead of files beside it that load when opened"
    )
    tiles: InputPath | None = Field(
        None,
        description="map behind the cameras: https://.../{z}/{x}/{y}.png, or a .pmtiles file or URL; absent: "
        "outlines of countries, which need no network",
    )

    @field_validator("tiles")
    @classmethod
    def _tiles(cls, value: str | None) -> str | None:
        if value is None:
            return None
        address = urlsplit(value)
        if address.query or address.username:
            raise ValueError(
                f"{redacted(value)!r}: should have neither a user nor a query, which may hold a secret: "
                "the report would show it"
            )
        is_template = address.scheme in ("https", "http") and all(
            part in value for part in ("{z}", "{x}", "{y}")
        )
        if not is_template and not address.path.endswith(".pmtiles"):
            raise ValueError(
                f"{redacted(value)!r}: should be a URL with {{z}}, {{x}} and {{y}}, or a .pmtiles file or URL"
            )
        return value
