"""Photos attached to the five cameras in Kruger National Park: each once, whatever goes wrong."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from camtrap_batch.cli import main
from camtrap_batch.errors import InputError, StageError
from camtrap_batch.portal import Service
from camtrap_batch.portal.reading import look_at, read_attachments
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.rehearsal.layerserver.server import KRUGER_CAMERAS
from camtrap_batch.targets.arcgis import Attacher, attach, photos_in

PHOTOS = (5, 5, 7, 6, 8)
_NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders named by object id, 31 photos; one of them is more than one request takes."""
    monkeypatch.setattr(attach, "_ONE_REQUEST", 4000)
    monkeypatch.setattr(attach, "_PART", 2000)
    for camera, number in enumerate(PHOTOS, 1):
        (tmp_path / "photos" / str(camera)).mkdir(parents=True)
        for photo in range(number):
            size = 5000 if (camera, photo) == (3, 2) else 100 + 2 * (camera + photo)
            (tmp_path / "photos" / str(camera) / f"IMG_{photo}.JPG").write_bytes(b"\xff\xd8" * (size // 2))
    (tmp_path / "photos" / "1" / "notes.txt").write_text("no photo")
    return tmp_path / "photos"


@pytest.fixture
def layer(server: LayerServer, gis: Any) -> Any:
    """Name and URL of a layer like the notebook's: five points, attachments off."""
    server.faults.clear()
    name = f"kruger{next(_NUMBERS)}"
    fields = [
        {"name": "objectid", "type": "esriFieldTypeOID"},
        {"name": "globalid", "type": "esriFieldTypeGlobalID"},
        {"name": "place", "type": "esriFieldTypeString", "length": 40},
    ]
    definition = {"name": "cameras", "geometryType": "esriGeometryPoint", "fields": fields}
    server.create_service(name, [definition])
    url = server.layer_url(0, name)
    adds = [
        {"geometry": {"x": x, "y": y}, "attributes": {"place": f"Kruger {number}"}}
        for number, (x, y) in enumerate(KRUGER_CAMERAS, 1)
    ]
    Service(gis).send(f"{url}/applyEdits", {"adds": adds})
    yield name, url
    server.faults.clear()


def require_all(server: LayerServer, name: str, folder: Path, features: int = 31) -> None:
    """Each photo once, at its camera."""
    rows = {row["objectid"]: row for row in server.rows(0, name)}
    assert len(rows) == features
    found = Counter(
        (rows[one["parent"]]["place"].split()[1], one["name"], bytes(one["content"]))
        for one in server.attachments(0, name)
    )
    wanted = Counter((file.parent.name, file.name, file.read_bytes()) for file in folder.rglob("*.JPG"))
    assert found == wanted
    points = {(row["SHAPE"]["x"], row["SHAPE"]["y"]) for row in rows.values()}
    assert len(points) == 5


def test_the_first_photo_is_the_cameras_own_and_a_second_run_attaches_nothing(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path
) -> None:
    name, url = layer
    done = Attacher(Service(gis), url).attach(photos_in(folder))
    assert (done.attached, done.there, done.copies, done.failed) == (31, 0, 26, {})
    require_all(server, name, folder)
    parents = {one["parent"] for one in server.attachments(0, name) if one["name"] == "IMG_0.JPG"}
    assert parents == {1, 2, 3, 4, 5}
    assert len({one["parent"] for one in server.attachments(0, name)}) == 31
    server.reset_requests()
    again = Attacher(Service(gis), url).attach(photos_in(folder))
    assert (again.attached, again.there, again.copies) == (0, 31, 0)
    assert not {"applyEdits", "addAttachment"} & set(server.requests())


def test_attachments_that_are_never_as_many_as_the_layer_counts_are_listed_row_by_row(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody adds and deletes all the while."""
    service, url = Service(gis), layer[1]
    Attacher(service, url).attach(photos_in(folder))
    read = Service.read

    def one_more(service: Service, address: str, **query: Any) -> dict[str, Any]:
        answer = read(service, address, **query)
        if "returnCountOnly" in query and address.endswith("/queryAttachments"):
            answer["attachmentGroups"][0]["count"] += 1
        return answer

    monkeypatch.setattr(Service, "read", one_more)
    found = read_attachments(service, look_at(service, url), range(1, 32))
    assert {one.id for one in found} == {one["id"] for one in server.attachments(0, layer[0])}
    assert len(found) == 31


FAULTS = [
    ("drop", "applyEdits", "before"), ("drop", "applyEdits", "after"), ("http", "applyEdits", "after"),
    ("empty", "applyEdits", "after"), ("drop", "addAttachment", "before"), ("drop", "addAttachment", "after"),
    ("http", "addAttachment", "after"), ("empty", "addAttachment", "after"),
    ("truncate", "queryAttachments", "after"), ("truncate", "query", "after"),
    ("http", "updateDefinition", "after"), ("drop", "uploads", "after"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "operation", "when"), FAULTS)
def test_no_fault_doubles_or_loses_a_photo(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path, kind: str, operation: str, when: str
) -> None:
    name, url = layer
    details = {"keep": 1} if kind == "truncate" else {}
    server.faults.add(kind, operation, nth=1 if operation == "updateDefinition" else 2, when=when, **details)
    for _ in range(2):
        if not Attacher(Service(gis), url).attach(photos_in(folder)).failed:
            break
    require_all(server, name, folder)


def test_interrupted_and_begun_again(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path
) -> None:
    name, url = layer
    stop = threading.Event()
    photos = photos_in(folder)
    read = photos["4"][3].read

    def interrupt() -> bytes:
        stop.set()
        return read()

    photos["4"][3] = type(photos["4"][3])(photos["4"][3].name, photos["4"][3].size, interrupt)
    done = Attacher(Service(gis), url, stop=stop).attach(photos)
    assert done.left > 0
    assert done.attached + done.left == 31
    Attacher(Service(gis), url).attach(photos_in(folder))
    require_all(server, name, folder)


def test_one_feature_and_folders_by_location(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path
) -> None:
    name, url = layer
    for camera in list(folder.iterdir()):
        camera.rename(folder / f"Kruger {camera.name}")
    done = Attacher(Service(gis), url, location_field="PLACE", one_feature=True).attach(photos_in(folder))
    assert (done.attached, done.copies) == (31, 0)
    assert Counter(one["parent"] for one in server.attachments(0, name)) == dict(enumerate(PHOTOS, 1))
    with pytest.raises(InputError, match=r"no feature for the folder 'Kruger 1'; .*object ids"):
        Attacher(Service(gis), url).attach(photos_in(folder))
    with pytest.raises(InputError, match="has no field 'plaice'; did you mean 'place'"):
        Attacher(Service(gis), url, location_field="plaice")


def test_the_command(
    server: LayerServer,
    layer: tuple[str, str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, url = layer
    job = tmp_path / "job.yaml"
    dataset = {"format": "feature-layer", "metadata": url, "layer": {"portal": server.url}}
    job.write_text(yaml.safe_dump({"name": "run", "output": str(tmp_path), "dataset": dataset}))
    assert main(["layer", "attach", str(job), "--folder", str(folder)]) == 2
    assert "dataset.layer.anonymous: true" in capsys.readouterr().err
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    assert main(["layer", "attach", str(job)]) == 2
    assert "give --folder DIR" in capsys.readouterr().err
    server.faults.add("rows", "addAttachment", rows=[0], code=1008, message="no room for it")
    first = main(["layer", "attach", str(job), "--folder", str(folder)])
    said = capsys.readouterr()
    if first:
        assert "no room for it" in said.err
    assert main(["layer", "attach", str(job), "--folder", str(folder)]) == 0
    require_all(server, name, folder)


@pytest.mark.parametrize("hidden", ["sensitive", "public"])
def test_photos_lose_their_place_where_it_may_not_be_known(
    server: LayerServer,
    layer: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hidden: str,
) -> None:
    """With a public target beside the job's own, a layer that the job does not name may be that one."""
    name, url = layer
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    exif: Any = Image.Exif()
    exif[0x8825] = {1: "S", 2: (24.0, 30.0, 0.0)}  # GPSInfo
    (tmp_path / "photos" / "1").mkdir(parents=True)
    Image.new("RGB", (64, 48), "green").save(tmp_path / "photos" / "1" / "a.jpg", exif=exif)
    job = tmp_path / "job.yaml"
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "feature-layer", "metadata": url, "layer": {"portal": server.url}},
        "publish": {"sensitive": ["lion"]},
    }
    to = []
    if hidden == "public":
        content["dataset"] = {"format": "csv", "metadata": "photos.csv", "images": "photos"}
        content["publish"] = {"target": "arcgis", "portal": server.url, "public": "public.gpkg"}
        to = ["--layer", url]
    job.write_text(yaml.safe_dump(content))
    for _ in range(2):  # the second finds it there
        assert main(["layer", "attach", str(job), "--folder", str(tmp_path / "photos"), *to]) == 0
    (attached,) = server.attachments(0, name)
    assert attached["name"] == "a.jpg"
    assert b"Exif" not in bytes(attached["content"])


@pytest.mark.parametrize("one_feature", [True, False], ids=["own feature", "copies"])
def test_photos_attached_twice_at_the_same_time_are_there_once(
    server: LayerServer,
    gis: Any,
    layer: tuple[str, str],
    folder: Path,
    one_feature: bool,
) -> None:
    name, url = layer
    both = threading.Barrier(2)

    def run() -> None:
        photos = photos_in(folder)
        first = photos["1"][0]

        def read() -> bytes:
            both.wait(60)  # each has looked at the layer, and neither has attached anything
            return first.read()

        photos["1"][0] = replace(first, read=read)
        done = Attacher(Service(gis), url, one_feature=one_feature).attach(photos)
        assert done.failed == {}

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(run) for _ in range(2)]:
            future.result()
    Attacher(Service(gis), url, one_feature=one_feature).attach(photos_in(folder))
    require_all(server, name, folder, features=5 if one_feature else 31)


@pytest.mark.parametrize("one_feature", [True, False], ids=["own feature", "copies"])
def test_a_photo_that_a_server_attaches_late_is_taken_away_by_the_next_run(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path, one_feature: bool
) -> None:
    """Nobody waits for its answer any more, and it is attached again; or its run was killed."""
    name, url = layer
    service = Service(gis)
    Attacher(service, url, one_feature=one_feature).attach(photos_in(folder))
    main = next(one for one in server.attachments(0, name) if one["name"] == "IMG_0.JPG")
    late = ("IMG_0.JPG", bytes(main["content"]), "image/jpeg")
    about = {"keywords": f"camtrap:{main['parent']}"}
    service.send(f"{url}/{main['parent']}/addAttachment", about, {"attachment": late})
    assert len(server.attachments(0, name)) == 32
    Attacher(service, url, one_feature=one_feature).attach(photos_in(folder))
    require_all(server, name, folder, features=5 if one_feature else 31)


@pytest.mark.parametrize("kind", ["error", "rows"])
def test_a_layer_that_refuses_every_photo_is_not_asked_for_each(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path, kind: str
) -> None:
    name, url = layer
    for number in range(100):
        (folder / "2" / f"MORE_{number}.JPG").write_bytes(b"\xff\xd8" * 50)
    server.faults.add(kind, "addAttachment", code=400, message="quota is used up", times=None)
    server.reset_requests()
    failed = Attacher(Service(gis), url, one_feature=True).attach(photos_in(folder)).failed
    assert len(failed) == 131
    assert all("quota is used up" in reason for reason in failed.values())
    assert server.requests()["addAttachment"] < 60
    server.faults.clear()
    Attacher(Service(gis), url, one_feature=True).attach(photos_in(folder))
    require_all(server, name, folder, features=5)


def test_retry_after_is_heeded_when_photos_are_attached(
    server: LayerServer, gis: Any, layer: tuple[str, str], folder: Path
) -> None:
    name, url = layer
    server.faults.add("http", "addAttachment", status=503, retry_after=3)
    began = time.monotonic()
    assert Attacher(Service(gis), url, one_feature=True).attach(photos_in(folder)).failed == {}
    assert time.monotonic() - began >= 3
    require_all(server, name, folder, features=5)


def test_a_photo_that_can_not_be_taken_away_is_an_error(
    server: LayerServer,
    gis: Any,
    layer: tuple[str, str],
    folder: Path,
) -> None:
    name, url = layer
    attacher = Attacher(Service(gis), url, one_feature=True)
    attacher.attach(photos_in(folder))
    server.faults.add("rows", "deleteAttachments", times=None, message="locked by a sync")
    with pytest.raises(StageError, match=r"can't be removed from feature .*locked by a sync"):
        attacher.prune(re.compile(r"IMG_0\.JPG"), set())
    server.faults.clear()
    assert attacher.prune(re.compile(r"IMG_0\.JPG"), set()) == 5
    assert len(server.attachments(0, name)) == 26
