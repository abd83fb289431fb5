"""Timelapse, Label Studio and SpeciesNet: what is in the files, and that what people do there comes back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support_exports import MODEL, add_boxes, export, image, images_of, run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.detection.results import read_detections
from camtrap_batch.exports import Images
from camtrap_batch.exports.speciesnet import class_of
from camtrap_batch.exports.timelapse import FIELDS
from camtrap_batch.store.run import Run

IMAGES = {"a": "Panthera leo", "b": "oryx", "c": "empty"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    rows = [
        image(id_, 3600 * n, label, file_name=f"card 1/sub/{id_}.jpg", width=2048, height=1536)
        for n, (id_, label) in enumerate(IMAGES.items())
    ]
    rows.append(image("d", 9000, None, file_name="d.jpg"))
    rows.append(image("e", 9000, None, file_name="e.jpg", status="corrupt", format=None))
    groups = {"Panthera leo": {"genus": "Panthera", "family": "Felidae", "class": "Mammalia"}}
    return write_run(tmp_path, rows, events={"taxonomy": groups})


@pytest.fixture
def boxed(run: Run, tmp_path: Path) -> Images:
    box = {"image_id": "a", "x": 0.1, "y": 0.2, "w": 0.3, "h": 0.5, "category": "animal", "confidence": 0.9}
    person = box | {"image_id": "b", "category": "person", "x": 0.5}
    add_boxes(
        tmp_path / "job.yaml", [box | {"label": "oryx", "label_confidence": 0.75}, person], threshold=0.2
    )
    return images_of(open_run(tmp_path / "job.yaml"))


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def corrections(folder: Path, file: Path) -> dict[str, Any]:
    """What `camtrap corrections` makes of a file: image id -> label."""
    assert main(["corrections", str(folder / "job.yaml"), str(file)]) == 0
    rows = open_run(folder / "job.yaml").table("corrections").to_table().to_pylist()
    return {row["image_id"]: row for row in rows}


# Timelapse


def test_timelapse(run: Run, tmp_path: Path) -> None:
    export(images_of(run), "timelapse", tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    assert len(rows) == 5
    first = rows[0]
    assert (first["RelativePath"], first["File"]) == ("card 1\\sub", "a.jpg")
    assert (first["DateTime"], first["DeleteFlag"]) == ("2021-04-11 20:00:00", "false")
    assert (first["MachineLabel"], first["MachineConfidence"]) == ("Panthera leo", "0.8")
    assert first["EventID"]
    assert {row["Species"] for row in rows} == {""}
    assert rows[3]["RelativePath"] == ""


def test_timelapse_and_back(run: Run, tmp_path: Path) -> None:
    """Only what a person filled in is a correction."""
    export(images_of(run), "timelapse", tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    rows[1] |= {"Species": "gemsbok", "Count": "3", "Sex": "female", "Analyst": "jo"}
    with (tmp_path / "back.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = corrections(tmp_path, tmp_path / "back.csv")
    assert {id_: row["label"] for id_, row in found.items()} == {"b": "gemsbok"}
    assert (found["b"]["count"], found["b"]["sex"], found["b"]["who"]) == (3, "female", "jo")


def said(run: Run, folder: Path) -> Images:
    """Two species in one image, with all that may be said of them."""
    file = folder / "said.csv"
    file.write_text(
        "image_id,label,count,sex,life_stage,behaviour,individual,comment,who,when\n"
        "a,leopard,1,female,adult,resting,F7,by the pool,jo,2026-01-02\n"
        "a,oryx,4,,juvenile,grazing,,,jo,2026-01-02\n"
    )
    corrections(folder, file)
    run_on_driver(folder / "job.yaml", "merge")
    return images_of(open_run(folder / "job.yaml"))


def test_timelapse_has_all_that_people_said_and_takes_it_back(run: Run, tmp_path: Path) -> None:
    export(said(run, tmp_path), "timelapse", tmp_path / "t.csv")
    rows = read_csv(tmp_path / "t.csv")
    assert [row["File"] for row in rows] == ["a.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    first, second = rows[:2]
    assert [first[name] for name in FIELDS] == [
        "leopard", "1", "female", "adult", "resting", "F7", "by the pool", "jo",
    ]  # fmt: skip
    assert [second[name] for name in FIELDS[:5]] == ["oryx", "4", "", "juvenile", "grazing"]
    before = open_run(tmp_path / "job.yaml").snapshot("corrections").number
    corrections(tmp_path, tmp_path / "t.csv")
    assert open_run(tmp_path / "job.yaml").snapshot("corrections").number == before, "nothing is new"


def test_tables_have_what_people_said_of_an_animal(run: Run, tmp_path: Path) -> None:
    images = said(run, tmp_path)
    export(images, "csv", tmp_path / "all.csv")
    first = read_csv(tmp_path / "all.csv")[0]
    names = ("label", "more_labels", "sex", "life_stage", "behaviour", "individual")
    assert [first[name] for name in names] == [
        "leopard", "oryx: 4", "female", "adult", "resting", "F7",
    ]  # fmt: skip
    export(images, "cct", tmp_path / "all.json")
    leopard, oryx = json.loads((tmp_path / "all.json").read_text())["annotations"][:2]
    assert (leopard["individual"], leopard["behaviour"]) == ("F7", "resting")
    assert (oryx["life_stage"], oryx["count"], "sex" in oryx) == ("juvenile", 4, False)


def test_label_studio_shows_all_species_that_people_saw(run: Run, tmp_path: Path) -> None:
    export(said(run, tmp_path), "label-studio", tmp_path / "tasks.json")
    task = json.loads((tmp_path / "tasks.json").read_text())[0]
    [prediction] = task["predictions"]
    assert prediction["result"][0]["value"] == {"choices": ["leopard", "oryx"]}
    assert prediction["model_version"] == "human"


def test_timelapse_prefilled(run: Run, tmp_path: Path) -> None:
    export(images_of(run), "timelapse", tmp_path / "t.csv", prefill=True)
    assert [row["Species"] for row in read_csv(tmp_path / "t.csv")] == [*IMAGES.values(), "", ""]


# Label Studio


def test_label_studio(boxed: Images, tmp_path: Path) -> None:
    found = export(boxed, "label-studio", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image_id"] for task in tasks] == ["a", "b", "c", "d"]
    first = tasks[0]
    assert first["data"]["image"] == "/data/local-files/?d=card%201/sub/a.jpg"
    [prediction] = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == (MODEL, 0.8)
    choice, box = prediction["result"]
    assert (choice["type"], choice["value"]) == ("choices", {"choices": ["Panthera leo"]})
    assert box["type"] == "rectanglelabels"
    assert box["value"] == {
        "x": 10, "y": 20, "width": 30, "height": 50, "rotation": 0, "rectanglelabels": ["oryx"],
    }  # fmt: skip
    assert (box["original_width"], box["original_height"]) == (2048, 1536)
    assert tasks[2]["predictions"][0]["result"][0]["value"] == {"choices": ["empty"]}
    assert tasks[3]["predictions"] == []
    assert found.left_out == {"with status corrupt": 1}
    assert [row["id"] for row in read_csv(tmp_path / "tasks.json.left-out.csv")] == ["e"]


def test_label_studios_configuration_has_what_the_tasks_name(boxed: Images, tmp_path: Path) -> None:
    export(boxed, "label-studio", tmp_path / "tasks.json")
    config = ElementTree.parse(tmp_path / "tasks.json.config.xml").getroot()
    names = {part.get("name"): part for part in config.iter() if part.get("name")}
    choices = {part.get("value") for part in config.iter("Choice")}
    boxes = {part.get("value") for part in config.iter("Label")}
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        for prediction in task["predictions"]:
            for result in prediction["result"]:
                tag = names[result["from_name"]]
                assert tag.tag.lower() == result["type"]
                assert tag.get("toName") == result["to_name"]
                assert set(result["value"].get("choices", [])) <= choices
                assert set(result["value"].get("rectanglelabels", [])) <= boxes


def test_label_studio_and_back(boxed: Images, tmp_path: Path) -> None:
    """A person takes the prediction over and changes it; Label Studio exports that as an annotation."""
    export(boxed, "label-studio", tmp_path / "tasks.json", prefix="https://example.org/photos/")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "https://example.org/photos/card%201/sub/a.jpg"
    [result] = [tasks[2]["predictions"][0]["result"][0]]
    result["value"]["choices"] = ["leopard"]
    tasks[2]["annotations"] = [
        {
            "result": [result],
            "completed_by": {"email": "jo@example.org"},
            "updated_at": "2026-01-02T03:04:05Z",
        }
    ]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    found = corrections(tmp_path, tmp_path / "back.json")
    assert {id_: (row["label"], row["who"]) for id_, row in found.items()} == {
        "c": ("leopard", "jo@example.org")
    }


# SpeciesNet


def test_speciesnet(boxed: Images, tmp_path: Path) -> None:
    export(boxed, "speciesnet", tmp_path / "predictions.json")
    records = {
        record["filepath"]: record
        for record in json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    }
    lion = records["card 1/sub/a.jpg"]
    assert lion["prediction"].split(";")[1:] == [
        "mammalia", "", "felidae", "panthera", "leo", "panthera leo",
    ]  # fmt: skip
    assert lion["prediction"] == lion["classifications"]["classes"][0]
    assert lion["classifications"]["scores"] == [0.8, 0.2]
    assert (lion["prediction_score"], lion["model_version"]) == (0.8, MODEL)
    [box] = lion["detections"]
    assert box == {"category": "1", "label": "animal", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.5]}
    assert records["card 1/sub/b.jpg"]["detections"][0]["label"] == "human"
    assert records["card 1/sub/c.jpg"]["prediction"].endswith(";;;;;;blank")
    assert records["d.jpg"]["failures"] == ["CLASSIFIER"]
    assert records["e.jpg"]["failures"] == ["DETECTOR", "CLASSIFIER"]


def test_speciesnet_is_read_as_a_results_file(boxed: Images, tmp_path: Path) -> None:
    export(boxed, "speciesnet", tmp_path / "predictions.json")
    found = read_detections(str(tmp_path / "predictions.json"))
    assert found.images.num_rows == 5


def test_classes() -> None:
    known = "1f689929-883d-4dae-958c-3d57ab5b6c16;;;;;;animal"
    assert class_of("animal", {}) == known
    assert class_of(known, {}) == known
    assert class_of("red fox", {}).count(";") == 6
    assert class_of("oryx", {}) == class_of("Oryx", {}) != class_of("lion", {})
    assert class_of("Felidae", {"felidae": [["order", "Carnivora"]]}).split(";")[2] == "carnivora"
