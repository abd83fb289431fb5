"""The images that a classifier is trained and judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import JobError, choices

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Samples:
    """Labelled images; every sequence has one entry for each image, in the same order.

    Attributes
    ----------
    image_ids, labels, locations
        As in the tables selection and manifest.
    splits
        "train", "valid" or "test"; while training also `judging.RANDOM`.
    weights
        Shape (n,), float32: how often an image is shown in training, relative to the others.
    is_night
        Shape (n,), bool: greyscale infrared; None where it is not known.
    category_ids
        Label -> the data set's category ids. Its keys are the classes.
    jpegs
        The image files' bytes, thumbnails or originals. May read when indexed; read from several threads.
    blocks
        Shape (n,), int64: images with the same number are read together, such as those of a row group; None
        where all are at hand.
    window
        How many blocks can be held at once; only with `blocks`.
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

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def classes(self) -> list[str]:
        """The labels, sorted: a class is known by its index here."""
        return sorted(self.category_ids)

    @property
    def truth(self) -> npt.NDArray[np.int64]:
        """Shape (n,): index of each image's label in `classes`."""
        index_of = {label: index for index, label in enumerate(self.classes)}
        return np.fromiter((index_of[label] for label in self.labels), np.int64, len(self))

    def of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the images of a split, ascending."""
        return np.flatnonzero(np.asarray(self.splits, dtype=object) == split)

    def check(self) -> None:
        """Refuse what can't be trained on.

        Raises
        ------
        JobError
            Fewer than two classes, a class without a training image, nothing to validate on.
        ValueError
            The sequences are not of one length, or hold what they must not.
        """
        n = len(self)
        for name in ("labels", "splits", "weights", "locations", "is_night", "jpegs", "blocks"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} entries, image_ids has {n}")
        for name, known, found in (
            ("split", SPLITS, set(self.splits)),
            ("label", self.category_ids, set(self.labels)),
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
            raise JobError(
                f"no training image of {', '.join(map(repr, missing))}:"
                " leave the class out of select.classes, or lower select.split.valid"
            )
        if "valid" not in self.splits:
            raise JobError("no image to validate on (split valid): raise select.split.valid")
