"""What a new model, threshold or event rule changed: two results of `merge`, compared before one is pushed.

`sides` reads them from a run folder, `compare` compares them, `causes` says what made them differ; `page`,
`tables` and `csvfile` show the result.
"""

from __future__ import annotations

from camtrap_batch.diff.causes import find_causes
from camtrap_batch.diff.compare import ChangedImage, Diff, Side, compare
from camtrap_batch.diff.console import tables
from camtrap_batch.diff.csvfile import write_csv
from camtrap_batch.diff.page import render
from camtrap_batch.diff.sides import read_side, read_sides, read_truth

__all__ = [
    "ChangedImage",
    "Diff",
    "Side",
    "compare",
    "find_causes",
    "read_side",
    "read_sides",
    "read_truth",
    "render",
    "tables",
    "write_csv",
]
