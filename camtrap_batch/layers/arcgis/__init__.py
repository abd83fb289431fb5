"""Feature layers of ArcGIS Online and Enterprise, through the client `arcgis` (the extra 'arcgis').

`connection` signs in; `service` asks a feature service and tells what an answer means; `layer` is one layer:
its fields, its rows, edits of it; `target` pushes a job's rows, each exactly once.
"""

from __future__ import annotations

from camtrap_batch.layers.arcgis.connection import Portal, connect
from camtrap_batch.layers.arcgis.create import create_layers
from camtrap_batch.layers.arcgis.layer import RemoteLayer
from camtrap_batch.layers.arcgis.service import Service
from camtrap_batch.layers.arcgis.target import ArcGISTarget

__all__ = ["ArcGISTarget", "Portal", "RemoteLayer", "Service", "connect", "create_layers"]
