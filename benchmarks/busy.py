"""For how much of a time a GPU was busy, as nvidia-smi says."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

_LOOK_EVERY_MS = 100


@dataclass
class Busy:
    """What nvidia-smi said: time, share of the last moment in which the GPU worked."""

    seen: list[tuple[float, float]] = field(default_factory=list)

    def between(self, begin: float, end: float) -> float | None:
        shares = [share for moment, share in self.seen if begin <= moment <= end]
        return sum(shares) / len(shares) if shares else None


@contextmanager
def watched_gpu() -> Iterator[Busy]:
    busy = Busy()
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        yield busy
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
    watcher = subprocess.Popen([*query, f"-lms={_LOOK_EVERY_MS}"], stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            busy.seen.append((time.time(), float(line) / 100))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield busy
    finally:
        watcher.terminate()
        watcher.wait()
        reader.join()
