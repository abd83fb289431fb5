"""A job's detector: opened by name, kept in the run folder, loaded by workers."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from camtrap_batch.detection.base import DETECTORS, Detector, Finder, KnownDetector, PictureDetector
from camtrap_batch.detection.catalog import CatalogDetector
from camtrap_batch.detection.given import ResultsDetector
from camtrap_batch.errors import Damaged, InputError, choices
from camtrap_batch.job import Job
from camtrap_batch.job.detect import CATALOG, Detect
from camtrap_batch.notices import say
from camtrap_batch.runtime import Device, Precision, hash_file, read_onnx
from camtrap_batch.store import sums
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import OTHER_BYTES, Unreadable
from camtrap_batch.store.run import Run

FOLDER = "detectors"
"""Folder, in the run folder, of the detectors that it was made with."""

_loaded: dict[tuple[object, ...], Finder] = {}
_loading = threading.Lock()


def open_detector(job: Job, settings: Detect, key: str = "detect") -> Detector:
    """The detector that a job names.

    Parameters
    ----------
    key : key of its section, for messages

    Raises
    ------
    InputError
        It can't be used.
    """
    results = "infer.detections" if key == "infer" else f"{key}.results"  # its former name
    if settings.results == CATALOG:
        return CatalogDetector.of(job.dataset, results)
    if settings.results is not None:
        images = getattr(job.dataset, "images", None)
        reader = _of_ending(settings.results, _endings("match")) or ResultsDetector
        known: KnownDetector = reader.open(settings.results, images=images, key=results)
        return known
    path = str(settings.model)
    endings = _endings("load")
    chosen = _of_ending(path, endings)
    if chosen is None:
        # Advice about weights that need code is more useful than a list of endings.
        chosen = endings[".onnx"] if Path(path).is_file() else None
    if chosen is None:
        possible = choices(Path(path).suffix, endings) + DETECTORS.broken()
        raise InputError(f"{key}.model: {path}: should end in {possible}")
    opened: Detector = chosen.open(path, size=settings.size, tiles=settings.tiles, key=f"{key}.model")
    return opened


def _endings(ability: str) -> dict[str, Any]:
    """Ending of files -> the detector for them, of those with a method of that name."""
    return {
        ending: variant
        for _, variant in DETECTORS.loadable()
        if hasattr(variant, ability)
        for ending in getattr(variant, "endings", ())
    }


def _of_ending(path: str, endings: dict[str, Any]) -> Any:
    return next((variant for ending, variant in endings.items() if path.lower().endswith(ending)), None)


def keep_detector(run: Run, detector: PictureDetector) -> Folder:
    """Keep the detector's files in the run folder, so that the run stays complete and workers see them."""
    kept = Folder(f"{run.folder.url}/{FOLDER}/{detector.detector_id}")
    hashes = {
        name: sums.sha256_of(content) if isinstance(content, bytes) else hash_file(content)
        for name, content in detector.files.items()
    }
    is_recorded = _recorded(kept) == hashes
    for name, content in detector.files.items():
        # Every worker looks at what it loads: a bucket's file is not downloaded here as well.
        is_there = kept.exists(name)
        if is_there and ((is_recorded and not kept.is_local) or _hash_of(kept, name) == hashes[name]):
            continue
        if is_there:
            say(f"{kept.url}/{name}: {OTHER_BYTES}; replaced")
        kept.write(name, content if isinstance(content, bytes) else content.read_bytes())
    if not is_recorded:
        sums.write_sums(kept, hashes)
    return kept


def _recorded(kept: Folder) -> dict[str, str] | None:
    try:
        return sums.read_sums(kept)
    except Unreadable:
        return None


def _hash_of(kept: Folder, name: str) -> str:
    return hash_file(kept.local(name)) if kept.is_local else sums.sha256_of(kept.read(name))


@cache
def fetch_detector(kept: Folder) -> Path:
    """A kept detector on this machine's disk; copied once per process if it is in a bucket.

    Raises Damaged if a file of it is not as it was written.
    """
    hashes = _recorded(kept) or {}
    here = kept.local("") if kept.is_local else Path(mkdtemp(prefix="camtrap-detector-"))
    if not kept.is_local:
        for name in kept.list(""):
            (here / name).write_bytes(kept.read(name))
    for name, sha256 in hashes.items():
        if not (here / name).exists() or hash_file(here / name) != sha256:
            what = OTHER_BYTES if (here / name).exists() else "is missing"
            raise Damaged(kept.url, name, what, "`camtrap check JOB --repair` has it replaced")
    return here


def detector_fault(kept: Folder) -> str | None:
    """What is wrong with a detector that an earlier version kept, as far as can be seen: of a package's own
    detectors nothing is known."""
    from camtrap_batch.detection.onnx import CARD, MODEL, read_card

    here = fetch_detector(kept)
    try:
        if (here / MODEL).exists():
            read_onnx(here / MODEL)
        read_card(here / CARD)
    except InputError as problem:
        return f"is damaged ({problem})"
    return None


def load_finder(
    detector: PictureDetector, kept: Folder, device: Device, threads: int, batch: int, precision: Precision
) -> Finder:
    """A detector that is ready to use; the process keeps the last one.

    Raises
    ------
    MissingExtra, JobError
        No runtime is installed here, or none for the device.
    """
    key = (detector.detector_id, device, threads, batch, precision)
    with _loading:
        if key not in _loaded:
            _loaded.clear()  # first, as two large networks may exceed the memory
            _loaded[key] = detector.load(fetch_detector(kept), device, threads, batch, precision)
        return _loaded[key]
