"""The images that a classifier is trained and judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.detection.boxes import Rules
from camtrap_batch.errors import JobError, choices

SPLITS = ("train", "valid", "test")
IN_DOUBT = ""
"""Label of a crop whose content is unknown."""


@dataclass(frozen=True)
class Frames:
    """The images that crops were cut from: what a job says about them, by the rules for boxes, is judged.

    Attributes
    ----------
    image_ids, labels, splits, locations, is_night
        As in `Samples`, one entry per image.
    boxes
        Boxes of each image, see `detection.boxes.COLUMN`.
    crops
        For each image: indices in the samples of what a job classifies in it, in the order of its boxes.
    rules
        How boxes make an image's label.
    """

    image_ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    locations: Sequence[str]
    is_night: npt.NDArray[np.bool_] | None
    boxes: pa.ListArray
    crops: Sequence[npt.NDArray[np.int64]]
    rules: Rules

    def of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the images of a split, ascending."""
        return np.flatnonzero(np.asarray(self.splits, dtype=object) == split)


@dataclass(frozen=True)
class Samples:
    """Labelled images, or crops of images; every attribute has one entry for each, in the same order.

    Attributes
    ----------
    image_ids, locations
        As in the tables selection and manifest.
    labels
        As in the table selection; `IN_DOUBT` for a crop that is included only for its image's label.
    splits
        "train", "valid" or "test"; while training also `judging.RANDOM`.
    weights
        Shape (n,), float32: how often an image is shown in training, relative to the others.
    is_night
        Shape (n,), bool: greyscale infrared; None if it is not known.
    category_ids
        Label -> the data set's category ids. Its keys are the classes.
    jpegs
        Bytes of the image files, thumbnails or originals. Indexing may read them, from several threads.
    blocks
        Shape (n,), int64: images with the same number are read together, such as those of a row group; None
        if all are in memory.
    window
        How many blocks can be held at once; only with `blocks`.
    margin
        Pixels of each JPEG, on each side, around the square that the model sees. If above 0, they are crops
        of exactly the size that is trained on.
    frames
        The images that the crops were cut from; None if whole frames are trained on.
    """

    image_ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str]
    weights: npt.NDArray[np.float32]
    locations: Sequence[str]
    is_night: npt.NDArray[np.bool_] | None
    category_ids: Mapping[str, list[int]]
    jpegs: Sequence[bytes]
    blocks: npt.NDArray[np.int64] | None = None
    window: int = 1
    margin: int = 0
    frames: Frames | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def classes(self) -> list[str]:
        """The labels, sorted: a class is identified by its index here."""
        return sorted(self.category_ids)

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """Shape (n,): index of each image's label in `classes`, -1 if it is in doubt."""
        return self.index_of(self.labels)

    def index_of(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """Shape (n,): index of each label in `classes`, -1 for `IN_DOUBT`."""
        index_of = {label: index for index, label in enumerate(self.classes)} | {IN_DOUBT: -1}
        return np.fromiter((index_of[label] for label in labels), np.int64, len(labels))

    def of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the images of a split whose label is not in doubt, ascending."""
        is_known = np.asarray(self.labels, dtype=object) != IN_DOUBT
        return np.flatnonzero((np.asarray(self.splits, dtype=object) == split) & is_known)

    def check(self) -> None:
        """Refuse what can't be trained on.

        Raises
        ------
        JobError
            Fewer than two classes, a class without a training image, nothing to validate on.
        ValueError
            The attributes differ in length, or hold impossible values.
        """
        n = len(self)
        for name in ("labels", "splits", "weights", "locations", "is_night", "jpegs", "blocks"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} entries, image_ids has {n}")
        for name, known, found in (
            ("split", SPLITS, set(self.splits)),
            ("label", self.category_ids, set(self.labels) - {IN_DOUBT}),
        ):
            for value in sorted(found.difference(known)):
                raise ValueError(f"{name} {value!r} is not known; {choices(value, known)}")
        if not np.isfinite(self.weights).all() or (np.asarray(self.weights) < 0).any():
            raise ValueError("weights should be finite and not negative")
        if len(self.classes) < 2:
            raise JobError(
                f"a classifier needs two classes or more, the selection has {len(self.classes)}"
                f" ({', '.join(self.classes) or 'none'}): add to select.classes"
            )
        usable = self.weights > 0
        shown = {self.labels[index] for index in self.of_split("train") if usable[index]}
        if missing := [label for label in self.classes if label not in shown]:
            what = "no training image" if self.frames is None else "no box to train on that counts, in images"
            raise JobError(
                f"{what} of {', '.join(map(repr, missing))}:"
                " leave the class out of select.classes, or lower select.split.valid"
                + ("" if self.frames is None else "; or lower detect.threshold, or train.on: frames")
            )
        if not len(self.of_split("valid")):
            raise JobError("no image to validate on (split valid): raise select.split.valid")
