"""A data set of WCS Camera Traps' size: time and memory of `camtrap catalog` and `camtrap validate`.

    python benchmarks/scale.py [--images N] [--thumbnails PX] [--scratch DIR]

Written first: COCO Camera Traps JSON of the published shape (1,369,991 images, 3,911 locations, 179,579
sequences, 676 categories) with the oddities of the real file, and a folder for each sequence in which the
images are hard links to a pool of small JPEGs (30 to 50 kB). Every command then runs in a process of its own;
scheduler and workers are processes beside the driver's, so that the memory of each can be told. Peaks are
those that the kernel keeps (VmHWM). All of it is deleted at the end. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
from PIL import Image

from camtrap_batch.cluster import SETTINGS
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Receipt, file_receipt

IMAGES, LOCATIONS, SEQUENCES, CATEGORIES = 1_369_991, 3_911, 179_579, 676
CORES = len(os.sched_getaffinity(0))
CAMTRAP = [sys.executable, "-m", "camtrap_batch"]
POOL = 512
"""Different JPEGs; ext4 allows 65,000 links to a file."""

OTHERS = {"truncated.jpg": 4, "damaged.jpg": 4, "empty.jpg": 1, "clip.avi": 1}
"""Files of the pool that are no sound JPEG -> how many; each stands for 1 of 20,000 images."""

JOB = """\
name: scale
output: {folder}/runs
dataset:
  format: cct
  metadata: {folder}/wcs_camera_traps.json
  images: {folder}/images
validate:
  thumbnails: {thumbnails}
  shard_size: 1000  # files are small
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--thumbnails", type=int, default=0, metavar="PX", help="validate.thumbnails (0)")
    parser.add_argument("--scratch", metavar="DIR", help="on the disk to be used (default: the system's)")
    parser.add_argument("--notebook", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.notebook:
        read_as_the_notebook_does(options.notebook)
        return 0
    # Before the temporary folder is deleted, whatever runs in it has to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="scale-") as scratch:
        return measure(Path(scratch), options.images, options.thumbnails)


def measure(folder: Path, images: int, thumbnails: int) -> int:
    report = Report()
    with report.timed("data set written"):
        metadata = write_data_set(folder, images)
    print(
        f"{images:,} images, {metadata.stat().st_size / 1e6:,.0f} MB of JSON, "
        f"thumbnails: {thumbnails or 'none'}, "
        f"{CORES} cores, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    job = folder / "job.yaml"
    job.write_text(JOB.format(folder=folder, thumbnails=thumbnails))
    metadata.read_bytes()  # both readers find it in the page cache

    notebook = run([sys.executable, __file__, "--notebook", str(metadata)])
    catalog = run([*CAMTRAP, "catalog", str(job), "--quiet"])
    report.line(
        "notebook's json + pandas + merge",
        f"{notebook.seconds:.1f} s, {notebook.peaks['driver'] / 1e9:.2f} GB",
    )
    report.line("camtrap catalog", f"{catalog.seconds:.1f} s")
    report.target("  of the notebook's time", catalog.seconds / notebook.seconds, 0.5, "{:.2f}")
    report.target("  peak memory, GB", catalog.peaks["driver"] / 1e9, 2, "{:.2f}")

    with cluster(folder) as (address, roles):
        command = [*CAMTRAP, "validate", str(job), "--quiet", "--cluster", address]
        began = time.time()
        validate = run(command, roles)
        report.line("camtrap validate", f"{validate.seconds:.1f} s")
        report.line("  images/s", f"{images / validate.seconds:,.0f}")
        report_losses(report, folder / "runs" / "scale", began, validate.seconds)
        for role, peak in sorted(validate.peaks.items()):
            limit = 1.5 if role in ("driver", "scheduler") else None
            report.target(f"  peak memory of the {role}, GB", peak / 1e9, limit, "{:.2f}")
            report.line(f"  CPU of the {role}, s", f"{validate.cpu[role]:.1f}")
        again = run(command, roles)
        report.target("second run, nothing changed, s", again.seconds, 15, "{:.1f}")
        change_one(folder / "images")
        before = shards_done(folder / "runs" / "scale")
        changed = run(command, roles)
        redone = shards_done(folder / "runs" / "scale") - before
        report.line("one file changed", f"{changed.seconds:.1f} s")
        report.target("  shards done again", redone, 1, "{:.0f}")
    report_files(report, folder / "runs" / "scale")
    began = time.perf_counter()
    shutil.rmtree(folder / "images")
    report.line("images deleted", f"{time.perf_counter() - began:.1f} s")
    return report.end()


@dataclass
class Report:
    """Prints a figure a line, with its target and whether it holds."""

    missed: list[str] = field(default_factory=list)

    def line(self, name: str, text: str) -> None:
        print(f"{name:42} {text}", flush=True)

    def target(self, name: str, value: float, most: float | None, form: str) -> None:
        if most is None:
            self.line(name, form.format(value))
            return
        if not (holds := value <= most):
            self.missed.append(name.strip())
        self.line(name, f"{form.format(value):10} at most {most:<5g} {'holds' if holds else 'MISSED'}")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.line(name, f"{time.perf_counter() - began:.1f} s")

    def end(self) -> int:
        print(f"targets missed: {', '.join(self.missed)}" if self.missed else "all targets hold")
        return 1 if self.missed else 0


@dataclass
class Ran:
    """Wall-clock of a command; by role of it ("driver") and of others beside it: peak memory in bytes, CPU
    seconds meanwhile."""

    seconds: float
    peaks: dict[str, int]
    cpu: dict[str, float]


def run(command: list[str], roles: dict[str, int] | None = None) -> Ran:
    """Run a command to its end; `roles` are the ids of other processes to look at."""
    watched = dict(roles or {})
    peaks: dict[str, int] = {}
    cpu_before = {role: cpu_seconds(pid) for role, pid in watched.items()}
    cpu: dict[str, float] = {}
    ended = threading.Event()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watched["driver"] = process.pid

    def watch() -> None:
        while not ended.wait(0.5):
            for role, pid in watched.items():
                peaks[role] = max(peaks.get(role, 0), peak_memory(pid))
                cpu[role] = max(cpu.get(role, 0.0), cpu_seconds(pid) - cpu_before.get(role, 0.0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        errors = process.communicate()[1]
        seconds = time.perf_counter() - began
    finally:
        ended.set()
        watcher.join()
        process.kill()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.decode()[-2000:]}")
    return Ran(seconds, peaks, cpu)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far; 0 where it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def peak_memory(pid: int) -> int:
    """Most resident memory that a process ever had, bytes; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


@contextmanager
def cluster(folder: Path, workers: int = CORES) -> Iterator[tuple[str, dict[str, int]]]:
    """A scheduler and CPU workers, as processes: the address, and process ids by role.

    There is a worker for each core; fewer ones have no more cores than there are of them.
    """
    settings = {
        f"DASK_{key.replace('.', '__').upper()}": json.dumps(value) for key, value in SETTINGS.items()
    }
    environment = {**os.environ, **settings}
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    cores = sorted(os.sched_getaffinity(0))[:workers]
    local = str(folder / "dask")
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    worker = [*dask, "worker", "--scheduler-file", str(file), "--nworkers", str(workers), "--nthreads", "1"]
    with (folder / "dask.log").open("w") as log:
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.append(
                subprocess.Popen([*scheduler, "--no-dashboard"], stdout=log, stderr=log, env=environment)
            )
            wait_for(file.exists, "the scheduler's file")
            command = [*worker, "--resources", "CPU=1", "--no-dashboard", "--local-directory", local]
            if workers < CORES:
                command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            nanny = psutil.Process(started[1].pid)

            def processes() -> list[psutil.Process]:
                return [child for child in nanny.children() if "spawn_main" in " ".join(child.cmdline())]

            wait_for(lambda: len(processes()) == workers, "the workers")
            pids = {f"worker {number}": child.pid for number, child in enumerate(processes(), 1)}
            address = json.loads(file.read_text())["address"]
            yield address, {"scheduler": started[0].pid, **pids}
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def wait_for(is_there: Any, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.1)


def measure_stage(
    report: Report,
    job: Path,
    folder: Path,
    stage: str,
    images: int,
    *,
    parts: Sequence[str] = (),
    more: Sequence[str] = (),
) -> None:
    """Do a stage of a job, whose run folder is `<folder>/scale`, on a cluster; report losses and memory.

    Parameters
    ----------
    parts : plans of the stage besides its own whose shards are work, too
    more : options of a second run, for which only the parts are done again: what would have been lost with
        them at once is reported, too
    """
    with cluster(folder) as (address, roles):
        began = time.time()
        command = [*CAMTRAP, stage, str(job), "--quiet", "--cluster", address]
        seconds = watch(report, command, roles, stage, images)
        report_losses(report, folder / "scale", began, seconds, stage, parts)
        if more:
            began = time.time()
            again = watch(report, [*command, *more], roles, f"{stage} {' '.join(more)}", images)
            report_losses_again(report, folder / "scale", began, seconds, again, stage, parts)
        clock = time.perf_counter()
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
        report.line("second run, nothing to do", f"{time.perf_counter() - clock:.1f} s")


def watch(report: Report, command: list[str], roles: dict[str, int], name: str, images: int) -> float:
    """Run a command to its end, and report its time, and how memory grows; returns seconds."""
    clock = time.perf_counter()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    memory: dict[str, list[int]] = {}
    pids = {"driver": driver.pid, **roles}
    while driver.poll() is None:
        for role, pid in pids.items():
            try:
                memory.setdefault(role, []).append(psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
        time.sleep(1)
    seconds = time.perf_counter() - clock
    if driver.returncode:
        raise SystemExit(f"{name} ended with {driver.returncode}")
    report.line(f"camtrap {name}", f"{seconds:.1f} s, {images / seconds:,.0f} images/s")
    for role, sizes in sorted(memory.items()):
        half = sizes[len(sizes) // 4 :]
        report.line(f"  memory of the {role}, GB", f"{max(sizes) / 1e9:.2f} at most")
        if role in ("driver", "scheduler") and len(half) > 8:
            middle, last = (statistics.median(some) for some in np.array_split(half, 3)[1:])
            report.target("    growth in the last half, GB", (last - middle) / 1e9, 0.05, "{:.3f}")
            report.target("    at its end above the middle, GB", (max(half) - middle) / 1e9, 0.3, "{:.3f}")
    return seconds


def report_losses(
    report: Report,
    run_folder: Path,
    began: float,
    seconds: float,
    stage: str = "validate",
    parts: Sequence[str] = (),
) -> None:
    """The share of the wall-clock that went to anything but shards, and to what.

    A receipt can't tell how long it took to file it, which is work on its shard, too: that is measured apart.
    Before shards are classified one worker checks the precision, and the others load what their first shard
    would: that is work of theirs, too.
    """
    events = events_since(run_folder, began)
    mine = [event for event in events if event.get("stage") == stage]
    done = [event for event in mine if event["event"] == "shard done"]
    filing = seconds_to_file_a_receipt(run_folder)
    work = work_of(events, stage, filing)
    of_parts = {part: work_of(events, part, filing) for part in parts}
    check = sum(
        Receipt.from_json(path.read_bytes()).seconds["total"]
        for path in run_folder.glob("receipts/precision/*/*.json")
    ) + sum(second for event in mine for second in event.get("loaded_s", []))
    planned, last, committed = (
        at(next(event for event in reversed(mine) if event["event"] == name)) - began
        for name in ("stage begins", "shard done", "committed")
    )
    lost = 1 - (work + check + sum(of_parts.values())) / (seconds * CORES)
    report.target("  share of time lost to other than shards", lost, 0.05, "{:.3f}")
    for name, spent_on in (
        ("start, listing and plan", planned - check / CORES),
        ("between shards", last - planned - work / CORES),
        ("check and commit", committed - last),
        ("end", seconds - committed - sum(of_parts.values()) / CORES),
    ):
        report.line(f"    {name}", f"{spent_on:.1f} s, {spent_on / seconds:.3f}")
    if check:
        report.line("  precision checked, libraries loaded", f"{check:.1f} s of all workers")
    phases = sorted({phase for event in done for phase in event["seconds"]} - {"total"})
    spent = {phase: sum(event["seconds"].get(phase, 0.0) for event in done) for phase in phases}
    shares = ", ".join(f"{phase} {value / work:.2f}" for phase, value in spent.items())
    report.line(f"  {len(done):,} shards, mean seconds of one", f"{work / len(done):.2f}, of it {shares}")
    for part, value in of_parts.items():
        report.line(f"  shards of {part}", f"{value:.1f} s of all workers")
    report.line("    to file its receipt, ms", f"{filing * 1e3:.1f}")


def report_losses_again(
    report: Report,
    run_folder: Path,
    began: float,
    first: float,
    again: float,
    stage: str,
    parts: Sequence[str],
) -> None:
    """The share that would have been lost, had the parts been done in the first run as in the second one."""
    filing = seconds_to_file_a_receipt(run_folder)
    before, events = events_since(run_folder, 0), events_since(run_folder, began)
    work = work_of(before, stage, filing) + sum(work_of(events, part, filing) for part in parts)
    committed = next(e for e in before if e.get("stage") == stage and e["event"] == "committed")
    ended = max(at(event) for event in before if at(event) < began)
    seconds = first - (ended - at(committed)) + again
    lost = 1 - work / (seconds * CORES)
    report.target("  share lost, the other options given at once", lost, 0.05, "{:.3f}")


def events_since(run_folder: Path, began: float) -> list[dict[str, Any]]:
    lines = (run_folder / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if at(event) >= began]


def work_of(events: Sequence[dict[str, Any]], stage: str, filing: float) -> float:
    """Seconds of workers in shards of a plan's stage."""
    done = (event for event in events if event.get("stage") == stage and event["event"] == "shard done")
    return sum(event["seconds"]["total"] + filing for event in done)


def seconds_to_file_a_receipt(run_folder: Path, times: int = 200) -> float:
    """On the disk that the run folder is on, in a folder beside it."""
    with tempfile.TemporaryDirectory(dir=run_folder.parent) as scratch:
        receipts = [
            Receipt(
                stage="validate",
                plan_id="plan",
                shard_id=f"{number:032x}",
                rows=376,
                files=(),
                counts={"ok": 376},
                seconds={"total": 1.0},
                attempt="attempt",
                worker="worker",
                versions={},
            )
            for number in range(times)
        ]
        began = time.perf_counter()
        for receipt in receipts:
            file_receipt(Folder(scratch), receipt)
        return (time.perf_counter() - began) / times


def at(event: dict[str, Any]) -> float:
    return dt.datetime.fromisoformat(event["time"]).timestamp()


def shards_done(run_folder: Path) -> int:
    return (run_folder / "log.jsonl").read_text().count('"event": "shard done", "stage": "validate"')


def report_files(report: Report, run_folder: Path) -> None:
    found: dict[str, list[int]] = {}
    for where, _, names in os.walk(run_folder):
        parts = Path(where).relative_to(run_folder).parts
        group = "/".join(parts[: 2 if parts[:1] in (("tables",), ("receipts",)) else 1])
        files = [Path(where, name).stat().st_size for name in names]
        for name in (group or "the log and others", "run folder"):
            found.setdefault(name, []).extend(files)
    for group, sizes in sorted(found.items()):
        if sizes:
            report.line(f"files: {group}", f"{len(sizes):,}, {sum(sizes) / 1e6:,.1f} MB")


def read_as_the_notebook_does(path: str) -> None:
    """json -> DataFrames -> each image with its annotation and the category's name; videos left out."""
    import pandas as pd

    with Path(path).open() as file:
        content = json.load(file)
    images = pd.DataFrame(content["images"])
    annotations = pd.DataFrame(content["annotations"])
    categories = pd.DataFrame(content["categories"])
    merged = images.merge(annotations, left_on="id", right_on="image_id", how="left", suffixes=("", "_mark"))
    merged = merged.merge(
        categories, left_on="category_id", right_on="id", how="left", suffixes=("", "_category")
    )
    merged = merged[~merged["file_name"].str.contains("avi")]
    print(len(merged[["file_name", "category_id"]]))


def write_data_set(folder: Path, images: int) -> Path:
    """Metadata of the shape of WCS Camera Traps, and the images that it names."""
    rng = np.random.default_rng(7)
    share = images / IMAGES
    sequences, locations = max(1, round(SEQUENCES * share)), max(1, round(LOCATIONS * share))
    sequence_sizes = divide(rng, images, sequences)
    location_sizes = divide(rng, sequences, locations)
    pool = write_pool(folder / "pool", rng)
    sound = [path for path in pool if path.name[0].isdigit()]
    odd = [path for path in pool if not path.name[0].isdigit()]
    shapes = [Image.open(path).size for path in sound]
    records: list[str] = []
    image_ids: list[str] = []
    ids = iter(hex_ids(rng, images + sequences))
    choice = iter(rng.integers(0, len(sound), images).tolist())
    chance = iter(rng.random(images).tolist())
    sequence = 0
    for location, size in enumerate(location_sizes):
        # The real file has both: the same kind of name as a number and as text.
        where = (
            str(location)
            if location % 3 == 0
            else f'"{location:04}"'
            if location % 3 == 1
            else f'"CT-{location}"'
        )
        start = dt.datetime(2006 + location % 12, 1 + location % 12, 1 + location % 28, location % 24)
        for number in range(size):
            inside = f"animals/{location:04}/{number:04}"
            target = folder / "images" / inside
            target.mkdir(parents=True)
            frames = sequence_sizes[sequence]
            seq_id = "null" if sequence % 500 == 499 else f'"{next(ids)}"'
            begin = start + dt.timedelta(hours=5 * number)
            for frame in range(frames):
                luck = next(chance)
                place = next(choice)
                source = odd[int(luck * 20_000)] if luck * 20_000 < len(odd) else sound[place]
                name = f"{inside}/{frame:04}{source.suffix}"
                if luck < 0.9999:  # 1 file of 10,000 is missing
                    os.link(source, folder / "images" / name)
                image_id = next(ids)
                image_ids.append(image_id)
                date = "null" if luck > 0.99 else f'"{begin + dt.timedelta(seconds=2 * frame)}"'
                corrupt = ', "corrupt": true' if source is odd[0] else ""
                width, height = shapes[place]
                records.append(
                    f'{{"id": "{image_id}", "file_name": "{name}", "width": {width}, "height": {height}, '
                    f'"location": {where}, "datetime": {date}, "seq_id": {seq_id}, '
                    f'"seq_num_frames": {frames}, "frame_num": {frame}{corrupt}, '
                    f'"country_code": "COL", "conservation_project_name": "site-{location % 40:02}"}}'
                )
            sequence += 1
    return write_metadata(folder / "wcs_camera_traps.json", rng, records, image_ids)


def write_metadata(path: Path, rng: np.random.Generator, records: list[str], image_ids: list[str]) -> Path:
    """Images in no order, some with several annotations, some with none; a few annotations of no image."""
    order = rng.permutation(len(records)).tolist()
    marked = [place for place in order if place % 200]
    marked += [place for place in order if place % 33 == 1]
    # Half of the images are empty; of the rest, few species make the most.
    animal = np.minimum(1 + rng.pareto(1.0, len(marked)).astype(int), CATEGORIES - 1)
    category = np.where(rng.random(len(marked)) < 0.5, 0, animal).tolist()
    mark_ids = hex_ids(rng, len(marked) + 3)
    names = {0: "empty", 5: "unknown bird", 6: "unknown bird"}
    with path.open("w") as file:
        file.write(
            '{"info": {"version": "1.0", "description": "WCS Camera Traps in shape"},\n "categories": '
        )
        json.dump([{"id": n, "name": names.get(n, f"species {n}")} for n in range(CATEGORIES)], file)
        file.write(',\n "images": [\n  ')
        file.write(",\n  ".join([records[place] for place in order]))
        file.write('],\n "annotations": [\n  ')
        marks = [
            f'{{"id": "{mark}", "image_id": "{image_ids[place]}", "category_id": {number}, "count": 1}}'
            for mark, place, number in zip(mark_ids, marked, category, strict=False)
        ]
        marks += [f'{{"id": "{mark}", "image_id": "gone", "category_id": 1}}' for mark in mark_ids[-3:]]
        file.write(",\n  ".join(marks))
        file.write("]\n}\n")
    return path


def divide(rng: np.random.Generator, total: int, parts: int) -> list[int]:
    """Sizes, at least 1 each, that add up to `total`."""
    borders = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    sizes: list[int] = np.diff([0, *borders.tolist(), total]).tolist()
    return sizes


def hex_ids(rng: np.random.Generator, number: int) -> list[str]:
    """Ids such as c3b0e2a4-5d1f-11e9-a7a5."""
    text = rng.bytes(12 * number).hex()
    return [
        f"{text[at : at + 8]}-{text[at + 8 : at + 12]}-{text[at + 12 : at + 16]}-{text[at + 16 : at + 24]}"
        for at in range(0, 24 * number, 24)
    ]


def write_pool(folder: Path, rng: np.random.Generator) -> list[Path]:
    """The files that images are links to: sound JPEGs, then those of `OTHERS`."""
    folder.mkdir()
    files: list[Path] = []
    for number in range(POOL):
        files.append(folder / f"{number:04}.jpg")
        files[-1].write_bytes(picture(rng))
    for name, copies in OTHERS.items():
        for number in range(copies):
            files.append(folder / f"{Path(name).stem}-{number}{Path(name).suffix}")
            files[-1].write_bytes(spoilt(files[-1].name, picture(rng)))
    return files


def picture(rng: np.random.Generator) -> bytes:
    """A smooth picture with some noise: 30 to 50 kB as a JPEG, a tenth of what a camera writes."""
    width = int(rng.integers(480, 641))
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, width * 3 // 4), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = pixels + rng.integers(-6, 7, pixels.shape, np.int16)
    encoded: bytes = simplejpeg.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), 85)
    return encoded


def spoilt(name: str, data: bytes) -> bytes:
    match name.partition("-")[0]:
        case "truncated":
            return data[: len(data) * 2 // 3]
        case "damaged":
            middle = len(data) * 2 // 3
            return data[:middle] + bytes(100) + data[middle + 100 :]
        case "clip":
            return b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(4096)
        case _:
            return b""


def change_one(images: Path) -> None:
    """Put another picture into the place of one."""
    path = next(images.rglob("0000.jpg"))
    buffer = io.BytesIO()
    Image.new("RGB", (100, 75), "green").save(buffer, "JPEG")
    new = path.with_suffix(".new")
    new.write_bytes(buffer.getvalue())
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
