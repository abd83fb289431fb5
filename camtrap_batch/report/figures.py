"""The charts of a trained model: for the page, and as SVG files for the model folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from camtrap_batch.report import accuracy, charts
from camtrap_batch.report.text import is_known

_LOST = 4.0
"""The search for a learning rate ends where the loss explodes: points above this many times the first."""


def model_figures(
    metrics: Mapping[str, Any], history: Sequence[dict[str, Any]], lr_find: Sequence[dict[str, float]]
) -> dict[str, str]:
    """File name -> SVG document.

    Parameters
    ----------
    metrics
        A metrics.json.
    history, lr_find
        Rows of history.csv and lr_find.csv, as numbers.
    """
    judged = metrics.get("test") or metrics.get("valid") or {}
    matrix = accuracy.matrix(judged, most=None)
    found = {
        **dict(zip(("loss.svg", "accuracy.svg"), curves(history), strict=False)),
        "lr_find.svg": rate_search(lr_find, metrics.get("training", {}).get("lr")),
        "reliability.svg": reliability(judged),
        "confusion.svg": matrix and confusion(*matrix),
    }
    return {name: _document(chart) for name, chart in found.items() if chart}


def curves(history: Sequence[dict[str, Any]]) -> list[Markup]:
    """Loss and accuracy over the epochs."""

    def line(name: str, column: str) -> charts.Line:
        return charts.Line(
            name, [(row.get("epoch", number), row.get(column)) for number, row in enumerate(history, 1)]
        )

    losses = [line("training", "train_loss"), line("validation", "valid_loss")]
    shares = [line("accuracy", "accuracy"), line("balanced accuracy", "balanced_accuracy")]
    found = [
        charts.lines("Loss", "Loss per epoch, on training and validation images.", losses, "epoch", "loss"),
        charts.lines(
            "Accuracy while training",
            "Accuracy and balanced accuracy per epoch, on validation images.",
            shares,
            "epoch",
            "share of validation images",
            most=1.0,
        ),
    ]
    return [chart for chart in found if chart]


def rate_search(rows: Sequence[dict[str, float]], chosen: float | None) -> Markup:
    """Loss over the learning rates that were tried, the chosen one marked. Empty without a search."""
    known = [row for row in rows if is_known(row["loss"]) and row["lr"] > 0]
    if not known:
        return Markup("")
    points = [
        (math.log10(row["lr"]), row["loss"]) for row in known if row["loss"] <= _LOST * known[0]["loss"]
    ]
    return charts.lines(
        "Search for a learning rate",
        "Loss over the learning rate, which rises from batch to batch; the dashed line is the rate chosen.",
        [charts.Line("training loss", points)],
        "learning rate",
        "loss",
        x_name=lambda exponent: f"{10**exponent:.0e}",
        mark=math.log10(chosen) if chosen else None,
    )


def confusion(names: list[str], counts: list[list[int]]) -> Markup:
    """A chart of the confusion matrix from `accuracy.matrix`."""
    right = sum(counts[index][index] for index in range(len(names)))
    return charts.heat_map(
        "Confusion matrix",
        f"Rows are the truth, columns what was predicted, {len(names)} classes; {right:,} of "
        f"{sum(map(sum, counts)):,} images are on the diagonal. The tables beside it have the figures.",
        counts,
        names,
    )


def reliability(metrics: Mapping[str, Any]) -> Markup | None:
    """Confidence against accuracy; None if it is not known."""
    bins = metrics.get("reliability")
    if not bins:
        return None
    title = "Confidence against accuracy"
    return charts.reliability(title, "Points on the dashed line: confidence can be taken at its word.", bins)


def _document(chart: Markup) -> str:
    """A chart with its style, as a file that a browser or a viewer opens."""
    style = files("camtrap_batch.report").joinpath("templates", "charts.css").read_text(encoding="utf-8")
    head, _, rest = str(chart).partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}><style>{style}svg {{ background: var(--paper) }}</style>{rest}\n"
