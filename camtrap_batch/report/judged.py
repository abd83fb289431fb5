"""The table `metrics` for readers: one row per label, figures with their intervals."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.report import text

_OF_SAMPLE = ("precision", "recall", "sequences", "events")
_OF_LABELS = ("precision", "recall", "f1")
ALL = "all"


def judged(metrics: pa.Table, by: str) -> pa.Table | None:
    """What is known about labels; None if they were not judged in this way.

    Parameters
    ----------
    metrics : schemas.METRICS; if there are several samples, the first one, which is the newest, counts
    by : sample or labels
    """
    rows = metrics.filter(pc.equal(metrics["judged_by"], by)).to_pylist()
    if not rows:
        return None
    rows = [row for row in rows if row["draw"] == rows[0]["draw"]]
    of: dict[str | None, dict[str, dict[str, Any]]] = {}
    for row in rows:
        of.setdefault(row["label"], {})[row["figure"]] = row
    whole = of.pop(None, {})
    figures = _OF_SAMPLE if by == "sample" else _OF_LABELS
    size = "sequences" if by == "sample" else "recall"

    def n_of(label: str) -> float:
        return float(of[label].get(size, {}).get("value" if by == "sample" else "n") or 0)

    labels = sorted((label for label in of if label is not None), key=lambda label: (-n_of(label), label))
    table: dict[str, list[str | None]] = {"label": [ALL, *labels]}
    first = whole.get("accuracy")
    table["accuracy"] = [_share(first), *[None] * len(labels)]
    for figure in figures:
        counts = figure in ("sequences", "events")
        write = _count if counts else _share
        table[figure] = [None, *(write(of[label].get(figure)) for label in labels)]
        if counts:
            now = [of[label].get(figure, {}).get("counted") for label in labels]
            table[f"{figure} as labelled"] = [
                None,
                *(None if one is None else text.count(one) for one in now),
            ]
    return pa.table(table)


def _share(row: dict[str, Any] | None) -> str | None:
    if row is None or row["value"] is None:
        return None
    bounds = None if row["low"] is None else [row["low"], row["high"]]
    between = text.interval(bounds)
    return text.percent(row["value"]) + (f" ({between})" if between else "")


def _count(row: dict[str, Any] | None) -> str | None:
    if row is None or row["value"] is None:
        return None
    return f"{text.count(row['value'])} ({text.count(row['low'])} to {text.count(row['high'])})"
