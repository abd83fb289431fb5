"""The section `publish`: where the result goes. What all targets share; each adds its own keys (targets/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from camtrap_batch.job.base import InputPath, SignIn
from camtrap_batch.registry import registry
from camtrap_batch.yamlfile import OneOf


class Publish(SignIn):
    """The keys that every target has; `camtrap model publish` signs in to the same portal.

    Attributes
    ----------
    title : what the target is, for people
    form : what `target` looks like if it names this target
    """

    title: ClassVar[str] = "target"
    form: ClassVar[str] = ""

    target: str = Field("locations.gpkg", description="what to push to")

    fields: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="arcgis: your own names for fields, such as {photos: {ClassLabel: Species}}; no effect "
        "on other targets",
    )
    public: bool = Field(
        False,
        description="for anyone to see: positions on a grid of report.blur_km (10 km if that is 0), without "
        "people and vehicles",
    )
    sensitive: InputPath | list[str] | None = Field(
        None,
        description="species whose exact positions are never published: names, groups or categories of "
        "events.taxonomy such as [panthera leo, rhinocerotidae, CR], or a .csv with a column label",
    )
    sensitive_km: float = Field(
        10, gt=0, strict=False, description="size of the grid on which cameras that saw them are shown"
    )

    @field_validator("sensitive", mode="before")
    @classmethod
    def _names_or_file(cls, value: Any) -> Any:
        is_list = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
        if not is_list and not isinstance(value, str | None):
            raise ValueError(f"{value!r}: should be a list of names such as [panthera leo], or a .csv file")
        return value

    @classmethod
    def claims(cls, target: str) -> bool:
        """Whether a value of `target` names this target; the first target in the registry that agrees is
        used."""
        return False

    def address(self, run_url: str) -> str:
        """Path or URL that is pushed to, for a job whose run folder is at `run_url`."""
        return self.target

    def written(self, run_url: str) -> list[tuple[str, str]]:
        """(key of the job file, path or URL) of everything that a push writes to."""
        return [("publish.target", self.address(run_url))]


class PublishFile(Publish):
    """A target that is a file, recognised by its ending, in the run folder or anywhere on disk."""

    ending: ClassVar[str]

    @classmethod
    def claims(cls, target: str) -> bool:
        return target.endswith(cls.ending)

    def address(self, run_url: str) -> str:
        return self.target if Path(self.target).is_absolute() else f"{run_url}/{self.target}"

    @field_validator("target")
    @classmethod
    def _is_file(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                f"{value!r}: should be a path; a relative one is in the run folder, also in a bucket"
            )
        if not Path(value).is_absolute() and len(Path(value).parts) != 1:
            raise ValueError(f"{value!r}: should be a file name, for the run folder, or an absolute path")
        return value


@dataclass(frozen=True)
class OneTarget(OneOf):
    """The section of the first target in the registry that claims the value of `target`."""

    def name_of(self, value: str) -> str:
        targets = registry(self.group)
        # One after the other: those of other packages are imported only if none of ours matches.
        return next((name for name, target in targets.loadable() if target.section.claims(value)), value)

    def refuse(self, value: Any) -> str:
        forms = [section.form for _, section in self.sections() if issubclass(section, Publish)]
        return f"{value!r}: should be {', or '.join(forms)}{registry(self.group).broken()}"


TARGET = OneTarget("camtrap_batch.targets", "target", "locations.gpkg")
"""Marks the section of the job file."""


def default_publish() -> Publish:
    """The section of a job file that does not have one."""
    section = TARGET.section({})
    assert section is not None and issubclass(section, Publish)  # noqa: S101, PT018 - it is one of our own
    return section()
