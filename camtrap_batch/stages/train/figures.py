"""The figures of a model folder: reads the numbers, writes the charts."""

from __future__ import annotations

from camtrap_batch.model.info import HISTORY, LR_FIND
from camtrap_batch.model.library import read_metrics, read_numbers
from camtrap_batch.report.figures import model_figures
from camtrap_batch.store.folder import Folder


def write_figures(model: Folder) -> None:
    """Add the charts of its figures to a model folder on disk."""
    charts = model_figures(read_metrics(model), read_numbers(model, HISTORY), read_numbers(model, LR_FIND))
    for name, picture in charts.items():
        model.local(name).write_text(picture, encoding="utf-8")
