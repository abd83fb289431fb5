"""What every Dask worker does first: `dask worker --preload camtrap_batch.worker`.

The name is kept for clusters that people start themselves.
"""

from camtrap_batch.engine.dask.preload import dask_setup

__all__ = ["dask_setup"]
