"""Where a job's images are."""

from __future__ import annotations

from camtrap_batch.catalog import reader_of
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Job


def image_root(job: Job) -> ImageRoot:
    """The folder or feature layer to which the file names of a job's catalog belong."""
    return reader_of(job.dataset).images(job.run_url)
