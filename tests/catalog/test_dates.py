from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.catalog.dates import NULL_OFFSET, parse_date, parse_dates

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
    ],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any message: the caller writes it
        parse_date(text)
    assert parse_dates([text])[3] == [0]


@given(st.lists(st.one_of(st.none(), st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1)))))
def test_a_column_is_parsed_as_its_cells_are(dates: list[dt.datetime | None]) -> None:
    texts = [date and f"{date:%Y-%m-%d %H:%M:%S}" for date in dates]
    times, offsets, placeholders, strange = parse_dates(texts)
    expected = [
        np.datetime64(date.replace(microsecond=0)) if date else np.datetime64("NaT") for date in dates
    ]
    assert [str(time) for time in times.astype("datetime64[s]")] == [
        str(time.astype("datetime64[s]")) for time in expected
    ]
    assert (offsets == NULL_OFFSET).all()
    assert placeholders == strange == []


def test_rows_of_odd_dates_are_told() -> None:
    times, offsets, placeholders, strange = parse_dates(
        [
            "2022-12-31 09:52:50",
            "unknown",
            None,
            "soon",
            "2022-12-31T09:52:50+02:00",
            "0000-00-00 00:00:00",
            "",
        ]
    )
    assert np.isnat(times).tolist() == [False, True, True, True, False, True, True]
    assert (placeholders, strange) == ([1, 5], [3])
    assert offsets[4] == 120


two_digits = st.integers(0, 61).map("{:02}".format)
shaped = st.builds(
    "{}-{}-{}{}{}:{}:{}{}".format,
    st.sampled_from(["2020", "2021", "1900", "1899", "2999", "0000", "9999", "20"]),
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
    times, offsets, placeholders, strange = parse_dates(texts)
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
