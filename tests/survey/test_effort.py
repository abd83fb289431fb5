"""Days in the field: what setup, retrieval, outages, overlaps and photos make of them."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_survey import IMAGES, cameras, outages

from camtrap_batch.catalog import read_dataset_periods
from camtrap_batch.catalog.cameras import (
    OUTAGES,
    PERIODS,
    check_periods,
    deployments_to_come,
    read_camera_outages,
    read_covariates,
    read_outages,
    read_periods,
)
from camtrap_batch.catalog.folder import FolderDataset as Dataset
from camtrap_batch.errors import InputError
from camtrap_batch.store.schemas import DEPLOYMENTS
from camtrap_batch.survey.effort import effort_by_location, make_deployments, union


def photos(*rows: tuple[str, str] | tuple[str, str, str] | tuple[str, str, str | None, int]) -> pa.Table:
    """Of location, time, and optional deployment and offset."""
    return pa.Table.from_pylist(
        [
            {
                "location": row[0],
                "datetime": dt.datetime.fromisoformat(row[1]),
                "deployment": row[2] if len(row) > 2 else None,
                "utc_offset_minutes": row[3] if len(row) > 3 else None,
            }
            for row in rows
        ],
        schema=IMAGES,
    )


def days(table: pa.Table, counting: Any = "station") -> dict[str, float]:
    effort = effort_by_location(table, counting)
    return dict(zip(effort["location"].to_pylist(), effort["days"].to_pylist(), strict=True))


def test_photos_of_an_hour_that_clocks_were_put_back() -> None:
    """A deployment of photos begins with the first that was taken, and counts them all."""
    summer, winter = (None, 120), (None, 60)
    table, _ = make_deployments(
        photos(("A", "2021-10-31T02:59:58", *summer), ("A", "2021-10-31T02:00:01", *winter))
    )
    [row] = table.to_pylist()
    assert (row["start"].isoformat(), row["end"].isoformat()) == (
        "2021-10-31T02:59:58",
        "2021-10-31T02:00:01",
    )
    assert (row["n_images"], row["days"]) == (2, 1)


def test_21_days_of_silence_are_those_that_passed() -> None:
    """Clocks that were put back show half an hour less than 21 days for what was half an hour more."""
    table, _ = make_deployments(
        photos(("A", "2021-10-20T12:00:00", None, 120), ("A", "2021-11-10T11:30:00", None, 60))
    )
    assert table.num_rows == 2


def test_camtrapr_sample_stations(tmp_path: Path) -> None:
    """camtrapR's `data(camtraps)`: setup and retrieval count half a day each, and so do an outage's ends.

    Its surveyReport gives 42 trap nights for StationA and counts StationC's outage from the midnight before;
    by the rule that a date alone is noon, 5 days of 43 are out.
    """
    periods = cameras(
        tmp_path,
        "StationA,1,1,02/04/2009,14/05/2009",
        "StationB,1,2,03/04/2009,16/05/2009",
        "StationC,1,3,04/04/2009,17/05/2009",
        order="dmy",
    )
    off = outages(tmp_path, "StationC,12/05/2009,17/05/2009", order="dmy")
    assert check_periods(periods, off) == []
    table, notes = make_deployments(photos(), periods, off)
    assert not notes
    assert table.schema == DEPLOYMENTS
    assert days(table) == {"StationA": 42, "StationB": 43, "StationC": 38}
    assert table["days_out"].to_pylist() == [0, 0, 5]
    assert table["source"].to_pylist() == ["cameras"] * 3
    assert table["start"][0].as_py() == dt.datetime(2009, 4, 2, 12)


def test_other_names_for_start_and_end_if_they_hold_dates(tmp_path: Path) -> None:
    path = tmp_path / "cameras.csv"
    path.write_text("location,lat,lon,installed,Removed,deployed\nA,1,2,2021-03-01,2021-03-11,yes\n")
    dataset = Dataset(format="folder", images=str(tmp_path), cameras=str(path))
    periods, _, lines = read_dataset_periods(dataset)
    assert periods is not None
    assert [(row["start"].day, row["end"].day) for row in periods.to_pylist()] == [(1, 11)]
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "the column installed is read as the start of deployments",
        "the column removed is read as the end of deployments",
    ]
    path.write_text("location,lat,lon,deployed,removed\nA,1,2,yes,no\n")
    periods, _, lines = read_dataset_periods(dataset)
    assert periods is None
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "the column deployed is ignored, since it does not hold dates",
        "the column removed is ignored, since it does not hold dates",
    ]
    assert read_covariates(str(path)).column_names[3:] == ["deployed", "removed"]


CAMTRAPR = """\
"Station","utm_y","utm_x","Setup_date","Retrieval_date","Problem1_from","Problem1_to"
"StationA",604000,523000,"02/04/2009","14/05/2009","",""
"StationB",606000,523000,"03/04/2009","16/05/2009","",""
"StationC",607050,525000,"04/04/2009","17/05/2009","12/05/2009","17/05/2009"
"""


def test_a_station_table_as_camtrapr_has_it(tmp_path: Path) -> None:
    """Its names of columns, outages in the table itself, and coordinates in metres, which are no place."""
    path = tmp_path / "camtraps.csv"
    path.write_text(CAMTRAPR)
    dataset = Dataset(format="folder", images=str(tmp_path), cameras=str(path))
    periods, off, lines = read_dataset_periods(dataset)
    table, _ = make_deployments(photos(), periods, off)
    assert days(table) == {"StationA": 42, "StationB": 43, "StationC": 38}
    assert [line.partition(": ")[2] for line in lines] == [
        "'StationA' has no coordinates (cameras without: 3); it is left out of maps and data packages"
    ]
    assert read_covariates(str(path)).column_names == ["location", "longitude", "latitude", "utm_y", "utm_x"]
    (tmp_path / "outages.csv").write_text("location,start,end\nStationA,2009-04-10,2009-04-12\n")
    dataset = Dataset(
        format="folder", images=str(tmp_path), cameras=str(path), outages=str(tmp_path / "outages.csv")
    )
    periods, off, _ = read_dataset_periods(dataset)
    assert days(make_deployments(photos(), periods, off)[0])["StationA"] == 40
    path.write_text(CAMTRAPR.replace('"12/05/2009","17/05/2009"', '"12/05/2009",""'))
    with pytest.raises(InputError, match=r"camtraps\.csv:4: problem1_to: empty; an outage has a start and"):
        read_camera_outages(str(path))
    path.write_text(CAMTRAPR.replace("utm_y", "latitud"))
    with pytest.raises(InputError, match=r"camtraps\.csv:1: no column latitude; .*did you mean 'latitud'"):
        read_periods(str(path))


def test_times_count_exactly(tmp_path: Path) -> None:
    table, _ = make_deployments(photos(), cameras(tmp_path, "A,0,0,2021-03-01 06:00,2021-03-03 18:00:00"))
    assert days(table) == {"A": 2.5}


def test_a_camera_that_came_back_and_one_that_saw_nothing(tmp_path: Path) -> None:
    periods = cameras(
        tmp_path,
        "A,0,0,2021-03-01,2021-03-11",
        "A,0,0,2021-06-01,2021-06-03",
        "B,1,0,2021-03-01,2021-03-31",
    )
    table, _ = make_deployments(photos(("A", "2021-03-04 08:00")), periods)
    assert days(table) == {"A": 12, "B": 30}
    assert table["n_images"].to_pylist() == [1, 0, 0]


def test_overlaps_of_one_camera_count_once(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-01,2021-03-11", "A,0,0,2021-03-06,2021-03-16")
    table, notes = make_deployments(photos(), periods)
    assert table["days"].to_pylist() == [10, 5]
    for counting in ("station", "cameras"):
        assert days(table, counting) == {"A": 15}
    assert notes == {"deployments that overlap one of the same camera: the overlap counts once": 1}
    [line] = check_periods(periods, None)
    assert line.startswith(f"{tmp_path}/cameras.csv:3: 'A' has a deployment from 2021-03-06 12:00")


def test_two_cameras_at_a_station(tmp_path: Path) -> None:
    periods = cameras(
        tmp_path,
        "A,left,0,0,2021-03-01,2021-03-11",
        "A,right,0,0,2021-03-06,2021-03-16",
        header="location,camera,latitude,longitude,start,end",
    )
    assert check_periods(periods, None) == []
    table, _ = make_deployments(photos(), periods)
    assert table["days"].to_pylist() == [10, 10]
    assert days(table, "station") == {"A": 15}
    assert days(table, "cameras") == {"A": 20}


def test_an_outage_of_one_of_two_cameras(tmp_path: Path) -> None:
    periods = cameras(
        tmp_path,
        "A,left,0,0,2021-03-01,2021-03-11",
        "A,right,0,0,2021-03-01,2021-03-11",
        header="location,camera,latitude,longitude,start,end",
    )
    (tmp_path / "outages.csv").write_text("location,camera,start,end\nA,left,2021-03-05,2021-03-07\n")
    table, _ = make_deployments(photos(), periods, read_outages(str(tmp_path / "outages.csv")))
    assert days(table, "station") == {"A": 10}
    assert days(table, "cameras") == {"A": 18}


def test_outages_that_overlap_count_once(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-01,2021-03-11")
    off = outages(tmp_path, "A,2021-03-03,2021-03-06", "A,2021-03-05,2021-03-07")
    table, _ = make_deployments(photos(), periods, off)
    assert (table["days"][0].as_py(), table["days_out"][0].as_py()) == (6, 4)


def test_from_photos_where_nothing_is_given(tmp_path: Path) -> None:
    """Each date from the first to the last photo is a day; a long silence ends a period; it says so."""
    seen = photos(
        ("A", "2021-03-01 23:00"),
        ("A", "2021-03-05 01:00"),
        ("A", "2021-05-01 10:00"),
        ("B", "2021-03-01 10:00", "first"),
        ("B", "2021-05-01 10:00", "first"),
    )
    table, _ = make_deployments(seen)
    assert table["days"].to_pylist() == [5, 1, 62]
    assert table["source"].to_pylist() == ["images"] * 3
    assert table["deployment"].to_pylist() == [None, None, "first"]
    assert table["n_images"].to_pylist() == [2, 1, 2]
    effort = effort_by_location(table)
    assert effort["days"].to_pylist() == [6, 62]
    assert effort["source"].to_pylist() == ["images", "images"]


def test_no_end_yet(tmp_path: Path) -> None:
    """The camera still stands there: its last photo is what is known, and the figure says so."""
    periods = cameras(tmp_path, "A,0,0,2021-03-01 00:00,", "B,1,0,2021-03-01,")
    table, notes = make_deployments(photos(("A", "2021-03-04 08:00")), periods)
    assert table["source"].to_pylist() == ["images", "cameras"]
    assert table["days"].to_pylist() == [4, None]
    effort = effort_by_location(table)
    assert effort["source"].to_pylist() == ["images", None]
    assert len(notes) == 2


def test_zones() -> None:
    """Periods in UTC, images in the time of the camera's clock."""
    period = {
        "location": "A",
        "deployment": "d1",
        "start": dt.datetime(2021, 3, 1, 22),
        "end": dt.datetime(2021, 3, 2, 22),
        "utc_offset_minutes": 0,
        "source": "metadata",
    }
    periods = pa.Table.from_pylist([period], schema=PERIODS)
    table, _ = make_deployments(photos(("A", "2021-03-02 00:30", "d1", 120)), periods)
    assert table["start"][0].as_py() == dt.datetime(2021, 3, 2, 0)
    assert table["n_images"][0].as_py() == 1
    table, _ = make_deployments(photos(("A", "2021-03-02 00:30", "d1")), periods)
    assert table["start"][0].as_py() == dt.datetime(2021, 3, 1, 22)


def test_times_with_a_zone(tmp_path: Path) -> None:
    """They become those of the cameras' clocks where photos tell these; both ends are by one clock."""
    periods = cameras(tmp_path, "A,0,0,2021-03-27T22:00:00Z,2021-03-29T00:00:00+02:00")
    off = outages(tmp_path, "A,2021-03-28T06:00:00+02:00,2021-03-28T10:00:00+02:00")
    assert check_periods(periods, off) == []
    table, _ = make_deployments(photos(("A", "2021-03-28 04:30", None, 120)), periods, off)
    [row] = table.to_pylist()
    assert (row["start"], row["end"]) == (dt.datetime(2021, 3, 28, 0), dt.datetime(2021, 3, 29, 0))
    assert (row["days"], row["n_images"]) == (pytest.approx(20 / 24), 1)
    assert row["outages"] == [{"start": dt.datetime(2021, 3, 28, 6), "end": dt.datetime(2021, 3, 28, 10)}]
    with pytest.raises(InputError, match=r"cameras\.csv:2: end: .* should be after the start"):
        cameras(tmp_path, "A,0,0,2021-03-27T22:00:00Z,2021-03-27T23:00:00+02:00")


def test_an_open_end_is_not_beyond_the_next_deployment(tmp_path: Path) -> None:
    """Nobody wrote down when it was taken away; from June on another one stood there."""
    periods = cameras(
        tmp_path,
        "A,0,0,2021-03-01 00:00,",
        "A,0,0,2021-06-01 00:00,2021-06-11 00:00",
        "A,0,0,,2021-08-31 18:00",
    )
    seen = photos(*(("A", f"2021-{day} 12:00") for day in ("03-10", "06-02", "06-10", "08-30")))
    table, _ = make_deployments(seen, periods)
    assert [row["days"] for row in table.to_pylist()] == [10, 10, 1.75]  # until 18:00
    assert table["known"].to_pylist() == ["start", None, "end"]
    assert table["source"].to_pylist() == ["images", "cameras", "images"]
    assert table["n_images"].to_pylist() == [1, 2, 1]


def test_what_is_known_of_a_deployment_counts_as_it_is(tmp_path: Path) -> None:
    """Of the other end, the photo's whole day counts, as where photos are all that is known."""
    seen = photos(*((name, f"2021-03-{day}") for name in "ABC" for day in ("01 10:00", "04 15:00")))
    periods = cameras(tmp_path, "A,0,0,2021-03-01 09:00,", "B,0,0,2021-03-01,", "C,0,0,,2021-03-04")
    table, _ = make_deployments(seen, periods)
    assert table["days"].to_pylist() == [3 + 15 / 24, 3.5, 3.5]
    assert table["n_images"].to_pylist() == [2, 2, 2]
    assert days(table) == {"A": 3 + 15 / 24, "B": 3.5, "C": 3.5}
    assert set(effort_by_location(table)["source"].to_pylist()) == {"images"}
    older = table.drop_columns(["known"])  # as an earlier version wrote it
    assert days(older) == {"A": 4, "B": 4, "C": 4}


def test_a_date_alone_is_not_judged_by_the_clock(tmp_path: Path) -> None:
    """A photo on the day of setup may be of the afternoon, one on the day of retrieval of the morning."""
    seen = photos(*(("A", f"2021-03-0{day}") for day in (1, 2, 3, 4)))
    seen = seen.append_column("date_only", pa.array([True] * 4))
    periods = cameras(tmp_path, "A,0,0,2021-03-02 09:00,2021-03-03 11:00")
    [row] = make_deployments(seen, periods)[0].to_pylist()
    assert row["n_images"] == 2
    [row] = make_deployments(seen, cameras(tmp_path, "A,0,0,2021-03-03 09:00,"))[0].to_pylist()
    assert (row["n_images"], row["days"]) == (2, 1 + 15 / 24)
    [row] = make_deployments(seen, cameras(tmp_path, "A,0,0,2021-03-04 09:00,"))[0].to_pylist()
    assert (row["n_images"], row["days"]) == (1, 15 / 24)


def test_outages_of_cameras_by_name(tmp_path: Path) -> None:
    header = "location,camera,latitude,longitude,start,end"
    rows = ["A,left,0,0,2021-03-01,2021-03-11", "A,right,0,0,2021-03-01,2021-03-11"]
    (tmp_path / "outages.csv").write_text("location,camera,start,end\nA,Left,2021-03-05,2021-03-07\n")
    off = read_outages(str(tmp_path / "outages.csv"))
    periods = cameras(tmp_path, *rows, header=header)
    message = r"outages\.csv:2: camera: 'Left' is none of location 'A' .*did you mean 'left'"
    for read in (lambda: check_periods(periods, off), lambda: make_deployments(photos(), periods, off)):
        with pytest.raises(InputError, match=message):
            read()
    # Where deployments name no camera, there is but one that it can be.
    table, _ = make_deployments(photos(), cameras(tmp_path, "A,0,0,2021-03-01,2021-03-11"), off)
    assert days(table) == {"A": 8}


def test_deployments_that_have_not_ended_yet_are_told(tmp_path: Path) -> None:
    rows = ["A,0,0,2021-03-01,2021-03-11", "B,0,0,2021-03-01,2021-04-11", "C,0,0,2021-05-01,"]
    periods = cameras(tmp_path, *rows)
    assert deployments_to_come(periods, dt.datetime(2021, 6, 1)) == []
    [line] = deployments_to_come(periods, dt.datetime(2021, 3, 20))
    said = "cameras.csv:3: end: 2021-04-11 12:00 has not come yet (such deployments: 2)"
    assert line.startswith(f"{tmp_path}/{said}")


def test_an_outage_over_midnight_and_one_at_the_end(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-01 18:00,2021-03-04 06:00")
    off = outages(tmp_path, "A,2021-03-01 23:00,2021-03-02 01:00", "A,2021-03-04 00:00,2021-03-04 06:00")
    table, _ = make_deployments(photos(), periods, off)
    [row] = table.to_pylist()
    assert (row["days"], row["days_out"]) == (pytest.approx(52 / 24), pytest.approx(8 / 24))


@pytest.mark.parametrize(
    ("rows", "off", "problem"),
    [
        (
            ["A,0,0,2021-03-11,2021-03-01"],
            [],
            r"cameras\.csv:2: end: 2021-03-01 12:00 should be after the start",
        ),
        (["A,0,0,2021-03-01,soon"], [], r"cameras\.csv:2: end: 'soon' should be a date such as"),
        (["A,0,0,01/02/2021,2021-03-01"], [], r"cameras\.csv:2: start: .* set dataset\.dates: dmy or mdy"),
        (["A,,0,2021-03-01,2021-03-11"], [], r"cameras\.csv:2: latitude: '' should be degrees"),
        (
            ["A,0,0,2021-03-01,2021-03-11"],
            ["A,2021-03-10,2021-03-12"],
            r"outages\.csv:2: the outage from 2021-03-10 12:00 to 2021-03-12 12:00 is not within a "
            r"deployment of 'A', which has: 2021-03-01 12:00 to 2021-03-11 12:00",
        ),
        (["A,0,0,2021-03-01,2021-03-11"], ["A,2021-03-10,"], r"outages\.csv:2: end: empty"),
        (
            ["A,0,0,2021-03-01,2021-03-11"],
            ["A,2021-03-10,2021-03-09"],
            r"outages\.csv:2: end: .* should be after",
        ),
        (
            ["A,0,0,2021-03-01,2021-03-11"],
            ["X,2021-03-10,2021-03-11"],
            r"outages\.csv:2: location: 'X' has neither",
        ),
    ],
)
def test_refused(tmp_path: Path, rows: list[str], off: list[str], problem: str) -> None:
    def read() -> None:
        periods = cameras(tmp_path, *rows)
        breaks = outages(tmp_path, *off)
        check_periods(periods, breaks)
        make_deployments(photos(), periods, breaks)

    with pytest.raises(InputError, match=problem) as refused:
        read()
    assert "\n" not in str(refused.value)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spans, spans)
def test_days_are_those_that_a_clock_would_count(
    stood: list[tuple[int, int]], off: list[tuple[int, int]]
) -> None:
    """Hour by hour: a camera works where some deployment covers the hour and no outage does."""
    start = dt.datetime(2021, 1, 1)
    hour = dt.timedelta(hours=1)

    def table(rows: list[tuple[int, int]], schema: pa.Schema) -> pa.Table:
        made = [{"location": "A", "start": start + a * hour, "end": start + (a + n) * hour} for a, n in rows]
        if "source" in schema.names:
            made = [row | {"source": "cameras"} for row in made]
        return pa.Table.from_pylist(made, schema=schema)

    found, _ = make_deployments(photos(), table(stood, PERIODS), table(off, OUTAGES))
    covered = {h for a, n in stood for h in range(a, a + n)} - {h for a, n in off for h in range(a, a + n)}
    assert days(found)["A"] == pytest.approx(len(covered) / 24)
    assert sum(found["days"].to_pylist()) == pytest.approx(len(covered) / 24)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))))
def test_union(some: list[tuple[int, int]]) -> None:
    found = union(some)
    assert {h for a, b in found for h in range(a, b)} == {h for a, b in some for h in range(a, b)}
    assert all(one[1] < two[0] for one, two in itertools.pairwise(found))


def test_a_start_that_can_not_be_read_is_not_known_and_is_said(tmp_path: Path) -> None:
    """The deployment counts from its first photo, as one whose start nobody wrote down."""
    rows = ["A,0,0,soon,2021-03-11", "B,0,0,2021-03-01,2021-03-11"]
    notes: Counter[str] = Counter()
    periods = cameras(tmp_path, *rows, notes=notes)
    assert notes == {
        "deployments whose start can't be read, and is taken as not known, so that the first photo counts: "
        f"{tmp_path}/cameras.csv:2: start: 'soon'": 1
    }
    assert periods["start"].to_pylist()[0] is None
    table, _ = make_deployments(photos(("A", "2021-03-06 12:00"), ("B", "2021-03-02 12:00")), periods, None)
    assert days(table) == {"A": 5.5, "B": 10}
    with pytest.raises(InputError, match=r"cameras\.csv:2: start: 'soon' should be a date such as 2022"):
        cameras(tmp_path, *rows)  # where nobody would be told
    with pytest.raises(InputError, match=r"cameras\.csv:2: start: 'soon' should be a date such as 2022"):
        cameras(tmp_path, "A,0,0,soon,", "B,0,0,later,", "C,0,0,2021-03-01,", notes=Counter())
    with pytest.raises(InputError, match=r"outages\.csv:2: start: 'soon' should be a date such as 2022"):
        outages(tmp_path, "A,soon,2021-03-10", "B,2021-03-01,2021-03-02")


def test_deployments_as_wildlife_insights_and_trapper_name_them(tmp_path: Path) -> None:
    periods = cameras(
        tmp_path,
        "p,D1,12.5,-3.5,2021-03-12 08:00:00,2021-03-22 08:00:00",
        header="project_id,deployment_id,longitude,latitude,start_date,end_date",
    )
    table, _ = make_deployments(photos(("D1", "2021-03-13T12:00:00")), periods)
    assert days(table) == {"D1": 10}


def test_deployments_as_a_spreadsheet_dates_them(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,44267,44277.5", "B,0,0,44268,", notes=Counter())
    assert [str(time) for time in periods["start"].to_pylist()] == [
        "2021-03-12 12:00:00",
        "2021-03-13 12:00:00",
    ]
    assert str(periods["end"][0]) == "2021-03-22 12:00:00"
    periods = cameras(tmp_path, "A,0,0,12-Mar-21,25/03/2021", notes=Counter())
    assert str(periods["start"][0]) == "2021-03-12 12:00:00"
    with pytest.raises(
        InputError, match=r"start: '31/03/2021' is written day first, but .*csv:3: .*month first"
    ):
        cameras(tmp_path, "A,0,0,31/03/2021,", "B,0,0,03/31/2021,", notes=Counter())
