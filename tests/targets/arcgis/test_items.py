"""Items around the layers: what they say, who sees them, relationships, maps, and layers named by item id."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import support_runs
import yaml
from arcgis.features import FeatureLayer
from PIL import Image
from support_targets import layers_of

from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.job import Job
from camtrap_batch.portal import Service
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets.arcgis import create_layers
from camtrap_batch.targets.arcgis.items import ItemText, item_of, resolve_layers, thumbnail

ABOUT = {
    "title": "Lions of the north",
    "description": "Two years of cameras.",
    "contributors": [{"title": "Ann Ranger"}, {"title": "A Park"}],
    "licenses": [{"name": "CC0-1.0", "scope": "media"}, {"name": "CC-BY-4.0", "scope": "data"}],
    "keywords": ["lions"],
}
_NUMBERS = itertools.count()


@pytest.fixture
def job() -> str:
    return f"items{next(_NUMBERS)}"


def test_a_new_item_says_what_the_job_says_and_keeps_what_a_user_wrote(gis: Any, job: str) -> None:
    service = Service(gis)
    text = ItemText.of(job, ABOUT)
    made, done = create_layers(service, job, layers_of(), [], {}, {}, text=text)
    item = item_of(service, made["cameras"])
    assert item.description == "Two years of cameras."
    assert (item.accessInformation, item.licenseInfo) == ("Ann Ranger, A Park", "CC-BY-4.0")
    assert job in item.snippet
    assert item.thumbnail == "thumbnail/thumbnail.png"
    assert any("summary, description, credits, terms of use, thumbnail added" in line for line in done)
    item.update({"snippet": "Ours", "title": item.title})
    item.sharing.sharing_level = "EVERYONE"
    again, done = create_layers(service, job, layers_of(), [], {}, {}, text=replace(text, summary="Other"))
    assert again == made
    assert not any(line.startswith("item ") for line in done)
    after = gis.content.get(item.id)
    assert (after.snippet, after.access) == ("Ours", "public")


def test_without_a_word_of_the_job(job: str) -> None:
    text = ItemText.of(job, None)
    assert text.title == f"Camera traps: {job}"
    assert (text.credits, text.terms) == ("", "")
    with Image.open(thumbnail("A very long title of a survey that goes over several lines")) as picture:
        assert (picture.size, picture.format) == ((600, 400), "PNG")
        assert len(picture.convert("RGB").getcolors(600 * 400)) > 10


def test_layers_of_one_service_are_related(gis: Any, job: str) -> None:
    service = Service(gis)
    made, done = create_layers(service, job, layers_of(), [], {}, {})
    assert "cameras and events are related by location" in done
    assert "events and photos are related by event_id" in done
    cameras, events = (FeatureLayer(made[name], gis) for name in ("cameras", "events"))
    for layer, row in (
        (cameras, {"location": "A", "job": job}),
        (events, {"event_id": "e1", "location": "A", "label": "lion", "job": job}),
        (events, {"event_id": "e2", "location": "B", "label": "lion", "job": job}),
    ):
        added = layer.edit_features(adds=[{"attributes": row, "geometry": {"x": 1, "y": 1}}])
        assert added["addResults"][0]["success"]
    (relation,) = service.describe(made["cameras"])["relationships"]
    found = cameras.query_related_records("1", str(relation["id"]), out_fields="event_id")
    (group,) = found["relatedRecordGroups"]
    assert [row["attributes"]["event_id"] for row in group["relatedRecords"]] == ["e1"]
    roles = {one["name"]: one["role"] for one in service.describe(made["events"])["relationships"]}
    assert roles == {
        "cameras and events": "esriRelRoleDestination",
        "events and photos": "esriRelRoleOrigin",
    }
    _, done = create_layers(service, job, layers_of(), [], {}, {})
    assert not any("related" in line for line in done)


def test_a_portal_that_does_not_relate_layers(gis: Any, job: str, server: LayerServer) -> None:
    """Layers are made nevertheless, and the reason is given; a later call goes on."""
    service = Service(gis)
    server.faults.add("error", "addToDefinition", nth=7, times=2, code=400, message="no relationships here")
    try:
        made, done = create_layers(service, job, layers_of(), [], {}, {})
    finally:
        server.faults.clear()
    assert sum("are not related" in line and "no relationships here" in line for line in done) == 2
    _, done = create_layers(service, job, layers_of(), [], made, {})
    assert "cameras and events are related by location" in done


@pytest.mark.parametrize("form", ["{item}", "{item}/{number}"])
def test_layers_by_item_id(gis: Any, job: str, form: str) -> None:
    service = Service(gis)
    made, _ = create_layers(service, job, layers_of(), [], {}, {})
    item = item_of(service, made["events"]).id
    given = {layer: form.format(item=item, number=url.rpartition("/")[2]) for layer, url in made.items()} | {
        "photos": made["photos"]
    }
    assert resolve_layers(service, given) == made


def test_item_ids_that_can_not_be(gis: Any, job: str) -> None:
    service = Service(gis)
    made, _ = create_layers(service, job, layers_of(), [], {}, {})
    item = item_of(service, made["events"]).id
    for value, message in (
        ("0" * 32, "publish.cameras: item 00000000000000000000000000000000"),
        (f"{item}/9", f"publish.cameras: item {item}: which layer? It has {item}/0 (cameras)"),
    ):
        with pytest.raises(InputError) as caught:
            resolve_layers(service, {"cameras": value})
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.fixture
def run(tmp_path: Path, server: LayerServer, monkeypatch: pytest.MonkeyPatch, job: str) -> Path:
    """A job of four photos at two cameras, with its layers made and pushed to."""
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    (tmp_path / "cameras.csv").write_text("location,latitude,longitude\nC0,-24.5,31.5\nC1,-24.4,31.6\n")
    rows = [
        {"image_id": f"i{n}", "location": f"C{n % 2}", "datetime": datetime(2021, 6, 1 + n)} for n in range(4)
    ]
    path = support_runs.write_run(tmp_path, rows, dataset={"cameras": "cameras.csv", "about": ABOUT})
    for row in rows:
        Image.new("RGB", (64, 48), "green").save(tmp_path / "images" / f"{row['image_id']}.jpg")
    support_runs.predict(path, {f"i{n}": {"impala" if n == 3 else "lion": 0.9} for n in range(4)})
    support_runs.run_on_driver(path, "merge")
    content = yaml.safe_load(path.read_text()) | {"name": job, "output": str(tmp_path)}
    (tmp_path / "run").rename(tmp_path / job)
    content["publish"] = {"target": "arcgis", "portal": server.url}
    path.write_text(yaml.safe_dump(content))
    return path


def set_publish(path: Path, **keys: Any) -> None:
    content = yaml.safe_load(path.read_text())
    content["publish"] |= keys
    path.write_text(yaml.safe_dump(content))


def test_a_map_and_photos_of_events(
    run: Path, job: str, gis: Any, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layer", "create", str(run)]) == 0
    printed = capsys.readouterr().out
    set_publish(run, **yaml.safe_load(printed[printed.index("publish:") :])["publish"], event_photos=True)
    assert main(["publish", str(run), "--quiet"]) == 0
    name = Job.load(run).publish.events.split("/")[-3]  # type: ignore[attr-defined]
    rows = server.rows(1, name)
    attached = server.attachments(1, name)
    assert sorted(one["parent"] for one in attached) == [1, 2, 3, 4]
    label_of = {number: row["label"] for number, row in enumerate(rows, 1)}
    assert all(one["name"].startswith(f"best_{label_of[one['parent']]}_") for one in attached)
    assert all(Image.open(io.BytesIO(bytes(one["content"]))).size == (64, 48) for one in attached)
    assert main(["publish", str(run), "--quiet"]) == 0
    assert len(server.attachments(1, name)) == 4
    capsys.readouterr()
    assert main(["layer", "map", str(run)]) == 0
    item_id = capsys.readouterr().out.split()[1]
    item = gis.content.get(item_id)
    assert (item.type, item.title, item.access) == ("Web Map", "Lions of the north", "private")
    assert item.accessInformation == "Ann Ranger, A Park"
    content = item.get_data()
    content = json.loads(content) if isinstance(content, str | bytes) else content
    assert [layer["title"] for layer in content["operationalLayers"]] == ["Photos", "Events", "Cameras"]
    events = content["operationalLayers"][1]
    renderer = events["layerDefinition"]["drawingInfo"]["renderer"]
    assert (renderer["field1"], [one["value"] for one in renderer["uniqueValueInfos"]][:2]) == (
        "label", ["lion", "impala"],
    )  # fmt: skip
    first, last = (datetime(2021, 6, day).timestamp() * 1000 for day in (1, 4))
    assert [stop["value"] for stop in renderer["visualVariables"][0]["stops"]] == [first, last]
    slider = content["widgets"]["timeSlider"]["properties"]
    assert (slider["startTime"], slider["endTime"]) == (first, last)
    area = content["initialState"]["viewpoint"]["targetGeometry"]
    assert area["xmin"] < 31.5 * 111_319.49 < area["xmax"]
    item.update({"title": "Mine"})
    item.sharing.sharing_level = "ORGANIZATION"
    assert main(["layer", "map", str(run)]) == 0
    again = capsys.readouterr().out
    assert again.startswith(f"item {item_id} updated: ")
    after = gis.content.get(item_id)
    assert (after.title, after.access) == ("Mine", "org")


def test_sensitive_species_on_a_layer_for_everyone(
    run: Path, gis: Any, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layer", "create", str(run)]) == 0
    printed = capsys.readouterr().out
    layers = yaml.safe_load(printed[printed.index("publish:") :])["publish"]
    set_publish(run, **layers, sensitive=["lion"])
    assert main(["publish", str(run), "--quiet"]) == 0
    item = item_of(Service(gis), layers["cameras"])
    item.sharing.sharing_level = "EVERYONE"
    capsys.readouterr()
    assert main(["publish", str(run), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "is shared with everyone, and would hold exact positions of publish.sensitive" in said
    assert main(["publish", str(run), "--quiet", "--set", "publish.public=true"]) == 0
    set_publish(run, **layers, public="public.gpkg")
    capsys.readouterr()
    assert main(["publish", str(run), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "would hold exact positions and people; name the layer for everyone in publish.public" in said
    assert not (run.parent / "run" / "public.gpkg").exists()
    name = layers["cameras"].split("/")[-3]
    assert -24.5 not in [row["SHAPE"]["y"] for row in server.rows(0, name)]


def test_a_map_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = support_runs.write_run(tmp_path, [{"image_id": "a", "location": "A"}])
    assert main(["layer", "map", str(path)]) == 2
    assert "publish.target: is locations.gpkg; maps are made of `target: arcgis`" in capsys.readouterr().err
