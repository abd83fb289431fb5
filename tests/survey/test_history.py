"""Detection histories: which occasion a record is of, what its effort is, and where nobody watched."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_survey import cameras, outages

from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import EVENTS
from camtrap_batch.survey.effort import make_deployments
from camtrap_batch.survey.history import Occasions, find_records, make_occasions

NA = np.nan
NOTHING = pa.table(
    {
        "location": pa.array([], pa.string()),
        "deployment": pa.array([], pa.string()),
        "datetime": pa.array([], pa.timestamp("us")),
    }
)


def events(*rows: tuple[str, str, str]) -> pa.Table:
    """Of location, label and start; each of two animals."""
    made = [
        {"location": where, "label": what, "start": dt.datetime.fromisoformat(when), "count": 2}
        for where, what, when in rows
    ]
    return pa.Table.from_pylist(made, schema=EVENTS)


def matrix(seen: pa.Table, occasions: Occasions, values: Any = "presence") -> dict[str, list[list[float]]]:
    found = find_records(seen, occasions, values).matrices(occasions)
    return {name: matrix.tolist() for name, matrix in found}


@pytest.fixture
def stations(tmp_path: Path) -> pa.Table:
    """camtrapR's `data(camtraps)`, with the outage."""
    periods = cameras(
        tmp_path,
        "StationA,1,1,2009-04-02,2009-05-14",
        "StationB,1,2,2009-04-03,2009-05-16",
        "StationC,1,3,2009-04-04,2009-05-17",
    )
    return make_deployments(NOTHING, periods, outages(tmp_path, "StationC,2009-05-12,2009-05-17"))[0]


def test_shapes_are_those_of_camtrapr(stations: pa.Table) -> None:
    """Its own tests: 44 days by station, 46 of the survey, 7 weeks of either."""
    for day1, days, n in (("station", 1, 44), ("survey", 1, 46), ("station", 7, 7), ("survey", 7, 7)):
        found = make_occasions(stations, days=days, day1=day1)
        assert found.effort.shape == (3, n)
        assert np.nansum(found.effort, axis=1).tolist() == [42, 43, 38]
    assert found.stations == ("StationA", "StationB", "StationC")
    assert found.names == ["o1", "o2", "o3", "o4", "o5", "o6", "o7"]


def test_effort_and_cells(stations: pa.Table) -> None:
    found = make_occasions(stations, days=7)
    np.testing.assert_equal(found.effort[0], [6.5, 7, 7, 7, 7, 7, 0.5])
    np.testing.assert_equal(found.effort[1], [6.5, 7, 7, 7, 7, 7, 1.5])
    np.testing.assert_equal(found.effort[2], [6.5, 7, 7, 7, 7, 3.5, NA])
    seen = events(
        ("StationB", "VTA", "2009-04-15 19:12"),
        ("StationB", "VTA", "2009-04-15 23:12"),
        ("StationB", "VTA", "2009-04-27 05:07"),
        ("StationC", "VTA", "2009-05-16 05:07"),  # in the outage
        ("StationA", "PBE", "2009-05-14 05:07"),
        ("StationX", "PBE", "2009-05-14 05:07"),
    )
    cells = matrix(seen, found)
    assert list(cells) == ["PBE", "VTA"]
    np.testing.assert_equal(cells["VTA"], [[0] * 7, [0, 1, 0, 1, 0, 0, 0], [0] * 6 + [NA]])
    np.testing.assert_equal(cells["PBE"], [[0] * 6 + [1], [0] * 7, [0] * 6 + [NA]])
    np.testing.assert_equal(matrix(seen, found, "events")["VTA"][1], [0, 2, 0, 1, 0, 0, 0])
    np.testing.assert_equal(matrix(seen, found, "individuals")["VTA"][1], [0, 4, 0, 2, 0, 0, 0])
    assert find_records(seen, found).n_outside == 2


def test_first_day(stations: pa.Table) -> None:
    survey = make_occasions(stations, days=7, day1="survey")
    np.testing.assert_equal(survey.effort[2], [4.5, 7, 7, 7, 7, 5.5, NA])
    seen = events(("StationC", "VTA", "2009-04-09 00:00"), ("StationC", "VTA", "2009-04-08 23:59"))
    np.testing.assert_equal(matrix(seen, survey, "events")["VTA"][2][:3], [1, 1, 0])
    late = make_occasions(stations, days=7, day1=dt.date(2009, 5, 1))
    assert late.effort.shape == (3, 3)
    np.testing.assert_equal(late.effort[0], [7, 6.5, NA])
    assert find_records(seen, late).n_outside == 2
    with pytest.raises(InputError, match=r"--day1 2009-06-01: is after the last day .*, 2009-05-17"):
        make_occasions(stations, day1=dt.date(2009, 6, 1))


def test_complete_and_most_days(stations: pa.Table) -> None:
    np.testing.assert_equal(
        make_occasions(stations, days=7, complete=True).effort[2], [6.5, 7, 7, 7, 7, NA, NA]
    )
    assert make_occasions(stations, days=7, most_days=15).effort.shape == (3, 3)


def test_nothing_is_known() -> None:
    with pytest.raises(InputError, match="no deployment has a start and an end"):
        make_occasions(make_deployments(NOTHING)[0])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from(["station", "survey"]),
)
def test_no_effort_is_lost(stood: list[tuple[int, int]], days: int, day1: str) -> None:
    from camtrap_batch.catalog.cameras import PERIODS

    start = dt.datetime(2021, 1, 1, 5)
    rows = [
        {
            "location": "AB"[number % 2],
            "start": start + dt.timedelta(hours=7 * first),
            "end": start + dt.timedelta(hours=7 * (first + n)),
            "source": "cameras",
        }
        for number, (first, n) in enumerate(stood)
    ]
    table, _ = make_deployments(NOTHING, pa.Table.from_pylist(rows, schema=PERIODS))
    found = make_occasions(table, days=days, day1=day1)
    assert np.nansum(found.effort) == pytest.approx(sum(table["days"].to_pylist()))
    assert np.nanmax(found.effort) <= days
