"""Boxes that people drew, from COCO Camera Traps annotations and Camtrap DP observations.

Every such box is sure (confidence 1). It counts as an animal, unless its category says person or vehicle. An
image without a box is known to be empty only if its annotations say so: one that is labelled but not boxed
has no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.datapackage import open_package
from camtrap_batch.catalog.jsonfile import parsing, read_json
from camtrap_batch.detection.base import ANIMAL, PERSON, VEHICLE, Known, meaning
from camtrap_batch.detection.results import BOX
from camtrap_batch.errors import InputError
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import EMPTY, plural

CATEGORIES = (ANIMAL, PERSON, VEHICLE)
_FORMATS = ("cct", "camtrap-dp")
_OUTSIDE = 0.02  # as in results files
_FIRST_ON_SIDE = 5  # EXIF orientations from this one on exchange width and height


class _Image(msgspec.Struct, gc=False):
    id: str | int
    width: float | None = None
    height: float | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: str | int
    category_id: int
    bbox: list[float] | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str | None = None


class _Cct(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class Drawn:
    """Boxes as they are in the metadata.

    Attributes
    ----------
    image_id : (n,) str, image of each box
    corners : (n, 4) float64: x, y, width, height
    category : (n,) int16, an index into `CATEGORIES`
    in_pixels : whether corners are pixels, otherwise fractions of the picture
    sizes : image id -> width and height according to the metadata
    empty : ids of images that are empty according to the metadata
    label : (n,) name of what is in each box, None if it is not given
    """

    image_id: list[str]
    corners: npt.NDArray[np.float64]
    category: npt.NDArray[np.int16]
    in_pixels: bool
    sizes: Mapping[str, tuple[float, float]]
    empty: frozenset[str]
    label: list[str | None]


@dataclass(frozen=True)
class CatalogDetector:
    """The boxes in the data set's own metadata."""

    path: str
    detector_id: str
    drawn: Drawn

    help: ClassVar[str] = "the boxes of the metadata: bboxes of COCO Camera Traps and Camtrap DP"

    @property
    def categories(self) -> tuple[str, ...]:
        return CATEGORIES

    @classmethod
    def open(cls, path: str, *, kind: str, key: str = "detect.results") -> CatalogDetector:
        """Read the boxes in the metadata of a data set.

        Parameters
        ----------
        kind : format of the data set

        Raises
        ------
        InputError
            There are none, or the format does not have boxes.
        """
        if kind not in _FORMATS:
            raise InputError(
                f"{key}: catalog: metadata of the format {kind} have no boxes; possible with "
                f"{' and '.join(_FORMATS)}"
            )
        drawn = _of_cct(path, key) if kind == "cct" else _of_camtrap_dp(path)
        if not drawn.image_id:
            raise InputError(f"{key}: catalog: {redacted(path)} has no box (bbox)")
        hash_ = hashlib.sha256("\n".join(drawn.image_id).encode())
        hash_.update(drawn.corners.tobytes() + drawn.category.tobytes())
        hash_.update("\n".join(name or "" for name in drawn.label).encode())
        return cls(path, hash_.hexdigest()[:16], drawn)

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
                pa.array(drawn.category[order]),
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
            notes.append(f"{others:,} boxes of the metadata are of no usable image")
        for number, what in zip(turned, ("as EXIF turns it", "before EXIF turns it"), strict=True):
            if number:
                notes.append(f"{number:,} boxes are of the picture {what}; the metadata's size says so")
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


def _of_cct(path: str, key: str) -> Drawn:
    data = read_json(path, key)
    with parsing(data, f"{path} ({key})", "COCO Camera Traps with boxes"):
        content = msgspec.json.decode(data, type=_Cct)
    names = {category.id: (category.name or "").strip() for category in content.categories}
    empty = {number for number, name in names.items() if number == 0 or name.casefold() == EMPTY}
    marked = [mark for mark in content.annotations if mark.bbox]
    for mark in marked:
        if len(mark.bbox or ()) != 4:
            raise InputError(
                f"{path}: image {mark.image_id!r}: bbox has {len(mark.bbox or ())} numbers, not 4"
            )
    ids = [str(mark.image_id) for mark in marked]
    boxed = set(ids)
    sizes = {
        str(image.id): (float(image.width), float(image.height))
        for image in content.images
        if image.width and image.height and str(image.id) in boxed
    }
    labels: dict[str, bool] = {}
    for mark in content.annotations:
        name = str(mark.image_id)
        labels[name] = labels.get(name, True) and mark.category_id in empty
    return Drawn(
        ids,
        np.array([mark.bbox for mark in marked], np.float64).reshape(-1, 4),
        np.array([_category(names.get(mark.category_id, "")) for mark in marked], np.int16),
        True,
        sizes,
        frozenset(name for name, is_empty in labels.items() if is_empty and name not in boxed),
        [names.get(mark.category_id) or None for mark in marked],
    )


def _of_camtrap_dp(path: str) -> Drawn:
    columns = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
    with open_package(path) as package:
        table = package.table("observations", ("observationType",), ("mediaID", "scientificName", *columns))
    numbers = np.stack([_numbers(table[name]) for name in columns], axis=1)
    of_media = table["mediaID"].to_pylist()
    kinds = table["observationType"].to_pylist()
    names = table["scientificName"].to_pylist()
    is_boxed = ~np.isnan(numbers).any(axis=1) & np.array([bool(name) for name in of_media], bool)
    boxed = np.flatnonzero(is_boxed).tolist()
    ids = [of_media[row] for row in boxed]
    blank = {name for name, kind in zip(of_media, kinds, strict=True) if name and kind == "blank"}
    return Drawn(
        ids,
        numbers[boxed].reshape(-1, 4),
        np.array([_category(kinds[row] or "", names[row] or "") for row in boxed], np.int16),
        False,
        {},
        frozenset(blank - set(ids)),
        [names[row] or None for row in boxed],
    )


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    return np.array([_number(cell) for cell in column.to_pylist()], np.float64)


def _number(cell: str | None) -> float:
    try:
        return float(cell) if cell else np.nan
    except ValueError:
        return np.nan


def _category(*names: str) -> int:
    """Index in `CATEGORIES` of what a box shows."""
    shown = {meaning(name) for name in names}
    return 1 if PERSON in shown else 2 if VEHICLE in shown else 0
