"""The job file: what to process. One YAML a data set; every key but three has a default."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from camtrap_batch.errors import JobError, choices
from camtrap_batch.remote import family_of, shown
from camtrap_batch.store.schemas import FINDING_KINDS, USABLE
from camtrap_batch.yamlfile import Section, override, parse, read_yaml, write_yaml

_SECRET = re.compile(
    r"^key$|secret|token|password|account_key|credential|connection_string|authorization|cookie",
    re.IGNORECASE,
)
_NO_SECRETS = (None, "", "anon", "cloud", "google_default", "cache")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL_ID = re.compile(r"latest|[0-9a-f]{16}")


def _place(value: str) -> str:
    if not value.strip() or "\0" in value or value.rstrip("/").endswith(":"):
        raise ValueError(f"{value!r}: should be a path or a URL")
    return value


def _web_address(value: str) -> str:
    host = urlsplit(value).hostname
    if not value.startswith("https://") and not (
        value.startswith("http://") and host in ("127.0.0.1", "localhost", "::1")
    ):
        raise ValueError(f"{shown(value)!r}: should begin with https:// (http:// is for this machine alone)")
    if urlsplit(value).query or urlsplit(value).username:
        raise ValueError(f"{shown(value)!r}: should have neither a user nor a query, which may hold a secret")
    return value.rstrip("/")


LAYERS = ("cameras", "events", "photos")
"""What a job pushes; `publish` has a key with the URL of each."""

ARCGIS = "arcgis"
"""The `publish.target` that is no file: layers of a portal."""

Fraction = Annotated[float, Field(ge=0, le=1, strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Place = Annotated[str, AfterValidator(_place)]
"""A path or a URL."""


_INPUTS = {
    "dataset": ("metadata", "images", "cameras"),
    "infer": ("detections",),
    "events": ("taxonomy", "species", "regions"),
}
"""Keys, by section, of what a job reads and never changes; a relative path is from the job file's folder."""


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
        return _web_address(value)

    @model_validator(mode="after")
    def _who(self) -> Self:
        if self.anonymous and self.profile is not None:
            raise ValueError("give either profile or anonymous")
        return self


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
            _web_address(str(self.metadata))
        elif self.images is None:
            raise ValueError(f"format {self.format} needs the key `images`: where the images are")
        elif self.layer is not None:
            raise ValueError(f"layer is for format feature-layer; here it is {self.format}")
        return self


class Validate(Section):
    shard_size: int = Field(
        500, ge=1, le=1000, description="most images in one shard, that is in one Dask task"
    )
    thumbnails: int = Field(
        256, ge=0, le=2048, description="short side of the thumbnails kept, in pixels; 0: none"
    )
    max_pixels: int = Field(200_000_000, ge=1, description="an image with more pixels is too_large")
    timeout_s: float = Field(60, gt=0, strict=False, description="most seconds for one image")


class Findings(Section):
    near_bits: int = Field(
        2,
        ge=0,
        le=2,
        description="most bits, of 64, between the hashes of near duplicates (of one second at one location)",
    )


class Empty(Section):
    class_: int | str = Field(0, alias="class", description="category id or name that means: no animal")
    fraction: Fraction = Field(0.5, description="part of the empty images that is kept")


class Split(Section):
    by: Literal["location", "random"] = Field(
        "location",
        description="location: no camera, sequence or duplicate on two sides; random: the notebook's split "
        "by image, leaky",
    )
    valid: Fraction = Field(0.2, description="part of the selected images to validate on")
    test: Fraction = Field(0.0, description="part of the selected images to test on")
    seed: Seed | None = Field(None, description="seed of the split alone; default: select.seed")

    @model_validator(mode="after")
    def _some_left(self) -> Split:
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together leave nothing to train on")
        return self


class Select(Section):
    classes: list[int | str] | None = Field(
        None, min_length=1, description="category ids or names; absent: all"
    )
    empty: Empty = Field(default_factory=Empty, description="what to do with images without an animal")
    statuses: list[str] = Field(list(USABLE), min_length=1, description="statuses of images to train on")
    drop: list[str] = Field(
        default_factory=list, description="kinds of findings whose images are not trained on; none by default"
    )
    max_per_class: int | None = Field(
        None, ge=2, description="most images of a class; the rest is dropped at random; default: all"
    )
    max_per_location: int | None = Field(
        None, ge=1, description="most images of a location; the rest is dropped at random; default: all"
    )
    split: Split = Field(default_factory=Split, description="how images are divided")
    seed: Seed = Field(42, description="seed of the thinning and of the split")

    @field_validator("statuses")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for status in value:
            if status not in USABLE:
                raise ValueError(f"{status!r} can't be trained on; {choices(status, USABLE)}")
        return value

    @field_validator("drop")
    @classmethod
    def _kinds(cls, value: list[str]) -> list[str]:
        for kind in value:
            if kind not in FINDING_KINDS:
                raise ValueError(f"no kind of finding {kind!r}; {choices(kind, FINDING_KINDS)}")
        return value


class Train(Section):
    arch: str = Field("resnet34", description="any torchvision or timm classification architecture")
    weights: Place = Field(
        "imagenet", description="imagenet, none, or a file of weights, relative to the job file"
    )
    size: int = Field(224, ge=32, le=1024, description="side of the model's square input, in pixels")
    epochs: int = Field(5, ge=1, description="passes over the training images")
    batch: int = Field(64, ge=1, description="images per training step")
    lr: float | Literal["find"] = Field("find", description="learning rate, or find: search one first")

    balance: Literal["sampling", "weights", "none"] = Field(
        "sampling",
        description="rare classes: sampling shows them more often, weights has their loss count more",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many epochs without a smaller valid loss, keep the best; default: never",
    )

    @field_validator("lr")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if isinstance(value, float | int) and value <= 0:
            raise ValueError(f"{value}: should be above 0, or find")
        return value


class Infer(Section):
    model: Place = Field(
        "latest", description="latest, a model id of this run, or a model folder, relative to the job file"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: GPU workers where one has a GPU that torch can use, else CPU workers"
    )
    batch: int = Field(64, ge=1, description="images per forward pass")
    min_confidence: Fraction = Field(
        0.5, description="a sequence below it is uncertain, or has the label of a group (events.taxonomy)"
    )
    shard_size: int = Field(
        256, ge=1, le=10_000, description="most images in one shard, that is in one Dask task"
    )
    precision: Literal["auto", "float32"] = Field(
        "auto",
        description="auto: the fastest that gives the labels of float32 (99.5 % of them); float32: exact",
    )
    detections: Place | None = Field(
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


class Events(Section):
    gap_min: float = Field(
        30, gt=0, strict=False, description="minutes from the previous image that end an event"
    )
    taxonomy: Place | dict[str, dict[str, str]] | None = Field(
        None,
        description="label groups: a .csv of label,genus,family,... or {label: {genus: ..., family: ...}}",
    )
    species: Place | None = Field(
        None,
        description="which species are possible: a .csv of label[,region][,location]; others are set aside",
    )
    regions: Place | None = Field(
        None, description="which cameras are in a region: a .csv of location,region"
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
            raise ValueError("regions is there for the regions in `species`: give that key too")
        return self


class Publish(SignIn):
    target: str = Field(
        "locations.gpkg",
        description="a GeoPackage (.gpkg; relative: in the run folder), or arcgis: layers of a portal",
    )
    cameras: str | None = Field(None, description="URL of the layer for cameras, .../FeatureServer/<number>")
    events: str | None = Field(None, description="URL of the layer for events")
    photos: str | None = Field(None, description="URL of the layer for photos")
    fields: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="names of fields of one's own, such as {photos: {ClassLabel: Species}}",
    )
    best_photos: bool = Field(
        False, description="attach the best photo of each species to its camera on the layer"
    )
    append: bool = Field(
        False,
        description="add and update rows by append jobs, thousands at a time: for very large layers",
    )

    @field_validator("cameras", "events", "photos")
    @classmethod
    def _layer_address(cls, value: str | None) -> str | None:
        return None if value is None else _web_address(value)

    @model_validator(mode="after")
    def _one_target(self) -> Publish:
        if self.target != ARCGIS and (self.cameras or self.events or self.photos or self.best_photos):
            raise ValueError(f"layers are for `target: arcgis`; here it is {self.target}")
        if self.append and self.target != ARCGIS:
            raise ValueError(f"append is for `target: arcgis`; here it is {self.target}")
        if self.append and self.anonymous:
            raise ValueError("append jobs are for someone who signs in: leave out append, or anonymous")
        if self.best_photos and self.cameras is None and (self.events or self.photos):
            raise ValueError("best_photos are attached to cameras: give that layer's URL, too")
        for layer in self.fields:
            if layer not in LAYERS:
                raise ValueError(f"fields: no layer {layer!r}; {choices(layer, LAYERS)}")
        return self

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        if value == ARCGIS:
            return value
        if not value.endswith(".gpkg"):
            raise ValueError(f"{value!r}: should be arcgis, or a file name that ends in .gpkg")
        if "://" in value:
            raise ValueError(
                f"{value!r}: should be a path; a relative one is in the run folder, also in a bucket"
            )
        if not Path(value).is_absolute() and len(Path(value).parts) != 1:
            raise ValueError(f"{value!r}: should be a file name, for the run folder, or an absolute path")
        return value


class Report(Section):
    blur_km: float = Field(
        0, ge=0, strict=False, description="round places in the report to a grid of so many km"
    )


class Job(Section):
    """A job file, checked. `Job.load` reads one; paths in it are absolute then."""

    name: str = Field(description="the run folder is <output>/<name>")
    output: Place = Field(
        description="folder or fsspec URL of run folders, relative to where the command runs"
    )
    dataset: Dataset = Field(description="where metadata and images are")
    validate_: Validate = Field(default_factory=Validate, alias="validate", description="reading every image")
    findings: Findings = Field(default_factory=Findings, description="what looks wrong in the manifest")
    select: Select = Field(default_factory=Select, description="which images to train on")
    train: Train = Field(default_factory=Train, description="the classifier")
    infer: Infer = Field(default_factory=Infer, description="classifying every usable image")
    events: Events = Field(default_factory=Events, description="when sightings are independent")
    publish: Publish = Field(default_factory=Publish, description="where the result goes")
    report: Report = Field(default_factory=Report, description="the HTML report")

    @field_validator("name")
    @classmethod
    def _file_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"{value!r}: should be up to 100 letters, digits, dots, _ and -, the first a letter or digit"
            )
        return value

    @classmethod
    def load(cls, path: str | Path, assignments: list[str] | None = None) -> Job:
        """The job in the file `path`, with `--set` assignments applied.

        Raises
        ------
        JobError
            The file is not there, not YAML, a key or value in it is wrong, or the job would write where its
            images are.
        """
        path = Path(path)
        content, lines = read_yaml(path, JobError)
        content = override(content, assignments or [], JobError)
        return cls.parse(content, base=path.parent, where=str(path), lines=lines)

    @classmethod
    def parse(
        cls,
        content: dict[str, Any],
        *,
        base: Path,
        where: str = "job",
        lines: dict[tuple[str | int, ...], int] | None = None,
    ) -> Job:
        """The job in the mapping `content`; relative paths in it are taken from the folder `base`."""
        job = parse(cls, content, where, lines or {}, JobError)
        files = {
            name: [key for key in keys if isinstance(getattr(getattr(job, name), key), str)]
            for name, keys in _INPUTS.items()
        }
        if job.train.weights not in ("imagenet", "none"):
            files["train"] = ["weights"]
        if not _MODEL_ID.fullmatch(job.infer.model):
            files["infer"].append("model")
        sections = {
            name: section.model_copy(update={key: _absolute(getattr(section, key), base) for key in keys})
            for name, keys in files.items()
            if (section := getattr(job, name))
        }
        layer = job.dataset.layer or FeatureLayer() if job.dataset.format == "feature-layer" else None
        layer = _with_bundle(layer, base) if layer is not None else None
        sections["dataset"] = sections["dataset"].model_copy(update={"layer": layer})
        sections["publish"] = _with_bundle(job.publish, base)
        job = job.model_copy(update={**sections, "output": _absolute(job.output, Path.cwd())})
        _check_places(job, where)
        return job

    @property
    def run_url(self) -> str:
        """Path or URL of the run folder."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def target_url(self) -> str:
        """Path or URL of the GeoPackage, or of the portal."""
        target = self.publish.target
        if target == ARCGIS:
            return self.publish.portal
        return target if Path(target).is_absolute() else f"{self.run_url}/{target}"

    def input_at(self, path: str) -> str | None:
        """The key of the input that a path or URL is, or is inside of; None where it is neither."""
        for name, keys in _INPUTS.items():
            for key in keys:
                place = getattr(getattr(self, name), key)
                if isinstance(place, str) and _is_inside(path, place):
                    return f"{name}.{key}"
        return None

    def to_yaml(self) -> str:
        """The whole job with its defaults, as a job file; URLs are without the signature they may have."""
        content = self.model_dump(by_alias=True)
        for name, keys in _INPUTS.items():
            section = content[name]
            section |= {key: shown(section[key]) for key in keys if isinstance(section[key], str)}
        return write_yaml(content)


def _check_places(job: Job, where: str) -> None:
    """Raise JobError where the job would write into its own input, or its run folder can't be a folder."""
    layers = [(f"publish.{layer}", url) for layer in LAYERS if (url := getattr(job.publish, layer))]
    for key, path in (("output", job.run_url), ("publish.target", job.target_url), *layers):
        if (used := job.input_at(path)) is not None:
            raise JobError(f"{where}: {key}: {path} is inside {used}, which a job never changes")
    scheme = job.run_url.partition("://")[0] if "://" in job.run_url else "file"
    if family_of(job.run_url) not in ("s3", "gs", "az") and scheme not in ("file", "memory"):
        raise JobError(
            f"{where}: output: {shown(job.output)}: should be a folder on disk, or in a bucket (s3://, gs:// "
            "or az://)"
        )
    if "://" not in job.run_url:
        there = next(
            path for path in (Path(job.run_url), *Path(job.run_url).parents) if os.path.lexists(path)
        )
        if not there.is_dir():
            raise JobError(f"{where}: output: {there} is a file; the run folder is to be {job.run_url}")


_Section = TypeVar("_Section", bound=SignIn)


def _with_bundle(section: _Section, base: Path) -> _Section:
    return section.model_copy(update={"ca_bundle": _absolute(section.ca_bundle, base)})


def _is_inside(path: str, folder: str) -> bool:
    places = (_file_of(place).removeprefix("file://") for place in (path, folder))
    path, folder = (place if "://" in place else os.path.realpath(place) for place in places)
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _file_of(place: str) -> str:
    """Of zip://folder::URL, the zip."""
    return place.partition("::")[2] if place.startswith("zip://") else place


def _absolute(path: str | None, base: Path) -> str | None:
    if path is None or "://" in path.rpartition("::")[2]:
        return path
    if path.startswith("zip://"):
        folder, _, path = path.partition("::")
        return f"{folder}::{_absolute(path, base)}"
    return os.path.abspath(base / Path(path).expanduser())  # noqa: PTH100 - keeps the user's symbolic links
