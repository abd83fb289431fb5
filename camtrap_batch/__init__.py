"""Batch processing of camera-trap data sets on a Dask cluster.

>>> import camtrap_batch
>>> run = camtrap_batch.open_run("jobs/demo.yaml")            # doctest: +SKIP
>>> run.table("manifest").to_pandas()                         # doctest: +SKIP
>>> camtrap_batch.run_stage(job, "validate", client)          # doctest: +SKIP
"""

from __future__ import annotations

from importlib.metadata import version

from camtrap_batch.job import Job
from camtrap_batch.stages import run_stage
from camtrap_batch.store.run import Run, open_run

__all__ = ["Job", "Run", "open_run", "run_stage", "__version__"]

__version__ = version("camtrap-batch")
