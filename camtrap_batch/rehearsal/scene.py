"""The place a camera looks at: sky, trees, ground and the grass in front of the lens, by day and in infrared.

Each camera has one scene, drawn once. A model can learn it, as models learn real backgrounds: that is what a
split by location guards against.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from camtrap_batch.rehearsal.canvas import Colour
from camtrap_batch.rehearsal.plan import scene_generator

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Biome:
    soil: Colour
    grass: Colour
    leaves: Colour
    far: Colour
    tufts: int
    bushes: int
    trunks: int
    horizon: tuple[float, float]


_BIOMES = (
    _Biome((168, 138, 98), (186, 164, 104), (98, 106, 62), (120, 124, 96), 900, 5, 2, (0.26, 0.40)),
    _Biome((140, 112, 82), (126, 138, 74), (74, 96, 50), (96, 112, 84), 1100, 9, 3, (0.24, 0.36)),
    _Biome((92, 84, 62), (78, 108, 54), (52, 80, 40), (64, 86, 56), 1000, 12, 7, (0.16, 0.26)),
    _Biome((192, 170, 134), (170, 150, 106), (112, 116, 78), (140, 136, 112), 350, 5, 2, (0.28, 0.42)),
    _Biome((150, 92, 62), (164, 132, 78), (92, 100, 56), (118, 112, 84), 700, 7, 3, (0.26, 0.38)),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A camera's view without animals, in pictures that all have the same size.

    Args:
        day: RGB, in the light of noon.
        night: L, lit by the camera's infrared flash.
        flash: L, how much of the flash reaches each pixel.
        grass: RGB, the plants in front of the lens, at the lower edge, as wide as the view.
        grass_mask: L, where they are.
        grass_night: L, the same plants in infrared.
        horizon: its height, in rows from the top.
        blade: colour of the grass.
    """

    day: Image.Image
    night: Image.Image
    flash: Image.Image
    grass: Image.Image
    grass_mask: Image.Image
    grass_night: Image.Image
    horizon: int
    blade: Colour


@lru_cache(maxsize=4)
def scene_of(seed: int, camera: int, size: tuple[int, int]) -> Scene:
    """Draw the scene of a camera; `size` is width and height in pixels, without the banner."""
    rng = scene_generator(seed, camera)
    biome = _BIOMES[(camera + int(rng.integers(2)) * 2) % len(_BIOMES)]
    horizon = round(size[1] * rng.uniform(*biome.horizon))
    day = _ground(rng, biome, size)
    _far_trees(rng, day, biome, horizon)
    _sky(rng, day, horizon)
    _plants(rng, day, biome, horizon)
    grass, grass_mask = _near_grass(rng, biome, size)
    flash = _flash(rng, size, horizon)
    return Scene(
        day=day,
        night=ImageChops.multiply(infrared(day), flash),
        flash=flash,
        grass=grass,
        grass_mask=grass_mask,
        grass_night=infrared(grass).point(lambda value: min(255, value * 5 // 4)),
        horizon=horizon,
        blade=biome.grass,
    )


def infrared(picture: Image.Image) -> Image.Image:
    """What an infrared sensor makes of a picture: plants bright, no colour."""
    return picture.convert("L", matrix=(0.35, 0.75, -0.10, 0))


def noise(rng: np.random.Generator, size: tuple[int, int], grain: tuple[int, int]) -> Floats:
    """Smooth random field from 0 to 1; `grain` is the number of random cells across and down."""
    cells = rng.integers(0, 256, (max(2, grain[1]), max(2, grain[0])), dtype=np.uint8)
    field = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(field, dtype=np.float32) / np.float32(255)


def _ground(rng: np.random.Generator, biome: _Biome, size: tuple[int, int]) -> Image.Image:
    width, height = size
    patches = 0.6 * noise(rng, size, (4, 9)) + 0.4 * noise(rng, size, (12, 30))
    fine = 0.5 * noise(rng, size, (width // 8, height // 4)) + 0.5 * noise(
        rng, size, (width // 3, height // 2)
    )
    mix = np.clip((patches - rng.uniform(0.3, 0.55)) * 4 + 0.5, 0, 1)[..., None]
    soil, grass = np.array(biome.soil, np.float32), np.array(biome.grass, np.float32)
    depth = np.linspace(0.86, 1.06, height, dtype=np.float32)[:, None, None]
    ground = (soil * (1 - mix) + grass * mix) * depth * (0.72 + 0.5 * fine[..., None])
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))


def _sky(rng: np.random.Generator, day: Image.Image, horizon: int) -> None:
    """Paint the sky above the trees that stand on the horizon."""
    width = day.width
    top, low = np.array((120, 160, 205), np.float32), np.array((208, 216, 218), np.float32)
    share = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    cloud = np.clip(noise(rng, (width, horizon), (6, 5)) * 1.8 - 0.8, 0, 1)[..., None]
    sky = (top * (1 - share) + low * share) * (1 - cloud) + 236 * cloud
    profile = np.cumsum(rng.normal(0, 1, width))
    profile = profile - np.linspace(profile[0], profile[-1], width)
    profile = horizon * (0.52 + 0.05 * profile / (np.abs(profile).max() + 1e-6) * 4)
    lumps = noise(rng, (width, 2), (width // 14, 2))[0] * horizon * 0.35
    tops = np.clip(profile - lumps, 2, horizon - 2)
    above = np.arange(horizon)[:, None] < tops[None, :]
    mask = Image.fromarray((above * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(0.7))
    day.paste(Image.fromarray(sky.astype(np.uint8)), (0, 0), mask)


def _far_trees(rng: np.random.Generator, day: Image.Image, biome: _Biome, horizon: int) -> None:
    """The belt of trees behind the clearing, from the top of the picture to a little below the horizon."""
    size = (day.width, horizon + max(2, horizon // 12))
    leaves = 0.5 * noise(rng, size, (size[0] // 16, size[1] // 10)) + 0.5 * noise(
        rng, size, (size[0] // 4, size[1] // 4)
    )
    belt = np.array(biome.far, np.float32) * (0.55 + 0.75 * leaves[..., None])
    edge = Image.new("L", size, 255)
    ImageDraw.Draw(edge).rectangle((0, horizon, size[0], size[1]), fill=120)
    day.paste(
        Image.fromarray(np.clip(belt, 0, 255).astype(np.uint8)), (0, 0), edge.filter(ImageFilter.BoxBlur(3))
    )


def _plants(rng: np.random.Generator, day: Image.Image, biome: _Biome, horizon: int) -> None:
    """Trees, bushes, stones and tufts, from far to near."""
    width, height = day.size
    pen = ImageDraw.Draw(day)
    things = [("bush", row) for row in rng.uniform(0.0, 0.30, biome.bushes)]
    things += [("tree", row) for row in rng.uniform(0.02, 0.25, biome.trunks)]
    things += [("stone", row) for row in rng.uniform(0.05, 0.9, int(rng.integers(0, 5)))]
    things += [("mound", row) for row in rng.uniform(0.05, 0.3, int(rng.integers(0, 2)))]
    things += [("tuft", row) for row in rng.beta(0.9, 1.1, biome.tufts)]
    for kind, near in sorted(things, key=lambda thing: thing[1]):
        x, y = float(rng.uniform(0, width)), horizon + float(near) * (height - horizon)
        size = height * (0.25 + float(near))
        if kind == "tuft":
            _tuft(rng, pen, x, y, size * 0.055, biome.grass)
        elif kind == "bush":
            _leaves(rng, day, x, y, size * float(rng.uniform(0.25, 0.6)), biome.leaves)
        elif kind == "tree":
            _tree(rng, day, x, y, size * float(rng.uniform(0.9, 1.5)), biome.leaves)
        elif kind == "stone":
            _stone(rng, day, x, y, size * float(rng.uniform(0.05, 0.12)))
        else:
            _mound(day, x, y, size * float(rng.uniform(0.3, 0.5)), biome.soil)


def _tuft(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Colour
) -> None:
    for lean, length, light in rng.uniform((-0.6, 0.5, 0.6), (0.6, 1.3, 1.2), (3, 3)).tolist():
        fill = (
            round(colour[0] * light) % 256,
            round(colour[1] * light) % 256,
            round(colour[2] * light) % 256,
        )
        pen.line((x, y, x + lean * size, y - length * size), fill=fill, width=max(1, round(size / 14)))


def _leaves(
    rng: np.random.Generator, day: Image.Image, x: float, y: float, size: float, colour: Colour
) -> None:
    """A bush, or a tree's crown: lumps that are darker below."""
    pen = ImageDraw.Draw(day)
    across, tone = rng.uniform(-1, 1, 80), rng.normal(0, 0.10, 80)
    rise = rng.uniform(0.0, 1.0, 80) * np.sqrt(1 - across**2)
    order = np.argsort(rise)
    radii = size * rng.uniform(0.08, 0.15, 80)
    for dx, dy, shade, radius in np.stack([across, rise, tone, radii], axis=1)[order].tolist():
        light = 0.50 + 0.62 * dy + shade
        cx, cy = x + dx * size * 0.85, y - (0.08 + 0.75 * dy) * size
        fill = tuple(min(255, max(0, round(part * light))) for part in colour)
        pen.ellipse((cx - radius, cy - radius * 0.7, cx + radius, cy + radius * 0.7), fill=fill)


def _tree(
    rng: np.random.Generator, day: Image.Image, x: float, y: float, size: float, leaves: Colour
) -> None:
    pen = ImageDraw.Draw(day)
    bark = tuple(round(part * float(rng.uniform(0.8, 1.2))) for part in (88, 72, 58))
    lean = float(rng.normal(0, 0.10)) * size
    thick = size * float(rng.uniform(0.035, 0.07))
    pen.polygon(
        (x - thick, y, x + thick, y, x + lean + thick * 0.6, y - size, x + lean - thick * 0.6, y - size),
        fill=bark,
    )
    shadow = tuple(part * 3 // 5 for part in bark)
    pen.polygon((x, y, x + thick, y, x + lean + thick * 0.6, y - size, x + lean, y - size), fill=shadow)
    for dx in rng.uniform(-0.4, 0.4, 3).tolist():
        _leaves(rng, day, x + lean + dx * size, y - size * 1.05, size * 0.42, leaves)


def _stone(rng: np.random.Generator, day: Image.Image, x: float, y: float, size: float) -> None:
    pen = ImageDraw.Draw(day)
    tone = int(rng.integers(95, 150))
    angle = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    reach = rng.uniform(0.75, 1.15, len(angle)) * size
    outline = np.stack(
        [x + reach * 1.3 * np.cos(angle), y - size * 0.5 + reach * 0.7 * np.sin(angle)], axis=1
    )
    pen.polygon(outline.ravel().tolist(), fill=(tone * 2 // 3, tone * 2 // 3 - 4, tone * 2 // 3 - 10))
    outline = (outline - (x, y)) * 0.82 + (x - size * 0.08, y - size * 0.12)
    pen.polygon(outline.ravel().tolist(), fill=(tone, tone - 5, tone - 14))


def _mound(day: Image.Image, x: float, y: float, size: float, soil: Colour) -> None:
    """A termite mound: animal-sized, grey-brown and always there."""
    pen = ImageDraw.Draw(day)
    for share, light in ((1.0, 0.62), (0.72, 0.76), (0.40, 0.86)):
        left, right = x - size * 0.45 * share, x + size * (0.45 * share - 0.1 * (1 - share))
        fill = tuple(round(part * light) for part in soil)
        pen.polygon(
            (
                left,
                y,
                x - size * 0.18 * share,
                y - size * 0.75,
                x,
                y - size,
                x + size * 0.12 * share,
                y - size * 0.7,
                right,
                y,
            ),
            fill=fill,
        )


def _near_grass(
    rng: np.random.Generator, biome: _Biome, size: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """Blades in front of the lens, a little out of focus: the lowest 40 % of the view."""
    width, whole = size
    height = round(whole * 0.4)
    picture, mask = Image.new("RGB", (width, height), biome.grass), Image.new("L", (width, height), 0)
    pen, cover = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    clumps = rng.uniform(0, width, int(rng.integers(3, 8)))
    for clump in clumps:
        tall = float(rng.uniform(0.06, 0.22)) * whole
        for offset, lean, length, light in rng.normal(
            (0, 0, 0.8, 0.9), (0.05 * width, 0.35, 0.25, 0.16), (22, 4)
        ).tolist():
            x = float(clump) + offset
            tip = (x + lean * tall, height - max(0.15, length) * tall)
            thick = max(1.2, whole / 160)
            blade = (x - thick, height, x + thick, height, *tip)
            fill = tuple(min(255, max(0, round(part * light))) for part in biome.grass)
            pen.polygon(blade, fill=fill)
            cover.polygon(blade, fill=255)
    blur = ImageFilter.BoxBlur(whole / 480)
    return picture.filter(blur), mask.filter(blur)


def _flash(rng: np.random.Generator, size: tuple[int, int], horizon: int) -> Image.Image:
    """Light of the infrared flash: bright in the middle and near, dark at the edges, none in the sky."""
    width, height = size
    x, y = np.meshgrid(
        np.linspace(-1, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32)
    )
    reach = float(rng.uniform(0.9, 1.3))
    cone = np.exp(-((x / reach) ** 2) * 1.3 - ((y - 0.62) / 0.62) ** 2)
    rows = np.arange(height, dtype=np.float32)
    depth = np.clip((rows - 0.55 * horizon) / (height * 0.28), 0.05, 1)[:, None]
    return Image.fromarray(np.clip(cone * depth * 250, 4, 255).astype(np.uint8))
