"""Boxes that people drew around animals, as the metadata of a data set have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from camtrap_batch.catalog.datapackage import open_package
from camtrap_batch.catalog.jsonfile import parsing, read_json
from camtrap_batch.errors import InputError
from camtrap_batch.vocabulary import EMPTY


@dataclass(frozen=True)
class Drawn:
    """Boxes as they are in the metadata.

    Attributes
    ----------
    image_id : (n,) str, image of each box
    corners : (n, 4) float64: x, y, width, height
    shows : (n,) words of the metadata for what each box shows, such as its category
    in_pixels : whether corners are pixels, otherwise fractions of the picture
    sizes : image id -> width and height according to the metadata
    empty : ids of images that are empty according to the metadata
    label : (n,) name of what is in each box, None if it is not given
    """

    image_id: list[str]
    corners: npt.NDArray[np.float64]
    shows: list[tuple[str, ...]]
    in_pixels: bool
    sizes: Mapping[str, tuple[float, float]]
    empty: frozenset[str]
    label: list[str | None]


def drawn_in_cct(path: str, key: str) -> Drawn:
    """The boxes in annotations of COCO Camera Traps (`bbox`, in pixels); parameters as for `read_json`."""
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
        [(names.get(mark.category_id, ""),) for mark in marked],
        True,
        sizes,
        frozenset(name for name, is_empty in labels.items() if is_empty and name not in boxed),
        [names.get(mark.category_id) or None for mark in marked],
    )


def drawn_in_package(path: str) -> Drawn:
    """The boxes in observations of Camtrap DP (`bboxX` and so on, fractions of the picture)."""
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
        [(kinds[row] or "", names[row] or "") for row in boxed],
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
