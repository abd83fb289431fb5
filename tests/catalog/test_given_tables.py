"""The rules for tables that people give, whatever made them."""

from __future__ import annotations

import codecs
import datetime as dt
import logging
from collections import Counter
from pathlib import Path

import openpyxl
import pytest

from camtrap_batch.catalog.labels import label_key, one_name_each
from camtrap_batch.catalog.numbers import number
from camtrap_batch.catalog.tabular import GivenTable, read_table
from camtrap_batch.errors import InputError
from camtrap_batch.notices import LOGGER
from camtrap_batch.vocabulary import MISSING

ROWS = [["A", "-24.5", "Löwe, groß"], ["B", "2", ""]]
HEADER = ["location", "latitude", "note"]


def read(
    tmp_path: Path, content: bytes | str, name: str = "a.csv", expected: tuple[str, ...] = ()
) -> GivenTable:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(str(path), "dataset.cameras")


def text(delimiter: str, *, quoted: bool = False, decimal: str = ".") -> str:
    rows = [HEADER, *([name, latitude.replace(".", decimal), note] for name, latitude, note in ROWS)]

    def cell(value: str) -> str:
        return f'"{value}"' if quoted or delimiter in value else value

    return "".join(delimiter.join(map(cell, row)) + "\r\n" for row in rows)


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_separators_quotes_and_encodings(tmp_path: Path, delimiter: str, quoted: bool, mark: str) -> None:
    table = read(tmp_path, text(delimiter, quoted=quoted).encode(mark))
    assert table.columns == {
        "location": ["A", "B"],
        "latitude": ["-24.5", "2"],
        "note": ["Löwe, groß", None],
    }
    assert table.lines == [2, 3]
    assert bool(table.notes) == (mark == "cp1252")


def test_utf_16_with_its_mark_and_the_line_that_excel_writes_first(tmp_path: Path) -> None:
    content = "sep=;\r\na;b\r\n1,5;2\r\n"
    for data in (content.encode(), codecs.BOM_UTF16_BE + content.encode("utf-16-be")):
        table = read(tmp_path, data)
        assert table.columns == {"a": ["1,5"], "b": ["2"]}
        assert table.at(0).endswith("a.csv:3")


@pytest.mark.parametrize("word", sorted(MISSING))
def test_missing_values(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"a,b\n {word} ,x\n").columns == {"a": [None], "b": ["x"]}


@pytest.mark.parametrize("word", ["na", "none", "Nan", "NA1", "-", "0"])
def test_words_that_may_be_names(tmp_path: Path, word: str) -> None:
    assert read(tmp_path, f"a,b\n{word},x\n").columns["a"] == [word]


def test_numbers_with_decimal_commas(tmp_path: Path) -> None:
    table = read(tmp_path, text(";", decimal=","))
    assert [number(cell or "") for cell in table.columns["latitude"]] == [-24.5, 2.0]
    assert read(tmp_path, "n;m\n2,0;1\n").whole("n") == [2]
    with pytest.raises(InputError, match=r"a.csv:2: n: '2,5' should be a whole number"):
        read(tmp_path, "n;m\n2,5;1\n").whole("n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "location,lat,lon\nA,1,2\nB,-24,5,31,25\n",
            r"a.csv:3: 5 values.*; where commas are dec",
        ),
        ("location,lat,lon\nA,1\n", r"a.csv:2: 2 values, the first line names 3 columns"),
        ('location,lat,lon\n"A\nB",1,2\nC,1\n', r"a.csv:4: 2 values"),
        ('location,lat,lon\nA,1,2\n"B,1,2\nC,1,2\n', r"a.csv:3: not CSV .*: a quote that is not closed"),
        ("location,lat,lat\n", r"a.csv:1: the column lat occurs twice"),
        (b"\x00\x01\x02\xff" * 50, r"a.csv: is not text"),
        (b"\xd0\xcf\x11\xe0rest", r"a.csv: a workbook of old Excel .*; save it as .xlsx or .csv"),
        (b"PK\x03\x04rest", r"a.csv: can't be read as an Excel workbook"),
    ],
)
def test_what_is_no_table_is_said_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_cells_that_a_spreadsheet_adds_at_the_end(tmp_path: Path) -> None:
    assert read(tmp_path, "a,b,,\n1,2,,\n\n,,,\n3,4,,\n").columns == {"a": ["1", "3"], "b": ["2", "4"]}


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_titles_above_the_header(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever other tests of this process, and the libraries that they load, have done to logging.
    caplog.set_level(logging.WARNING, LOGGER.name)
    monkeypatch.setattr(LOGGER, "disabled", False)
    monkeypatch.setattr(LOGGER, "propagate", True)
    expected = ("location", "latitude", "longitude")
    rows = [["Cameras of 2022, station north"], [], ["location", "latitude"], ["A", -24.5], ["B", 2]]
    path = tmp_path / f"titles.{kind}"
    if kind == "csv":
        path.write_text("".join(";".join(map(str, row)) + "\n" for row in rows))
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.active.merge_cells("A1:B1")
        book.save(path)
    table = read_table(str(path), "dataset.cameras", expected)
    assert table.columns == {"location": ["A", "B"], "latitude": ["-24.5", "2"]}
    assert table.lines == [4, 5]
    assert f"dataset.cameras: 1 line above the header of {path}, left out" in caplog.messages


def test_cells_that_are_merged_below_one_another(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (
        ["location", "camera", "start"],
        ["A", 1, dt.date(2020, 1, 2)],
        [None, 2, None],
        ["B", 1, None],
    ):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    book.active.merge_cells("C2:C4")
    book.save(tmp_path / "a.xlsx")
    columns = read_table(str(tmp_path / "a.xlsx"), "dataset.cameras").columns
    assert columns == {"location": ["A", "A", "B"], "camera": ["1", "2", "1"], "start": ["2020-01-02"] * 3}


def test_row_names_of_r_that_have_no_header(tmp_path: Path) -> None:
    """As `write.table(sep = ",")` has them; not a decimal comma in each row."""
    assert read(tmp_path, '"a","b"\n"1","x",2\n"2","y",NA\n').columns == {"a": ["x", "y"], "b": ["2", None]}
    with pytest.raises(InputError, match=r"a\.csv:2: 3 values, the first line names 2 columns"):
        read(tmp_path, "a,b\n7,1,5\n8,2,5\n")
    with pytest.raises(InputError, match=r"there should be commas, semicolons, tabs or bars"):
        read(tmp_path, '"a" "b"\n"1" "x" 2\n')


def test_names_of_columns(tmp_path: Path) -> None:
    table = read(tmp_path, " File Name ;Category-ID\nx;1\n")
    assert list(table.columns) == ["file_name", "category_id"]
    assert table.require({"file_name": ("file_name", "file")}) == {"file_name": "file_name"}
    with pytest.raises(InputError, match=r"no column category; .*; did you mean 'category_id'"):
        table.require({"category": ("category", "label")})


def test_a_workbook(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["location", "latitude", "start", "end", "on", "code"])
    sheet.append(["A", -24.5, dt.datetime(2020, 1, 2, 3, 4, 5), dt.date(2020, 2, 3), True, 12.0])
    sheet.append([])
    sheet.append(["B", 2, None, "NA", False, "x"])
    book.create_sheet("more").append(["z"])
    book.save(tmp_path / "a.xlsx")
    table = read_table(str(tmp_path / "a.xlsx"), "dataset.cameras")
    assert table.columns == {
        "location": ["A", "B"],
        "latitude": ["-24.5", "2"],
        "start": ["2020-01-02 03:04:05", None],
        "end": ["2020-02-03", None],
        "on": ["true", "false"],
        "code": ["12", "x"],
    }
    assert table.lines == [2, 4]
    assert any("ignored" in text for text in table.notes)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (["Vulpes vulpes", "vulpes vulpes", "Vulpes vulpes (Linnaeus, 1758)"], "Vulpes vulpes"),
        (["Vulpes  vulpes", "Vulpes\xa0vulpes"], "Vulpes vulpes"),
        (["Panthera pardus (Linnaeus, 1758)", "Panthera pardus Linnaeus, 1758"], "Panthera pardus"),
        (["Equus quagga boehmi Matschie, 1892"], "Equus quagga boehmi"),
        (["Canis lupus L."], "Canis lupus"),
        (["Vulpes Frisch, 1775", "vulpes"], "vulpes"),
    ],
)
def test_ways_of_writing_a_name_are_one(written: list[str], name: str) -> None:
    notes: Counter[str] = Counter()
    assert set(one_name_each(written, notes).values()) == {name}
    assert len(notes) == (len({" ".join(text.split()) for text in written}) > 1)


@pytest.mark.parametrize("text", ["Lion 2", "unknown 2019", "bird (small)", "Camera 2020", "red fox"])
def test_names_that_have_no_author(text: str) -> None:
    assert label_key(text) == text.casefold()


def test_the_sheet_with_the_columns_that_are_known(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Read me"
    book.active.append(["This file has the cameras of 2021", "and more"])
    sheet = book.create_sheet("Cameras")
    sheet.append(["All cameras"])
    sheet.append(["location", "latitude", "longitude", "note"])
    sheet.append(["A", 1, 2])  # the last cell is empty
    book.save(tmp_path / "a.xlsx")
    table = read_table(str(tmp_path / "a.xlsx"), "camtrap init", ("location", "latitude", "longitude"))
    assert table.columns == {"location": ["A"], "latitude": ["1"], "longitude": ["2"], "note": [None]}
    assert table.lines == [3]
    assert any("beside 'Cameras', ignored" in text for text in table.notes)


def test_formulas_that_nobody_calculated_are_no_empty_cells(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["location", "latitude", "longitude"])
    book.active.append(["A", "=1+1", 2])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match=r"a.xlsx: sheet 'Sheet', row 2: the formula '=1\+1' has no result"):
        read_table(str(tmp_path / "a.xlsx"), "dataset.cameras")


def test_characters_that_nobody_sees(tmp_path: Path) -> None:
    """They come with text copied from a web page; a class, or a camera, of its own would look the same."""
    table = read(tmp_path, "\u200blocation;species\nA\u200b;\ufefffox\n\u200e;x\n")
    assert table.columns == {"location": ["A", None], "species": ["fox", "x"]}
    assert label_key("Vulpes\u200b vulpes") == label_key("Vulpes vulpes")


def test_utf_32(tmp_path: Path) -> None:
    assert read(tmp_path, "a;b\nü;1\n".encode("utf-32")).columns == {"a": ["ü"], "b": ["1"]}
