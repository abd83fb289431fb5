"""camtrap publish and camtrap layer create, against the rehearsal server with the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import yaml

pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")

from support_runs import predict, run_on_driver, table, write_run

from camtrap_batch.cli import main
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LAYERS

LABELS = ("lion", "érable 🐆", "empty")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerServer]:
    with LayerServer(tmp_path_factory.mktemp("portal")) as server:
        yield server


@pytest.fixture
def job(tmp_path: Path, server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    rows = [
        {
            "image_id": f"i{n:02}",
            "location": f"C{n % 3}",
            "datetime": f"2021-06-0{1 + n % 7}T05:0{n % 9}:00",
            "utc_offset_minutes": 120,
        }
        for n in range(12)
    ]
    import datetime as dt

    for row in rows:
        row["datetime"] = dt.datetime.fromisoformat(row["datetime"])
    settings = {
        "publish": {"target": "arcgis", "portal": server.url},
        "dataset": {"utc_offset": "+02:00"},
    }
    path = write_run(tmp_path, rows, **settings)
    predict(path, {row["image_id"]: {LABELS[n % 3]: 0.9, LABELS[n % 2]: 0.1} for n, row in enumerate(rows)})
    run_on_driver(path, "merge")
    return path


def test_layers_are_made_once_and_a_run_is_pushed_to_them_once(
    job: Path, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="camtrap layer create"):
        run_on_driver(job, "publish")
    assert main(["layer", "create", str(job)]) == 0
    printed = capsys.readouterr().out
    block = yaml.safe_load(printed[printed.index("publish:") :])
    assert set(block["publish"]) == {"target", "portal", "cameras", "events", "photos"}
    assert main(["layer", "create", str(job)]) == 0
    again = capsys.readouterr().out
    assert yaml.safe_load(again[again.index("publish:") :]) == block
    assert "made as" not in again

    content = yaml.safe_load(job.read_text())
    job.write_text(yaml.safe_dump(content | block))
    service = block["publish"]["cameras"].split("/")[-3]
    dry = run_on_driver(job, "publish", dry_run=True)
    assert any("12 adds" in note for note in dry.notes)
    assert server.rows(0, service) == []
    run_on_driver(job, "publish")
    photos = server.rows(int(block["publish"]["photos"].rpartition("/")[2]), service)
    assert sorted(row["image_id"] for row in photos) == [f"i{n:02}" for n in range(12)]
    assert {row["ClassLabel"] for row in photos} == set(LABELS)
    first = next(row for row in photos if row["image_id"] == "i00")
    assert first["datetime"] == 1_622_516_400_000  # 05:00 at +02:00 is 03:00 UTC
    ledger = table(job, "ledger")
    assert {row["result"] for row in ledger} == {"ok"}
    assert {row["layer"] for row in ledger} == {
        block["publish"][name] for name in ("cameras", "events", "photos")
    }

    server.reset_requests()
    assert run_on_driver(job, "publish").shards_run == 0
    assert "applyEdits" not in server.requests()

    predict(job, {row["image_id"]: {"lion": 0.75} for row in photos}, "b" * 16)
    run_on_driver(job, "merge")
    run_on_driver(job, "publish", "publish.append=true")
    assert server.requests()["append"] == 3
    photos = server.rows(int(block["publish"]["photos"].rpartition("/")[2]), service)
    assert {(row["ClassLabel"], row["Confidence"]) for row in photos} == {("lion", 0.75)}


def test_the_best_photo_of_each_species_is_attached_once_and_replaced(
    job: Path, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(job.read_text()) | {"name": "best"}
    (job.parent / "best").symlink_to(job.parent / "run")
    job.write_text(yaml.safe_dump(content))
    assert main(["layer", "create", str(job)]) == 0
    printed = capsys.readouterr().out
    block = yaml.safe_load(printed[printed.index("publish:") :])
    del block["publish"]["events"], block["publish"]["photos"]
    content["publish"] = block["publish"] | {"best_photos": True}
    job.write_text(yaml.safe_dump(content))
    for number in range(12):
        (job.parent / "images" / f"i{number:02}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([number]) * 50)
    service = block["publish"]["cameras"].split("/")[-3]
    layer = int(block["publish"]["cameras"].rpartition("/")[2])

    def attached() -> set[tuple[str, str]]:
        places = {row["OBJECTID"]: row["location"] for row in server.rows(layer, service)}
        found = [(places[one["parent"]], one["name"]) for one in server.attachments(layer, service)]
        assert len(found) == len(set(found))
        return set(found)

    first = run_on_driver(job, "publish")
    events = table(job, "events")
    species = {(event["location"], event["label"]) for event in events if event["label"] != "uncertain"}
    assert any("best photos attached" in note for note in first.notes)
    assert len(attached()) == len(species) > 1
    server.reset_requests()
    run_on_driver(job, "publish")
    assert not {"addAttachment", "deleteAttachments", "applyEdits"} & set(server.requests())

    before = attached()
    rows = table(job, "catalog")
    predict(job, {row["image_id"]: {"lion": 0.5 + n / 100} for n, row in enumerate(rows)}, "b" * 16)
    run_on_driver(job, "merge")
    run_on_driver(job, "publish")
    assert {name.split("_")[1] for _, name in attached()} == {"lion"}
    assert attached() != before


def test_one_push_fills_the_full_and_the_public_layers(
    job: Path, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two services of one portal; the second is made and guarded like the first, and has an item, too."""
    content = yaml.safe_load(job.read_text()) | {"name": "two"}
    (job.parent / "two").symlink_to(job.parent / "run")
    content["publish"]["public"] = {"target": "arcgis", "best_photos": True}
    job.write_text(yaml.safe_dump(content))
    rows = table(job, "catalog")
    for row in rows:
        picture = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
        (job.parent / "images" / f"{row['image_id']}.jpg").write_bytes(picture)
    predict(job, {row["image_id"]: {"human" if n % 3 else "lion": 0.9} for n, row in enumerate(rows)})
    run_on_driver(job, "merge")
    assert main(["layer", "create", str(job)]) == 0
    printed = capsys.readouterr().out
    block = yaml.safe_load(printed[printed.index("publish:") :])["publish"]
    full, public = (
        {layer: url.rsplit("/", 3)[1:] for layer, url in made.items() if layer in LAYERS}
        for made in (block, block["public"])
    )
    assert {service for service, _, _ in full.values()} == {"camtrap_two"}
    assert {service for service, _, _ in public.values()} == {"public_camtrap_two"}

    def held(layers: dict[str, list[str]], layer: str) -> list[dict[str, Any]]:
        service, _, number = layers[layer]
        return server.rows(int(number), service)

    block["public"]["best_photos"] = True
    block["public"]["events"] = server._site.services["public_camtrap_two"].item
    job.write_text(yaml.safe_dump(content | {"publish": block}))
    result = run_on_driver(job, "publish")
    assert f"{block['photos']}: 12 adds" in result.notes
    assert f"publish.public: {block['public']['photos']}: 4 adds" in result.notes
    assert "publish.public: 1 best photos attached, 0 removed" in result.notes
    assert {row["ClassLabel"] for row in held(full, "photos")} == {"lion", "human"}
    assert {row["ClassLabel"] for row in held(public, "photos")} == {"lion"}
    assert {row["label"] for row in held(public, "events")} == {"lion"}
    assert not server.attachments(int(full["cameras"][2]), "camtrap_two")
    assert len(server.attachments(int(public["cameras"][2]), "public_camtrap_two")) == 1
    server.reset_requests()
    assert run_on_driver(job, "publish").shards_run == 0
    assert "applyEdits" not in server.requests()
    assert main(["layer", "map", str(job)]) == 0
    items = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert len(items) == 2
    assert main(["layer", "map", str(job)]) == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == items

    # An image turns out to show a person: it leaves the public layer without being asked to.
    predict(job, {row["image_id"]: {"human" if n else "lion": 0.9} for n, row in enumerate(rows)}, "b" * 16)
    run_on_driver(job, "merge")
    run_on_driver(job, "publish", "limits.deleted=1")
    assert [row["image_id"] for row in held(public, "photos")] == ["i00"]
    assert len(held(full, "photos")) == 12

    # What goes wrong with one of them does not hold up the other.
    predict(job, {row["image_id"]: {"lion": 0.8} for row in rows}, "c" * 16)
    run_on_driver(job, "merge")
    server.faults.add("rows", "applyEdits", rows=[1], nth=1, times=3, code=1017, message="no such lion")
    assert main(["publish", str(job), "--quiet"]) == 1
    server.faults.clear()
    said = capsys.readouterr().err
    assert "no such lion" in said
    assert said.endswith("; publish.public is up to date\n")
    assert len(held(public, "photos")) == 12
    before = len(table(job, "ledger"))
    server.reset_requests()
    assert main(["publish", str(job), "--quiet"]) == 0
    assert {row["layer"] for row in table(job, "ledger")[before:]} <= {block[layer] for layer in LAYERS}

    block["public"]["photos"] = block["events"]
    job.write_text(yaml.safe_dump(content | {"publish": block}))
    assert main(["publish", str(job), "--quiet"]) == 2
    assert f"publish.public: photos: {block['events']} is also publish.target" in capsys.readouterr().err


def test_rows_that_fail_are_named_and_kept_in_the_ledger(
    job: Path, server: LayerServer, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(job.read_text())
    content["name"] = "other"
    (job.parent / "other").symlink_to(job.parent / "run")
    job.write_text(yaml.safe_dump(content))
    assert main(["layer", "create", str(job)]) == 0
    printed = capsys.readouterr().out
    block = yaml.safe_load(printed[printed.index("publish:") :])
    del block["publish"]["photos"], block["publish"]["events"]
    job.write_text(yaml.safe_dump(content | block))
    server.faults.add("rows", "applyEdits", rows=[1], times=None, code=1017, message="no such lion")
    assert main(["publish", str(job), "--quiet"]) == 1
    assert "no such lion" in capsys.readouterr().err
    server.faults.clear()
    assert sorted(row["result"] for row in table(job, "ledger"))[0] == "no such lion (1017)"
    assert main(["publish", str(job), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"portal": "http://gis.example.org/portal"}, "https://"),
        (
            {"portal": "https://127.0.0.1:9/portal", "cameras": "https://127.0.0.1:9/FeatureServer/0"},
            "no portal answers",
        ),
        ({"cameras": "https://h/a?token=s3cret"}, "a query, which may hold a secret"),
        ({"fields": {"camera": {}}}, "did you mean 'cameras'"),
        ({"profile": "nobody", "cameras": "{server}/x/FeatureServer/0"}, "no profile 'nobody'"),
        ({"cameras": "{server}/CameraTraps/FeatureServer"}, "should be a feature layer"),
        ({"cameras": "{server}/CameraTraps/FeatureServer/7"}, "FeatureServer/7"),
        ({"cameras": "{server}/CameraTraps/FeatureServer/0"}, "has no field"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_changed(
    job: Path, server: LayerServer, capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    content = yaml.safe_load(job.read_text())
    services = server.url.replace("/portal", "/server/rest/services")
    for key, value in change.items():
        content["publish"][key] = value.format(server=services) if isinstance(value, str) else value
    job.write_text(yaml.safe_dump(content))
    assert main(["publish", str(job), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "s3cret" not in error


def test_no_secret_is_left_anywhere(
    job: Path, server: LayerServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CAMTRAP_ARCGIS_TOKEN")
    monkeypatch.setenv("CAMTRAP_ARCGIS_USERNAME", "ranger")
    monkeypatch.setenv("CAMTRAP_ARCGIS_PASSWORD", "not-the-Passw0rd")
    content = yaml.safe_load(job.read_text())
    content["publish"]["cameras"] = server.layer_url(0)
    job.write_text(yaml.safe_dump(content))
    assert main(["publish", str(job), "--quiet"]) == 2
    monkeypatch.setenv("CAMTRAP_ARCGIS_PASSWORD", "rehearsal")
    assert main(["layer", "create", str(job)]) == 0
    assert main(["report", str(job)]) == 0
    assert (job.parent / "run" / "report" / "index.html").is_file()
    said = "".join(capsys.readouterr())
    assert "Passw0rd" not in said
    assert not (job.parent / ".arcgisprofile").exists()
    for file in (path for path in job.parent.rglob("*") if path.is_file()):
        data = file.read_bytes()
        assert b"Passw0rd" not in data
        assert b"rehearsal" not in data
