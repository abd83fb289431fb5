"""Detectors: where the boxes in pictures come from.

A detector either looks at pictures, on workers (`PictureDetector`), or already knows the boxes in the
catalog's files, because another program has looked at them (`KnownDetector`). `DETECTORS` lists them by name;
another package adds its own through an entry point of the group `camtrap_batch.detectors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.registry import Registry
from camtrap_batch.vocabulary import PERSONS, VEHICLES

if TYPE_CHECKING:
    from pathlib import Path

    from camtrap_batch.detection.boxes import Boxes
    from camtrap_batch.runtime import Device, Precision

LEAST = 0.005
"""Boxes with less confidence are not kept, as in MegaDetector's results."""

ANIMAL, PERSON, VEHICLE = "animal", "person", "vehicle"


@dataclass(frozen=True)
class Found:
    """What a detector found in one picture, the most confident box first.

    Attributes
    ----------
    boxes : (n, 4) float32: x, y of the upper left corner, width, height, as fractions of the upright
        picture's
    confidence : (n,) float32
    category : (n,) int16, an index into the detector's `categories`
    """

    boxes: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    category: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def nothing(cls) -> Found:
        """A result without boxes."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16))


@dataclass
class Tally:
    """The cost of detecting: seconds of waiting for pictures, and in the network."""

    read_s: float = 0.0
    forward_s: float = 0.0


class Finder(Protocol):
    """A detector, loaded on a worker."""

    def find(self, pictures: Iterable[bytes], tally: Tally | None = None) -> Iterator[Found | str]:
        """For the bytes of each image file, in order: what is in the picture, or why it does not decode.

        Pictures are taken from the iterator ahead of the network.
        """
        ...


class Detector(Protocol):
    """The detector that a job names, opened and checked. It is pickled, so it holds no network.

    Attributes
    ----------
    help : a line for people
    detector_id : hash, 16 hexadecimal digits, of everything that its boxes depend on
    categories : names of what it finds; a box's category is an index into it
    """

    help: ClassVar[str]

    @property
    def detector_id(self) -> str: ...

    @property
    def categories(self) -> tuple[str, ...]: ...


@runtime_checkable
class PictureDetector(Detector, Protocol):
    """A detector that looks at pictures."""

    endings: ClassVar[tuple[str, ...]]
    """Endings of the files that `detect.model` may name, such as .onnx; a package's own need not be files."""

    @classmethod
    def open(cls, path: str, *, size: int | None = None, tiles: int = 1, key: str = "detect.model") -> Any:
        """The detector in a file.

        Parameters
        ----------
        size : side of the pictures it is to see, in pixels; None: what its file says
        tiles : 2: also look at overlapping quarters of large pictures
        key : the key of the job file, for messages

        Raises
        ------
        InputError
            It can't be used; the message says why, on one line.
        """
        ...

    @property
    def files(self) -> dict[str, bytes | Path]:
        """The files that a run folder keeps of it, by name: contents, or paths."""
        ...

    def load(self, folder: Path, device: Device, threads: int, batch: int, precision: Precision) -> Finder:
        """Load it on a worker, where `files` are in `folder`."""
        ...


@dataclass(frozen=True)
class Known:
    """Known boxes of a catalog's rows.

    Attributes
    ----------
    boxes : for each row a list of `results.BOX`, null if nothing is known about it
    why : for each row without boxes a status (`unreadable`: the detector failed; `no_result`)
    meta, notes : for the snapshot, for people
    labels : for each box, list by list: what people said is in it, null if nobody said anything
    """

    boxes: pa.ListArray
    why: pa.Array
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labels: pa.Array | None = None


@dataclass(frozen=True)
class Answer:
    """What a classifier run elsewhere says about n images.

    Attributes
    ----------
    classes : all labels, sorted
    label, confidence, top, n_boxes : (n,) as in the table predictions; null if nothing is known
    status : (n,) ok, or why there is no label: unreadable, no_result
    crops : rows of that table: boxes that count and that a classifier has examined
    notes : for people
    """

    classes: list[str]
    label: pa.Array
    confidence: pa.Array
    top: pa.Array
    status: pa.Array
    n_boxes: pa.Array
    crops: pa.Table
    notes: list[str]


KNOWN_BY = ("width", "height", "orientation", "video_s")
"""Columns of the manifest that `KnownDetector.match` is given in addition to image_id and file_name."""


@runtime_checkable
class KnownDetector(Detector, Protocol):
    """A detector whose boxes are already known.

    That of a package is for the files with its `endings` that `detect.results` names: its class method
    `open(path, *, images, key)`, with the image root and the key of the job file for messages, reads one, or
    raises InputError.
    """

    def match(self, rows: pa.Table) -> Known:
        """Its boxes of rows of the manifest (image_id, file_name, and `KNOWN_BY`).

        Raises
        ------
        InputError
            The boxes belong to other images.
        """
        ...


@runtime_checkable
class SpeciesDetector(KnownDetector, Protocol):
    """Known boxes in which a classifier may have named species."""

    @property
    def classified_by(self) -> str | None:
        """The classifier, for people; None: there was none, and nothing to `answers`."""
        ...

    def answers(self, rows: pa.Table, boxes: Boxes, empty: str) -> Answer:
        """What the classifier says about images.

        Parameters
        ----------
        rows : image_id, file_name and video_s of n images
        boxes : their boxes, from `boxes.find_boxes`
        empty : label of images without an animal
        """
        ...


DETECTORS: Registry[type[Detector]] = Registry(
    "camtrap_batch.detectors",
    {
        "onnx": "camtrap_batch.detection.onnx:OnnxDetector",
        "results": "camtrap_batch.detection.given:ResultsDetector",
        "catalog": "camtrap_batch.detection.catalog:CatalogDetector",
    },
)


Meaning = Literal["animal", "person", "vehicle"]


def meaning(category: str, animal: str = ANIMAL) -> Meaning | None:
    """What a detector's category counts as.

    >>> meaning("Human"), meaning("car"), meaning("dog"), meaning("deer", animal="deer")
    ('person', 'vehicle', None, 'animal')
    """
    name = category.strip().casefold()
    if name == animal.casefold():
        return "animal"
    return "person" if name in PERSONS else "vehicle" if name in VEHICLES else None
