"""Where results are pushed: keyed rows on a layer, edited in place so that a second push changes nothing.

`base` says what a target is, and lists them; `rows` builds the rows of the layers cameras, events and photos;
`edits` compares them with what a layer holds. `geopackage` is a layer file (the extra 'geo'), `arcgis` layers
of a portal.
"""

from __future__ import annotations

from camtrap_batch.targets.base import LAYERS, TARGETS, LayerRows, Push, Target, Wanted, targets_of
from camtrap_batch.targets.rows import PHOTOS, camera_rows, event_rows, photo_rows

__all__ = [
    "TARGETS",
    "Target",
    "Wanted",
    "targets_of",
    "LayerRows",
    "Push",
    "LAYERS",
    "PHOTOS",
    "camera_rows",
    "event_rows",
    "photo_rows",
]
