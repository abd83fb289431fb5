"""Results that have species already: MegaDetector's `classifications`, SpeciesNet's predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_runs import run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.detection.results import read_detections
from camtrap_batch.errors import InputError

BOX = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.3, 0.3]}
OTHER = {**BOX, "conf": 0.8, "bbox": [0.6, 0.6, 0.3, 0.3]}
LION = "c1;mammalia;carnivora;felidae;panthera;leo;lion"
CAT = "c2;mammalia;carnivora;felidae;;;cat family"
BLANK = "f1856211-cfb7-4a5b-9158-c0f72fd09ee6;;;;;;blank"
UNKNOWN = ";".join(["f2efdae9-efb8-48fb-8a91-eccf79ab4ffb", *["no cv result"] * 6])


def job_of(folder: Path, content: dict[str, Any], names: list[str], **sections: Any) -> Path:
    """A job whose answer are these results, merged."""
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    rows = [
        {"image_id": name, "file_name": f"{name}.jpg", "location": "A", "seq_id": name, "sha256": name}
        for name in names
    ]
    job = write_run(
        folder,
        rows,
        infer={"model": "none"},
        detect={"results": "results.json", **sections.pop("detect", {})},
        categories=[[0, "empty"], [1, "lion"]],
        **sections,
    )
    for stage in ("detect", "infer", "merge"):
        run_on_driver(job, stage)
    return job


def predictions(job: Path) -> dict[str, tuple[Any, ...]]:
    rows = open_run(job).table("predictions").to_table().to_pylist()
    return {
        row["image_id"]: (
            row["label"],
            None if row["confidence"] is None else round(row["confidence"], 4),
            row["n_boxes"],
            row["status"],
        )
        for row in rows
    }


def md(images: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"format_version": "1.6", "classifier": "an ensemble 1.2"},
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "classification_categories": {"0": "lion", "1": "zebra", "2": "blank", "3": "no cv result"},
        "images": images,
    }


def test_megadetector_with_species(tmp_path: Path) -> None:
    """As AddaxAI and MegaDetector with SpeciesNet write it."""
    images = [
        {"file": "a.jpg", "detections": [{**BOX, "classifications": [["0", 0.7], ["1", 0.2]]}]},
        # The most convincing crop: confidence of the box times that of its class.
        {
            "file": "b.jpg",
            "detections": [
                {**BOX, "classifications": [["0", 0.5]]},
                {**OTHER, "classifications": [["1", 0.9]]},
            ],
        },
        {"file": "c.jpg", "detections": []},
        {"file": "d.jpg", "detections": [{**BOX, "category": "2"}]},
        {"file": "e.jpg", "failure": "image access failure", "detections": None},
        {"file": "f.jpg", "detections": [{**BOX, "classifications": [["2", 0.8]]}]},
        {"file": "g.jpg", "detections": [BOX]},  # a detector alone has seen it
        {"file": "h.jpg", "detections": [{**BOX, "classifications": [["3", 0.9]]}]},
        {"file": "i.jpg", "detections": [BOX, {**OTHER, "classifications": [["1", 0.6]]}]},
        {"file": "j.jpg", "detections": [{**BOX, "conf": 0.1, "classifications": [["0", 0.9]]}]},
        {"file": "k.jpg", "detections": [{**BOX, "classifications": [["9", 0.9]]}]},  # is not listed
    ]
    job = job_of(tmp_path, md(images), [*"abcdefghijk", "z"])
    assert predictions(job) == {
        "a": ("lion", 0.7, 1, "ok"),
        "b": ("zebra", 0.9, 2, "ok"),
        "c": ("empty", 0.99, 0, "ok"),
        "d": ("person", 0.9, 0, "ok"),
        "e": (None, None, None, "unreadable"),
        "f": ("empty", 0.8, 0, "ok"),
        "g": ("animal", 0.9, 1, "ok"),
        "h": ("animal", 0.9, 1, "ok"),
        "i": ("zebra", 0.6, 2, "ok"),
        "j": ("empty", 0.9, 0, "ok"),
        "k": ("animal", 0.9, 1, "ok"),
        "z": (None, None, None, "no_result"),
    }
    run = open_run(job)
    top = run.table("predictions").to_table(columns=["top5"]).to_pylist()[0]["top5"]
    assert [(one["label"], round(one["p"], 4)) for one in top] == [("lion", 0.7), ("zebra", 0.2)]
    crops = run.table("crops").to_table().to_pylist()
    assert [(row["image_id"], row["box"], row["label"]) for row in crops] == [
        ("a", 0, "lion"), ("b", 0, "lion"), ("b", 1, "zebra"), ("f", 0, "empty"), ("i", 1, "zebra"),
    ]  # fmt: skip
    assert run.snapshot("predictions").meta["made_by"] == "an ensemble 1.2"
    frames = {row["image_id"]: row for row in run.table("frames").to_table().to_pylist()}
    assert (frames["a"]["label"], frames["a"]["label_source"]) == ("lion", "machine")
    assert (frames["b"]["count"], frames["z"]["label"]) == (2, None)


def test_people_count_before_results(tmp_path: Path) -> None:
    images = [{"file": "a.jpg", "detections": [{**BOX, "classifications": [["0", 0.9]]}]}]
    job = job_of(tmp_path, md(images), ["a"], events={"labels": "human"})
    assert [row["label"] for row in open_run(job).table("frames").to_table().to_pylist()] == [None]


def old_speciesnet() -> list[dict[str, Any]]:
    """As versions up to 5.0.5 write it: a prediction of each image."""

    def said(prediction: str, p: float, *classes: tuple[str, float]) -> dict[str, Any]:
        return {
            "prediction": prediction,
            "prediction_score": p,
            "classifications": {"classes": [c for c, _ in classes], "scores": [s for _, s in classes]},
            "model_version": "4.0.1a",
        }

    return [
        {"filepath": "a.jpg", "detections": [BOX], **said(LION, 0.8, (LION, 0.8), (CAT, 0.1))},
        {"filepath": "b.jpg", "detections": [BOX], **said(CAT, 0.9, (LION, 0.5))},  # rolled up
        {"filepath": "c.jpg", "detections": [BOX], **said(BLANK, 0.95, (BLANK, 0.95))},
        {"filepath": "d.jpg", "detections": [], **said(UNKNOWN, 0.0)},
        {"filepath": "e.jpg", "failures": ["DETECTOR", "CLASSIFIER"]},
        {"filepath": "f.jpg", "failures": ["CLASSIFIER"], "detections": [BOX]},
    ]


def new_speciesnet() -> list[dict[str, Any]]:
    """As 20261015 has it: a prediction of each box."""

    def said(final: str, p: float, *classes: tuple[str, float]) -> dict[str, Any]:
        return {
            "raw_classifications": {"classes": [c for c, _ in classes], "scores": [s for _, s in classes]},
            "processed_classification": {"class": final, "score": p, "source": "classifier"},
        }

    whole = {"category": "0", "label": "whole_image_classification", "conf": 1.0, "bbox": [0, 0, 1, 1]}
    raw = {"classes": [LION, CAT], "scores": [0.6, 0.3]}
    return [
        {"filepath": "a.jpg", "detections": [{**BOX, **said(LION, 0.8, (LION, 0.8), (CAT, 0.1))}]},
        {"filepath": "b.jpg", "detections": [{**BOX, **said(CAT, 0.9, (LION, 0.5))}, OTHER]},
        {"filepath": "c.jpg", "detections": [{**whole, **said(BLANK, 0.95, (BLANK, 0.95))}, BOX]},
        {"filepath": "d.jpg", "detections": []},
        {"filepath": "e.jpg", "failures": ["DETECTOR"]},
        {"filepath": "f.jpg", "detections": [{**BOX, "raw_classifications": raw}], "model_version": "4.0.3a"},
    ]


@pytest.mark.parametrize("version", [None, "20261015"])
def test_speciesnet(tmp_path: Path, version: str | None) -> None:
    if version is None:
        content: dict[str, Any] = {"predictions": old_speciesnet()}
    else:
        content = {"info": {"format_version": version}, "predictions": new_speciesnet()}
    job = job_of(tmp_path, content, list("abcdef"))
    found = predictions(job)
    assert found["a"] == ("lion", 0.8, 1, "ok")
    assert found["b"] == ("cat family", 0.9, 1 if version is None else 2, "ok")
    assert found["c"] == ("empty", 0.95, 0, "ok")
    if version is None:
        assert found["d"] == ("empty", 0.99, 0, "ok"), "nothing was found, and no classifier says otherwise"
        assert found["f"] == ("animal", 0.9, 1, "ok")
    else:
        assert found["d"] == ("empty", 0.99, 0, "ok")
        assert found["f"] == ("lion", 0.6, 1, "ok")
    assert found["e"][0] is None
    made_by = open_run(job).snapshot("predictions").meta["made_by"]
    assert made_by == f"speciesnet {'4.0.1a' if version is None else '4.0.3a'}"


def test_megadetectors_format_as_speciesnet_converts_to_it(tmp_path: Path) -> None:
    """What it says of an image without a box stands in a box of its own, of a category `unknown`."""
    whole = {"category": "4", "conf": 0.7, "bbox": [0, 0, 1, 1], "classifications": [["0", 0.7]]}
    content = md([{"file": "a.jpg", "detections": [whole]}, {"file": "b.jpg", "detections": []}])
    content["info"]["format_version"] = 1.4
    content["detection_categories"]["4"] = "unknown"
    job = job_of(tmp_path, content, ["a", "b"])
    assert predictions(job) == {"a": ("lion", 0.7, 0, "ok"), "b": ("empty", 0.99, 0, "ok")}
    assert open_run(job).table("detections").to_table().num_rows == 0


def test_new_results_are_taken_again(tmp_path: Path) -> None:
    images = [{"file": "a.jpg", "detections": [{**BOX, "classifications": [["0", 0.9]]}]}]
    job = job_of(tmp_path, md(images), ["a"])
    run_on_driver(job, "infer")
    assert open_run(job).snapshot("predictions").number == 1, "the same results make nothing new"
    images[0]["detections"][0]["classifications"] = [["1", 0.9]]
    (tmp_path / "results.json").write_text(json.dumps(md(images)))
    run_on_driver(job, "infer")
    assert predictions(job)["a"][0] == "zebra", "the boxes are those of before, the species are not"


def test_a_detector_alone_leaves_it_to_people(tmp_path: Path) -> None:
    content = md([{"file": "a.jpg", "detections": [BOX, OTHER]}])
    del content["classification_categories"]
    job = job_of(tmp_path, content, ["a"])
    assert predictions(job)["a"] == (None, None, 2, "ok"), "boxes count animals, labels are people's"
    assert not read_detections(str(tmp_path / "results.json")).species


def test_of_other_images(tmp_path: Path) -> None:
    content = md([{"file": "elsewhere/x.jpg", "detections": []}])
    with pytest.raises(InputError, match="of other images: none of its 1 files is in the catalog"):
        job_of(tmp_path, content, ["a"])
    content["detection_categories"] = {"1": "bear"}
    content["images"] = [{"file": "a.jpg", "detections": []}]
    with pytest.raises(InputError, match="has no category 'animal'"):
        job_of(tmp_path / "second", content, ["a"])


def test_absolute_paths_and_boxes_a_little_outside(tmp_path: Path) -> None:
    box = {**BOX, "bbox": [0.8, 0.8, 0.2005, 0.2005], "classifications": [["0", 0.9]]}
    images = [
        {"file": str(tmp_path / "images" / "a.jpg"), "detections": [box]},
        {"file": str(tmp_path / "images" / "b.jpg").replace("/", "\\"), "detections": []},
    ]
    job = job_of(tmp_path, md(images), ["a", "b"])
    assert [one[0] for one in predictions(job).values()] == ["lion", "empty"]
    (kept,) = open_run(job).table("detections").to_table().to_pylist()
    assert kept["x"] + kept["w"] <= 1


def test_categories_not_listed_and_of_one_name(tmp_path: Path) -> None:
    content = md([{"file": "a.jpg", "detections": [{**BOX, "category": "7"}, {**OTHER, "category": "4"}]}])
    content["detection_categories"]["4"] = "Animal"
    content["images"][0]["detections"][1]["classifications"] = [["0", 0.9]]
    job = job_of(tmp_path, content, ["a"])
    assert predictions(job)["a"] == ("lion", 0.9, 1, "ok")


@pytest.mark.parametrize("name", ["md-json", "speciesnet"])
def test_what_is_exported_is_read_back(tmp_path: Path, name: str) -> None:
    """The answer of a second job is that of the first, image by image, with as many animals."""
    from support_exports import export, images_of

    images = [
        {"file": "a.jpg", "detections": [{**BOX, "classifications": [["0", 0.7], ["1", 0.2]]}, OTHER]},
        {"file": "b.jpg", "detections": [{**OTHER, "classifications": [["1", 0.9]]}]},
        {"file": "c.jpg", "detections": []},
        {"file": "d.jpg", "detections": [{**BOX, "category": "2"}]},
        {"file": "e.jpg", "failure": "image access failure", "detections": None},
        {"file": "f.jpg", "detections": [{**BOX, "classifications": [["2", 0.8]]}]},
        {"file": "g.jpg", "detections": [BOX]},
        {"file": "h.jpg", "detections": [{**BOX, "category": "3"}]},
    ]
    names = list("abcdefgh")
    job = job_of(tmp_path / "first", md(images), names)
    exported = tmp_path / "exported.json"
    export(images_of(open_run(job)), name, exported)
    again = job_of(tmp_path / "second", json.loads(exported.read_text()), names)
    first, second = predictions(job), predictions(again)
    human = {"human": "person"} if name == "speciesnet" else {}  # as SpeciesNet calls them
    assert {row: (human.get(label, label), n, status) for row, (label, _, n, status) in second.items()} == {
        row: (label, n, status) for row, (label, _, n, status) in first.items()
    }
    assert [label for label, *_ in first.values()] == [
        "lion", "zebra", "empty", "person", None, "empty", "animal", "vehicle",
    ]  # fmt: skip
    boxes = [
        [(row["image_id"], *(round(row[side], 3) for side in "xywh")) for row in rows]
        for rows in (open_run(each).table("detections").to_table().to_pylist() for each in (job, again))
    ]
    assert boxes[0] == boxes[1]


def test_exports_name_classifier_and_detector(tmp_path: Path) -> None:
    from support_exports import export, images_of

    images = [{"file": "a.jpg", "detections": [{**BOX, "classifications": [["0", 0.9]]}]}]
    results = md(images)
    results["info"]["detector"] = "md_v5a.0.1.pt"
    job = job_of(tmp_path, results, ["a"])
    export(images_of(open_run(job)), "md-json", tmp_path / "md.json")
    content = json.loads((tmp_path / "md.json").read_text())
    assert content["info"]["classifier"] == "an ensemble 1.2"
    assert content["info"]["detector"] == "md_v5a.0.1.pt"
    classes = content["classification_categories"]
    (box,) = content["images"][0]["detections"]
    assert (classes[box["classifications"][0][0]], box["conf"]) == ("lion", 0.9)
    assert yaml.safe_load(job.read_text())["infer"] == {"model": "none"}
