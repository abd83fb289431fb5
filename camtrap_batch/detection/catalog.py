"""Boxes that people drew, from the metadata of a data set.

Every such box is sure (confidence 1). It counts as an animal, unless its category says person or vehicle. An
image without a box is known to be empty only if its annotations say so: one that is labelled but not boxed
has no result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog import READERS, reader_of
from camtrap_batch.catalog.drawn import Drawn
from camtrap_batch.detection.base import ANIMAL, PERSON, VEHICLE, Known, meaning
from camtrap_batch.detection.results import BOX
from camtrap_batch.errors import InputError
from camtrap_batch.job import Dataset
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import plural

CATEGORIES = (ANIMAL, PERSON, VEHICLE)
_OUTSIDE = 0.02  # as in results files
_FIRST_ON_SIDE = 5  # EXIF orientations from this one on exchange width and height


@dataclass(frozen=True)
class CatalogDetector:
    """The boxes in the data set's own metadata; `category` of each is an index into `CATEGORIES`."""

    path: str
    detector_id: str
    drawn: Drawn
    category: npt.NDArray[np.int16]

    help: ClassVar[str] = "the boxes of the metadata: bboxes of COCO Camera Traps and Camtrap DP"

    @property
    def categories(self) -> tuple[str, ...]:
        return CATEGORIES

    @classmethod
    def of(cls, dataset: Dataset, key: str = "detect.results") -> CatalogDetector:
        """Read the boxes in the metadata of a data set.

        Raises
        ------
        InputError
            There are none, or the format does not have boxes.
        """
        reader, path = reader_of(dataset), str(dataset.metadata)
        if not reader.has_boxes:
            possible = [name for name, other in READERS.loadable() if other.has_boxes]
            raise InputError(
                f"{key}: catalog: metadata of the format {dataset.format} have no boxes; possible with "
                f"{' and '.join(possible)}"
            )
        drawn = reader.boxes(key)
        if not drawn.image_id:
            raise InputError(f"{key}: catalog: {redacted(path)} has no box (bbox)")
        category = np.array([_category(*words) for words in drawn.shows], np.int16)
        hash_ = hashlib.sha256("\n".join(drawn.image_id).encode())
        hash_.update(drawn.corners.tobytes() + category.tobytes())
        hash_.update("\n".join(name or "" for name in drawn.label).encode())
        return cls(path, hash_.hexdigest()[:16], drawn, category)

    def match(self, rows: pa.Table) -> Known:
        drawn = self.drawn
        ids = rows["image_id"].combine_chunks()
        row_of = pc.index_in(pa.array(drawn.image_id, pa.string()), value_set=ids)
        row_of = row_of.fill_null(-1).to_numpy().astype(np.int64)
        mine = np.flatnonzero(row_of >= 0)
        order = mine[np.argsort(row_of[mine], kind="stable")]
        corners, turned = self._in_parts(rows, row_of, order)
        n = len(ids)
        lengths = np.bincount(row_of[order], minlength=n)
        is_empty = pc.is_in(ids, value_set=pa.array(sorted(drawn.empty), pa.string()))
        is_known = is_empty.to_numpy(zero_copy_only=False) | (lengths > 0)
        values = pa.StructArray.from_arrays(
            [
                *(pa.array(corners[:, number].astype(np.float32)) for number in range(4)),
                pa.array(np.ones(len(order), np.float32)),
                pa.array(self.category[order]),
            ],
            fields=list(BOX),
        )
        lists = pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values, mask=pa.array(~is_known)
        )
        others = len(drawn.image_id) - len(mine)
        notes = [
            f"{plural(len(order), 'box', 'boxes')} of the metadata, "
            f"in {int((lengths > 0).sum()):,} of {n:,} images"
        ]
        if others:
            notes.append(f"{plural(others, 'box belongs', 'boxes belong')} to no usable image")
        for number, what in zip(turned, ("as EXIF turns it", "before EXIF turns it"), strict=True):
            if number:
                notes.append(
                    f"{plural(number, 'box is', 'boxes are')} of the picture {what}, by the metadata's size"
                )
        meta = {"file": redacted(self.path), "images": int(is_known.sum()), "without": int((~is_known).sum())}
        labels = pa.array([drawn.label[box] for box in order.tolist()], pa.string())
        return Known(lists, pc.if_else(pa.array(is_known), "ok", "no_result"), meta, notes, labels)

    def _in_parts(
        self, rows: pa.Table, row_of: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
        """Boxes as fractions of their upright pictures, inside them.

        If EXIF rotates a picture by a quarter turn, the size that the metadata give for it shows whether they
        mean the upright picture or the stored one. If they give no size, or the picture is square or upside
        down, it is taken to be upright.

        Returns
        -------
        The corners; how many belong to a picture that is upright in the metadata but not in the file, and how
        many the other way round.

        Raises InputError if a box is not inside its picture, by the size in the metadata or of the file.
        """
        drawn = self.drawn
        corners = drawn.corners[order].copy()
        orientation = rows["orientation"].fill_null(1).to_numpy()[row_of[order]]
        upright, as_stored = np.zeros(len(order), bool), np.zeros(len(order), bool)
        if drawn.in_pixels:
            width, height = (
                rows[name].fill_null(0).to_numpy().astype(np.float64)[row_of[order]]
                for name in ("width", "height")
            )
            lies = orientation >= _FIRST_ON_SIDE
            width, height = np.where(lies, height, width), np.where(lies, width, height)
            for number, box in enumerate(order.tolist()):
                if not (size := drawn.sizes.get(drawn.image_id[box])):
                    continue
                if lies[number] and size[0] != size[1]:
                    as_stored[number] = (size[0] > size[1]) != (width[number] > height[number])
                    upright[number] = not as_stored[number]
                elif size[0] != size[1]:  # an earlier version's manifest has no orientation
                    upright[number] = size == (height[number], width[number])
                width[number], height[number] = size
            corners /= np.maximum(np.stack([width, height, width, height], axis=1), 1)
        left, top = corners[:, 0], corners[:, 1]
        right, bottom = left + corners[:, 2], top + corners[:, 3]
        inside = (np.minimum(left, top) >= -_OUTSIDE) & (np.maximum(right, bottom) <= 1 + _OUTSIDE)
        inside &= np.minimum(corners[:, 2], corners[:, 3]) >= 0
        if not inside.all():
            wrong = int(order[np.argmin(inside)])
            box = ", ".join(f"{value:g}" for value in drawn.corners[wrong])
            raise InputError(
                f"{redacted(self.path)}: image {drawn.image_id[wrong]!r}: bbox [{box}] is not inside the "
                "picture; should be x, y, width, height in the upright picture"
            )
        left, top = np.clip(left, 0, 1), np.clip(top, 0, 1)
        width, height = np.clip(right, 0, 1) - left, np.clip(bottom, 0, 1) - top
        corners = np.stack([left, top, width, height], axis=1)
        for turn in np.unique(orientation[as_stored]).tolist():
            mine = as_stored & (orientation == turn)
            corners[mine] = upright_boxes(corners[mine], turn)
        return corners, (int(upright.sum()), int(as_stored.sum()))


def upright_boxes(boxes: npt.NDArray[np.float64], orientation: int) -> npt.NDArray[np.float64]:
    """Boxes (n, 4) in a picture as it is stored -> in the upright one: x, y, w, h as fractions of its sides.

    `orientation` is EXIF's, 5 to 8: the first row and first column of the stored picture are sides of the
    upright picture (CIPA DC-008, tag 274).

    >>> [round(float(side), 3) for side in upright_boxes(np.array([[0.1, 0.2, 0.3, 0.4]]), 6)[0]]
    [0.4, 0.1, 0.4, 0.3]
    """
    x, y, w, h = boxes.T
    across = y if orientation in (5, 8) else 1 - y - h
    down = x if orientation in (5, 6) else 1 - x - w
    return np.stack([across, down, h, w], axis=1)


def _category(*names: str) -> int:
    """Index in `CATEGORIES` of what a box shows."""
    shown = {meaning(name) for name in names}
    return 1 if PERSON in shown else 2 if VEHICLE in shown else 0
