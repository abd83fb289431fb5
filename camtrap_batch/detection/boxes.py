"""A detector's boxes beside the manifest's rows, and what an image is labelled that has some, or none.

docs/inference.md has the rules in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.repeats import find_repeats
from camtrap_batch.detection.results import BOX, KEY, match_detections, read_detections
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job import Infer
from camtrap_batch.remote import shown
from camtrap_batch.store.schemas import DETECTIONS

COLUMN = "boxes"
"""Of rows on their way to a worker: lists of `BOX` with `repeat`, null where no boxes are known."""

_BOX = pa.struct([*BOX, pa.field("repeat", pa.int32())])
_LEAST_DOUBT, _MOST_DOUBT = 0.01, 0.49
"""Probability that an image without a box that counts has an animal after all. Detectors leave out what they
are least sure of, and a probability of 0 would outweigh every other frame of a sequence; and with a high
threshold empty is still the most probable."""

_LISTED = 200  # repeated places that are kept in a snapshot


@dataclass(frozen=True)
class Rules:
    """How boxes make an image's label.

    Attributes
    ----------
    categories : names of what the detector finds; a box's category is a place in it
    threshold : a box with less confidence does not count
    animal : place of the category whose boxes are classified
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
    meta : what the snapshot keeps of them: counts, and places where a camera repeats a box
    notes : the same for people
    """

    column: pa.ListArray
    rules: Rules
    meta: dict[str, Any]
    notes: list[str]

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


def find_boxes(settings: Infer, rows: pa.Table, empty: str) -> Boxes | None:
    """The boxes of manifest rows; None where the job names no results.

    Parameters
    ----------
    rows : with file_name, location and image_id
    empty : label of images without an animal

    Raises
    ------
    InputError
        The results can't be read, are of other images, or have no category for animals.
    """
    path = settings.detections
    if path is None:
        return None
    detections = read_detections(path)
    wanted = [name.casefold() for name in detections.categories]
    if settings.animal_category.casefold() not in wanted:
        known = choices(settings.animal_category, detections.categories)
        raise InputError(
            f"infer.animal_category: {shown(path)} has no category {settings.animal_category!r}; {known}"
        )
    rules = Rules(
        tuple(detections.categories),
        settings.detection_threshold,
        wanted.index(settings.animal_category.casefold()),
        empty,
    )
    lists = match_detections(detections, rows["file_name"], path)
    values = lists.flatten()
    row_of = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).fill_null(0).to_numpy())
    repeat, places = _repeats(settings, rows, values, row_of, rules)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    column = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()),
        pa.StructArray.from_arrays(
            [*values.flatten(), pa.array(repeat, pa.int32(), mask=repeat < 0)], fields=list(_BOX)
        ),
        mask=lists.is_null(),
    )
    n_known = len(lists) - lists.null_count
    others = detections.images.num_rows - len(pc.unique(_matched(detections.images, rows["file_name"])))
    meta = {
        "file": shown(path),
        "threshold": settings.detection_threshold,
        "images": n_known,
        "without": lists.null_count,
        "entries_of_other_images": others,
        "entries_twice": detections.n_repeated,
        "boxes": len(values),
        "repeats": int((repeat >= 0).sum()),
        "repeated_places": places[:_LISTED],
        "n_repeated_places": len(places),
    }
    notes = [f"{KEY}: boxes of {n_known:,} of {len(lists):,} images"]
    if lists.null_count:
        notes[0] += f"; the other {lists.null_count:,} are classified as whole frames"
    if others:
        notes.append(f"{KEY}: {others:,} entries are of no usable image of the catalog")
    if detections.n_repeated:
        notes.append(f"{KEY}: {detections.n_repeated:,} entries name a file again; the first one counts")
    if places:
        worst = places[0]
        notes.append(
            f"{meta['repeats']:,} boxes at {len(places):,} places are repeats, and set aside; most at "
            f"{worst['location']}: {worst['images']:,} images"
        )
    return Boxes(column, rules, meta, notes)


def _matched(images: pa.Table, file_names: pa.ChunkedArray) -> pa.ChunkedArray:
    return images["file_name"].filter(pc.is_in(images["file_name"], value_set=file_names.combine_chunks()))


def _repeats(
    settings: Infer, rows: pa.Table, values: pa.StructArray, row_of: npt.NDArray[np.int64], rules: Rules
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Which boxes are repeats, and the places that they repeat, most images first."""
    confidence = values.field("confidence").to_numpy()
    counts = np.flatnonzero(confidence >= rules.threshold)
    repeat = np.full(len(values), -1, np.int32)
    if not settings.repeat_frames or not len(counts):
        return repeat, []
    location = rows["location"].combine_chunks().dictionary_encode()
    camera = location.indices.fill_null(-1).to_numpy().astype(np.int64)[row_of]
    corners = np.stack([values.field(name).to_numpy() for name in ("x", "y", "w", "h")], axis=1)
    repeat[counts] = find_repeats(
        camera[counts],
        row_of[counts],
        corners[counts],
        iou=settings.repeat_iou,
        min_frames=settings.repeat_frames,
    )
    names, image_ids = location.dictionary.to_pylist(), rows["image_id"]
    found = np.flatnonzero(repeat >= 0)
    found = found[np.argsort(repeat[found], kind="stable")]
    places = []
    for members in np.split(found, np.flatnonzero(np.diff(repeat[found])) + 1) if len(found) else []:
        categories, n = np.unique(values.field("category").to_numpy()[members], return_counts=True)
        places.append(
            {
                "repeat": int(repeat[members[0]]),
                "location": names[camera[members[0]]],
                "images": len(np.unique(row_of[members])),
                "box": [round(float(value), 4) for value in np.median(corners[members], axis=0)],
                "category": rules.categories[categories[np.argmax(n)]],
                "image_id": image_ids[int(row_of[members[0]])].as_py(),
            }
        )
    return repeat, sorted(places, key=lambda place: (-place["images"], place["repeat"]))


@dataclass(frozen=True)
class Look:
    """What is looked at in the images of a shard, and what their boxes come to.

    Attributes
    ----------
    rows_of : row of each box
    classified : boxes that are, in order
    whole : rows that are classified as whole frames
    """

    rules: Rules
    boxes: pa.StructArray
    rows_of: npt.NDArray[np.int64]
    classified: npt.NDArray[np.int64]
    whole: npt.NDArray[np.int64]

    @classmethod
    def at(cls, column: pa.ListArray, rules: Rules) -> Look:
        """What the boxes of a shard's rows ask for."""
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

    def places(self) -> dict[int, list[tuple[float, float, float, float]]]:
        """Boxes to classify, by row."""
        found: dict[int, list[tuple[float, float, float, float]]] = {}
        columns = [self.boxes.field(name).to_numpy() for name in ("x", "y", "w", "h")]
        for box in self.classified.tolist():
            place = tuple(float(column[box]) for column in columns)
            found.setdefault(int(self.rows_of[box]), []).append(place)  # type: ignore[arg-type]
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
        answers : row -> (boxes classified, classes); a row is missing where it could not be decoded

        Returns
        -------
        Row -> label and confidence, where the label is no class; number of animals in each row.
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
            # Where an animal and something else are as sure, it is the animal.
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
    ) -> pa.Table:
        """Rows of the table `detections`."""
        n = len(self.boxes)
        label, sure = np.full(n, None, object), np.full(n, np.nan, np.float32)
        of_row = self.rows_of[self.classified]
        for row, answer in answers.items():
            boxes = self.classified[np.searchsorted(of_row, row) :][: len(answer)]
            label[boxes] = np.asarray(classes, object)[answer.argmax(axis=1)]
            sure[boxes] = answer.max(axis=1)
        columns = {name: self.boxes.field(name) for name in ("x", "y", "w", "h", "confidence", "repeat")}
        columns["image_id"] = image_ids.take(pa.array(self.rows_of))
        columns["category"] = pa.array(self.rules.categories, pa.string()).take(self.boxes.field("category"))
        columns["label"] = pa.array(label, pa.string())
        columns["label_confidence"] = pa.array(sure, pa.float32(), from_pandas=True)
        return pa.table({name: columns[name] for name in DETECTIONS.names})
