"""A run's results as files that other programs read: one module per format.

`md-json` MegaDetector batch results, `camtrap-dp` a data package, `csv` one row per image, `cct` COCO Camera
Traps. docs/exports.md has the mappings. All of them stream: 1.4 million images take under 1 GB.
"""

from __future__ import annotations

from camtrap_batch.exports.base import EXPORTS, Export, Out, write_export
from camtrap_batch.exports.images import ExportInput, Images
from camtrap_batch.exports.written import Written
from camtrap_batch.options import Option

__all__ = ["EXPORTS", "Export", "Images", "Option", "Out", "ExportInput", "Written", "write_export"]
