"""Exports of a run of WCS Camera Traps' size: seconds, size and peak memory of each format.

    python benchmarks/exports.py [--boxes] [--images N] [--to FORMAT] [--scratch DIR]

Written first: a run folder of the published shape (1,369,991 images, 3,911 locations, 179,579 sequences), its
tables through the store's own functions, with top-5 predictions made by chance, and sequences, events and
locations by the real rules. `camtrap export` then runs once for each format, in a process of its own; its
peak is what the kernel keeps (VmHWM). All of it is deleted at the end. Ends with 1 where the limit is passed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from scale import CAMTRAP, CATEGORIES, CORES, IMAGES, LOCATIONS, SEQUENCES, Report, divide, hex_ids

from camtrap_batch import Job
from camtrap_batch.events import combine, find_events, frame_rows, summarise
from camtrap_batch.exports import EXPORTS
from camtrap_batch.model.info import CARD, ModelInfo
from camtrap_batch.store import schemas, snapshots
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import write_table
from camtrap_batch.vocabulary import USABLE

LIMIT_GB = 1.0
MODEL = "0123456789abcdef"
SHARDS = {"manifest": 500, "predictions": 256, "detections": 400}
"""Rows of a file, as the stages write them."""
ENDINGS = {"csv": ".csv", "timelapse": ".csv", "camtrap-dp": "", "detection-history": ""}
NAMES = ["empty", *(f"species {number}" for number in range(1, CATEGORIES))]


_MEASURED = ("md-json", "camtrap-dp", "csv", "cct")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--boxes", action="store_true", help="with those of a detector, too")
    parser.add_argument("--to", choices=list(EXPORTS), help="default: each")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="exports-") as scratch:
        folder, report = Path(scratch), Report()
        with report.timed("run folder written"):
            # In a process of its own: its memory would count as that of the commands it starts.
            if (child := os.fork()) == 0:
                write_run(folder, options.images, boxes=options.boxes)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                raise SystemExit("the run folder could not be written")
        boxes = ", with boxes" if options.boxes else ""
        print(f"{options.images:,} images{boxes}, {CORES} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        for to in (options.to,) if options.to else _MEASURED:
            measure(report, folder, to)
        return report.end()


def measure(report: Report, folder: Path, to: str) -> None:
    out = folder / f"out-{to}{ENDINGS.get(to, '.json')}"
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            *CAMTRAP,
            "export",
            str(folder / "job.yaml"),
            "--to",
            to,
            "--out",
            str(out),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{to}: ended with {status}: {errors.decode()[-2000:]}")
    seconds = time.perf_counter() - began
    files = [out] if out.is_file() else list(out.iterdir())
    report.line(to, f"{seconds:.1f} s, {sum(file.stat().st_size for file in files) / 1e6:,.0f} MB")
    report.target("  peak memory, GB", peak_bytes(usage) / 1e9, LIMIT_GB, "{:.2f}")


def peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024


def write_run(folder: Path, n: int, *, boxes: bool) -> None:
    """A run folder with all tables that exports read."""
    (folder / "images").mkdir()
    (folder / "job.yaml").write_text(
        f"name: large\noutput: {folder}/runs\ndataset: {{format: folder, images: images}}\n"
    )
    run = Run(Job.load(folder / "job.yaml"))
    rng = np.random.default_rng(7)
    manifest = make_manifest(rng, n)
    categories = [[number, name] for number, name in enumerate(NAMES)]
    empty = {name: schemas.SCHEMAS[name].empty_table() for name in ("catalog", "events")}
    commit(run, "catalog", empty["catalog"], {}, {"categories": categories})
    commit(run, "manifest", manifest, {"catalog": 1})
    usable = manifest.filter(pa.compute.is_in(manifest["status"].cast("string"), pa.array(USABLE)))
    predictions = make_predictions(rng, usable)
    made_from: dict[str, object] = {"manifest": 1, "model": MODEL}
    if boxes:
        made_from = commit(run, "detections", make_boxes(rng, predictions), made_from)
    commit(run, "predictions", predictions, made_from, {"detections": {"threshold": 0.2}} if boxes else None)
    card = ModelInfo(
        MODEL,
        "resnet18",
        tuple(NAMES),
        tuple((i,) for i in range(CATEGORIES)),
        224,
        (0, 0, 0),
        (1, 1, 1),
        1.0,
    )
    run.folder.write(f"models/{MODEL}/{CARD}", card.to_json().encode())
    frames = usable.select(["image_id", "file_name", "location", "seq_id", "datetime"])
    for name in ("label", "confidence", "top5"):
        frames = frames.append_column(name, predictions[name])
    sequences = combine(frames, empty="empty", min_confidence=0.5)
    events = find_events(sequences.frames, empty="empty", gap_min=30)
    places = manifest["location"].unique()
    cameras = pa.table(
        {
            "location": places,
            "longitude": rng.uniform(-170, 170, len(places)),
            "latitude": rng.uniform(-60, 60, len(places)),
        }
    )
    locations = summarise(
        manifest.select(["location", "status", "datetime"]),
        sequences.sequences,
        events.events,
        cameras,
        empty="empty",
        model_id=MODEL,
        predictions_snapshot=1,
        run_time=dt.datetime.now(dt.UTC),
    )
    inputs = {"manifest": 1, "predictions": 1, "model": MODEL}
    rows = frame_rows(frames, sequences, events, "empty")
    for name, table in (
        ("frames", rows),
        ("sequences", sequences.sequences),
        ("events", events.events),
        ("locations", locations),
    ):
        inputs = commit(run, name, table, inputs, {"empty": "empty", "taxonomy": None})


def make_manifest(rng: np.random.Generator, n: int) -> pa.Table:
    """Images of the published shape: by location and sequence, 1 of 100 without a date, 1 of 2,000 broken."""
    share = n / IMAGES
    sequences, locations = max(1, round(SEQUENCES * share)), max(1, round(LOCATIONS * share))
    sequence = np.repeat(np.arange(sequences), divide(rng, n, sequences))
    location = np.repeat(np.arange(locations), divide(rng, sequences, locations))[sequence]
    begins = np.flatnonzero(np.diff(sequence, prepend=-1))
    frame = np.arange(n) - begins[sequence]
    taken = np.datetime64("2006-01-01", "s") + (sequence * 5 * 3600 % 500_000_000 + 2 * frame)
    names = np.array(hex_ids(rng, sequences), object)
    names[499::500] = None
    status = np.where(rng.random(n) < 0.0005, "corrupt", "ok")
    columns = {
        "image_id": hex_ids(rng, n),
        "file_name": [
            f"animals/{where:04}/{which:06}/{number:04}.jpg"
            for where, which, number in zip(location.tolist(), sequence.tolist(), frame.tolist(), strict=True)
        ],
        "location": [f"CT-{number}" for number in location.tolist()],
        "seq_id": names[sequence],
        "frame_num": frame,
        "datetime": pa.array(taken, mask=rng.random(n) < 0.01),
        "utc_offset_minutes": np.full(n, 120),
        "status": pa.array(status).dictionary_encode(),
        "format": ["JPEG"] * n,
        "width": np.full(n, 2048),
        "height": np.full(n, 1536),
    }
    schema = schemas.SCHEMAS["manifest"]
    return pa.table(
        {
            field.name: pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(n, field.type)
            for field in schema
        }
    )


def make_predictions(rng: np.random.Generator, usable: pa.Table) -> pa.Table:
    """Top 5 of each image; half of the images are empty, of the rest few species make the most."""
    n = usable.num_rows
    first = np.where(rng.random(n) < 0.5, 0, np.minimum(1 + rng.pareto(1.0, n).astype(int), CATEGORIES - 6))
    top = first[:, None] + np.arange(5)
    p = np.sort(rng.dirichlet(np.ones(6), n)[:, :5].astype(np.float32), axis=1)[:, ::-1]
    entries = pa.StructArray.from_arrays(
        [pa.array(NAMES).take(pa.array(top.ravel())), pa.array(p.ravel())],
        fields=list(schemas.PREDICTIONS.field("top5").type.value_type),
    )
    return pa.table(
        {
            "image_id": usable["image_id"],
            "model_id": pa.repeat(MODEL, n),
            "label": pa.array(NAMES).take(pa.array(first)),
            "confidence": pa.array(p[:, 0]),
            "top5": pa.ListArray.from_arrays(pa.array(np.arange(n + 1) * 5, pa.int32()), entries),
            "source": pa.repeat("thumbnail", n),
            "status": pa.repeat("ok", n),
            "manifest_snapshot": pa.array(np.ones(n, np.int32)),
        }
    )


def make_boxes(rng: np.random.Generator, predictions: pa.Table) -> pa.Table:
    """A box with the image's label where it is not empty, in each image one that is none."""
    n = predictions.num_rows
    has_animal = np.asarray(predictions["label"].combine_chunks()) != "empty"
    image = np.sort(np.concatenate([np.arange(n), np.flatnonzero(has_animal)]))
    is_first = np.diff(image, prepend=-1) != 0
    is_animal = has_animal[image] & is_first
    corner = rng.uniform(0, 0.5, (2, len(image))).astype(np.float32)
    labels = predictions["label"].combine_chunks().take(pa.array(image))
    return pa.table(
        {
            "image_id": predictions["image_id"].combine_chunks().take(pa.array(image)),
            "x": corner[0],
            "y": corner[1],
            "w": np.full(len(image), 0.25, np.float32),
            "h": np.full(len(image), 0.25, np.float32),
            "category": pa.repeat("animal", len(image)),
            "confidence": np.where(is_animal, 0.9, 0.1).astype(np.float32),
            "label": pa.compute.if_else(pa.array(is_animal), labels, None),
            "label_confidence": pa.array(np.full(len(image), 0.8, np.float32), mask=~is_animal),
        }
    )


def commit(
    run: Run, name: str, table: pa.Table, inputs: dict[str, object], meta: dict[str, object] | None = None
) -> dict[str, object]:
    """A snapshot of a table, in files of the size that its stage makes. Returns `inputs`, and itself."""
    schema = schemas.SCHEMAS[name]
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    files = tuple(
        write_table(run.folder, name, f"tables/{name}/made/{number:05}.parquet", part)
        for number, part in enumerate(pieces(table, SHARDS.get(name, max(table.num_rows, 1))))
    )
    size = sum(file.bytes for file in files)
    snapshots.commit(
        run.folder,
        Snapshot(
            name,
            0,
            "made",
            name,
            files,
            table.num_rows,
            size,
            {},
            inputs,
            schemas.fingerprint(name),
            meta or {},
        ),
    )
    return {**inputs, name: 1}


def pieces(table: pa.Table, size: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size)


if __name__ == "__main__":
    sys.exit(main())
