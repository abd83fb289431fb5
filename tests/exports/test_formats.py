"""Each format: what is in the file, that others' tools take it, and that every image is accounted for."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from megadetector.data_management.integrity_check_json_db import (
    IntegrityCheckOptions,
    integrity_check_json_db,
)
from megadetector.postprocessing.validate_batch_results import (
    ValidateBatchResultsOptions,
    validate_batch_results,
)
from support_exports import MODEL, START, add_boxes, export, image, images_of, predict, write_run
from support_runs import Row, commit, run_on_driver

from camtrap_batch.catalog.camtrap_dp import read_camtrap_dp, read_deployment_sites
from camtrap_batch.catalog.cct import read_cct
from camtrap_batch.catalog.names import tidy_name
from camtrap_batch.errors import InputError
from camtrap_batch.exports import Images
from camtrap_batch.exports.cct import number_categories
from camtrap_batch.images import ImageRoot
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import STATUSES, USABLE

SUFFIX = {"md-json": ".json", "csv": ".csv", "cct": ".json", "camtrap-dp": ""}
texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12
)
odd = st.one_of(
    texts, st.sampled_from(["=1+1", "-2", "+x", "@a", "'b", '"q"', "a,b", "l\nm", "🦁,", "NA", "\t"])
)


@pytest.fixture
def boxed(tmp_path: Path) -> Images:
    """A run with boxes: an animal, a person and some that do not count in `a`, none that counts elsewhere."""
    labels = {"a": "lion", "b": "lion", "c": "empty", "d": "oryx"}
    run = write_run(tmp_path, [image(id_, 60 * n, label) for n, (id_, label) in enumerate(labels.items())])
    box = {"image_id": "a", "x": 0.1, "y": 0.2, "w": 0.3, "h": 0.5, "category": "animal", "confidence": 0.9}
    rows = [
        box | {"label": "oryx", "label_confidence": 0.75},
        box | {"label": "lion", "label_confidence": 0.9, "repeat": 0},  # the first place that repeats
        box | {"category": "person", "x": 0.5},
        box | {"category": "person", "confidence": 0.1},
        box | {"label": "empty", "label_confidence": 0.9},
        box | {"image_id": "b", "confidence": 0.1},
    ]
    add_boxes(tmp_path / "job.yaml", rows, threshold=0.2)
    return images_of(run)


@contextmanager
def made(rows: list[Row], **options: Any) -> Iterator[tuple[Images, Path]]:
    with tempfile.TemporaryDirectory() as scratch:
        yield images_of(write_run(Path(scratch), rows, **options)), Path(scratch)


def written(images: Images, to: str, folder: Path) -> Path:
    path = folder / f"out{SUFFIX[to]}"
    export(images, to, path)
    return path


# --- MegaDetector


def check_md(path: Path, **options: Any) -> dict[str, Any]:
    chosen = ValidateBatchResultsOptions()
    for name, value in options.items():
        setattr(chosen, name, value)
    found = validate_batch_results(str(path), chosen)["validation_results"]
    assert not found["errors"]
    assert not found["warnings"]
    return {record["file"]: record for record in json.loads(path.read_text(encoding="utf-8"))["images"]}


def test_md_json(images: Images, tmp_path: Path) -> None:
    path = written(images, "md-json", tmp_path)
    records = check_md(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    names = content["classification_categories"]
    assert sorted(names.values()) == ["empty", "human", "lion", "oryx"]
    [lion] = records["i00.jpg"]["detections"]
    assert (lion["category"], lion["conf"], lion["bbox"]) == ("1", 0.8, [0, 0, 1, 1])
    assert [[names[id_], p] for id_, p in lion["classifications"]] == [["lion", 0.8], ["empty", 0.2]]
    [human] = records["i05.jpg"]["detections"]
    assert content["detection_categories"][human["category"]] == "person"
    assert human["conf"] == 1.0
    assert records["i01.jpg"] == {"file": "i01.jpg", "detections": []}
    assert records["i06.jpg"]["failure"] == "inference failure"
    failed = [record for record in records.values() if record.get("failure") == "image access failure"]
    assert len(failed) == len(STATUSES) - len(USABLE) + 1
    assert all(record["detections"] is None for record in failed)
    assert records["clip.AVI"]["frames_processed"] == []
    assert MODEL in content["info"]["classifier"]


def test_md_json_of_files_that_are_there(tmp_path: Path) -> None:
    names = ["a b.jpg", "sub/ünï.jpg", "video.mp4"]  # the last one is a JPEG nevertheless
    run = write_run(tmp_path, [image(f"i{n}", n, file_name=name) for n, name in enumerate(names)])
    for name in names:
        file = tmp_path / "images" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    path = written(images_of(run), "md-json", tmp_path)
    records = check_md(path, check_image_existence=True, relative_path_base=str(tmp_path / "images"))
    assert list(records) == names
    (tmp_path / "images" / names[0]).unlink()
    with pytest.raises(AssertionError, match=names[0]):
        check_md(path, check_image_existence=True, relative_path_base=str(tmp_path / "images"))


def test_md_json_opens_in_megadetectors_own_loader(images: Images, tmp_path: Path) -> None:
    from megadetector.postprocessing.load_api_results import load_api_results

    frame, _ = load_api_results(str(written(images, "md-json", tmp_path)), normalize_paths=True)
    assert len(frame) == len(images)


def test_md_json_with_boxes(boxed: Images, tmp_path: Path) -> None:
    path = written(boxed, "md-json", tmp_path)
    records = check_md(path)
    names = json.loads(path.read_text())["classification_categories"]
    box, *others = records["a.jpg"]["detections"]
    assert (box["category"], box["conf"], box["bbox"]) == ("1", 0.9, [0.1, 0.2, 0.3, 0.5])
    assert [(other["category"], other["conf"]) for other in others] == [("2", 0.9), ("2", 0.1), ("1", 0.9)]
    assert [[names[id_], p] for id_, p in box["classifications"]] == [["oryx", 0.75]]
    assert "classifications" not in records["b.jpg"]["detections"][0]
    assert records["c.jpg"]["detections"] == []
    assert records["d.jpg"]["detections"][0]["bbox"] == [0, 0, 1, 1]


# --- COCO Camera Traps


def check_cct(path: Path) -> dict[str, Any]:
    options = IntegrityCheckOptions()
    options.verbose = False
    options.requireInfo = True
    options.validateBoxes = "error"
    _, content, problems = integrity_check_json_db(str(path), options)
    assert not problems["validation_errors"]
    return content


def test_cct(images: Images, tmp_path: Path) -> None:
    path = written(images, "cct", tmp_path)
    content = check_cct(path)
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert names == {
        0: "empty",
        7: "lion",
        24: "oryx",
        25: "human",
    }  # the data set's own ids, where it has them
    found = {mark["image_id"]: (names[mark["category_id"]], mark["score"]) for mark in content["annotations"]}
    assert found["i00"] == ("lion", 0.8)
    assert found["i01"] == ("empty", 0.8)
    assert len(found) == len(content["annotations"]) == 11
    by_id = {record["id"]: record for record in content["images"]}
    assert by_id["i00"]["datetime"] == "2021-04-11 20:00:00"
    assert (by_id["i00"]["seq_id"], by_id["i00"]["frame_num"], by_id["i00"]["seq_num_frames"]) == ("s1", 0, 2)
    assert by_id["bad4"]["corrupt"]
    assert by_id["i08"]["location"] == "unknown"
    read = read_cct(str(path))
    rows = {row["image_id"]: row for row in read.table.to_pylist()}
    assert [label["name"] for label in rows["i02"]["labels"]] == ["oryx"]
    assert rows["i02"]["datetime"] == START + dt.timedelta(hours=1)
    assert rows["i10"]["file_name"] == "sub/é 🦁,'\"=.jpg"


def test_cct_with_boxes(boxed: Images, tmp_path: Path) -> None:
    content = check_cct(written(boxed, "cct", tmp_path))
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [(mark["image_id"], names[mark["category_id"]], mark["score"]) for mark in content["annotations"]]
    assert found == [
        ("a", "oryx", 0.75), ("a", "person", 0.9), ("b", "lion", 0.8), ("c", "empty", 0.8),
        ("d", "oryx", 0.8),
    ]  # fmt: skip
    boxes = [mark["bbox"] for mark in content["annotations"] if "bbox" in mark]
    assert boxes == [[204.8, 307.2, 614.4, 768.0], [1024.0, 307.2, 614.4, 768.0]]


def test_categories_have_one_id_each() -> None:
    known = [(0, "lion"), (3, "oryx"), (3, "oryx"), (5, "oryx")]
    assert number_categories(["blank", "lion", "oryx"], known, "blank".__eq__) == {
        "blank": 0,
        "oryx": 3,
        "lion": 6,
    }


# --- CSV


def read_rows(path: Path) -> list[dict[str, str]]:
    text = io.StringIO(path.read_bytes().decode("utf-8"), newline="")
    return [
        {name: value.removeprefix("'") for name, value in row.items()}
        for row in csv.DictReader(text, strict=True)
    ]


def test_csv(images: Images, tmp_path: Path) -> None:
    rows = {row["image_id"]: row for row in read_rows(written(images, "csv", tmp_path))}
    first, second, burst = rows["i00"], rows["i01"], rows["i03"]
    assert (first["label"], first["confidence"], first["datetime"]) == ("lion", "0.8", "2021-04-11 20:00:00")
    assert (second["label"], second["sequence_label"]) == ("empty", "lion")
    assert second["event_id"] == first["event_id"] != ""
    assert burst["seq_id"].startswith("burst-")
    assert (first["latitude"], first["longitude"]) == ("-24.25", "31.5")
    assert rows["i07"]["latitude"] == ""
    assert (rows["i09"]["datetime"], rows["i09"]["event_id"], rows["i09"]["sequence_label"]) == (
        "",
        "",
        "lion",
    )
    assert {row["label"] for row in rows.values() if row["status"] not in USABLE} == {""}
    assert rows["i04"]["event_id"] == ""
    events = images.events
    counted = Counter(row["event_id"] for row in rows.values() if row["event_id"])
    assert counted == dict(zip(events["event_id"].to_pylist(), events["n_images"].to_pylist(), strict=True))


@settings(deadline=None, max_examples=8)
@given(st.lists(odd, min_size=1, max_size=20, unique=True), odd)
def test_csv_of_odd_names(names: list[str], location: str) -> None:
    rows = [image(f"i{n}", n, name, file_name=name, location=location) for n, name in enumerate(names)]
    with made(rows) as (images, folder):
        path = written(images, "csv", folder)
        found = read_rows(path)
        assert [row["file_name"] for row in found] == names
        assert {row["location"] for row in found} == {location}
        raw = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))
        numbers = [raw[0].index(name) for name in ("latitude", "longitude")]
        cells = [cell for row in raw[1:] for at, cell in enumerate(row) if at not in numbers]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


# --- Camtrap DP


def test_camtrap_dp(images: Images, tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    path = written(images, "camtrap-dp", tmp_path)
    check_package(path)
    tables = {name: read_rows(path / f"{name}.csv") for name in ("deployments", "media", "observations")}
    assert [row["deploymentID"] for row in tables["deployments"]] == ["A", "B", "d1"]
    a, b, d1 = tables["deployments"]
    assert (d1["deploymentStart"], d1["deploymentEnd"]) == (
        "2021-04-11T21:00:00+02:00",
        "2021-04-20T20:00:00+01:00",
    )
    assert (d1["locationID"], d1["timestampIssues"], b["timestampIssues"]) == ("A", "false", "true")
    assert (a["longitude"], a["latitude"], b["cameraModel"]) == ("31.5", "-24.25", "")
    by_medium = {row["mediaID"]: row for row in tables["observations"] if row["observationLevel"] == "media"}
    assert [by_medium[id_]["observationType"] for id_ in ("i00", "i01", "i05", "i06")] == [
        "animal", "blank", "human", "unclassified",
    ]  # fmt: skip
    assert by_medium["i00"]["scientificName"] == "lion"
    assert by_medium["i00"]["classificationProbability"] == "0.8"
    assert {row["classifiedBy"] for row in by_medium.values()} == {MODEL, ""}
    events = {row["eventID"]: row for row in tables["observations"] if row["observationLevel"] == "event"}
    of = events[by_medium["i00"]["eventID"]]
    assert (of["eventStart"], of["eventEnd"]) == ("2021-04-11T20:00:00+02:00", "2021-04-11T20:00:02+02:00")
    assert (of["count"], of["classificationMethod"]) == ("1", "machine")
    descriptor = json.loads((path / "datapackage.json").read_text())
    assert [taxon["scientificName"] for taxon in descriptor["taxonomic"]] == ["lion", "oryx"]
    assert descriptor["temporal"] == {"start": "2021-04-11", "end": "2021-04-20"}


def test_camtrap_dp_without_people(check_package: Callable[[Path], None]) -> None:
    """Nor vehicles: by the model's label, by that of the sequence, by the metadata's."""
    labels = ["lion", "human", "vehicle", "lion", "lion"]
    rows = [image(f"i{n}", 3600 * n, label) for n, label in enumerate(labels)]
    rows[3]["truth"] = "Person"
    with made(rows) as (images, folder):
        found = export(images, "camtrap-dp", folder / "out", **{"without-people": True})
        check_package(folder / "out")
        assert [row["mediaID"] for row in read_rows(folder / "out" / "media.csv")] == ["i0", "i4"]
        observed = {row["scientificName"] for row in read_rows(folder / "out" / "observations.csv")}
    assert observed == {"lion"}
    assert found.left_out == {"that show people (--without-people)": 3}


def test_camtrap_dp_names_what_is_left_out(images: Images, tmp_path: Path) -> None:
    found = export(images, "camtrap-dp", tmp_path / "dp")
    assert found.listed == tmp_path / "dp.left-out.csv"
    rows = read_rows(found.listed)
    reasons = {row["id"]: row["reason"] for row in rows if row["kind"] == "image"}
    assert reasons["i07"] == "of a location without coordinates"
    assert reasons["i08"] == "without a location"
    assert reasons["i09"] == "without a date"
    assert reasons["i11"] == "with a file name that Camtrap DP does not allow"
    assert reasons["clip"] == "with status not_image"
    assert Counter(reasons.values()) == found.left_out
    left_events = [row["id"] for row in rows if row["kind"] == "event"]
    assert len(left_events) == found.notes["events left out with all their images"] == 2
    assert any("1 without a date" in line for line in found.lines())
    assert (
        f"{found.left_out.total()} of {len(images)} images" in (tmp_path / "dp/datapackage.json").read_text()
    )


def test_camtrap_dp_is_read_back_the_same(images: Images, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "dp.zip"
    export(images, "camtrap-dp", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    (tmp_path / "images").mkdir()
    read = read_camtrap_dp(str(path), ImageRoot(str(tmp_path / "images"), {}))
    before = {row["image_id"]: row for row in run.table("manifest").to_table().to_pylist()}
    labels = {
        id_: label
        for block in images.blocks(["image_id"])
        for id_, label in zip(block.rows["image_id"].to_pylist(), block.label.to_pylist(), strict=True)
    }
    rows = read.table.to_pylist()
    assert len(rows) == 8
    for row in rows:
        was = before[row["image_id"]]
        assert (row["datetime"], row["location"]) == (was["datetime"], was["location"])
        assert row["file_name"] == was["file_name"]
        assert row["utc_offset_minutes"] == (was["utc_offset_minutes"] or 0)
        assert [label["name"] for label in row["labels"]] == [labels[row["image_id"]]] or row[
            "image_id"
        ] == "i06"
    places = {
        row["location"]: (row["longitude"], row["latitude"])
        for row in read_deployment_sites(str(path)).to_pylist()
    }
    assert places == {"A": (31.5, -24.25), "B": (0.0, 51.5)}


@settings(deadline=None, max_examples=6, phases=[Phase.generate])  # shrinking one takes minutes
@given(
    st.lists(odd, min_size=2, max_size=15, unique_by=str.strip), odd, st.sampled_from([None, -210, 0, 345])
)
def test_camtrap_dp_of_odd_names(
    check_package: Callable[[Path], None], names: list[str], deployment: str, offset: int | None
) -> None:
    """Whatever things are called, the package is valid and read back as it was."""
    rows = [
        image(name, n, name, file_name=f"f/{name}", location=name, deployment=(deployment, None)[n % 2])
        | {"utc_offset_minutes": offset}
        for n, name in enumerate(names)
    ]
    rows.append(image("sound", 0, "A"))
    with made(rows, places=dict.fromkeys([*names, "A"], (1.0, 2.0))) as (images, folder):
        found = export(images, "camtrap-dp", folder / "dp")
        assert found.images + found.left_out.total() == len(rows)
        check_package(folder / "dp")
        read = read_camtrap_dp(str(folder / "dp"), ImageRoot(str(folder), {})).table.to_pylist()
        assert len(read) == found.images
        wanted = {row["image_id"].strip(): row for row in rows}
        for row in read:
            was = wanted[row["image_id"]]
            assert row["datetime"] == was["datetime"]
            assert row["file_name"] == tidy_name(was["file_name"].strip())
            assert row["location"] == was["location"].strip()
            assert [label["name"] for label in row["labels"]] == [" ".join(was["location"].split())]


def test_camtrap_dp_says_which_dates_are_in_doubt(tmp_path: Path) -> None:
    rows = [image(location, location=location, utc_offset_minutes=60) for location in "AB"]
    run = write_run(tmp_path, rows)
    finding = {"image_id": "B", "kind": "date_in_future"}
    others = [finding | {"image_id": "A", "kind": "size_differs"}]
    commit(
        run, "validate", "findings", [finding, *others], {}, manifest_plan=run.snapshot("manifest").plan_id
    )
    commit(run, "validate", "findings", [finding | {"image_id": "A"}], {}, manifest_plan="another")
    export(images_of(run), "camtrap-dp", tmp_path / "dp")
    issues = {
        row["deploymentID"]: row["timestampIssues"] for row in read_rows(tmp_path / "dp/deployments.csv")
    }
    assert issues == {"A": "false", "B": "true"}


def test_camtrap_dp_of_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path, [image("a", None), image("b", location="C")])
    (tmp_path / "dp").mkdir()
    with pytest.raises(
        InputError, match=r"no image can be .*1 without a date.*1 of a location without coord"
    ):
        export(images_of(run), "camtrap-dp", tmp_path / "dp")
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "dp",
        "images",
        "job.yaml",
        "cameras.geojson",
        "run",
    }


# --- boxes and groups in Camtrap DP


def test_camtrap_dp_with_boxes(boxed: Images, tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    path = written(boxed, "camtrap-dp", tmp_path)
    check_package(path)
    rows = [row for row in read_rows(path / "observations.csv") if row["observationLevel"] == "media"]
    first, second, *others = rows
    wanted = {
        "mediaID": "a", "observationType": "animal", "scientificName": "oryx", "count": "1", "bboxX": "0.1",
        "bboxY": "0.2", "bboxWidth": "0.3", "bboxHeight": "0.5", "classificationProbability": "0.75",
    }  # fmt: skip
    assert {name: first[name] for name in wanted} == wanted
    assert (second["mediaID"], second["observationType"], second["bboxX"]) == ("a", "human", "0.5")
    assert [(row["mediaID"], row["observationType"], row["bboxX"], row["count"]) for row in others] == [
        ("b", "animal", "", ""), ("c", "blank", "", ""), ("d", "animal", "", ""),
    ]  # fmt: skip
    read = read_camtrap_dp(str(path), ImageRoot(str(tmp_path / "images"), {})).table.to_pylist()
    assert [(label["name"], label["count"]) for label in read[0]["labels"]] == [("oryx", 1), ("human", 1)]


def test_boxes_of_images_that_are_not_there(boxed: Images, tmp_path: Path) -> None:
    add_boxes(tmp_path / "job.yaml", [{"image_id": "x", "category": "animal"}], threshold=0.2)
    with pytest.raises(InputError, match="detections of images that are not in the manifest"):
        written(images_of(boxed.run), "md-json", tmp_path)


def test_camtrap_dp_says_what_a_group_is(tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    """Where a sequence is not sure of a species, its event has the name and the rank of a group."""
    rows = [image("a") | {"probs": {"lion": 0.45, "leopard": 0.4}}, image("b", 9000, "leopard")]
    cats = {"genus": "Panthera", "tribe": "Pantherini", "family": "Felidae"}
    taxonomy = {"lion": cats, "leopard": cats}
    path = written(
        images_of(write_run(tmp_path, rows, events={"taxonomy": taxonomy})), "camtrap-dp", tmp_path
    )
    check_package(path)
    events = [row for row in read_rows(path / "observations.csv") if row["observationLevel"] == "event"]
    assert [row["scientificName"] for row in events] == ["Panthera", "leopard"]
    taxa = json.loads((path / "datapackage.json").read_text())["taxonomic"]
    species = {"genus": "Panthera", "family": "Felidae"}
    assert taxa == [
        {"scientificName": "Panthera", "taxonRank": "genus", "family": "Felidae"},
        {"scientificName": "leopard", **species},
        {"scientificName": "lion", **species},
    ]


# --- snapshots


def test_an_older_result_of_merge(tmp_path: Path) -> None:
    rows = [image("a", 0, "lion"), image("b", 1, "lion")]
    run = write_run(tmp_path, rows)
    changed: list[Row] = [row | {"probs": {"oryx": 0.9, "lion": 0.1}} for row in rows]
    run_on_driver(tmp_path / "job.yaml", "merge", "infer.min_confidence=0.95")
    predict(tmp_path / "job.yaml", changed)
    wanted = {1: ("lion", "lion"), 2: ("lion", "uncertain"), 3: ("oryx", "oryx"), None: ("oryx", "oryx")}
    for number, labels in wanted.items():
        found = read_rows(written(images_of(run, number), "csv", tmp_path))
        assert {(row["label"], row["sequence_label"]) for row in found} == {labels}
        assert all(row["event_id"] for row in found)
    with pytest.raises(InputError, match="no snapshot 4 of locations; there are: 1, 2, 3"):
        images_of(run, 4)


def test_predictions_that_were_not_merged(tmp_path: Path) -> None:
    run = write_run(tmp_path, [image("a")])
    before = run.table("predictions")
    commit(run, "infer", "predictions", before.to_table().to_pylist(), before.snapshot.inputs)
    images = images_of(run)
    check_md(written(images, "md-json", tmp_path))
    with pytest.raises(
        InputError, match="no sequences and events for snapshot 2 of predictions; run merge first"
    ):
        export(images, "csv", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_predictions_of_other_images(tmp_path: Path) -> None:
    run = write_run(tmp_path, [image("a"), image("b", 1)])
    inputs = run.snapshot("predictions").inputs
    commit(run, "infer", "predictions", [{"image_id": "a"}, {"image_id": "x"}], inputs)
    with pytest.raises(
        InputError, match="the predictions do not match the manifest's images; run infer first"
    ):
        export(images_of(run), "md-json", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_camtrap_dp_has_the_true_start_and_end(tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    """Where somebody wrote them down; a deployment that saw nothing is one, too."""
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude,start,end,camera_id\n"
        "A,-24.25,31.5,2021-04-01,2021-04-21 08:00,left\n"
        "A,-24.25,31.5,2021-05-01,2021-05-04,left\n"
        "B,51.5,0,2021-04-12,2021-04-22,\n"
    )
    rows = [image("a", utc_offset_minutes=120), image("b", 22 * 86_400, utc_offset_minutes=120)]
    run = write_run(tmp_path, rows, cameras="cameras.csv")
    path = written(images_of(run), "camtrap-dp", tmp_path)
    check_package(path)
    table = read_rows(path / "deployments.csv")
    assert [(row["deploymentID"], row["deploymentStart"], row["deploymentEnd"]) for row in table] == [
        ("A-left-2021-04-01", "2021-04-01T12:00:00+02:00", "2021-04-21T08:00:00+02:00"),
        ("A-left-2021-05-01", "2021-05-01T12:00:00+02:00", "2021-05-04T12:00:00+02:00"),
        ("B-2021-04-12", "2021-04-12T12:00:00Z", "2021-04-22T12:00:00Z"),
    ]
    assert {row["cameraID"] for row in table} == {"left", ""}
    media = {row["mediaID"]: row["deploymentID"] for row in read_rows(path / "media.csv")}
    assert media == {"a": "A-left-2021-04-01", "b": "A-left-2021-05-01"}
