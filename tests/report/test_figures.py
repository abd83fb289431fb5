from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

from camtrap_batch.report import ReportData, render
from camtrap_batch.report.figures import model_figures, rate_search

MakeData = Callable[..., ReportData]
SEARCH = [
    {"lr": 1e-6, "loss": 2.5},
    {"lr": 1e-4, "loss": 2.4},
    {"lr": 1e-2, "loss": 1.9},
    {"lr": 1.0, "loss": float("nan")},
    {"lr": 10.0, "loss": 80.0},
]


def test_files_are_pictures_that_fetch_nothing(make_data: MakeData) -> None:
    data = make_data()
    metrics = {"valid": data.metrics, "training": {"lr": 2e-3}}
    found = model_figures(metrics, data.history, SEARCH)
    assert set(found) == {"loss.svg", "accuracy.svg", "lr_find.svg", "reliability.svg", "confusion.svg"}
    for text in found.values():
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not re.search(r"url\(|@import|href", text)
        assert "var(--paper)" in text


def test_only_what_there_is(make_data: MakeData) -> None:
    assert model_figures({}, [], []) == {}
    data = make_data(classes=80)  # too many for a page, not for a file of its own
    assert data.metrics is not None
    assert "confusion.svg" in model_figures({"test": data.metrics}, [], [])
    assert "<h3>What is taken for what</h3>" in render(data)
    assert 'aria-label="Confusion matrix"' not in render(data)


def test_search_marks_the_rate_and_leaves_out_where_the_loss_exploded() -> None:
    chart = str(rate_search(SEARCH, 2e-3))
    (points,) = re.findall(r'polyline points="([^"]*)"', chart)
    assert len(points.split()) == 3
    places = [float(point.partition(",")[0]) for point in points.split()]
    (mark,) = (float(x) for x in re.findall(r'<line x1="([\d.]*)"[^>]*class="ideal"', chart))
    assert places[1] < mark < places[2]
    assert "1e-04" in chart
    assert rate_search([], 2e-3) == ""


def test_page_shows_intervals_and_what_a_random_split_would_claim(make_data: MakeData) -> None:
    data = make_data(classes=4)
    assert data.metrics is not None
    label = data.metrics["classes"][0]
    metrics = {
        **data.metrics,
        "intervals": {
            "accuracy": [0.512, 0.623],
            "balanced_accuracy": None,
            "per_class": {label: {"precision": [0.333, 0.444], "recall": None}},
        },
        "random_split": {"n_images": 70, "accuracy": 0.987, "accuracy_interval": None},
    }
    html = render(make_data(classes=4, metrics=metrics, lr_find=SEARCH, batch="<svg/>"))
    for text in (
        "51.2% to 62.3%",
        "33.3% to 44.4%",
        "98.7%",
        "measured on 70 images",
        "Search for a learning rate",
    ):
        assert text in html
    assert html.count("data:image/svg+xml") == 1
    bare = render(data)
    for text in ("intervals over cameras:", "Search for a learning rate", "A batch as the model"):
        assert text not in bare
