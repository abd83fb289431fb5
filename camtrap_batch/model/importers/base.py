"""What an importer is, and which importers there are.

An importer is one module with a class that follows this protocol and one line in `IMPORTERS`; a package
installed beside ours adds one through an entry point of the group `camtrap_batch.importers`. What it writes
is compared with the original, on pictures, before it counts as done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import InputError, UserError
from camtrap_batch.images.framing import INTERPOLATION, RESIZE
from camtrap_batch.options import Option, fraction, one_of, whole_number
from camtrap_batch.registry import Registry

SAME = 0.95
"""The fraction of test pictures on which the top class must be the original's, and of boxes that must be
where the original's are."""

MOST_DIFFERENCE = 0.03
"""Largest mean difference in the confidence of the original's top class."""


@dataclass(frozen=True)
class Argument:
    """A word that the command takes; `is_optional`: it may be left out."""

    name: str
    metavar: str
    help: str
    is_optional: bool = False


@dataclass(frozen=True)
class Imported:
    """A folder written by an import.

    Attributes
    ----------
    folder : the folder to keep
    what : such as "model 0123456789abcdef, 3 classes"
    compared : how it compares with the original
    job : lines of a job file that use it; {out} stands for the folder
    notes : what else people should know about it
    """

    folder: Path
    what: str
    compared: str
    job: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


class Importer(Protocol):
    """A kind of published model.

    Attributes
    ----------
    name : its name on the command line
    help : what it imports, in a few words
    arguments, options : those of its command
    """

    name: str
    help: str
    arguments: Sequence[Argument]
    options: Sequence[Option]

    def run(self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path) -> Imported:
        """Write the folder, and compare.

        Parameters
        ----------
        given : value of each argument and option, by name
        pictures : bytes of two or more image files to compare on
        scratch : an empty folder to write in

        Raises
        ------
        InputError
            Something in it is not what it should be, or what was written does not answer like the original.
        """
        ...


IMPORTERS: Registry[Importer] = Registry(
    "camtrap_batch.importers",
    {
        "timm": "camtrap_batch.model.importers.libraries:TIMM",
        "torchvision": "camtrap_batch.model.importers.libraries:TORCHVISION",
        "onnx": "camtrap_batch.model.importers.onnxfile:IMPORT",
        "speciesnet": "camtrap_batch.model.importers.speciesnet:IMPORT",
        "ultralytics": "camtrap_batch.model.importers.detectors:ULTRALYTICS",
        "megadetector": "camtrap_batch.model.importers.detectors:MEGADETECTOR",
    },
)


@dataclass(frozen=True)
class Comparison:
    """A classifier beside its original.

    Attributes
    ----------
    n : pictures compared
    same : those with the same top class
    difference : mean difference in the confidence of the original's top class
    """

    n: int
    same: int
    difference: float

    @classmethod
    def of(cls, ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> Comparison:
        """Compare two arrays of probabilities (pictures, classes)."""
        rows, top = np.arange(len(theirs)), theirs.argmax(1)
        difference = float(np.abs(ours[rows, top] - theirs[rows, top]).mean())
        return cls(len(theirs), int((ours.argmax(1) == top).sum()), difference)

    @property
    def agrees(self) -> bool:
        return self.same >= SAME * self.n and self.difference <= MOST_DIFFERENCE

    def require(self, where: str) -> None:
        """Raise InputError if the two differ too much."""
        if not self.agrees:
            raise InputError(f"{where}: what was written does not answer as the original does: {self}")

    def __str__(self) -> str:
        return (
            f"the original's top class on {self.same} of {self.n} pictures, "
            f"confidence {self.difference:.3f} apart on average"
        )


def classes_of(given: Mapping[str, Any]) -> list[str] | None:
    """The labels in the file that `CLASSES` names: one per line, or a JSON list; None if it names no file.

    Raises UserError if a label is not text.
    """
    if given["classes"] is None:
        return None
    path = Path(given["classes"])
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (OSError, ValueError) as problem:
        raise UserError(f"--classes {path}: can't be read: {problem}") from None
    labels = [label.strip() if isinstance(label, str) else label for label in content]
    for number, label in enumerate(labels, 1):
        if not isinstance(label, str) or not label:
            raise UserError(f"--classes {path}: label {number} should be text, it is {label!r}")
    return labels


def three_numbers(text: str) -> list[float]:
    """
    >>> three_numbers("0.5,0.5,0.5")
    [0.5, 0.5, 0.5]
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise ValueError(f"{text!r} should be three numbers, such as 0.485,0.456,0.406")
    return numbers


CLASSES = Option(
    "classes",
    "labels in the order of the outputs, one per line, or a JSON list",
    metavar="FILE",
)

SEEN = (
    Option("size", "side of the square that the network sees, in pixels", parse=whole_number, metavar="PX"),
    Option("resize", " or ".join(RESIZE), parse=one_of(RESIZE), metavar="HOW"),
    Option(
        "crop-pct",
        "fraction of the resized picture that is seen, 0 to 1",
        parse=partial(fraction, above_zero=True),
        metavar="PART",
    ),
    Option("interpolation", ", ".join(INTERPOLATION), parse=one_of(INTERPOLATION), metavar="FILTER"),
    Option("mean", "of each channel, 0 to 1", parse=three_numbers, metavar="R,G,B"),
    Option("std", "of each channel, 0 to 1", parse=three_numbers, metavar="R,G,B"),
)
"""How the model needs its pictures, if that is not known, or differs from what was published."""


def seen(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `SEEN` that were given, as keys of a card."""
    chosen = {option.name.replace("-", "_"): given[option.name] for option in SEEN}
    return {key: value for key, value in chosen.items() if value is not None}
