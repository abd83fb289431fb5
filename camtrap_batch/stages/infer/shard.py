"""What a worker does with a shard of images: classify each, and write what the model says about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch import phases
from camtrap_batch.detection.boxes import COLUMN as COLUMN_OF_BOXES
from camtrap_batch.detection.boxes import Look, Rules
from camtrap_batch.engine.base import WorkerContext
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.pictures import read_pictures
from camtrap_batch.model.info import read_info
from camtrap_batch.model.library import fetch_model
from camtrap_batch.model.required import RequiredToClassify, todays_steps
from camtrap_batch.pipeline.rows import unpack
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import PREDICTIONS
from camtrap_batch.store.shards import Receipt, Shard
from camtrap_batch.store.tables import finish_shard

if TYPE_CHECKING:  # torch is loaded only on workers
    from camtrap_batch.detection.crops import Box, Picture
    from camtrap_batch.model.predictor import Predictor, Probabilities

_TOP = 5
_MOST_LABELS = 50


@dataclass
class Said:
    """What a model says about a shard's images.

    Attributes
    ----------
    answers : row -> what it says; rows that can't be read have none
    sources : for each row, what was classified: see the column `source` of predictions
    without : status of the rows that should have an answer but have none
    """

    answers: dict[int, Probabilities]
    sources: np.ndarray[Any, Any]
    classes: Sequence[str]
    without: str = "unreadable"


@dataclass(frozen=True)
class InferShard:
    """Classifies the images of a shard, on a worker.

    Attributes
    ----------
    runtime : torch or openvino
    steps : precision to compute in, and margin between the two most probable classes, under which an image is
        computed again as the next step says
    networks : files beside the model that the runtime computes, and their SHA-256
    rules : of boxes, where the shard's rows have some
    of_onnx : the runtime by which torch's path computes the model, if that is an ONNX file
    """

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    model: Folder
    model_id: str
    batch: int
    thumbnail: int
    use_thumbnails: bool
    timeout_s: float
    manifest: int
    rules: Rules | None
    device: Literal["cpu", "cuda"] = "cpu"
    steps: tuple[tuple[str, float], ...] = (("float32", 0.0),)
    runtime: str = "torch"
    networks: tuple[tuple[str, str], ...] = ()
    of_onnx: str | None = None
    divisible: ClassVar[bool] = True

    @property
    def tables(self) -> tuple[str, ...]:
        return ("predictions", "crops") if self.rules else ("predictions",)

    @property
    def image_root(self) -> ImageRoot | None:
        # Boxes that are small in a thumbnail are cut from the original.
        return None if self.use_thumbnails and not self.rules else self.root

    @property
    def requirement(self) -> RequiredToClassify:
        precisions = tuple(name for name, _ in todays_steps(self.runtime, self.steps))
        return RequiredToClassify(self.runtime, self.device, precisions, self.of_onnx)

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        from camtrap_batch.model.predictor import Tally

        rows = unpack(payload)
        predictor = self._predictor(here.threads)
        loaded_s = time.monotonic() - started
        phases.enter("read and forward")  # at the same time
        order: list[int] = []
        sources = np.full(rows.num_rows, None, object)
        gone: list[str] = []
        move = phases.progress()

        def pictures() -> Iterator[Picture]:  # taken on another thread
            for index, picture, source in self.pictures(rows, gone):
                move()
                order.append(index)
                sources[index] = source
                yield picture

        tally = Tally()
        found = predictor.classify(pictures(), tally)
        answers = {
            index: answer for index, answer in zip(order, found, strict=True) if not isinstance(answer, str)
        }
        here.look_again(gone)
        for index in set(order) - set(answers):
            sources[index] = None
        seconds = {"load": loaded_s, "read": tally.read_s, "forward": tally.forward_s}
        said = Said(answers, sources, predictor.info.classes)
        return self._finish(shard, rows, said, started, worker=here.name, seconds=seconds, again=tally.again)

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        sources = np.full(rows.num_rows, None, object)
        classes = read_info(fetch_model(self.model)).classes
        return self._finish(shard, rows, Said({}, sources, classes, "crashed"), time.monotonic())

    def pictures(self, rows: pa.Table, gone: list[str]) -> Iterator[tuple[int, Picture, str]]:
        """Index, picture, and source of each row.

        Rows that can't be read are left out; names of their files are added to `gone`.
        """
        from camtrap_batch.detection.crops import Picture, thumbnail_shows

        use_thumbnails = np.full(rows.num_rows, self.use_thumbnails)
        wanted = np.arange(rows.num_rows)
        boxes_of: dict[int, list[Box]] = {}
        if self.rules is not None:
            look = Look.at(rows[COLUMN_OF_BOXES].combine_chunks(), self.rules)
            boxes_of = look.boxes_by_row()
            wanted = np.union1d(look.whole, np.fromiter(boxes_of, np.int64, len(boxes_of)))
            info = read_info(fetch_model(self.model))
            for index, boxes in boxes_of.items():
                sides = (rows[name][index].as_py() or 0 for name in ("width", "height"))
                shows = thumbnail_shows(boxes, info.size, self.thumbnail, *sides)
                use_thumbnails[index] = info.framing.is_ours and shows
        for at, data, source in read_pictures(
            self.folder,
            self.root,
            rows.take(pa.array(wanted)),
            use_thumbnails=use_thumbnails[wanted],
            timeout_s=self.timeout_s,
        ):
            index = int(wanted[at])
            if data is None:
                gone.append(rows["file_name"][index].as_py())
            else:
                yield index, Picture(data, boxes_of.get(index)), "crop" if index in boxes_of else source

    def local_model(self) -> Path:
        """The model on this machine's disk, with the networks that its runtime computes."""
        here = fetch_model(self.model)
        for name, _ in self.networks:
            if not (here / name).exists():  # made after the model was fetched
                (here / name).write_bytes(self.model.read(name))
        return here

    def _predictor(self, threads: int) -> Predictor:
        from camtrap_batch.model import load_predictor

        steps = todays_steps(self.runtime, self.steps)
        return load_predictor(
            self.local_model(), self.device, threads, self.batch, steps, self.runtime, dict(self.networks)
        )

    def _finish(
        self,
        shard: Shard,
        rows: pa.Table,
        said: Said,
        started: float,
        *,
        worker: str = "driver",
        seconds: dict[str, float] | None = None,
        again: Mapping[str, int] | None = None,
    ) -> Receipt:
        tables = self._tables(rows, said)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            tables,
            counts=dict(Counter(tables["predictions"]["status"].to_pylist())),
            seconds=seconds or {},
            started=started,
            worker=worker,
            result={"again": dict(again or {}), "labels": _labels(tables["predictions"])},
        )

    def _tables(self, rows: pa.Table, said: Said) -> dict[str, pa.Table]:
        probabilities = np.full((rows.num_rows, len(said.classes)), np.nan, np.float32)
        column = rows[COLUMN_OF_BOXES].combine_chunks() if self.rules is not None else None
        in_boxes = {}
        for index, answer in said.answers.items():
            if column is not None and column[index].is_valid:
                in_boxes[index] = answer
            else:
                probabilities[index] = answer[0]
        if column is None or self.rules is None:
            predictions = self._predictions(rows, probabilities, {}, said)
            return {"predictions": predictions.append_column("n_boxes", pa.nulls(rows.num_rows, pa.int32()))}
        look = Look.at(column, self.rules)
        named, n_animals = look.frames(probabilities, in_boxes, said.classes)
        said.sources[column.is_valid().to_numpy(zero_copy_only=False)] = "crop"
        n_boxes = pc.if_else(column.is_valid(), pa.array(n_animals, pa.int32()), pa.scalar(None, pa.int32()))
        predictions = self._predictions(rows, probabilities, named, said)
        return {
            "predictions": predictions.append_column("n_boxes", n_boxes),
            "crops": look.table(rows["image_id"], in_boxes, said.classes, _TOP),
        }

    def _predictions(
        self,
        rows: pa.Table,
        probabilities: np.ndarray[Any, Any],
        named: Mapping[int, tuple[str, float]],
        said: Said,
    ) -> pa.Table:
        return prediction_rows(
            rows,
            probabilities,
            named,
            said.classes,
            said.sources,
            self.model_id,
            self.manifest,
            said.without,
        )


def prediction_rows(
    rows: pa.Table,
    probabilities: np.ndarray[Any, Any],
    named: Mapping[int, tuple[str, float]],
    classes: Sequence[str],
    sources: np.ndarray[Any, Any],
    model_id: str,
    manifest: int,
    without: str,
) -> pa.Table:
    """Rows of the table predictions, without `n_boxes`.

    Parameters
    ----------
    probabilities : (n, classes) calibrated; NaN if the image has no label, or one that is not a class
    named : row -> label that is not a class, and its confidence
    without : status of rows that have no label
    """
    n = rows.num_rows
    is_class = ~np.isnan(probabilities[:, 0])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    top = np.take_along_axis(probabilities, order, axis=1)
    names = np.asarray(classes, object)[order]
    kept = np.repeat(is_class[:, None], order.shape[1], axis=1)
    for row, (label, confidence) in named.items():
        names[row, 0], top[row, 0], kept[row, 0] = label, confidence, True
    is_known = kept[:, 0]
    struct = pa.StructArray.from_arrays(
        [pa.array(names[kept], pa.string()), pa.array(top[kept], pa.float32())],
        fields=list(PREDICTIONS.field("top5").type.value_type),
    )
    missing = pa.array(~is_known)
    return pa.table(
        {
            "image_id": rows["image_id"],
            "model_id": pa.array([model_id] * n, pa.string()),
            "label": pa.array(names[:, 0], pa.string(), mask=~is_known),
            "confidence": pa.array(top[:, 0], pa.float32(), mask=~is_known),
            "top5": pc.if_else(missing, None, _lists(struct, kept.sum(axis=1))),
            "source": pa.array(sources, pa.string(), mask=~is_known),
            "manifest_snapshot": pa.array(np.full(n, manifest), pa.int32()),
            "probs": pc.if_else(
                pa.array(~is_class),
                None,
                _lists(pa.array(probabilities.astype(np.float16).ravel()), [probabilities.shape[1]] * n),
            ),
            "status": pa.array(np.where(is_known, "ok", without), pa.string()),
        }
    )


def _lists(values: pa.Array, lengths: Sequence[int] | np.ndarray[Any, Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), values)


def _labels(predictions: pa.Table) -> dict[str, int]:
    """Number of images for the most frequent labels, for the progress display."""
    labels = predictions["label"].drop_null().to_pylist()
    return dict(Counter(labels).most_common(_MOST_LABELS))
