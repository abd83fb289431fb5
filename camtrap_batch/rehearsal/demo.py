"""What `camtrap demo` runs: the synthetic data set and its job file, in a folder of their own."""

from __future__ import annotations

import threading
import time
from importlib.resources import files
from pathlib import Path

from camtrap_batch.errors import InputError, Interrupted
from camtrap_batch.monitor.display import Display
from camtrap_batch.rehearsal.dataset import write_dataset

CAMERAS, IMAGES = 20, 2400

DETECTOR = ("detector.onnx", "detector.json")
"""A detector that knows drawings, not photographs: detector.md, beside it, says how it was made."""

_OURS = {"data", "demo.yaml", *DETECTOR, "runs"}


def write_demo_job(folder: Path) -> Path:
    """Write `<folder>/demo.yaml`, and the detector beside it, unless they exist; returns the former's path.

    Raises
    ------
    InputError
        The folder holds something that no demo wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a new folder for the demo")
    strange = {entry.name for entry in folder.iterdir()} - _OURS if folder.is_dir() else set()
    if strange:
        raise InputError(f"{folder}: holds {min(strange)}, which is not the demo's; name a new folder")
    job = folder / "demo.yaml"
    if not job.exists():
        folder.mkdir(parents=True, exist_ok=True)
        ours = files("camtrap_batch.rehearsal")
        for name in DETECTOR:
            (folder / name).write_bytes(ours.joinpath(name).read_bytes())
        job.write_text(ours.joinpath("demo.yaml").read_text())
    return job


def write_demo_data(folder: Path, display: Display, stop: threading.Event) -> None:
    """Write `<folder>/data` unless it exists. Raises Interrupted soon after `stop` is set."""
    began = time.monotonic()
    display.begin("data set", IMAGES, 0, {})
    written = 0

    def show(done: int, of: int) -> None:
        nonlocal written
        if stop.is_set():
            raise Interrupted("demo: interrupted while its data set was written; the same command goes on")
        display.advance(done - written, {})
        written = done

    write_dataset(folder / "data", cameras=CAMERAS, images=IMAGES, on_progress=show)
    display.end()
    if written:
        display.note(
            f"data set  {IMAGES:,} synthetic photos of {CAMERAS} cameras, {time.monotonic() - began:.0f} s"
        )
