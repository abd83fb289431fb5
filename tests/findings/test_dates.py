from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from camtrap_batch.findings import DATE_COLUMNS, Found, find_wrong_dates
from camtrap_batch.store.schemas import MANIFEST

NOW = np.datetime64("2024-06-01T12:00:00", "us")
KINDS = ("date_before_camera", "date_in_future", "date_out_of_order", "clock_reset")


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def image(date: str | dt.datetime | None, **changes: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(DATE_COLUMNS),
        "file_name": "a.jpg",
        "location": "here",
        "camera_make": "RECONYX",
        "camera_model": "HC500",
        "datetime": at(date) if isinstance(date, str) else date,
        **changes,
    }


def find(kind: str, rows: list[dict[str, Any]]) -> Found:
    schema = pa.schema([MANIFEST.field(name) for name in DATE_COLUMNS])
    found = find_wrong_dates(pa.Table.from_pylist(rows, schema), NOW)
    assert tuple(each.kind for each in found) == KINDS
    for each in found:
        assert len(each.rows) == len(each.others) == len(each.detail) == len(set(each.rows.tolist()))
        assert each.rows.tolist() == sorted(each.rows.tolist())
        assert each.detail.null_count == 0
    return found[KINDS.index(kind)]


def rows_of(kind: str, rows: list[dict[str, Any]]) -> list[int]:
    return find(kind, rows).rows.tolist()


def daily(first: str, n: int, **changes: Any) -> list[dict[str, Any]]:
    return [image(at(first) + dt.timedelta(days=day), **changes) for day in range(n)]


@pytest.mark.parametrize("date", ["1970-01-01 00:00:00", "1980-01-05 09:00:00", "2000-01-01 00:03:20"])
def test_before_digital_cameras(date: str) -> None:
    found = find("date_before_camera", [*daily("2019-05-01", 3), image(date), image(None)])
    assert found.rows.tolist() == [3]
    assert found.detail.to_pylist() == [f"{date}: before there were digital camera traps"]


def test_a_stretch_that_counts_from_a_factory_date() -> None:
    """Whole months may be wrong, and at cameras that never showed anything else."""
    rows = (
        daily("2019-05-01", 3) + daily("2005-01-01 00:00:42", 60) + daily("2012-01-01", 2, location="there")
    )
    found = find("date_before_camera", rows)
    assert found.rows.tolist() == list(range(3, 65))
    assert found.detail[1].as_py() == (
        "2005-01-02 00:00:42: counted from 2005-01-01, a clock's factory date; "
        "other dates of RECONYX HC500 begin 2019-05-01"
    )


@pytest.mark.parametrize(
    "rows",
    [
        daily("2005-01-02", 3) + daily("2019-05-01", 3),  # not from 1 January on
        daily("2018-06-01", 3) + daily("2019-01-01", 3, location="there"),  # others were there before
        daily("2018-01-01", 3) + daily("2018-12-01", 3, location="there"),  # within a year
        daily("2005-01-01", 3) + daily("2019-05-01", 3, camera_model="HC600"),  # the only ones of their model
        daily("2004-12-20", 30) + daily("2019-05-01", 3, location="there"),  # New Year in a deployment
    ],
)
def test_dates_that_may_be_right(rows: list[dict[str, Any]]) -> None:
    assert rows_of("date_before_camera", rows) == []


def test_cameras_whose_model_is_not_known_are_compared_with_each_other() -> None:
    unknown = {"camera_make": None, "camera_model": None}
    rows = daily("2005-01-01", 2, **unknown) + daily("2019-05-01", 3, location="there", **unknown)
    found = find("date_before_camera", rows)
    assert found.rows.tolist() == [0, 1]
    assert "other dates of the data set's cameras begin 2019-05-01" in found.detail[0].as_py()


def ns(text: str) -> str:
    return str(np.datetime64(text, "ns").astype(np.int64))


def test_later_than_the_manifest() -> None:
    found = find("date_in_future", [image("2024-06-02 11:59:59"), image("2024-06-02 12:00:01")])
    assert found.rows.tolist() == [1]
    assert found.detail.to_pylist() == [
        "2024-06-02 12:00:01: later than the manifest, which was made 2024-06-01 12:00:00 UTC"
    ]


def test_later_than_the_file() -> None:
    modified = ns("2021-03-01T08:00:00")
    rows = [image("2021-03-02 07:59:59", modified=modified), image("2021-03-02 08:00:01", modified=modified)]
    found = find("date_in_future", rows)
    assert found.rows.tolist() == [1]
    assert found.detail.to_pylist() == [
        "2021-03-02 08:00:01: later than the file, which was written 2021-03-01 08:00:00 UTC"
    ]


@pytest.mark.parametrize(
    "modified",
    [
        "9a0364b9e99bb480dd25e1f0284c8555",  # an etag
        "12345678901234567890123456789012",
        "9999999999999999999",
        ns("1980-01-01"),  # what archives write that keep no time
        ns("2005-01-01T00:10:00"),  # the camera's own wrong clock, put right in the metadata
        None,
    ],
)
def test_a_time_of_the_file_that_says_nothing(modified: str | None) -> None:
    rows = [image("2021-03-02", modified=modified, datetime_exif=at("2005-01-01 00:09:00"))]
    assert rows_of("date_in_future", rows) == []


def frame(number: int | None, date: str | None, **changes: Any) -> dict[str, Any]:
    return image(date, frame_num=number, **{"seq_id": "s", **changes})


def test_a_frame_earlier_than_the_one_before() -> None:
    rows = [
        frame(2, "2020-01-05 10:00:01"),
        frame(0, "2020-01-05 10:00:00"),
        frame(1, "2020-01-05 10:00:02"),
        frame(3, None),
        frame(4, "2020-01-05 10:00:01"),
    ]
    found = find("date_out_of_order", rows)
    assert (found.rows.tolist(), found.others.tolist()) == ([0], [2])
    assert found.detail.to_pylist() == ["2020-01-05 10:00:01: frame 2, but frame 1 is of 2020-01-05 10:00:02"]


@pytest.mark.parametrize(
    "other",
    [
        {"frame_num": 0},
        {"frame_num": None},
        {"seq_id": "another"},
        {"seq_id": None},
        {"location": "there"},
        {"datetime": at("2020-01-05 10:00:01")},
    ],
)
def test_frames_in_order_or_without_one(other: dict[str, Any]) -> None:
    rows = [frame(0, "2020-01-05 10:00:01"), frame(1, "2020-01-05 10:00:00")]
    assert rows_of("date_out_of_order", rows) == [1]
    assert rows_of("date_out_of_order", [rows[0], rows[1] | other]) == []


def numbered(dates: list[dt.datetime], name: str = "100/IMG_{:04}.JPG") -> list[dict[str, Any]]:
    return [image(date, file_name=name.format(number)) for number, date in enumerate(dates, 1)]


def hours(first: str, n: int) -> list[dt.datetime]:
    return [at(first) + dt.timedelta(hours=hour) for hour in range(n)]


def test_a_clock_that_falls_back_until_it_is_right() -> None:
    dates = hours("2019-05-01", 20) + hours("2005-01-01", 3) + hours("2019-06-01", 5)
    rows = numbered(dates)
    found = find("clock_reset", rows[::-1])  # whatever their order in the catalog
    assert found.rows.tolist() == [5, 6, 7]
    assert set(found.others.tolist()) == {8}
    assert found.detail.to_pylist()[::-1][0] == (
        "2005-01-01 00:00:00: the clock fell from 2019-05-01 19:00:00 to 2005-01-01 00:00:00; "
        "image 1 of 3 until it is right again"
    )


def test_a_clock_that_is_never_right_again() -> None:
    found = find("clock_reset", numbered(hours("2019-05-01", 20) + hours("2005-01-01", 3)))
    assert found.rows.tolist() == [20, 21, 22]
    assert found.detail[2].as_py().endswith("image 3 of 3 to the last one")


def test_a_clock_that_falls_twice_to_the_same_date() -> None:
    dates = (
        hours("2019-05-01", 20) + hours("2005-01-01", 3) + hours("2019-06-01", 20) + hours("2005-01-01", 2)
    )
    assert rows_of("clock_reset", numbered(dates)) == [20, 21, 22, 43, 44]


def test_two_cameras_numbers_are_two_series() -> None:
    right = numbered(hours("2019-05-01", 20), "100/IMG_{:04}.JPG")
    earlier = numbered(hours("2018-05-01", 20), "101/IMG_{:04}.JPG")
    assert rows_of("clock_reset", right + earlier) == []
    other_prefix = numbered(hours("2018-05-01", 20), "100/STC_{:04}.JPG")
    assert rows_of("clock_reset", right + other_prefix) == []
    assert rows_of("clock_reset", right + numbered(hours("2005-01-01", 3), "100/IMG_1{:04}.JPG")) != []


def test_of_a_number_that_is_too_long_the_first_digits_are_of_the_name() -> None:
    right = numbered(hours("2019-05-01", 20), "100/19{:018}.JPG")
    assert rows_of("clock_reset", right + numbered(hours("2005-01-01", 3), "100/20{:018}.JPG")) == []
    assert rows_of("clock_reset", right + numbered(hours("2005-01-01", 3), "100/191{:017}.JPG")) != []


@pytest.mark.parametrize(
    "dates",
    [
        hours("2019-05-01", 20) + hours("2019-04-30 20:00", 3),  # within a day
        hours("2019-05-01", 20) + hours("2019-09-01", 1) + hours("2019-06-01", 20),  # one too late, not reset
        hours("2019-05-01", 20) + hours("2031-01-01", 1) + hours("2019-05-02", 5),  # one in the future
        hours("2019-05-01", 6) + hours("2005-01-01", 3),  # too few to know the order
        [
            at("2019-05-01") + dt.timedelta(days=7 * number % 30) for number in range(30)
        ],  # not in order of time
    ],
)
def test_a_clock_that_did_not_fall(dates: list[dt.datetime]) -> None:
    assert rows_of("clock_reset", numbered(dates)) == []


def test_no_image_has_a_date() -> None:
    for kind in KINDS:
        assert rows_of(kind, [image(None), image(None)]) == []
        assert rows_of(kind, []) == []


def test_clocks_that_were_put_back_by_an_hour_are_in_order() -> None:
    """Where offsets are known it is elapsed time that counts; where one is not, clocks are compared."""
    before = {"seq_id": "s", "frame_num": 1, "utc_offset_minutes": 120}
    after = {"seq_id": "s", "frame_num": 2, "utc_offset_minutes": 60}
    rows = [image("2021-10-31 02:59:50", **before), image("2021-10-31 02:00:10", **after)]
    assert rows_of("date_out_of_order", rows) == []
    assert rows_of("date_out_of_order", [rows[0], rows[1] | {"utc_offset_minutes": 120}]) == [1]
    assert rows_of("date_out_of_order", [rows[0], rows[1] | {"utc_offset_minutes": None}]) == [1]


def test_a_slice_of_a_table_has_what_its_rows_have() -> None:
    """Arrow takes the texts of a slice from the wrong place where the other side is null."""
    times = [f"{1_500_000_000 + number}{number % 10:09}" for number in range(40)]
    rows = [image("2021-03-02", modified=times[n] if n % 3 else "etag", location=f"c{n}") for n in range(40)]
    schema = pa.schema([MANIFEST.field(name) for name in DATE_COLUMNS])
    table = pa.Table.from_pylist(rows, schema)
    cut = pa.concat_tables([table[5:12], table[20:40]])
    whole = find_wrong_dates(cut.take(list(range(cut.num_rows))), NOW)
    for found, expected in zip(find_wrong_dates(cut, NOW), whole, strict=True):
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.detail.to_pylist() == expected.detail.to_pylist()
    assert len(find_wrong_dates(cut, NOW)[KINDS.index("date_in_future")].rows) > 10
