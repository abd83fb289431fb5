"""The HTML report: one self-contained file about a run, that needs no network, no JavaScript and no server.

`data` is what goes in, `page` fills the templates. `sightings` and `accuracy` work out what the tables and
charts show; `charts` and `maps` draw, with the elements and scales of `svg`; `text` writes numbers.
"""

from __future__ import annotations

from camtrap_batch.report.data import Example, Finding, ReportData
from camtrap_batch.report.page import render

__all__ = ["render", "ReportData", "Example", "Finding"]
