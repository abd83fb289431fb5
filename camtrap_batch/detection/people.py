"""People in pictures that are handed out: made unrecognisable, or left out, as `report.people` says.

A person is anything in a detector's box of that category, at a low threshold: blurring too much costs little,
but a recognisable hiker costs trust. A picture whose label is a person, and in which no box is sure, counts
as a whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from camtrap_batch.codes import one_chunk
from camtrap_batch.detection.base import meaning
from camtrap_batch.images import decode_upright
from camtrap_batch.job.results import PeopleShown
from camtrap_batch.store.corrections import read_corrections, standing
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import PEOPLE, PERSONS

LEAST = 0.05
"""Minimum confidence for a box of a person here: far below that for a detection."""

SURE = 0.2
"""Minimum confidence for a box to be taken as the person in the picture's label."""

_MARGIN = 0.25
"""Fraction of a box's sides that is also blurred around it; boxes are often tight, or cut off a hand."""

_LEAST_MARGIN = 0.03
"""The same, as a fraction of the picture's longer side."""

_CELLS = 8
"""Maximum number of cells along the longer side of what is blurred: a body of eight cells has no face."""

_QUALITY = 85
_ANY_SIDE = 1 << 16

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height, as fractions of the upright picture's."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class People:
    """Where pictures show people, and what to do about it.

    Attributes
    ----------
    shown : a value of `report.people`
    boxes : image_id -> parts of the picture that show people; images without people are not in it
    """

    shown: PeopleShown
    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)

    def picture(self, image_id: str, data: bytes) -> bytes | None:
        """An image file as it may be handed out; None if it is to be left out.

        A picture without people, or one that may be shown, is returned unchanged. A blurred picture is an
        upright JPEG without metadata: cameras put a small copy of the photo into theirs. A picture that can't
        be decoded can't be blurred, and is left out.
        """
        boxes = self.boxes.get(image_id)
        if boxes is None or self.shown == "show":
            return data
        if self.shown == "leave_out":
            return None
        try:
            return blur(data, boxes)
        except ValueError:
            return None


def find_people(run: Run, image_ids: Iterable[str]) -> People:
    """Where these images show people, according to the current tables, unless `report.people` shows them."""
    shown = run.job.report.people
    ids = pa.array(sorted(set(image_ids)), pa.string())
    if shown == "show" or not len(ids):
        return People(shown)
    wanted = pc.field("image_id").isin(ids)
    found: dict[str, list[Box]] = {}
    sure: set[str] = set()
    if run.current("detections") is not None:
        columns = ["image_id", "x", "y", "w", "h", "category", "confidence"]
        boxes = run.table("detections").to_table(
            columns=columns, filter=wanted & (pc.field("confidence") >= LEAST)
        )
        for row in boxes.to_pylist():
            if meaning(row["category"]) == "person":
                found.setdefault(row["image_id"], []).append((row["x"], row["y"], row["w"], row["h"]))
                if row["confidence"] >= SURE:
                    sure.add(row["image_id"])
    for image_id in _labelled(run, wanted) - sure:
        found[image_id] = [WHOLE]
    return People(shown, found)


def people_in(merged: MergeResult) -> pa.Array:
    """Ids of the images that a label says show people or their vehicles: what is left out where people are.

    The label may be of the image, its sequence or the metadata, by a person or a machine.
    """
    manifest = merged.run.snapshot("manifest", int(merged.snapshot.inputs["manifest"]))
    catalog = merged.run.table("catalog", int(manifest.inputs["catalog"]))
    said, guessed = labelled_people(
        merged.table("frames").to_table(columns=LABELLED["frames"]),
        merged.table("predictions").to_table(columns=LABELLED["predictions"]),
        catalog.to_table(columns=LABELLED["catalog"]),
        names=PEOPLE,
    )
    return pa.array(sorted(said | guessed), pa.string())


def labelled_people(
    frames: pa.Table | None,
    predictions: pa.Table | None,
    catalog: pa.Table | None,
    *,
    names: Sequence[str] = PERSONS,
) -> tuple[set[str], set[str]]:
    """Ids of images labelled as a person: by people, or through an image's sequence; and by a machine.

    Parameters
    ----------
    frames : image_id, label and more of that table; None: the table does not exist
    predictions : image_id and label
    catalog : image_id, labels and labelled_by
    names : labels, in lower case, that mean it
    """
    said: set[str] = set()
    guessed: set[str] = set()
    if frames is not None:
        said.update(frames["image_id"].filter(_is_person(frames["label"], names)).to_pylist())
        said.update(_with_people(frames["image_id"], one_chunk(frames["more"]), "label", names))
    if predictions is not None:
        guessed.update(predictions["image_id"].filter(_is_person(predictions["label"], names)).to_pylist())
    if catalog is not None:
        told = catalog.filter(catalog["labelled_by"].is_null())
        said.update(_with_people(told["image_id"], one_chunk(told["labels"]), "name", names))
        told = catalog.filter(catalog["labelled_by"].is_valid())
        guessed.update(_with_people(told["image_id"], one_chunk(told["labels"]), "name", names))
    return said, guessed


def blur(data: bytes, boxes: Iterable[Box]) -> bytes:
    """An image file as a JPEG in which people inside the boxes are irreversibly unrecognisable.

    A box, with a margin around it, is reduced to a few means of its pixels, and nothing else of it is kept;
    smoothing between them is for the eye.

    Raises
    ------
    ValueError
        The picture can't be decoded.
    """
    pixels = decode_upright(data, _ANY_SIDE)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    for box in boxes:
        left, top, right, bottom = _around(box, image.size)
        part = image.crop((left, top, right, bottom))
        cell = max(1.0, max(part.size) / _CELLS)
        few = part.resize(
            (max(1, round(part.width / cell)), max(1, round(part.height / cell))), Image.Resampling.BOX
        )
        image.paste(few.resize(part.size, Image.Resampling.BICUBIC), (left, top))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _around(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box with its margin in pixels: left, top, right, bottom."""
    x, y, w, h = box
    width, height = size
    least = _LEAST_MARGIN * max(size)
    across, down = max(_MARGIN * w * width, least), max(_MARGIN * h * height, least)
    left, top = max(0, int(x * width - across)), max(0, int(y * height - down))
    right = min(width, int(np.ceil((x + w) * width + across)))
    bottom = min(height, int(np.ceil((y + h) * height + down)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


LABELLED: Mapping[str, list[str]] = {
    "frames": ["image_id", "label", "more"],
    "predictions": ["image_id", "label"],
    "catalog": ["image_id", "labels", "labelled_by"],
}
"""Columns of each table that `labelled_people` needs."""


def _labelled(run: Run, wanted: pc.Expression) -> set[str]:
    """Those of the images that are labelled as a person.

    What people said about an image in review takes precedence over what a machine says, merged or not.
    """
    found = [
        None if run.current(name) is None else run.table(name).to_table(columns=columns, filter=wanted)
        for name, columns in LABELLED.items()
    ]
    said, guessed = labelled_people(*found)
    corrections = read_corrections(run)
    if corrections.num_rows and run.current("manifest") is not None:
        images = run.table("manifest").to_table(columns=["image_id", "sha256"], filter=wanted)
        rows = standing(corrections, images)
        ids = images["image_id"].take(one_chunk(rows["row"]))
        # A box in which somebody saw something else leaves the rest of its image as it is.
        guessed -= set(ids.filter(pc.not_equal(rows["scope"], "box")).to_pylist())
        said |= set(ids.filter(_is_person(rows["label"])).to_pylist())
    return said | guessed


def _with_people(ids: pa.ChunkedArray, labels: pa.Array, name: str, names: Sequence[str]) -> list[str]:
    """Those of the images with a person among their labels, which are a list of structures."""
    if not len(labels):
        return []
    is_person = _is_person(pc.struct_field(pc.list_flatten(labels), name), names)
    found: list[str] = ids.take(pc.list_parent_indices(labels).filter(is_person)).to_pylist()
    return found


def is_person(label: str | None) -> bool:
    """Whether a label means a person."""
    return label is not None and label.lower() in PERSONS


def _is_person(
    labels: pa.Array | pa.ChunkedArray, names: Sequence[str] = PERSONS
) -> pa.Array | pa.ChunkedArray:
    return pc.fill_null(pc.is_in(pc.utf8_lower(labels.cast(pa.string())), pa.array(names)), False)
