"""What sections of a job file have in common: paths, parts, and how to sign in to a portal."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from camtrap_batch.remote import shown
from camtrap_batch.yamlfile import Section


def _place(value: str) -> str:
    if not value.strip() or "\0" in value or value.rstrip("/").endswith(":"):
        raise ValueError(f"{value!r}: should be a path or a URL")
    return value


def web_address(value: str) -> str:
    host = urlsplit(value).hostname
    if not value.startswith("https://") and not (
        value.startswith("http://") and host in ("127.0.0.1", "localhost", "::1")
    ):
        raise ValueError(f"{shown(value)!r}: should begin with https:// (http:// is for this machine alone)")
    if urlsplit(value).query or urlsplit(value).username:
        raise ValueError(f"{shown(value)!r}: should have neither a user nor a query, which may hold a secret")
    return value.rstrip("/")


Fraction = Annotated[float, Field(ge=0, le=1, strict=False)]


Seed = Annotated[int, Field(ge=0, lt=2**31)]


Place = Annotated[str, AfterValidator(_place)]
"""A path or a URL."""


class SignIn(Section):
    """Where and as whom to sign in to a portal of ArcGIS."""

    portal: str = Field(
        "https://www.arcgis.com", description="ArcGIS Online, or the URL of an Enterprise portal"
    )
    profile: str | None = Field(
        None, min_length=1, description="profile to sign in with; default: environment"
    )
    anonymous: bool = Field(False, description="do not sign in: for layers that are open to anyone")
    ca_bundle: Place | None = Field(
        None, description="file with the certificates of an authority of one's own"
    )
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
