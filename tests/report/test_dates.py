from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from camtrap_batch.report.dates import Dates, find_dates

START = dt.datetime(2021, 4, 11, 20)


def dates(*days: float | None, doubted: tuple[int, ...] = (), places: str = "") -> Dates:
    """Of images this many days after START, at a location each; those with these numbers are findings."""
    taken = [None if day is None else START + dt.timedelta(days=day) for day in days]
    locations = list(places) or ["A"] * len(days)
    mask = np.isin(np.arange(len(days)), doubted)
    return find_dates(pa.array(locations), pa.array(taken, pa.timestamp("us")), mask)


def test_period_and_that_of_each_camera() -> None:
    found = dates(0, 5, 9, None, places="ABAA")
    assert (found.first, found.last) == (START, START + dt.timedelta(days=9))
    assert found.by_location == {
        "A": (START, START + dt.timedelta(days=9)),
        "B": (START + dt.timedelta(days=5),) * 2,
    }
    assert (found.n_dated, found.n_doubted) == (3, 0)


def test_dates_that_are_findings_do_not_count() -> None:
    found = dates(0, 5, 9, -400, doubted=(3,))
    assert (found.first, found.n_doubted) == (START, 1)


@pytest.mark.parametrize("years", [-51, 20])
@pytest.mark.parametrize("n", [25, 3000])
def test_a_few_that_are_years_away_do_not_count(years: int, n: int) -> None:
    found = dates(*range(n), 365 * years, 365 * years + 1)
    assert (found.first, found.last) == (START, START + dt.timedelta(days=n - 1))
    assert found.n_doubted == 2


def test_a_second_campaign_years_later_counts() -> None:
    found = dates(*range(100), *range(2000, 2020))
    assert found.last == START + dt.timedelta(days=2019)
    assert dates(0, 3000).last == START + dt.timedelta(days=3000)


def test_no_date_at_all() -> None:
    assert dates(None, None) == Dates(None, None, {}, 0, 0)
    assert dates(1, 2, doubted=(0, 1)) == Dates(None, None, {}, 2, 2)
    assert dates() == Dates(None, None, {}, 0, 0)
