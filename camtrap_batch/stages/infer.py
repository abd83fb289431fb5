"""infer: species for every usable image, fanned out over camera locations."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client, get_worker

from camtrap_batch.errors import InputError, choices
from camtrap_batch.fanout import Need, require_workers
from camtrap_batch.images import ImageRoot, image_root
from camtrap_batch.model.info import (
    CARD,
    HISTORY,
    LR_FIND,
    METRICS,
    WEIGHTS,
    ModelInfo,
    model_id,
    read_info,
)
from camtrap_batch.stages.context import Context, StageResult, do_on_workers, shard_id
from camtrap_batch.stages.pictures import COLUMNS, read_pictures
from camtrap_batch.stages.rows import hash_runs, pack, unpack
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import PREDICTIONS, USABLE
from camtrap_batch.store.shards import Plan, Receipt, Shard, cut
from camtrap_batch.store.tables import finish_shard

VERSION = 1
SHARD_SIZE = 256
_TOP = 5
_MODEL_FILES = (WEIGHTS, METRICS, HISTORY, LR_FIND, CARD)
"""Of a model folder; the last one says that it is complete."""


def run(context: Context) -> StageResult:
    """Classify the usable images of the manifest into the table `predictions`.

    Raises
    ------
    InputError
        There is no manifest yet, or the model that the job names is not there, or not whole.
    """
    job, store = context.job, context.run
    manifest = store.snapshot("manifest")
    model, info = open_model(store, job.infer.model)
    rows = usable_rows(store, [*COLUMNS, "sha256", "status", "location", "seq_id"])
    borders = location_borders(rows).tolist()
    runs = cut(rows["image_id"].to_pylist(), SHARD_SIZE, borders)
    use_thumbnails = job.validate_.thumbnails >= info.size
    ids = [
        shard_id("infer", VERSION, "predictions", info.model_id, use_thumbnails, hash_)
        for hash_ in hash_runs(rows, ["image_id", "sha256"], runs)
    ]
    inputs = {"manifest": manifest.number, "model": info.model_id}
    plan = Plan.make("infer", (Shard(id_, *run) for id_, run in zip(ids, runs, strict=True)), inputs)
    before = store.current("predictions")
    is_done = before is not None and before.plan_id == plan.id
    if not context.dry_run:
        model = keep_model(store, model, info.model_id)
    need: Need = "CPU"
    if not is_done and not context.dry_run:
        need = choose_workers(context.cluster.client(), job.infer.device, context.cluster.wait_s)
    work = InferShard(
        store.folder,
        (plan.stage, plan.id),
        image_root(job),
        model,
        info.model_id,
        "cuda" if need == "GPU" else "cpu",
        job.infer.batch,
        use_thumbnails,
        manifest.number,
    )
    return do_on_workers(
        context,
        plan,
        work,
        lambda shard: pack(rows.slice(shard.start, shard.rows)),
        ("predictions",),
        need=need,
        inputs=inputs,
    )


def usable_rows(run: Run, columns: list[str]) -> pa.Table:
    """The manifest's rows that are classified, in its order; `columns` hold status."""
    rows = run.table("manifest").to_table(columns=columns)
    return rows.filter(pc.is_in(rows["status"].cast(pa.string()), pa.array(USABLE)))


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


def find_model(run: Run, name: str) -> Folder:
    """The folder of the model that the job names: latest, a model id of this run, or a model folder."""
    if name == "latest":
        trained = run.current("model")
        if trained is None:
            raise InputError(
                f"{run.folder.url}: no model is trained yet; run train first, or set infer.model"
            )
        name = trained.meta["model_id"]
    if run.folder.exists(f"models/{name}/{CARD}"):
        return model_folder(run, name)
    elsewhere = Folder(name if "://" in name else os.path.abspath(name))  # noqa: PTH100
    if elsewhere.exists(CARD):
        return elsewhere
    raise InputError(
        f"infer.model: no model {name!r}; {choices(name, ['latest', *run.folder.list('models')])}"
    )


def open_model(run: Run, name: str) -> tuple[Folder, ModelInfo]:
    """The model that the job names, found whole, and what it says of itself."""
    model = find_model(run, name)
    info = read_info(fetch_model(model))
    try:
        weights = model.read(WEIGHTS)
    except FileNotFoundError:
        raise InputError(f"{model.url}/{WEIGHTS}: no such file; a model folder holds it and {CARD}") from None
    if model_id(hashlib.sha256(weights).hexdigest(), info) != info.model_id:
        raise InputError(
            f"{model.url}: {WEIGHTS} or {CARD} was changed since the model was saved; copy the folder again"
        )
    return model, info


def keep_model(run: Run, model: Folder, model_id: str) -> Folder:
    """The model in the run folder; one from elsewhere is copied, so that the run stays complete."""
    kept = model_folder(run, model_id)
    if not kept.exists(CARD):
        for name in _MODEL_FILES:
            if model.exists(name):
                kept.write(name, model.read(name))
    return kept


def model_folder(run: Run, model_id: str) -> Folder:
    """Where a run keeps a model."""
    return Folder(f"{run.folder.url}/models/{model_id}")


@cache
def fetch_model(model: Folder) -> Path:
    """The model folder on this machine's disk; copied once a process where it is in a bucket."""
    if model.is_local:
        return model.local("")
    here = Path(mkdtemp(prefix="camtrap-model-")) / model.url.rpartition("/")[2]
    here.mkdir()
    for name in model.list(""):
        (here / name).write_bytes(model.read(name))
    return here


def choose_workers(client: Client, device: Literal["auto", "cpu", "cuda"], wait_s: float) -> Need:
    """GPU where the job wants it, or leaves it open and a GPU worker has a CUDA device; else CPU."""
    if device == "cpu":
        return "CPU"
    if device == "cuda":
        require_workers(client, "GPU", wait_s)
        return "GPU"
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not any(worker["resources"].get("GPU") for worker in workers):
        return "CPU"
    return "GPU" if client.submit(_has_cuda, pure=False, resources={"GPU": 1}).result() else "CPU"


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


@dataclass(frozen=True)
class InferShard:
    """Classifies the images of a shard, on a worker."""

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    model: Folder
    model_id: str
    device: Literal["cpu", "cuda"]
    batch: int
    use_thumbnails: bool
    manifest: int
    divisible: ClassVar[bool] = True

    def run(self, shard: Shard, payload: bytes, worker: str) -> Receipt:
        from camtrap_batch.model import load_predictor

        started = time.monotonic()
        rows = unpack(payload)
        threads = get_worker().state.nthreads
        predictor = load_predictor(fetch_model(self.model), self.device, threads=threads, batch=self.batch)
        indices, jpegs, sources = [], [], np.full(rows.num_rows, None, object)
        for index, data, source in read_pictures(
            self.folder, self.root, rows, use_thumbnails=self.use_thumbnails
        ):
            if data is not None:
                indices.append(index)
                jpegs.append(data)
                sources[index] = source
        read = time.monotonic() - started
        classes = list(predictor.info.classes)
        probabilities = np.full((rows.num_rows, len(classes)), np.nan, np.float32)
        probabilities[indices] = predictor.predict(jpegs)
        seconds = {"read": read, "forward": time.monotonic() - started - read}
        table = prediction_rows(
            rows, probabilities, classes, sources, self.model_id, self.manifest, "unreadable"
        )
        return self._finish(shard, table, seconds, started, worker)

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        nothing = np.full((rows.num_rows, 1), np.nan, np.float32)
        sources = np.full(rows.num_rows, None, object)
        table = prediction_rows(rows, nothing, [""], sources, self.model_id, self.manifest, "crashed")
        return self._finish(shard, table, {}, time.monotonic(), "driver")

    def _finish(
        self, shard: Shard, table: pa.Table, seconds: dict[str, float], started: float, worker: str
    ) -> Receipt:
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {"predictions": table},
            counts=dict(Counter(table["status"].to_pylist())),
            seconds=seconds,
            started=started,
            worker=worker,
        )


def prediction_rows(
    rows: pa.Table,
    probabilities: np.ndarray[Any, Any],
    classes: list[str],
    sources: np.ndarray[Any, Any],
    model_id: str,
    manifest: int,
    without: str,
) -> pa.Table:
    """Rows of the table predictions.

    Parameters
    ----------
    probabilities : (n, classes) calibrated; a row of NaN where the image could not be classified
    without : status of such rows
    """
    n = rows.num_rows
    is_known = ~np.isnan(probabilities[:, 0])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    top = np.take_along_axis(probabilities, order, axis=1)
    names = np.asarray(classes, object)[order]
    struct = pa.StructArray.from_arrays(
        [pa.array(names.ravel(), pa.string()), pa.array(top.ravel(), pa.float32())],
        fields=list(PREDICTIONS.field("top5").type.value_type),
    )
    offsets = pa.array(np.arange(n + 1) * order.shape[1], pa.int32())
    missing = pa.array(~is_known)
    return pa.table(
        {
            "image_id": rows["image_id"],
            "model_id": pa.array([model_id] * n),
            "label": pa.array(names[:, 0], pa.string(), mask=~is_known),
            "confidence": pa.array(top[:, 0], pa.float32(), mask=~is_known),
            "top5": pc.if_else(missing, None, pa.ListArray.from_arrays(offsets, struct)),
            "source": pa.array(sources, pa.string()),
            "manifest_snapshot": pa.array(np.full(n, manifest), pa.int32()),
            "status": pa.array(np.where(is_known, "ok", without), pa.string()),
        }
    )
