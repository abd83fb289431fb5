"""Feature layers of ArcGIS Online and Enterprise that results are pushed to.

`section` is their part of the job file; `target` combines a job's layers; `layer` is one of them: its fields,
its rows, its edits; `push` brings it up to date, each row exactly once; `append` sends many rows in one
request; `create` makes layers from their `definition`; `attach` attaches photos to features.
"""

from __future__ import annotations

from camtrap_batch.targets.arcgis.attach import Attacher, photos_in
from camtrap_batch.targets.arcgis.create import create_layers
from camtrap_batch.targets.arcgis.layer import RemoteLayer
from camtrap_batch.targets.arcgis.section import PublishArcGIS, cameras_layer
from camtrap_batch.targets.arcgis.target import ArcGISTarget

__all__ = [
    "ArcGISTarget",
    "Attacher",
    "PublishArcGIS",
    "RemoteLayer",
    "cameras_layer",
    "create_layers",
    "photos_in",
]
