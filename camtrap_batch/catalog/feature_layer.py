"""ArcGIS points with photos attached -> catalog and camera positions.

One feature may have a photo, or many; features at one point are one camera, unless a field says which.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.cameras import CAMERAS, PERIODS, check_order, moment
from camtrap_batch.catalog.cct_columns import text
from camtrap_batch.catalog.found import MEDIA, Found, Given
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
from camtrap_batch.remote import plain, redacted
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import digest
from camtrap_batch.vocabulary import ending_of

_ADDRESS = re.compile(r"/(feature|map)server(/\d+)?$")
_PATIENCE_S = 20.0
_MOST_BYTES = 2**22
_DATES = (
    "esriFieldTypeDate", "esriFieldTypeDateOnly", "esriFieldTypeTimestampOffset", "esriFieldTypeString",
)  # fmt: skip


class FeatureLayer(SignIn):
    """The key `layer`: how to read the layer, and where to sign in."""

    location_field: str | None = Field(
        None,
        description="field that names the camera location; default: features at one point are one camera",
    )
    date_field: str | None = Field(
        None, description="field with the date of a feature's photos; default: their EXIF"
    )
    start_field: str | None = Field(
        None, description="field with the day, or the time, on which the feature's camera was set up"
    )
    end_field: str | None = Field(None, description="field with the day on which it was taken down")


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

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        """A layer; its server says which portal it belongs to, and whether everybody can read it."""
        if not _ADDRESS.search(given.name):
            return None
        url = given.url.rstrip("/")
        lines = [f"a feature layer: {redacted(url)}; its photos are read when the job runs"]
        dataset: dict[str, Any] = {"format": "feature-layer", "metadata": url}
        layer: dict[str, Any] = {}
        if "/rest/services/" in url:
            portal = _asked(f"{url.partition('/rest/services/')[0]}/rest/info").get("owningSystemUrl")
            if isinstance(portal, str) and portal:
                layer["portal"] = portal.rstrip("/")
        answer = _asked(url)
        if "error" in answer:
            lines.append(
                "it can't be read by everybody: set CAMTRAP_ARCGIS_TOKEN in the environment, or sign in as "
                "docs/arcgis.md says"
            )
        else:
            layer["anonymous"] = True
            lines.append(f"its name is {answer.get('name')!r}; everybody can read it")
            if not answer.get("hasAttachments", True):
                raise InputError(f"{redacted(url)}: has no attachments, and so no photos (camtrap init)")
        return Found({**dataset, **({"layer": layer} if layer else {})}, lines)

    @property
    def has_labels(self) -> bool:
        return False

    def fingerprint(self) -> dict[str, Any]:
        return {"layer": layer_fingerprint(self.dataset)}

    def read(self) -> Catalog:
        return read_feature_layer(self.dataset)

    def cameras(self) -> pa.Table:
        return read_layer_cameras(self.dataset)

    def periods(self) -> pa.Table | None:
        layer = self.dataset.layer
        return None if layer.start_field is None and layer.end_field is None else read_periods(self.dataset)

    def settings(self) -> dict[str, Any]:
        fields = {"location_field", "date_field"}
        return super().settings() | {"layer": self.dataset.layer.model_dump(mode="json", include=fields)}

    def images(self, run_url: str) -> ImageRoot:
        photos = Photos(Portal.of(self.dataset.layer, "dataset.layer"), Folder(run_url))
        return ImageRoot(str(self.dataset.metadata), {"photos": photos}, "attachments")


def _asked(url: str) -> dict[str, Any]:
    """What an ArcGIS server says about a service. Raises InputError if nothing answers."""
    try:
        address = web_address(url.partition("?")[0])
        with urllib.request.urlopen(f"{address}?f=json", timeout=_PATIENCE_S) as answer:  # noqa: S310
            content = json.loads(answer.read(_MOST_BYTES))
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{redacted(url)}: no feature server answers there (camtrap init): {plain(problem)}"
        ) from None
    return content if isinstance(content, dict) else {}


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
        There is no such layer, it is not a point layer, lacks a field, has no photo, or returns fewer rows
        or attachments than it says it has.
    """
    service, layer = _open(dataset)
    features = _features(service, layer, dataset)
    notes: Counter[str] = Counter()
    photos = []
    for one in _attachments(service, layer, features):
        kind = one.content_type.partition("/")[0]
        if kind in ("image", "video") or ending_of(one.name) in MEDIA:
            photos.append(one)
        else:
            notes["attachments that are neither image nor video, left out"] += 1
    if not photos:
        raise InputError(
            f"{layer.url}: none of its {len(features):,} features has a photo attached (dataset.metadata); "
            "`camtrap layer attach JOB --folder DIR` attaches some"
        )
    of = [features[one.parent] for one in photos]
    notes["cameras with features at several points, taken to be at the first"] += _at_several(features)
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
    """Coordinates of the cameras, as `cameras.CAMERAS`: those of each camera's first feature."""
    service, layer = _open(dataset)
    points: dict[str, tuple[float, float]] = {}
    for feature in _features(service, layer, dataset).values():
        if feature.location is not None and feature.longitude is not None and feature.latitude is not None:
            points.setdefault(feature.location, (feature.longitude, feature.latitude))
    longitudes, latitudes = zip(*points.values(), strict=True) if points else ((), ())
    return pa.table([list(points), list(longitudes), list(latitudes)], schema=CAMERAS)


def read_periods(dataset: FeatureLayerDataset) -> pa.Table:
    """When cameras stood where, as `cameras.PERIODS`: `start_field` and `end_field` of the features.

    A feature without either says nothing, and features that say the same about a location are one deployment.
    A date without a time is noon; so is midnight by the cameras' clocks, into which portals turn such a date.

    Raises
    ------
    InputError
        As for `read_feature_layer`; or a field does not hold dates, a text in it is not a date, or an end is
        not after its start; with the feature.
    """
    service, layer = _open(dataset)
    settings = dataset.layer
    location = _optional(layer, settings.location_field, "location_field")
    fields = [
        _date_field(layer, settings.start_field, "start_field"),
        _date_field(layer, settings.end_field, "end_field"),
    ]
    rows = _rows(service, layer, [location, *fields])
    found: dict[tuple[str, dt.datetime | None, dt.datetime | None], str] = {}
    for object_id, name, _, row in _located(layer, rows, location):
        where = f"{layer.url}: feature {object_id}"
        start, end = (_day_of(where, row, field, dataset) for field in fields)
        if name is None or (start is None and end is None):
            continue
        check_order(where, start, end)
        found.setdefault((name, start, end), where)
    # A date field holds UTC; if the clocks' offset is not known, its times are taken as the clocks' own.
    offset = 0 if dataset.utc_offset is None else None
    columns = {
        "location": [name for name, _, _ in found],
        "camera": [None] * len(found),
        "deployment": [None] * len(found),
        "start": [start for _, start, _ in found],
        "end": [end for _, _, end in found],
        "utc_offset_minutes": [offset] * len(found),
        "source": ["metadata"] * len(found),
        "where": list(found.values()),
    }
    return pa.table(columns, schema=PERIODS)


def layer_fingerprint(dataset: FeatureLayerDataset) -> str:
    """JSON values that show whether features and attachments are the same as before."""
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
    """Attachments by object id, in that order."""
    location = _optional(layer, dataset.layer.location_field, "location_field")
    date = _date_field(layer, dataset.layer.date_field, "date_field")
    features: dict[int, _Feature] = {}
    for object_id, name, point, row in _located(layer, _rows(service, layer, [location, date]), location):
        longitude, latitude = point or (None, None)
        when = None if date is None else _date(row.get(date["name"]), dataset.utc_offset)
        features[object_id] = _Feature(name, longitude, latitude, when)
    return features


def _rows(
    service: Service, layer: LayerInfo, fields: Iterable[dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """All rows with these fields, by object id."""
    wanted = [field["name"] for field in fields if field is not None]
    try:
        rows = read_features(service, layer, "1=1", wanted)
    except StageError as problem:
        raise InputError(f"{layer.url}: can't be read (dataset.metadata): {problem}") from None
    return sorted(rows, key=lambda row: int(row[layer.object_id]))


def _located(
    layer: LayerInfo, rows: Iterable[dict[str, Any]], location: dict[str, Any] | None
) -> Iterator[tuple[int, str | None, tuple[float, float] | None, dict[str, Any]]]:
    """Object id, camera location, longitude and latitude of each row, and the row."""
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
        yield object_id, name, point, row


def _attachments(service: Service, layer: LayerInfo, features: Mapping[int, _Feature]) -> list[Attachment]:
    try:
        found = read_attachments(service, layer, list(features))
    except StageError as problem:
        raise InputError(f"{layer.url}: can't be read (dataset.metadata): {problem}") from None
    return [one for one in found if one.parent in features]


def _optional(layer: LayerInfo, name: str | None, key: str) -> dict[str, Any] | None:
    return None if name is None else _field(layer, name, key)


def _date_field(layer: LayerInfo, name: str | None, key: str) -> dict[str, Any] | None:
    found = _optional(layer, name, key)
    if found is not None and found["type"] not in _DATES:
        raise InputError(
            f"{layer.url}: field {found['name']} is {found['type']}; it should be {' or '.join(_DATES)} "
            f"(dataset.layer.{key})"
        )
    return found


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
            f"{layer.url}: feature {object_id} is at {x:g}, {y:g}, which are not degrees: the server does "
            "not return WGS 84; correct the layer's spatial reference"
        )
    return x, y


def _date(value: object, utc_offset: str | None) -> str | None:
    """A date as text, in camera time: a date field holds UTC."""
    if value is None:
        return None
    if not isinstance(value, int | float):
        return str(value)
    zone = utc_offset or "+00:00"
    minutes = offset_minutes(zone)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=value, minutes=minutes)
    return f"{moment.isoformat(timespec='seconds')}{zone}"


def _day_of(
    where: str, row: Mapping[str, Any], field: dict[str, Any] | None, dataset: Dataset
) -> dt.datetime | None:
    """The time in a field, in camera time; noon instead of midnight, which means a day chosen without a
    time."""
    if field is None:
        return None
    given = _date(row.get(field["name"]), dataset.utc_offset)
    time = moment(where, field["name"], given, dataset.dates)
    return time + dt.timedelta(hours=12) if time is not None and time.time() == dt.time() else time


def _image_id(url: str, attachment: Attachment) -> str:
    return attachment.globalid or digest([url, attachment.id])
