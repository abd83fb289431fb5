"""The job file: what to process. One YAML file per data set; all keys but three have defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, SerializeAsAny, field_validator, model_validator

from camtrap_batch.errors import JobError
from camtrap_batch.job.base import PathOrUrl, SignIn, absolute, from_folder, inputs_of
from camtrap_batch.job.dataset import Dataset, Label, Location, WithLabel, WithLocation
from camtrap_batch.job.detect import Detect, Repeat
from camtrap_batch.job.images import Findings, Validate
from camtrap_batch.job.limits import Limits
from camtrap_batch.job.notify import Notify
from camtrap_batch.job.publish import TARGET, Publish, default_publish
from camtrap_batch.job.results import Events, Infer, Report
from camtrap_batch.job.training import Select, Split, Train
from camtrap_batch.remote import family_of, redacted
from camtrap_batch.yamlfile import OneOf, Section, override, parse, read_yaml, write_yaml

__all__ = [
    "Dataset",
    "Infer",
    "Job",
    "Label",
    "Location",
    "Publish",
    "Select",
    "SignIn",
    "Split",
    "Train",
    "WithLabel",
    "WithLocation",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Job(Section):
    """A job file, checked. `Job.load` reads one and makes its paths absolute."""

    name: str = Field(description="the run folder is <output>/<name>")
    output: PathOrUrl = Field(description="folder or fsspec URL of run folders, relative to the job file")
    dataset: Annotated[SerializeAsAny[Dataset], OneOf("camtrap_batch.readers", "format")] = Field(
        description="where metadata and images are"
    )
    validate_: Validate = Field(default_factory=Validate, alias="validate", description="reading every image")
    findings: Findings = Field(default_factory=Findings, description="what looks wrong in the manifest")
    detect: Detect | None = Field(None, description="where the boxes of animals come from; absent: no boxes")
    select: Select = Field(default_factory=Select, description="which images to train on")
    train: Train = Field(default_factory=Train, description="the classifier")
    infer: Infer = Field(default_factory=Infer, description="classifying every usable image")
    events: Events = Field(default_factory=Events, description="when sightings are independent")
    limits: Limits = Field(default_factory=Limits, description="where a stage or a push stops")
    publish: Annotated[SerializeAsAny[Publish], TARGET] = Field(
        default_factory=default_publish, description="where the result goes"
    )
    report: Report = Field(default_factory=Report, description="the HTML report")
    notify: Notify | None = Field(
        None, description="what is notified when a command of the job ends: a URL, or {url, command}"
    )
    _notes: list[str] = PrivateAttr(default_factory=list)

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"{value!r}: should be up to 100 letters, digits, dots, _ and -, the first a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _one_detector(self) -> Job:
        if self.detect is not None and self.infer.detections is not None:
            raise ValueError("infer.detections and detect exclude each other: leave out infer.detections")
        return self

    @model_validator(mode="after")
    def _boxes_for_crops(self) -> Job:
        if self.train.on == "crops" and self.detection is None:
            raise ValueError(
                "train.on: crops: the job has no boxes to cut them by: set detect, or train.on: frames"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, assignments: list[str] | None = None) -> Job:
        """The job in the file `path`, with `--set` assignments applied.

        Raises
        ------
        JobError
            The file is missing or not YAML, a key or value in it is wrong, or the job would write where its
            images are.
        """
        path = Path(path)
        content, lines = read_yaml(path, JobError)
        content = override(content, assignments or [], JobError)
        return cls.parse(
            content, base=path.parent, where=str(path), lines=lines, assignments=assignments or []
        )

    @classmethod
    def parse(
        cls,
        content: dict[str, Any],
        *,
        base: Path,
        where: str = "job",
        lines: dict[tuple[str | int, ...], int] | None = None,
        assignments: Sequence[str] = (),
    ) -> Job:
        """The job in the mapping `content`; relative paths in it are taken from the folder `base`.

        `assignments`: those of `--set` that it already contains, so that errors can say where a value is
        from.
        """
        job = parse(cls, content, where, lines or {}, JobError, assignments)
        job = from_folder(job, base)
        if job.notify is not None:
            job = job.model_copy(update={"notify": job.notify.from_folder(base)})
        there, before = (absolute(job.output, folder) for folder in (base, Path.cwd()))
        is_moved = (
            not _is_run_folder(f"{there}/{job.name}")
            and _is_run_folder(f"{before}/{job.name}")
            and job.input_at(f"{before}/{job.name}") is None  # that of another job of the same name
        )
        job = job.model_copy(update={"output": before if is_moved else there})
        if is_moved:
            job._notes.append(
                f"{where}: output: the run folder is {job.run_url}, where earlier versions put it, that took "
                f"output relative to the current folder; to use it from anywhere, move it to {there}"
            )
        if job.infer.detections is not None:
            job._notes.append(f"{where}: infer.detections: is now called detect.results; it still works")
        _check_output(job, where)
        return job

    @property
    def notes(self) -> list[str]:
        """Notes on how the job file was understood, one line each."""
        return list(self._notes)

    @property
    def run_url(self) -> str:
        """Path or URL of the run folder."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def detection(self) -> tuple[Detect, str] | None:
        """Where boxes come from, if there are any, and the section that says so."""
        if self.detect is not None:
            return self.detect, "detect"
        infer = self.infer
        if infer.detections is None:
            return None
        settings = Detect(
            results=infer.detections,
            threshold=infer.detection_threshold,
            animal_category=infer.animal_category,
            repeat=Repeat(frames=infer.repeat_frames, iou=infer.repeat_iou),
        )
        return settings, "infer"

    @property
    def trains_on_crops(self) -> bool:
        """Whether the classifier learns from crops of boxes, not from whole frames.

        A job that names its boxes as earlier versions did keeps learning from frames, unless it says
        otherwise.
        """
        return self.train.on == "crops" or (self.train.on == "auto" and self.detect is not None)

    @property
    def target_url(self) -> str:
        """Path or URL of what is pushed to: a file, a database, a portal."""
        return self.publish.address(self.run_url)

    @property
    def by_target(self) -> list[Job]:
        """The job as one for each of its targets: itself, and with the public target beside its own
        (`publish.public`) as the only one."""
        second = self.publish.second
        return [self] if second is None else [self, self.model_copy(update={"publish": second})]

    def inputs(self) -> dict[str, str]:
        """Dotted key -> path or URL of everything that the job reads and never changes."""
        return dict(inputs_of(self))

    def input_at(self, path: str) -> str | None:
        """The key of the input that a path or URL is, or is inside; None if it is neither."""
        return next((key for key, url in self.inputs().items() if _is_inside(path, url)), None)

    def to_yaml(self) -> str:
        """The whole job with its defaults, as a job file; signatures in URLs are left out."""
        content = self.model_dump(by_alias=True)
        for key, url in self.inputs().items():
            *sections, last = key.split(".")
            section = content
            for name in sections:
                section = section[name]
            section[last] = redacted(url)
        return write_yaml(content)


def _check_output(job: Job, where: str) -> None:
    """Raise JobError if the job would write into its own input, or its run folder can't be a folder."""
    written = [found for one in job.by_target for found in one.publish.written(job.run_url)]
    for key, path in (("output", job.run_url), *written):
        if (used := job.input_at(path)) is not None:
            raise JobError(f"{where}: {key}: {path} is inside {used}, which a job never changes")
    scheme = job.run_url.partition("://")[0] if "://" in job.run_url else "file"
    if family_of(job.run_url) not in ("s3", "gs", "az") and scheme not in ("file", "memory"):
        raise JobError(
            f"{where}: output: {redacted(job.output)}: should be a folder on disk, or in a bucket (s3://, "
            "gs:// or az://)"
        )
    if "://" not in job.run_url:
        there = next(
            path for path in (Path(job.run_url), *Path(job.run_url).parents) if os.path.lexists(path)
        )
        if not there.is_dir():
            raise JobError(f"{where}: output: {there} is a file; the run folder is to be {job.run_url}")


def _is_run_folder(path: str) -> bool:
    return "://" not in path and any(
        (Path(path) / name).exists() for name in ("plans", "snapshots", "job.yaml")
    )


def _is_inside(path: str, folder: str) -> bool:
    path, folder = (_file_of(url).removeprefix("file://") for url in (path, folder))
    path, folder = (url if "://" in url else os.path.realpath(url) for url in (path, folder))
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _file_of(url: str) -> str:
    """The zip file of zip://folder::URL."""
    return url.partition("::")[2] if url.startswith("zip://") else url
