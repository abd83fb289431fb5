"""Append jobs by the real client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support_layerserver import CAMERAS, arcgis, camera

from camtrap_batch.rehearsal.layerserver import LayerServer

pytestmark = pytest.mark.usefixtures("no_faults_left")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sleeps a second and more between two looks at a job."""
    arcgis()
    import arcgis.features.layer as module

    monkeypatch.setattr(module.time, "sleep", lambda seconds, sleep=module.time.sleep: sleep(seconds / 50))


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"layers": [{"featureSet": {"features": list(features)}}]}


def append(layer: Any, *features: dict[str, Any], **options: Any) -> tuple[bool, dict[str, Any]]:
    found: tuple[bool, dict[str, Any]] = layer.append(
        edits=collection(*features), upload_format="featureCollection", return_messages=True, **options
    )
    return found


def start(server: LayerServer, service: str, gis: Any, *features: dict[str, Any]) -> str:
    """Begin a job; the address of its status."""
    form = {
        "f": "json",
        "appendUploadFormat": "featureCollection",
        "edits": json.dumps(collection(*features)),
    }
    url: str = gis.session.post(f"{server.layer_url(0, service)}/append", data=form).json()["statusUrl"]
    return url


def test_rows_are_added(server: LayerServer, service: str, cameras: Any) -> None:
    done, status = append(cameras, *(camera(str(n), n=n) for n in range(1200)))
    assert (done, status["status"], status["recordCount"]) == (True, "Completed", 1200)
    rows = server.rows(0, service)
    assert [row["n"] for row in rows] == list(range(1200))
    assert rows[0]["SHAPE"] == pytest.approx({"x": 3506563.96, "y": -2814454.73}, abs=0.01)


def test_upsert(server: LayerServer, service: str, cameras: Any) -> None:
    cameras.edit_features(adds=[camera("a", n=1, label="lion"), camera("b", n=1)])
    done, status = append(
        cameras,
        camera("a", n=2, label="x"),
        camera("c", n=2),
        upsert=True,
        upsert_matching_field="key",
        append_fields=["n"],
        update_geometry=False,
    )
    assert (done, status["recordCount"]) == (True, 2)
    rows = server.rows(0, service)
    assert [(row["key"], row["n"], row["label"]) for row in rows] == [
        ("a", 2, "lion"),
        ("b", 1, None),
        ("c", 2, None),
    ]


@pytest.mark.parametrize(
    ("options", "keys"), [({"skip_updates": True}, ["a", "a2"]), ({"skip_inserts": True}, ["A"])]
)
def test_upsert_of_one_kind(
    server: LayerServer, service: str, cameras: Any, options: dict[str, bool], keys: list[str]
) -> None:
    cameras.edit_features(adds=[camera("a", label="a")])
    append(
        cameras,
        camera("a", label="A"),
        camera("b", label="a2"),
        upsert=True,
        upsert_matching_field="key",
        **options,
    )
    assert [row["label"] for row in server.rows(0, service)] == keys


def test_upsert_needs_a_unique_index(cameras: Any, open_layer: Any, service: str) -> None:
    with pytest.raises(Exception, match="no unique index"):
        append(open_layer(service, 1), {"attributes": {"key": "a"}}, upsert=True, upsert_matching_field="key")


def test_rows_that_fail_are_counted_and_not_named(server: LayerServer, service: str, cameras: Any) -> None:
    done, status = append(cameras, camera("a"), camera("a"), camera("b"))
    assert (done, status["status"], status["recordCount"]) == (True, "Completed", 2)
    assert "1 row refused" in status["messages"][0]
    done, status = append(cameras, camera("c"), camera("a"), rollback=True)
    assert (done, status["status"], status["recordCount"]) == (False, "Failed", 0)
    assert [row["key"] for row in server.rows(0, service)] == ["a", "b"]


def test_a_csv_that_was_uploaded(server: LayerServer, service: str, cameras: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('code,label,n,seen,longitude,latitude\na,"lion, male",3,86400000,31.5,-24.5\n7,,,,,\n')
    upload = cameras.container.upload(str(file))
    done, status = cameras.append(
        upload_id=upload,
        upload_format="csv",
        field_mappings=[{"name": "key", "sourceName": "code"}],
        return_messages=True,
    )
    assert (done, status["recordCount"]) == (True, 2)
    first, second = server.rows(0, service)
    assert (first["key"], first["label"], first["n"], first["seen"]) == ("a", "lion, male", 3, 86_400_000)
    assert first["SHAPE"]["x"] == pytest.approx(3506563.96, abs=0.01)
    assert (second["key"], second["label"], second["n"], second["SHAPE"]) == ("7", None, None, None)


def test_an_item_of_the_portal(
    server: LayerServer, service: str, cameras: Any, gis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "item.csv"
    file.write_text("key,n\na,1\n")
    item = gis.content.folders.get().add({"title": "rows", "type": "CSV"}, file=str(file)).result()
    assert cameras.append(item_id=item.id, upload_format="csv")
    assert [(row["key"], row["n"]) for row in server.rows(0, service)] == [("a", 1)]


def test_a_job_that_dies_half_way(server: LayerServer, service: str, cameras: Any) -> None:
    server.faults.add("error", "append.job", keep=2, message="out of memory")
    done, status = append(cameras, *(camera(key) for key in "abc"))
    assert (done, status["status"], status["messages"]) == (False, "Failed", ["out of memory"])
    assert [row["key"] for row in server.rows(0, service)] == ["a", "b"]


def test_a_job_that_is_stuck(server: LayerServer, service: str, cameras: Any, gis: Any) -> None:
    server.faults.add("stall", "append.job", seconds=1)
    job = start(server, service, gis, camera("a"))
    assert gis.session.get(job, params={"f": "json"}).json()["status"] == "Pending"
    assert server.rows(0, service) == []
    server.wait_for_jobs()
    assert gis.session.get(job, params={"f": "json"}).json()["status"] == "Completed"
    assert [row["key"] for row in server.rows(0, service)] == ["a"]


def test_a_job_that_ends_with_errors(server: LayerServer, service: str, gis: Any) -> None:
    """Not by the client, which would wait for ever."""
    server.faults.add("rows", "append.job", rows=[1], message="not b")
    job = start(server, service, gis, *(camera(key) for key in "abc"))
    server.wait_for_jobs()
    status = gis.session.get(job, params={"f": "json"}).json()
    assert (status["status"], status["recordCount"]) == ("CompletedWithErrors", 2)
    assert status["messages"] == ["1 row refused, the first one: not b"]
    assert [row["key"] for row in server.rows(0, service)] == ["a", "c"]


def test_a_layer_that_takes_no_jobs(server: LayerServer, service: str, gis: Any, open_layer: Any) -> None:
    server.create_service(f"{service}_none", [{**CAMERAS, "supportedAppendFormats": ""}])
    with pytest.raises(Exception, match="Append is not supported"):
        append(open_layer(f"{service}_none"), camera("a"))
    form = {"f": "json", "appendUploadFormat": "csv", "edits": "key\na"}
    url = f"{server.layer_url(0, f'{service}_none')}/append"
    assert "takes nothing" in str(gis.session.post(url, data=form).json()["error"])


@pytest.mark.parametrize(
    "form",
    [
        {"appendUploadFormat": "shapefile", "edits": "[]"},
        {"appendUploadFormat": "csv"},
        {"appendUploadFormat": "csv", "appendItemId": "none"},
        {"appendUploadFormat": "csv", "appendUploadId": "none"},
        {"appendUploadFormat": "featureCollection", "edits": "{}"},
        {"appendUploadFormat": "featureCollection", "edits": '[{"attributes": {"share": NaN}}]'},
    ],
)
def test_what_is_refused(server: LayerServer, service: str, gis: Any, form: dict[str, str]) -> None:
    answer = gis.session.post(f"{server.layer_url(0, service)}/append", data={"f": "json", **form}).json()
    assert answer["error"]["code"] == 400
