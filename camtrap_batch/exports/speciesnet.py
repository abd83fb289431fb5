"""Predictions as SpeciesNet writes them (`predictions.json`), for tools that read those.

Format: github.com/google/cameratrapai, README, "Output format", without a format version, as all its readers
know it: for each file its classification, its boxes and one prediction.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from camtrap_batch.exports.base import Out
from camtrap_batch.exports.images import BOX, Block, Images
from camtrap_batch.exports.jsonfile import encode, write_members
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.store.outpath import check_file
from camtrap_batch.vocabulary import PERSONS, VEHICLES

_BLANK = "f1856211-cfb7-4a5b-9158-c0f72fd09ee6;;;;;;blank"
_ANIMAL = "1f689929-883d-4dae-958c-3d57ab5b6c16;;;;;;animal"
_HUMAN = "990ae9dd-7a59-4344-afcb-1b7b21368000;mammalia;primates;hominidae;homo;sapiens;human"
_VEHICLE = "e2895ed5-780b-48f6-8a11-9e27cb594511;;;;;;vehicle"
_KNOWN = {
    "animal": _ANIMAL,
    "blank": _BLANK,
    **dict.fromkeys(PERSONS, _HUMAN),
    **dict.fromkeys(VEHICLES, _VEHICLE),
}
_CATEGORIES = {"animal": ("1", "animal"), "person": ("2", "human"), "human": ("2", "human")}
_CATEGORIES["vehicle"] = ("3", "vehicle")
_CLASS = re.compile(r"[^;]*(;[^;]*){6}")
_BINOMIAL = re.compile(r"[A-Za-z]+ [a-z-]+")
_RANKS = ("class", "order", "family", "genus")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "camtrap-batch:labels")


class SpeciesNetExport:
    name = "speciesnet"
    help = "predictions as SpeciesNet writes them"
    out = "a file that ends in .json"
    options: tuple[Option, ...] = ()

    def check(self, out: str, job: Job) -> Path:
        return check_file(out, job, (".json",))

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_speciesnet(images, out.path)


EXPORT = SpeciesNetExport()


def write_speciesnet(images: Images, path: Path) -> Written:
    """Write every image of the catalog; those without a label have failures."""
    written = Written(path)
    taxonomy = images.taxonomy
    classes = {
        label: _BLANK if images.is_empty(label) else class_of(label, taxonomy) for label in images.labels()
    }

    def records() -> Iterator[bytes]:
        for block in images.blocks(["file_name"], boxes=images.has_boxes):
            written.images += block.rows.num_rows
            for record in _records(images, block, classes):
                written.notes["of them with a failure"] += "failures" in record
                yield encode(record)

    with path.open("wb") as file:
        write_members(file, {"predictions": records()})
    return written


def class_of(label: str, taxonomy: Mapping[str, Any]) -> str:
    """A label as SpeciesNet's class: id;class;order;family;genus;species;common name.

    A label that is already such a class is kept. A binomial gives genus and species; higher ranks come from
    `events.taxonomy`. The id is a UUID made from the label, except for blank, animal, human and vehicle.

    >>> class_of("Panthera leo", {"panthera leo": [["family", "Felidae"]]}).partition(";")[2]
    ';;felidae;panthera;leo;panthera leo'
    """
    if _CLASS.fullmatch(label):
        return label
    if (known := _KNOWN.get(label.casefold())) is not None:
        return known
    name = label.casefold().replace(";", " ")
    above = {
        str(rank).casefold(): str(group).casefold() for rank, group in taxonomy.get(label.casefold(), [])
    }
    genus, species = name.split() if _BINOMIAL.fullmatch(label) else (above.get("genus", ""), "")
    ranks = [*(above.get(rank, "") for rank in _RANKS[:3]), genus, species]
    return ";".join([str(uuid.uuid5(_NAMESPACE, name)), *ranks, name])


def _records(images: Images, block: Block, classes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    names, labels = block.rows["file_name"].to_pylist(), block.label.to_pylist()
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        record: dict[str, Any] = {"filepath": name}
        row = int(block.predicted[number])
        if label is None:
            failures = ["DETECTOR", "CLASSIFIER"] if row < 0 else ["CLASSIFIER"]
            yield record | {"failures": failures}
            continue
        if number in block.told:
            yield record | _said(block.told[number], block.boxes.get(number, []), classes)
            continue
        predictions = images.predictions
        first, last = predictions.top_begin[row : row + 2]
        record["classifications"] = {
            "classes": [
                classes[predictions.labels[code]] for code in predictions.top_label[first:last].tolist()
            ],
            "scores": [round(float(p), 4) for p in predictions.top_p[first:last].tolist()],
        }
        record["detections"] = [_box(box) for box in block.boxes.get(number, [])]
        record["prediction"] = classes[label]
        record["prediction_score"] = round(float(predictions.confidence[row]), 4)
        record["prediction_source"] = "classifier"
        record["model_version"] = images.model_id
        yield record


def _said(
    told: list[dict[str, Any]], boxes: list[dict[str, Any]], classes: Mapping[str, str]
) -> dict[str, Any]:
    """What a person says about an image; its prediction is the first species."""
    names = [classes[one["label"]] for one in told]
    return {
        "classifications": {"classes": names, "scores": [1.0] * len(names)},
        "detections": [_box(box) for box in boxes],
        "prediction": names[0],
        "prediction_score": 1.0,
        "prediction_source": "human",
    }


def _box(box: dict[str, Any]) -> dict[str, Any]:
    category, label = _CATEGORIES.get(str(box["category"]).casefold(), ("1", "animal"))
    return {
        "category": category,
        "label": label,
        "conf": round(float(box["confidence"]), 4),
        "bbox": [round(float(box[name]), 4) for name in BOX],
    }
