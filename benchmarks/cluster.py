"""Load of the driver and of the scheduler by the number of cores: where does the driver become the limit?

    python benchmarks/cluster.py [--workers N,N,...] [--shard-seconds S] [--seconds S] [--images N]

Workers of one thread are simulated: real Dask workers, many in each of a few processes, with tasks that sleep
as long as a shard takes and then file a real receipt. The driver is the real fan-out with the log and the
progress of a job, in a process of its own; so is the scheduler. Two things are measured:

- with shards of S seconds and 1 to 256 workers, the CPU time of driver and scheduler for each shard;
- with shards that take no time at all, how many shards a second come through (saturation).

Driver and scheduler are one thread each, so that the busier one's CPU time of a shard bounds the rate where
each has a core of its own, as on a cluster. Here the workers live on the same cores, and the rate measured is
lower. Either is said in cores: as many as finish that many shards a second. Ends with 1 where the bound by
CPU time is not above 1,000 cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import psutil

from camtrap_batch.cluster.settings import SETTINGS

HERE = Path(__file__).resolve().parent
CORES = len(os.sched_getaffinity(0))
IMAGES, SHARD_SIZE, WANTED_CORES = 1_369_991, 500, 1_000
SHARD_SECONDS = 2.8
"""Of 500 photos of 458 kB on one core, without thumbnails (RESULTS.md, validate.py: 365 images/s on 2)."""
PROCESSES = 4  # that hold the simulated workers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", default="1,4,16,64,256", metavar="N,N")
    parser.add_argument("--shard-seconds", type=float, default=SHARD_SECONDS, metavar="S")
    parser.add_argument("--seconds", type=float, default=30, metavar="S", help="of each measurement")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N")
    parser.add_argument("--drive", metavar="JSON", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(**json.loads(options.drive))
        return 0
    numbers = [int(text) for text in options.workers.split(",")]
    print(f"{CORES} cores, load {os.getloadavg()[0]:.1f}; shards of {options.shard_seconds:g} s")
    print("workers  shards  shards/s  possible  driver ms  scheduler ms  (CPU of a shard)")
    for number in numbers:
        shards = max(20, int(number / options.shard_seconds * options.seconds))
        found = measure(number, shards, options.shard_seconds)
        possible = number / options.shard_seconds
        print(
            f"{number:7}  {shards:6}  {found.rate:8.1f}  {possible:8.1f}  "
            f"{1000 * found.driver / shards:9.2f}  {1000 * found.scheduler / shards:12.2f}",
            flush=True,
        )
    most = max(numbers)
    full = measure(most, max(500, int(20 * options.seconds)), 0.0)
    limits = [full.rate, 1 / max(full.driver / full.shards, full.scheduler / full.shards)]
    print(
        f"saturation, {most} workers, shards of 0 s: {full.rate:.0f} shards/s; CPU of a shard: driver "
        f"{1000 * full.driver / full.shards:.2f} ms, scheduler {1000 * full.scheduler / full.shards:.2f} ms "
        f"(alone on its core, the busier one would do {limits[1]:.0f} shards/s)"
    )
    shards = -(-options.images // SHARD_SIZE)
    cores = [limit * options.shard_seconds for limit in limits]
    print(
        f"the driver is the limit from {cores[0]:,.0f} cores on as measured here, where workers, driver and "
        f"scheduler share {CORES} cores, and from {cores[1]:,.0f} on by its CPU time"
    )
    print(
        f"{options.images:,} images are {shards:,} shards: {shards / limits[1]:.0f} s of the busier one "
        f"however many cores there are; {WANTED_CORES:,} cores need "
        f"{WANTED_CORES / options.shard_seconds:.0f} shards/s: "
        f"{'holds' if cores[1] > WANTED_CORES else 'MISSED'}"
    )
    return 0 if cores[1] > WANTED_CORES else 1


@dataclass(frozen=True)
class Load:
    """Shards a second, and CPU seconds of driver and scheduler while the shards ran."""

    shards: int
    rate: float
    driver: float
    scheduler: float


def measure(workers: int, shards: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory(prefix="cluster-") as scratch:
        with started_scheduler(Path(scratch)) as (process, address), started_workers(address, workers):
            options = {
                "scheduler": process.pid,
                "address": address,
                "folder": scratch,
                "workers": workers,
                "shards": shards,
                "seconds": seconds,
            }
            done = subprocess.run(
                [sys.executable, __file__, "--drive", json.dumps(options)],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            found = json.loads(done.stdout)
        return Load(shards, shards / found["wall"], found["driver"], found["scheduler"])


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def started_scheduler(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    file = folder / "scheduler.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0",
         "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        },
    )  # fmt: skip
    try:
        while not (file.exists() and file.read_text().strip()):
            time.sleep(0.1)
        yield psutil.Process(process.pid), json.loads(file.read_text())["address"]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def started_workers(address: str, number: int) -> Iterator[None]:
    """So many workers of one thread, in a few processes."""
    context = multiprocessing.get_context("spawn")
    shares = [number // PROCESSES + (place < number % PROCESSES) for place in range(PROCESSES)]
    first = [sum(shares[:place]) for place in range(PROCESSES)]
    processes = [
        context.Process(target=hold_workers, args=(address, begin, share), daemon=True)
        for begin, share in zip(first, shares, strict=True)
        if share
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def hold_workers(address: str, first: int, number: int) -> None:
    import asyncio

    import dask
    from distributed import Worker

    async def run() -> None:
        workers = [
            Worker(address, name=f"sim-{first + place}", nthreads=1, resources={"CPU": 1}, memory_limit=0)
            for place in range(number)
        ]
        for worker in workers:
            await worker
        await asyncio.gather(*(worker.finished() for worker in workers))

    # Profiles of threads that sleep cost more here, where many workers share a process.
    logging.disable()
    with dask.config.set({**SETTINGS, "distributed.worker.profile.enabled": False}):
        asyncio.run(run())


@dataclass(frozen=True)
class Sleep:
    """A stage whose shards sleep, and then file a receipt as those of validate do."""

    folder: Any
    plan: tuple[str, str]
    seconds: float
    divisible: ClassVar[bool] = True
    image_root: ClassVar[None] = None

    def run(self, shard: Any, payload: bytes, here: Any) -> Any:
        from camtrap_batch.store.tables import finish_shard

        began = time.monotonic()
        time.sleep(self.seconds)
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            {},
            counts={"ok": shard.rows},
            seconds={"read": 0.0, "decode": self.seconds},
            started=began,
            worker=here.name,
        )

    def crashed(self, shard: Any, payload: bytes) -> Any:
        raise NotImplementedError("no image is opened here")


def drive(scheduler: int, address: str, folder: str, workers: int, shards: int, seconds: float) -> None:
    """The driver: a stage as `camtrap validate` runs it. Prints what the shards alone took."""
    import dask
    import numpy as np
    import pyarrow as pa
    from distributed import Client

    from camtrap_batch import Job
    from camtrap_batch.engine.base import GivenExecutor
    from camtrap_batch.engine.dask.executor import DaskExecutor
    from camtrap_batch.monitor.display import Silent
    from camtrap_batch.pipeline.context import Context
    from camtrap_batch.pipeline.rows import pack
    from camtrap_batch.pipeline.shards import _observe as observe
    from camtrap_batch.store.run import Run
    from camtrap_batch.store.shards import Plan, Shard

    dataset = {"format": "folder", "images": f"{folder}/images"}
    run = Run(Job.parse({"name": "run", "output": f"{folder}/runs", "dataset": dataset}, base=Path(folder)))
    plan = Plan.make(
        "validate",
        [Shard(f"{n:016x}", n * SHARD_SIZE, (n + 1) * SHARD_SIZE) for n in range(shards)],
        {},
    )
    # A payload as large as that of validate: id, file name, place and time of each image.
    rng = np.random.default_rng(1)
    rows = pa.table(
        {
            "image_id": [rng.bytes(12).hex() for _ in range(SHARD_SIZE)],
            "file_name": [f"animals/{n // 60:04}/{rng.bytes(4).hex()}/{n:04}.jpg" for n in range(SHARD_SIZE)],
            "location": [f"loc-{n // 60:04}" for n in range(SHARD_SIZE)],
            "seq_id": [rng.bytes(12).hex() for _ in range(SHARD_SIZE)],
            "datetime": pa.array(rng.integers(10**15, 2 * 10**15, SHARD_SIZE), pa.timestamp("us")),
            "listed_bytes": rng.integers(10**5, 10**6, SHARD_SIZE),
            "modified": [str(1.6e9 + n) for n in range(SHARD_SIZE)],
        }
    )
    locations = pa.chunked_array([pa.array([f"loc-{n // 350}" for n in range(plan.rows)])])
    with dask.config.set(SETTINGS), Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers)
        executor = DaskExecutor(client)
        context = Context(run.job, run, GivenExecutor(executor), Silent(), threading.Event())
        # Of a module that has a name: what belongs to a script travels as code, with each task.
        work = import_module("cluster").Sleep(run.folder, (plan.stage, plan.id), seconds)
        executor.publish(context.progress)
        context.progress.planned(plan, {}, locations)
        processes = {"driver": psutil.Process(), "scheduler": psutil.Process(scheduler)}
        began, before = time.perf_counter(), {name: cpu(process) for name, process in processes.items()}
        outcome = executor.fan_out(
            plan,
            plan.shards,
            work,
            lambda _: pack(rows),
            need="CPU",
            observe=lambda event: observe(context, plan.stage, event),
            stop=context.stop,
        )
        spent = {name: cpu(process) - before[name] for name, process in processes.items()}
        spent["wall"] = time.perf_counter() - began
        executor.close()
    if len(outcome.receipts) != shards:
        raise RuntimeError(f"{len(outcome.receipts)} of {shards} shards ran")
    print(json.dumps(spent))


if __name__ == "__main__":
    sys.exit(main())
