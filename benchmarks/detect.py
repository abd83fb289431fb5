"""Speed of `detect`: detectors in ONNX files, against what else computes them, and against what bounds it.

    python benchmarks/detect.py [--model FILE] [--images N] [--size PX] [--rounds R] [--scratch DIR]
    python benchmarks/detect.py --scale [--images N] [--scratch DIR]

One run, the same ONNX file, the same photos (the real ones of ../shared/real_images where they are, otherwise
drawn ones), decoding included, the ways taken in turns, on one core each:

- `camtrap detect`'s worker: shards through `OnnxFinder`, in the precision that `--cluster` workers would use
- ONNX Runtime in float32, fed by a pool of Pillow decodes, as a plain script would
- `ultralytics`' own predict, where it is installed
- the bare forward pass of the fastest runtime on ready tensors: the limit

Without `--model` the file is that of a network of YOLO11s's size with random weights, written by torch: the
time does not depend on what the weights are. Ends with 1 where a target is missed.

With `--scale`: the stage on a manifest of WCS's shape (1,369,991 images) and a network that does next to
nothing, on thumbnails of 64 pixels: what is lost to other than shards, memory of driver and scheduler. It
finds some ten boxes in each image: one or two that count and lie anywhere, with one in the same spot in all
images of every tenth camera, as in real results; and others, too unsure to count, that lie in one of 64
spots. With a lower threshold these count as well, which is the worst case for marking repeats: that is
measured next. Then all workers against one, which has a core of its own: with this network, of which driver
and scheduler, on the same cores, take their part, and with one of YOLO11s's structure on 192 pixels, a
tenth of its usual work. Some 12 minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from infer import write_manifest
from photos import pictures
from PIL import Image, ImageFile, ImageOps
from scale import CAMTRAP, CORES, IMAGES, Report, at, cluster, events_since, measure_stage, run

from camtrap_batch import open_run
from camtrap_batch.detection.frames import put
from camtrap_batch.detection.onnx import OnnxDetector, OnnxFinder
from camtrap_batch.runtime import choose_runtime, installed_runtimes, open_network
from camtrap_batch.store import snapshots

MOST_FOR_WORKERS = 300_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="", metavar="FILE", help="an ONNX file (default: random weights)")
    parser.add_argument("--images", type=int, metavar="N", help=f"default: 48; with --scale {IMAGES:,}")
    parser.add_argument("--size", type=int, default=640, metavar="PX", help="side of what it sees (640)")
    parser.add_argument("--rounds", type=int, default=3, metavar="R", help="each way is measured R times (3)")
    parser.add_argument("--scale", action="store_true", help="many rows and a trivial network")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    options = parser.parse_args()
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="detect-") as scratch:
        if options.scale:
            return measure_scale(Path(scratch), options.images or IMAGES)
        model = options.model or str(write_network(Path(scratch) / "random.onnx", options.size))
        return measure(model, pictures(options.images or 48), options.size, options.rounds)


def measure(model: str, photos: list[bytes], size: int, rounds: int) -> int:
    detector = OnnxDetector.open(model, size=size)
    precision = choose_runtime("cpu")[1].precisions("cpu")[0]
    fast, exact = (detector.finder(model, threads=1, precision=name) for name in (precision, "float32"))
    ways: dict[str, Callable[[], None]] = {
        f"camtrap detect, {fast.network.runtime} {precision}": lambda: consume(fast, photos),
        f"camtrap detect, {exact.network.runtime} float32": lambda: consume(exact, photos),
    }
    if "onnxruntime" in installed_runtimes():
        plain = plain_script(model, detector)
        ways["ONNX Runtime and Pillow"] = lambda: plain(photos)
    if (predict := ultralytics_predict(model, size)) is not None:
        ways["ultralytics"] = lambda: predict(photos)
    ready = [frame(detector, photo) for photo in photos]
    bare = open_network(model, "cpu", 1, precision)
    ways["the limit"] = lambda: [bare.run(pixels) for pixels in ready] and None
    print(
        f"{len(photos)} pictures, {statistics.mean(map(len, photos)) / 1e3:.0f} kB on average, "
        f"{Path(model).name} at {size} pixels, one core of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}"
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            # Processor time: what else the machine does meanwhile does not count.
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    speeds = {name: len(photos) / min(some) for name, some in seconds.items()}
    for name, speed in speeds.items():
        each = ", ".join(f"{len(photos) / some:.2f}" for some in seconds[name])
        print(f"{name}: {speed:.2f} images/s of processor time  ({each})")
    ours = speeds[next(iter(ways))]
    missed = 0
    if "ONNX Runtime and Pillow" in speeds:
        least = 2.5 if precision == "bfloat16" else 1.0
        missed += not at_least("of ONNX Runtime and Pillow", ours / speeds["ONNX Runtime and Pillow"], least)
    if "ultralytics" in speeds:
        missed += not at_least("of ultralytics' predict", ours / speeds["ultralytics"], 1.0)
    missed += not at_least("of the bare forward pass", ours / speeds["the limit"], 0.85)
    return int(missed > 0)


def measure_scale(folder: Path, images: int) -> int:
    report = Report()
    content = {
        "output": str(folder),
        "dataset": {"format": "folder", "images": str(folder / "images"), "location": {"level": 0}},
        "validate": {"thumbnails": 64},
        "detect": {
            "model": str(write_spots(folder / "spots.onnx", 64)),
            "device": "cpu",
            "precision": "float32",
            "shard_size": 4000,
        },
    }
    (folder / "images").mkdir()
    with report.timed("manifest written"):
        job = write_job(folder, "scale", content, images)
    load = os.getloadavg()[0]
    print(f"{images:,} rows, a network of one pooling, {CORES} cores, load {load:.1f}", flush=True)
    parts = ("repeats", "detections")
    more = ("--set", "detect.threshold=0.005")
    measure_stage(report, job, folder, "detect", images, parts=parts, more=more)
    report_boxes(report, job)
    ratios = {"trivial": compare_workers(report, folder, content, min(images, MOST_FOR_WORKERS), "trivial")}
    content["validate"]["thumbnails"] = 192
    content["detect"] |= {"model": str(write_network(folder / "network.onnx", 192)), "precision": "auto"}
    ratios["YOLO11s"] = compare_workers(
        report, folder, content, min(images, MOST_FOR_WORKERS // 125), "YOLO11s"
    )
    for network, ratio in ratios.items() if CORES > 1 else ():
        name = f"{network}, of one worker, {CORES} workers"
        if not at_least(name, ratio, 0.9 * CORES):
            report.missed.append(name)
    return report.end()


def compare_workers(
    report: Report, folder: Path, content: dict[str, Any], images: int, network: str
) -> float:
    """How many times as fast as one worker all are: their shards alone, without start and end."""
    speeds, costs = {}, {}
    # Each worker has dozens of shards, so that none waits long for the last one.
    content["detect"]["shard_size"] = max(images // 120, 40)
    for workers in (1, CORES):
        name = f"{network}-{workers}"
        job = write_job(folder, name, content, images)
        with cluster(folder, workers) as (address, roles):
            ran = run([*CAMTRAP, "detect", str(job), "--quiet", "--cluster", address], roles)
        mine = [event for event in events_since(folder / name, 0) if event.get("stage") == "detect"]
        times = {event["event"]: at(event) for event in mine}
        speeds[workers] = images / (times["shard done"] - times["stage begins"])
        costs[workers] = sum(second for role, second in ran.cpu.items() if role.startswith("worker"))
        report.line(
            f"{network}, {workers} workers, images/s",
            f"{speeds[workers]:,.0f}, {costs[workers]:.1f} s of their processors",
        )
    report.line("all workers: speed, processor time, of one's",
                f"{speeds[CORES] / speeds[1]:.2f}, {costs[CORES] / costs[1]:.2f}")  # fmt: skip
    return speeds[CORES] / speeds[1]


def report_boxes(report: Report, job: Path) -> None:
    """How many boxes there are, and how many were marked, with either threshold."""
    run = open_run(job)
    for number in snapshots.numbers(run.folder, "detections"):
        made = run.snapshot("detections", number)
        found = made.meta["repeats"]
        report.line(
            f"boxes, with {found['threshold']:g} counting",
            f"{made.rows:,}, of which {found['repeats']:,} repeat {found['n_repeated_places']:,} spots",
        )


def write_job(folder: Path, name: str, content: dict[str, Any], images: int) -> Path:
    """A job file, and its run folder with a manifest; every tenth camera has a stump."""
    job = folder / f"{name}.yaml"
    job.write_text(yaml.safe_dump({"name": name, **content}))
    write_manifest(job, images, stumps=10)
    return job


def write_spots(path: Path, size: int) -> Path:
    """A network of YOLOv8's layout that takes the brightness of a cell for how sure it is.

    Boxes of small cells lie where the cell is; they are unsure. Boxes of large cells lie where the cell's
    colour says, so anywhere; of these the bright ones are sure, and of one white cell most of all.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    small, n, m = size // 8, 64, 16
    centres = (np.indices((8, 8)).reshape(2, -1)[::-1] + 0.5) * small
    fixed = np.concatenate([centres, np.full((2, n), small)])[None].astype(np.float32)
    # x, y, width and height from red, green, blue and blue.
    scale = np.array([48, 40, 12, 12], np.float32)[None, :, None]
    least = np.array([8, 14, 6, 6], np.float32)[None, :, None]
    node = helper.make_node
    nodes = [
        node("AveragePool", ["images"], ["colours"], kernel_shape=[small] * 2, strides=[small] * 2),
        node("ReduceMean", ["colours"], ["grey"], axes=[1], keepdims=1),
        node("Reshape", ["grey", "of_small"], ["bright"]),
        node("Sub", ["bright", "dim"], ["above"]),
        node("Relu", ["above"], ["how_far"]),
        node("Mul", ["how_far", "little"], ["unsure"]),
        node("AveragePool", ["colours"], ["coarse"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["coarse", "of_large"], ["colour"]),
        node("Gather", ["colour", "twice_blue"], ["sides"], axis=1),
        node("Mul", ["sides", "scale"], ["scaled"]),
        node("Add", ["scaled", "least"], ["anywhere"]),
        node("ReduceMean", ["colour"], ["brightness"], axes=[1], keepdims=1),
        node("Sub", ["brightness", "bright_enough"], ["beyond"]),
        node("Relu", ["beyond"], ["how_much"]),
        node("Mul", ["how_much", "much"], ["how_sure"]),
        node("Min", ["how_sure", "most"], ["sure"]),
        node("Concat", ["fixed", "anywhere"], ["boxes"], axis=2),
        node("Concat", ["unsure", "sure"], ["scores"], axis=2),
        node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    numbers = {"dim": 0.64, "little": 0.4, "bright_enough": 0.6, "much": 8, "most": 0.95}
    known = {
        "of_small": np.array([1, 1, n]), "of_large": np.array([1, 3, m]),
        "twice_blue": np.array([0, 1, 2, 2]), "fixed": fixed, "scale": scale, "least": least,
        **{name: np.array([value], np.float32) for name, value in numbers.items()},
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, n + m])],
        [numpy_helper.from_array(array, name) for name, array in known.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(built, {"names": "{0: 'animal'}", "stride": str(small)})
    onnx.save(built, path)
    return path


def at_least(name: str, value: float, least: float) -> bool:
    print(f"{name}: {value:.2f}, at least {least:g} {'holds' if value >= least else 'MISSED'}")
    return value >= least


def consume(finder: OnnxFinder, photos: list[bytes]) -> None:
    for _ in finder.find(iter(photos)):
        pass


def frame(detector: OnnxDetector, photo: bytes) -> np.ndarray:
    """A picture as the network is given it."""
    pixels = upright(photo)
    place = detector.fit.place(*pixels.shape[:2])
    out = np.empty((1, 3, *place.frame), np.float32)
    put(pixels, detector.fit, place, out[0])
    return out


def upright(photo: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB"))


def plain_script(model: str, detector: OnnxDetector) -> Callable[[list[bytes]], None]:
    """A session of ONNX Runtime on one thread; pictures are decoded and resized by Pillow on another."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def prepare(photo: bytes) -> np.ndarray:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB")
        place = detector.fit.place(image.height, image.width)
        pixels = np.full((*place.frame, 3), 114, np.uint8)
        small = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
        pixels[place.top : place.top + place.height, place.left : place.left + place.width] = small
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255

    def run(photos: list[bytes]) -> None:
        with ThreadPoolExecutor(1) as pool:
            for pixels in pool.map(prepare, photos):
                session.run(None, {name: pixels})

    return run


def ultralytics_predict(model: str, size: int) -> Callable[[list[bytes]], None] | None:
    try:
        import torch
        from ultralytics import YOLO
    except ImportError:
        return None
    torch.set_num_threads(1)
    network = YOLO(model, task="detect")

    def run(photos: list[bytes]) -> None:
        for photo in photos:
            image = Image.open(io.BytesIO(photo))
            network.predict(image, imgsz=size, conf=0.005, verbose=False)

    return run


def write_network(path: Path, size: int) -> Path:
    """A network with the outputs of YOLO11s and about its work."""
    from networks import random_detector, write_onnx

    return write_onnx(random_detector("yolo11s"), path, size)


if __name__ == "__main__":
    sys.exit(main())
