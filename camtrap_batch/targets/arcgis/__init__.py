"""Feature layers of ArcGIS Online and Enterprise that results are pushed to.

`layer` is one layer: its fields, its rows, edits of it; `target` pushes a job's rows, each exactly once;
`append` sends many of them in one request; `create` makes layers by their `definition`; `attach` attaches
photos to features.
"""

from __future__ import annotations

from camtrap_batch.targets.arcgis.attach import Attacher, Photo, photos_in
from camtrap_batch.targets.arcgis.create import create_layers
from camtrap_batch.targets.arcgis.layer import RemoteLayer
from camtrap_batch.targets.arcgis.target import ArcGISTarget

__all__ = ["ArcGISTarget", "Attacher", "Photo", "RemoteLayer", "create_layers", "photos_in"]
