"""Batch processing of camera-trap data sets on a Dask cluster.

>>> import camtrap_batch
>>> run = camtrap_batch.open_run("jobs/demo.yaml")            # doctest: +SKIP
>>> run.table("manifest").to_pandas()                         # doctest: +SKIP
>>> camtrap_batch.run_stage(job, "validate", client)          # doctest: +SKIP

Names are loaded when they are used, so importing the package takes no time.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camtrap_batch.job import Job
    from camtrap_batch.pipeline import run_stage
    from camtrap_batch.store.run import Run, open_run

__all__ = ["Job", "Run", "open_run", "run_stage", "__version__"]

__version__ = version("camtrap-batch")

_WHERE = {"Job": "job", "run_stage": "pipeline", "Run": "store.run", "open_run": "store.run"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
