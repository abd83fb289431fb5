"""Where results are pushed: keyed rows on a layer, edited in place so that a second push changes nothing.

`rows` builds the rows of the layers cameras, events and photos; `base` compares them with what a layer holds;
`geopackage` is a layer file. `GeoPackageTarget` needs the extra 'geo'.
"""

from __future__ import annotations

from camtrap_batch.targets.base import LayerRows, Push, plan_edits, row_hashes
from camtrap_batch.targets.geopackage import GeoPackageTarget
from camtrap_batch.targets.rows import PHOTOS, camera_rows, event_rows, photo_rows

__all__ = [
    "LayerRows",
    "Push",
    "plan_edits",
    "row_hashes",
    "GeoPackageTarget",
    "camera_rows",
    "event_rows",
    "photo_rows",
    "PHOTOS",
]
