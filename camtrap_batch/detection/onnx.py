"""Detectors in ONNX files, as written by present-day exporters; see docs/detectors.md.

A `detector.json` beside the file says what the exporter's metadata do not, and takes precedence over them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from camtrap_batch import phases
from camtrap_batch.detection.base import LEAST, Found, Tally
from camtrap_batch.detection.frames import GREY, Fit, Placement, put, put_pixels
from camtrap_batch.detection.heads import (
    IOU,
    LAYOUTS,
    Layout,
    Raw,
    count_classes,
    read_boxes,
    suppress,
    tell_layout,
)
from camtrap_batch.errors import CamtrapError, InputError, choices
from camtrap_batch.images.decode import decode_whole
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.runtime import (
    Array,
    Device,
    Network,
    Normalising,
    OnnxInfo,
    Precision,
    choose_runtime,
    hash_file,
    needs_code,
    open_network,
    read_onnx,
)
from camtrap_batch.runtime.required import RequiredRuntime
from camtrap_batch.runtime.stream import in_order
from camtrap_batch.yamlfile import Section, parse

CARD = "detector.json"
MODEL = "detector.onnx"

_NO_MATTER = ("path", "batch", "description", "runtime")
"""Attributes that no box depends on."""

_LONGEST = 200

_VERSION = 1  # version of how boxes are made; part of a detector's id
_STRIDE = 32
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LARGEST = 4096
_DTYPES = {"float32": np.float32, "float16": np.float16}

_OVERLAP = 0.2  # of tiles, as a fraction of the picture's side: smaller objects are whole in one
_AT_EDGE = 0.01  # fraction of a tile: a box this close to an inner edge is cut off
_SAME_IN_TILES = 0.45


class Card(Section):
    """A `detector.json`; all keys are optional, and take precedence over the exporter's metadata."""

    names: list[str] | dict[str, str] | None = Field(None, description="categories, in the outputs' order")
    size: int | list[int] | None = Field(
        None, description="side of its pictures, or [height, width], in pixels"
    )
    stride: int | None = Field(None, ge=1, le=256, description="sides of its pictures are multiples of it")
    layout: str | None = Field(None, description=f"layout of its outputs: {', '.join(LAYOUTS)}")
    iou: float | None = Field(None, gt=0, le=1, strict=False, description="overlap of boxes of one animal")
    resize: str | None = Field(None, description="letterbox or stretch")
    smooth: bool | None = Field(None, description="whether pictures are smoothed when made smaller")
    mean: list[float] | None = Field(None, min_length=3, max_length=3, description="of each channel, 0 to 1")
    std: list[float] | None = Field(None, min_length=3, max_length=3, description="of each channel, 0 to 1")
    provenance: dict[str, str] | None = Field(None, description="where it is from; does not affect boxes")

    @field_validator("layout")
    @classmethod
    def _layout(cls, value: str | None) -> str | None:
        if value is not None and value not in LAYOUTS:
            raise ValueError(f"{value!r} is not possible; {choices(value, LAYOUTS)}")
        return value

    @field_validator("resize")
    @classmethod
    def _resize(cls, value: str | None) -> str | None:
        if value is not None and value not in ("letterbox", "stretch"):
            raise ValueError(f"{value!r} is not possible; {choices(value, ('letterbox', 'stretch'))}")
        return value


@dataclass(frozen=True)
class OnnxDetector:
    """A detector in an ONNX file.

    Attributes
    ----------
    path : path of the file
    sha256 : hash of its content
    iou : overlap from which the less sure of two boxes of a category is dropped
    tiles : 1, or 2: also look at overlapping quarters of large pictures
    dtype : type of its input
    batch : pictures that it takes at once; None: any number
    description : what the file says about itself
    runtime : the runtime that computes it on every CPU worker; None: whichever each has
    """

    path: str
    sha256: str
    categories: tuple[str, ...]
    layout: Layout
    fit: Fit
    iou: float
    tiles: int = 1
    dtype: str = "float32"
    batch: int | None = None
    description: str = ""
    runtime: str | None = None

    help: ClassVar[str] = "an ONNX file: YOLOv5 (MegaDetector v5), YOLOv8 to v26, RT-DETR, RF-DETR"
    endings: ClassVar[tuple[str, ...]] = (".onnx",)

    @property
    def detector_id(self) -> str:
        depends = {name: value for name, value in asdict(self).items() if name not in _NO_MATTER}
        return hashlib.sha256(json.dumps([_VERSION, depends], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def files(self) -> dict[str, bytes | Path]:
        card = {
            "names": list(self.categories),
            "size": list(self.fit.size),
            "stride": self.fit.stride or _STRIDE,
            "layout": self.layout,
            "iou": self.iou,
            "resize": self.fit.resize,
            "smooth": self.fit.smooth,
            "mean": list(self.fit.mean),
            "std": list(self.fit.std),
        }
        return {MODEL: Path(self.path), CARD: json.dumps(card, indent=1).encode()}

    @classmethod
    def open(
        cls, path: str, *, size: int | None = None, tiles: int = 1, key: str = "detect.model"
    ) -> OnnxDetector:
        """Examine the file, and what its network returns for a grey picture.

        Raises
        ------
        InputError
            It is not a detector, or one whose outputs are unknown; or what must be known about it is missing
            or does not fit.
        MissingExtra
            No runtime is installed.
        """
        where = f"{path} ({key})"
        if Path(path).is_file() and needs_code(path):
            kind = "megadetector" if Path(path).name.lower().startswith("md") else "ultralytics"
            raise InputError(
                f"{where}: PyTorch weights, which run code of their own when loaded; should be an "
                f"ONNX file, which this command writes: camtrap model import {kind} {path}"
            )
        info = read_onnx(path, key)
        card = read_card(Path(path).parent / CARD)
        metadata = info.metadata
        if (task := metadata.get("task", "detect")) != "detect":
            raise InputError(f"{where}: not a detector: its task is {task!r}")
        if len(info.inputs) != 1 or len(info.inputs[0].shape) != 4 or info.inputs[0].dtype not in _DTYPES:
            raise InputError(
                f"{where}: not a detector: should have one input of shape [pictures, 3, height, width], "
                f"and has {info.shapes()}"
            )
        names = _names(card, metadata, where)
        stride = card.stride or _stride(metadata, where)
        frame = _size(card, info, size, stride, where)
        batch, _, *sides = info.inputs[0].shape
        outputs = _look(path, info, frame, where)
        layout = card.layout or tell_layout(outputs, frame, metadata, len(names) if names else None)
        if layout not in LAYOUTS:
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise InputError(
                f"{where}: not a detector, or one with an unknown layout: it returns {shapes} for a picture "
                f"of {frame[1]} x {frame[0]} pixels; {CARD} beside it may name a layout: {', '.join(LAYOUTS)}"
            )
        n_classes = count_classes(layout, outputs)
        if names is None:
            count = f" of its {n_classes} classes" if n_classes else ""
            raise InputError(
                f"{where}: the names{count} are not known; write {CARD} beside it, such as "
                '{"names": ["animal", "person", "vehicle"]}'
            )
        spare = 1 if layout == "rf-detr" else 0  # its last logit may stand for "nothing"
        if n_classes is not None and not len(names) <= n_classes <= len(names) + spare:
            raise InputError(
                f"{where}: has {n_classes} classes, and {len(names)} names: {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}"
            )
        return cls(
            path=str(path),
            sha256=hash_file(path),
            categories=tuple(names),
            layout=layout,
            fit=_fit(card, layout, frame, stride if None in sides else 0),
            iou=card.iou or IOU.get(layout, 1.0),
            tiles=tiles,
            dtype=info.inputs[0].dtype,
            batch=batch,
            description=" ".join(metadata.get("description", "").split())[:_LONGEST],
            runtime=choose_runtime("cpu")[0],
        )

    def requires(self, device: Device, precision: Precision) -> RequiredRuntime:
        """What a worker needs in order to compute it in this precision."""
        return RequiredRuntime(
            device, precision, self.runtime if device == "cpu" else None, "detect.precision"
        )

    def load(
        self, folder: Path, device: Device, threads: int, batch: int, precision: Precision
    ) -> OnnxFinder:
        return self.finder(folder / MODEL, device, threads, batch, precision)

    def finder(
        self,
        path: str | Path,
        device: Device = "cpu",
        threads: int | None = None,
        batch: int = 1,
        precision: Precision | Literal["auto"] = "float32",
        runtime: str | None = None,
    ) -> OnnxFinder:
        """Ready to find, as on a worker; the other parameters are those of `open_network`.

        Parameters
        ----------
        path : path of the file, or of a copy
        batch : pictures computed at once on a GPU
        """
        normalising = Normalising(self.fit.mean, self.fit.std) if self.fit.is_of_pixels else None
        network = open_network(path, device, threads, precision, runtime, normalising)
        return OnnxFinder(self, network, batch)


def read_card(path: Path) -> Card:
    """A `detector.json`; an empty one if there is no such file.

    Raises InputError if it is not JSON, or a key in it is wrong.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Card()
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read as JSON: {problem}") from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: should be an object, such as {{"names": ["animal"]}}')
    return parse(Card, content, str(path), {}, InputError)


def _names(card: Card, metadata: Mapping[str, str], where: str) -> list[str] | None:
    """Names of the categories, in the order of the outputs; None if they are given nowhere."""
    found: Any = card.names
    if found is None:
        found = _said(metadata, "names", where)
    if found is None:
        return None
    if isinstance(found, Mapping):
        numbers = {str(number): name for number, name in found.items()}
        if set(numbers) != {str(number) for number in range(len(numbers))}:
            raise InputError(f"{where}: names: should have the numbers 0 to {len(numbers) - 1}")
        found = [numbers[str(number)] for number in range(len(numbers))]
    if not isinstance(found, list | tuple) or not found:
        raise InputError(f"{where}: names: should be a list, or a name for each number")
    return [str(name).strip() for name in found]


def _stride(metadata: Mapping[str, str], where: str) -> int:
    """What the sides of pictures must be multiples of: the largest, if each grid has its own."""
    said = _said(metadata, "stride", where)
    strides = said if isinstance(said, list | tuple) else [_STRIDE if said is None else said]
    if not strides or not all(isinstance(one, int | float) and 1 <= one <= _LARGEST for one in strides):
        raise InputError(f"{where}: metadata stride: should be a number of pixels, it is {said!r}")
    return int(max(strides))


def _said(metadata: Mapping[str, str], key: str, where: str) -> Any:
    """A value that an exporter wrote with str(); None if it wrote none."""
    if (text := metadata.get(key)) is None:
        return None
    try:
        return ast.literal_eval(text)  # literals only
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise InputError(f"{where}: metadata {key}: can't be read: {text[:80]!r}") from None


def _size(card: Card, info: OnnxInfo, wanted: int | None, stride: int, where: str) -> tuple[int, int]:
    """Height and width of the frames for the network."""
    fixed = info.inputs[0].shape[2:]
    said: Any = wanted or card.size
    if said is None and None not in fixed:
        said = list(fixed)
    if said is None:
        said = _said(info.metadata, "imgsz", where)
    if said is None:
        raise InputError(
            f"{where}: does not say the size of its pictures: set detect.size, or size in {CARD} beside "
            "it (MegaDetector v5: 1280)"
        )
    sides = list(said) if isinstance(said, list | tuple) else [said, said]
    if len(sides) != 2 or not all(isinstance(side, int) and 32 <= side <= _LARGEST for side in sides):
        raise InputError(f"{where}: size {said!r}: should be 32 to {_LARGEST} pixels")
    if any(there not in (None, side) for there, side in zip(fixed, sides, strict=True)):
        raise InputError(
            f"{where}: size {said!r}: takes only pictures of {fixed[1]} x {fixed[0]}; export it with free "
            "sizes, or leave the size out"
        )
    return tuple(
        side if there is not None else -(-side // stride) * stride
        for side, there in zip(sides, fixed, strict=True)
    )


def _fit(card: Card, layout: Layout, frame: tuple[int, int], stride: int) -> Fit:
    """How the layout's own software prepares pictures, except for what the card says."""
    with_logits = layout == "rf-detr"
    stretched = layout in ("rtdetr", "rtdetr-top", "rf-detr")
    resize = card.resize or ("stretch" if stretched else "letterbox")
    mean, std = _IMAGENET if with_logits else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Fit(
        frame,
        "stretch" if resize == "stretch" else "letterbox",
        stride if resize == "letterbox" else 0,
        smooth=bool(card.smooth),
        in_floats=with_logits,
        mean=tuple(card.mean) if card.mean else mean,  # type: ignore[arg-type]
        std=tuple(card.std) if card.std else std,  # type: ignore[arg-type]
    )


def _look(path: str, info: OnnxInfo, frame: tuple[int, int], where: str) -> list[Array]:
    """The network's outputs for a grey picture."""
    network = open_network(path, "cpu", 1, "float32")
    batch = info.inputs[0].shape[0] or 1
    try:
        outputs = network.run(np.full((batch, 3, *frame), GREY / 255, _DTYPES[info.inputs[0].dtype]))
    except CamtrapError:
        raise
    except Exception as problem:  # a runtime may raise anything for a network that does not take a picture
        short = " ".join(str(problem).split())[:200]
        raise InputError(
            f"{where}: not a detector: fails on a picture of {frame[1]} x {frame[0]}: {short}"
        ) from None
    return [output[:1] if output.ndim and len(output) == batch else output for output in outputs]


class _View(NamedTuple):
    """A picture, or a tile of it, in its frame, as the network takes it, and where it is."""

    pixels: Array
    placement: Placement
    height: int  # of the picture, or tile, before fitting
    width: int
    window: tuple[float, float, float, float]  # left, top, width, height as fractions of the whole picture


@dataclass
class OnnxFinder:
    """A detector's network on a worker; pictures are decoded on threads alongside."""

    detector: OnnxDetector
    network: Network
    batch: int
    least: float = LEAST
    _most: int = field(init=False)
    _takes_pixels: bool = field(init=False)

    def __post_init__(self) -> None:
        self._takes_pixels = self.network.info.inputs[0].dtype == "uint8"
        # On a CPU a picture alone is as fast as many, and its boxes do not depend on those beside it.
        self._most = self.detector.batch or (self.batch if self.network.device == "cuda" else 1)

    def find(self, pictures: Iterable[bytes], tally: Tally | None = None) -> Iterator[Found | str]:
        tally = tally or Tally()
        threads = self.network.threads
        waiting: deque[int | str] = deque()  # views of each picture, or why there are none
        found: deque[tuple[_View, Raw]] = deque()
        move = phases.progress()
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders,
            ThreadPoolExecutor(threads, thread_name_prefix="network") as networks,
        ):
            prepared = in_order(decoders, self._prepare, pictures, max(2 * threads, self._most))
            batches = _timed(self._batches(prepared, waiting), tally)
            for views, raws in in_order(networks, self._compute, batches, threads):
                found.extend(zip([view._replace(pixels=_NOTHING) for view in views], raws, strict=True))
                move()
                yield from self._ready(waiting, found)
            yield from self._ready(waiting, found)

    def _prepare(self, data: bytes) -> list[_View] | str:
        try:
            pixels = decode_whole(data)
        except (ValueError, OSError) as problem:
            return str(problem)
        return [self._view(pixels, window) for window in self._windows(pixels)]

    def _windows(self, pixels: Pixels) -> list[tuple[float, float, float, float]]:
        """The whole picture, and tiles if it is larger than the frame."""
        whole = (0.0, 0.0, 1.0, 1.0)
        height, width = pixels.shape[:2]
        if self.detector.tiles == 1 or (
            height <= self.detector.fit.size[0] and width <= self.detector.fit.size[1]
        ):
            return [whole]
        side = 0.5 + _OVERLAP / 2
        return [whole, *((left, top, side, side) for top in (0.0, 1 - side) for left in (0.0, 1 - side))]

    def _view(self, pixels: Pixels, window: tuple[float, float, float, float]) -> _View:
        height, width = pixels.shape[:2]
        left, top = round(window[0] * width), round(window[1] * height)
        right, bottom = round((window[0] + window[2]) * width), round((window[1] + window[3]) * height)
        part = pixels[top:bottom, left:right]
        placement = self.detector.fit.place(*part.shape[:2])
        frame: Array
        if self._takes_pixels:
            frame = np.empty((*placement.frame, 3), np.uint8)
            put_pixels(part, placement, frame)
        else:
            frame = np.empty((3, *placement.frame), np.float32)
            put(part, self.detector.fit, placement, frame)
        exact = (left / width, top / height, (right - left) / width, (bottom - top) / height)
        return _View(frame, placement, part.shape[0], part.shape[1], exact)

    def _batches(
        self, prepared: Iterable[list[_View] | str], waiting: deque[int | str]
    ) -> Iterator[list[_View]]:
        """Consecutive views of one shape, as many as the network is given at once."""
        batch: list[_View] = []
        for views in prepared:
            waiting.append(views if isinstance(views, str) else len(views))
            for view in views if isinstance(views, list) else ():
                if batch and (len(batch) >= self._most or batch[0].placement.frame != view.placement.frame):
                    yield batch
                    batch = []
                batch.append(view)
        if batch:
            yield batch

    def _compute(self, views: list[_View]) -> tuple[list[_View], list[Raw]]:
        n = len(views)
        pixels = views[0].pixels[None] if n == 1 else np.stack([view.pixels for view in views])
        pixels = pixels if self._takes_pixels else pixels.astype(_DTYPES[self.detector.dtype], copy=False)
        if self.detector.batch and n < self.detector.batch:
            rest = np.zeros((self.detector.batch - n, *pixels.shape[1:]), pixels.dtype)
            pixels = np.concatenate([pixels, rest])
        try:
            outputs = self.network.run(pixels)
        except MemoryError:
            if n == 1 or self.detector.batch:
                raise
            if n <= self._most:  # one that was put together before may be larger
                self._most = max(1, n // 2)
            halves = [self._compute(half) for half in (views[: n // 2], views[n // 2 :])]
            return views, [raw for _, raws in halves for raw in raws]
        detector = self.detector
        raws = read_boxes(
            detector.layout,
            outputs,
            views[0].placement.frame,
            n_categories=len(detector.categories),
            least=self.least,
            iou=detector.iou,
        )
        return views, raws[:n]

    def _ready(self, waiting: deque[int | str], found: deque[tuple[_View, Raw]]) -> Iterator[Found | str]:
        while waiting:
            number = waiting[0]
            if isinstance(number, str):
                yield number
            elif len(found) >= number:
                yield self._join([found.popleft() for _ in range(number)])
            else:
                return
            waiting.popleft()

    def _join(self, views: list[tuple[_View, Raw]]) -> Found:
        """The boxes of a picture, combined from those of its views."""
        parts = [self._in_parts(view, raw) for view, raw in views]
        if len(parts) == 1:
            corners, confidence, category = parts[0].corners, parts[0].confidence, parts[0].category
        else:
            together = Raw(*(np.concatenate(some) for some in zip(*map(_fields, parts), strict=True)))
            joined = suppress(together, _SAME_IN_TILES)
            corners, confidence, category = joined.corners, joined.confidence, joined.category
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return Found(boxes.astype(np.float32), confidence, category)

    def _in_parts(self, view: _View, raw: Raw) -> Raw:
        """Corners as fractions of the whole picture, without empty boxes, or those cut by a tile's inner
        edge."""
        placement, corners = view.placement, raw.corners.astype(np.float64)
        if self.detector.layout == "yolov5":  # like its own software, half a pixel off if the border is odd
            rows, columns = placement.frame
            scale = min(rows / view.height, columns / view.width)
            left, top = (columns - view.width * scale) / 2, (rows - view.height * scale) / 2
            corners = (corners - [left, top] * 2) / ([view.width * scale, view.height * scale] * 2)
        else:
            corners = corners - [placement.left, placement.top] * 2
            corners /= [placement.width, placement.height] * 2
        corners = np.clip(corners, 0, 1)
        x, y, w, h = view.window
        keep = np.asarray((corners[:, 2:] > corners[:, :2]).all(axis=1))
        if w < 1:
            inner = [x > 0, y > 0, x + w < 1 - 1e-6, y + h < 1 - 1e-6]
            cut = np.concatenate([corners[:, :2] < _AT_EDGE, corners[:, 2:] > 1 - _AT_EDGE], axis=1)
            keep[(cut & inner).any(axis=1)] = False
        corners = corners * [w, h, w, h] + [x, y, x, y]
        return Raw(corners[keep].astype(np.float32), raw.confidence[keep], raw.category[keep])


_NOTHING: Array = np.empty((3, 0, 0), np.float32)


def _fields(raw: Raw) -> tuple[Array, Array, Array]:
    return raw.corners, raw.confidence, raw.category


def _timed(batches: Iterator[list[_View]], tally: Tally) -> Iterator[list[_View]]:
    """The batches; adds the time to make them, and the time in between, to the tally."""
    asked = time.perf_counter()
    for batch in batches:
        got = time.perf_counter()
        tally.read_s += got - asked
        yield batch
        asked = time.perf_counter()
        tally.forward_s += asked - got
