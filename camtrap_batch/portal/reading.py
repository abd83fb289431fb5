"""All rows, and all attachments, of a layer: what arrives is compared with what exists.

Rows are read by object ids that are requested first, so that a page with too few rows is noticed; the
client's own `query` has returned 2,300 of 2,500 rows without an error, its `attachments.search` 100 of 250
attachments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.portal.service import Service, ServiceRefused

AT_ONCE = 4
"""Number of requests in flight."""

X, Y = "geometry: x", "geometry: y"
WGS_84 = 4326

_PAGE = 1000
_PARENTS_AT_ONCE = 200
_TRIES = 4


@dataclass(frozen=True)
class LayerInfo:
    """What a layer says about itself.

    Attributes
    ----------
    object_id : field with the object ids
    has_points : False for a table
    page : number of rows to request at once
    about : the whole definition
    """

    url: str
    object_id: str
    has_points: bool
    page: int
    about: dict[str, Any]


@dataclass(frozen=True)
class Attachment:
    """A file that belongs to a row; `parent` is the row's object id, `globalid` without braces."""

    parent: int
    id: int
    globalid: str | None
    name: str
    size: int
    content_type: str
    keywords: str


class PointNames:
    """Names of points; those less than a metre apart are the same."""

    _CELL = 1e-5  # degrees

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], list[tuple[float, float, str]]] = {}

    def name(self, x: float, y: float, default: str) -> str:
        """The name of the first point at x, y (degrees), `default` if this is the first."""
        column, row = math.floor(x / self._CELL), math.floor(y / self._CELL)
        around = [(column + i, row + j) for i in (0, -1, 1) for j in (0, -1, 1)]
        for there_x, there_y, name in (point for cell in around for point in self._names.get(cell, ())):
            if math.dist((x, y), (there_x, there_y)) < self._CELL / 2:
                return name
        self._names.setdefault((column, row), []).append((x, y, default))
        return default


def look_at(service: Service, url: str) -> LayerInfo:
    """The layer at a URL. Raises InputError if there is none, or if it has lines or polygons."""
    url = url.rstrip("/")
    about = service.describe(url)
    kind = about.get("type")
    if kind not in ("Feature Layer", "Table"):
        hint = "add the layer's number: .../FeatureServer/0" if "layers" in about else "open it in a browser"
        raise InputError(f"{url}: is {kind or 'no layer'}; it should be a feature layer or a table; {hint}")
    geometry = about.get("geometryType") if kind == "Feature Layer" else None
    if geometry not in (None, "esriGeometryPoint"):
        raise InputError(f"{url}: holds {geometry}; it should hold esriGeometryPoint")
    ids = [field["name"] for field in about.get("fields") or [] if field["type"] == "esriFieldTypeOID"]
    return LayerInfo(
        url,
        str(about.get("objectIdField") or (ids[0] if ids else "OBJECTID")),
        geometry is not None,
        min(int(about.get("maxRecordCount") or _PAGE), _PAGE),
        about,
    )


def read_features(
    service: Service, layer: LayerInfo, where: str, fields: Iterable[str], *, with_points: bool = True
) -> list[dict[str, Any]]:
    """Object id and `fields` of the rows, by object id, with longitude and latitude as `X` and `Y`.

    Raises
    ------
    StageError
        The layer returns fewer rows than it says it has.
    """
    ids = read_ids(service, layer, where)
    wanted = list(dict.fromkeys([layer.object_id, *fields]))
    points = layer.has_points and with_points

    def page(some: list[int]) -> list[dict[str, Any]]:
        left, rows = set(some), []
        for _ in range(_TRIES):
            answer = service.read(
                f"{layer.url}/query",
                objectIds=",".join(map(str, sorted(left))),
                outFields=",".join(wanted),
                returnGeometry="true" if points else "false",
                outSR=str(WGS_84) if points else None,
            )
            rows += [_row(feature) for feature in answer.get("features") or []]
            left -= {int(row[layer.object_id]) for row in rows}
            if not left:
                return rows
        # A row may have been deleted in the meantime; otherwise it exists but is not returned.
        if left & set(read_ids(service, layer, where)):
            raise StageError(f"{layer.url}: returns {len(rows)} of {len(some)} rows that it says it has")
        return rows

    pages = [ids[start : start + layer.page] for start in range(0, len(ids), layer.page)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [row for rows in pool.map(page, pages) for row in rows]


def read_ids(service: Service, layer: LayerInfo, where: str) -> list[int]:
    """Object ids, in order; as many as the layer says there are."""
    query = f"{layer.url}/query"
    for _ in range(_TRIES):
        found = service.read(query, where=where, returnIdsOnly="true").get("objectIds") or []
        count = service.read(query, where=where, returnCountOnly="true").get("count")
        if count == len(found):
            return sorted(map(int, found))
    raise StageError(f"{layer.url}: returns the ids of {len(found)} rows, but says that it has {count}")


def read_attachments(service: Service, layer: LayerInfo, parents: Sequence[int]) -> list[Attachment]:
    """The attachments of rows, by row and id.

    Raises
    ------
    StageError
        The layer returns fewer attachments than it says it has.
    """
    can = layer.about.get("advancedQueryCapabilities") or {}
    can_count = can.get("supportsQueryAttachments") and can.get("supportsQueryAttachmentsCountOnly")
    size = _PARENTS_AT_ONCE if can_count else 1
    some = [parents[start : start + size] for start in range(0, len(parents), size)]
    read = _query_attachments if can_count else _list_attachments
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pages = pool.map(lambda ids: read(service, layer, ids), some)
        found = [attachment for page in pages for attachment in page]
    return sorted(found, key=lambda one: (one.parent, one.id))


def attachment_url(layer: str, parent: int, attachment: int) -> str:
    """Where an attachment's content is."""
    return f"{layer}/{parent}/attachments/{attachment}"


def _query_attachments(service: Service, layer: LayerInfo, parents: Sequence[int]) -> list[Attachment]:
    """Page by page, until there are as many as the layer counts: a page may not be full.

    Where others keep adding and deleting meanwhile, pages never add up: the lists of single rows do.
    """
    address = f"{layer.url}/queryAttachments"
    ids = ",".join(map(str, parents))
    for _ in range(_TRIES):
        counted = service.read(address, objectIds=ids, returnCountOnly="true").get("attachmentGroups") or []
        count = sum(int(group.get("count") or 0) for group in counted)
        found: dict[int, Attachment] = {}
        offset = 0
        while offset < count:
            answer = service.read(
                address, objectIds=ids, resultOffset=str(offset), resultRecordCount=str(layer.page)
            )
            page = [
                _attachment(int(group["parentObjectId"]), info)
                for group in answer.get("attachmentGroups") or []
                for info in group.get("attachmentInfos") or []
            ]
            if not page:
                break
            found |= {attachment.id: attachment for attachment in page}
            offset += len(page)
        if len(found) == count:
            return list(found.values())
    return _list_attachments(service, layer, parents)


def _list_attachments(service: Service, layer: LayerInfo, parents: Sequence[int]) -> list[Attachment]:
    """Row by row, for servers that do not count: this list has no pages. A row deleted meanwhile has none."""
    found: list[Attachment] = []
    for parent in parents:
        try:
            answer = service.read(f"{layer.url}/{parent}/attachments")
        except ServiceRefused:
            if read_ids(service, layer, f"{layer.object_id} = {parent}"):
                raise
            continue
        found += [_attachment(parent, info) for info in answer.get("attachmentInfos") or []]
    return found


def _attachment(parent: int, info: dict[str, Any]) -> Attachment:
    guid = str(info.get("globalId") or "").strip("{}").lower()
    return Attachment(
        parent,
        int(info["id"]),
        guid or None,
        str(info.get("name") or ""),
        int(info.get("size") or 0),
        str(info.get("contentType") or ""),
        str(info.get("keywords") or ""),
    )


def _row(feature: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = dict(feature.get("attributes") or {})
    point = feature.get("geometry") or {}
    x, y = point.get("x"), point.get("y")
    is_point = all(isinstance(value, int | float) and math.isfinite(value) for value in (x, y))
    row[X], row[Y] = (x, y) if is_point else (None, None)
    return row
