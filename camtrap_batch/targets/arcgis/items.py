"""Portal items around the layers: a service's description, a web map of its layers, and items by id.

What a user wrote about an item stays: only empty texts are filled in. Neither sharing nor folder is touched.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from camtrap_batch.errors import InputError, StageError, choices
from camtrap_batch.exports.camtrap_dp import read_about
from camtrap_batch.job.publish import KEY
from camtrap_batch.portal import Service, without_secrets
from camtrap_batch.portal.reading import look_at
from camtrap_batch.targets.arcgis.definition import renderer_of
from camtrap_batch.targets.arcgis.section import ITEM
from camtrap_batch.targets.fields import LABELS
from camtrap_batch.targets.packages import find_item

WEB_MAP = "Web Map"
NEW = "Camera traps of job "
"""Beginning of the description of a service that is created here."""

_KEYWORD = "camtrap-batch:map:"
_TOPOGRAPHIC = "https://services.arcgisonline.com/ArcGIS/rest/services/World_Topo_Map/MapServer"
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class ItemText:
    """Texts of an item: from `dataset.about` if the job has it.

    Attributes
    ----------
    title, summary, description, credits, terms, tags : named as on the portal's page
    """

    title: str
    summary: str
    description: str
    credits: str
    terms: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, job: str, given: str | Mapping[str, Any] | None) -> ItemText:
        """From the job's name and its `dataset.about`. Raises InputError if the file can't be read."""
        about = read_about(given) if isinstance(given, str) else dict(given or {})
        licences = [one for one in about.get("licenses") or [] if isinstance(one, dict)]
        data = next((one for one in licences if one.get("scope") == "data"), {})
        people = [str(one["title"]) for one in about.get("contributors") or [] if one.get("title")]
        title = str(about.get("title") or f"Camera traps: {job}")
        return cls(
            title,
            f"Animals at camera traps ({job}): cameras, events of species, and photos.",
            str(about.get("description") or f"Made by camtrap-batch from the job {job}. Times are UTC."),
            ", ".join(people),
            str(data.get("title") or data.get("name") or data.get("path") or ""),
            ("camera traps", *map(str, about.get("keywords") or ())),
        )


def describe_item(item: Any, text: ItemText) -> list[str]:
    """Fill in an item's missing texts; returns the names of what was filled in.

    Raises
    ------
    StageError
        The portal refuses.
    """
    wanted = {
        "snippet": text.summary,
        "description": text.description,
        "accessInformation": text.credits,
        "licenseInfo": text.terms,
    }
    names = {"snippet": "summary", "accessInformation": "credits", "licenseInfo": "terms of use"}
    changed = {name: value for name, value in wanted.items() if value and not _says(item, name)}
    done = [names.get(name, name) for name in changed]
    try:
        if changed and not item.update(changed):
            raise StageError(f"item {item.id}: the portal did not take {', '.join(done)}")
        if not getattr(item, "thumbnail", None):
            if not item.update({}, thumbnail=thumbnail(text.title)):
                raise StageError(f"item {item.id}: the portal did not take the thumbnail")
            done.append("thumbnail")
    except StageError:
        raise
    except Exception as problem:  # the client raises bare exceptions with the portal's words
        raise StageError(f"item {item.id}: can't be described: {without_secrets(problem)}") from None
    return done


def _says(item: Any, name: str) -> bool:
    """Whether somebody wrote something there: a new item has only the description of its service."""
    said = getattr(item, name, None) or ""
    return bool(said) and not (name == "description" and said.startswith(NEW))


def thumbnail(title: str) -> io.BytesIO:
    """A PNG of 600 x 400 pixels, the size that portals show, with the title on it."""
    picture = Image.new("RGB", (600, 400), (38, 70, 55))
    draw = ImageDraw.Draw(picture)
    for row in range(5):  # a forest
        for column in range(9):
            x, y = 40 + column * 66 + 33 * (row % 2), 150 + row * 60
            draw.polygon([(x, y - 70), (x - 28, y), (x + 28, y)], fill=(30, 56 + 6 * row, 44))
    font = ImageFont.load_default(size=34)
    lines = _wrapped(title, 28)[:3]
    for number, line in enumerate(lines):
        draw.text((30, 40 + 44 * number), line, fill=(255, 255, 255), font=font)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    content.seek(0)
    content.name = "thumbnail.png"
    return content


def item_of(service: Service, url: str) -> Any:
    """The item of the service at a URL, or of the service that a layer belongs to; None if the portal has
    none."""
    item_id = service.describe(url).get("serviceItemId")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return None if item_id is None else service.gis.content.get(item_id)


def resolve_layers(service: Service, given: Mapping[str, str], key: str = KEY) -> dict[str, str]:
    """Layer -> URL, also for layers named by the id of their item.

    An item with several layers needs one with the layer's name, or the number after a slash.

    Raises
    ------
    InputError
        There is no such item, it is not a feature service, or it is not clear which layer is meant.
    """
    return {layer: _resolved(service, layer, value, f"{key}.{layer}") for layer, value in given.items()}


def _resolved(service: Service, layer: str, value: str, key: str) -> str:
    match = ITEM.fullmatch(value)
    if match is None:
        return value
    item_id, number = match.groups()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            item = service.gis.content.get(item_id)
    except Exception as problem:  # the client raises bare exceptions
        raise InputError(f"{key}: item {item_id}: {without_secrets(problem)}") from None
    if item is None or not item.url or item.type != "Feature Service":
        kind = "missing, or not visible to whoever is signed in" if item is None else f"a {item.type}"
        raise InputError(f"{key}: item {item_id} is {kind}; it should be a Feature Service")
    url = str(item.url).rstrip("/")
    if url.rpartition("/")[2].isdecimal():  # of one layer
        return url
    about = service.describe(url)
    there = {str(one["name"]): int(one["id"]) for one in about.get("layers") or []}
    if number is not None and int(number) in there.values():
        return f"{url}/{number}"
    if number is None and layer in there:
        return f"{url}/{there[layer]}"
    if number is None and len(there) == 1:
        return f"{url}/{next(iter(there.values()))}"
    listed = ", ".join(f"{item_id}/{one} ({name})" for name, one in there.items()) or "none"
    hint = choices(number or layer, [*there, *map(str, there.values())])
    raise InputError(f"{key}: item {item_id}: which layer? It has {listed}; {hint}")


@dataclass(frozen=True)
class PublishedMap:
    """The item that a web map is in now, and whether it was added or updated."""

    item_id: str
    url: str
    added: bool


def publish_map(
    service: Service,
    job: str,
    layers: Mapping[str, str],
    labels: Sequence[str],
    text: ItemText,
    key: str = KEY,
) -> PublishedMap:
    """A web map of the job's layers, as an item of whoever is signed in; an earlier one of the job is
    updated.

    It then keeps its title, sharing and folder. Symbols are by species, older events are paler, and a time
    slider covers the events.

    Parameters
    ----------
    layers : layer -> URL, for those that the job has
    labels : species, most frequent first
    key : section of the job file that names the layers; each has a map of its own

    Raises
    ------
    InputError
        A layer does not exist, or nobody is signed in.
    StageError
        The portal refuses.
    """
    gis = service.gis
    if gis.users.me is None:
        raise InputError("a web map can't be made without signing in")
    content = json.dumps(web_map(service, layers, labels), ensure_ascii=False)
    keyword = f"{_KEYWORD}{job}{key.removeprefix(KEY)}"
    try:
        item = find_item(gis, keyword, WEB_MAP)
        added = item is None
        if item is None:
            properties = {
                "type": WEB_MAP,
                "title": text.title,
                "tags": ",".join([*text.tags, "camtrap-batch"]),
                "typeKeywords": keyword,
                "text": content,
            }
            item = gis.content.folders.get().add(properties).result()
        elif not item.update({"text": content}):
            raise StageError(f"item {item.id}: the portal did not take the map")
        describe_item(item, text)
    except StageError:
        raise
    except Exception as problem:  # the client raises bare exceptions with the portal's words
        raise StageError(f"{gis.url}: the map can't be made: {without_secrets(problem)}") from None
    return PublishedMap(item.id, f"{gis.url}/apps/mapviewer/index.html?webmap={item.id}", added)


def web_map(service: Service, layers: Mapping[str, str], labels: Sequence[str]) -> dict[str, Any]:
    """The content of a web map (web map specification 2.31): photos below events below cameras."""
    order = [layer for layer in ("photos", "events", "cameras") if layer in layers]
    abouts = {layer: look_at(service, layers[layer]).about for layer in order}
    spans = {layer: _span(service, layers[layer], abouts[layer]) for layer in order}
    known = [span for span in spans.values() if span is not None]
    found: dict[str, Any] = {
        "operationalLayers": [
            _operational(layer, layers[layer], abouts[layer], labels, spans[layer]) for layer in order
        ],
        "baseMap": {
            "title": "Topographic",
            "baseMapLayers": [
                {
                    "id": "topographic",
                    "layerType": "ArcGISTiledMapServiceLayer",
                    "url": _TOPOGRAPHIC,
                    "visibility": True,
                    "opacity": 1,
                    "title": "Topographic",
                }
            ],
        },
        "spatialReference": {"wkid": 102100, "latestWkid": 3857},
        "version": "2.31",
        "authoringApp": "camtrap-batch",
        "authoringAppVersion": version("camtrap-batch"),
    }
    if known:
        start, end = min(first for first, _ in known), max(last for _, last in known)
        found["widgets"] = {
            "timeSlider": {
                "properties": {
                    "startTime": start,
                    "endTime": max(end, start + _DAY_MS),
                    "thumbCount": 2,
                    "thumbMovingRate": 2000,
                    "timeStopInterval": {"interval": 1, "units": "esriTimeUnitsWeeks"},
                }
            }
        }
    if (extent := _extent(service, layers[order[-1]])) is not None:
        found["initialState"] = {"viewpoint": {"targetGeometry": extent}}
    return found


def _operational(
    layer: str,
    url: str,
    about: Mapping[str, Any],
    labels: Sequence[str],
    span: tuple[int, int] | None,
) -> dict[str, Any]:
    """A layer in the form of a map: `about` is its definition, `span` the first and last time of its rows."""
    renderer = renderer_of(_field(about, LABELS[layer]), labels)
    start = (about.get("timeInfo") or {}).get("startTimeField")
    if layer == "events" and start and span is not None and span[1] > span[0]:
        renderer["visualVariables"] = [
            {
                "type": "transparencyInfo",
                "valueExpression": f"Number($feature.{start})",
                "valueExpressionTitle": "Time",
                "stops": [{"value": span[0], "transparency": 75}, {"value": span[1], "transparency": 0}],
            }
        ]
    found = {
        "id": f"camtrap_{layer}",
        "title": layer.capitalize(),
        "url": url,
        "layerType": "ArcGISFeatureLayer",
        "visibility": layer != "photos",
        "opacity": 1,
        "layerDefinition": {"drawingInfo": {"renderer": renderer}},
    }
    if item_id := about.get("serviceItemId"):
        found["itemId"] = item_id
    if popup := about.get("popupInfo"):
        found["popupInfo"] = popup
    return found


def _field(about: Mapping[str, Any], name: str) -> str:
    there = {str(field["name"]).lower(): str(field["name"]) for field in about.get("fields") or []}
    return there.get(name.lower(), name)


def _span(service: Service, url: str, about: Mapping[str, Any]) -> tuple[int, int] | None:
    """First and last time of a layer's rows, ms since 1970; None if it has none."""
    field = (about.get("timeInfo") or {}).get("startTimeField")
    if not field:
        return None
    statistics = [
        {"statisticType": kind, "onStatisticField": field, "outStatisticFieldName": kind}
        for kind in ("min", "max")
    ]
    answer = service.read(f"{url}/query", where="1=1", outStatistics=json.dumps(statistics))
    for feature in answer.get("features") or []:
        values = {str(name).lower(): value for name, value in feature["attributes"].items()}
        if values.get("min") is not None:
            return int(values["min"]), int(values["max"])
    return None


def _extent(service: Service, url: str) -> dict[str, Any] | None:
    """The extent of all rows of a layer, with a margin, in Web Mercator."""
    answer = service.read(f"{url}/query", where="1=1", returnExtentOnly="true", outSR="102100")
    extent = answer.get("extent") or {}
    edges = [extent.get(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    x, y, right, top = (float(edge) if isinstance(edge, int | float) else math.nan for edge in edges)
    if not all(map(math.isfinite, (x, y, right, top))):
        return None
    room = max(right - x, top - y, 1000.0) * 0.1
    return {
        "xmin": x - room, "ymin": y - room, "xmax": right + room, "ymax": top + room,
        "spatialReference": {"wkid": 102100, "latestWkid": 3857},
    }  # fmt: skip


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
