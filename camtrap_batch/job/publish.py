"""The section `publish`: where the result goes. What all targets share; each adds its own keys (targets/)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from camtrap_batch.errors import UserError
from camtrap_batch.job.base import SignIn
from camtrap_batch.registry import registry

_TARGET = "locations.gpkg"


class Publish(SignIn):
    """The keys that every target has; the portal to sign in to is that of `camtrap model publish`, too.

    Attributes
    ----------
    title : what the target is, for people
    form : what `target` looks like where it names this target
    """

    title: ClassVar[str] = "target"
    form: ClassVar[str] = ""

    target: str = Field(
        _TARGET,
        description="a GeoPackage (.gpkg; relative: in the run folder), or arcgis: layers of a portal",
    )

    @classmethod
    def claims(cls, target: str) -> bool:
        """Whether a value of `target` names this target; the first in the registry that says so has it."""
        return False

    def address(self, run_url: str) -> str:
        """Path or URL of what is pushed to, of a job whose run folder is at `run_url`."""
        return self.target

    def written(self, run_url: str) -> list[tuple[str, str]]:
        """(key of the job file, path or URL) of all that a push writes to."""
        return [("publish.target", self.address(run_url))]

    @classmethod
    def variants(cls) -> Iterator[type[Publish]]:
        targets = registry("camtrap_batch.targets")
        for name in targets:
            with suppress(UserError):  # a broken package is told of where its target is asked for
                yield targets[name].section

    @classmethod
    def variant(cls, content: Any) -> type[Publish]:
        if cls is not Publish or not isinstance(content, dict):
            return cls
        target = content.get("target", _TARGET)
        if not isinstance(target, str):
            return cls
        targets = registry("camtrap_batch.targets")
        # One after the other: those of other packages are imported only where none of ours has it.
        return next((section for name in targets if (section := targets[name].section).claims(target)), cls)

    @model_validator(mode="wrap")
    @classmethod
    def _as_variant(cls, content: Any, handler: ModelWrapValidatorHandler[Publish]) -> Publish:
        section = cls.variant(content)
        if section is cls:
            return handler(content)
        return section.model_validate(_without_foreign(content, section))

    @field_validator("target")
    @classmethod
    def _is_some_target(cls, value: str) -> str:
        if cls is Publish:
            forms = [section.form for section in cls.variants()]
            raise ValueError(f"{value!r}: should be {', or '.join(forms)}")
        return value


class PublishFile(Publish):
    """A target that is a file: by its ending, in the run folder or anywhere on disk."""

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


def _without_foreign(content: dict[str, Any], section: type[Publish]) -> dict[str, Any]:
    """Without the keys of other targets that have their default, as a job file that was written whole has."""
    kept = dict(content)
    unknown = [key for key in content if key not in section.model_fields]
    for other in Publish.variants() if unknown else ():
        for key in unknown:
            field = other.model_fields.get(key)
            if field is None or key not in kept:
                continue
            if content[key] != field.get_default(call_default_factory=True):
                target = content.get("target", _TARGET)
                raise ValueError(f"{key} is for `target: {other.form}`; here it is {target}")
            del kept[key]
    return kept
