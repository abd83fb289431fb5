"""What a model looks at in a picture: the whole frame, or squares around boxes in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from camtrap_batch.images.framing import Framing, frame, resize_image
from camtrap_batch.images.pixels import Pixels

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height, as fractions of the upright picture's width and height."""

MARGIN = 0.15
"""Margin kept around a square for training, on each side, as a fraction of it, so that it can be moved and
widened."""

_SMALLEST = 0.01  # side of a box, as a fraction of the frame: smaller boxes would require a huge decode
_MOST_WANTED = 4096
_FILTER = 4  # pixels beside a square that the filter may use when the picture is enlarged


class Picture(NamedTuple):
    """An image file's bytes, and the boxes in it to classify; None: the whole frame."""

    data: bytes
    boxes: Sequence[Box] | None = None


def decode_picture(picture: Picture, framing: Framing) -> Pixels:
    """The squares that a model sees of a picture.

    A box is widened to a square with its longer side, moved inside the frame, and cut off if the frame is
    smaller, so animals keep their shape and their surroundings are seen; or it is taken as it is, if
    `framing` says so. It is resized to the whole square with the filter of `framing`.

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
    image = _decode_for(picture.data, picture.boxes, framing)
    squares = []
    for box in picture.boxes:
        if framing.boxes == "stretch":  # cut first, so that its surroundings do not affect its border
            part = image.crop(whole_pixels(box, image.width, image.height))
            squares.append(np.asarray(resize_image(part, (size, size), framing)))
            continue
        square = square_around(box, image.width, image.height)
        squares.append(np.asarray(resize_image(image, (size, size), framing, square)))
    return np.stack(squares)


def margin_of(size: int) -> int:
    """Pixels kept on each side of a square of `size` pixels.

    >>> margin_of(224)
    34
    """
    return round(MARGIN * size)


def cut_for_training(picture: Picture, size: int) -> Pixels:
    """The squares that a model trained here sees of a picture, each with its surroundings.

    The middle of each, `size` pixels wide, is the result of `decode_picture`. Around it are `margin_of(size)`
    pixels at the same scale; beyond the frame's border the picture is mirrored.

    Returns
    -------
    Shape (boxes or 1, side, side, 3), RGB; `side` is size + 2 margin_of(size).

    Raises
    ------
    ValueError
        Nothing decodes.
    """
    margin = margin_of(size)
    if picture.boxes is None:
        whole = frame(picture.data, Framing(size))
        return np.pad(whole, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")[None]
    image = _decode_for(picture.data, picture.boxes, Framing(size))
    pixels, side = np.asarray(image), size + 2 * margin
    squares = []
    for box in picture.boxes:
        left, top, right, bottom = square_around(box, image.width, image.height)
        across, down = (right - left) * margin / size, (bottom - top) * margin / size
        columns, x = _mirrored(left - across, right + across, image.width)
        rows, y = _mirrored(top - down, bottom + down, image.height)
        around = Image.fromarray(pixels[np.ix_(rows, columns)])
        within = (left - across - x, top - down - y, right + across - x, bottom + down - y)
        squares.append(np.asarray(resize_image(around, (side, side), Framing(size), within)))
    return np.stack(squares)


def _decode_for(data: bytes, boxes: Sequence[Box], framing: Framing) -> Image.Image:
    """The picture, RGB, with as many pixels in each box as the square has, if the file has them."""
    longest = min(max(box[2], box[3], _SMALLEST) for box in boxes)
    whole = framing.decode(data, min(_MOST_WANTED, int(np.ceil(framing.size / longest))))
    return Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole).convert("RGB")


def _mirrored(start: float, stop: float, extent: int) -> tuple[npt.NDArray[np.int64], int]:
    """Indices of the pixels from `start` to `stop`, mirrored if they are outside, and the first one."""
    first = int(np.floor(start)) - _FILTER
    indices = np.arange(first, int(np.ceil(stop)) + _FILTER)
    period = max(2 * (extent - 1), 1)
    indices = np.abs(indices) % period
    return np.minimum(indices, period - indices) if extent > 1 else indices * 0, first


def thumbnail_shows(boxes: Sequence[Box], size: int, thumbnail: int, width: int, height: int) -> bool:
    """Whether a thumbnail has as many pixels in each box as a model needs, or as the original has.

    Parameters
    ----------
    size : side of the model's square, in pixels
    thumbnail : pixels on the short side of thumbnails
    width, height : pixels of the original
    """
    return min(width, height) <= thumbnail or all(max(w, h) * thumbnail >= size for _, _, w, h in boxes)


def square_around(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels of what is classified for a box in a frame of this size.

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
    """Left, top, right, bottom in pixels of a box alone, all rounded down as in SpeciesNet.

    >>> whole_pixels((0.5, 0.5, 0.25, 0.3), 401, 201)
    (200, 100, 300, 160)
    """
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    across, down = max(int(box[2] * width), 1), max(int(box[3] * height), 1)
    return left, top, min(left + across, width), min(top + down, height)
