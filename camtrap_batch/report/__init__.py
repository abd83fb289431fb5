"""The HTML report: what a run found, to be explored without a network or a server.

`data` is the input, `page` fills the templates, `pages` makes what the script shows for each camera and
species, `bundle` the files of all that. `summary`, `sightings`, `dates` and `accuracy` derive the content,
`choice` selects events with photos; `charts` and `maps` draw, with the elements and scales of `svg`; `text`
formats numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from camtrap_batch.report.bundle import FINGERPRINT, Bundle, Content
from camtrap_batch.report.data import Box, Detected, Example, Finding, Photo, ReportData
from camtrap_batch.report.dates import Dates, find_dates
from camtrap_batch.report.names import Names
from camtrap_batch.report.page import render

__all__ = [
    "render",
    "render_files",
    "ReportData",
    "Box",
    "Photo",
    "Example",
    "Finding",
    "Detected",
    "Names",
    "Dates",
    "find_dates",
    "Bundle",
    "FINGERPRINT",
]


def render_files(data: ReportData, parts: str = "parts") -> tuple[str, Iterator[tuple[str, Content]]]:
    """The page, and path and content of each file beside it that it opens, in the folder `parts`."""
    bundle = Bundle(data, parts)
    return render(data, bundle), bundle.files()
