"""A feature layer with photos attached, through the real client: catalog, validate, and what goes wrong."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import math
import os
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import stamina
import yaml
from distributed import Client
from PIL import Image

pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")

from support_runs import predict, run_on_driver, table

import camtrap_batch
from camtrap_batch.catalog import read_dataset_cameras, read_dataset_periods, reader_of
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.job import Job
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.rehearsal.layerserver.server import KRUGER_CAMERAS
from camtrap_batch.survey.effort import effort_by_location, make_deployments
from camtrap_batch.targets.arcgis.attach import Attacher, Photo

PHOTOS = (5, 5, 7, 6, 8)
TAKEN = 1_622_505_600_000  # 2021-06-01 00:00 UTC
_NUMBERS = itertools.count()
FIELDS = [
    {"name": "objectid", "type": "esriFieldTypeOID"},
    {"name": "globalid", "type": "esriFieldTypeGlobalID"},
    {"name": "camera", "type": "esriFieldTypeString", "length": 40},
    {"name": "taken", "type": "esriFieldTypeDate"},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerServer]:
    with LayerServer(tmp_path_factory.mktemp("portal")) as server:
        yield server


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    photos = []
    for number in range(sum(PHOTOS)):
        file = io.BytesIO()
        Image.effect_noise((160, 120), 20 + number).save(file, "JPEG")
        photos.append(file.getvalue())
    return photos


@pytest.fixture(scope="module")
def layers(server: LayerServer, jpegs: list[bytes]) -> dict[bool, str]:
    """URLs of two layers: a feature a photo (False), and many photos a feature (True)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
        service = Service(connect(Portal(server.url)))
    urls = {}
    for one_feature in (False, True):
        name = f"photos{next(_NUMBERS)}"
        definition = {"name": "cameras", "geometryType": "esriGeometryPoint", "fields": FIELDS}
        server.create_service(name, [definition | {"hasAttachments": True}], anonymous="read", max_records=10)
        urls[one_feature] = url = server.layer_url(0, name)
        adds = [
            {"geometry": {"x": x, "y": y}, "attributes": {"camera": f"K{n}", "taken": TAKEN + n * 1000}}
            for n, (x, y) in enumerate(KRUGER_CAMERAS, 1)
        ]
        service.send(f"{url}/applyEdits", {"adds": adds})
        left = iter(jpegs)
        photos = {
            str(camera): [
                Photo(f"IMG_{n}.JPG", len(data), lambda data=data: data)  # type: ignore[misc]
                for n, data in zip(range(number), left, strict=False)
            ]
            for camera, number in enumerate(PHOTOS, 1)
        }
        assert Attacher(service, url, one_feature=one_feature).attach(photos).attached == 31
    return urls


@pytest.fixture(autouse=True)
def _no_faults(server: LayerServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    server.faults.clear()
    yield
    server.faults.clear()


def make_job(tmp_path: Path, server: LayerServer, url: str, **layer: Any) -> Path:
    settings = {"portal": server.url, "anonymous": True, "timeout_s": 3, **layer}
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "feature-layer", "metadata": url, "utc_offset": "+02:00", "layer": settings},
        "validate": {"shard_size": 10, "thumbnails": 64},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def set_token(token: str | None) -> None:
    if token is None:
        del os.environ["CAMTRAP_ARCGIS_TOKEN"]
    else:
        os.environ["CAMTRAP_ARCGIS_TOKEN"] = token


@pytest.mark.parametrize("one_feature", [False, True])
def test_cameras_from_points_and_photos_from_attachments(
    tmp_path: Path, server: LayerServer, layers: dict[bool, str], one_feature: bool
) -> None:
    dataset = Job.load(make_job(tmp_path, server, layers[one_feature])).dataset
    catalog = reader_of(dataset).read()
    rows = catalog.table.to_pylist()
    assert Counter(row["location"] for row in rows) == {str(n): k for n, k in enumerate(PHOTOS, 1)}
    assert len({row["image_id"] for row in rows}) == 31
    assert {row["source"] for row in rows} == {"feature-layer"}
    assert {row["datetime"] for row in rows} == {None}
    assert reader_of(dataset).read().table.equals(catalog.table)
    cameras = read_dataset_cameras(dataset)
    assert cameras is not None
    by_location = {row["location"]: row for row in cameras.to_pylist()}
    assert set(by_location) == {"1", "2", "3", "4", "5"}
    radius = 6_378_137  # of Web Mercator, metres
    for number, (x, y) in enumerate(KRUGER_CAMERAS, 1):
        place = by_location[str(number)]
        assert place["longitude"] == pytest.approx(math.degrees(x / radius), abs=1e-7)
        latitude = math.degrees(2 * math.atan(math.exp(y / radius)) - math.pi / 2)
        assert place["latitude"] == pytest.approx(latitude, abs=1e-7)

    named = Job.load(
        make_job(tmp_path, server, layers[one_feature], location_field="CAMERA", date_field="taken")
    )
    rows = reader_of(named.dataset).read().table.to_pylist()
    assert Counter(row["location"] for row in rows) == {f"K{n}": k for n, k in enumerate(PHOTOS, 1)}
    first = next(row for row in rows if row["location"] == "K1")
    assert first["datetime"].isoformat() == "2021-06-01T02:00:01"
    assert first["utc_offset_minutes"] == 120


DAY = 86_400_000
NOON = TAKEN + 10 * 3_600_000  # 2021-06-01 12:00 by clocks of +02:00


@pytest.fixture(scope="module")
def stood(server: LayerServer) -> str:
    """URL of a layer whose cameras say when they stood there; the second came back."""
    fields = [
        *FIELDS,
        {"name": "setup", "type": "esriFieldTypeDate"},
        {"name": "taken_down", "type": "esriFieldTypeString", "length": 20},
    ]
    definition = {"name": "cameras", "geometryType": "esriGeometryPoint", "fields": fields}
    server.create_service("stood", [definition | {"hasAttachments": True}], anonymous="edit")
    rows = [
        ("K1", NOON, "2021-06-11 18:00"),
        ("K1", NOON, "2021-06-11 18:00"),  # a copy, for another photo
        ("K2", TAKEN - 7_200_000, "2021-06-03"),  # midnight by the cameras' clocks: a date alone
        ("K2", NOON + 20 * DAY, None),
        ("K3", None, None),
    ]
    url = server.layer_url(0, "stood")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
        adds = [
            {
                "geometry": {"x": 3_540_000 + int(camera[1]) * 1000, "y": -2_800_000},
                "attributes": {"camera": camera, "setup": setup, "taken_down": end},
            }
            for camera, setup, end in rows
        ]
        Service(connect(Portal(server.url))).send(f"{url}/applyEdits", {"adds": adds})
    return url


def test_deployments_of_a_layer(tmp_path: Path, server: LayerServer, stood: str) -> None:
    fields = {"location_field": "camera", "start_field": "SETUP", "end_field": "taken_down"}
    dataset = Job.load(make_job(tmp_path, server, stood, **fields)).dataset
    periods, _, _ = read_dataset_periods(dataset)
    assert periods is not None
    assert [(row["location"], str(row["start"]), str(row["end"])) for row in periods.to_pylist()] == [
        ("K1", "2021-06-01 12:00:00", "2021-06-11 18:00:00"),
        ("K2", "2021-06-01 12:00:00", "2021-06-03 12:00:00"),
        ("K2", "2021-06-21 12:00:00", "None"),
    ]
    photos = pa.table({"location": ["K3"], "deployment": [None], "datetime": [dt.datetime(2021, 6, 5)]})
    deployments, _ = make_deployments(photos, periods)
    days = effort_by_location(deployments)
    assert dict(zip(days["location"].to_pylist(), days["days"].to_pylist(), strict=True)) == {
        "K1": 10.25,
        "K2": 2,
        "K3": 1,
    }
    where = reader_of(dataset)
    before = where.fingerprint()
    plain = Job.load(make_job(tmp_path, server, stood, location_field="camera")).dataset
    assert reader_of(plain).fingerprint() == before  # catalogs of earlier versions keep their ids
    assert reader_of(plain).settings() == where.settings()
    assert read_dataset_periods(plain)[0] is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"start_field": "taken_down", "end_field": "setup"},
            "feature 1: end: 2021-06-01 12:00 should be after",
        ),
        ({"start_field": "camera"}, "feature 1: camera: 'K1' should be a date such as 2022-12-31"),
        ({"end_field": "objectid"}, "field objectid is esriFieldTypeOID; it should be esriFieldTypeDate or"),
        ({"end_field": "takn_down"}, "has no field 'takn_down' (dataset.layer.end_field)"),
    ],
)
def test_deployments_of_a_layer_that_can_not_be(
    tmp_path: Path, server: LayerServer, stood: str, fields: dict[str, str], message: str
) -> None:
    dataset = Job.load(make_job(tmp_path, server, stood, **fields)).dataset
    with pytest.raises(InputError) as caught:
        read_dataset_periods(dataset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photos_are_downloaded_by_the_workers_checked_and_kept(
    tmp_path: Path, server: LayerServer, layers: dict[bool, str], client: Client, jpegs: list[bytes]
) -> None:
    job = make_job(tmp_path, server, layers[False], anonymous=False)
    token = server.token("visitor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", token)
        camtrap_batch.run_stage(job, "catalog", client)
        client.run(set_token, token)
        try:
            server.faults.add("error", "attachment", nth=2, times=2, code=500)
            server.faults.add("http", "attachment", nth=5, status=503)
            server.faults.add("drop", "attachment", nth=7)
            server.faults.add("stall", "attachment", nth=9, seconds=4)
            server.faults.add("empty", "attachment", nth=11)
            server.faults.add("truncate", "queryAttachments", nth=2, keep=3, when="after")
            done = camtrap_batch.run_stage(job, "validate", client)
        finally:
            client.run(set_token, None)
    assert done.counts.get("unreadable", 0) == 0
    manifest = camtrap_batch.open_run(job).table("manifest").to_table().to_pylist()
    assert len(manifest) == 31
    assert sorted(row["bytes"] for row in manifest) == sorted(map(len, jpegs))
    kept = list((tmp_path / "run" / "attachments").rglob("*-*"))
    assert sorted(path.read_bytes() for path in kept) == sorted(jpegs)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


def test_from_a_layer_to_layers(
    tmp_path: Path,
    server: LayerServer,
    layers: dict[bool, str],
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    job = make_job(tmp_path, server, layers[False], date_field="taken")
    content = yaml.safe_load(job.read_text())
    content["publish"] = {"target": "arcgis", "portal": server.url}
    job.write_text(yaml.safe_dump(content))
    for stage in ("catalog", "validate"):
        camtrap_batch.run_stage(job, stage, client)
    images = {row["image_id"]: int(row["location"]) for row in table(job, "manifest")}
    predict(job, {image: {("impala", "lion")[camera % 2]: 0.9} for image, camera in images.items()})
    run_on_driver(job, "merge")
    assert main(["layer", "create", str(job)]) == 0
    printed = capsys.readouterr().out
    content |= yaml.safe_load(printed[printed.index("publish:") :])
    content["publish"]["best_photos"] = True
    job.write_text(yaml.safe_dump(content))
    run_on_driver(job, "publish")
    name = content["publish"]["cameras"].split("/")[-3]
    rows = {
        layer: server.rows(int(content["publish"][layer].rpartition("/")[2]), name)
        for layer in ("cameras", "photos")
    }
    assert [row["location"] for row in rows["cameras"]] == ["1", "2", "3", "4", "5"]
    assert all(row["SHAPE"] is not None for row in rows["cameras"])
    assert sorted(row["image_id"] for row in rows["photos"]) == sorted(images)
    best = [(one["parent"], one["name"].split("_")[1]) for one in server.attachments(0, name)]
    assert sorted(best) == [(1, "lion"), (2, "impala"), (3, "lion"), (4, "impala"), (5, "lion")]
    server.reset_requests()
    run_on_driver(job, "publish")
    assert not {"applyEdits", "addAttachment"} & set(server.requests())


def test_what_keeps_failing_is_unreadable_and_what_is_kept_is_not_asked_for(
    tmp_path: Path, server: LayerServer, layers: dict[bool, str]
) -> None:
    root = image_root(Job.load(make_job(tmp_path, server, layers[True])))
    names = list(root.walk())
    assert len(names) == 31
    listing = root.listing([*names, "1/999-5/gone.jpg", "strange"])
    assert (listing.sizes[:31] > 0).all()
    assert listing.sizes[31:].tolist() == [-1, -1]
    content = root.read(names[0])
    server.faults.add("error", "attachment", times=None, code=500, message="no disk")
    assert root.read(names[0]) == content
    assert root.read(names[0], 10) == content[:11]
    with stamina.set_testing(True, attempts=3), pytest.raises(OSError, match="no disk"):
        root.read(names[1])
    server.faults.clear()
    with stamina.set_testing(True, attempts=2), pytest.raises(FileNotFoundError):
        root.read("1/9999-5/gone.jpg")
    kept = next((tmp_path / "run" / "attachments").rglob("*-*"))
    kept.write_bytes(content[:-1])  # cut off
    assert root.read(names[0]) == content
    assert b"rehearsal" not in pickle.dumps(root)


@pytest.mark.parametrize(
    ("kind", "operation", "nth"),
    [("truncate", "query", n) for n in (1, 2, 3, 4)]
    + [("truncate", "queryAttachments", n) for n in (2, 3)]
    + [
        (kind, operation, 2)
        for kind in ("http", "error", "empty", "drop")
        for operation in ("query", "queryAttachments")
    ],
)
def test_no_fault_loses_a_row(
    tmp_path: Path, server: LayerServer, layers: dict[bool, str], kind: str, operation: str, nth: int
) -> None:
    dataset = Job.load(make_job(tmp_path, server, layers[False])).dataset
    details = {"keep": 2, "when": "after"} if kind == "truncate" else {"code": 500} if kind == "error" else {}
    server.faults.add(kind, operation, nth=nth, **details)  # type: ignore[arg-type]
    assert reader_of(dataset).read().table.num_rows == 31


def test_a_layer_that_keeps_rows_back_is_refused(
    tmp_path: Path, server: LayerServer, layers: dict[bool, str]
) -> None:
    dataset = Job.load(make_job(tmp_path, server, layers[False])).dataset
    server.faults.add("truncate", "query.ids", times=None, keep=20, when="after")
    with pytest.raises(InputError, match="returns the ids of 20 rows, but says that it has 31"):
        reader_of(dataset).read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": "{service}/CameraTraps/FeatureServer/0"}, "has no attachments"),
        ({"metadata": "{service}/CameraTraps/FeatureServer"}, ".../FeatureServer/0"),
        ({"metadata": "{service}/nothing/FeatureServer/0"}, "nothing"),
        ({"metadata": "cameras.json"}, "should begin with https://"),
        ({"images": "images"}, "leave out the key `images`"),
        (
            {"layer": {"location_field": "camra"}},
            "no field 'camra' (dataset.layer.location_field); did you",
        ),
        ({"layer": {"date_field": "globalid"}}, "field globalid is esriFieldTypeGlobalID"),
        ({"layer": {"profile": "nobody"}}, "give either profile or anonymous"),
        ({"layer": {"profile": "nobody", "anonymous": False}}, "no profile 'nobody' (dataset.layer.profile)"),
        ({"publish": {"target": "locations.gpkg", "best_photos": True}}, "is for `target: arcgis`"),
        ({"publish": {"events": "https://h/0", "best_photos": True}}, "also give that layer's URL"),
        ({"publish": {}}, "is inside dataset.metadata, which a job never changes"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    server: LayerServer,
    layers: dict[bool, str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    path = make_job(tmp_path, server, layers[False])
    content = yaml.safe_load(path.read_text())
    if "publish" in change:
        publish = change["publish"] or {"photos": layers[False]}
        content["publish"] = {"target": "arcgis", **publish}
    content["dataset"]["layer"] |= change.get("layer", {})
    services = server.url.replace("/portal", "/server/rest/services")
    places = {key: value for key, value in change.items() if isinstance(value, str)}
    content["dataset"] |= {key: place.format(service=services) for key, place in places.items()}
    path.write_text(yaml.safe_dump(content))
    assert main(["catalog", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_kruger_job_is_what_it_says() -> None:
    job = Job.load(Path(__file__).parents[2] / "jobs" / "kruger_cameras.yaml")
    assert job.dataset.layer is not None
    assert (job.dataset.images, job.publish.target, job.infer.batch) == (None, "arcgis", 4)
