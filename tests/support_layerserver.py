"""The real client for tests against the rehearsal server, and definitions of layers for them."""

from __future__ import annotations

import warnings
from typing import Any

from camtrap_batch.rehearsal.layerserver import LayerServer

FIELDS: list[dict[str, Any]] = [
    {"name": "key", "type": "esriFieldTypeString", "length": 10, "nullable": False},
    {"name": "label", "type": "esriFieldTypeString", "length": 50},
    {"name": "n", "type": "esriFieldTypeInteger"},
    {"name": "small", "type": "esriFieldTypeSmallInteger"},
    {"name": "big", "type": "esriFieldTypeBigInteger"},
    {"name": "share", "type": "esriFieldTypeDouble"},
    {"name": "single", "type": "esriFieldTypeSingle"},
    {"name": "seen", "type": "esriFieldTypeDate"},
    {"name": "day", "type": "esriFieldTypeDateOnly"},
    {"name": "guid", "type": "esriFieldTypeGUID"},
]
CAMERAS: dict[str, Any] = {
    "name": "cameras",
    "geometryType": "esriGeometryPoint",
    "hasAttachments": True,
    "fields": FIELDS,
    "indexes": [{"name": "key_unique", "fields": "key", "isUnique": True}],
    "editFieldsInfo": {"creatorField": "Creator", "editorField": "Editor"},
    "timeInfo": {"startTimeField": "seen"},
}
EVENTS: dict[str, Any] = {"name": "events", "type": "Table", "fields": FIELDS}


def arcgis() -> Any:
    """The client, whose import warns of much."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arcgis
        import arcgis.features
        import arcgis.geometry.filters
        import arcgis.gis
    return arcgis


def sign_in(server: LayerServer, user: str | None = "ranger", **options: Any) -> Any:
    """A GIS of the real client that trusts the server's certificate."""
    who = (user, "rehearsal") if user else ()
    return arcgis().gis.GIS(server.url, *who, set_active=False, ca_bundles=str(server.ca_file), **options)


def camera(key: str, **attributes: Any) -> dict[str, Any]:
    """A feature in WGS 84."""
    place = {"x": 31.5, "y": -24.5, "spatialReference": {"wkid": 4326}}
    return {"attributes": {"key": key, **attributes}, "geometry": place}
