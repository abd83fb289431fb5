"""Small pictures: upright, their grey version, difference hash, night or day, thumbnail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]
"""Shape (height, width, 3) RGB, or (height, width, 1) grey."""

JPEG_LONGEST = 65_500
"""libjpeg's limit for a side, in pixels."""

_SAMPLE = 48  # rows and columns that are enough to judge most pictures
_THINNEST = 4  # ratio of sides beyond which no more of the long side is sampled
_AT_ONCE = 2**18  # pixels
_BLANK_RANGE = 2
_NIGHT_TOP, _NIGHT_BOTTOM = 0.10, 0.85
_NIGHT_CHROMA = 14
_NIGHT_SHARE = 0.985
_TURNS = {  # EXIF orientation (CIPA DC-008, tag 274) -> quarter turns to the left after a mirror
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 1),
    6: (False, 3),
    7: (True, 3),
    8: (False, 1),
}


@dataclass(frozen=True)
class Thumbnail:
    """A small version of a picture as a JPEG file; `scale` is its pixels per original pixel."""

    jpeg: bytes
    width: int
    height: int
    scale: float


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror the picture as the EXIF orientation says."""
    if orientation not in _TURNS:
        return pixels
    mirror, turns = _TURNS[orientation]
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirror else pixels, turns))


def is_blank(pixels: Pixels, spared: float = 0) -> bool:
    """Whether there is nothing in the picture: one flat colour, as a decoder gives for a missing stream.

    Up to `spared` pixels, but no more than a tenth, may differ.
    """
    down, across = _steps(pixels)
    if down * across > 1 and not is_blank(np.ascontiguousarray(pixels[::down, ::across]), np.inf):
        return False  # what the sample shows, the whole picture shows
    rows = max(1, _AT_ONCE // pixels.shape[1])
    strips = [pixels[top : top + rows] for top in range(0, len(pixels), rows)]
    flat = np.array([_median(strips, channel) for channel in range(pixels.shape[2])], np.float32)
    differing = sum(np.count_nonzero(np.abs(strip - flat).max(axis=2) > _BLANK_RANGE) for strip in strips)
    return bool(differing <= min(spared, pixels[..., 0].size / 10))


def is_greyscale(pixels: Pixels) -> bool:
    """Whether a picture was taken in infrared light: it has no colour, except in a banner at the top or
    bottom.

    A tint of the whole picture (some cameras' infrared is purple) does not count as colour.
    """
    if pixels.shape[2] == 1:
        return True
    down, across = _steps(pixels)
    height = pixels.shape[0]
    top, bottom = int(height * _NIGHT_TOP), max(1, int(height * _NIGHT_BOTTOM))
    middle = pixels[top:bottom:down, ::across].astype(np.int16)
    chroma = _from_median(middle[..., 0] - middle[..., 1]) + _from_median(middle[..., 1] - middle[..., 2])
    return bool(np.count_nonzero(chroma <= _NIGHT_CHROMA) >= _NIGHT_SHARE * chroma.size)


def difference_hash(pixels: Pixels) -> int:
    """64-bit difference hash: whether each of 8 x 8 cells is darker than its right neighbour.

    N. Krawetz, "Kind of Like That", 2013 (hackerfactor.com). Near duplicates differ in a few bits.
    """
    from camtrap_batch.images.raster import grey_cells  # numba takes half a second to import

    cells = grey_cells(pixels, 8, 9)
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")


def shrink(pixels: Pixels, short_side: int) -> Pixels:
    """Reduce a picture to `short_side` pixels on its short side; a smaller one keeps its size."""
    size = shrunk(pixels.shape[0], pixels.shape[1], short_side)
    if size == pixels.shape[:2]:
        return pixels
    from camtrap_batch.images.raster import resample  # numba takes half a second to import

    return resample(pixels, *size)


def shrunk(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a picture after `shrink`.

    >>> shrunk(360, 512, 256), shrunk(100, 512, 256)
    ((256, 364), (100, 512))
    """
    ratio = min(short_side / min(height, width), JPEG_LONGEST / max(height, width))
    if ratio >= 1:
        return height, width
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def make_thumbnail(pixels: Pixels, full_short_side: int, quality: int) -> Thumbnail:
    """A picture as a JPEG file; `full_short_side` is that of the file which it is a reduced version of."""
    height, width = pixels.shape[:2]
    pixels = np.ascontiguousarray(pixels)
    if pixels.shape[2] == 1:
        jpeg = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="GRAY", colorsubsampling="Gray")
    else:
        jpeg = simplejpeg.encode_jpeg(pixels, quality=quality, colorsubsampling="420")
    return Thumbnail(jpeg, width, height, min(height, width) / full_short_side)


def _steps(pixels: Pixels) -> tuple[int, int]:
    """Distance from one sampled row, and column, to the next."""
    height, width = pixels.shape[:2]
    least = max(1, min(height, width) // _SAMPLE)
    return max(least, height // (_SAMPLE * _THINNEST)), max(least, width // (_SAMPLE * _THINNEST))


def _median(strips: list[Pixels], channel: int) -> float:
    """The median of a channel, the mean of two where the number of its values is even."""
    counts = np.zeros(256, np.int64)
    for strip in strips:
        counts += np.bincount(strip[..., channel].ravel(), minlength=256)
    below = counts.cumsum()
    n = int(below[-1])
    low, high = np.searchsorted(below, [(n - 1) // 2, n // 2], side="right")
    return float(low + high) / 2


def _from_median(values: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """How far each value is from the median; `np.median` averages two values, and takes ten times as long."""
    middle = values.size // 2
    median = np.partition(values, middle, axis=None)[middle]
    return np.asarray(np.abs(values - median))
