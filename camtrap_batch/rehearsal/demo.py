"""What `camtrap demo` runs: the synthetic data set and its job file, in a folder of their own."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path

from camtrap_batch.errors import InputError
from camtrap_batch.monitor.display import Display
from camtrap_batch.rehearsal.dataset import write_dataset

CAMERAS, IMAGES = 20, 2400

_OURS = {"data", "demo.yaml", "runs"}


def prepare_demo(folder: Path, display: Display) -> Path:
    """Write `<folder>/data` and `<folder>/demo.yaml`, as far as they are not there; returns the job file.

    Raises
    ------
    InputError
        The folder holds something that is not a demo's.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a new folder for the demo")
    strange = {entry.name for entry in folder.iterdir()} - _OURS if folder.is_dir() else set()
    if strange:
        raise InputError(f"{folder}: holds {min(strange)}, which is not the demo's; name a new folder")
    began = time.monotonic()
    display.begin("data set", IMAGES, 0, {})
    written = 0

    def show(done: int, of: int) -> None:
        nonlocal written
        display.advance(done - written, {})
        written = done

    write_dataset(folder / "data", cameras=CAMERAS, images=IMAGES, on_progress=show)
    display.end()
    if written:
        display.note(
            f"data set  {IMAGES:,} synthetic photos of {CAMERAS} cameras, {time.monotonic() - began:.0f} s"
        )
    job = folder / "demo.yaml"
    text = files("camtrap_batch.rehearsal").joinpath("demo.yaml").read_text()
    text = text.replace("output: demo/runs", f"output: {folder / 'runs'}")
    if not job.exists():
        job.write_text(text)
    return job
