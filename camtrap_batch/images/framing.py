"""From a picture to the square that a network sees: squeezed, cut out of the middle, or with bars.

Our own models see the whole frame squeezed to a square: a crop would lose an animal at the frame's border,
where camera traps often catch them, and bars would waste a quarter of the pixels. A published model gives its
published answers only if it sees a picture as it did when it was evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from camtrap_batch.images.decode import decode_upright, decode_whole
from camtrap_batch.images.pixels import Pixels

Resize = Literal["squash", "crop", "letterbox"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Boxes = Literal["square", "stretch"]

RESIZE: tuple[str, ...] = get_args(Resize)
INTERPOLATION: tuple[str, ...] = get_args(Interpolation)
BOXES: tuple[str, ...] = get_args(Boxes)

_MARGIN = 1.5
"""A JPEG is decoded at least this many times larger than the square. At 1 the network would see originals
differently from their thumbnails (mean difference 3.0 of 255 over real photos at 224; at 1.5 and at 2 it is
1.8)."""

_MARGIN_OF_OTHERS = 2.0
"""The same for models that were evaluated on full decodes. EfficientNet-Lite0, 24 real photos, confidence of
timm's top class: mean difference 0.043 at 1, 0.030 at 1.5, 0.010 at 2, 0.011 at 3, 0.002 on full decodes."""

BAR = 114
"""Grey of the bars of a letterbox, the value that detectors use."""


@dataclass(frozen=True)
class Framing:
    """How a picture becomes a square.

    Attributes
    ----------
    size
        Side of the square, in pixels.
    resize
        squash: both sides to `side`, whatever the shape. crop: the short side to `side`, then the middle is
        cut out. letterbox: the long side to `side`, grey bars beside it.
    crop_pct
        The square's side as a fraction of the resized picture's; below 1 a border is cut off.
    interpolation
        A filter of Pillow's.
    antialias
        Whether the filter widens when a picture is made smaller, as Pillow's do; without it, only bilinear.
    boxes
        How a detector's box is seen. square: a square around it; stretch: the box alone, whatever its
        shape, from its first whole pixel.
    trim
        (fraction, pixels): this fraction of the height is left out, half above, half below, but never more
        than this many pixels; (0, 0): none. Cameras print date and temperature there.
    """

    size: int
    resize: Resize = "squash"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    boxes: Boxes = "square"
    trim: tuple[float, int] = (0.0, 0)

    @property
    def side(self) -> int:
        """Pixels to which a picture is resized before the square is cut out of it."""
        return int(self.size / self.crop_pct + 1e-6)

    @property
    def is_ours(self) -> bool:
        """Whether pictures are squeezed as for models trained here."""
        return self == Framing(self.size)

    @property
    def decoded(self) -> int:
        """Pixels that a decode should leave on the short side, at least."""
        return int(self.size * _MARGIN) if self.is_ours else int(np.ceil(self.side * _MARGIN_OF_OTHERS))

    @property
    def is_of_whole(self) -> bool:
        """Whether every pixel of the picture matters because single pixels are sampled or counted."""
        return not self.antialias or self.boxes == "stretch" or any(self.trim)

    def decode(self, data: bytes, wanted: int | None = None) -> Pixels:
        """The picture in a file, upright, with `wanted` pixels (`decoded`) or more on its short side.

        Raises ValueError if nothing decodes.
        """
        return decode_whole(data) if self.is_of_whole else decode_upright(data, wanted or self.decoded)

    def takes_thumbnails(self, kept: int) -> bool:
        """Whether thumbnails with a short side of `kept` pixels suffice for the network.

        Models trained here have learnt from such thumbnails. Others are disturbed by their compression: the
        top class of EfficientNet-Lite0 was timm's on 21 of 24 real photos from thumbnails of 256 pixels, on
        22 from 512 and from 768, and on 23 from originals.
        """
        return self.is_ours and kept >= self.size


def frame(data: bytes, framing: Framing) -> Pixels:
    """The square that a network sees of an image file.

    Parameters
    ----------
    data
        The file's bytes: a JPEG, or anything else that Pillow reads. A truncated or damaged JPEG gives
        what can be decoded.

    Returns
    -------
    Shape (size, size, 3), RGB.

    Raises
    ------
    ValueError
        Nothing decodes.
    """
    pixels = framing.decode(data)
    if framing.is_ours:
        # Imported here: the loops load numba, which commands that only read a model's card do not need.
        from camtrap_batch.images.raster import resample

        square = resample(pixels, framing.size, framing.size)
        return square if square.shape[2] == 3 else np.repeat(square, 3, axis=2)
    return _framed(pixels, framing)


def _framed(pixels: Pixels, framing: Framing) -> Pixels:
    size, side = framing.size, framing.side
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    if any(framing.trim):
        part, most = framing.trim
        kept = max(int(image.height * (1 - part)), image.height - most, 1)
        top = round((image.height - kept) / 2)
        image = image.crop((0, top, image.width, top + kept))
    width, height = image.size
    if framing.resize == "squash":
        wanted = (side, side)
    else:
        fixed = min(width, height) if framing.resize == "crop" else max(width, height)
        # Rounded down, as torchvision does.
        wanted = (max(1, side * width // fixed), max(1, side * height // fixed))
    resized = resize_image(image, wanted, framing)
    left, top = (round((extent - size) / 2) for extent in wanted)
    if min(wanted) >= size:
        return np.asarray(resized.crop((left, top, left + size, top + size)))
    square = Image.new("RGB", (size, size), (BAR, BAR, BAR))
    square.paste(resized, (-left, -top))
    return np.asarray(square)


def resize_image(
    image: Image.Image,
    size: tuple[int, int],
    framing: Framing,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """An RGB image, or its part in `box` (left, top, right, bottom), at another width and height."""
    if framing.antialias:
        return image.resize(size, Image.Resampling[framing.interpolation.upper()], box=box)
    return _without_antialias(image, size, box or (0, 0, image.width, image.height))


def _without_antialias(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    """Bilinear interpolation between the four nearest pixels, however many lie between two samples."""
    pixels = np.asarray(image, np.float32)
    left, top, right, bottom = box
    for axis, (start, stop, wanted) in enumerate(((top, bottom, size[1]), (left, right, size[0]))):
        extent = pixels.shape[axis]
        at = np.clip(start + (np.arange(wanted) + 0.5) * (stop - start) / wanted - 0.5, 0, extent - 1)
        first = np.floor(at).astype(int)
        part = (at - first).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        second = np.minimum(first + 1, extent - 1)
        pixels = pixels.take(first, axis) * (1 - part) + pixels.take(second, axis) * part
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
