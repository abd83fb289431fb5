from __future__ import annotations

import datetime as dt
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.dates import (
    NULL_OFFSET,
    Order,
    is_date_only,
    join_date_and_time,
    parse_date,
    parse_dates,
    read_dates,
)
from camtrap_batch.errors import InputError

AT = dt.datetime(2022, 12, 31, 9, 52, 50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-12-31 09:52:50", (AT, None)),
        ("2022-12-31T09:52:50", (AT, None)),
        ("2022-12-31T09:52:50Z", (AT, 0)),
        ("2022-12-31T09:52:50+02:00", (AT, 120)),
        ("2022-12-31 09:52:50.123 -0330", (AT, -210)),
        ("2022:12:31 09:52:50", (AT, None)),
        ("2022/12/31 9:52:50", (AT, None)),
        ("12/31/2022 9:52", (AT.replace(second=0), None)),
        ("12/31/2022 9:52:50 PM", (AT.replace(hour=21), None)),
        ("31-12-2022 09:52:50", (AT, None)),
        ("31.12.2022 09:52:50", (AT, None)),
        ("03.04.2022 09:52", (dt.datetime(2022, 4, 3, 9, 52), None)),
        ("2022-12-31", (dt.datetime(2022, 12, 31), None)),
        ("31/12/2022", (dt.datetime(2022, 12, 31), None)),
        ("2022:12:31 09:52:50 PM", (AT.replace(hour=21), None)),
        ("2022-12-31 12:52:50 a.m.", (AT.replace(hour=0), None)),
        ("12/31/2022 9:52:50 PM +02:00", (AT.replace(hour=21), 120)),
        ("31/12/2022T09:52:50Z", (AT, 0)),
        ("12-Mar-2021", (dt.datetime(2021, 3, 12), None)),
        ("12-Mar-21 8:25 PM", (dt.datetime(2021, 3, 12, 20, 25), None)),
        ("12MAR2021", (dt.datetime(2021, 3, 12), None)),
        ("Fri, 12 March 2021 20:25:38 UTC", (dt.datetime(2021, 3, 12, 20, 25, 38), 0)),
        ("March 12, 2021 8:25 p.m.", (dt.datetime(2021, 3, 12, 20, 25), None)),
        ("2021-Mar-12", (dt.datetime(2021, 3, 12), None)),
        ("12. März 2021 20:25 Uhr", (dt.datetime(2021, 3, 12, 20, 25), None)),
        ("12 de diciembre de 2021, 20h25", (dt.datetime(2021, 12, 12, 20, 25), None)),
        ("1er août 2021", (dt.datetime(2021, 8, 1), None)),
        ("12.03.2021 20.25", (dt.datetime(2021, 3, 12, 20, 25), None)),
        ("12.03.21", (dt.datetime(2021, 3, 12), None)),
        ("12/31/22 08:25 PM", (dt.datetime(2022, 12, 31, 20, 25), None)),
        ("12/31/2022, 8:25:38\u202fPM", (dt.datetime(2022, 12, 31, 20, 25, 38), None)),
        ("31/12/99", (dt.datetime(1999, 12, 31), None)),
        ("31-12-22", (dt.datetime(2022, 12, 31), None)),  # 2031 is still to come
        ("99-03-12", (dt.datetime(1999, 3, 12), None)),
        ("05-05-05", (dt.datetime(2005, 5, 5), None)),
        ("20210312_202538", (dt.datetime(2021, 3, 12, 20, 25, 38), None)),
        ("20210312", (dt.datetime(2021, 3, 12), None)),
        ("2021-03-12 20:25 +02", (dt.datetime(2021, 3, 12, 20, 25), 120)),
    ],
)
def test_known_forms(text: str, expected: tuple[dt.datetime, int | None]) -> None:
    assert parse_date(text) == expected


@pytest.mark.parametrize(
    "text", ["unknown", "N/A", "0000-00-00 00:00:00", "0000:00:00 00:00:00", "0001-01-01 00:00:00"]
)
def test_placeholders_mean_no_date(text: str) -> None:
    assert parse_date(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2022-13-01 00:00:00",
        "2022-02-30",
        "now",
        "2022-12-31T09:52:50+99:00",
        "03/04/2022 9:52",
        "12",
        "2022-12-31 25:00",
        "2022-12-31 14:00 AM",
        "12.31.2022",
        "2022:12:31 09:52:50 PM PM",
        "12/03/21 08:25 PM",
        "12-03-21",
        "12 Jui 2021",  # June or July
        "12-Foo-2021",
        "31-Feb-2021",
        "2021-03-12-05",
        "20211312",
    ],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any message: the caller writes it
        parse_date(text)
    dates = parse_dates([text])
    assert [*dates.strange, *dates.undecided] == [0]


@given(st.lists(st.one_of(st.none(), st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1)))))
def test_a_column_is_parsed_as_its_cells_are(dates: list[dt.datetime | None]) -> None:
    texts = [date and f"{date:%Y-%m-%d %H:%M:%S}" for date in dates]
    found = parse_dates(texts)
    times, offsets, placeholders, strange = found.times, found.offsets, found.placeholders, found.strange
    expected = [
        np.datetime64(date.replace(microsecond=0)) if date else np.datetime64("NaT") for date in dates
    ]
    assert [str(time) for time in times.astype("datetime64[s]")] == [
        str(time.astype("datetime64[s]")) for time in expected
    ]
    assert (offsets == NULL_OFFSET).all()
    assert placeholders == strange == []


def test_rows_of_odd_dates_are_told() -> None:
    texts = [
        "2022-12-31 09:52:50",
        "unknown",
        None,
        "soon",
        "2022-12-31T09:52:50+02:00",
        "0000-00-00 00:00:00",
    ]
    dates = parse_dates([*texts, ""])
    times, offsets, placeholders, strange = dates.times, dates.offsets, dates.placeholders, dates.strange
    assert np.isnat(times).tolist() == [False, True, True, True, False, True, True]
    assert (placeholders, strange) == ([1, 5], [3])
    assert offsets[4] == 120


@pytest.mark.parametrize(
    ("others", "order", "expected"),
    [
        (["31/05/2022 9:52"], None, "2022-04-03"),
        (["04/31/2022 9:52", "04/13/2022"], None, "2022-03-04"),  # no date, but its order is plain
        (["04/13/2022"], None, "2022-03-04"),
        (["03.04.2022", "2022-04-03"], "mdy", "2022-03-04"),  # between dots the day is first anyway
        ([], "dmy", "2022-04-03"),
        ([], "mdy", "2022-03-04"),
    ],
)
def test_day_and_month_as_the_other_dates_have_it(
    others: list[str], order: Order | None, expected: str | None
) -> None:
    dates = parse_dates(["03/04/2022", *others], order)
    assert not dates.undecided
    assert dates.date_only[0]
    if expected is not None:
        assert str(dates.times[0])[:10] == expected
    for text, time in zip(others, dates.times[1:].tolist(), strict=True):
        if text == "03.04.2022":
            assert time == dt.datetime(2022, 4, 3)


def read(*texts: str | None, order: Order | None = None) -> tuple[list[dt.datetime | None], Counter[str]]:
    notes: Counter[str] = Counter()
    dates = read_dates(pa.array(texts, pa.string()), lambda row: f"a.csv:{row + 2}: datetime", notes, order)
    return dates.times.tolist(), notes


def test_a_column_that_does_not_tell_is_asked_about_without_offering_what_it_has() -> None:
    with pytest.raises(InputError) as caught:
        read("2022-01-01 00:00:00", "03/04/2022 9:52", "05/05/2022 9:52")
    message = str(caught.value)
    assert message == (
        "a.csv:3: datetime '03/04/2022 9:52': day or month first? no date in this column settles it; set "
        "dataset.dates to dmy or mdy"
    )
    times, _ = read("03/04/2022 9:52", "05/05/2022 9:52", order="mdy")
    assert times == [dt.datetime(2022, 3, 4, 9, 52), dt.datetime(2022, 5, 5, 9, 52)]


def test_a_column_that_mixes_orders_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"a.csv:3: .* '31/12/2022' is written day first, but a.csv:2: .*month"
    ):
        read("12/30/2022", "31/12/2022")
    with pytest.raises(InputError, match=r"a.csv:2: datetime '12/30/2022' is not dmy, as dataset.dates says"):
        read("12/30/2022", "01/02/2022", order="dmy")


def test_a_date_that_can_not_be_read_is_a_row_without_one_up_to_a_part() -> None:
    times, notes = read("2022-01-01 00:00:00", "soon", None)
    assert times == [dt.datetime(2022, 1, 1), None, None]
    assert notes == {"dates that can't be read, taken as no date: a.csv:3: datetime 'soon'": 1}
    good = ["2022-01-01 00:00:00"] * 57
    assert read(*good, "soon", "later", "2022-13-01")[1].total() == 3  # of 60: one in twenty
    with pytest.raises(InputError, match=r"a.csv:59: .* 'soon' is not a date that can be read, and 3 more"):
        read(*good, "soon", "later", "2022-13-01", "2022-02-30")
    with pytest.raises(
        InputError, match=r"a.csv:2: .* 'soon' is not a date that can be read; possible: 2022"
    ):
        read("soon", None)


def test_a_date_alone_is_no_midnight() -> None:
    dates = parse_dates(["2022-12-31", "2022-12-31 00:00:00", "31/12/2022", None, "unknown"])
    assert dates.date_only.tolist() == [True, False, True, False, False]
    assert [is_date_only(text) for text in ("31.12.2022", "31.12.2022 0:00", "x")] == [True, False, False]
    assert read("2022-12-31", "2022-12-31")[1] == {"dates without a time of day": 2}


two_digits = st.integers(0, 61).map("{:02}".format)
shaped = st.builds(
    "{}-{}-{}{}{}:{}:{}{}".format,
    st.sampled_from(["2020", "2021", "1900", "1899", "2999", "0000", "9999", "202"]),
    st.sampled_from(["01", "02", "04", "12", "00", "13", "2"]),
    st.sampled_from(["01", "28", "29", "30", "31", "00", "32", "7"]),
    st.sampled_from([" ", "T", "  ", ""]),
    two_digits,
    two_digits,
    two_digits,
    st.sampled_from(["", "Z", "+02:00", "-0330", "+14:59", "+15:00", "+02:60", ".5", "\n", " Z", "z"]),
)


@given(st.lists(st.one_of(st.none(), shaped, st.sampled_from(["", " ", "now", "unknown"])), max_size=20))
def test_a_column_of_odd_dates_is_parsed_as_its_cells_are(texts: list[str | None]) -> None:
    found = parse_dates(texts)
    times, offsets, placeholders, strange = found.times, found.offsets, found.placeholders, found.strange
    for row, text in enumerate(texts):
        is_placeholder = is_strange = False
        time, offset = np.datetime64("NaT"), NULL_OFFSET
        if text is not None and text.strip():
            try:
                parsed = parse_date(text)
            except ValueError:
                is_strange = True
            else:
                is_placeholder = parsed is None
                if parsed is not None:
                    time = np.datetime64(parsed[0], "us")
                    offset = NULL_OFFSET if parsed[1] is None else parsed[1]
        assert (row in placeholders, row in strange) == (is_placeholder, is_strange)
        assert (str(times[row]), offsets[row]) == (str(time), offset)


def test_a_date_that_never_was_tells_the_order_where_no_other_does() -> None:
    """Day and month of 31/04 are clear, and no order is offered that would refuse it."""
    dates = parse_dates(["03/04/2022", "31/04/2022"])
    assert (str(dates.times[0])[:10], dates.strange, dates.undecided) == ("2022-04-03", [1], [])
    dates = parse_dates(["03/04/2022", "31/04/2022", "05/13/2022"])
    assert (str(dates.times[0])[:10], dates.strange) == ("2022-03-04", [1])


def test_years_of_two_digits() -> None:
    """Between slashes and dots they come last; between hyphens they may come first, and are asked about."""
    times, _ = read("12/03/21 08:25 PM", "12/25/21 7:00 AM")
    assert times == [dt.datetime(2021, 12, 3, 20, 25), dt.datetime(2021, 12, 25, 7)]
    assert read("03-04-21", "31-03-21")[0] == [dt.datetime(2021, 4, 3), dt.datetime(2021, 3, 31)]
    for order, expected in (("dmy", "2021-04-03"), ("mdy", "2021-03-04"), ("ymd", "2003-04-21")):
        times, _ = read("03-04-21", order=order)  # type: ignore[arg-type]
        assert str(times[0])[:10] == expected
    with pytest.raises(InputError) as caught:
        read("03-04-21", "13-04-21")
    assert str(caught.value) == (
        "a.csv:2: datetime '03-04-21': day, month or year first? no date in this column settles it; set "
        "dataset.dates to dmy or ymd"
    )
    with pytest.raises(
        InputError, match=r"a.csv:3: .*'31/03/2021' is written day first, but a.csv:2: .*year"
    ):
        read("99-03-12", "31/03/2021")
    with pytest.raises(InputError, match=r"a.csv:2: datetime '31-12-22' is not ymd, as dataset.dates says$"):
        read("31-12-22", order="ymd")


def test_day_numbers_of_excel() -> None:
    """They count where they are alone: among other dates they are what Excel took for month first, or not."""
    times, notes = read("44267.35109953704", "44268", None, "44269,5")
    assert times == [
        dt.datetime(2021, 3, 12, 8, 25, 35),
        dt.datetime(2021, 3, 13),
        None,
        dt.datetime(2021, 3, 14, 12),
    ]
    assert notes == {
        "dates given as Excel's day numbers, such as '44267.35109953704' for 2021-03-12 08:25:35": 3,
        "dates without a time of day": 1,
    }
    with pytest.raises(InputError, match=r"a.csv:3: datetime '44267' is not a date that can be read, and 2"):
        read("2021-03-12 08:25:35", "44267", "44268", "44269")
    with pytest.raises(InputError, match=r"'12345' is not a date that can be read"):
        read("12345")


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("2021-03-12", "20:25", "2021-03-12 20:25"),
        ("2021-03-12 00:00:00", "1899-12-31 20:25:38", "2021-03-12 20:25:38"),
        ("2021-03-12", "2021-03-12 20:25:38", "2021-03-12 20:25:38"),
        ("12/31/2021 0:00", "8:25 PM", "12/31/2021 8:25 PM"),
        ("44267", "0.35", "44267.35"),
        ("44267", ".35", "44267.35"),
        ("2021-03-12", None, "2021-03-12"),
        (None, "20:25", "20:25"),
        (None, None, None),
    ],
)
def test_date_and_time_in_two_columns(date: str | None, time: str | None, expected: str | None) -> None:
    assert join_date_and_time(date, time) == expected
