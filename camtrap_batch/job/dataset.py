"""The section `dataset`: where metadata and images are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from camtrap_batch.job.base import InputPath
from camtrap_batch.yamlfile import Section

_SECRET = re.compile(
    r"^key$|secret|token|password|account_key|credential|connection_string|authorization|cookie",
    re.IGNORECASE,
)


_NO_SECRETS = (None, "", "anon", "cloud", "google_default", "cache")


class _PartOfPath(Section):
    level: int | None = Field(None, ge=0, description="folder level that names it; 0 is the first")
    regex: str | None = Field(None, description="regular expression on the path")

    what: ClassVar[str]

    @model_validator(mode="after")
    def _one(self) -> Self:
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
                raise ValueError(f"{value!r} has no group; put the {cls.what}'s part in (?P<{cls.what}>...)")
        return value


class Location(_PartOfPath):
    what: ClassVar[str] = "location"

    level: int | None = Field(
        None, ge=0, description="folder level that names the camera location; 0 is the first"
    )
    regex: str | None = Field(
        None, description="regular expression on the path; its group `location`, or else its first group"
    )


class Label(_PartOfPath):
    what: ClassVar[str] = "label"

    level: int | None = Field(None, ge=0, description="folder level that names the species; 0 is the first")
    regex: str | None = Field(
        None, description="regular expression on the path; its group `label`, or else its first group"
    )
    keywords: Literal[True] | list[str] | None = Field(
        None, description="true: every keyword of a photo names a species; or a list of the keywords that do"
    )
    hierarchy: str | None = Field(
        None, description="keyword above those that name species, such as Species in Species|Vulpes vulpes"
    )
    count: str | None = Field(
        None, description="with hierarchy: keyword above the number of animals, such as Count in Count|2"
    )
    empty: list[str] = Field(
        ["empty", "blank"],
        description="names, in any case, that mean that there is no animal; alone: in a table's own column",
    )
    between: str | None = Field(
        None,
        min_length=1,
        description="separator of several species in one cell or folder name, such as ;",
    )

    later: ClassVar[tuple[str, ...]] = ("keywords", "hierarchy", "count", "between")
    """Keys that `dataset.label` did not have at first."""

    @property
    def is_of_metadata(self) -> bool:
        """Whether the metadata name the species, and the keys only say how to read them."""
        return self.level is None and self.regex is None and not self.is_of_photos

    @property
    def is_of_photos(self) -> bool:
        """Whether the species is named by keywords in the photo, not by the path."""
        return self.keywords is not None or self.hierarchy is not None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.level is not None, self.regex is not None]
        given += [self.keywords is not None, self.hierarchy is not None]
        reads_metadata = not any(given) and self.model_fields_set & {"empty", "between"}
        if sum(given) != 1 and not reads_metadata:
            raise ValueError("give one of level, regex, keywords and hierarchy")
        if self.between is not None and self.is_of_photos:
            raise ValueError("between is for cells and folders; each keyword is one species")
        if self.count is not None and self.hierarchy is None:
            raise ValueError("count needs hierarchy")
        return self


class Video(Section):
    every_s: float = Field(1, ge=0.01, strict=False, description="seconds from one frame to the next")
    most_frames: int = Field(10, ge=1, le=10_000, description="most frames per video, from its start")


class Dataset(Section):
    """What all formats have in common.

    The section of a reader (`camtrap_batch.catalog.base`) names its format, and adds keys of its own.

    Attributes
    ----------
    needs : keys that the format requires -> what they are for
    refuses : keys of this class that have no meaning in the format -> why
    """

    needs: ClassVar[Mapping[str, str]] = {
        "metadata": "the file that lists the images",
        "images": "where the images are",
    }
    refuses: ClassVar[Mapping[str, str]] = {}

    format: str = Field(description="how the data set is described")
    metadata: InputPath | None = Field(
        None, description="file or URL, relative to the job file; a feature layer's URL; not for folder"
    )
    images: InputPath | None = Field(
        None,
        description="image root: a folder, an fsspec URL, or a .zip in either, relative to the job file; not "
        "for feature-layer",
    )
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the image root's fsspec file system, such as {token: anon}",
    )
    cameras: InputPath | None = Field(
        None,
        description="location, latitude, longitude in WGS 84, and optional start, end: .csv or .geojson; "
        "camtrap-dp has its own",
    )
    outages: InputPath | None = Field(
        None, description=".csv of location, start, end: when a camera stood there without working"
    )
    about: InputPath | dict[str, Any] | None = Field(
        None,
        description="contributors, licenses, project, ... of data packages that are exported: a .json, or "
        "{title: ..., licenses: [...]}",
    )
    utc_offset: str | None = Field(None, description='what the cameras\' clocks show, such as "+02:00"')

    dates: Literal["dmy", "mdy", "ymd"] | None = Field(
        None,
        description="order of dates such as 03/04/2022 and 21-03-04; default: what other dates show",
    )

    video: Video | None = Field(
        None,
        description="frames of videos are images of their own; needs camtrap-batch[video]; absent: a video "
        "is a row with status video",
    )

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
    def _keys_of_the_format(self) -> Self:
        for key, why in self.refuses.items():
            if getattr(self, key) is not None:
                raise ValueError(why)
        for key, what in self.needs.items():
            if getattr(self, key) is None:
                raise ValueError(f"format {self.format} needs the key `{key}`: {what}")
        return self


class WithLocation(Dataset):
    """A format in which a path may name the camera location."""

    location: Location | None = Field(None, description="where a path names the camera location")


class WithLabel(WithLocation):
    """A format in which a path may also name the species.

    Attributes
    ----------
    has_own_labels : whether the metadata may name the species, too
    """

    has_own_labels: ClassVar[bool] = False

    label: Label | None = Field(
        None,
        description="where people named the species: a folder they sorted it into, or keywords; default: "
        "nowhere",
    )

    @property
    def path_label(self) -> Label | None:
        """`label`, where it is the path that names the species."""
        is_of_path = self.label is not None and (self.label.level is not None or self.label.regex is not None)
        return self.label if is_of_path else None

    @model_validator(mode="after")
    def _says_where_labels_are(self) -> Self:
        if self.label is not None and self.label.is_of_metadata and not self.has_own_labels:
            raise ValueError("label: give one of level, regex, keywords and hierarchy")
        return self
