"""A detector's boxes for the manifest's rows, and how an image with boxes, or without any, is labelled.

docs/inference.md explains the rules.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.repeats import Spots, find_spots
from camtrap_batch.detection.stored import SIDES, to_column
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job.detect import Detect
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import CROPS
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import open_table
from camtrap_batch.vocabulary import plural

COLUMN = "boxes"
"""Column of rows on their way to a worker: lists of `BOX` with `repeat`, null if no boxes are known."""

_LEAST_DOUBT, _MOST_DOUBT = 0.01, 0.49
"""Probability that an image without a box that counts has an animal after all. Detectors leave out what they
are least sure of, and a probability of 0 would outweigh every other frame of a sequence; even with a high
threshold, empty is still the most probable."""

_LISTED = 200  # number of repeated spots kept in a snapshot


@dataclass(frozen=True)
class Rules:
    """How boxes determine an image's label.

    Attributes
    ----------
    categories : names of what the detector finds; a box's category is an index into it
    threshold : a box with less confidence does not count
    animal : index of the category whose boxes are classified
    empty : label of an image without a box that counts
    """

    categories: tuple[str, ...]
    threshold: float
    animal: int
    empty: str


@dataclass(frozen=True)
class Boxes:
    """Boxes of the rows that are classified.

    Attributes
    ----------
    column : a list for each row, see `COLUMN`
    meta : what the snapshot keeps about them: counts, and spots where a camera repeats a box
    """

    column: pa.ListArray
    rules: Rules
    meta: dict[str, Any]

    def count(self) -> pa.Array:
        """(rows,) int32: animal boxes that count; null if no boxes are known."""
        look = Look.at(self.column, self.rules)
        n = np.bincount(look.rows_of[look.classified], minlength=len(self.column))
        return pc.if_else(self.column.is_valid(), pa.array(n, pa.int32()), pa.scalar(None, pa.int32()))

    def hashes(self, runs: Sequence[tuple[int, int]]) -> list[str]:
        """For each run of rows (start, stop): a hash of their boxes, and of the rules."""
        values = self.column.values
        columns = [values.field(number).fill_null(-1).to_numpy() for number in range(values.type.num_fields)]
        starts = self.column.offsets.to_numpy()
        is_null = self.column.is_null().to_numpy(zero_copy_only=False)
        rules = repr(sorted(asdict(self.rules).items())).encode()
        found = []
        for start, stop in runs:
            hash_ = hashlib.sha256(rules)
            hash_.update(is_null[start:stop].tobytes() + np.diff(starts[start : stop + 1]).tobytes())
            for column in columns:
                hash_.update(column[starts[start] : starts[stop]].tobytes())
            found.append(hash_.hexdigest()[:32])
        return found


@dataclass(frozen=True)
class Repeats:
    """What is known about the boxes that cameras repeat.

    Attributes
    ----------
    boxes, n_spots : number of boxes that are repeats, and of spots that they repeat
    spots : about each spot, those with most images first; no more than `_LISTED` of them are of use
    """

    boxes: int = 0
    n_spots: int = 0
    spots: Sequence[dict[str, Any]] = ()

    def meta(self) -> dict[str, Any]:
        """What a snapshot keeps about them."""
        return {
            "repeats": self.boxes,
            "repeated_places": list(self.spots[:_LISTED]),
            "n_repeated_places": self.n_spots,
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Repeats:
        return cls(meta["repeats"], meta["n_repeated_places"], meta["repeated_places"])

    @classmethod
    def joined(cls, parts: Iterable[Repeats]) -> Repeats:
        """Those of a whole data set, from those of its parts, whose cameras differ and follow one another."""
        boxes, n_spots, spots = 0, 0, list[dict[str, Any]]()
        for part in parts:
            spots += [spot | {"repeat": spot["repeat"] + n_spots} for spot in part.spots]
            boxes, n_spots = boxes + part.boxes, n_spots + part.n_spots
        return cls(boxes, n_spots, sorted(spots, key=_most_images_first))

    def notes(self) -> list[str]:
        if not self.spots:
            return []
        worst = self.spots[0]
        return [
            f"{plural(self.boxes, 'box', 'boxes')} at {plural(self.n_spots, 'spot')} set "
            f"aside as repeats; most at {worst['location']}: {plural(worst['images'], 'image')}"
        ]


@dataclass(frozen=True)
class Marked:
    """Boxes, and which of them cameras repeat.

    Attributes
    ----------
    number : (boxes,) int32: the spot that a box repeats, -1 if it is not a repeat
    spots : what boxes are compared with; the camera is a number of `locations`
    """

    number: npt.NDArray[np.int32]
    spots: Spots = field(default_factory=Spots.none)
    locations: Sequence[str] = ()
    repeats: Repeats = field(default_factory=Repeats)


def mark_repeats(settings: Detect, rows: pa.Table, n_boxes: pa.ChunkedArray, boxes: pa.Table) -> Marked:
    """Look for boxes at the same spot in many pictures of a camera.

    Parameters
    ----------
    rows : with location and image_id, of the pictures
    n_boxes : number of boxes in each picture, null if nothing is known about it
    boxes : x, y, w, h, confidence and category, in the same order of pictures
    """
    repeat = np.full(boxes.num_rows, -1, np.int32)
    counts = np.flatnonzero(boxes["confidence"].to_numpy() >= settings.threshold)
    if not settings.repeat.frames or not len(counts):
        return Marked(repeat)
    row_of = np.searchsorted(np.cumsum(n_boxes.fill_null(0).to_numpy()), counts, side="right")
    location = rows["location"].combine_chunks().dictionary_encode()
    camera = location.indices.fill_null(-1).to_numpy().astype(np.int64)[row_of]
    corners = to_corners(boxes)[counts]
    found, known = find_spots(
        camera, row_of, corners, iou=settings.repeat.iou, min_frames=settings.repeat.frames
    )
    repeat[counts] = found
    names, image_ids = location.dictionary.to_pylist(), rows["image_id"]
    categories = pc.unique(boxes["category"])
    # In one pass: to take a few rows of many chunks, Arrow copies them all each time.
    category = pc.index_in(boxes["category"], value_set=categories).to_numpy()
    repeated = np.flatnonzero(found >= 0)
    repeated = repeated[np.argsort(found[repeated], kind="stable")]
    spots = []
    for members in np.split(repeated, np.flatnonzero(np.diff(found[repeated])) + 1) if len(repeated) else []:
        n = Counter(category[counts[members]].tolist())
        spots.append(
            {
                "repeat": int(found[members[0]]),
                "location": names[camera[members[0]]],
                "images": len(np.unique(row_of[members])),
                "box": [round(float(value), 4) for value in np.median(corners[members], axis=0)],
                "category": min((-n[one], categories[one].as_py()) for one in n)[1],
                "image_id": image_ids[int(row_of[members[0]])].as_py(),
            }
        )
    repeats = Repeats(len(repeated), len(spots), sorted(spots, key=_most_images_first))
    return Marked(repeat, known, names, repeats)


def to_corners(boxes: pa.Table) -> npt.NDArray[np.float32]:
    """(boxes, 4) x, y, width, height."""
    return np.stack([boxes[name].to_numpy() for name in SIDES], axis=1)


def _most_images_first(spot: dict[str, Any]) -> tuple[int, int]:
    return -spot["images"], spot["repeat"]


def make_rules(
    settings: Detect, categories: Sequence[str], empty: str, key: str = "detect", who: str = "the detector"
) -> Rules:
    """The rules of a job.

    Parameters
    ----------
    categories : the detector's categories
    empty : label of images without an animal
    key, who : section of the job file, and what it names, for the message

    Raises
    ------
    InputError
        The detector has no category for animals.
    """
    wanted = [name.casefold() for name in categories]
    animal = settings.animal_category.casefold()
    if animal not in wanted:
        known = choices(settings.animal_category, categories)
        raise InputError(
            f"{key}.animal_category: {who} has no category {settings.animal_category!r}; {known}"
        )
    return Rules(tuple(categories), settings.threshold, wanted.index(animal), empty)


def find_boxes(settings: Detect, run: Run, rows: pa.Table, empty: str) -> Boxes:
    """The boxes of manifest rows, from the stage `detect`.

    Parameters
    ----------
    rows : the usable rows, with image_id
    empty : label of images without an animal

    Raises
    ------
    InputError
        `detect` has not been run on this manifest.
    """
    detected, detections = run.snapshot("detected"), run.snapshot("detections")
    if detections.meta.get("of") != detected.plan_id:
        raise InputError(
            f"{run.folder.url}: the table detections is not that of the current boxes; run detect first"
        )
    column = read_boxes(run.folder, detected, detections, rows["image_id"])
    rules = make_rules(settings, tuple(detected.meta["categories"]), empty)
    return Boxes(column, rules, {**detected.meta["found"], **detections.meta["repeats"]})


def read_boxes(
    folder: Folder, detected: Snapshot, detections: Snapshot, image_ids: pa.ChunkedArray
) -> pa.ListArray:
    """The boxes of images, in the form of `COLUMN`. Raises InputError if the tables lack an image."""
    of_images = open_table(folder, detected).to_table(columns=["image_id", "n_boxes"])
    boxes = open_table(folder, detections).to_table(
        columns=["x", "y", "w", "h", "confidence", "category", "repeat"]
    )
    column = to_column(of_images["n_boxes"], boxes, tuple(detected.meta["categories"]))
    row = pc.index_in(image_ids, value_set=of_images["image_id"].combine_chunks())
    if row.null_count:
        raise InputError(f"{folder.url}: images without a row in the table detected; run detect first")
    every = pa.array(np.arange(len(column), dtype=np.int32))
    if len(row) == len(column) and pc.all(pc.equal(row, every)).as_py():
        return column
    return column.take(row.combine_chunks())


@dataclass(frozen=True)
class Look:
    """What is classified in the images of a shard, and how their boxes determine labels.

    Attributes
    ----------
    rows_of : row of each box
    classified : boxes that are classified, in order
    whole : rows that are classified as whole frames
    """

    rules: Rules
    boxes: pa.StructArray
    rows_of: npt.NDArray[np.int64]
    classified: npt.NDArray[np.int64]
    whole: npt.NDArray[np.int64]

    @classmethod
    def at(cls, column: pa.ListArray, rules: Rules) -> Look:
        """What the boxes of a shard's rows require."""
        lengths = pc.list_value_length(column).fill_null(0).to_numpy()
        boxes = column.flatten()
        counts = pc.and_(
            pc.and_(
                pc.greater_equal(boxes.field("confidence"), rules.threshold),
                pc.equal(boxes.field("category"), rules.animal),
            ),
            boxes.field("repeat").is_null(),
        )
        return cls(
            rules,
            boxes,
            np.repeat(np.arange(len(column)), lengths),
            np.flatnonzero(counts.to_numpy(zero_copy_only=False)),
            np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)),
        )

    def numbers(self) -> npt.NDArray[np.int64]:
        """Number of each box within its row, from 0."""
        first = np.searchsorted(self.rows_of, self.rows_of)
        return np.arange(len(self.rows_of)) - first

    def boxes_by_row(self) -> dict[int, list[tuple[float, float, float, float]]]:
        """Boxes to classify, by row."""
        found: dict[int, list[tuple[float, float, float, float]]] = {}
        columns = [self.boxes.field(name).to_numpy() for name in ("x", "y", "w", "h")]
        for box in self.classified.tolist():
            box_of = tuple(float(column[box]) for column in columns)
            found.setdefault(int(self.rows_of[box]), []).append(box_of)  # type: ignore[arg-type]
        return found

    def frames(
        self,
        probabilities: npt.NDArray[np.float32],
        answers: Mapping[int, npt.NDArray[np.float32]],
        classes: Sequence[str],
    ) -> tuple[dict[int, tuple[str, float]], npt.NDArray[np.int64]]:
        """Label the images whose boxes are known.

        Parameters
        ----------
        probabilities : (rows, classes); rows with boxes are filled in here where their label is a class
        answers : row -> (boxes classified, classes); a row is missing if it could not be decoded

        Returns
        -------
        Row -> label and confidence, if the label is not a class; number of animals in each row.
        """
        confidence = self.boxes.field("confidence").to_numpy()
        is_animal = self.boxes.field("category").to_numpy() == self.rules.animal
        is_free = self.boxes.field("repeat").is_null().to_numpy(zero_copy_only=False)
        n = len(probabilities)
        n_animals = np.bincount(self.rows_of[self.classified], minlength=n)
        ends = np.cumsum(np.bincount(self.rows_of, minlength=n))
        empty = classes.index(self.rules.empty) if self.rules.empty in classes else None
        named: dict[int, tuple[str, float]] = {}
        for row in np.setdiff1d(np.arange(n), self.whole).tolist():
            own = np.arange(ends[row - 1] if row else 0, ends[row])
            own = own[is_free[own]]
            # If an animal and something else are equally sure, the animal counts.
            own = own[np.lexsort((is_animal[own], confidence[own]))]
            sure = float(confidence[own[-1]]) if len(own) else 0.0
            doubt = min(max(sure, _LEAST_DOUBT), _MOST_DOUBT)
            if sure < self.rules.threshold and empty is None:
                named[row] = (self.rules.empty, 1 - doubt)
            elif sure < self.rules.threshold:
                probabilities[row] = doubt / max(1, len(classes) - 1)
                probabilities[row, empty] = 1 - doubt
            elif not is_animal[own[-1]]:
                category = self.boxes.field("category")[int(own[-1])].as_py()
                named[row] = (self.rules.categories[category], sure)
            if (answer := answers.get(row)) is None:
                continue
            with_animal = answer.argmax(axis=1) != (-1 if empty is None else empty)
            n_animals[row] = np.count_nonzero(with_animal)
            if row not in named:
                boxes = self.classified[np.searchsorted(self.rows_of[self.classified], row) :][: len(answer)]
                convincing = confidence[boxes] * answer.max(axis=1)
                if with_animal.any():
                    convincing[~with_animal] = 0
                probabilities[row] = answer[np.argmax(convincing)]
        return named, n_animals

    def table(
        self,
        image_ids: pa.ChunkedArray,
        answers: Mapping[int, npt.NDArray[np.float32]],
        classes: Sequence[str],
        top: int,
    ) -> pa.Table:
        """Rows of the table `crops`: what the classifier says about each box that it has seen.

        Parameters
        ----------
        top : number of classes kept for each
        """
        of_row = self.rows_of[self.classified]
        first = np.searchsorted(self.rows_of, np.arange(len(image_ids) + 1))
        rows, numbers, seen = [], [], [np.empty((0, len(classes)), np.float32)]
        for row in sorted(answers):
            boxes = self.classified[np.searchsorted(of_row, row) :][: len(answers[row])]
            rows += [row] * len(boxes)
            numbers += (boxes - first[row]).tolist()
            seen.append(answers[row])
        probabilities = np.concatenate(seen)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        names = np.asarray(classes, object)[order]
        shares = np.take_along_axis(probabilities, order, axis=1)
        entries = pa.StructArray.from_arrays(
            [pa.array(names.ravel(), pa.string()), pa.array(shares.ravel(), pa.float32())],
            fields=list(CROPS.field("top5").type.value_type),
        )
        offsets = pa.array(np.arange(len(rows) + 1) * order.shape[1], pa.int32())
        return pa.table(
            {
                "image_id": image_ids.take(pa.array(rows, pa.int64())),
                "box": pa.array(numbers, pa.int32()),
                "label": pa.array(names[:, 0], pa.string()),
                "confidence": pa.array(shares[:, 0], pa.float32()),
                "top5": pa.ListArray.from_arrays(offsets, entries),
            }
        )
