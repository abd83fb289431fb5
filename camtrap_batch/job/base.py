"""What sections of a job file have in common: paths, parts, and how to sign in to a portal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from camtrap_batch.remote import redacted
from camtrap_batch.yamlfile import Section


def _path_or_url(value: str) -> str:
    if not value.strip() or "\0" in value or value.rstrip("/").endswith(":"):
        raise ValueError(f"{value!r}: should be a path or a URL")
    if any(ord(letter) < 32 for letter in value):
        raise ValueError(
            f"{value!r}: holds a special character, such as a backslash makes in double quotes; put a "
            "Windows path in single quotes"
        )
    return value


def web_address(value: str) -> str:
    host = urlsplit(value).hostname
    if not value.startswith("https://") and not (
        value.startswith("http://") and host in ("127.0.0.1", "localhost", "::1")
    ):
        raise ValueError(
            f"{redacted(value)!r}: should begin with https:// (http:// is only for this machine)"
        )
    if urlsplit(value).query or urlsplit(value).username:
        raise ValueError(
            f"{redacted(value)!r}: should have neither a user nor a query, which may hold a secret"
        )
    return value.rstrip("/")


Fraction = Annotated[float, Field(ge=0, le=1, strict=False)]


Seed = Annotated[int, Field(ge=0, lt=2**31)]


PathOrUrl = Annotated[str, AfterValidator(_path_or_url)]


@dataclass(frozen=True)
class Input:
    """Marks a key with the path or URL of something that the job reads and never changes.

    A relative path is taken from the job file's folder.

    Attributes
    ----------
    words : values that are not paths
    """

    words: re.Pattern[str] | None = None

    def is_path(self, value: object) -> bool:
        return isinstance(value, str) and not (self.words is not None and self.words.fullmatch(value))


InputPath = Annotated[PathOrUrl, Input()]
"""A path or URL of something that the job reads: every key annotated with it is among `inputs_of`."""


def inputs_of(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and path or URL of everything that a section, and those inside it, read."""
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{field.alias or name}"
        if isinstance(value, Section):
            yield from inputs_of(value, f"{key}.")
        elif _is_input([field.annotation, *field.metadata], value):
            yield key, value


_Section = TypeVar("_Section", bound=Section)


def from_folder(section: _Section, base: Path) -> _Section:
    """The section with each relative path among `inputs_of` taken from the folder `base`."""
    changed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            changed[name] = from_folder(value, base)
        elif _is_input([field.annotation, *field.metadata], value):
            changed[name] = absolute(value, base)
    return section.model_copy(update=changed)


def absolute(path: str, base: Path) -> str:
    """A path made absolute, relative to `base`; a URL stays as it is."""
    if "://" in path.rpartition("::")[2]:
        return path
    if path.startswith("zip://"):
        folder, _, path = path.partition("::")
        return f"{folder}::{absolute(path, base)}"
    return os.path.abspath(base / Path(path).expanduser())  # noqa: PTH100 - keeps the user's symbolic links


def _is_input(annotations: list[Any], value: object) -> bool:
    return any(
        mark.is_path(value) if isinstance(mark, Input) else _is_input(list(get_args(mark)), value)
        for mark in annotations
    )


class SignIn(Section):
    """Where and as whom to sign in to a portal of ArcGIS."""

    portal: str = Field(
        "https://www.arcgis.com", description="ArcGIS Online, or the URL of an Enterprise portal"
    )
    profile: str | None = Field(
        None, min_length=1, description="profile to sign in with; default: environment"
    )
    anonymous: bool = Field(False, description="do not sign in: for layers that are open to anyone")
    ca_bundle: InputPath | None = Field(None, description="file with the certificates of your own authority")
    timeout_s: float = Field(60, gt=0, strict=False, description="seconds to wait for an answer")

    @field_validator("portal")
    @classmethod
    def _portal_address(cls, value: str) -> str:
        return web_address(value)

    @model_validator(mode="after")
    def _who(self) -> Self:
        if self.anonymous and self.profile is not None:
            raise ValueError("give either profile or anonymous")
        return self
