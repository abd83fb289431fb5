"""Speed of one epoch of `camtrap train` beside plain fastai over the original files.

    python benchmarks/train.py [IMAGES] [ARCH] [SIZE] [BATCH]

Copies of the real photos (../shared/real_images) are validated, which keeps thumbnails, and selected. Then
the same network learns the same images for one epoch, with the same batch: as `camtrap train` does it, from
the thumbnails table, and as fastai's documentation has it (`ImageDataLoaders.from_df`, `aug_transforms`, a
worker a core), from the files, each in a process of its own with the settings that it has for its users.
Prints images/s of training and validation together, and the ratio; on a GPU also for how much of our epoch
the GPU was busy. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

# As in workers, see camtrap_batch/worker.py; fastai has its own default.
os.environ.update({} if "--fastai" in sys.argv else {"OMP_WAIT_POLICY": "PASSIVE"})

import pandas as pd
import torch
from busy import watched_gpu
from PIL import ImageFile

from camtrap_batch import Job, open_run, run_stage
from camtrap_batch.cluster import Local, Workers, open_cluster
from camtrap_batch.images import ImageRoot
from camtrap_batch.model import Samples, TrainConfig, train
from camtrap_batch.model.architectures import create_model
from camtrap_batch.model.device import choose_device, choose_precision
from camtrap_batch.stages.train.selected import read_samples

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "real_images"
CORES = len(os.sched_getaffinity(0))
LR = 1e-3
CPU_RATIO, GPU_RATIO, GPU_BUSY = 2.5, 5.0, 0.85


def main(images: int = 600, arch: str = "resnet34", size: int = 224, batch: int = 32) -> int:
    if not PHOTOS.is_dir():
        print("skipped: the real photos (../shared/real_images) are not there")
        return 0
    device = choose_device("auto")
    precision = str(choose_precision(device)).removeprefix("torch.")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{CORES} cores"
    load = os.getloadavg()[0]
    print(f"{images} images, {arch}, {size} px, batch {batch}, {name}, {precision}, load {load:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        job = prepare(Path(scratch), images)
        samples = samples_of(job)
        ours, busy = our_epoch(samples, TrainConfig(arch, "none", size, 1, batch, LR), Path(scratch))
        theirs = fastai_epoch(samples, job, arch, size, batch, Path(scratch))
    ratio = ours / theirs
    if device.type == "cuda":
        least = GPU_RATIO
    elif precision == "bfloat16":
        least = CPU_RATIO
    else:
        least = 0.0
        print("this CPU has no bfloat16: there is no target")
    print(f"camtrap {ours:8.1f} images/s")
    print(f"fastai  {theirs:8.1f} images/s")
    print(f"ratio   {ratio:8.2f}, target {least:g}: {'holds' if ratio >= least else 'MISSED'}")
    missed = ratio < least
    if busy is not None:
        print(f"GPU busy {busy:7.0%}, target {GPU_BUSY:.0%}: {'holds' if busy >= GPU_BUSY else 'MISSED'}")
        missed |= busy < GPU_BUSY
    return int(missed)


def prepare(folder: Path, images: int) -> Job:
    """A run with thumbnails and a selection of copies of the real photos: two classes, ten locations."""
    sources = sorted(path for path in PHOTOS.rglob("*") if path.suffix.lower() == ".jpg")
    rows = []
    for number in range(images):
        name = f"L{number % 10}/{number:06}.jpg"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources[number % len(sources)], path)
        with path.open("ab") as file:
            file.write(number.to_bytes(4))  # behind the picture's end: no two files are the same
        rows.append((name, number // 10 % 2 + 1))
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "category_id"), *rows])
    job = Job.model_validate(
        {
            "name": "train",
            "output": str(folder / "runs"),
            "dataset": {
                "format": "csv",
                "metadata": str(folder / "images.csv"),
                "images": str(folder / "images"),
                "location": {"level": 0},
            },
            "select": {"split": {"by": "random"}},
        }
    )
    with open_cluster(Local(gpu=Workers(workers=0), dashboard="127.0.0.1:0")) as client:
        for stage in ("catalog", "validate", "select"):
            run_stage(job, stage, client)
    return job


def samples_of(job: Job) -> Samples:
    run = open_run(job)
    return read_samples(
        run.folder,
        ImageRoot(job.dataset.images),
        run.snapshot("selection"),
        run.snapshot("manifest"),
        use_thumbnails=True,
        budget=2**30,
    )


def our_epoch(samples: Samples, config: TrainConfig, folder: Path) -> tuple[float, float | None]:
    """Images/s of training and validation, and the share of the time in which a GPU was busy."""
    ended = 0.0

    def listen(event: dict[str, Any]) -> None:
        nonlocal ended
        if "valid_loss" in event:
            ended = time.time()

    with watched_gpu() as busy:
        result = train(samples, config, folder / "models", {}, listen)
    with (folder / "models" / result.model_id / "history.csv").open() as file:
        seconds = float(next(csv.DictReader(file))["seconds"])
    n_images = len(samples.of_split("train")) + len(samples.of_split("valid"))
    return n_images / seconds, busy.between(ended - seconds, ended)


def fastai_epoch(samples: Samples, job: Job, arch: str, size: int, batch: int, folder: Path) -> float:
    """Images/s of training and validation of fastai, in a process of its own."""
    names = open_run(job).table("catalog").to_pandas(["image_id", "file_name"]).set_index("image_id")
    frame = pd.DataFrame(
        {
            "file": names.loc[list(samples.image_ids), "file_name"].to_numpy(),
            "label": list(samples.labels),
            "is_valid": [split == "valid" for split in samples.splits],
        }
    )
    frame.to_csv(folder / "frame.csv", index=False)
    options = {
        "folder": str(folder),
        "images": job.dataset.images,
        "arch": arch,
        "size": size,
        "batch": batch,
    }
    settings = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, __file__, "--fastai", json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=settings)
    return float(done.stdout)


def run_fastai(folder: str, images: str, arch: str, size: int, batch: int) -> None:
    """An epoch as fastai's documentation has it; prints images/s."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # some of the real photos are
    frame = pd.read_csv(Path(folder) / "frame.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.vision.all import CrossEntropyLossFlat, ImageDataLoaders, Learner, Resize, aug_transforms

        loaders = ImageDataLoaders.from_df(
            frame,
            path=images,
            valid_col="is_valid",
            item_tfms=Resize(size),
            batch_tfms=aug_transforms(),
            bs=batch,
            num_workers=CORES,
            device=choose_device("auto"),
        )
        network = create_model(arch, frame["label"].nunique(), "none", size)
        learn = Learner(loaders, network, loss_func=CrossEntropyLossFlat())
        with learn.no_bar(), learn.no_logging():
            began = time.perf_counter()
            learn.fit_one_cycle(1, LR)
        print(len(frame) / (time.perf_counter() - began))


if __name__ == "__main__":
    given = sys.argv[1:]
    if "--fastai" in given:
        run_fastai(**json.loads(given[1]))
        sys.exit()
    sys.exit(main(*(int(value) if value.isdecimal() else value for value in given)))  # type: ignore[arg-type]
