"""Figures of the table metrics, as the report shows them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from camtrap_batch.report.judged import judged
from camtrap_batch.store.schemas import METRICS


def row(figure: str, label: str | None, value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    found = {"figure": figure, "label": label, "value": value, "low": low, "high": high, "n": 100}
    return {"judged_by": "sample", "draw": "random-300-0", **found, **more}


def test_a_row_for_each_label_the_most_frequent_first() -> None:
    rows = [
        row("accuracy", None, 0.93, 0.9, 0.952),
        row("precision", "lion", 0.8, 0.7, 0.9),
        row("recall", "lion", 0.75, 0.6, 0.88),
        row("sequences", "lion", 120.4, 100, 150, counted=130.0),
        row("sequences", "oryx", 900.0, 850, 960, counted=880.0),
        row("accuracy", None, 0.5, 0.4, 0.6, draw="random-60-0"),
        row("accuracy", None, 0.7, 0.6, 0.8, judged_by="labels", draw=None),
    ]
    metrics = pa.Table.from_pylist([{name: one.get(name) for name in METRICS.names} for one in rows], METRICS)
    found = judged(metrics, "sample")
    assert found is not None
    first, oryx, lion = found.to_pylist()
    assert (first["label"], first["accuracy"]) == ("all", "93.0% (90.0% to 95.2%)")
    assert (oryx["label"], oryx["sequences"], oryx["sequences as labelled"]) == (
        "oryx", "900 (850 to 960)", "880",
    )  # fmt: skip
    assert (lion["precision"], lion["recall"]) == ("80.0% (70.0% to 90.0%)", "75.0% (60.0% to 88.0%)")
    assert lion["sequences"] == "120 (100 to 150)"
    by_labels = judged(metrics, "labels")
    assert by_labels is not None
    assert by_labels.to_pylist()[0]["accuracy"] == "70.0% (60.0% to 80.0%)"
    assert judged(metrics.slice(0, 6), "labels") is None
