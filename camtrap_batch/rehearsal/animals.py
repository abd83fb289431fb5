"""The animals: each drawn from its body plan, colours and markings, so that a network can tell them apart.

Units are shoulder heights (see canvas). What separates two species is a shape or a light-dark pattern
wherever possible, since infrared pictures have no colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from camtrap_batch.rehearsal.canvas import Canvas, Colour, Markings, Points


@dataclass(frozen=True, slots=True)
class Pose:
    """How the animal stands in one frame.

    Args:
        phase: phase of the stride, in radians.
        stride: how far the legs swing, 0 (standing) to 1.
        head: -1 (down, feeding) to 1 (up, alert).
    """

    phase: float
    stride: float
    head: float


@dataclass(frozen=True, slots=True)
class Sprite:
    """A drawn animal, looking to the right.

    Args:
        picture: RGB.
        mask: L, same size.
        ground: pixels from the left and the top to the point on the ground below its middle.
        eyes: pixels from the left and the top.
        eye: radius of an eye in pixels.
    """

    picture: Image.Image
    mask: Image.Image
    ground: tuple[float, float]
    eyes: tuple[tuple[float, float], ...]
    eye: float


def draw_animal(category_id: int, height: float, pose: Pose, individual: np.random.Generator) -> Sprite:
    """Draw one animal.

    Args:
        category_id: one of species.BY_ID.
        height: height of the shoulder (bird: the back), in pixels.
        pose: pose in this frame.
        individual: random generator for the animal's own traits; the same state gives the same animal.
    """
    return _DRAWERS[category_id](height, pose, individual)


def _finish(canvas: Canvas, rng: np.random.Generator, eyes: list[tuple[float, float]], eye: float) -> Sprite:
    picture, mask = canvas.finish(light=float(rng.uniform(-0.8, 0.8)))
    size = eye * canvas.scale / 2
    return Sprite(picture, mask, canvas.at(0.0, 0.0), tuple(eyes), size)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(part * factor))) for part in colour)
    return red, green, blue


def _vary(colour: Colour, rng: np.random.Generator, spread: float = 0.07) -> Colour:
    """The same colour on another individual: lighter or darker, a little warmer or colder."""
    light = rng.normal(1.0, spread)
    warm = rng.normal(0.0, spread / 3)
    return (
        _shade(colour, light * (1 + warm))[0],
        _shade(colour, light)[1],
        _shade(colour, light * (1 - warm))[2],
    )


def _swing(pose: Pose) -> tuple[float, float, float, float]:
    """Forward swing of the near fore, far fore, near hind and far hind feet in a walk."""
    quarter = np.pi / 2
    turns = (0.0, 2 * quarter, 3 * quarter, quarter)
    swings = [float(np.sin(pose.phase + turn)) * pose.stride for turn in turns]
    return swings[0], swings[1], swings[2], swings[3]


# Elephants ------------------------------------------------------------------------------------------


_IVORY = (232, 224, 200)


def _elephant(height: float, pose: Pose, rng: np.random.Generator, african: bool) -> Sprite:
    skin = _vary((142, 127, 110) if african else (104, 99, 100), rng, 0.08)
    far, dark = _shade(skin, 0.70), _shade(skin, 0.84)
    canvas = Canvas(height, (-1.0, -0.05, 1.55, 1.32), skin)
    near_fore, far_fore, near_hind, far_hind = (0.13 * swing for swing in _swing(pose))

    def leg(x: float, swing: float, colour: Colour) -> None:
        canvas.limb(((x, 0.55), (x + swing * 0.6, 0.28), (x + swing, 0.0)), (0.25, 0.19, 0.21), colour)

    leg(0.33, far_fore, far)
    leg(-0.38, far_hind, far)
    canvas.limb(((-0.60, 0.82), (-0.70, 0.60), (-0.69, 0.38)), (0.05, 0.035, 0.06), dark)
    if african:  # a hollow back, highest at shoulder and rump
        back: Points = ((0.45, 1.00), (0.18, 0.91), (-0.10, 0.90), (-0.38, 0.98))
    else:  # an arched back, highest in its middle
        back = ((0.45, 0.93), (0.18, 1.03), (-0.10, 1.07), (-0.38, 0.95))
    canvas.blob(
        (
            *back,
            (-0.60, 0.80),
            (-0.63, 0.52),
            (-0.46, 0.36),
            (-0.08, 0.31),
            (0.30, 0.36),
            (0.52, 0.52),
            (0.60, 0.80),
        ),
        skin,
    )
    leg(0.45, near_fore, skin)
    leg(-0.50, near_hind, skin)
    lift = 0.05 * pose.head
    canvas.blob(_elephant_head(african, lift), skin)
    curl = 0.22 * float(np.sin(pose.phase * 0.7)) + 0.15 * pose.head
    trunk: Points = (
        (0.86, 0.82 + lift),
        (0.97, 0.60),
        (0.98 + curl * 0.2, 0.34),
        (1.02 + curl * 0.7, 0.14 + max(0.0, curl) * 0.5),
    )
    canvas.limb(trunk, (0.24, 0.17, 0.12, 0.08), _shade(skin, 0.95))
    (_african_face if african else _asian_face)(canvas, pose, rng, skin)
    canvas.ellipse(0.83, 0.88 + lift, 0.022, 0.022, (30, 25, 22))
    wrinkles = Markings(_shade(skin, 0.72))
    for _ in range(14):
        x, y = float(rng.uniform(-0.55, 0.5)), float(rng.uniform(0.4, 0.95))
        wrinkles.stroke(((x, y), (x + 0.02, y - 0.08), (x - 0.01, y - 0.16)), (0.008, 0.014, 0.006), 120)
    canvas.within((((0.5, 0.95), (-0.1, 1.0), (-0.6, 0.9), (-0.6, 0.4), (0, 0.34), (0.5, 0.45)),), wrinkles)
    return _finish(canvas, rng, [canvas.at(0.83, 0.88 + lift)], 0.025)


def _elephant_head(african: bool, lift: float) -> Points:
    if african:
        return (
            (0.52, 1.02 + lift),
            (0.74, 1.06 + lift),
            (0.92, 0.92 + lift),
            (0.93, 0.70),
            (0.78, 0.55),
            (0.58, 0.62),
            (0.48, 0.84),
        )
    return (  # two domes, the highest point of the animal
        (0.50, 1.00 + lift),
        (0.60, 1.15 + lift),
        (0.71, 1.115 + lift),
        (0.82, 1.15 + lift),
        (0.93, 0.98 + lift),
        (0.92, 0.72),
        (0.78, 0.55),
        (0.58, 0.62),
        (0.46, 0.84),
    )


def _african_face(canvas: Canvas, pose: Pose, rng: np.random.Generator, skin: Colour) -> None:
    """Long tusks, and an ear of the shape of Africa."""
    lift = 0.05 * pose.head
    tusk = float(rng.uniform(0.75, 1.15))
    canvas.limb(
        (
            (0.86, 0.64),
            (0.86 + 0.20 * tusk, 0.64 - 0.17 * tusk),
            (0.86 + 0.42 * tusk, 0.64 - 0.12 * tusk),
        ),
        (0.085, 0.06, 0.02),
        _IVORY,
    )
    flap = 0.05 * float(np.sin(pose.phase))
    ear = (
        (0.70, 1.05 + lift),
        (0.50, 1.08 + lift),
        (0.26 - flap, 1.00),
        (0.18 - flap, 0.78),
        (0.30 - flap, 0.52),
        (0.45, 0.36),
        (0.56, 0.56),
        (0.70, 0.74),
    )
    rim = [(x - 0.015, y - 0.03) for x, y in ear]
    canvas.blob(rim, _shade(skin, 0.45))
    canvas.blob(ear, _shade(skin, 0.78))


def _asian_face(canvas: Canvas, pose: Pose, rng: np.random.Generator, skin: Colour) -> None:
    """Some have short tusks; the trunk is pink in patches, and the ear is small."""
    lift = 0.05 * pose.head
    if rng.random() < 0.3:
        canvas.limb(((0.86, 0.64), (0.95, 0.54), (1.03, 0.53)), (0.05, 0.04, 0.02), _IVORY)
    pink = Markings((190, 150, 138))
    for _ in range(26):
        x, y = rng.uniform(0.84, 1.05), rng.uniform(0.30, 0.85)
        pink.spot(float(x), float(y), 0.018, 0.018, 150)
    canvas.within((((0.80, 0.95), (0.99, 0.75), (1.10, 0.3), (0.9, 0.3), (0.84, 0.6)),), pink)
    ear = (
        (0.70, 0.98 + lift),
        (0.60, 0.97 + lift),
        (0.52, 0.84),
        (0.54, 0.68),
        (0.60, 0.60),
        (0.66, 0.72),
        (0.71, 0.84),
    )
    canvas.blob([(x - 0.015, y - 0.025) for x, y in ear], _shade(skin, 0.58))
    canvas.blob(ear, _shade(skin, 0.92))


def african_elephant(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _elephant(height, pose, rng, african=True)


def asian_elephant(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _elephant(height, pose, rng, african=False)


# Cats -----------------------------------------------------------------------------------------------

_CAT_BODY: Points = (
    (0.66, 1.00),
    (0.20, 0.93),
    (-0.30, 0.94),
    (-0.66, 0.97),
    (-0.88, 0.80),
    (-0.84, 0.56),
    (-0.42, 0.50),
    (0.10, 0.44),
    (0.52, 0.42),
    (0.80, 0.58),
    (0.86, 0.82),
)


@dataclass(frozen=True, slots=True)
class _Cat:
    coat: Colour
    belly: Colour
    head: float
    markings: Callable[[Canvas, np.random.Generator, Colour], None]
    maned: float = 0.0


def _cat(height: float, pose: Pose, rng: np.random.Generator, kind: _Cat) -> Sprite:
    coat = _vary(kind.coat, rng)
    far = _shade(coat, 0.72)
    canvas = Canvas(height, (-1.75, -0.05, 1.55, 1.55), coat)
    near_fore, far_fore, near_hind, far_hind = (0.26 * swing for swing in _swing(pose))

    def fore(x: float, swing: float, colour: Colour) -> None:
        path = ((x, 0.62), (x + swing * 0.4 - 0.02, 0.32), (x + swing, 0.05))
        canvas.limb(path, (0.30, 0.17, 0.13), colour)
        canvas.ellipse(x + swing + 0.05, 0.05, 0.10, 0.05, colour)

    def hind(x: float, swing: float, colour: Colour) -> None:
        path = (
            (x + 0.06, 0.70),
            (x + 0.10 + swing * 0.4, 0.46),
            (x - 0.10 + swing * 0.8, 0.27),
            (x + swing, 0.05),
        )
        canvas.limb(path, (0.38, 0.25, 0.13, 0.12), colour)
        canvas.ellipse(x + swing + 0.06, 0.05, 0.10, 0.05, colour)

    sway = 0.12 * float(np.sin(pose.phase * 0.6))
    tail: Points = (
        (-0.70, 0.84),
        (-1.06, 0.58),
        (-1.22, 0.34 + sway),
        (-1.42, 0.28 + sway),
        (-1.58, 0.42 + sway),
    )
    canvas.limb(tail, (0.13, 0.10, 0.09, 0.09, 0.07), coat)
    fore(0.50, far_fore, far)
    hind(-0.58, far_hind, far)
    canvas.blob(_CAT_BODY, coat)
    belly = Markings(kind.belly)
    belly.stroke(((0.75, 0.50), (0.1, 0.44), (-0.6, 0.52)), (0.14, 0.12, 0.12), 200)
    canvas.within((_CAT_BODY,), belly)
    fore(0.64, near_fore, coat)
    hind(-0.70, near_hind, coat)
    kind.markings(canvas, rng, coat)
    x, y = 1.02 + 0.04 * pose.head, 1.02 + 0.14 * pose.head
    if rng.random() < kind.maned:
        _mane(canvas, rng, x, y)
    else:
        canvas.limb(((0.66, 0.82), (x - 0.05, y - 0.02)), (0.42, 0.30), coat)
    if kind.maned:
        canvas.ellipse(-1.59, 0.43 + sway, 0.09, 0.07, (60, 42, 30))
    size = kind.head
    for ear in (-0.55, 0.25):
        canvas.ellipse(x + ear * size, y + 0.92 * size, 0.34 * size, 0.36 * size, _shade(coat, 0.66))
        canvas.ellipse(x + ear * size, y + 0.88 * size, 0.20 * size, 0.22 * size, kind.belly)
    canvas.ellipse(x, y, size, size, coat)
    canvas.ellipse(x + 0.72 * size, y - 0.32 * size, 0.56 * size, 0.46 * size, kind.belly)
    canvas.ellipse(x + 1.16 * size, y - 0.16 * size, 0.16 * size, 0.13 * size, (60, 38, 34))
    if kind.markings is _stripes:
        _striped_face(canvas, x, y, size)
        _ringed_tail(canvas, tail)
    elif kind.markings is _rosettes:
        _spotted_face(canvas, rng, x, y, size)
    eyes = [(x + 0.30 * size, y + 0.20 * size), (x + 0.72 * size, y + 0.22 * size)]
    for eye in eyes:
        canvas.ellipse(*eye, 0.13 * size, 0.13 * size, (38, 30, 20))
    return _finish(canvas, rng, [canvas.at(*eye) for eye in eyes], 0.03)


def _mane(canvas: Canvas, rng: np.random.Generator, x: float, y: float) -> None:
    mane = _vary((84, 56, 34), rng, 0.18)
    angles = np.linspace(0, 2 * np.pi, 26, endpoint=False)
    ragged = rng.uniform(0.88, 1.14, len(angles))
    canvas.polygon(
        [
            (x - 0.14 + 0.42 * r * np.cos(a), y - 0.12 + 0.46 * r * np.sin(a))
            for a, r in zip(angles, ragged, strict=True)
        ],
        mane,
    )
    canvas.ellipse(x + 0.02, y, 0.29, 0.31, _shade(mane, 1.45))


def _striped_face(canvas: Canvas, x: float, y: float, size: float) -> None:
    face = Markings((30, 22, 18))
    for step in range(4):
        face.stroke(
            (
                (x - 0.95 * size, y + (0.75 - 0.45 * step) * size),
                (x - 0.30 * size, y + (0.55 - 0.38 * step) * size),
            ),
            (0.11 * size, 0.04 * size),
        )
    face.stroke(((x + 0.10 * size, y + size), (x + 0.12 * size, y + 0.55 * size)), (0.14 * size, 0.06 * size))
    canvas.within((_circle(x, y, size),), face)


def _ringed_tail(canvas: Canvas, tail: Points) -> None:
    rings = Markings((30, 22, 18))
    for share in np.linspace(0.15, 0.95, 6):
        column = -0.82 - 0.76 * share
        rings.stroke(((column, 1.0), (column - 0.05, 0.1)), (0.06, 0.06))
    canvas.within(
        ([*((px, py + 0.06) for px, py in tail), *((px, py - 0.06) for px, py in reversed(tail))],), rings
    )


def _spotted_face(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    spots = Markings((34, 26, 20))
    for _ in range(16):
        spots.spot(
            x + float(rng.uniform(-0.9, 0.4)) * size,
            y + float(rng.uniform(-0.6, 0.9)) * size,
            0.025,
            0.025,
        )
    canvas.within((_circle(x, y, size),), spots)


def _circle(x: float, y: float, r: float) -> Points:
    return [
        (x + r * float(np.cos(a)), y + r * float(np.sin(a)))
        for a in np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ]


def _plain(canvas: Canvas, rng: np.random.Generator, coat: Colour) -> None:
    ribs = Markings(_shade(coat, 0.86))
    for x in np.linspace(-0.3, 0.4, 4):
        ribs.stroke(((float(x), 0.85), (float(x) - 0.06, 0.55)), (0.02, 0.05), 110)
    canvas.within((_CAT_BODY,), ribs)


def _stripes(canvas: Canvas, rng: np.random.Generator, coat: Colour) -> None:
    black = Markings((28, 21, 17))
    for x in np.linspace(-0.80, 0.70, 10):
        x = float(x + rng.normal(0, 0.02))
        lean = float(rng.normal(0.0, 0.04))
        reach = float(rng.uniform(0.42, 0.66))
        black.stroke(((x, 1.05), (x + lean, 0.84), (x + lean * 0.3 - 0.03, reach)), (0.105, 0.09, 0.02))
        if rng.random() < 0.6:
            black.stroke(((x + 0.06, 0.38), (x + 0.05, 0.50), (x + 0.07, 0.64)), (0.06, 0.05, 0.01))
    canvas.within((_CAT_BODY,), black)
    bands = Markings((28, 21, 17))
    for y in (0.20, 0.30, 0.40, 0.50):
        bands.stroke(((-1.1, y), (1.1, y + 0.02)), (0.035, 0.035), 220)
    canvas.within(
        (
            ((-0.95, 0.55), (-0.45, 0.6), (-0.50, 0.3), (-0.62, 0.15), (-0.90, 0.15)),
            ((0.55, 0.5), (0.75, 0.5), (0.72, 0.15), (0.58, 0.15)),
        ),
        bands,
    )


def _rosettes(canvas: Canvas, rng: np.random.Generator, coat: Colour) -> None:
    rings, middles, dots = Markings((36, 26, 18)), Markings(_shade(coat, 0.84)), Markings((36, 26, 18))
    for row, y in enumerate(np.arange(0.50, 1.02, 0.125)):
        for x in np.arange(-0.84 + 0.08 * (row % 2), 0.84, 0.165):
            px, py = float(x + rng.normal(0, 0.015)), float(y + rng.normal(0, 0.012))
            size = float(rng.uniform(0.055, 0.072))
            rings.spot(px, py, size, size * 0.9)
            middles.spot(px, py, size * 0.58, size * 0.52)
            if rng.random() < 0.5:
                dots.spot(px, py, 0.014, 0.014)
    for markings in (rings, middles, dots):
        canvas.within((_CAT_BODY,), markings)
    legs = Markings((36, 26, 18))
    for _ in range(44):
        near = float(rng.choice((-0.70, 0.63)))
        legs.spot(near + float(rng.normal(0, 0.09)), float(rng.uniform(0.14, 0.58)), 0.028, 0.024)
    canvas.within(
        (
            ((-0.98, 0.65), (-0.45, 0.65), (-0.50, 0.3), (-0.60, 0.12), (-0.90, 0.12)),
            ((0.50, 0.6), (0.80, 0.6), (0.76, 0.12), (0.54, 0.12)),
        ),
        legs,
    )


def jaguar(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _cat(height, pose, rng, _Cat((206, 160, 84), (240, 226, 196), 0.26, _rosettes))


def lion(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _cat(height, pose, rng, _Cat((196, 158, 106), (226, 204, 166), 0.25, _plain, maned=0.6))


def tiger(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _cat(height, pose, rng, _Cat((212, 122, 46), (246, 238, 224), 0.25, _stripes))


# Antelopes ------------------------------------------------------------------------------------------

_ANTELOPE_BODY: Points = (
    (0.48, 1.00),
    (0.15, 0.96),
    (-0.25, 0.99),
    (-0.50, 0.95),
    (-0.60, 0.76),
    (-0.50, 0.60),
    (0.00, 0.55),
    (0.35, 0.53),
    (0.55, 0.64),
    (0.60, 0.86),
)


def _hoofed(
    canvas: Canvas, pose: Pose, coat: Colour, shin: Colour, thick: float = 1.0, upright: float = 0.0
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The legs of an antelope: a function for the far pair, one for the near pair.

    Everything but the hind legs is turned by `upright` degrees about the hip.
    """
    hip = (-0.45, 0.72)
    swings = [0.20 * swing for swing in _swing(pose)]
    hoof = (38, 32, 30)

    def leg(x: float, swing: float, colour: Colour, lower: Colour, bend: float) -> None:
        canvas.turn(upright if x > 0 else 0.0, hip)
        knee = (x + swing * 0.45 + bend, 0.34)
        canvas.limb(((x, 0.72), knee), (0.20 * thick, 0.085 * thick), colour)
        canvas.limb((knee, (x + swing, 0.04)), (0.08 * thick, 0.055 * thick), lower)
        canvas.ellipse(x + swing + 0.02, 0.025, 0.045 * thick, 0.03, hoof)
        canvas.turn(upright, hip)

    def far() -> None:
        leg(0.34, swings[1], _shade(coat, 0.7), _shade(shin, 0.7), 0.0)
        leg(-0.38, swings[3], _shade(coat, 0.7), _shade(shin, 0.7), -0.07)

    def near() -> None:
        leg(0.44, swings[0], coat, shin, 0.0)
        leg(-0.48, swings[2], coat, shin, -0.07)

    return far, near


def _antelope_head(
    canvas: Canvas, x: float, y: float, size: float, down: float, coat: Colour
) -> tuple[float, float]:
    """A long head with ears, muzzle forward and `down`; returns where the eye is."""
    canvas.limb(
        ((x - 0.30 * size, y + 0.20 * size), (x - 0.70 * size, y + 0.46 * size)),
        (0.28 * size, 0.05 * size),
        _shade(coat, 0.82),
    )
    nose = (x + 1.05 * size, y - down * size)
    canvas.limb(
        ((x - 0.1 * size, y + 0.05 * size), (x + 0.45 * size, y - 0.45 * down * size), nose),
        (0.62 * size, 0.50 * size, 0.28 * size),
        coat,
    )
    canvas.ellipse(nose[0], nose[1], 0.13 * size, 0.14 * size, (44, 36, 34))
    eye = (x + 0.22 * size, y + 0.06 * size)
    canvas.ellipse(*eye, 0.09 * size, 0.09 * size, (24, 18, 16))
    return eye


def _neck(pose: Pose, up: tuple[float, float], feeding: tuple[float, float]) -> tuple[float, float]:
    """The position of the head between feeding (pose.head -1) and up (1)."""
    share = np.clip((pose.head + 1.0) / 1.5, 0.0, 1.0)
    return (
        float(feeding[0] + (up[0] - feeding[0]) * share),
        float(feeding[1] + (up[1] - feeding[1]) * share),
    )


def gazelle(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    coat, white, black = _vary((198, 142, 84), rng), (244, 238, 226), (34, 28, 26)
    canvas = Canvas(height, (-0.95, -0.05, 1.5, 2.15), coat)
    far, near = _hoofed(canvas, pose, coat, _shade(coat, 1.08))
    far()
    canvas.blob(_ANTELOPE_BODY, coat)
    low = Markings(white)
    low.stroke(((0.65, 0.58), (0.0, 0.56), (-0.62, 0.62)), (0.20, 0.19, 0.19))
    low.spot(-0.60, 0.80, 0.10, 0.18)
    canvas.within((_ANTELOPE_BODY,), low)
    band = Markings(black)
    band.stroke(((0.50, 0.74), (0.1, 0.70), (-0.42, 0.76)), (0.10, 0.15, 0.11))
    canvas.within((_ANTELOPE_BODY,), band)
    wag = 0.10 * float(np.sin(pose.phase * 2))
    canvas.limb(((-0.58, 0.88), (-0.68, 0.80), (-0.66 + wag, 0.62)), (0.06, 0.07, 0.05), black)
    near()
    x, y = _neck(pose, (0.86, 1.38), (0.98, 0.42))
    canvas.limb(((0.44, 0.84), (0.62, (0.9 + y) / 2), (x - 0.03, y)), (0.34, 0.20, 0.16), coat)
    male = rng.random() < 0.75
    curve = 1.0 if male else 0.5
    for lean in (0.0, 0.05):
        canvas.limb(
            (
                (x - 0.02, y + 0.07),
                (x - 0.10 + lean, y + 0.30 * curve),
                (x - 0.22 + lean, y + 0.48 * curve),
                (x - 0.18 + lean, y + 0.66 * curve),
            ),
            (0.06, 0.05, 0.04, 0.02),
            black,
        )
    eye = _antelope_head(canvas, x, y, 0.26, 0.55, coat)
    face = Markings(black)
    face.stroke(((x + 0.05, y), (x + 0.20, y - 0.13)), (0.045, 0.03))
    canvas.within((((x - 0.1, y + 0.1), (x + 0.3, y), (x + 0.3, y - 0.2), (x, y - 0.12)),), face)
    return _finish(canvas, rng, [canvas.at(*eye)], 0.03)


def oryx(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    coat, white, black = _vary((176, 162, 146), rng), (240, 236, 228), (28, 25, 25)
    canvas = Canvas(height, (-1.05, -0.05, 1.45, 2.35), coat)
    far, near = _hoofed(canvas, pose, coat, white, thick=1.25)
    far()
    wag = 0.08 * float(np.sin(pose.phase))
    canvas.limb(
        ((-0.58, 0.88), (-0.70, 0.70), (-0.70 + wag, 0.45), (-0.70 + wag, 0.28)),
        (0.05, 0.05, 0.10, 0.07),
        black,
    )
    canvas.blob(_ANTELOPE_BODY, coat)
    low = Markings(white)
    low.stroke(((0.6, 0.52), (0.0, 0.53), (-0.62, 0.60)), (0.10, 0.10, 0.10))
    canvas.within((_ANTELOPE_BODY,), low)
    line = Markings(black)
    line.stroke(((0.62, 0.66), (0.1, 0.615), (-0.52, 0.66)), (0.05, 0.055, 0.05))
    line.stroke(((0.50, 0.99), (-0.50, 0.98)), (0.035, 0.03))
    canvas.within((_ANTELOPE_BODY,), line)
    near()
    garter = 0.20 * _swing(pose)[0] * 0.45
    canvas.ellipse(0.44 + garter, 0.42, 0.065, 0.065, black)
    x, y = _neck(pose, (0.84, 1.30), (1.0, 0.45))
    canvas.limb(((0.40, 0.80), (0.60, (0.9 + y) / 2), (x - 0.04, y)), (0.46, 0.32, 0.22), coat)
    canvas.limb(((0.58, 0.64), (0.74, (0.7 + y) / 2), (x + 0.02, y - 0.13)), (0.04, 0.04, 0.04), black)
    length = float(rng.uniform(0.80, 1.0))
    for lean in (0.0, 0.07):
        canvas.limb(
            (
                (x - 0.02, y + 0.08),
                (x - 0.20 * length + lean, y + 0.48 * length),
                (x - 0.46 * length + lean, y + 0.95 * length),
            ),
            (0.065, 0.05, 0.02),
            black,
        )
    eye = _antelope_head(canvas, x, y, 0.32, 0.62, white)
    head: Points = (
        (x - 0.12, y + 0.12),
        (x + 0.16, y + 0.06),
        (x + 0.38, y - 0.14),
        (x + 0.36, y - 0.26),
        (x + 0.05, y - 0.14),
        (x - 0.12, y - 0.04),
    )
    mask = Markings(black)
    mask.stroke(((x + 0.06, y + 0.10), (x + 0.10, y - 0.16)), (0.07, 0.06))
    mask.stroke(((x + 0.16, y + 0.02), (x + 0.30, y - 0.16)), (0.06, 0.09))
    canvas.within((head,), mask)
    return _finish(canvas, rng, [canvas.at(*eye)], 0.03)


def gerenuk(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    coat, saddle, white = _vary((186, 118, 74), rng), (120, 70, 44), (236, 222, 204)
    browsing = rng.random() < 0.25  # gerenuks feed standing on their hind legs
    upright = 48.0 if browsing else 0.0
    canvas = Canvas(height, (-1.45, -0.05, 1.65, 2.75), coat)
    far, near = _hoofed(canvas, pose, coat, _shade(coat, 1.05), thick=0.85, upright=upright)
    far()
    body: Points = [(x, 0.62 + (y - 0.55) * 0.84) for x, y in _ANTELOPE_BODY]
    canvas.blob(body, coat)
    top = Markings(_vary(saddle, rng))
    top.stroke(((0.6, 1.0), (0.1, 0.98), (-0.6, 0.98)), (0.20, 0.24, 0.20))
    canvas.within((body,), top)
    low = Markings(white)
    low.stroke(((0.5, 0.60), (0.0, 0.62), (-0.6, 0.66)), (0.08, 0.08, 0.08))
    canvas.within((body,), low)
    canvas.limb(((-0.57, 0.88), (-0.66, 0.66)), (0.05, 0.04), _shade(coat, 0.6))
    near()
    x, y = _neck(pose, (0.90, 1.92), (1.20, 1.25))
    canvas.limb(((0.44, 0.86), (0.64, (1.02 + y) / 2), (x - 0.02, y)), (0.28, 0.13, 0.105), coat)
    canvas.limb(((0.56, 0.80), (0.71, (0.98 + y) / 2), (x + 0.02, y - 0.08)), (0.06, 0.035, 0.03), white)
    if rng.random() < 0.7:
        for lean in (0.0, 0.05):
            canvas.limb(
                (
                    (x - 0.02, y + 0.06),
                    (x - 0.14 + lean, y + 0.20),
                    (x - 0.15 + lean, y + 0.36),
                    (x - 0.05 + lean, y + 0.42),
                ),
                (0.075, 0.06, 0.045, 0.02),
                (44, 34, 30),
            )
    eye = _antelope_head(canvas, x, y, 0.235, 0.50, coat)
    canvas.ellipse(x + 0.05, y + 0.01, 0.055, 0.045, white)
    canvas.ellipse(*eye, 0.025, 0.025, (24, 18, 16))
    shining = canvas.at(*eye)
    canvas.turn(0.0, (0.0, 0.0))
    return _finish(canvas, rng, [shining], 0.03)


# Birds ----------------------------------------------------------------------------------------------


def _bird_legs(canvas: Canvas, pose: Pose, colour: Colour) -> None:
    for x, swing in ((-0.02, _swing(pose)[1]), (0.10, _swing(pose)[0])):
        foot = x + 0.14 * swing
        canvas.limb(((x, 0.46), (x - 0.04 + 0.05 * swing, 0.24), (foot, 0.03)), (0.10, 0.05, 0.045), colour)
        canvas.limb(((foot - 0.05, 0.02), (foot + 0.14, 0.02)), (0.035, 0.03), colour)


_BIRD_BODY: Points = (
    (0.46, 1.00),
    (0.10, 1.02),
    (-0.35, 0.90),
    (-0.62, 0.72),
    (-0.40, 0.50),
    (0.02, 0.40),
    (0.40, 0.48),
    (0.60, 0.72),
    (0.60, 0.90),
)


def turkey(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    body, blue, orange = _vary((72, 92, 70), rng), (96, 150, 208), (232, 120, 44)
    canvas = Canvas(height, (-1.5, -0.05, 1.25, 1.75), body)
    eyespot, rim, bar = (60, 120, 170), (206, 140, 66), (226, 222, 210)
    if rng.random() < 0.45:  # the fan, seen from the side and behind
        for radius, colour in ((0.98, rim), (0.88, (52, 66, 62)), (0.62, (110, 96, 78))):
            arc = np.linspace(np.radians(60), np.radians(215), 18)
            fan = [(-0.32 + radius * np.cos(a) * 0.82, 0.72 + radius * np.sin(a)) for a in arc]
            canvas.polygon([(-0.25, 0.62), *fan], colour)
        for angle in np.linspace(np.radians(66), np.radians(208), 9):
            canvas.ellipse(
                -0.32 + 0.76 * float(np.cos(angle)) * 0.82,
                0.72 + 0.76 * float(np.sin(angle)),
                0.065,
                0.075,
                eyespot,
            )
    else:
        canvas.blob(((-0.35, 0.92), (-1.10, 0.70), (-1.36, 0.50), (-1.25, 0.40), (-0.40, 0.55)), (92, 88, 74))
        for x, y in ((-1.22, 0.50), (-1.08, 0.58), (-1.05, 0.48), (-1.26, 0.43)):
            canvas.ellipse(x, y, 0.06, 0.05, eyespot)
        canvas.limb(((-1.30, 0.60), (-1.38, 0.50), (-1.28, 0.38)), (0.05, 0.06, 0.05), rim)
    _bird_legs(canvas, pose, (168, 62, 62))
    canvas.blob(_BIRD_BODY, body)
    scales = Markings((150, 120, 70))
    for _ in range(60):
        scales.spot(float(rng.uniform(-0.5, 0.55)), float(rng.uniform(0.45, 1.0)), 0.030, 0.014, 190)
    canvas.within((_BIRD_BODY,), scales)
    wing: Points = ((0.30, 0.86), (-0.20, 0.84), (-0.62, 0.66), (-0.50, 0.56), (0.05, 0.54), (0.28, 0.66))
    canvas.blob(wing, (120, 84, 58))
    bars = Markings(bar)
    for x in np.linspace(-0.58, 0.10, 8):
        bars.stroke(((float(x), 0.50), (float(x) + 0.10, 0.72)), (0.035, 0.035))
    canvas.within((wing,), bars)
    x, y = _neck(pose, (0.66, 1.46), (0.92, 0.62))
    canvas.limb(((0.46, 0.84), (0.58, (0.95 + y) / 2), (x, y)), (0.24, 0.10, 0.09), blue)
    canvas.ellipse(x + 0.03, y + 0.01, 0.10, 0.085, blue)
    canvas.limb(((x + 0.10, y), (x + 0.23, y - 0.04)), (0.06, 0.015), (220, 200, 170))
    for dx, dy in ((0.0, 0.09), (-0.06, 0.05), (0.06, -0.05), (-0.03, -0.10), (-0.06, -0.20), (0.02, -0.16)):
        canvas.ellipse(x + dx, y + dy, 0.024, 0.024, orange)
    eye = (x + 0.05, y + 0.03)
    canvas.ellipse(*eye, 0.022, 0.022, (20, 16, 16))
    return _finish(canvas, rng, [canvas.at(*eye)], 0.03)


def _curassow(height: float, pose: Pose, rng: np.random.Generator, great: bool) -> Sprite:
    black, white = _vary((38, 37, 42), rng, 0.12), (238, 236, 230)
    canvas = Canvas(height, (-1.5, -0.05, 1.2, 1.85), black)
    tail: Points = ((-0.30, 0.90), (-0.95, 0.66), (-1.34, 0.42), (-1.26, 0.26), (-0.85, 0.38), (-0.35, 0.55))
    canvas.blob(tail, black)
    _bird_legs(canvas, pose, (150, 140, 130) if great else (206, 150, 140))
    canvas.blob(_BIRD_BODY, black)
    vent = Markings(white)
    if great:  # the whole belly is white
        vent.stroke(((0.30, 0.42), (0.0, 0.44), (-0.45, 0.58)), (0.16, 0.26, 0.22))
    else:  # white only below the tail; tail tip and fine bars on the wing are white
        vent.spot(-0.42, 0.56, 0.16, 0.10)
    canvas.within((_BIRD_BODY,), vent)
    wing: Points = ((0.32, 0.90), (-0.20, 0.88), (-0.66, 0.68), (-0.50, 0.58), (0.05, 0.56), (0.30, 0.68))
    canvas.blob(wing, _shade(black, 1.35))
    if not great:
        tip = Markings(white)
        tip.stroke(((-1.40, 0.46), (-1.18, 0.22)), (0.18, 0.18))
        for x in np.linspace(-1.05, -0.5, 4):
            tip.stroke(((float(x), 0.30), (float(x) - 0.10, 0.85)), (0.026, 0.026), 220)
        canvas.within((tail,), tip)
        bars = Markings(white)
        for x in np.linspace(-0.60, 0.28, 9):
            bars.stroke(((float(x), 0.52), (float(x) - 0.05, 0.95)), (0.030, 0.030), 225)
        canvas.within((wing,), bars)
    x, y = _neck(pose, (0.66, 1.36), (0.92, 0.66))
    canvas.limb(((0.44, 0.84), (0.56, (0.98 + y) / 2), (x, y)), (0.30, 0.17, 0.15), black)
    canvas.ellipse(x, y, 0.125, 0.12, black)
    curls = 7 if great else 4
    for curl in range(curls):  # the crest: high and curled in one, low and smooth in the other
        root = x - 0.13 + 0.24 * curl / curls
        rise = 0.24 if great else 0.10
        canvas.limb(
            ((root, y + 0.06), (root - 0.03, y + 0.06 + rise * 0.7), (root - 0.10, y + 0.05 + rise)),
            (0.05, 0.04, 0.045 if great else 0.02),
            black,
        )
    canvas.limb(((x + 0.09, y - 0.01), (x + 0.24, y - 0.04)), (0.09, 0.02), (92, 88, 84))
    if great:
        canvas.ellipse(x + 0.17, y + 0.075, 0.085, 0.085, (250, 214, 40))
    else:
        canvas.limb(((x + 0.08, y), (x + 0.19, y - 0.01)), (0.13, 0.05), (74, 130, 226))
        canvas.ellipse(x + 0.10, y - 0.12, 0.05, 0.08, (74, 130, 226))
    eye = (x + 0.04, y + 0.03)
    canvas.ellipse(*eye, 0.026, 0.026, (150, 60, 30))
    return _finish(canvas, rng, [canvas.at(*eye)], 0.03)


def great_curassow(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _curassow(height, pose, rng, great=True)


def blue_billed_curassow(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    return _curassow(height, pose, rng, great=False)


# What a selection drops ------------------------------------------------------------------------------


def cattle(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    coat, patch = (228, 220, 208), _vary((82, 56, 42), rng)
    canvas = Canvas(height, (-1.1, -0.05, 1.6, 1.5), coat)
    far, near = _hoofed(canvas, pose, coat, coat, thick=1.5)
    far()
    body: Points = (
        (0.60, 0.98),
        (0.0, 0.98),
        (-0.62, 0.99),
        (-0.78, 0.80),
        (-0.66, 0.46),
        (0.0, 0.38),
        (0.50, 0.42),
        (0.72, 0.62),
        (0.72, 0.86),
    )
    canvas.limb(((-0.74, 0.92), (-0.84, 0.60), (-0.82, 0.36)), (0.05, 0.04, 0.08), patch)
    canvas.blob(body, coat)
    marks = Markings(patch)
    for _ in range(5):
        marks.spot(
            float(rng.uniform(-0.7, 0.6)),
            float(rng.uniform(0.55, 0.95)),
            float(rng.uniform(0.12, 0.24)),
            float(rng.uniform(0.10, 0.18)),
        )
    canvas.within((body,), marks)
    near()
    x, y = _neck(pose, (1.0, 1.02), (1.05, 0.45))
    canvas.limb(((0.55, 0.78), (x, y)), (0.46, 0.28), patch)
    canvas.limb(
        ((x - 0.05, y + 0.14), (x + 0.02, y + 0.30), (x + 0.12, y + 0.34)),
        (0.06, 0.05, 0.02),
        (220, 210, 190),
    )
    eye = _antelope_head(canvas, x, y, 0.36, 0.6, patch)
    return _finish(canvas, rng, [canvas.at(*eye)], 0.03)


def person(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    shirt = _vary((86, 104, 84), rng, 0.2)
    trousers, skin = _vary((70, 66, 60), rng, 0.2), _vary((136, 98, 74), rng, 0.2)
    canvas = Canvas(height, (-0.6, -0.03, 0.7, 1.35), shirt)
    near_leg, far_leg = 0.20 * np.sin(pose.phase) * pose.stride, -0.20 * np.sin(pose.phase) * pose.stride
    for swing, colour in ((far_leg, _shade(trousers, 0.75)), (near_leg, trousers)):
        canvas.limb(((0.0, 0.58), (0.04 + swing * 0.5, 0.30), (swing, 0.03)), (0.17, 0.12, 0.09), colour)
        canvas.ellipse(swing + 0.04, 0.03, 0.09, 0.035, (40, 34, 30))
    canvas.limb(((0.0, 0.56), (0.02, 0.98)), (0.24, 0.30), shirt)
    canvas.blob(((-0.12, 0.98), (-0.28, 0.92), (-0.28, 0.66), (-0.10, 0.62)), _vary((120, 60, 50), rng, 0.25))
    canvas.limb(
        ((0.0, 0.95), (0.08 - near_leg, 0.74), (0.16 - near_leg, 0.58)),
        (0.11, 0.09, 0.07),
        _shade(shirt, 0.85),
    )
    canvas.ellipse(0.04, 1.15, 0.095, 0.12, skin)
    canvas.blob(((-0.10, 1.20), (0.04, 1.31), (0.15, 1.22), (0.24, 1.19), (0.05, 1.19)), (92, 84, 62))
    return _finish(canvas, rng, [canvas.at(0.1, 1.17)], 0.015)


def small_bird(height: float, pose: Pose, rng: np.random.Generator) -> Sprite:
    grey = _vary((110, 112, 120), rng, 0.15)
    canvas = Canvas(height, (-1.1, -0.05, 1.1, 1.4), grey)
    _bird_legs(canvas, pose, (150, 90, 80))
    canvas.blob(((-0.3, 0.8), (-0.95, 0.55), (-0.9, 0.45), (-0.2, 0.5)), _shade(grey, 0.8))
    canvas.blob(_BIRD_BODY, grey)
    spots = Markings((224, 224, 220))
    for _ in range(40):
        spots.spot(float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.45, 0.95)), 0.022, 0.022)
    canvas.within((_BIRD_BODY,), spots)
    x, y = _neck(pose, (0.55, 1.16), (0.74, 0.6))
    canvas.limb(((0.42, 0.85), (x, y)), (0.26, 0.16), grey)
    canvas.ellipse(x, y, 0.12, 0.11, grey)
    canvas.limb(((x + 0.1, y), (x + 0.24, y - 0.03)), (0.06, 0.02), (90, 80, 70))
    canvas.ellipse(x + 0.04, y + 0.03, 0.025, 0.025, (20, 16, 16))
    return _finish(canvas, rng, [canvas.at(x + 0.04, y + 0.03)], 0.03)


_DRAWERS: dict[int, Callable[[float, Pose, np.random.Generator], Sprite]] = {
    2: cattle,
    5: person,
    7: jaguar,
    24: african_elephant,
    90: lion,
    100: gazelle,
    119: oryx,
    127: gerenuk,
    128: asian_elephant,
    149: tiger,
    154: turkey,
    300: small_bird,
    301: small_bird,
    372: great_curassow,
    374: blue_billed_curassow,
}
