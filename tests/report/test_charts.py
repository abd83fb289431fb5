from __future__ import annotations

import itertools
import re

import pytest

from camtrap_batch.report.charts import Line, columns, heat_map, hour_columns, lines, reliability


def tips(chart: str) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", chart)[1:]


def test_hour_columns_are_as_high_as_their_share() -> None:
    chart = hour_columns("lion by hour", [0] * 5 + [10, 5] + [0] * 17)
    assert tips(chart) == ["05:00 to 06:00: 10", "06:00 to 07:00: 5"]
    heights = [float(value) for value in re.findall(r'height="([\d.]+)" class="column"', chart)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert "most between 05:00 and 06:00" in chart


def test_names_under_the_axis_have_room() -> None:
    names = [f"2023-01-{day:02}" for day in range(1, 32)] * 3
    chart = columns("Events", "", [1] * 93, names, "day", "events")
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="[\d.]+" class="tick middle"', chart)]
    assert len(places) > 5
    assert all(after - before > 60 for before, after in itertools.pairwise(places))
    assert len(tips(chart)) == 93


def test_lines_leave_out_what_is_not_a_number() -> None:
    line = Line("loss", [(1, 2.0), (2, None), (3, float("nan")), (4, 1.0)])
    chart = lines("Loss", "", [line, Line("nothing", [(1, None)])], "epoch", "loss")
    (points,) = re.findall(r'points="([^"]*)"', chart)
    assert len(points.split()) == 2
    assert "nothing" not in chart
    assert lines("Loss", "", [Line("loss", [(1, None)])], "epoch", "loss") == ""


def test_one_epoch_is_a_point() -> None:
    chart = lines("Loss", "", [Line("loss", [(1, 2.0)])], "epoch", "loss")
    assert chart.count("<circle") == 1
    assert "nan" not in chart


def test_lines_differ_in_more_than_colour() -> None:
    both = [Line("a", [(1, 1.0), (2, 2.0)]), Line("b", [(1, 2.0), (2, 1.0)])]
    chart = lines("t", "", both, "epoch", "loss")
    assert len(set(re.findall(r'class="line c\d"( stroke-dasharray="[^"]*")?', chart))) == 2


def test_reliability_of_an_honest_model_lies_on_the_diagonal() -> None:
    bins = [{"n": 9, "confidence": p / 10, "accuracy": p / 10, "lower": 0, "upper": 1} for p in (2, 5, 9)]
    chart = reliability("t", "", [*bins, {"n": 1, "confidence": 0.4, "accuracy": None}])  # type: ignore[dict-item]
    (points,) = re.findall(r'points="([^"]*)"', chart)
    (ideal,) = re.findall(r'<line x1="(\S+)" x2="(\S+)" y1="(\S+)" y2="(\S+)" class="ideal"', chart)
    x1, x2, y1, y2 = map(float, ideal)
    for point in points.split():
        x, y = map(float, point.split(","))
        assert (x - x1) / (x2 - x1) == pytest.approx((y1 - y) / (y1 - y2), abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 12, 25, 60])
def test_heat_map_shades_by_share_of_the_row(n: int) -> None:
    counts = [[0] * n for _ in range(n)]
    for row in range(n):
        counts[row][row] = 3
        counts[row][(row + 1) % n] += 1
    chart = heat_map("t", "", counts, [f"class {row}" for row in range(n)])
    shades = re.findall(r'class="heat" fill-opacity="([\d.]+)"', chart)
    assert len(shades) == (2 * n if n > 1 else 1)
    assert max(map(float, shades)) == pytest.approx(0.06 + 0.94 * (0.75 if n > 1 else 1), abs=0.01)
    assert f"class 0 recognised: {3 if n > 1 else 4} of 4" in chart


def test_heat_map_of_a_class_without_images() -> None:
    assert "class 1 recognised" not in heat_map("t", "", [[4, 1], [0, 0]], ["class 0", "class 1"])


def test_a_share_has_no_axis_beyond_all_of_it() -> None:
    always = lines("Accuracy", "", [Line("accuracy", [(1, 1.0), (2, 1.0)])], "epoch", "share", most=1.0)
    assert "1.02" not in always
    assert ">1<" in always
