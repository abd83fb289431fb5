"""What a model looks at in a picture: the whole frame, or squares around boxes in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from camtrap_batch.images.framing import Framing, frame, resize_image
from camtrap_batch.images.pixels import Pixels

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height: parts of the upright picture's width and height."""

_SMALLEST = 0.01  # side of a box, as part of the frame: else a speck would ask for a huge decode
_MOST_WANTED = 4096


class Picture(NamedTuple):
    """An image file's bytes, and the boxes in it to look at; None: the whole frame."""

    data: bytes
    boxes: Sequence[Box] | None = None


def decode_picture(picture: Picture, framing: Framing) -> Pixels:
    """The squares that a model sees of a picture.

    A box is widened to a square of its longer side, moved to be inside the frame, and cut off where the
    frame is smaller: animals keep their shape, and what is around them is seen; or it is taken as it is,
    where `framing` says so. It is resized as `framing` says of its filter, to the whole square.

    Returns
    -------
    Shape (boxes or 1, size, size, 3), RGB.

    Raises
    ------
    ValueError
        Nothing decodes.
    """
    if picture.boxes is None:
        return frame(picture.data, framing)[None]
    size = framing.size
    longest = min(max(box[2], box[3], _SMALLEST) for box in picture.boxes)
    whole = framing.decode(picture.data, min(_MOST_WANTED, int(np.ceil(size / longest))))
    image = Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole).convert("RGB")
    squares = []
    for box in picture.boxes:
        if framing.boxes == "stretch":  # cut out first: what is around it does not count at its border
            part = image.crop(whole_pixels(box, image.width, image.height))
            squares.append(np.asarray(resize_image(part, (size, size), framing)))
            continue
        place = square_around(box, image.width, image.height)
        squares.append(np.asarray(resize_image(image, (size, size), framing, place)))
    return np.stack(squares)


def square_around(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels of what is looked at for a box in a frame of that size.

    >>> square_around((0.5, 0.5, 0.25, 0.25), 400, 200)
    (200.0, 62.5, 300.0, 162.5)
    >>> square_around((0.0, 0.0, 1.0, 0.25), 400, 200)
    (0.0, 0.0, 400.0, 200.0)
    """
    x, y, w, h = box
    side = max(w * width, h * height, 1.0)
    across, down = min(side, float(width)), min(side, float(height))
    left = min(max((x + w / 2) * width - across / 2, 0.0), width - across)
    top = min(max((y + h / 2) * height - down / 2, 0.0), height - down)
    return left, top, left + across, top + down


def whole_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels of a box alone, all rounded down as SpeciesNet does it.

    >>> whole_pixels((0.5, 0.5, 0.25, 0.3), 401, 201)
    (200, 100, 300, 160)
    """
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    across, down = max(int(box[2] * width), 1), max(int(box[3] * height), 1)
    return left, top, min(left + across, width), min(top + down, height)
