"""The categories of the synthetic data set: what is drawn, how often, at what hour and how large.

The 11 ids that a selection keeps are those of the sample notebook. Which id is which species is an
assumption of this data set: the notebook names ten of them, apart from the ids. Names are
scientific and in lower case, as in WCS Camera Traps. No reserve on Earth holds all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

EMPTY_ID = 0


@dataclass(frozen=True, slots=True)
class Species:
    """One category that is drawn.

    share: cards in a camera's deck of visits, and so the relative frequency.
    night: probability that a visit is at night.
    height: shoulder (bird: back) height in the picture as a share of the picture's height, from far to near.
    """

    category_id: int
    name: str
    share: int
    night: float
    height: tuple[float, float]
    herd: float = 0.0
    """Probability that two animals visit together."""


SELECTED: tuple[Species, ...] = (
    Species(7, "panthera onca", 3, 0.55, (0.25, 0.48)),
    Species(24, "loxodonta africana", 5, 0.35, (0.34, 0.68), herd=0.25),
    Species(90, "panthera leo", 3, 0.50, (0.25, 0.50), herd=0.15),
    Species(100, "eudorcas thomsonii", 6, 0.20, (0.25, 0.48), herd=0.30),
    Species(119, "oryx beisa", 4, 0.30, (0.27, 0.50), herd=0.25),
    Species(127, "litocranius walleri", 3, 0.20, (0.23, 0.38), herd=0.10),
    Species(128, "elephas maximus", 3, 0.35, (0.34, 0.68), herd=0.15),
    Species(149, "panthera tigris", 3, 0.50, (0.25, 0.48)),
    Species(154, "meleagris ocellata", 4, 0.12, (0.22, 0.42), herd=0.20),
    Species(372, "crax rubra", 4, 0.12, (0.24, 0.44), herd=0.15),
    Species(374, "crax alberti", 3, 0.12, (0.24, 0.44), herd=0.10),
)

DISTRACTORS: tuple[Species, ...] = (
    Species(2, "bos taurus", 1, 0.20, (0.28, 0.50)),
    Species(5, "homo sapiens", 1, 0.15, (0.45, 0.70)),
    Species(300, "unknown bird", 1, 0.10, (0.10, 0.20)),
    Species(301, "unknown bird", 1, 0.10, (0.10, 0.20)),
)
"""Drawn now and then; the notebook's selection drops them. Two ids share one name, as happens in WCS."""

UNUSED: tuple[tuple[int, str], ...] = (
    (1, "tayassu pecari"),
    (3, "dasyprocta punctata"),
    (6, "tapirus terrestris"),
    (97, "equus quagga"),
    (371, "penelope purpurascens"),
    (600, "start"),
    (601, "end"),
)
"""In the list of categories, but on no image."""

BY_ID: dict[int, Species] = {species.category_id: species for species in SELECTED + DISTRACTORS}


def name_of(category_id: int) -> str:
    """Name of a category that is drawn; "empty" for category 0."""
    return "empty" if category_id == EMPTY_ID else BY_ID[category_id].name


def categories() -> list[tuple[int, str]]:
    """Every (id, name) of the data set, by id."""
    drawn = [(species.category_id, species.name) for species in BY_ID.values()]
    return sorted([(EMPTY_ID, "empty"), *drawn, *UNUSED])
