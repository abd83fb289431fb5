"""A picture as a detector sees it: in a frame of the size that the network needs, and the way back.

Detectors were trained on pictures that OpenCV reduced without smoothing (its INTER_LINEAR), in a grey frame;
a network that sees something else returns other boxes than its own software.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from camtrap_batch.images.compiled import compiled
from camtrap_batch.images.pixels import Pixels

GREY = 114
"""Grey of the frame around a letterboxed picture, as in YOLOv5 and its descendants."""

_BITS = 11  # fractional bits of OpenCV's weights


@dataclass(frozen=True)
class Fit:
    """How a picture is put into the frame.

    Attributes
    ----------
    size : height and width of the frame
    resize : letterbox keeps the picture's shape; stretch fills the frame with it
    stride : a letterboxed frame is cut down to multiples of this if the network takes any size; 0: it does
        not, and the frame keeps its size
    smooth : whether a picture is smoothed when it is reduced (antialiased, as torchvision can do)
    in_floats : whether means of pixels stay unrounded, as in torchvision, or are rounded, as in OpenCV;
        smoothed ones always stay unrounded
    mean, std : per channel, for values between 0 and 1
    """

    size: tuple[int, int]
    resize: Literal["letterbox", "stretch"] = "letterbox"
    stride: int = 0
    smooth: bool = False
    in_floats: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def is_of_pixels(self) -> bool:
        """Whether the frame holds whole numbers of 0 to 255 before it is normalised."""
        return not (self.smooth or self.in_floats)

    def place(self, height: int, width: int) -> Placement:
        """Where a picture of this size is in its frame.

        >>> Fit((640, 640), stride=32).place(1536, 2048)
        Placement(height=480, width=640, top=0, left=0, frame=(480, 640))
        >>> Fit((640, 640)).place(1536, 2048)
        Placement(height=480, width=640, top=80, left=0, frame=(640, 640))
        """
        rows, columns = self.size
        if self.resize == "stretch":
            return Placement(rows, columns, 0, 0, self.size)
        scale = min(rows / height, columns / width)
        new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
        down, across = rows - new_height, columns - new_width
        if self.stride:
            down, across = down % self.stride, across % self.stride
        # The odd pixel goes below and to the right.
        top, left = round(down / 2 - 0.1), round(across / 2 - 0.1)
        return Placement(new_height, new_width, top, left, (new_height + down, new_width + across))


@dataclass(frozen=True)
class Placement:
    """Rows and columns that a picture takes up in its frame, where it begins, and the frame's size."""

    height: int
    width: int
    top: int
    left: int
    frame: tuple[int, int]

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the picture."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def put(pixels: Pixels, fit: Fit, placement: Placement, out: npt.NDArray[np.float32]) -> None:
    """Write a picture into its frame.

    Parameters
    ----------
    out : shape (3, *placement.frame), all of it is written: RGB, normalised as `fit` says
    """
    mean, std = np.array(fit.mean, np.float32), np.array(fit.std, np.float32)
    values = np.arange(256, dtype=np.float32)[None, :] / np.float32(255)
    values = (values - mean[:, None]) / std[:, None]
    if placement.frame != (placement.height, placement.width):
        out[:] = values[:, GREY, None, None]
    inside = out[(slice(None), *placement.inside)]
    if fit.is_of_pixels or pixels.shape[:2] == (placement.height, placement.width):
        _put(np.ascontiguousarray(pixels), *_taps_of(pixels, placement), values, inside)
        return
    means = _means if fit.smooth else _pairs
    rows, columns = means(pixels.shape[0], placement.height), means(pixels.shape[1], placement.width)
    _put_smooth(np.ascontiguousarray(pixels), *rows, *columns, inside)
    # For whole numbers from 0 to 255 a table would do; their means are normalised directly.
    inside /= np.float32(255)
    inside -= mean[:, None, None]
    inside /= std[:, None, None]


def put_pixels(pixels: Pixels, placement: Placement, out: Pixels) -> None:
    """Write a picture into its frame, if its `Fit` is of pixels, for a network that normalises them itself.

    Parameters
    ----------
    out : shape (*placement.frame, 3), in memory order; all of it is written: RGB
    """
    if placement.frame != (placement.height, placement.width):
        out[:] = GREY
    taps = _taps_of(pixels, placement)
    _put_pixels(np.ascontiguousarray(pixels), *taps, placement.top, placement.left, out)


def _taps_of(pixels: Pixels, placement: Placement) -> tuple[Any, ...]:
    return *_taps(pixels.shape[0], placement.height), *_taps(pixels.shape[1], placement.width)


def _pairs(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Like `_means`, for only the two old pixels beside each new one: bilinear without antialiasing."""
    centres = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    first = np.minimum(centres.astype(np.int64), max(size - 2, 0))
    second = (centres - first)[:, None]
    weights = np.concatenate([1 - second, second], axis=1)[:, : min(2, size)]
    return first, weights.astype(np.float32)


def _means(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each new pixel the first old one that counts, and weights of it and those after it, which sum to 1.

    A triangle, as wide as two pixels of the coarser size: what torchvision and Pillow call bilinear,
    antialiased.
    """
    step = size / new_size
    reach = max(step, 1.0)
    centres = (np.arange(new_size) + 0.5) * step
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), size)
    n = int((last - first).max())
    taps = first[:, None] + np.arange(n)
    weights = np.maximum(1 - np.abs(taps + 0.5 - centres[:, None]) / reach, 0) * (taps < last[:, None])
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """For each new pixel the first of two old ones, and the second one's weight, as in OpenCV."""
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
    values: npt.NDArray[np.float32],
    out: Any,
) -> None:
    width = out.shape[2]
    lefts, rights = _pairs_of_columns(pixels, columns)
    sums, line = np.empty((2, 3 * width), np.int16), np.empty(3 * width, np.uint8)
    for y in range(out.shape[1]):
        _blend(pixels, rows[y], row_weights[y], lefts, rights, column_weights, sums, line)
        for channel in range(3):
            to, table = out[channel, y], values[channel]
            for x in range(width):
                to[x] = table[np.uint64(line[3 * x + channel])]


@compiled
def _put_pixels(
    pixels: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    row_weights: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int64],
    column_weights: npt.NDArray[np.int32],
    top: int,
    left: int,
    frame: npt.NDArray[np.uint8],
) -> None:
    lefts, rights = _pairs_of_columns(pixels, columns)
    sums = np.empty((2, 3 * len(lefts)), np.int16)
    for y in range(len(rows)):
        line = frame[top + y].reshape(-1)[3 * left : 3 * (left + len(lefts))]
        _blend(pixels, rows[y], row_weights[y], lefts, rights, column_weights, sums, line)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _pairs_of_columns(pixels: Any, columns: Any) -> Any:
    """Where the two old pixels of each new column begin in a row, as unsigned numbers."""
    n, last = pixels.shape[2], pixels.shape[1] - 1
    lefts, rights = np.empty(len(columns), np.uint64), np.empty(len(columns), np.uint64)
    for x in range(len(columns)):
        lefts[x] = columns[x] * n
        rights[x] = min(columns[x] + 1, last) * n
    return lefts, rights


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _blend(
    pixels: Any, row: Any, lower: Any, lefts: Any, rights: Any, column_weights: Any, sums: Any, line: Any
) -> None:
    """A new row, interleaved RGB: from two old rows and columns for each pixel, rounded as in OpenCV."""
    one, four, two, sixteen = np.int32(1 << _BITS), np.int32(4), np.int32(2), np.int32(16)
    upper = one - lower
    step = np.uint64(1 if pixels.shape[2] == 3 else 0)
    above, below = pixels[row].reshape(-1), pixels[min(row + 1, pixels.shape[0] - 1)].reshape(-1)
    tops, bottoms, to = sums[0], sums[1], np.uint64(0)
    for x in range(len(lefts)):
        second = column_weights[x]
        first = one - second
        left, right = lefts[x], rights[x]
        for _ in range(3):
            top = np.int32(above[left]) * first + np.int32(above[right]) * second
            bottom = np.int32(below[left]) * first + np.int32(below[right]) * second
            tops[to] = top >> four
            bottoms[to] = bottom >> four
            left += step
            right += step
            to += np.uint64(1)
    for at in range(len(line)):
        blended = ((upper * tops[at]) >> sixteen) + ((lower * bottoms[at]) >> sixteen) + two
        line[at] = blended >> two


@compiled
def _put_smooth(
    pixels: npt.NDArray[np.uint8],
    first_rows: npt.NDArray[np.int64],
    row_weights: npt.NDArray[np.float32],
    first_columns: npt.NDArray[np.int64],
    column_weights: npt.NDArray[np.float32],
    out: Any,
) -> None:
    width, n_channels = pixels.shape[1], pixels.shape[2]
    means = np.empty((width, n_channels), np.float32)
    for y in range(out.shape[1]):
        means[:] = 0
        for tap in range(row_weights.shape[1]):
            weight = row_weights[y, tap]
            if weight > 0:
                row = pixels[first_rows[y] + tap]
                for x in range(width):
                    for channel in range(n_channels):
                        means[x, channel] += np.float32(row[x, channel]) * weight
        for x in range(out.shape[2]):
            for channel in range(3):
                source = channel if n_channels == 3 else 0
                total = np.float32(0)
                for tap in range(column_weights.shape[1]):
                    weight = column_weights[x, tap]
                    if weight > 0:
                        total += means[first_columns[x] + tap, source] * weight
                out[channel, y, x] = total
