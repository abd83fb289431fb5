"""Speed of `infer`, end to end and against what bounds it.

    python benchmarks/infer.py [--images N] [--rounds R] [--epochs E] [--scratch DIR]
    python benchmarks/infer.py --scale [--images N] [--scratch DIR]

The first one draws a synthetic data set, trains a ResNet-34 on it (224 pixels), and classifies every usable
image, in one run, with the same model and the same files, the ways taken in turns:

- plain fastai: `test_dl` and `get_preds` over the original files, with a loader process for each core
- `camtrap infer` through Dask over the thumbnails, with a worker for each core, and with one worker that has
  one core, so that it does not decode on another one meanwhile
- on CPUs the same without OpenVINO: the torch path
- the network alone on pixels that lie ready, on all cores, in the runtime and precision that were chosen: the
  limit; where near ties are computed again in finer precisions, with as large a part of that

and once in float32, to count the images whose label differs. With a GPU the same is done on it.

The second one classifies 1,369,991 rows, of the shape of WCS Camera Traps, with a network that does next to
nothing: what is left is what driver, scheduler and workers cost. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from scale import (
    CORES,
    IMAGES,
    LOCATIONS,
    SEQUENCES,
    Report,
    divide,
    hex_ids,
    measure_stage,
)

from camtrap_batch import Job, open_run, run_stage
from camtrap_batch.cluster import Local, Workers, open_cluster

SIZE, BATCH = 224, 64
KEPT = ("catalog", "manifest", "thumbnails", "findings", "selection", "model")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, metavar="N", help=f"default: 4,800; with --scale {IMAGES:,}")
    parser.add_argument("--rounds", type=int, default=2, metavar="R", help="each way is measured R times (2)")
    parser.add_argument("--epochs", type=int, default=6, metavar="E", help="of training (6)")
    parser.add_argument("--model", default="", metavar="DIR", help="a model folder; none is trained then")
    parser.add_argument("--photo", type=int, default=1920, metavar="PX", help="width of the photos (1920)")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    parser.add_argument("--scale", action="store_true", help="many rows and a trivial network")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part[0]](*options.part[1:])))
        return 0
    # Before the temporary folder is deleted, whatever runs in it has to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="infer-") as scratch:
        if options.scale:
            return measure_scale(Path(scratch), options.images or IMAGES)
        return measure_speed(
            Path(scratch),
            options.images or 4800,
            options.rounds,
            options.epochs,
            options.photo,
            options.model,
        )


def measure_speed(folder: Path, images: int, rounds: int, epochs: int, width: int, given: str) -> int:
    import torch

    from camtrap_batch.rehearsal import write_dataset

    report = Report()
    on_gpu = torch.cuda.is_available()
    with report.timed("data set drawn"):
        # Sound photos alone: plain fastai ends at the first truncated one.
        write_dataset(folder / "data", cameras=20, images=images, size=(width, width * 3 // 4), broken=False)
    job = {
        "name": "base",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "select": {"split": {"by": "random"}},
        "train": {"arch": "resnet34", "weights": "none", "size": SIZE, "epochs": epochs, "lr": 0.002},
        "infer": {"device": "cuda" if on_gpu else "cpu", "batch": BATCH},
    }
    with report.timed("validated and trained"), clients(1 if on_gpu else CORES, gpu=1) as client:
        for stage in ("catalog", "validate") if given else ("catalog", "validate", "select", "train"):
            run_stage(write_job(folder, job), stage, client)
    if not on_gpu:
        # Dozens for each worker, as in any job that is worth a cluster: the last ones count for little.
        job["infer"]["shard_size"] = BATCH
    if given:
        job["infer"]["model"] = given
    base = open_run(write_job(folder, job))
    trained = base.current("model")
    model = base.folder.local(f"models/{trained.meta['model_id']}") if trained else Path(given)
    rows = base.table("manifest").to_table(columns=["file_name", "status", "bytes"])
    usable = [row for row in rows.to_pylist() if row["status"] in ("ok", "truncated", "damaged")]
    (folder / "files.txt").write_text(
        "\n".join(str(folder / "data/images" / row["file_name"]) for row in usable)
    )
    size = statistics.mean(row["bytes"] for row in usable)
    figures = json.loads((model / "metrics.json").read_text()).get("valid")
    accuracy = f"accuracy {figures['accuracy']:.2f} in {figures['n_images']} images" if figures else model
    print(
        f"{len(usable):,} images of {width} pixels, {size / 1e3:.0f} kB on average; ResNet-34, {accuracy}; "
        f"{CORES} cores, "
        f"{torch.cuda.get_device_name() if on_gpu else 'no GPU'}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    n = len(usable)
    workers = 1 if on_gpu else CORES
    speeds: dict[str, list[float]] = {}
    for number in range(rounds):
        speeds.setdefault("plain fastai", []).append(n / part("fastai", model, folder / "files.txt"))
        ways = (("camtrap infer", workers, True), ("one worker", 1, True), ("torch alone", workers, False))
        for name, count, openvino in ways[: 1 if on_gpu else 3]:
            began = time.perf_counter()
            fresh = {**job, "name": f"{name.replace(' ', '-')}-{number}"}
            found = infer(folder, fresh, count, on_gpu, openvino)
            took = time.perf_counter() - began
            print(f"  {name}: {took:.1f} s with the cluster's start, {found}", flush=True)
            speeds.setdefault(name, []).append(n / found["seconds"])
            speeds.setdefault(f"{name}, shards alone", []).append(n / found["in shards"])
            if on_gpu:
                report.target("GPU busy, share not", 1 - found["busy"], 0.15, "{:.3f}")
            if name == "camtrap infer":
                chosen = found
        # Near ties are computed again in a finer precision.
        shares = {chosen["precision"]: 1.0, **{name: many / n for name, many in chosen["again"].items()}}
        model = chosen["model"]
        seconds = [share / fastest(model, name, chosen["runtime"], on_gpu) for name, share in shares.items()]
        speeds.setdefault("the limit", []).append(1 / sum(seconds))
    for name, values in speeds.items():
        report.line(
            f"{name}, images/s", f"{max(values):.1f}  ({', '.join(f'{value:.1f}' for value in values)})"
        )
    best = {name: max(values) for name, values in speeds.items()}
    report.line(
        "computed in",
        f"{chosen['runtime']}, {', '.join(f'{name} {share:.3f}' for name, share in shares.items())}",
    )
    shards = best["camtrap infer, shards alone"]
    least = 3 if on_gpu else 15
    at_least(report, "end to end, of plain fastai", best["camtrap infer"] / best["plain fastai"], least)
    at_least(report, "shards alone, of the limit", shards / best["the limit"], 0.85)
    if not on_gpu:
        at_least(report, "shards alone, of the torch path", shards / best["torch alone, shards alone"], 1.6)
    if not on_gpu and CORES >= 2:
        at_least(
            report, f"{CORES} workers against one", shards / best["one worker, shards alone"], 0.9 * CORES
        )
    exact = {**job, "name": "exact", "infer": {**job["infer"], "precision": "float32"}}
    infer(folder, exact, workers, on_gpu, True)
    same = labels(folder, exact) == labels(folder, {**job, "name": "camtrap-infer-0"})
    at_least(report, f"label as in float32, of {n:,} images", float(same.mean()), 0.995)
    return report.end()


def at_least(report: Report, name: str, value: float, least: float) -> None:
    if not (holds := value >= least):
        report.missed.append(name)
    report.line(name, f"{value:<10.4g} at least {least:<5g} {'holds' if holds else 'MISSED'}")


def labels(folder: Path, job: dict[str, Any]) -> Any:
    table = open_run(write_job(folder, job)).table("predictions").to_table(columns=["label"])
    return np.asarray(table["label"].to_pylist(), object)


def write_job(folder: Path, content: dict[str, Any]) -> Job:
    return Job.parse(content, base=folder, where=str(folder))


@contextmanager
def clients(cpu: int, gpu: int) -> Iterator[Any]:
    spec = Local(cpu=Workers(workers=cpu), gpu=Workers(workers=gpu), dashboard="127.0.0.1:0")
    with open_cluster(spec) as client:
        client.wait_for_workers(cpu + gpu)
        yield client


def infer(
    folder: Path, content: dict[str, Any], workers: int, on_gpu: bool, openvino: bool
) -> dict[str, Any]:
    """One run of the stage in a run folder that has all but predictions; the cluster is there already."""
    job = write_job(folder, content)
    base, fresh = folder / "base", folder / content["name"]
    for name in ("tables", "models", *(f"snapshots/{table}" for table in KEPT)):
        if (base / name).exists():
            shutil.copytree(base / name, fresh / name, copy_function=os.link)
    with clients(0 if on_gpu else workers, workers if on_gpu else 0) as client, gpu_busy(on_gpu) as busy:
        if not on_gpu and workers < CORES:
            client.run(keep_to_one_core)
        if not openvino:
            client.run(do_without_openvino)
        began = time.perf_counter()
        run_stage(job, "infer", client)
        seconds = time.perf_counter() - began
    run = open_run(job)
    events = [json.loads(line) for line in (fresh / "log.jsonl").read_text().splitlines()]
    at = {event["event"]: np.datetime64(event["time"].rstrip("Z")) for event in events}
    in_shards = float((at["shard done"] - at["stage begins"]) / np.timedelta64(1, "s"))
    meta = run.snapshot("predictions").meta
    (model,) = (fresh / "models").iterdir()
    return {
        "seconds": seconds,
        "in shards": in_shards,
        "runtime": meta["precision"].get("runtime", "torch"),
        "precision": meta["precision"]["precision"],
        "again": meta["again"],
        "model": model,
        **busy,
    }


def keep_to_one_core() -> None:
    core = min(os.sched_getaffinity(0))
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def do_without_openvino() -> None:
    from camtrap_batch.model import on_openvino

    on_openvino.is_there = lambda: False


def fastest(model: Path, precision: str, runtime: str, on_gpu: bool) -> float:
    """Images a second of the network alone."""
    ways = [(1, 1, batch) for batch in (64, 256)] if on_gpu else []
    ways = ways or [(*how, batch) for how in ((CORES, 1), (1, CORES)) for batch in (16, 64)]
    return max(part("bare", model, precision, runtime, *way) for way in ways)


@contextmanager
def gpu_busy(on_gpu: bool) -> Iterator[dict[str, float]]:
    """Share of the time in which the GPU computes, as nvidia-smi says it twice a second."""
    found: dict[str, float] = {}
    samples: list[float] = []
    ended = threading.Event()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def watch() -> None:
        while on_gpu and not ended.wait(0.5):
            samples.append(float(subprocess.check_output(query, text=True).splitlines()[0]) / 100)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        if samples:
            found["busy"] = statistics.mean(samples)


def part(*arguments: Any) -> float:
    """What a part of this script, in a process of its own, finds."""
    command = [sys.executable, __file__, "--part", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def plain_fastai(model: str, files: str) -> float:
    """Seconds of `get_preds` over files, as the notebook would write it."""
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Learner, Resize, ResizeMethod

    from camtrap_batch.model import load_model

    network, info = load_model(model)
    paths = [Path(line) for line in Path(files).read_text().splitlines()]
    block = DataBlock(
        (ImageBlock, CategoryBlock(vocab=list(info.classes))),
        get_y=lambda path: info.classes[0],
        item_tfms=Resize(info.size, method=ResizeMethod.Squish),
    )
    loaders = block.dataloaders(paths[:BATCH], bs=BATCH, num_workers=0)
    learner = Learner(loaders, network, loss_func=None)
    began = time.perf_counter()
    test = loaders.test_dl(paths, num_workers=CORES)
    with learner.no_bar(), learner.no_logging():
        predictions = learner.get_preds(dl=test)[0]
    assert len(predictions) == len(paths)
    return time.perf_counter() - began


def bare_forward(model: str, precision: str, runtime: str, processes: str, threads: str, batch: str) -> float:
    """Images a second of the network alone, on pixels that are ready, by a number of processes at once."""
    if (count := int(processes)) > 1:
        command = [sys.executable, __file__, "--part", "bare", model, precision, runtime, "1", threads, batch]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        return sum(float(json.loads(process.communicate()[0].splitlines()[-1])) for process in started)
    pixels = np.random.default_rng(0).integers(0, 256, (int(batch), SIZE, SIZE, 3), np.uint8)
    run = (on_torch if runtime == "torch" else on_openvino)(model, precision, int(threads), pixels)
    for _ in range(3):
        run()
    rates = []
    for _ in range(5):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < 2:
            run()
            done += int(batch)
        rates.append(done / (time.perf_counter() - began))
    return max(rates)


def on_torch(model: str, precision: str, threads: int, pixels: np.ndarray) -> Callable[[], Any]:
    import torch

    from camtrap_batch.model import Predictor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    forward = Predictor(model, device, threads, len(pixels), precision)._forward
    torch.set_num_threads(threads)
    images = forward.network_input(pixels)

    def run() -> None:
        with torch.inference_mode():
            forward.network(images).cpu()

    return run


def on_openvino(model: str, precision: str, threads: int, pixels: np.ndarray) -> Callable[[], Any]:
    from camtrap_batch.model.on_openvino import NETWORKS
    from camtrap_batch.runtime import open_network, stream

    floats = "float32" if precision == "int8" else precision
    network = open_network(Path(model) / NETWORKS[precision], "cpu", threads, floats)
    parts = np.split(pixels, threads)
    return lambda: list(stream(network, parts))


def measure_scale(folder: Path, images: int) -> int:
    from camtrap_batch.model import ModelInfo, save_model
    from camtrap_batch.model.architectures import create_model

    report = Report()
    arch, size = "test_resnet", 32
    classes = tuple(f"species {number}" for number in range(20))
    info = ModelInfo(
        "", arch, classes, tuple((number,) for number in range(20)), size, (0.5,) * 3, (0.25,) * 3, 1.0
    )
    info = save_model(folder / "models", create_model(arch, len(classes), size=size), info, {}, [])
    job = folder / "job.yaml"
    content = {
        "name": "scale",
        "output": str(folder),
        "dataset": {"format": "folder", "images": str(folder / "images"), "location": {"level": 0}},
        "validate": {"thumbnails": 64},
        "infer": {
            "model": str(folder / "models" / info.model_id),
            "device": "cpu",
            "shard_size": 4000,
        },
    }
    job.write_text(yaml.safe_dump(content))
    (folder / "images").mkdir()
    with report.timed("manifest written"):
        write_manifest(job, images)
    print(
        f"{images:,} rows, {arch} at {size} pixels, {CORES} cores, load {os.getloadavg()[0]:.1f}", flush=True
    )
    measure_stage(report, job, folder, "infer", images)
    return report.end()


def write_manifest(job: Path, images: int, stumps: int = 0) -> None:
    """A manifest of WCS's shape whose thumbnails are those of a small file, again and again.

    Parameters
    ----------
    stumps : every such location has pictures of its own, each with a white patch in the same spot; 0: none
    """
    from scale import picture

    from camtrap_batch.images import decode_upright
    from camtrap_batch.images.pixels import make_thumbnail, shrink
    from camtrap_batch.store import schemas, snapshots
    from camtrap_batch.store.snapshots import Snapshot
    from camtrap_batch.store.tables import write_table

    rng = np.random.default_rng(7)
    folder = open_run(job).folder
    drawn = [shrink(decode_upright(picture(rng), 64), 64) for _ in range(256)]
    pictures = [make_thumbnail(pixels, 480, 85) for pixels in drawn]
    if stumps:
        for pixels in drawn[:64]:
            height, width = pixels.shape[:2]
            patched = pixels.copy()
            patched[height // 6 : height // 2, width // 4 : width // 2] = 255
            pictures.append(make_thumbnail(patched, 480, 85))
    thumbnails = pa.table(
        {
            "image_id": [str(number) for number in range(len(pictures))],
            **{
                name: [getattr(one, name) for one in pictures]
                for name in ("jpeg", "width", "height", "scale")
            },
        }
    )
    small = write_table(folder, "thumbnails", "tables/thumbnails/all/0.parquet", thumbnails)
    share = images / IMAGES
    sequences = divide(rng, images, max(1, round(SEQUENCES * share)))
    locations = divide(rng, len(sequences), max(1, round(LOCATIONS * share)))
    sequence = np.repeat(np.arange(len(sequences)), sequences)
    location = np.repeat(np.arange(len(locations)), locations)[sequence]
    which = np.arange(images) % len(drawn)
    if stumps:
        which = np.where(location % stumps == 0, len(drawn) + which % 64, which)
    ids = hex_ids(rng, images)
    columns: dict[str, Any] = {name: pa.nulls(images) for name in schemas.MANIFEST.names}
    columns |= {
        "image_id": pa.array(ids),
        "file_name": pa.array([f"{id_}.jpg" for id_ in ids]),
        "location": pa.array([f"{number:04}" for number in location]),
        "seq_id": pa.array([f"{number:06}" for number in sequence]),
        "status": pa.array(["ok"] * images),
        "width": pa.array(np.full(images, 640), pa.int32()),
        "height": pa.array(np.full(images, 480), pa.int32()),
        "sha256": pa.array([id_ * 2 for id_ in ids]),
        "thumbnail_file": pa.array([small.file] * images),
        "thumbnail_row": pa.array(which.astype(np.int32)),
    }
    file = write_table(folder, "manifest", "tables/manifest/all/0.parquet", pa.table(columns))
    snapshots.commit(
        folder,
        Snapshot(
            table="manifest",
            number=0,
            plan_id="all",
            stage="validate",
            files=(file,),
            rows=images,
            bytes=file.bytes,
            counts={"ok": images},
            inputs={},
            schema=schemas.fingerprint("manifest"),
            meta={},
        ),
    )


PARTS = {"fastai": plain_fastai, "bare": bare_forward}


if __name__ == "__main__":
    sys.exit(main())
