"""Points of ArcGIS with photos attached -> catalog, and where the cameras stand.

One feature may have a photo, or many; features at one point are one camera, unless a field says which.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.cameras import CAMERAS
from camtrap_batch.catalog.cct_columns import text
from camtrap_batch.catalog.table import Catalog, Rows, make_catalog
from camtrap_batch.dates import offset_minutes
from camtrap_batch.errors import InputError, StageError, choices
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.attachments import Photos, file_name
from camtrap_batch.job import Dataset, SignIn
from camtrap_batch.job.base import web_address
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.portal.reading import (
    Attachment,
    LayerInfo,
    PointNames,
    X,
    Y,
    look_at,
    read_attachments,
    read_features,
)
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import digest
from camtrap_batch.vocabulary import IMAGE_ENDINGS, RAW_ENDINGS, VIDEO_ENDINGS, ending_of

_PHOTOS = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS
_DATES = ("esriFieldTypeDate", "esriFieldTypeString")


class FeatureLayer(SignIn):
    """The key `layer`: how to read the layer, and where to sign in."""

    location_field: str | None = Field(
        None,
        description="field that names the camera location; default: features at one point are one camera",
    )
    date_field: str | None = Field(
        None, description="field with the date of a feature's photos; default: their EXIF"
    )


class FeatureLayerDataset(Dataset):
    needs: ClassVar = {"metadata": "the layer's URL"}
    refuses: ClassVar = {"images": "format feature-layer reads attachments: leave out the key `images`"}

    format: Literal["feature-layer"]
    layer: FeatureLayer = Field(
        default_factory=FeatureLayer,
        description="feature-layer: how to read it, and where to sign in",
    )

    @field_validator("metadata")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value)

    @field_validator("layer", mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        return FeatureLayer() if value is None else value


class FeatureLayerReader(Reader[FeatureLayerDataset]):
    section = FeatureLayerDataset
    help = "points of ArcGIS with photos attached"
    names_are_given = False

    @property
    def has_labels(self) -> bool:
        return False

    def fingerprint(self) -> dict[str, Any]:
        return {"layer": layer_fingerprint(self.dataset)}

    def read(self) -> Catalog:
        return read_feature_layer(self.dataset)

    def cameras(self) -> pa.Table:
        return read_layer_cameras(self.dataset)

    def settings(self) -> dict[str, Any]:
        fields = {"location_field", "date_field"}
        return super().settings() | {"layer": self.dataset.layer.model_dump(mode="json", include=fields)}

    def images(self, run_url: str) -> ImageRoot:
        photos = Photos(Portal.of(self.dataset.layer, "dataset.layer"), Folder(run_url))
        return ImageRoot(str(self.dataset.metadata), {"photos": photos}, "attachments")


@dataclass(frozen=True)
class _Feature:
    location: str | None
    longitude: float | None
    latitude: float | None
    date: str | None


def read_feature_layer(dataset: FeatureLayerDataset) -> Catalog:
    """Catalog of the photos attached to a layer.

    Raises
    ------
    InputError
        There is no such layer, it is not one of points, lacks a field, has no photo, or gives fewer rows or
        attachments than it says it has.
    """
    service, layer = _open(dataset)
    features = _features(service, layer, dataset)
    notes: Counter[str] = Counter()
    photos = []
    for one in _attachments(service, layer, features):
        kind = one.content_type.partition("/")[0]
        if kind in ("image", "video") or ending_of(one.name) in _PHOTOS:
            photos.append(one)
        else:
            notes["attachments that are neither image nor video, left out"] += 1
    if not photos:
        raise InputError(
            f"{layer.url}: none of its {len(features):,} features has a photo attached (dataset.metadata); "
            "`camtrap layer attach JOB --folder DIR` attaches some"
        )
    of = [features[one.parent] for one in photos]
    notes["cameras with features at several places, taken to be at the first"] += _at_several(features)
    rows = Rows(
        image_id=[_image_id(layer.url, one) for one in photos],
        file_name=[file_name(one) for one in photos],
        location=[feature.location for feature in of],
        dates=[feature.date for feature in of] if dataset.layer.date_field else None,
    )
    return make_catalog(
        rows,
        None,
        source="feature-layer",
        where=layer.url,
        categories=[],
        notes=notes,
        utc_offset=dataset.utc_offset,
    )


def read_layer_cameras(dataset: FeatureLayerDataset) -> pa.Table:
    """Coordinates of the cameras, as `cameras.CAMERAS`: of each, those of its first feature."""
    service, layer = _open(dataset)
    points: dict[str, tuple[float, float]] = {}
    for feature in _features(service, layer, dataset).values():
        if feature.location is not None and feature.longitude is not None and feature.latitude is not None:
            points.setdefault(feature.location, (feature.longitude, feature.latitude))
    longitudes, latitudes = zip(*points.values(), strict=True) if points else ((), ())
    return pa.table([list(points), list(longitudes), list(latitudes)], schema=CAMERAS)


def layer_fingerprint(dataset: FeatureLayerDataset) -> str:
    """Tells whether features and attachments are the same as before."""
    service, layer = _open(dataset)
    features = _features(service, layer, dataset)
    attachments = _attachments(service, layer, features)
    return digest(
        [
            layer.url,
            [[parent, *vars(feature).values()] for parent, feature in features.items()],
            [[one.parent, one.id, one.globalid, one.name, one.size] for one in attachments],
        ]
    )


def _at_several(features: Mapping[int, _Feature]) -> int:
    names, of = PointNames(), defaultdict[str | None, set[str]](set)
    for number, feature in features.items():
        if feature.longitude is not None and feature.latitude is not None:
            of[feature.location].add(names.name(feature.longitude, feature.latitude, str(number)))
    return sum(len(several) > 1 for several in of.values())


def _open(dataset: FeatureLayerDataset) -> tuple[Service, LayerInfo]:
    url, settings = str(dataset.metadata), dataset.layer
    service = Service(connect(Portal.of(settings, "dataset.layer"), url))
    try:
        layer = look_at(service, url)
    except StageError as problem:
        raise InputError(f"{url} (dataset.metadata): {problem}") from None
    if "Query" not in str(layer.about.get("capabilities") or "Query"):
        raise InputError(f"{url}: can't be read by whoever is signed in (no Query); ask its owner for it")
    if not layer.about.get("hasAttachments"):
        raise InputError(f"{url}: has no attachments (dataset.metadata); `camtrap layer attach` adds photos")
    return service, layer


def _features(service: Service, layer: LayerInfo, dataset: FeatureLayerDataset) -> dict[int, _Feature]:
    """By object id, in that order."""
    settings = dataset.layer
    location, date = (
        None if name is None else _field(layer, name, key)
        for key, name in (("location_field", settings.location_field), ("date_field", settings.date_field))
    )
    if date is not None and date["type"] not in _DATES:
        raise InputError(
            f"{layer.url}: field {date['name']} is {date['type']}; it should be {' or '.join(_DATES)} "
            "(dataset.layer.date_field)"
        )
    wanted = [field["name"] for field in (location, date) if field is not None]
    try:
        rows = read_features(service, layer, "1=1", wanted)
    except StageError as problem:
        raise InputError(f"{layer.url}: can't be read (dataset.metadata): {problem}") from None
    rows.sort(key=lambda row: int(row[layer.object_id]))
    features: dict[int, _Feature] = {}
    names = PointNames()
    for row in rows:
        object_id = int(row[layer.object_id])
        point = _point(layer, object_id, row)
        if location is not None:
            name = text(row.get(location["name"]))
        else:
            name = str(object_id)
            if point is not None:
                name = names.name(*point, name)
        longitude, latitude = point or (None, None)
        when = None if date is None else _date(row.get(date["name"]), dataset.utc_offset)
        features[object_id] = _Feature(name, longitude, latitude, when)
    return features


def _attachments(service: Service, layer: LayerInfo, features: Mapping[int, _Feature]) -> list[Attachment]:
    try:
        found = read_attachments(service, layer, list(features))
    except StageError as problem:
        raise InputError(f"{layer.url}: can't be read (dataset.metadata): {problem}") from None
    return [one for one in found if one.parent in features]


def _field(layer: LayerInfo, name: str, key: str) -> dict[str, Any]:
    fields = {field["name"].lower(): field for field in layer.about.get("fields") or []}
    if name.lower() not in fields:
        names = [field["name"] for field in fields.values()]
        raise InputError(f"{layer.url}: has no field {name!r} (dataset.layer.{key}); {choices(name, names)}")
    found: dict[str, Any] = fields[name.lower()]
    return found


def _point(layer: LayerInfo, object_id: int, row: Mapping[str, Any]) -> tuple[float, float] | None:
    x, y = row[X], row[Y]
    if x is None or y is None:
        return None
    if not (-180 <= x <= 180 and -90 <= y <= 90):
        raise InputError(
            f"{layer.url}: feature {object_id} is at {x:g}, {y:g}, which are no degrees: the server does not "
            "give WGS 84; set the layer's spatial reference right"
        )
    return x, y


def _date(value: object, utc_offset: str | None) -> str | None:
    """A date as text, in camera time: what a date field holds is UTC."""
    if value is None:
        return None
    if not isinstance(value, int | float):
        return str(value)
    zone = utc_offset or "+00:00"
    minutes = offset_minutes(zone)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=value, minutes=minutes)
    return f"{moment.isoformat(timespec='seconds')}{zone}"


def _image_id(url: str, attachment: Attachment) -> str:
    return attachment.globalid or digest([url, attachment.id])
