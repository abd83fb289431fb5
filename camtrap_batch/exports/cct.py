"""COCO Camera Traps JSON, with predictions as annotations.

Format: github.com/agentmorris/MegaDetector, megadetector/data_management, "COCO Camera Traps format"; a
prediction's probability is `score`, as in COCO's own results.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from camtrap_batch.events.codes import UNKNOWN_LOCATION
from camtrap_batch.exports.base import Out
from camtrap_batch.exports.csv import TRAITS
from camtrap_batch.exports.images import BOX, Block, Images
from camtrap_batch.exports.jsonfile import encode, write_members
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.store import snapshots
from camtrap_batch.store.outpath import check_file

_COLUMNS = (
    "image_id", "file_name", "location", "seq_id", "frame_num", "seq_num_frames", "datetime", "width",
    "height",
)  # fmt: skip
_OPTIONAL = ("seq_id", "frame_num", "seq_num_frames", "datetime")


class CctExport:
    name = "cct"
    help = "COCO Camera Traps JSON, with predictions as annotations"
    out = "a file that ends in .json"
    options: tuple[Option, ...] = ()

    def check(self, out: str, job: Job) -> Path:
        return check_file(out, job, (".json",))

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        return write_cct(images, out.path)


EXPORT = CctExport()


def write_cct(images: Images, path: Path) -> Written:
    """Write every image of the catalog, with an annotation for each box, or for each label if there are no
    boxes."""
    written = Written(path)
    categories = number_categories(images.labels(), _known(images), images.is_empty)

    # Annotations follow the images in the file, but are made along with them.
    with tempfile.TemporaryFile(dir=path.parent) as kept, path.open("wb") as file:

        def records() -> Iterator[bytes]:
            for block in images.blocks(list(_COLUMNS), boxes=images.has_boxes):
                written.images += block.rows.num_rows
                for record, annotations in _records(images, block, categories):
                    written.notes["of them without a label, and so without an annotation"] += not annotations
                    for annotation in annotations:
                        kept.write(encode(annotation) + b"\n")
                    yield encode(record)

        def annotations() -> Iterator[bytes]:
            kept.seek(0)
            for line in kept:
                yield line.rstrip(b"\n")

        info = {
            "version": "1.0",
            "description": f"{images.run.job.name}: predictions, and what people saw (label_source human)",
            "contributor": images.classifier,
            "date_created": images.snapshot.created,
        }
        listed = [{"id": number, "name": name} for name, number in categories.items()]
        write_members(
            file, {"info": info, "categories": listed, "images": records(), "annotations": annotations()}
        )
    return written


def number_categories(
    labels: Iterable[str], known: Iterable[tuple[int, str]], is_empty: Any
) -> dict[str, int]:
    """Category ids of labels: 0 for no animal, the data set's own ids if it has them, and new ones.

    >>> number_categories({"lion", "blank", "oryx"}, [(0, "blank"), (24, "oryx")], "blank".__eq__)
    {'blank': 0, 'oryx': 24, 'lion': 25}
    """
    own: dict[str, int] = {}
    free = 1
    for number, name in known:
        free = max(free, number + 1)
        if number > 0:
            own.setdefault(name, number)
    left = sorted(labels)
    numbers: dict[str, int] = {}
    for label in left:
        if is_empty(label) and 0 not in numbers.values():
            numbers[label] = 0
        elif label in own:
            numbers[label] = own[label]
    for label in left:
        if label not in numbers:
            numbers[label] = free
            free += 1
    return dict(sorted(numbers.items(), key=lambda item: item[1]))


def _known(images: Images) -> list[tuple[int, str]]:
    """Categories of the data set that the manifest was made from."""
    number = int(images.manifest.inputs["catalog"])
    return [
        (int(id_), str(name))
        for id_, name in snapshots.load(images.run.folder, "catalog", number).meta["categories"]
    ]


def _records(
    images: Images, block: Block, categories: dict[str, int]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image, and its annotations."""
    columns = {name: block.rows[name].to_pylist() for name in _COLUMNS if name != "datetime"}
    columns["datetime"] = block.rows["datetime"].cast("timestamp[s]", safe=False).cast("string").to_pylist()
    labels, confidences = block.label.to_pylist(), block.confidence.to_pylist()
    for at, values in enumerate(zip(*columns.values(), strict=True)):
        row = dict(zip(columns, values, strict=True))
        id_ = row["image_id"]
        record = {"id": id_, "file_name": row["file_name"], "location": row["location"] or UNKNOWN_LOCATION}
        record |= {name: row[name] for name in _OPTIONAL if row[name] is not None}
        has_size = row["width"] is not None and row["height"] is not None
        if has_size:
            record |= {"width": row["width"], "height": row["height"]}
        if block.predicted[at] < 0:
            record["corrupt"] = True
        boxes = images.counting(block.boxes.get(at, [])) if has_size else []
        if at in block.told:
            found = _said(block.told[at], boxes, row, categories)
        else:
            found = [_box(box, row, categories) for box in boxes]
        if not found and labels[at] is not None:
            found = [{"category_id": categories[labels[at]], "score": confidences[at]}]
        yield (
            record,
            [
                {"id": f"{id_}_{number}", "image_id": id_, "sequence_level_annotation": False, **annotation}
                for number, annotation in enumerate(found)
            ],
        )


def _said(
    told: list[dict[str, Any]], boxes: list[dict[str, Any]], row: dict[str, Any], categories: dict[str, int]
) -> list[dict[str, Any]]:
    """The annotations of what a person says about an image: in its boxes, if these show that one species."""
    by_whom = {"label_source": "human"}
    first = told[0]
    if len(told) == 1 and boxes and first["count"] in (None, len(boxes)) and categories[first["label"]] != 0:
        in_boxes = [_box(box | {"label": first["label"]}, row, categories) for box in boxes]
        kept = ("category_id", "bbox")
        return [{name: one[name] for name in kept} | _traits(first) | by_whom for one in in_boxes]
    return [
        {
            "category_id": categories[one["label"]],
            **({} if one["count"] is None else {"count": one["count"]}),
            **_traits(one),
            **by_whom,
        }
        for one in told
    ]


def _traits(told: dict[str, Any]) -> dict[str, str]:
    """What people said of the animals, under names of our own: the format has none for it."""
    return {name: told[name] for name in TRAITS if told.get(name) is not None}


def _box(box: dict[str, Any], row: dict[str, Any], categories: dict[str, int]) -> dict[str, Any]:
    """A box's annotation, in pixels."""
    scale = (row["width"], row["height"]) * 2
    return {
        "category_id": categories[box["label"]],
        "score": round(float(box["label_confidence"]), 4),
        "bbox": [round(float(box[name]) * size, 1) for name, size in zip(BOX, scale, strict=True)],
    }
