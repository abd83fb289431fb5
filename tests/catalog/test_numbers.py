"""Numbers and coordinates as people write them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from camtrap_batch.catalog.cameras import read_cameras, read_covariates
from camtrap_batch.catalog.csv import read_csv
from camtrap_batch.catalog.numbers import degrees
from camtrap_batch.errors import InputError

NORTH, SOUTH = 52 + 30 / 60 + 15.5 / 3600, -(33 + 30 / 60)


def cameras(tmp_path: Path, *rows: tuple[str, ...], header: tuple[str, ...] = ("lat", "lon")) -> str:
    path = tmp_path / "cameras.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([("location", *header), *((f"C{at}", *row) for at, row in enumerate(rows))])
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        *("52°30'15.5\"N", "52 30 15.5 N", "N52 30 15.5", "52°30′15.5″N", "52º30’15,5”N", "52°30'15.5''n"),  # noqa: RUF001
        *("52:30:15.5", "52 30 15,5", "52d30m15.5s N", "52 deg 30 min 15.5 sec N", "+52° 30' 15.5\" N"),
        *("N52 30.258333", "52 30.258333", "52°30.258333'", "52.504305556N", "N 52,504305556°"),
    ],
)
def test_degrees_minutes_and_seconds(text: str) -> None:
    assert degrees(text, "latitude") == pytest.approx(NORTH, abs=1e-8)


@pytest.mark.parametrize("text", ["33°30'S", "-33 30 0", "\u221233.5", "S33:30", "33.5 s", "33d30m0sS"])
def test_south(text: str) -> None:
    assert degrees(text, "latitude") == SOUTH


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("52 30", "may be 52.30 degrees, or 52 degrees and 30 minutes"),
        ("13°24'E", "should have one of the letters N and S, or none"),
        ("52°N 30'S", "should be degrees, such as"),
        ("N52 30 15S", "should have one of the letters N and S, or none"),
        ("-33°30'S", "has a minus and a letter"),
        ("52 60 10 N", "should have fewer than 60 minutes and seconds"),
        ("52.5 30 N", "should have decimals in its last part only"),
        ("91°N", "should be degrees, between -90 and 90"),
        *(
            (text, "should be degrees, such as")
            for text in ("52,30,15", "52.30.15", "32U 388500 5819000", "52_5")
        ),
    ],
)
def test_what_is_no_latitude_or_may_be_two(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=r"cameras.csv:3: latitude: ") as refused:
        read_cameras(cameras(tmp_path, ("1", "2"), (text, "2")))
    assert f"{text!r} {problem}" in str(refused.value)


def test_east_and_west(tmp_path: Path) -> None:
    rows = [("1", "13°24'E"), ("1", "W 13 24.5"), ("1", "179 59 59.99 w")]
    found = read_cameras(cameras(tmp_path, *rows))["longitude"].to_pylist()
    assert found == pytest.approx([13.4, -13.408333333, -179.999997222])
    with pytest.raises(InputError, match="should end with E or W: O is east in some languages"):
        read_cameras(cameras(tmp_path, ("1", "13°24'O")))


def test_thousands_beside_decimals(tmp_path: Path) -> None:
    """1.000 beside decimal commas was read as 1."""
    assert read_cameras(cameras(tmp_path, ("1.000", "2"), ("0.5", "2")))["latitude"].to_pylist() == [1, 0.5]
    for decimal, other in (("52,5", "1.000"), ("52.5", "1,000")):
        with pytest.raises(InputError, match=rf"cameras.csv:3: latitude: '{other}' may be 1 or 1000, as"):
            read_cameras(cameras(tmp_path, (decimal, "2"), (other, "2")))


def test_numbers_about_cameras(tmp_path: Path) -> None:
    """Columns of numbers with decimal commas are numbers; one that may have thousands stays as it is."""
    rows = [("1", "2", "2,5", "2,5"), ("1", "2", "NA", "NA"), ("1", "2", "3", "1.250")]
    table = read_covariates(cameras(tmp_path, *rows, header=("lat", "lon", "height", "elevation")))
    assert table["height"].to_pylist() == [2.5, None, 3]
    assert table["elevation"].to_pylist() == ["2,5", None, "1.250"]


def counted(tmp_path: Path, *cells: str) -> tuple[list[int | None], dict[str, int]]:
    rows = "".join(f"A/{at:02}.jpg;fox;{cell}\n" for at, cell in enumerate(cells))
    (tmp_path / "list.csv").write_text(f"file;species;count\n{rows}")
    catalog = read_csv(str(tmp_path / "list.csv"), lambda name: name.partition("/")[0])
    return [label["count"] for (label,) in catalog.table["labels"].to_pylist()], catalog.notes


@pytest.mark.parametrize("strange", ["1.000", "1,000", "2.000"])
def test_counts_of_one_or_a_thousand(tmp_path: Path, strange: str) -> None:
    counts, notes = counted(tmp_path, strange, *["2"] * 20)
    assert counts == [None, *[2] * 20]
    (note,) = (text for text in notes if "not whole numbers" in text)
    assert f"list.csv:2: {strange!r} may be {strange[0]} or {strange[0]}000: write it without" in note
    with pytest.raises(InputError, match=rf"list.csv:2: count: '{strange}' may be {strange[0]} or"):
        counted(tmp_path, *[strange] * 9, *["3"] * 9)


def test_counts_with_decimals_throughout(tmp_path: Path) -> None:
    """As R's format() writes a column."""
    assert counted(tmp_path, "1.000", "2.000", "12.000")[0] == [1, 2, 12]
    assert counted(tmp_path, "1.0", "2.000", "3")[0] == [1, 2, 3]
