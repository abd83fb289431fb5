"""Results of detectors run elsewhere -> the boxes of each image, and the species in them.

- MegaDetector: github.com/agentmorris/MegaDetector, "MegaDetector batch output format", versions 1.0 to 1.6
- SpeciesNet: github.com/google/cameratrapai, predictions of versions up to 5.0.5, which name no format, and
  of format 20261015

If a classifier was used as well, its answers are kept with the boxes: `classifications` of a box in
MegaDetector's format, as AddaxAI and MegaDetector with SpeciesNet write them; SpeciesNet's prediction of the
image, or, in the newer format, of each box.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.jsonfile import parsing, read_json
from camtrap_batch.codes import one_chunk
from camtrap_batch.errors import InputError
from camtrap_batch.remote import redacted

KEY = "infer.detections"

BOX = pa.struct(
    [(name, pa.float32()) for name in ("x", "y", "w", "h", "confidence")] + [("category", pa.int16())]
)
"""x and y of the upper left corner, width and height as fractions of the upright image's; confidence of the
detector; index into `Detections.categories`."""

SAID = pa.list_(pa.struct([("code", pa.int32()), ("p", pa.float32())]))
"""Species, the most probable first: index in `Detections.species`, and probability."""

_MOST_SAID = 5

_UNKNOWN = frozenset({"", "no cv result", "unknown"})
"""Names of classes, in lower case, by which a classifier says that it does not know."""

_OUTSIDE = 0.02  # how far a box may extend beyond its image, where it is cut off
_NEAR_S = 0.5  # how far from a frame of a video the examined frame may be
_STARTS = re.compile(r"^(\./)+")
_ROUNDED = 1e-3  # how far a confidence may be above 1
_MD_VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6")
_SPECIESNET_VERSIONS = ("20261015",)
_START = 256
_NO_LIST = (
    "a list; should be an object with info, detection_categories and images, boxes as parts of the image"
)
_WHOLE_BOX = (0.0, 0.0, 1.0, 1.0)
_UNKNOWN_CATEGORY = "unknown"
"""Category of the box in which SpeciesNet's converter to MegaDetector's format puts an image's own label."""

_WHOLE_IMAGE = "0"  # SpeciesNet's category for a classification of the whole image, which is not a box


@dataclass(frozen=True)
class Detections:
    """What a detector found.

    Attributes
    ----------
    images : file_name, posix, each once; boxes, a list of `BOX`, null if the detector failed; said, a list of
        `SAID` for each box; whole, `SAID` for the image as a whole; these two are empty if nothing is said
    categories : names of what is detected, such as animal, each once
    n_repeated : number of files that are in the results more than once; the first entry counts
    unlisted : id of a category that the results do not name -> number of its boxes, which are not detections
    species : the classifier's names for what it has seen
    hash : of the file's bytes, 16 hexadecimal digits
    made_by, detector : the classifier and the detector, as the results name them
    videos : file_name of a video -> which of its frames were examined, and the frame of each box
    """

    images: pa.Table
    categories: tuple[str, ...]
    n_repeated: int
    unlisted: Mapping[str, int] = field(default_factory=dict)
    species: tuple[str, ...] = ()
    made_by: str | None = None
    videos: Mapping[str, LookedAt] = field(default_factory=dict)
    detector: str | None = None
    hash: str = ""


@dataclass(frozen=True)
class LookedAt:
    """Frames of a video that a detector examined.

    Attributes
    ----------
    rate : frames per second; None if the results do not say
    processed : numbers of the frames, from 0, ascending; None if the results do not say: any frame
    of_boxes : frame number of each of its boxes, in order
    """

    rate: float | None
    processed: tuple[int, ...] | None
    of_boxes: tuple[int, ...]

    def boxes_at(self, seconds: float) -> list[int] | None:
        """Indices of the boxes in the frame nearest to a time, None if no frame near it was examined.

        >>> LookedAt(30.0, (0, 30), (0, 30, 30)).boxes_at(1.0), LookedAt(30.0, (0, 30), (0,)).boxes_at(2.0)
        ([1, 2], None)
        """
        if self.rate is None or self.rate <= 0:
            return None
        wanted, reach = seconds * self.rate, _NEAR_S * self.rate
        known = sorted(set(self.of_boxes)) if self.processed is None else self.processed
        nearest = min(known, key=lambda number: abs(number - wanted), default=None)
        if nearest is None or abs(nearest - wanted) > reach:
            return [] if self.processed is None else None
        return [index for index, number in enumerate(self.of_boxes) if number == nearest]


class _Box(msgspec.Struct, gc=False):
    category: str | int
    conf: float
    bbox: tuple[float, float, float, float]
    label: str | None = None
    frame_number: float | None = None


class _SpeciesBox(_Box):
    classifications: list[tuple[str | int, float]] | None = None


B = TypeVar("B", bound=_Box)


class _Classes(msgspec.Struct, gc=False):
    classes: list[str]
    scores: list[float]


class _Processed(msgspec.Struct, gc=False):
    class_: str = msgspec.field(name="class")
    score: float


class _ClassifiedBox(_Box):
    raw_classifications: _Classes | None = None
    processed_classification: _Processed | None = None


class _Image(msgspec.Struct, gc=False):
    file: str
    detections: list[_SpeciesBox] | None = None
    failure: str | None = None
    frame_rate: float | None = None
    frames_processed: list[int] | None = None


class _Prediction(msgspec.Struct, gc=False):
    filepath: str
    detections: list[_ClassifiedBox] | None = None
    failures: list[str] | None = None
    classifications: _Classes | None = None
    prediction: str | None = None
    prediction_score: float | None = None
    model_version: str | None = None


class _Info(msgspec.Struct):
    format_version: str | float | None = None
    classifier: str | None = None
    detector: Any = None


class _Either(msgspec.Struct):
    info: _Info | None = None
    predictions: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct):
    info: _Info
    detection_categories: dict[str, str]
    images: list[msgspec.Raw]  # views of the file: as objects, all boxes would take several times its size
    classification_categories: dict[str, str] | None = None


class _SpeciesNet(msgspec.Struct):
    predictions: list[msgspec.Raw]
    info: _Info | None = None


def read_detections(path: str, key: str = KEY) -> Detections:
    """The boxes in a results file of MegaDetector or SpeciesNet.

    Parameters
    ----------
    path : file or fsspec URL; `.json`, `.json.gz`, or a `.zip` that holds one `.json`
    key : the key of the job file, for messages

    Raises
    ------
    InputError
        It can't be read, or is something else.
    """
    data = read_json(path, key)
    hash_ = hashlib.sha256(data).hexdigest()[:16]
    return replace(_parse(data, f"{redacted(path)} ({key})"), hash=hash_)


def _parse(data: Any, where: str) -> Detections:
    if bytes(data[:_START]).lstrip().startswith(b"["):  # from programs that write boxes in pixels
        raise InputError(f"{where}: not MegaDetector results: {_NO_LIST}")
    with parsing(data, where, "MegaDetector results"):
        is_speciesnet = bytes(msgspec.json.decode(data, type=_Either).predictions) != b"null"
        if not is_speciesnet:
            return _of_megadetector(msgspec.json.decode(data, type=_File), where)
    with parsing(data, where, "SpeciesNet predictions"):
        return _of_speciesnet(msgspec.json.decode(data, type=_SpeciesNet), where)


def match_detections(
    detections: Detections,
    file_names: pa.ChunkedArray,
    path: str,
    *,
    images: str | None = None,
    key: str = KEY,
) -> pa.Array:
    """The boxes of each file in the catalog: lists of `BOX`, null if the results don't have the file.

    Parameters
    ----------
    images : the image root; paths in the results may begin with it

    Raises
    ------
    InputError
        None of the files is in the results: they belong to other images.
    """
    row = find_entries(detections, file_names, images)
    known = detections.images["file_name"].combine_chunks()
    if len(file_names) and row.null_count == len(row):
        first = repr(known[0].as_py()) if len(known) else "nothing"
        raise InputError(
            f"{redacted(path)} ({key}): of other images: none of its {len(known):,} files is in the catalog, "
            f"which has {file_names[0].as_py()!r} where the results have {first}; both should be relative to "
            "dataset.images"
        )
    return detections.images["boxes"].combine_chunks().take(row)


def match_frames(
    detections: Detections, lists: pa.Array, names: pa.ChunkedArray, seconds: pa.ChunkedArray
) -> pa.Array:
    """The lists of `match_detections`, for frames of videos only with each frame's own boxes.

    They are those of the frame that was examined within half a second of it; null if there was none.

    Parameters
    ----------
    names : name of each row's file in the results
    seconds : time from the start of the video; null for rows that are not frames of one
    """
    rows = np.flatnonzero(seconds.is_valid().to_numpy())
    if not len(rows):
        return lists
    names = names.take(pa.array(rows)).to_pylist()
    times = seconds.take(pa.array(rows)).to_pylist()
    found = []
    for row, name, time in zip(rows.tolist(), names, times, strict=True):
        looked = detections.videos.get(name)
        indices = None if looked is None else looked.boxes_at(time)
        boxes = lists[row].as_py() if indices is not None else None
        found.append(None if boxes is None or indices is None else [boxes[at] for at in indices])
    index = np.arange(len(lists))
    index[rows] = len(lists) + np.arange(len(rows))
    return pa.concat_arrays([lists, pa.array(found, lists.type)]).take(pa.array(index))


def find_entries(
    detections: Detections, file_names: pa.ChunkedArray, images: str | None = None
) -> pa.Int32Array:
    """Row of `detections.images` of each file of the catalog; null if the results don't have it."""
    known = below_root(detections.images["file_name"].combine_chunks(), images)
    return one_chunk(pc.index_in(file_names, value_set=known))


def below_root(names: pa.StringArray, images: str | None) -> pa.StringArray:
    """Names made relative to the image root if they begin with it, as given or with its links resolved."""
    if images is None:
        return names
    roots = {images, os.path.realpath(images)} if "://" not in images else {images}
    for root in sorted(roots, key=len, reverse=True):
        prefix = root.replace("\\", "/").rstrip("/") + "/"
        names = pc.if_else(pc.starts_with(names, prefix), pc.utf8_slice_codeunits(names, len(prefix)), names)
    return names


def _of_megadetector(content: _File, where: str) -> Detections:
    _check_version(content.info.format_version, _MD_VERSIONS, where)
    decode = msgspec.json.Decoder(_Image).decode
    columns = _Columns(content.detection_categories)
    names = content.classification_categories or {}
    kinds = content.detection_categories.items()
    unknown = {id_ for id_, name in kinds if name.strip().casefold() == _UNKNOWN_CATEGORY}

    def said(box: _SpeciesBox) -> list[tuple[str, float]]:
        return [(names.get(str(id_), ""), p) for id_, p in box.classifications or ()]

    for number, raw in enumerate(content.images):
        try:
            image = decode(raw)
        except msgspec.ValidationError as problem:
            raise InputError(f"{where}: not MegaDetector results: images[{number}]: {problem}") from None
        boxes = None if image.failure else image.detections
        whole: list[tuple[str, float]] = []
        for box in boxes or () if unknown else ():
            if str(box.category) in unknown and box.bbox == _WHOLE_BOX:
                whole = whole or said(box)
        if whole:
            boxes = [box for box in boxes or () if str(box.category) not in unknown]
        columns.add(image.file, boxes, said, whole, rate=image.frame_rate, processed=image.frames_processed)
    content.images.clear()
    name = content.info.detector
    found = columns.detections(where, content.info.classifier)
    return replace(found, detector=name if isinstance(name, str) and name else None)


def _of_speciesnet(content: _SpeciesNet, where: str) -> Detections:
    version = content.info.format_version if content.info else None
    if version is not None:
        _check_version(version, _SPECIESNET_VERSIONS, where)
    decode = msgspec.json.Decoder(_Prediction).decode
    columns = _Columns({"1": "animal", "2": "human", "3": "vehicle"})
    version = None
    for raw in content.predictions:
        image = decode(raw)
        version = version or image.model_version
        boxes = None if "DETECTOR" in (image.failures or ()) else image.detections
        whole = _of_image(image)
        if boxes is not None:
            for box in boxes:
                if str(box.category) == _WHOLE_IMAGE:
                    whole = whole or _of_box(box)
            boxes = [box for box in boxes if str(box.category) != _WHOLE_IMAGE]
            columns.name(boxes)
        columns.add(image.filepath, boxes, _of_box, whole)
    content.predictions.clear()
    return columns.detections(where, f"speciesnet {version}" if version else "speciesnet")


def _of_image(image: _Prediction) -> list[tuple[str, float]]:
    """What SpeciesNet predicts for an image as a whole, in the older format."""
    if image.prediction is None:
        return []
    return _with_others(image.prediction, image.prediction_score or 0.0, image.classifications)


def _of_box(box: _ClassifiedBox) -> list[tuple[str, float]]:
    """What SpeciesNet, or its classifier without the ensemble, predicts for a box, in the newer format."""
    raw, final = box.raw_classifications, box.processed_classification
    if final is not None:
        return _with_others(final.class_, final.score, raw)
    return list(zip(raw.classes, raw.scores, strict=False)) if raw is not None else []


def _with_others(name: str, p: float, raw: _Classes | None) -> list[tuple[str, float]]:
    """A prediction, and the classifier's alternatives, if it is one of the classifier's own classes."""
    others = zip(raw.classes, raw.scores, strict=False) if raw is not None and name in raw.classes else ()
    return [(name, p), *((other, score) for other, score in others if other != name)]


def species_name(name: str) -> str | None:
    """The name used here for a classifier's class; None if the class means that it does not know.

    For SpeciesNet's classes (id;class;order;family;genus;species;common name) it is the common name, as in
    MegaDetector's results, otherwise the lowest of the other names.

    >>> species_name("e3f1;mammalia;carnivora;felidae;panthera;leo;lion"), species_name("f1;;;;;;blank")
    ('lion', 'blank')
    >>> species_name("e3f1;mammalia;carnivora;felidae;panthera;leo;"), species_name("no cv result")
    ('panthera leo', None)
    """
    parts = [part.strip() for part in name.split(";")]
    if len(parts) == 7:
        _, *ranks, genus, species, common = parts
        name = common or f"{genus} {species}".strip() or next((rank for rank in reversed(ranks) if rank), "")
    name = name.strip()
    return None if name.casefold() in _UNKNOWN else name


def _check_version(version: str | float | None, known: tuple[str, ...], where: str) -> None:
    if str(version) not in known:
        possible = f"{known[0]} to {known[-1]}" if len(known) > 1 else f"{known[0]}, or none as before it"
        raise InputError(f"{where}: format_version {version!r} can't be read; possible: {possible}")


class _Columns:
    """Columns that grow image by image."""

    def __init__(self, categories: Mapping[str, str]) -> None:
        self._names: list[str] = []
        self._ids: dict[str, int] = {}
        for id_, name in categories.items():
            self._list(id_, name)
        self._files: list[str] = []
        self._failed = bytearray()
        self._lengths, self._categories, self._numbers = array("i"), array("h"), array("f")
        self._unlisted: Counter[str] = Counter()
        self._species: dict[str, int] = {}
        self._known: dict[str, int] = {}
        self._said, self._whole = _Said(), _Said()
        self._videos: dict[str, LookedAt] = {}

    def name(self, boxes: Iterable[_Box]) -> None:
        """List categories that boxes name themselves."""
        for box in boxes:
            if box.label and str(box.category) not in self._ids:
                self._list(str(box.category), box.label)

    def add(
        self,
        file: str,
        boxes: Sequence[B] | None,
        said: Callable[[B], list[tuple[str, float]]],
        whole: list[tuple[str, float]] | None = None,
        *,
        rate: float | None = None,
        processed: list[int] | None = None,
    ) -> None:
        """The boxes of one image, or of some frames of a video, and what a classifier says about them and it.

        None: the detector failed.
        """
        self._whole.add(self._codes(whole or ()))
        number, of_boxes = 0, []
        for box in boxes or ():
            category = self._ids.get(str(box.category))
            if category is None:
                self._unlisted[str(box.category)] += 1
                continue
            self._categories.append(category)
            self._numbers.extend(box.bbox)
            self._numbers.append(box.conf)
            self._said.add(self._codes(said(box)))
            number += 1
            if box.frame_number is not None:
                of_boxes.append(int(box.frame_number))
        if len(of_boxes) == number and (of_boxes or rate is not None or processed is not None):
            looked = LookedAt(rate, None if processed is None else tuple(sorted(processed)), tuple(of_boxes))
            self._videos.setdefault(_STARTS.sub("", file.replace("\\", "/")), looked)
        self._files.append(file)
        self._failed.append(boxes is None)
        self._lengths.append(number)

    def _codes(self, said: Iterable[tuple[str, float]]) -> list[tuple[int, float]]:
        """Indices of species by descending probability; those that mean nothing are left out."""
        found = []
        for class_, p in said:
            code = self._known.get(class_)
            if code is None:
                name = species_name(class_)
                code = -1 if name is None else self._species.setdefault(name, len(self._species))
                self._known[class_] = code
            if code >= 0:
                found.append((code, p))
        return sorted(found, key=lambda one: -one[1])[:_MOST_SAID]

    def detections(self, where: str, made_by: str | None = None) -> Detections:
        """The whole result; raises InputError if a box is impossible."""
        values = np.asarray(self._numbers, np.float32).reshape(-1, 5)
        starts = np.cumsum(np.concatenate([[0], np.asarray(self._lengths, np.int64)]), dtype=np.int64)
        _check(values, starts, self._files, where)
        table = pa.table(
            {
                "file_name": pc.replace_substring_regex(
                    pc.replace_substring(pa.array(self._files, pa.string()), "\\", "/"), r"^(\./)+", ""
                ),
                "boxes": pa.ListArray.from_arrays(
                    pa.array(starts, pa.int32()),
                    _boxes(values, np.asarray(self._categories, np.int16)),
                    mask=pa.array(np.array(self._failed, np.bool_)),
                ),
                "said": pa.ListArray.from_arrays(pa.array(starts, pa.int32()), self._said.lists()),
                "whole": self._whole.lists(),
            }
        )
        first = pc.index_in(table["file_name"], value_set=pc.unique(table["file_name"]))
        distinct = np.unique(first.to_numpy(), return_index=True)[1]
        n_repeated = table.num_rows - len(distinct)
        if n_repeated:
            table = table.take(pa.array(np.sort(distinct)))
        return Detections(
            table,
            tuple(self._names),
            n_repeated,
            dict(self._unlisted),
            tuple(self._species),
            made_by,
            self._videos,
        )

    def _list(self, id_: str, name: str) -> None:
        """Merge categories that have the same name."""
        known = [other.casefold() for other in self._names]
        if name.casefold() in known:
            self._ids[id_] = known.index(name.casefold())
        else:
            self._ids[id_] = len(self._names)
            self._names.append(name)


class _Said:
    """A column of `SAID` that grows row by row."""

    def __init__(self) -> None:
        self._lengths, self._codes, self._shares = array("i"), array("i"), array("f")

    def add(self, said: list[tuple[int, float]]) -> None:
        self._lengths.append(len(said))
        for code, p in said:
            self._codes.append(code)
            self._shares.append(p)

    def lists(self) -> pa.ListArray:
        starts = np.cumsum(np.concatenate([[0], np.asarray(self._lengths, np.int64)]), dtype=np.int64)
        values = pa.StructArray.from_arrays(
            [pa.array(np.asarray(self._codes, np.int32)), pa.array(np.asarray(self._shares, np.float32))],
            fields=list(SAID.value_type),
        )
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values)


def _check(
    values: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], names: list[str], where: str
) -> None:
    x, y, w, h, confidence = values.T
    right = (np.minimum(x, y) >= -_OUTSIDE) & (np.maximum(x + w, y + h) <= 1 + _OUTSIDE)
    right &= (np.minimum(w, h) >= 0) & (confidence >= 0) & (confidence <= 1 + _ROUNDED)
    if right.all():
        return
    wrong = int(np.argmin(right))
    image = names[int(np.searchsorted(starts, wrong, side="right")) - 1]
    box = ", ".join(f"{value:g}" for value in values[wrong, :4])
    raise InputError(
        f"{where}: {image!r}: bbox [{box}] with conf {confidence[wrong]:g}: should be x, y, width, height as "
        "parts of the image, and conf between 0 and 1"
    )


def _boxes(values: npt.NDArray[np.float32], categories: npt.NDArray[np.int16]) -> pa.StructArray:
    x, y, w, h, confidence = values.T
    left, top = np.clip(x, 0, 1), np.clip(y, 0, 1)
    columns = (left, top, np.clip(x + w, 0, 1) - left, np.clip(y + h, 0, 1) - top, np.minimum(confidence, 1))
    return pa.StructArray.from_arrays(
        [*(pa.array(column, pa.float32()) for column in columns), pa.array(categories, pa.int16())],
        fields=list(BOX),
    )
