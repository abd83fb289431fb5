"""MegaDetector results -> boxes of each image.

Format: github.com/agentmorris/MegaDetector, "MegaDetector batch output format", versions 1.3 to 1.6.
"""

from __future__ import annotations

import gc
from array import array
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.jsonfile import read_json
from camtrap_batch.errors import InputError
from camtrap_batch.remote import shown

KEY = "infer.detections"

BOX = pa.struct(
    [(name, pa.float32()) for name in ("x", "y", "w", "h", "confidence")] + [("category", pa.int16())]
)
"""x and y of the upper left corner, width and height as parts of the upright image's; how sure the detector
is; place in `Detections.categories`."""

_OUTSIDE = 0.02  # how far a box may reach out of its image; it is cut off there


@dataclass(frozen=True)
class Detections:
    """What a detector found.

    Attributes
    ----------
    images : file_name, posix, each once; boxes, a list of `BOX`, null where the detector failed
    categories : names of what is detected, such as animal
    n_repeated : files that are in the results more than once; the first entry counts
    """

    images: pa.Table
    categories: tuple[str, ...]
    n_repeated: int


class _Box(msgspec.Struct, gc=False):
    category: str | int
    conf: float
    bbox: tuple[float, float, float, float]


class _Image(msgspec.Struct, gc=False):
    file: str
    detections: list[_Box] | None = None


class _Info(msgspec.Struct):
    format_version: str | float


class _File(msgspec.Struct):
    info: _Info
    detection_categories: dict[str, str]
    images: list[msgspec.Raw]  # views of the file: as objects, all boxes would be several times its size


def read_detections(path: str) -> Detections:
    """The boxes in a MegaDetector results file.

    Parameters
    ----------
    path : file or fsspec URL; `.json`, `.json.gz`, or a `.zip` that holds one `.json`

    Raises
    ------
    InputError
        It can't be read, or is something else.
    """
    data = read_json(path, KEY)
    where = f"{shown(path)} ({KEY})"
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects are made, and none becomes garbage
    try:
        content = msgspec.json.decode(data, type=_File)
        if not str(content.info.format_version).startswith("1."):
            version = content.info.format_version
            raise InputError(f"{where}: format_version {version!r} can't be read; possible: 1.3 to 1.6")
        return _columns(content, where)
    except msgspec.ValidationError as problem:
        raise InputError(f"{where}: not MegaDetector results: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InputError(f"{where}: not JSON, or cut off: {problem}") from None
    finally:
        if collecting:
            gc.enable()


def match_detections(detections: Detections, file_names: pa.ChunkedArray, path: str) -> pa.Array:
    """The boxes of each file of the catalog: lists of `BOX`, null where the results don't have the file.

    Raises
    ------
    InputError
        None of the files is in the results: they are of other images.
    """
    known = detections.images["file_name"].combine_chunks()
    place = pc.index_in(file_names, value_set=known)
    if isinstance(place, pa.ChunkedArray):
        place = place.combine_chunks()
    if len(file_names) and place.null_count == len(place):
        first = repr(known[0].as_py()) if len(known) else "nothing"
        raise InputError(
            f"{shown(path)} ({KEY}): of other images: none of its {len(known):,} files is in the catalog, "
            f"which has {file_names[0].as_py()!r} where the results have {first}; both should be relative to "
            "dataset.images"
        )
    return detections.images["boxes"].combine_chunks().take(place)


def _columns(content: _File, where: str) -> Detections:
    ids = {id_: number for number, id_ in enumerate(content.detection_categories)}
    decode = msgspec.json.Decoder(_Image).decode
    names: list[str] = []
    failed = bytearray()
    lengths, categories, numbers = array("i"), array("h"), array("f")
    for raw in content.images:
        image = decode(raw)
        names.append(image.file)
        failed.append(image.detections is None)
        boxes = image.detections or ()
        lengths.append(len(boxes))
        for box in boxes:
            number = ids.get(str(box.category))
            if number is None:
                raise InputError(
                    f"{where}: {image.file!r} has a box of category {box.category!r}, which is not in "
                    f"detection_categories: {', '.join(ids) or 'none'}"
                )
            categories.append(number)
            numbers.extend(box.bbox)
            numbers.append(box.conf)
    content.images.clear()
    values = np.asarray(numbers, np.float32).reshape(-1, 5)
    starts = np.cumsum(np.concatenate([[0], np.asarray(lengths, np.int64)]), dtype=np.int64)
    _check(values, starts, names, where)
    table = pa.table(
        {
            "file_name": pc.replace_substring_regex(
                pc.replace_substring(pa.array(names, pa.string()), "\\", "/"), r"^(\./)+", ""
            ),
            "boxes": pa.ListArray.from_arrays(
                pa.array(starts, pa.int32()),
                _boxes(values, np.asarray(categories, np.int16)),
                mask=pa.array(np.array(failed, np.bool_)),
            ),
        }
    )
    first = pc.index_in(table["file_name"], value_set=pc.unique(table["file_name"]))
    distinct = np.unique(first.to_numpy(), return_index=True)[1]
    n_repeated = table.num_rows - len(distinct)
    if n_repeated:
        table = table.take(pa.array(np.sort(distinct)))
    return Detections(table, tuple(content.detection_categories.values()), n_repeated)


def _check(
    values: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], names: list[str], where: str
) -> None:
    x, y, w, h, confidence = values.T
    right = (np.minimum(x, y) >= -_OUTSIDE) & (np.maximum(x + w, y + h) <= 1 + _OUTSIDE)
    right &= (np.minimum(w, h) >= 0) & (confidence >= 0) & (confidence <= 1)
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
    columns = (left, top, np.clip(x + w, 0, 1) - left, np.clip(y + h, 0, 1) - top, confidence)
    return pa.StructArray.from_arrays(
        [*(pa.array(column, pa.float32()) for column in columns), pa.array(categories, pa.int16())],
        fields=list(BOX),
    )
