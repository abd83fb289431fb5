from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.report import ReportData
from camtrap_batch.report.points import find_points, thinned
from camtrap_batch.survey.grid import KM_PER_DEGREE, snap

degrees = st.tuples(st.floats(-180, 180), st.floats(-90, 90))


@given(degrees, st.floats(0.1, 200))
def test_blurred_stays_near_and_is_blurred_once(point: tuple[float, float], blur_km: float) -> None:
    x, y = (np.array([value]) for value in point)
    blurred = snap(x, y, blur_km)
    upright = abs(blurred[1][0] - y[0]) * KM_PER_DEGREE
    across = abs(blurred[0][0] - x[0]) * KM_PER_DEGREE * np.cos(np.radians(blurred[1][0]))
    assert upright <= blur_km / 2 * 1.001
    assert across <= blur_km / 2 * 1.001
    np.testing.assert_allclose(snap(*blurred, blur_km), blurred, atol=1e-6)


def test_grid_has_the_asked_width_on_both_axes() -> None:
    latitude = np.full(2001, 60.0)
    longitude = np.linspace(10, 11, 2001)
    different = np.unique(snap(longitude, latitude, 5)[0])
    km = np.diff(different) * KM_PER_DEGREE * np.cos(np.radians(60))
    assert np.abs(km - 5).max() < 0.1
    different = np.unique(snap(longitude[:1], np.array([60.0]), 5)[1])
    assert abs(different[0] - 60) * KM_PER_DEGREE <= 2.5
    upright = np.unique(snap(np.zeros(2001), np.linspace(60, 61, 2001), 5)[1])
    np.testing.assert_allclose(np.diff(upright) * KM_PER_DEGREE, 5)


def test_exact_where_not_blurred() -> None:
    x, y = np.array([36.123456]), np.array([-1.654321])
    assert snap(x, y, 0) == (x, y)


def test_cameras_at_one_point_are_one_place(make_data: Callable[..., ReportData]) -> None:
    table = make_data(cameras=4).locations
    assert table is not None
    x = table.column_names.index("longitude")
    table = table.set_column(x, "longitude", pa.array([36.0, 36.0, 36.5, None]))
    y = table.column_names.index("latitude")
    table = table.set_column(y, "latitude", pa.array([1.0, 1.0, 1.0, 1.0]))
    places = find_points(table, 0)
    assert sorted(place.locations for place in places) == [("C0000", "C0001"), ("C0002",)]
    both = next(place for place in places if len(place.locations) == 2)
    assert both.n_events == sum(table["n_events"].to_pylist()[:2])
    assert [place.n_events for place in places] == sorted((place.n_events for place in places), reverse=True)


def test_what_is_no_species_is_not_the_one_with_most_events(make_data: Callable[..., ReportData]) -> None:
    table = make_data(cameras=4).locations
    assert table is not None
    before = find_points(table, 0)
    most = before[0].top_label
    assert most is not None
    after = find_points(table, 0, frozenset({most}))
    assert most not in {point.top_label for point in after}
    assert [point.n_events for point in after] == [point.n_events for point in before]


def test_not_a_number_is_no_place(make_data: Callable[..., ReportData]) -> None:
    table = make_data(cameras=2).locations
    assert table is not None
    x = table.column_names.index("longitude")
    places = find_points(table.set_column(x, "longitude", pa.array([float("nan"), 36.0])), 1)
    assert [place.locations for place in places] == [("C0001",)]


def test_of_many_points_those_near_one_another_are_one(make_data: Callable[..., ReportData]) -> None:
    table = make_data(cameras=400, events=2000).locations
    assert table is not None
    points = find_points(table, 0)
    assert thinned(points, 400) == points
    few = thinned(points, 100)
    assert len(few) <= 100
    assert sorted(name for point in few for name in point.locations) == sorted(table["location"].to_pylist())
    assert sum(point.n_events for point in few) == sum(table["n_events"].to_pylist())
    assert any(point.is_area for point in few)
