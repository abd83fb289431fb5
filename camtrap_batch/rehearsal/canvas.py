"""Vector drawing in an animal's own units, with the shading that makes flat shapes look round.

Coordinates: the animal looks to the right, x forwards, y up, the ground at y = 0, the shoulder at y = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
Floats = npt.NDArray[np.float64]

SUPERSAMPLING = 2
_STEPS = 6  # of a curve, from one of its points to the next


class Canvas:
    """A picture and its mask, at twice the resolution needed.

    Args:
        pixels: pixels per unit (shoulder height) in the finished picture.
        extent: left, bottom, right and top of the drawing area, in units.
        ground: the picture's initial colour; it shines through at soft edges.
    """

    def __init__(self, pixels: float, extent: tuple[float, float, float, float], ground: Colour) -> None:
        self.scale = pixels * SUPERSAMPLING
        margin = 2 * SUPERSAMPLING / self.scale  # so that even small animals have room for soft edges
        left, bottom, right, top = extent[0] - margin, extent[1], extent[2] + margin, extent[3] + margin
        self.left, self.top = left, top
        self.size = (
            max(4, round((right - left) * self.scale)) // 2 * 2,
            max(4, round((top - bottom) * self.scale)) // 2 * 2,
        )
        self.picture = Image.new("RGB", self.size, ground)
        self.mask = Image.new("L", self.size, 0)
        self._paint = ImageDraw.Draw(self.picture)
        self._cover = ImageDraw.Draw(self.mask)
        self._turn = np.eye(2)
        self._pivot = np.zeros(2)

    def turn(self, degrees: float, pivot: tuple[float, float]) -> None:
        """Rotate everything drawn from here on about `pivot`, head upwards."""
        angle = np.radians(degrees)
        self._turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._pivot = np.array(pivot)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the animal is in the finished picture, pixels from the left and the top."""
        column, row = self._pixels(np.array([[x, y]]))[0]
        return column / SUPERSAMPLING, row / SUPERSAMPLING

    def blob(self, points: Points, colour: Colour) -> None:
        """A filled shape with a smooth outline through `points`."""
        self._polygon(self._pixels(_smooth(np.asarray(points, float), closed=True)), colour)

    def polygon(self, points: Points, colour: Colour) -> None:
        self._polygon(self._pixels(np.asarray(points, float)), colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        outline = np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)
        self._polygon(self._pixels(outline), colour)

    def limb(self, points: Points, widths: Sequence[float], colour: Colour) -> None:
        """A bent stroke through `points`, with the width at each point given by `widths`."""
        self._polygon(self._pixels(_stroke(np.asarray(points, float), np.asarray(widths, float))), colour)

    def within(self, outlines: Sequence[Points], draw: Markings) -> None:
        """Draw markings that stay inside the smooth shapes through `outlines`."""
        shapes = [self._pixels(_smooth(np.asarray(outline, float), closed=True)) for outline in outlines]
        every = np.concatenate(shapes)
        corner = np.clip(every.min(axis=0).astype(int), 0, None)
        left, top = int(corner[0]), int(corner[1])
        right, bottom = np.clip(every.max(axis=0).astype(int) + 2, corner + 1, None).tolist()
        region, marks = (
            Image.new("L", (right - left, bottom - top)),
            Image.new("L", (right - left, bottom - top)),
        )
        pen = ImageDraw.Draw(region)
        for shape in shapes:
            pen.polygon((shape - corner).ravel().tolist(), fill=255)
        pen = ImageDraw.Draw(marks)
        for points, strength in draw.strokes:
            pen.polygon((self._pixels(points) - corner).ravel().tolist(), fill=strength)
        self.picture.paste(draw.colour, (left, top), ImageChops.multiply(region, marks))

    def finish(self, light: float) -> tuple[Image.Image, Image.Image]:
        """Shade the shapes, and reduce picture and mask to their final size.

        Args:
            light: where the light comes from, -1 (behind the animal) to 1 (in front of it).
        """
        picture = self.picture.reduce(SUPERSAMPLING)
        mask = self.mask.reduce(SUPERSAMPLING)
        step = max(1, round(self.scale * 0.05 / SUPERSAMPLING))
        soft = mask.filter(ImageFilter.BoxBlur(step * 1.5))
        above = ImageChops.offset(soft, round(light * step), step)
        below = ImageChops.offset(soft, -round(light * step), -step)
        # At its upper edge the shape is lit, at its lower edge it lies in its own shadow.
        rim = ImageChops.subtract(below, above, scale=2.4, offset=128)
        fall = Image.linear_gradient("L").resize(mask.size).point(lambda row: 140 - row * 46 // 255)
        shade = ImageChops.add(rim, fall, scale=1, offset=-128)
        shade = ImageChops.add(shade, _coat().resize(mask.size), scale=1, offset=-128)
        return ImageChops.overlay(picture, Image.merge("RGB", (shade, shade, shade))), mask

    def _pixels(self, points: Floats) -> Floats:
        turned = (points - self._pivot) @ self._turn.T + self._pivot
        return np.stack([turned[:, 0] - self.left, self.top - turned[:, 1]], axis=1) * self.scale

    def _polygon(self, pixels: Floats, colour: Colour) -> None:
        flat = pixels.ravel().tolist()
        self._paint.polygon(flat, fill=colour)
        self._cover.polygon(flat, fill=255)


class Markings:
    """Stripes, spots and rosettes of one colour, to be drawn inside a shape."""

    def __init__(self, colour: Colour) -> None:
        self.colour = colour
        self.strokes: list[tuple[Floats, int]] = []

    def stroke(self, points: Points, widths: Sequence[float], strength: int = 255) -> None:
        self.strokes.append((_stroke(np.asarray(points, float), np.asarray(widths, float)), strength))

    def spot(self, x: float, y: float, rx: float, ry: float, strength: int = 255) -> None:
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        self.strokes.append((np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1), strength))


@lru_cache(maxsize=1)
def _coat() -> Image.Image:
    """Streaks around 128: hair, feathers and wrinkles too fine to be drawn."""
    rng = np.random.default_rng(3)
    return Image.fromarray(np.clip(rng.normal(128, 10, (90, 300)), 0, 255).astype(np.uint8))


def _smooth(points: Floats, closed: bool) -> Floats:
    """A Catmull-Rom curve through `points`."""
    if closed:
        before, after, later = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
        here = points
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
        before, here, after, later = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, _STEPS, endpoint=False)[None, :, None]
    before, here, after, later = (part[:, None, :] for part in (before, here, after, later))
    curve = 0.5 * (
        2 * here
        + (after - before) * t
        + (2 * before - 5 * here + 4 * after - later) * t**2
        + (3 * here - before - 3 * after + later) * t**3
    )
    flat: Floats = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])


def _stroke(points: Floats, widths: Floats) -> Floats:
    """Outline of a stroke with a smooth middle line."""
    line = _smooth(points, closed=False) if len(points) > 2 else points
    width = np.interp(np.linspace(0, len(widths) - 1, len(line)), np.arange(len(widths)), widths) / 2
    along = np.gradient(line, axis=0)
    length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) / length * width[:, None]
    return np.concatenate([line + side, (line - side)[::-1]])
