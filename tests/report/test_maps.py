from __future__ import annotations

import itertools
import re

import pytest

from camtrap_batch.report.maps import draw_map
from camtrap_batch.report.points import MapPoint


def place(x: float, y: float, events: int = 5, label: str | None = "lion", name: str = "C1") -> MapPoint:
    return MapPoint(x, y, (name,), events, 1 if label else 0, label)


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_north_is_up_and_east_is_right() -> None:
    drawing = draw_map([place(36, 1, 9), place(36.2, 1, 5), place(36, 1.2, 4)], 0).drawing
    x, y = numbers(r'<circle cx="([\d.]+)"', drawing), numbers(r'cy="([\d.]+)"', drawing)
    assert x[1] > x[0] == x[2]
    assert y[0] == y[1] > y[2]


def test_one_km_is_as_long_on_both_axes_and_on_the_scale_bar() -> None:
    drawing = draw_map([place(10, 60, 9), place(10.2, 60, 9), place(10, 60.1, 9)], 0).drawing
    x, y = numbers(r'<circle cx="([\d.]+)"', drawing), numbers(r'cy="([\d.]+)"', drawing)
    assert x[1] - x[0] == pytest.approx(y[0] - y[2], rel=0.02)  # cos 60° is 1/2
    (length,) = numbers(r"v4h([\d.]+)v-4", drawing)
    (km,) = numbers(r">([\d.]+) km<", drawing)
    assert km / length == pytest.approx(0.1 * 111.195 / (y[0] - y[2]), rel=0.02)


def test_area_of_a_mark_shows_events() -> None:
    drawing = draw_map([place(1, 1, 400), place(2, 1, 100)], 0).drawing
    first, second = numbers(r' r="([\d.]+)" class="mark', drawing)
    assert first > 1.5 * second


def test_single_place_has_a_map_with_a_scale() -> None:
    drawing = draw_map([place(36, 1)], 0).drawing
    assert re.search(r">[\d.]+ k?m<", drawing)
    assert "nan" not in drawing


@pytest.mark.parametrize("latitude", [90.0, -90.0])
def test_pole(latitude: float) -> None:
    assert "nan" not in draw_map([place(0, latitude), place(100, latitude)], 0).drawing


def test_the_whole_earth_says_where_its_scale_holds() -> None:
    drawing = draw_map([place(-120, -50), place(150, 60)], 0).drawing
    assert re.search(r">[\d,]+ km at 5° N<", drawing)
    longitudes = [float(value) for value in re.findall(r">(\d+)° [EW]<", drawing)]
    assert longitudes
    assert max(longitudes) <= 180


def test_legend_counts_every_place_once() -> None:
    places = [place(n / 10, 0, 5, f"species {n % 9}") for n in range(30)] + [place(4, 4, 0, None)]
    legend = draw_map(places, 0).legend
    assert sum(n for _, _, n in legend) == 31
    assert [label for _, label, _ in legend][-2:] == ["another species", "no event of a species"]
    marks = [str(mark) for mark, _, _ in legend]
    shapes = [re.sub(r' class="[^"]*"', "", mark) for mark in marks[:6]]
    assert len(set(shapes)) == 6  # not by colour alone


def test_names_do_not_cover_each_other() -> None:
    crowd = [place(36 + n / 1e4, 1, 5, "lion", f"camera {n}") for n in range(200)]
    drawing = draw_map(crowd, 0).drawing
    boxes = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="place">([^<]+)<', drawing)
    assert boxes
    spans = sorted((float(y), float(x), float(x) + 6 * len(name)) for x, y, name in boxes)
    for (y, _, end), (next_y, start, _) in itertools.pairwise(spans):
        assert next_y - y > 8 or start >= end


def test_blurred_tip_has_no_coordinates() -> None:
    assert "36.1000° E" in draw_map([place(36.1, 1)], 0).drawing
    assert "36.1" not in re.sub(r"<text.*?</text>", "", draw_map([place(36.1, 1)], 5).drawing)
