"""A job's detector: opened by name, kept in the run folder, loaded by workers."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from camtrap_batch.detection.base import DETECTORS, Detector, Finder, PictureDetector
from camtrap_batch.detection.catalog import CatalogDetector
from camtrap_batch.detection.results import ResultsDetector
from camtrap_batch.errors import InputError, choices
from camtrap_batch.job import Job
from camtrap_batch.job.detect import CATALOG, Detect
from camtrap_batch.runtime import Device, Precision
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run

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
        return CatalogDetector.open(job.dataset, results)
    if settings.results is not None:
        images = getattr(job.dataset, "images", None)
        return ResultsDetector.open(settings.results, images=images, key=results)
    path = str(settings.model)
    endings: dict[str, type[PictureDetector]] = {}
    for _, variant in DETECTORS.loadable():
        for ending in getattr(variant, "endings", ()):
            endings[ending] = variant  # type: ignore[assignment]
    chosen = next((variant for ending, variant in endings.items() if path.lower().endswith(ending)), None)
    if chosen is None:
        # Advice about weights that need code is more useful than a list of endings.
        chosen = endings[".onnx"] if Path(path).is_file() else None
    if chosen is None:
        possible = choices(Path(path).suffix, endings) + DETECTORS.broken()
        raise InputError(f"{key}.model: {path}: should end in {possible}")
    opened: Detector = chosen.open(path, size=settings.size, tiles=settings.tiles, key=f"{key}.model")
    return opened


def keep_detector(run: Run, detector: PictureDetector) -> Folder:
    """Keep the detector's files in the run folder, so that the run stays complete and workers see them."""
    kept = Folder(f"{run.folder.url}/detectors/{detector.detector_id}")
    files = detector.files
    for name, content in files.items():
        if not kept.exists(name):
            kept.write(name, content if isinstance(content, bytes) else content.read_bytes())
    return kept


@cache
def fetch_detector(kept: Folder) -> Path:
    """A kept detector on this machine's disk; copied once per process if it is in a bucket."""
    if kept.is_local:
        return kept.local("")
    here = Path(mkdtemp(prefix="camtrap-detector-"))
    for name in kept.list(""):
        (here / name).write_bytes(kept.read(name))
    return here


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
