"""Tasks for Label Studio, each with the machine's answer as a pre-annotation.

Format: labelstud.io/guide/predictions, "Basic Label Studio JSON". Their labelling configuration is
written beside them; `camtrap corrections` reads what people made of them (export as JSON).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from camtrap_batch.exports.base import Out
from camtrap_batch.exports.camtrap_dp import LEFT_OUT, CsvWriter, list_images
from camtrap_batch.exports.images import BOX, Block, Images, take
from camtrap_batch.exports.jsonfile import encode
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.store.outpath import check_file
from camtrap_batch.vocabulary import EMPTY

CONFIG, LIST = ".config.xml", ".left-out.csv"
"""Suffixes of the names of the configuration and of the list of images left out, after that of the tasks."""

_SPECIES, _COUNT, _BOX, _IMAGE = "species", "count", "box", "image"
_LOCAL = "/data/local-files/?d="
_FROM_MANIFEST = ["image_id", "file_name", "location", "datetime", "status", "width", "height"]


class LabelStudioExport:
    name = "label-studio"
    help = "tasks with pre-annotations for Label Studio; camtrap corrections reads its labels back"
    out = "a file that ends in .json"
    options = (
        Option(
            "prefix",
            "prefix of a file's path, default: the URL of the image root, or "
            f"{_LOCAL} for files of Label Studio's own machine",
            metavar="URL",
        ),
    )

    def check(self, out: str, job: Job) -> Path:
        path = check_file(out, job, (".json",))
        for ending in (CONFIG, LIST):
            check_file(f"{path}{ending}", job, (Path(ending).suffix,))
        return path

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        written = write_tasks(images, out.path, out.beside(LIST), prefix=options["prefix"])
        out.beside(CONFIG).write_text(label_config(images), encoding="utf-8")
        written.listed = out.final.with_name(f"{out.final.name}{LIST}")
        return written


EXPORT = LabelStudioExport()


def write_tasks(images: Images, path: Path, left_out: Path, *, prefix: str | None = None) -> Written:
    """Write a task for each usable image, and to `left_out` a list of the others.

    Parameters
    ----------
    prefix : beginning of an image's address, before its path below the image root
    """
    written = Written(path)
    root = str(images.run.job.dataset.images or "")
    if prefix is None:
        prefix = f"{root.rstrip('/')}/" if root.startswith(("http://", "https://")) else _LOCAL
    with path.open("wb") as file, CsvWriter(left_out, LEFT_OUT) as unlisted:
        separator = b"[\n"
        for block in images.blocks(_FROM_MANIFEST, boxes=images.has_boxes):
            status = block.rows["status"].combine_chunks().dictionary_encode()
            why = [f"with status {name}" for name in status.dictionary.to_pylist()]
            reasons = np.where(block.predicted < 0, status.indices.to_numpy().astype(np.int64), -1)
            list_images(unlisted, block, reasons, why, written)
            for task in _tasks(images, block, prefix):
                written.images += 1
                written.notes["of them without a pre-annotation"] += not task["predictions"]
                file.write(separator)
                file.write(encode(task))
                separator = b",\n"
        file.write(b"[]\n" if separator == b"[\n" else b"\n]\n")
    return written


def label_config(images: Images) -> str:
    """Label Studio's labelling configuration for the tasks: one or several species, counted, and boxes."""
    labels = sorted({*images.labels(), EMPTY})
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    boxes = "\n".join(f"    <Label value={quoteattr(label)}/>" for label in labels)
    return (
        "<View>\n"
        f'  <Image name="{_IMAGE}" value="$image" zoom="true" brightnessControl="true" '
        'contrastControl="true"/>\n'
        f'  <Choices name="{_SPECIES}" toName="{_IMAGE}" choice="multiple" showInline="true">\n{choices}\n'
        "  </Choices>\n"
        f'  <Number name="{_COUNT}" toName="{_IMAGE}" min="0"/>\n'
        f'  <RectangleLabels name="{_BOX}" toName="{_IMAGE}">\n{boxes}\n  </RectangleLabels>\n'
        "</View>\n"
    )


def _tasks(images: Images, block: Block, prefix: str) -> Iterator[dict[str, Any]]:
    has_events = images.has_merged
    events = (
        take(images.frames["event_id"], block.predicted).to_pylist()
        if has_events
        else [None] * len(block.label)
    )
    rows = block.rows.to_pylist()
    labels, confidences = block.label.to_pylist(), block.confidence.to_pylist()
    for at, (row, label, confidence) in enumerate(zip(rows, labels, confidences, strict=True)):
        if block.predicted[at] < 0:
            continue
        when = row["datetime"]
        data = {
            "image": prefix + quote(row["file_name"]),
            "image_id": row["image_id"],
            "file_name": row["file_name"],
            "location": row["location"],
            "datetime": None if when is None else when.isoformat(sep=" ", timespec="seconds"),
            "event_id": events[at],
        }
        predictions = []
        if label is not None:
            size = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
            told = block.told.get(at) or [{"label": label}]
            result = [_choices([EMPTY if images.is_empty(one["label"]) else one["label"] for one in told])]
            if len(told) == 1 and told[0].get("count") is not None:
                result.append(_number(told[0]["count"]))
            for number, box in enumerate(images.counting(block.boxes.get(at, []))):
                result.append(size | _rectangle(number, box))
            by = {"model_version": images.model_id, "score": confidence}
            if block.human[at]:
                by = {"model_version": "human", "score": 1.0}
            predictions.append({**by, "result": result})
        yield {"data": data, "predictions": predictions}


def _choices(labels: list[str]) -> dict[str, Any]:
    return {
        "id": _SPECIES,
        "from_name": _SPECIES,
        "to_name": _IMAGE,
        "type": "choices",
        "value": {"choices": labels},
    }


def _number(count: int) -> dict[str, Any]:
    return {
        "id": _COUNT,
        "from_name": _COUNT,
        "to_name": _IMAGE,
        "type": "number",
        "value": {"number": count},
    }


def _rectangle(number: int, box: dict[str, Any]) -> dict[str, Any]:
    """A box, in percent of the picture."""
    x, y, w, h = (round(100 * float(box[name]), 4) for name in BOX)
    return {
        "id": f"{_BOX}{number}",
        "from_name": _BOX,
        "to_name": _IMAGE,
        "type": "rectanglelabels",
        "score": round(float(box["label_confidence"]), 4),
        "value": {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [box["label"]]},
    }
