"""Queries by the real client, and by plain requests where the client would hide what it got."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support_layerserver import CAMERAS, arcgis, camera

from camtrap_batch.rehearsal.layerserver import LayerServer

ROWS = 450
DAY_MS = 86_400_000
SERVICE = "animals"


@pytest.fixture(scope="module")
def animals(server: LayerServer, gis: Any) -> Iterator[Any]:
    """450 rows, 200 on a page; n is 0 to 449, one label a hundred, one day each, one metre apart."""
    server.create_service(SERVICE, [CAMERAS], anonymous="read", max_records=200)
    layer = arcgis().features.FeatureLayer(server.layer_url(0, SERVICE), gis)
    features = [
        {
            "attributes": {
                "key": str(n),
                "n": n,
                "label": f"species {n // 100}",
                "share": n / 10,
                "seen": n * DAY_MS,
            },
            "geometry": {"x": float(n), "y": -float(n)},
        }
        for n in range(ROWS)
    ]
    for start in range(0, ROWS, 250):
        layer.edit_features(adds=features[start : start + 250])
    return layer


@pytest.fixture
def ask(server: LayerServer, gis: Any, animals: Any) -> Callable[..., dict[str, Any]]:
    def ask(operation: str = "query", **parameters: Any) -> dict[str, Any]:
        url = f"{server.layer_url(0, SERVICE)}/{operation}"
        answer: dict[str, Any] = gis.session.post(url, data={"f": "json", **parameters}).json()
        return answer

    return ask


def test_every_row_by_the_client(animals: Any) -> None:
    """It asks for ids, then for chunks of rows."""
    found = animals.query(out_fields="n").features
    assert sorted(feature.attributes["n"] for feature in found) == list(range(ROWS))
    assert animals.query(return_count_only=True) == ROWS


def test_every_row_in_an_order_by_the_client(animals: Any) -> None:
    found = animals.query(where="n >= 10", order_by_fields="n DESC", out_fields="n").features
    assert [feature.attributes["n"] for feature in found] == list(range(ROWS - 1, 9, -1))


def test_pages(ask: Callable[..., dict[str, Any]]) -> None:
    pages = [ask(where="1=1", outFields="n", resultOffset=offset) for offset in (0, 200, 400, 450)]
    assert [len(page["features"]) for page in pages] == [200, 200, 50, 0]
    assert ["exceededTransferLimit" in page for page in pages] == [True, True, False, False]
    assert len(ask(where="1=1", resultRecordCount=7)["features"]) == 7
    assert len(ask(where="1=1", resultRecordCount=1000)["features"]) == 200
    assert "exceededTransferLimit" not in ask(where="n < 200")


def test_fields_and_geometry(ask: Callable[..., dict[str, Any]]) -> None:
    (row,) = ask(where="n = 3", outFields="KEY,n", outSR="4326")["features"]
    assert row["attributes"] == {"key": "3", "n": 3}
    assert row["geometry"] == pytest.approx({"x": 3 / 111319.49, "y": -3 / 111319.49}, rel=1e-6)
    answer = ask(objectIds="1,2,4", outFields="*", returnGeometry="false")
    assert [list(row) for row in answer["features"]] == [["attributes"]] * 3
    assert [row["attributes"]["OBJECTID"] for row in answer["features"]] == [1, 2, 4]
    lengths = {field["name"]: field.get("length") for field in answer["fields"]}
    assert (lengths["key"], lengths["label"], lengths["n"]) == (10, 50, None)


def test_an_envelope(ask: Callable[..., dict[str, Any]], animals: Any) -> None:
    box = '{"xmin": 9.5, "ymin": -12.5, "xmax": 12, "ymax": 0}'
    kind = "esriGeometryEnvelope"
    assert ask(geometry=box, geometryType=kind, returnCountOnly="true") == {"count": 3}
    degrees = '{"xmin": -1, "ymin": -1, "xmax": 1e-9, "ymax": 1, "spatialReference": {"wkid": 4326}}'
    assert ask(geometry=degrees, geometryType=kind, returnCountOnly="true") == {"count": 1}
    assert ask(geometry="9.5,-12.5,12,0", where="n > 11", returnCountOnly="true") == {"count": 1}
    here = arcgis().geometry.Envelope(
        {"xmin": 5, "ymin": -6, "xmax": 6, "ymax": -5, "spatialReference": {"wkid": 3857}}
    )
    by_client = animals.query(geometry_filter=arcgis().geometry.filters.intersects(here), out_fields="n")
    assert [feature.attributes["n"] for feature in by_client.features] == [5, 6]


def test_a_time_extent(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask(time=f"{DAY_MS},{3 * DAY_MS}", returnCountOnly="true") == {"count": 3}
    assert ask(time=f"null,{3 * DAY_MS}", returnCountOnly="true") == {"count": 4}


def test_statistics(animals: Any) -> None:
    wanted = [
        {"statisticType": kind, "onStatisticField": "n", "outStatisticFieldName": kind}
        for kind in ("count", "sum", "min", "max", "avg", "stddev", "var")
    ]
    found = animals.query(
        where="n < 150",
        out_statistics=wanted,
        group_by_fields_for_statistics="label",
        order_by_fields="label DESC",
    )
    last, first = (feature.attributes for feature in found.features)
    assert (first["label"], first["count"], first["sum"], first["min"], first["max"]) == (
        "species 0",
        100,
        4950,
        0,
        99,
    )
    assert first["avg"] == pytest.approx(49.5)
    assert first["var"] == pytest.approx(841.666, abs=0.001)
    assert first["stddev"] == pytest.approx(29.011, abs=0.001)
    assert (last["label"], last["count"]) == ("species 1", 50)


def test_having(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask(
        where="1=1",
        outStatistics=json.dumps(
            [{"statisticType": "count", "onStatisticField": "n", "outStatisticFieldName": "total"}]
        ),
        groupByFieldsForStatistics="label",
        having="total < 100",
    )
    assert [row["attributes"] for row in answer["features"]] == [{"label": "species 4", "total": 50}]


def test_distinct_values(ask: Callable[..., dict[str, Any]]) -> None:
    answer = ask(where="1=1", outFields="label", returnDistinctValues="true", returnGeometry="false")
    assert [row["attributes"]["label"] for row in answer["features"]] == [f"species {n}" for n in range(5)]
    counted = ask(where="1=1", outFields="label", returnDistinctValues="true", returnCountOnly="true")
    assert counted == {"count": 5}


def test_the_extent(animals: Any) -> None:
    found = animals.query(where="n BETWEEN 10 AND 20", return_extent_only=True)
    assert found["count"] == 11
    assert [found["extent"][side] for side in ("xmin", "ymin", "xmax", "ymax")] == [10, -20, 20, -10]


def test_one_feature_by_its_address(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask("7")["feature"]["attributes"]["n"] == 6
    assert ask("9999")["error"]["code"] == 404


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"where": "m = 1"},
        {"where": "1=1", "f": "pbf"},
        {"where": "1=1", "outFields": "m"},
        {"where": "1=1", "orderByFields": "n SIDEWAYS"},
        {"where": "1=1", "orderByFields": "n; DROP TABLE layers"},
        {"where": "1=1", "resultOffset": "-1"},
        {"where": "1=1", "outSR": "32736"},
        {"objectIds": "1,x"},
        {"geometry": "1,2,3"},
        {"geometry": '{"rings": []}', "geometryType": "esriGeometryPolygon"},
        {"geometry": "1,2,3,4", "spatialRel": "esriSpatialRelTouches"},
        {"time": "now"},
        {"where": "1=1", "outStatistics": "[{}]"},
        {"where": "1=1", "outStatistics": '[{"statisticType": "avg", "onStatisticField": "label"}]'},
        {"where": "1=1", "outStatistics": "{"},
        {"where": " OR ".join(["n = 1"] * 1500)},
    ],
)
def test_what_is_refused(ask: Callable[..., dict[str, Any]], parameters: dict[str, str]) -> None:
    assert ask(**parameters)["error"]["code"] == 400


def test_many_members_of_a_list(ask: Callable[..., dict[str, Any]]) -> None:
    keys = ", ".join(f"'{n}'" for n in range(5, 5_000))
    assert ask(where=f"key IN ({keys})", returnCountOnly="true") == {"count": ROWS - 5}


def test_rows_with_a_null_sort_and_count(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera("a", n=None), camera("b", n=1)])
    found = cameras.query(where="n IS NULL OR n = 1", order_by_fields="n", out_fields="key,n").features
    assert [(feature.attributes["key"], feature.attributes["n"]) for feature in found] == [
        ("a", None),
        ("b", 1),
    ]
