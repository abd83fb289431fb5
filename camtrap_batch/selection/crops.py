"""What the crops of selected images show, if that is beyond doubt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.detection.repeats import SAME_BOX, overlap
from camtrap_batch.vocabulary import EMPTY

BOX, BACKGROUND, FRAME = "box", "background", "frame"
"""Kinds of crops, see the table training_crops."""

KEPT_FOR_BOXES = "several classes, kept for its boxes"
"""Reason of a selected image that shows several of the classes."""

KNOWN = "known"
NOT_CHOSEN = "a class that is not chosen"
SEVERAL = "several species in the image"
MORE_BOXES = "more boxes than animals"
MISSED = "an animal without a box"
UNTOLD = "other boxes of the image were labelled in review"
"""Reasons for a crop's label, or for its being in doubt."""

_Texts = npt.NDArray[Any]


def label_crops(
    images: pa.Table,
    crops: pa.Table,
    classes: list[str],
    empty: str | None,
) -> tuple[_Texts, Counter[str]]:
    """Label of each crop, '' if it is in doubt; and how many are in doubt, by reason.

    - A box that people labelled in review carries that label; the other boxes of such an image are in doubt,
      unless they are in the metadata.
    - A box that people drew in the metadata carries the label given there, unless the image was labelled
      differently in review.
    - Otherwise a box carries the label of its image if the image's labels name only one species. If they say
      how many animals there are, and there are more boxes, only the most confident ones carry it.
    - In an empty image a box is empty: the detector was wrong.
    - The background of an empty image is empty. In an image with an animal that has no box, nobody knows
      where the animal is.
    - A whole frame carries the label of its image, unless the image shows several of the classes.

    Parameters
    ----------
    images : for each selected image: label, reason, species, animals, told, as in the table selection
    crops : image (row in `images`), what, confidence of the box, its sides x, y, w, h, and its own label if
        the metadata have one
    classes : labels to be learnt
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
    is_box = what == BOX
    in_doubt = _take_told(images, crops, image, is_box, own)
    is_drawn = np.array([name is not None for name in own], bool)
    reason[in_doubt] = UNTOLD
    by_image = is_box & ~is_drawn & ~is_empty & ~in_doubt
    reason[by_image & (species != 1)] = SEVERAL
    reason[by_image & (_ranks(image, crops["confidence"].to_numpy(), is_box) >= animals)] = MORE_BOXES
    reason[(what == BACKGROUND) & ~is_empty] = MISSED
    is_mixed = images["reason"].to_numpy(zero_copy_only=False)[image] == KEPT_FOR_BOXES
    reason[is_mixed & (what == FRAME)] = SEVERAL
    names = {name.casefold(): name for name in classes}
    for row in np.flatnonzero(is_box & is_drawn).tolist():
        label[row] = names.get(own[row].casefold(), "")
        if not label[row]:
            reason[row] = NOT_CHOSEN
    label[reason != KNOWN] = ""
    return label, Counter(reason.tolist())


def _take_told(
    images: pa.Table,
    crops: pa.Table,
    image: npt.NDArray[np.int64],
    is_box: npt.NDArray[np.bool_],
    own: _Texts,
) -> npt.NDArray[np.bool_]:
    """Put what people said in review into `own`, in place; returns which crops are in doubt.

    `own` becomes None if the label of the image counts instead.
    """
    in_doubt = np.zeros(len(image), bool)
    told = images["told"]
    starts = np.searchsorted(image, np.arange(images.num_rows + 1))
    sides = np.stack([crops[name].to_numpy(zero_copy_only=False) for name in ("x", "y", "w", "h")], axis=1)
    for row in np.flatnonzero(told.is_valid().to_numpy(zero_copy_only=False)).tolist():
        said = told[row].as_py()
        boxes = np.array([one["box"] for one in said if one["box"] is not None], np.float32).reshape(-1, 4)
        names = [one["label"] for one in said if one["box"] is not None]
        of_image = {one["label"].casefold() for one in said if one["box"] is None}
        for crop in range(starts[row], starts[row + 1]):
            if not is_box[crop]:
                continue
            same = overlap(boxes, sides[crop]) if len(boxes) else np.empty(0, np.float32)
            if len(same) and same.max() >= SAME_BOX:
                labels = {names[at] for at in np.flatnonzero(same == same.max()).tolist()}
                own[crop] = labels.pop() if len(labels) == 1 else None
                in_doubt[crop] = bool(labels)
            elif of_image:
                if own[crop] is not None and own[crop].casefold() not in of_image:
                    own[crop] = None
            else:
                in_doubt[crop] = own[crop] is None
    return in_doubt


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
