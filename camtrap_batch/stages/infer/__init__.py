"""infer: species for every usable image, fanned out over camera locations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch import phases
from camtrap_batch.detection.boxes import COLUMN as COLUMN_OF_BOXES
from camtrap_batch.detection.boxes import Boxes, Look, Rules, find_boxes
from camtrap_batch.engine.base import Need, WorkerContext, choose_workers
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.model.info import OBSERVED, ModelInfo, read_info
from camtrap_batch.model.library import fetch_model, keep_model, open_model
from camtrap_batch.pipeline.context import Context, StageResult, do_on_workers
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.pipeline.rows import hash_runs, pack, texts, unpack
from camtrap_batch.selection.classes import empty_class
from camtrap_batch.stages.infer.precision import check_precision, known_precision
from camtrap_batch.store import schemas
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.manifest import categories_of, usable_rows
from camtrap_batch.store.schemas import PREDICTIONS
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut, digest
from camtrap_batch.store.tables import finish_shard

if TYPE_CHECKING:  # torch is loaded on workers alone
    from camtrap_batch.detection.crops import Box, Picture
    from camtrap_batch.model.predictor import Predictor, Probabilities

VERSION = 3
_TOP = 5
_DEVICE: dict[Need, Literal["cpu", "cuda"]] = {"CPU": "cpu", "GPU": "cuda"}


def run(context: Context) -> StageResult:
    """Classify the usable images of the manifest into the table `predictions`.

    Where the job names a detector's results, it is the animals in them that are classified, and every box is
    kept in the table `detections`.

    Raises
    ------
    InputError
        There is no manifest yet; the model that the job names is not there, or not whole; the results of the
        detector are of other images.
    """
    job, store = context.job, context.run
    settings = job.infer
    manifest = store.snapshot("manifest")
    model, info = open_model(store, settings.model)
    rows = usable_rows(store, [*COLUMNS, "sha256", "status", "location", "seq_id", "width", "height"])
    boxes = find_boxes(settings, rows, empty_class(job, info))
    if boxes is not None:
        rows = rows.append_column(COLUMN_OF_BOXES, boxes.column)
    notes = [*fit_notes(context, info, rows), *(boxes.notes if boxes else [])]
    if not context.dry_run:
        model = keep_model(store, model, info.model_id)
    work = InferShard(
        folder=store.folder,
        plan=("infer", ""),
        root=image_root(job),
        model=model,
        model_id=info.model_id,
        batch=settings.batch,
        thumbnail=job.validate_.thumbnails,
        use_thumbnails=info.framing.takes_thumbnails(job.validate_.thumbnails),
        timeout_s=job.validate_.timeout_s,
        manifest=manifest.number,
        rules=boxes.rules if boxes else None,
    )
    is_exact = settings.precision == "float32" or not rows.num_rows
    found: dict[str, Any] | None = {"precision": "float32"} if is_exact else known_precision(store, work)
    need: Need | None = None
    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(_cut_rows, rows, boxes, settings.shard_size)
        if found is None and not context.dry_run:
            need = choose_workers(context.executor(), settings.device, has_cuda, "infer.device")
            found = check_precision(context, replace(work, device=_DEVICE[need]), rows, need)
    if found is None:
        notes.append("the model's fastest precision would be looked for")
        found = {"precision": "auto"}
    steps = found.get("steps", [[found["precision"], 0.0]])
    work = replace(work, steps=tuple((precision, margin) for precision, margin in steps))
    plan = _plan(work, cutting.result())
    before = store.current("predictions")
    if need is None and not context.dry_run and (before is None or before.plan_id != plan.id):
        need = choose_workers(context.executor(), settings.device, has_cuda, "infer.device")
    need = need or "CPU"
    work = replace(work, plan=(plan.stage, plan.id), device=_DEVICE[need])
    meta = {
        "classes": list(info.classes),
        "precision": found,
        "detections": boxes.meta if boxes else None,
    }
    result = do_on_workers(
        context,
        plan,
        work,
        lambda shard: pack(rows.slice(shard.start, shard.rows).select(_wanted(rows))),
        work.tables,
        need=need,
        inputs=plan.inputs,
        meta=lambda receipts: {**meta, "again": _add_up(receipts)},
        locations=rows["location"],
    )
    result.notes += notes
    return result


def _cut_rows(rows: pa.Table, boxes: Boxes | None, shard_size: int) -> list[tuple[tuple[int, int], str, str]]:
    """Runs of rows, start and stop, along camera locations, each with hashes of its images and boxes."""
    runs = cut(texts(rows["image_id"]), shard_size, location_borders(rows).tolist())
    hashes = hash_runs(rows, ["image_id", "sha256"], runs)
    of_boxes = boxes.hashes(runs) if boxes else [""] * len(runs)
    return list(zip(runs, hashes, of_boxes, strict=True))


def _plan(work: InferShard, runs: list[tuple[tuple[int, int], str, str]]) -> Plan:
    """A shard for each run; its id stands for everything that its predictions depend on."""
    settings = [VERSION, schemas.fingerprint("predictions"), work.model_id, work.use_thumbnails, work.steps]
    shards = (Shard(digest(["infer", settings, hash_, more]), *run) for run, hash_, more in runs)
    return Plan.make("infer", shards, {"manifest": work.manifest, "model": work.model_id})


def _add_up(receipts: list[Receipt]) -> dict[str, int]:
    """Precision -> images computed again in it."""
    again: Counter[str] = Counter()
    for receipt in receipts:
        again.update(receipt.result.get("again", {}))
    return dict(again)


def _wanted(rows: pa.Table) -> list[str]:
    """Columns that a worker reads."""
    return [name for name in (*COLUMNS, "width", "height", COLUMN_OF_BOXES) if name in rows.column_names]


def fit_notes(context: Context, info: ModelInfo, rows: pa.Table) -> list[str]:
    """Where the model and the manifest do not fit together, a line each."""
    job, store = context.job, context.run
    notes = []
    kept = job.validate_.thumbnails
    if kept and not info.framing.is_ours:
        notes.append(
            "the original files are read: thumbnails do not hold what the model was evaluated on "
            f"({info.resize} to {info.framing.side} pixels, {info.interpolation})"
        )
    elif 0 < kept < info.size:
        notes.append(
            f"the model sees {info.size} pixels, thumbnails have {kept}: the original files are read; "
            f"validate.thumbnails: {info.size} would be faster"
        )
    catalog = store.current("catalog")
    categories = categories_of(catalog.meta) if catalog else []
    known = {name.casefold() for _, name in categories}
    foreign = [label for label in info.classes if label.casefold() not in known]
    if known and foreign:
        some = ", ".join(map(repr, foreign[:3])) + (", ..." if len(foreign) > 3 else "")
        notes.append(
            f"{len(foreign)} of the model's {len(info.classes)} classes are no category of the data set: "
            f"{some}"
        )
    if empty_class(job, info) not in info.classes:
        notes.append(
            f"the model has no class for select.empty.class ({job.select.empty.class_!r}): it calls no image "
            "empty"
        )
    return notes


def location_borders(rows: pa.Table) -> np.ndarray[Any, Any]:
    """Rank of a cut before each row: best between locations, else between sequences, else anywhere.

    So small locations share a shard, large ones are divided, and sequences stay whole where they can.
    """
    location, sequence = (
        rows[name].fill_null("").to_numpy(zero_copy_only=False) for name in ("location", "seq_id")
    )
    rank = np.full(rows.num_rows, 2)
    rank[1:][(sequence[1:] != sequence[:-1]) | (sequence[1:] == "")] = 1
    rank[1:][location[1:] != location[:-1]] = 0
    return rank


def has_cuda() -> bool:
    """Whether the worker that this runs on has a CUDA device. Raises ImportError where it has no torch."""
    import torch

    return bool(torch.cuda.is_available())


@dataclass(frozen=True)
class InferShard:
    """Classifies the images of a shard, on a worker.

    Attributes
    ----------
    steps : precision to compute in, where the worker's hardware can (see `model.precision`), and margin
        between the two most probable classes, under which an image is computed again as the next step says
    rules : of boxes, where the shard's rows have some
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
    divisible: ClassVar[bool] = True

    @property
    def tables(self) -> tuple[str, ...]:
        return ("predictions", "detections") if self.rules else ("predictions",)

    @property
    def image_root(self) -> ImageRoot | None:
        # Boxes that are small in a thumbnail are cut out of the original.
        return None if self.use_thumbnails and not self.rules else self.root

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        from camtrap_batch.model.predictor import Tally

        rows = unpack(payload)
        predictor = self._predictor(here.threads)
        loaded_s = time.monotonic() - started
        phases.enter("read and forward")  # at the same time
        order: list[int] = []
        sources = np.full(rows.num_rows, None, object)
        move = phases.progress()
        gone: list[str] = []

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
        return self._finish(
            shard,
            rows,
            answers,
            sources,
            predictor.info.classes,
            seconds,
            started,
            here.name,
            again=tally.again,
        )

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        sources = np.full(rows.num_rows, None, object)
        classes = read_info(fetch_model(self.model)).classes
        return self._finish(shard, rows, {}, sources, classes, {}, time.monotonic(), "driver", "crashed")

    def pictures(self, rows: pa.Table, gone: list[str]) -> Iterator[tuple[int, Picture, str]]:
        """Index, what is looked at, and source of each row.

        Those that can't be read are left out; names of their files are added to `gone`.
        """
        from camtrap_batch.detection.crops import Picture

        use_thumbnails = np.full(rows.num_rows, self.use_thumbnails)
        wanted = np.arange(rows.num_rows)
        places: dict[int, list[Box]] = {}
        if self.rules is not None:
            look = Look.at(rows[COLUMN_OF_BOXES].combine_chunks(), self.rules)
            places = look.places()
            wanted = np.union1d(look.whole, np.fromiter(places, np.int64, len(places)))
            info = read_info(fetch_model(self.model))
            for index, boxes in places.items():
                shows = self._shows(rows, index, boxes, info.size)
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
                yield index, Picture(data, places.get(index)), "crop" if index in places else source

    def local_model(self) -> Path:
        """The model on this machine's disk, with what its precision needs."""
        here = fetch_model(self.model)
        if self.steps[0][0] == "int8" and not (here / OBSERVED).exists():
            (here / OBSERVED).write_bytes(self.model.read(OBSERVED))
        return here

    def _predictor(self, threads: int) -> Predictor:
        from camtrap_batch.model import load_predictor
        from camtrap_batch.model.precision import possible

        steps = [(possible(name, self.device), margin) for name, margin in self.steps]
        return load_predictor(self.local_model(), self.device, threads, self.batch, steps)

    def _shows(self, rows: pa.Table, index: int, boxes: list[Box], size: int) -> bool:
        """Whether the thumbnail has as many pixels of each box as the model wants, or the original has."""
        short = min(rows["width"][index].as_py() or 0, rows["height"][index].as_py() or 0)
        if short <= self.thumbnail:
            return True
        return all(max(w, h) * self.thumbnail >= size for _, _, w, h in boxes)

    def _finish(
        self,
        shard: Shard,
        rows: pa.Table,
        answers: dict[int, Probabilities],
        sources: np.ndarray[Any, Any],
        classes: Sequence[str],
        seconds: dict[str, float],
        started: float,
        worker: str,
        without: str = "unreadable",
        again: Mapping[str, int] = MappingProxyType({}),
    ) -> Receipt:
        """Write the tables of a shard; rows without an answer that want one get the status `without`."""
        probabilities = np.full((rows.num_rows, len(classes)), np.nan, np.float32)
        named: dict[int, tuple[str, float]] = {}
        n_boxes = pa.nulls(rows.num_rows, pa.int32())
        tables: dict[str, pa.Table] = {}
        if self.rules is None:
            for index, answer in answers.items():
                probabilities[index] = answer[0]
        else:
            column = rows[COLUMN_OF_BOXES].combine_chunks()
            look = Look.at(column, self.rules)
            in_boxes = {index: answer for index, answer in answers.items() if column[index].is_valid}
            for index in answers.keys() - in_boxes.keys():
                probabilities[index] = answers[index][0]
            named, n_animals = look.frames(probabilities, in_boxes, classes)
            n_boxes = pc.if_else(column.is_valid(), pa.array(n_animals, pa.int32()), n_boxes)
            sources[column.is_valid().to_numpy(zero_copy_only=False)] = "crop"
            tables["detections"] = look.table(rows["image_id"], in_boxes, classes)
        predictions = prediction_rows(
            rows, probabilities, named, classes, sources, self.model_id, self.manifest, without
        )
        predictions = predictions.append_column("n_boxes", n_boxes)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {"predictions": predictions, **tables},
            counts=dict(Counter(predictions["status"].to_pylist())),
            seconds=seconds,
            started=started,
            worker=worker,
            result={"again": dict(again)},
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
    probabilities : (n, classes) calibrated; NaN where the image has no label, or one that is no class
    named : row -> label that is no class, and its confidence
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
