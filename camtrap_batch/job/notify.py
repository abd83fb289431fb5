"""The section `notify`: what is notified when a command of the job has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from camtrap_batch.job.base import absolute
from camtrap_batch.remote import redacted
from camtrap_batch.yamlfile import Section


class Notify(Section):
    url: str | None = Field(None, description="URL that gets JSON by POST when a command of the job ends")
    command: list[str] | None = Field(
        None, min_length=1, description="program, with its arguments, that gets the same on standard input"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"url": given} if isinstance(given, str) else given

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError(
                f"{redacted(value)!r}: should be a URL that begins with https:// or http://; a program is "
                "notify.command: [PROGRAM, ARGUMENT, ...]"
            )
        return value

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.url is None and self.command is None:
            raise ValueError("names neither a url nor a command")
        return self

    def from_folder(self, base: Path) -> Self:
        """The same, with a program's relative path resolved against the folder `base`."""
        if self.command is None or "/" not in self.command[0]:
            return self
        program, *arguments = self.command
        return self.model_copy(update={"command": [absolute(program, base), *arguments]})
