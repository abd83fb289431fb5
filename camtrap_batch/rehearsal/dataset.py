"""Write the whole synthetic data set into a folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from camtrap_batch.errors import InputError
from camtrap_batch.rehearsal import metadata
from camtrap_batch.rehearsal.faults import FAULTS, OUTSIDE, choose_faults
from camtrap_batch.rehearsal.oddities import choose_oddities
from camtrap_batch.rehearsal.photo import Drawn, take_photo
from camtrap_batch.rehearsal.plan import Frame, images_per_camera, plan_cameras, plan_frames

_MARK = "rehearsal.json"
_DRAWING = 2
"""Version of how photos are drawn; another version makes other bytes from the same seed."""

_CHUNK = 24


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Where the parts of a synthetic data set are.

    Args:
        metadata: COCO Camera Traps JSON.
        images: the image root.
        cameras: CSV of location, latitude, longitude (WGS 84), start and end of the deployment.
        truth: CSV, one row per image: what is drawn and which status must come out (metadata.write_truth).
        truth_events: CSV of location, label, start, end, n_images.
        truth_boxes: where animals and people are drawn on usable images, as the results of a detector that
            makes no mistakes: MegaDetector JSON, with the species of each box among its classifications.
        n_images: rows of the metadata, including broken ones.
    """

    metadata: Path
    images: Path
    cameras: Path
    truth: Path
    truth_events: Path
    truth_boxes: Path
    n_images: int


def write_dataset(
    folder: str | Path,
    *,
    cameras: int = 20,
    images: int = 2400,
    seed: int = 42,
    size: tuple[int, int] = (640, 480),
    broken: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Rehearsal:
    """Write a synthetic camera-trap data set: photos, metadata, camera table and ground truth.

    The same arguments give the same bytes (with the same Pillow and numpy). A folder that already holds
    the data set is left as it is; one that was interrupted is written again.

    Large data sets are drawn by several processes, which import the calling script: it must guard what it
    does with ``if __name__ == "__main__"``.

    Args:
        folder: created if it is missing.
        cameras: camera locations; the first five are those of the sample notebook.
        images: total number of images; cameras have different shares of them.
        seed: seed of everything that is drawn.
        size: width and height of the photos in pixels, at least 160 x 120.
        broken: put faulty files among the photos, at least one of every status but `crashed`, and odd ones, a
            few of every kind of finding.
        on_progress: called with the photos done and the total.

    Raises:
        InputError: `folder` holds something else.
        ValueError: an argument is out of range.
    """
    _check(cameras, images, size, broken)
    folder = Path(folder)
    order = {
        "cameras": cameras,
        "images": images,
        "seed": seed,
        "size": list(size),
        "broken": broken,
        "drawing": _DRAWING,
    }
    rehearsal = Rehearsal(
        metadata=folder / "metadata.json",
        images=folder / "images",
        cameras=folder / "cameras.csv",
        truth=folder / "truth.csv",
        truth_events=folder / "truth_events.csv",
        truth_boxes=folder / "truth_boxes.json",
        n_images=images,
    )
    # Earlier versions wrote no boxes: the same photos are drawn again.
    if _is_written(folder, order) and rehearsal.truth_boxes.exists():
        return rehearsal
    places = plan_cameras(cameras, seed)
    shares = images_per_camera(cameras, images, seed)
    plan = [plan_frames(camera, share, seed) for camera, share in enumerate(shares)]
    faults = choose_faults(plan, seed) if broken else {}
    oddities = choose_oddities(plan, faults, metadata.is_plain) if broken else {}
    rows = metadata.name_images(places, plan, faults, seed, oddities)
    for place in places:
        (rehearsal.images / place.folder).mkdir(parents=True, exist_ok=True)
    if broken:
        (rehearsal.images / OUTSIDE).parent.mkdir(exist_ok=True)
    animals = _write_photos(rehearsal.images, rows, seed, size, on_progress)
    every = [row for of_camera in rows for row in of_camera]
    metadata.write_cct(rehearsal.metadata, every, seed, size)
    metadata.write_cameras(rehearsal.cameras, places, plan, seed)
    metadata.write_truth(rehearsal.truth, every)
    metadata.write_truth_events(rehearsal.truth_events, every)
    metadata.write_truth_boxes(rehearsal.truth_boxes, every, animals)
    _mark(folder, order, complete=True)
    return rehearsal


def _check(cameras: int, images: int, size: tuple[int, int], broken: bool) -> None:
    if cameras < 1:
        raise ValueError(f"cameras is {cameras}, must be at least 1")
    least = max(cameras, len(FAULTS) if broken else 1)
    if images < least:
        raise ValueError(f"images is {images}, must be at least {least} for {cameras} cameras")
    if size[0] < 160 or size[1] < 120:
        raise ValueError(f"size is {size[0]} x {size[1]}, must be at least 160 x 120 pixels")


def _is_written(folder: Path, order: dict[str, object]) -> bool:
    """True if `folder` holds the requested data set; otherwise claims the folder."""
    mark = folder / _MARK
    if mark.is_file():
        try:
            found = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if found == order | {"complete": True}:
            return True
        if found != order | {"complete": False}:
            raise InputError(
                f"{folder}: holds another synthetic data set; name an empty folder, or delete this one"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder; the synthetic data set needs one")
    folder.mkdir(parents=True, exist_ok=True)
    _mark(folder, order, complete=False)
    return False


def _mark(folder: Path, order: dict[str, object], complete: bool) -> None:
    draft = folder / f".{_MARK}"
    draft.write_text(json.dumps(order | {"complete": complete}) + "\n", encoding="utf-8")
    draft.replace(folder / _MARK)


def _write_photos(
    root: Path,
    rows: Sequence[Sequence[metadata.Image]],
    seed: int,
    size: tuple[int, int],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, list[Drawn]]:
    """Draw every photo; returns what is drawn on each, by image id."""
    animals: dict[str, list[Drawn]] = {}
    chunks = [
        of_camera[start : start + _CHUNK] for of_camera in rows for start in range(0, len(of_camera), _CHUNK)
    ]
    total = sum(len(chunk) for chunk in chunks)
    workers = min(8, _processors())
    # A pool takes half a second to start, and a daemonic process may not have children. Threads are no help:
    # Pillow draws and pastes under the GIL.
    if workers == 1 or total < 10 * _CHUNK or multiprocessing.current_process().daemon:
        for chunk in chunks:
            animals |= _write_chunk(root, chunk, seed, size)
            if on_progress is not None:
                on_progress(len(animals), total)
        return animals
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is for the caller, which ends the pool
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        futures = [pool.submit(_write_chunk, root, chunk, seed, size) for chunk in chunks]
        try:
            for future in as_completed(futures):
                animals |= future.result()
                if on_progress is not None:
                    on_progress(len(animals), total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return animals


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_chunk(
    root: Path, rows: Sequence[metadata.Image], seed: int, size: tuple[int, int]
) -> dict[str, list[Drawn]]:
    animals = {}
    for row in rows:
        drawn = row.oddity.copy_of if row.oddity and row.oddity.copy_of else row.frame
        photo = take_photo(row.camera, drawn, seed, size)
        path = root / row.file_name
        if row.fault is not None:
            later = [
                take_photo(row.camera, _moved(drawn, seconds), seed, size).data
                for seconds in range(1, row.fault.seconds)
            ]
            row.fault.write(path, photo.data, later)
        else:
            path.write_bytes(row.oddity.write(photo.data) if row.oddity else photo.data)
        animals[row.image_id] = photo.animals
    return animals


def _moved(frame: Frame, seconds: int) -> Frame:
    """What a camera sees a few seconds later, as if the burst went on."""
    return replace(
        frame,
        position=frame.position + seconds,
        burst_frames=frame.burst_frames + seconds,
        time=frame.time + timedelta(seconds=seconds),
    )
