"""What the crops of selected images show, if that is beyond doubt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.vocabulary import EMPTY

BOX, BACKGROUND, FRAME = "box", "background", "frame"
"""Kinds of crops, see the table training_crops."""

KNOWN = "known"
NOT_CHOSEN = "a class that is not chosen"
SEVERAL = "several species in the image"
MORE_BOXES = "more boxes than animals"
MISSED = "an animal without a box"
REASONS = (KNOWN, NOT_CHOSEN, SEVERAL, MORE_BOXES, MISSED)

_Texts = npt.NDArray[Any]


def label_crops(
    images: pa.Table,
    crops: pa.Table,
    classes: list[str],
    empty: str | None,
) -> tuple[_Texts, Counter[str]]:
    """Label of each crop, '' if it is in doubt; and how many are in doubt, by `REASONS`.

    - A box that people drew carries the label that they gave it.
    - Otherwise a box carries the label of its image, where its labels name one species alone. Where they say
    how
      many animals there are, and there are more boxes, the surest ones carry it.
    - In an empty image a box is empty: the detector was wrong.
    - The background of an empty image is empty. In an image with an animal that has no box, nobody knows
      where that is.
    - A whole frame carries the label of its image.

    Parameters
    ----------
    images : of each image that is selected: image_id, label, species, animals, as in the table selection
    crops : image (row in `images`), what, confidence of the box, its own label where people drew it
    classes : labels that are learnt
    empty : the class without an animal; None if there is none
    """
    image = crops["image"].to_numpy()
    what = crops["what"].to_numpy(zero_copy_only=False)
    label = images["label"].to_numpy(zero_copy_only=False)[image].astype(object)
    own = crops["label"].to_numpy(zero_copy_only=False).astype(object)
    species = images["species"].fill_null(1).to_numpy()[image]
    animals = images["animals"].fill_null(np.iinfo(np.int32).max).to_numpy()[image]
    reason = np.full(len(image), KNOWN, object)
    is_empty = label == empty
    is_box, is_drawn = what == BOX, np.array([name is not None for name in own], bool)
    by_image = is_box & ~is_drawn & ~is_empty
    reason[by_image & (species != 1)] = SEVERAL
    reason[by_image & (_ranks(image, crops["confidence"].to_numpy(), is_box) >= animals)] = MORE_BOXES
    reason[(what == BACKGROUND) & ~is_empty] = MISSED
    names = {name.casefold(): name for name in classes}
    for row in np.flatnonzero(is_box & is_drawn).tolist():
        label[row] = names.get(own[row].casefold(), "")
        if not label[row]:
            reason[row] = NOT_CHOSEN
    label[reason != KNOWN] = ""
    return label, Counter(reason.tolist())


def _ranks(
    image: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32], is_box: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """For each box: how many of its image's boxes are surer."""
    order = np.lexsort((-np.where(is_box, confidence, -1), image))
    starts = np.searchsorted(image[order], image[order])
    ranks = np.empty(len(image), np.int64)
    ranks[order] = np.arange(len(image)) - starts
    return ranks


def species_of(labels: pa.ChunkedArray, empty: str | None) -> tuple[pa.Array, pa.Array]:
    """For each image: how many species its labels name; how many animals, null if a label does not say."""
    nothing = {EMPTY, (empty or EMPTY).casefold()}
    species, animals = [], []
    for marks in labels.to_pylist():
        shown = [mark for mark in marks or () if mark["name"].casefold() not in nothing]
        species.append(len({mark["name"].casefold() for mark in shown}))
        counts = [mark["count"] for mark in shown]
        animals.append(sum(counts) if counts and None not in counts else None)
    return pa.array(species, pa.int32()), pa.array(animals, pa.int32())
