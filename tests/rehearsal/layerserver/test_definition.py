"""Making and changing layers by the real client, and the metadata that it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support_layerserver import CAMERAS, EVENTS, arcgis, camera

from camtrap_batch.rehearsal.layerserver import LayerServer


def test_metadata(cameras: Any, open_layer: Callable[..., Any], service: str) -> None:
    found = cameras.properties
    assert (found.type, found.geometryType, found.objectIdField, found.globalIdField) == (
        "Feature Layer",
        "esriGeometryPoint",
        "OBJECTID",
        "GlobalID",
    )
    assert found.capabilities == "Create,Delete,Query,Update,Editing"
    assert (found.maxRecordCount, found.hasAttachments, found.supportsAppend) == (2000, True, True)
    assert found.advancedQueryCapabilities.supportsPagination
    assert found.extent.spatialReference.latestWkid == 3857
    assert found.timeInfo.startTimeField == "seen"
    assert found.editFieldsInfo.creatorField == "Creator"
    fields = {field.name: field for field in found.fields}
    assert fields["key"].type == "esriFieldTypeString"
    assert (fields["key"].length, fields["key"].nullable, fields["OBJECTID"].editable) == (10, False, False)
    assert [(i.fields, i.isUnique) for i in found.indexes] == [("OBJECTID", True), ("key", True)]
    table = open_layer(service, 1).properties
    assert (table.type, "geometryType" in table, table.editFieldsInfo) == ("Table", False, None)
    group = arcgis().features.FeatureLayerCollection(cameras.container.url, cameras._gis)
    assert [layer.properties.name for layer in group.layers] == ["cameras"]
    assert [layer.properties.name for layer in group.tables] == ["events"]


def test_the_extent_and_the_date_of_the_last_edit(cameras: Any) -> None:
    before = cameras.properties.editingInfo.lastEditDate
    cameras.edit_features(adds=[{"attributes": {"key": "a"}, "geometry": {"x": 1.0, "y": 2.0}}])
    cameras._refresh()
    assert cameras.properties.editingInfo.lastEditDate > before
    assert (cameras.properties.extent.xmin, cameras.properties.extent.ymax) == (1.0, 2.0)


def test_a_hosted_layer_by_the_client(server: LayerServer, gis: Any) -> None:
    """As `createService` and `addToDefinition` make one."""
    assert gis.content.is_service_name_available("hosted", "featureService")
    item = gis.content.create_service(
        "hosted", service_type="featureService", capabilities="Query,Editing,Create,Update,Delete"
    )
    assert not gis.content.is_service_name_available("Hosted", "featureService")
    group = arcgis().features.FeatureLayerCollection.fromitem(item)
    group.manager.add_to_definition({"layers": [{**CAMERAS, "id": 0}], "tables": [{**EVENTS, "id": 1}]})
    assert [layer.properties.name for layer in (*group.layers, *group.tables)] == ["cameras", "events"]
    assert group.layers[0].edit_features(adds=[camera("a")])["addResults"][0]["success"]
    assert server.rows(0, "hosted")[0]["key"] == "a"
    assert item.delete()
    with pytest.raises(Exception, match="not found"):
        server.rows(0, "hosted")


def test_fields_come_and_go(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera("a")])
    cameras.manager.add_to_definition(
        {
            "fields": [
                {"name": "note", "type": "esriFieldTypeString", "length": 5, "nullable": True},
                {"name": "times", "type": "esriFieldTypeInteger", "nullable": False, "defaultValue": 3},
            ]
        }
    )
    cameras.edit_features(adds=[camera("b", note="hello")])
    assert [(row["note"], row["times"]) for row in server.rows(0, service)] == [(None, 3), ("hello", 3)]
    assert "note" in [field.name for field in cameras.properties.fields]
    cameras.manager.delete_from_definition({"fields": [{"name": "note"}]})
    assert "note" not in server.rows(0, service)[0]


def test_indexes_come_and_go(server: LayerServer, service: str, open_layer: Callable[..., Any]) -> None:
    table = open_layer(service, 1)
    index = {"indexes": [{"name": "key_unique", "fields": "key", "isUnique": True}]}
    table.edit_features(adds=[{"attributes": {"key": "a"}}, {"attributes": {"key": "a"}}])
    with pytest.raises(Exception, match="twice"):
        table.manager.add_to_definition(index)
    table.edit_features(deletes="1")
    table.manager.add_to_definition(index)
    table._refresh()
    assert [i.fields for i in table.properties.indexes if i.isUnique] == ["OBJECTID", "key"]
    twice = {"adds": [{"attributes": {"key": "a"}}], "rollback_on_failure": False}
    assert table.edit_features(**twice)["addResults"][0]["error"]["code"] == 1000
    table.manager.delete_from_definition({"indexes": [{"name": "key_unique"}]})
    assert table.edit_features(**twice)["addResults"][0]["success"]


def test_updates_of_a_definition(cameras: Any) -> None:
    lions = {"type": "codedValue", "name": "labels", "codedValues": [{"name": "lion", "code": "lion"}]}
    drawing = {"renderer": {"type": "simple", "symbol": {"type": "esriSMS", "size": 8}}}
    cameras.manager.update_definition(
        {
            "hasAttachments": False,
            "drawingInfo": drawing,
            "fields": [{"name": "label", "alias": "Species", "domain": lions}],
            "capabilities": "Query",
        }
    )
    cameras._refresh()
    found = cameras.properties
    label = next(field for field in found.fields if field.name == "label")
    assert (label.alias, label.domain.codedValues[0].code, label.length) == ("Species", "lion", 50)
    assert (found.hasAttachments, found.capabilities, found.supportsAppend) == (False, "Query", False)
    assert found.drawingInfo.renderer.type == "simple"


@pytest.mark.parametrize(
    ("operation", "change", "reason"),
    [
        ("add", {"fields": [{"name": "1st", "type": "esriFieldTypeInteger"}]}, "field's name"),
        ("add", {"fields": [{"name": 'x" TEXT, y', "type": "esriFieldTypeInteger"}]}, "field's name"),
        ("add", {"fields": [{"name": "x", "type": "text"}]}, "is not one of"),
        ("add", {"fields": [{"name": "KEY", "type": "esriFieldTypeInteger"}]}, "already exists"),
        ("add", {"fields": [{"name": "x", "type": "esriFieldTypeInteger", "nullable": False}]}, "default"),
        ("add", {"fields": [{"name": "x", "type": "esriFieldTypeInteger", "defaultValue": "y"}]}, "default"),
        ("add", {"indexes": [{"name": "i", "fields": "nothing"}]}, "not in the layer"),
        ("add", {"indexes": [{"name": "key_unique", "fields": "key"}]}, "already exists"),
        ("update", {"fields": [{"name": "label", "length": 5}]}, "can't be changed"),
        ("update", {"fields": [{"name": "lable"}]}, "there is no field"),
        ("update", {"geometryType": "esriGeometryPolygon"}, "can't be changed"),
        ("delete_from", {"fields": [{"name": "key"}]}, "in an index"),
        ("delete_from", {"fields": [{"name": "OBJECTID"}]}, "a key"),
        ("delete_from", {"indexes": [{"name": "none"}]}, "there is no index"),
    ],
)
def test_changes_that_are_refused(
    server: LayerServer, service: str, cameras: Any, operation: str, change: dict[str, Any], reason: str
) -> None:
    cameras.edit_features(adds=[camera("a")])
    before = cameras.properties.fields
    call = getattr(
        cameras.manager, f"{operation}_to_definition" if operation == "add" else f"{operation}_definition"
    )
    with pytest.raises(Exception, match=reason):
        call(change)
    cameras._refresh()
    assert cameras.properties.fields == before
    assert len(server.rows(0, service)) == 1


def test_rights_to_change_a_definition(
    service: str, open_layer: Callable[..., Any], warden: Any, nobody: Any
) -> None:
    for gis, reason in ((warden, "permission"), (nobody, "Token Required")):
        with pytest.raises(Exception, match=reason):
            open_layer(service, 0, gis).manager.update_definition({"hasAttachments": False})


def test_layers_of_a_service_come_and_go(server: LayerServer, service: str, cameras: Any) -> None:
    manager = arcgis().features.FeatureLayerCollection(cameras.container.url, cameras._gis).manager
    manager.add_to_definition({"tables": [{"name": "photos", "fields": []}]})
    assert server.rows(2, service) == []
    manager.delete_from_definition({"tables": [{"id": 2}]})
    with pytest.raises(Exception, match="Invalid URL"):
        server.rows(2, service)
