"""The section `publish`: where the result goes. What all targets share; each adds its own keys (targets/)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, SerializeAsAny, field_validator, model_validator

from camtrap_batch.job.base import InputPath, SignIn
from camtrap_batch.registry import registry
from camtrap_batch.yamlfile import OneOf


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


@dataclass(frozen=True)
class Beside(OneTarget):
    """A second target, beside the first; as text, it is the value of its `target`. True and false stay."""

    def _validate(self, value: Any, as_base: Callable[[Any], Any]) -> Any:
        if not isinstance(value, bool | str | dict | Publish):
            raise ValueError(f"{value!r}: should be true, false, or a second target, such as public.gpkg")
        return super()._validate({self.key: value} if isinstance(value, str) else value, as_base)


KEY = "publish"
"""The key of the job file that the section is."""

_TARGETS = "camtrap_batch.targets"
_SAID = {
    "public": "the second target is public",
    "sensitive": "publish.sensitive counts for both targets",
    "sensitive_km": "publish.sensitive_km counts for both targets",
}


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
    public: Annotated[SerializeAsAny[bool | Publish], Beside(_TARGETS, "target")] = Field(
        False,
        description="true: for anyone to see: positions on a grid of report.blur_km (10 km if that is 0), "
        "without people and vehicles; or a second target that gets this beside the target, which has "
        "everything: public.gpkg, or {target: arcgis, cameras: URL, ...} with the keys of publish",
    )
    sensitive: InputPath | list[str] | None = Field(
        None,
        description="species whose exact positions are never published: names, groups or categories of "
        "events.taxonomy such as [panthera leo, rhinocerotidae, CR], or a .csv with a column label",
    )
    sensitive_km: float = Field(
        10, gt=0, strict=False, description="size of the grid on which cameras that saw them are shown"
    )

    _key: str = PrivateAttr(KEY)

    @model_validator(mode="before")
    @classmethod
    def _sign_in_alike(cls, content: Any) -> Any:
        """A second target signs in like the first, unless it says where or as whom."""
        second = content.get("public") if isinstance(content, dict) else None
        if not isinstance(second, dict) or second.keys() & {"portal", "profile", "anonymous"}:
            return content
        same = {key: content[key] for key in SignIn.model_fields if key in content}
        return {**content, "public": {**same, **second}}

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        second = self.public
        for key in ("public", "sensitive", "sensitive_km") if isinstance(second, Publish) else ():
            if getattr(second, key) != Publish.model_fields[key].default:
                raise ValueError(f"public.{key}: leave it out: {_SAID[key]}")
        return self

    @field_validator("sensitive", mode="before")
    @classmethod
    def _names_or_file(cls, value: Any) -> Any:
        is_list = isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)
        if not is_list and not isinstance(value, str | None):
            raise ValueError(f"{value!r}: should be a list of names such as [panthera leo], or a .csv file")
        return value

    @property
    def key(self) -> str:
        """The key of the job file that this section is: `publish`, or `publish.public`."""
        return self._key

    @property
    def is_public(self) -> bool:
        """Whether what is pushed here is for anyone to see."""
        return self.public is True

    @property
    def second(self) -> Publish | None:
        """The section of the public target beside this one; None if there is none."""
        if not isinstance(self.public, Publish):
            return None
        hidden = {"sensitive": self.sensitive, "sensitive_km": self.sensitive_km}
        second = self.public.model_copy(update={"public": True, **hidden})
        second._key = f"{KEY}.public"
        return second

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
        return [(f"{self.key}.target", self.address(run_url))]


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


TARGET = OneTarget(_TARGETS, "target", "locations.gpkg")
"""Marks the section of the job file."""


def default_publish() -> Publish:
    """The section of a job file that does not have one."""
    section = TARGET.section({})
    assert section is not None and issubclass(section, Publish)  # noqa: S101, PT018 - it is one of our own
    return section()
