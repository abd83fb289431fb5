"""A picture as a detector sees it: in a frame of the size that the network wants, and the way back.

Detectors were trained on pictures that OpenCV made smaller without smoothing them (its INTER_LINEAR), in a
frame of grey; who gives a network something else gets other boxes than the network's own software.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from camtrap_batch.images import decode_upright
from camtrap_batch.images.compiled import compiled
from camtrap_batch.images.decode import JPEG
from camtrap_batch.images.exif import read_jpeg_exif
from camtrap_batch.images.pixels import Pixels, upright
from camtrap_batch.images.raster import resample

GREY = 114
"""Of the frame around a letterboxed picture, as YOLOv5 and all that came from it have it."""

_ALL = 2**16  # pixels on the short side: whatever the file has
_BITS = 11  # after the point, of OpenCV's weights


@dataclass(frozen=True)
class Fit:
    """How a picture is put into the frame.

    Attributes
    ----------
    size : height and width of the frame
    resize : letterbox keeps the picture's shape; stretch fills the frame with it
    stride : a letterboxed frame is cut down to multiples of it where the network takes any size; 0: it does
        not, and the frame stays as it is
    smooth : whether a picture is smoothed when it is made smaller (antialiased, as torchvision does)
    mean, std : of each channel, of values between 0 and 1
    """

    size: tuple[int, int]
    resize: Literal["letterbox", "stretch"] = "letterbox"
    stride: int = 0
    smooth: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def place(self, height: int, width: int) -> Place:
        """Where a picture of that size is in its frame.

        >>> Fit((640, 640), stride=32).place(1536, 2048)
        Place(height=480, width=640, top=0, left=0, frame=(480, 640))
        >>> Fit((640, 640)).place(1536, 2048)
        Place(height=480, width=640, top=80, left=0, frame=(640, 640))
        """
        rows, columns = self.size
        if self.resize == "stretch":
            return Place(rows, columns, 0, 0, self.size)
        scale = min(rows / height, columns / width)
        new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
        down, across = rows - new_height, columns - new_width
        if self.stride:
            down, across = down % self.stride, across % self.stride
        # The odd pixel goes below and to the right.
        top, left = round(down / 2 - 0.1), round(across / 2 - 0.1)
        return Place(new_height, new_width, top, left, (new_height + down, new_width + across))


@dataclass(frozen=True)
class Place:
    """Rows and columns that a picture takes in its frame, and where it begins; size of the frame."""

    height: int
    width: int
    top: int
    left: int
    frame: tuple[int, int]


def decode_whole(data: bytes) -> Pixels:
    """The picture in an image file, upright, in all its pixels.

    With the exact inverse transform and smooth chroma, as OpenCV and Pillow decode, where that serves.

    Returns
    -------
    Shape (height, width, 3) RGB, or (height, width, 1) grey.

    Raises
    ------
    ValueError
        Nothing decodes.
    """
    if data.startswith(JPEG):
        try:
            coded = simplejpeg.decode_jpeg_header(data, strict=False)[2]
            space = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}[coded]
            pixels = simplejpeg.decode_jpeg(
                data, colorspace=space, fastdct=False, fastupsample=False, strict=False
            )
        except (ValueError, KeyError):
            pass  # of another kind, or so damaged that libjpeg gives up
        else:
            return upright(pixels, read_jpeg_exif(data).orientation)
    return decode_upright(data, _ALL)


def put(pixels: Pixels, fit: Fit, place: Place, out: npt.NDArray[np.float32]) -> None:
    """Write a picture into its frame.

    Parameters
    ----------
    out : shape (3, *place.frame), all of it is written: RGB, normalised as `fit` says
    """
    scale = np.array([1 / (255 * std) for std in fit.std], np.float32)
    shift = np.array([-mean / std for mean, std in zip(fit.mean, fit.std, strict=True)], np.float32)
    if place.frame != (place.height, place.width):
        out[:] = (GREY * scale + shift)[:, None, None]
    inside = out[:, place.top : place.top + place.height, place.left : place.left + place.width]
    if fit.smooth and pixels.shape[:2] != (place.height, place.width):
        pixels = resample(pixels, place.height, place.width)
    rows, columns = _taps(pixels.shape[0], place.height), _taps(pixels.shape[1], place.width)
    _put(np.ascontiguousarray(pixels), *rows, *columns, scale, shift, inside)


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """For each new pixel the first of two old ones, and the second one's weight, as OpenCV takes them."""
    centres = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    first = np.floor(centres).astype(np.int64)
    weight = np.round((centres - first) * (1 << _BITS)).astype(np.int32)
    weight[(first < 0) | (first >= size - 1)] = 0
    return np.clip(first, 0, size - 1), weight


@compiled
def _put(
    pixels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    row_weights: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int64],
    column_weights: npt.NDArray[np.int32],
    scale: npt.NDArray[np.float32],
    shift: npt.NDArray[np.float32],
    out: Any,
) -> None:
    one = np.int32(1 << _BITS)
    last_row, last_column, grey = pixels.shape[0] - 1, pixels.shape[1] - 1, pixels.shape[2] == 1
    for y in range(out.shape[1]):
        above, below = pixels[rows[y]], pixels[min(rows[y] + 1, last_row)]
        lower = row_weights[y]
        upper = one - lower
        for channel in range(3):
            source = 0 if grey else channel
            line, by, plus = out[channel, y], scale[channel], shift[channel]
            for x in range(out.shape[2]):
                left = columns[x]
                right = min(left + 1, last_column)
                weight = column_weights[x]
                first = (
                    np.int32(above[left, source]) * (one - weight) + np.int32(above[right, source]) * weight
                )
                second = (
                    np.int32(below[left, source]) * (one - weight) + np.int32(below[right, source]) * weight
                )
                value = (((upper * (first >> 4)) >> 16) + ((lower * (second >> 4)) >> 16) + 2) >> 2
                line[x] = np.float32(value) * by + plus
