"""Edits by the real client: what is taken, what is refused, and what is left behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support_layerserver import camera

from camtrap_batch.rehearsal.layerserver import LayerServer


def errors(results: list[dict[str, Any]]) -> list[int | None]:
    return [None if result["success"] else result["error"]["code"] for result in results]


def test_rows_arrive_as_they_were_sent(server: LayerServer, service: str, cameras: Any) -> None:
    sent = {
        "label": "l'éléphant \"d'Asie\" 🐘",
        "n": -5,
        "small": 32767,
        "big": 2**53 - 1,
        "share": 0.1,
        "single": 1.5,
        "seen": -1,
        "day": "2024-02-29",
        "guid": "{6F9619FF-8B86-D011-B42D-00CF4FC964FF}",
    }
    result = cameras.edit_features(adds=[camera("a", **sent), camera("b", n=None)])
    first, second = server.rows(0, service)
    assert {name: first[name] for name in sent} == {**sent, "guid": "6f9619ff-8b86-d011-b42d-00cf4fc964ff"}
    assert first["SHAPE"] == pytest.approx({"x": 3506563.96, "y": -2814454.73}, abs=0.01)
    assert all(second[name] is None for name in sent)
    assert [r["objectId"] for r in result["addResults"]] == [first["OBJECTID"], second["OBJECTID"]]
    assert [r["globalId"] for r in result["addResults"]] == [first["GlobalID"], second["GlobalID"]]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("key", None, 1001),
        ("key", "12345678901", 1016),
        ("key", 5, 1016),
        ("label", "🐘" * 26, 1016),  # 52 UTF-16 units
        ("n", "5", 1016),
        ("n", 5.5, 1016),
        ("n", True, 1016),
        ("n", 2**31, 1016),
        ("small", -32769, 1016),
        ("big", 2**60, 1016),
        ("share", "much", 1016),
        ("single", 1e39, 1016),
        ("seen", "2024-01-01", 1016),
        ("seen", 1e15, 1016),
        ("day", "1.2.2024", 1016),
        ("guid", "no guid", 1016),
        ("lable", "lion", 1000),
    ],
)
def test_a_value_that_the_field_does_not_take(
    server: LayerServer, service: str, cameras: Any, field: str, value: object, code: int
) -> None:
    bad = camera("bad")
    bad["attributes"][field] = value
    result = cameras.edit_features(adds=[bad, camera("good")], rollback_on_failure=False)
    assert errors(result["addResults"]) == [code, None]
    assert field in result["addResults"][0]["error"]["description"]
    assert [row["key"] for row in server.rows(0, service)] == ["good"]


def test_the_longest_text_and_a_whole_float_are_taken(
    server: LayerServer, service: str, cameras: Any
) -> None:
    cameras.edit_features(adds=[camera("a", label="🐘" * 25, n=3.0)])
    (row,) = server.rows(0, service)
    assert (row["label"], row["n"]) == ("🐘" * 25, 3)


def test_a_required_field_that_is_absent(cameras: Any) -> None:
    nameless = camera("a")
    del nameless["attributes"]["key"]
    assert errors(cameras.edit_features(adds=[nameless], rollback_on_failure=False)["addResults"]) == [1001]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_not_a_number_refuses_the_whole_call(
    server: LayerServer, service: str, cameras: Any, number: float
) -> None:
    with pytest.raises(Exception, match="not valid JSON"):
        cameras.edit_features(adds=[camera("a"), camera("b", share=number)], rollback_on_failure=False)
    assert server.rows(0, service) == []


@pytest.mark.parametrize(
    "geometry",
    [
        {"rings": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
        {"x": 1},
        {"x": "1", "y": 2},
        {"x": 31.5, "y": 95.0, "spatialReference": {"wkid": 4326}},
        {"x": 1, "y": 2, "spatialReference": {"wkid": 32736}},
        "POINT (1 2)",
    ],
)
def test_a_geometry_that_does_not_fit(cameras: Any, geometry: object) -> None:
    feature = {"attributes": {"key": "a"}, "geometry": geometry}
    assert errors(cameras.edit_features(adds=[feature], rollback_on_failure=False)["addResults"]) == [1015]


def test_a_table_takes_no_geometry(open_layer: Any, service: str) -> None:
    assert errors(
        open_layer(service, 1).edit_features(adds=[camera("a")], rollback_on_failure=False)["addResults"]
    ) == [1015]


def test_a_doubled_key_is_a_failed_row(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera("a")])
    result = cameras.edit_features(adds=[camera("a", n=2), camera("b")], rollback_on_failure=False)
    assert errors(result["addResults"]) == [1000, None]
    assert "key" in result["addResults"][0]["error"]["description"]
    oid = result["addResults"][1]["objectId"]
    moved = cameras.edit_features(
        updates=[{"attributes": {"OBJECTID": oid, "key": "a"}}], rollback_on_failure=False
    )
    assert errors(moved["updateResults"]) == [1000]
    assert [(row["key"], row["n"]) for row in server.rows(0, service)] == [("a", None), ("b", None)]


def test_one_failed_row_rolls_back_the_call(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera("a")])
    (row,) = server.rows(0, service)
    result = cameras.edit_features(
        adds=[camera("b"), camera("c", n="x")], deletes=str(row["OBJECTID"]), rollback_on_failure=True
    )
    assert errors(result["addResults"]) == [1003, 1016]
    assert errors(result["deleteResults"]) == [1003]
    assert server.rows(0, service) == [row]


def test_updates_and_deletes(server: LayerServer, service: str, cameras: Any) -> None:
    added = cameras.edit_features(adds=[camera(key, n=1, label="lion") for key in "abc"])["addResults"]
    a, b, c = (result["objectId"] for result in added)
    before = server.rows(0, service)
    place = {"x": 10.0, "y": 20.0}
    result = cameras.edit_features(
        updates=[
            {"attributes": {"OBJECTID": a, "n": 2}},
            {"attributes": {"objectid": b, "label": None}, "geometry": place},
            {"attributes": {"OBJECTID": 999, "n": 2}},
            {"attributes": {"n": 2}},
        ],
        deletes=[c, 999],
        rollback_on_failure=False,
    )
    assert errors(result["updateResults"]) == [None, None, 1011, 1011]
    assert errors(result["deleteResults"]) == [None, 1011]
    after = server.rows(0, service)
    changes = [{"n": 2}, {"label": None, "SHAPE": place}]
    expected = [{**row, **change} for row, change in zip(before, changes, strict=False)]
    assert [{**row, "EditDate": 0} for row in after] == [{**row, "EditDate": 0} for row in expected]


def test_global_ids_of_the_client(server: LayerServer, service: str, cameras: Any) -> None:
    guid = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    feature = camera("a", GlobalID=f"{{{guid.upper()}}}")
    cameras.edit_features(adds=[feature], use_global_ids=True)
    again = cameras.edit_features(
        adds=[camera("b", GlobalID=guid)], use_global_ids=True, rollback_on_failure=False
    )
    assert errors(again["addResults"]) == [1000]
    assert errors(
        cameras.edit_features(adds=[camera("b")], use_global_ids=True, rollback_on_failure=False)[
            "addResults"
        ]
    ) == [1020]
    cameras.edit_features(updates=[{"attributes": {"GlobalID": guid, "n": 7}}], use_global_ids=True)
    (row,) = server.rows(0, service)
    assert (row["GlobalID"], row["n"]) == (guid, 7)
    cameras.edit_features(deletes=[guid], use_global_ids=True)
    assert server.rows(0, service) == []


def test_an_object_id_is_never_given_twice(server: LayerServer, service: str, cameras: Any) -> None:
    (first,) = cameras.edit_features(adds=[camera("a", OBJECTID=500)])["addResults"]
    cameras.edit_features(deletes=[first["objectId"]])
    (second,) = cameras.edit_features(adds=[camera("a")])["addResults"]
    assert (first["objectId"], second["objectId"]) == (1, 2)


def test_editors_are_tracked(
    server: LayerServer, service: str, cameras: Any, warden: Any, open_layer: Any
) -> None:
    (added,) = cameras.edit_features(adds=[camera("a", Creator="me")])["addResults"]
    (row,) = server.rows(0, service)
    assert (row["Creator"], row["Editor"], row["EditDate"]) == ("ranger", "ranger", row["CreationDate"])
    open_layer(service, 0, warden).edit_features(
        updates=[{"attributes": {"OBJECTID": added["objectId"], "n": 2}}]
    )
    (after,) = server.rows(0, service)
    assert (after["Creator"], after["Editor"]) == ("ranger", "warden")
    assert after["CreationDate"] == row["CreationDate"] <= after["EditDate"]


def test_delete_by_condition(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera(key, n=number) for number, key in enumerate("abc")])
    cameras.delete_features(where="n >= 1")
    assert [row["key"] for row in server.rows(0, service)] == ["a"]


def test_polygons_have_a_layer_of_their_own(server: LayerServer, gis: Any, open_layer: Any) -> None:
    server.create_service(
        "areas", [{"name": "areas", "geometryType": "esriGeometryPolygon", "wkid": 4326, "fields": []}]
    )
    layer = open_layer("areas")
    ring = [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 0.0]]
    result = layer.edit_features(
        adds=[{"geometry": {"rings": [ring]}}, {"geometry": {"x": 1, "y": 2}}], rollback_on_failure=False
    )
    assert errors(result["addResults"]) == [None, 1015]
    (found,) = layer.query(out_sr=3857).features
    assert found.geometry["rings"][0][1] == pytest.approx([222638.98, 0.0], abs=0.01)


def test_edits_of_several_layers_in_one_call(server: LayerServer, service: str, gis: Any) -> None:
    edits = [{"id": number, "adds": [{"attributes": {"key": key}}]} for number, key in enumerate("ab")]
    address = f"{server.service_url(service)}/applyEdits"
    answer = gis.session.post(address, data={"f": "json", "edits": json.dumps(edits)}).json()
    assert [layer["id"] for layer in answer["editedLayers"]] == [0, 1]
    assert [row["key"] for row in server.rows(0, service) + server.rows(1, service)] == ["a", "b"]
