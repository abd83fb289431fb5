"""Where a job's images are."""

from __future__ import annotations

from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.attachments import Photos
from camtrap_batch.job import Job
from camtrap_batch.portal import Portal
from camtrap_batch.store.folder import Folder


def image_root(job: Job) -> ImageRoot:
    """The folder, or the feature layer, that file names of a job's catalog belong to."""
    dataset = job.dataset
    if dataset.layer is not None:
        photos = Photos(Portal.of(dataset.layer, "dataset.layer"), Folder(job.run_url))
        return ImageRoot(str(dataset.metadata), {"photos": photos}, "attachments")
    return ImageRoot(str(dataset.images), dataset.storage_options)
