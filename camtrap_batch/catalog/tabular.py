"""Tables that people provide: metadata, cameras, taxonomy, species lists, corrections, all under the same
rules.

A table is text with a header line (.csv, .tsv, .txt) or the first sheet of an Excel workbook (.xlsx). Tables
saved by a spreadsheet or R can be read: commas, semicolons, tabs or bars between cells, UTF-8, UTF-16 or
Windows-1252, decimal commas, and the words in `MISSING` for a cell without a value. Details are in
docs/csv.md.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import itertools
import textwrap
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from camtrap_batch.catalog.numbers import doubtful, number
from camtrap_batch.catalog.zipped import read_file
from camtrap_batch.errors import InputError, choices
from camtrap_batch.notices import say_all
from camtrap_batch.remote import cant_read, redacted
from camtrap_batch.vocabulary import INVISIBLE, MISSING, counted

YES = frozenset(
    {"1", "true", "t", "yes", "y", "x", "ja", "oui", "si", "sí", "sim", "wahr", "vrai", "verdadero"}
)
NO = frozenset({"0", "false", "f", "no", "n", "nein", "non", "não", "nee", "nej", "falsch", "faux", "falso"})
"""What people write, in lower case, into a column of yes and no."""

NO_VALUE = "words such as NA mean that there is no value"
"""What to add where a cell counts as empty."""

ENDINGS = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".csv.gz")

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LOOKED_AT = 50  # number of records examined to find the delimiter
_NOTED = ("dataset.metadata", "camtrap init")
"""Keys of tables whose notes are kept and reported by their readers."""
_TITLES = 10  # number of records examined to find the header
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OLE = b"\xd0\xcf\x11\xe0"  # first bytes of .xls

Names = Mapping[str, Sequence[str]]
"""Purpose of a column -> the names that it may have, the most likely first."""


@dataclass(frozen=True)
class GivenTable:
    """A table as text.

    Attributes
    ----------
    path : for messages
    key : the key of the job file that names the table, for messages
    columns : name in lower case, with _ for blanks -> n cells; None if there is no value
    lines : for each row, the line on which it begins; in a workbook, its row
    delimiter : what separates cells; None in a workbook
    notes : oddities -> how often they occur
    """

    path: str
    key: str
    columns: dict[str, list[str | None]]
    lines: list[int]
    delimiter: str | None = None
    notes: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """File and line of a row."""
        return f"{self.path}:{self.lines[row]}"

    @property
    def origin(self) -> str:
        """The key that names the table, for messages, if the file alone does not make it clear."""
        return "" if self.key.startswith("dataset.") else f" ({self.key})"

    def rows(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        """File and line of each row, and its cells."""
        for row in range(len(self)):
            yield self.at(row), {name: cells[row] for name, cells in self.columns.items()}

    def name_of(self, names: Sequence[str]) -> str | None:
        """The first of some names that a column has."""
        return next((name for name in names if name in self.columns), None)

    def require(self, needed: Names) -> dict[str, str]:
        """Purpose of a column -> its name. Raises InputError if a column in `needed` is missing."""
        found: dict[str, str] = {}
        for what, names in needed.items():
            name = self.name_of(names)
            if name is None:
                raise InputError(f"{self.path}:1: no column {what}{self.origin}; {self.listed(names)}")
            found[what] = name
        return found

    def require_cells(self, columns: Iterable[str]) -> None:
        """Raise InputError if a cell is empty that must not be."""
        for name in columns:
            if None in (cells := self.columns[name]):
                raise InputError(f"{self.at(cells.index(None))}: {name}: empty{self.origin}; {NO_VALUE}")

    def listed(self, names: Sequence[str]) -> str:
        """Which columns there are, and which one of `names` may have been meant."""
        listed = textwrap.shorten(", ".join(self.columns), 200) or "none"
        # Everybody expects commas, but the file may not have been meant to be a table.
        is_plain = self.delimiter is None or (self.delimiter == "," and bool(self.origin))
        between = "" if is_plain else f", between {_DELIMITERS.get(self.delimiter or '', 'cells')},"
        near = next((hint for name in names if (hint := _did_you_mean(name, self.columns))), "")
        also = f"; it may also be called {', '.join(names[1:])}" if len(names) > 1 else ""
        return f"the columns{between} are: {listed}{near}{also}"

    def whole(self, name: str) -> list[int | None]:
        """A column of whole numbers. Raises InputError if a cell is not one."""
        numbers: list[int | None] = []
        cells = self.columns.get(name, [None] * len(self))
        open_ = doubtful(cells, whole=True)
        for row, cell in enumerate(cells):
            value = None if cell is None or row in open_ else number(cell)
            if cell is not None and (value is None or not value.is_integer() or abs(value) >= 2**31):
                raise InputError(self.not_whole(row, name))
            numbers.append(None if value is None else int(value))
        return numbers

    def not_whole(self, row: int, name: str) -> str:
        """What to say about a cell that should be a whole number."""
        cells = self.columns[name]
        why = doubtful(cells, whole=True).get(row, f"should be a whole number, at most {2**31 - 1}")
        return f"{self.at(row)}: {name}: {cells[row]!r} {why}"


def read_table(path: str, key: str, expected: Iterable[str] = ()) -> GivenTable:
    """Read a table from a file or an fsspec URL. Oddities are reported, except those of metadata: see
    `notes`.

    Parameters
    ----------
    key : the key of the job file that names it, for messages
    expected : names of columns that it may have; they help to find the delimiter

    Raises
    ------
    InputError
        It is missing or not a table, has a row that can't be split, or has a column twice; with the line.
    """
    data, expected = _read(path, key), set(expected)
    notes: Counter[str] = Counter()
    delimiter = None
    if data.startswith(b"PK\x03\x04"):
        records = _sheet(path, key, data, notes, expected)
    elif data.startswith(_OLE):
        raise InputError(f"{redacted(path)}: a workbook of old Excel ({key}); save it as .xlsx or .csv")
    else:
        text, delimiter, skipped = _delimited(decode(path, key, data, notes), expected)
        records = _split(text, delimiter, path, key, skipped)
    empty = GivenTable(redacted(path), key, {}, [], delimiter, notes)
    table = _table(empty, _from_header(empty, records, expected), expected)
    if key not in _NOTED:
        say_all([f"{key}: {counted(count, text)}" for text, count in notes.items()])
    return table


def decode(path: str, key: str, data: bytes, notes: Counter[str]) -> str:
    """Bytes as text: UTF-8 or UTF-16, otherwise Windows-1252, with a note. Raises InputError if it is not
    text."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as problem:
                raise InputError(
                    f"{redacted(path)}: can't be read as {encoding.upper()} ({key}): {problem}"
                ) from None
    if b"\0" in data[:4096]:
        for encoding, zeros in (("utf-16-le", data[1:400:2]), ("utf-16-be", data[:400:2])):
            if zeros and not any(zeros[: len(zeros) // 2 * 2 or 1]):
                return data.decode(encoding, "replace")
        raise InputError(f"{redacted(path)}: is not text ({key}); it should be a .csv or .xlsx table")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        notes[f"table that is not UTF-8, read as Windows-1252 (Latin-1): {redacted(path)}"] += 1
        return text


def is_missing(cell: str | None) -> bool:
    """Whether a cell has no value."""
    return cell is None or cell.strip() in MISSING


def column_name(text: str) -> str:
    """A header's cell as a column name: lower case, _ for blanks and hyphens."""
    return "_".join(_trimmed(text).replace("-", " ").replace("\xa0", " ").split()).casefold()


def _trimmed(cell: str) -> str:
    text = cell.strip()
    return text if text.isascii() else text.strip(INVISIBLE).strip()


def _read(path: str, key: str) -> bytes:
    try:
        return read_file(path)
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(cant_read(path, problem, key)) from None


def _delimited(text: str, expected: Iterable[str]) -> tuple[str, str, int]:
    """The text, its delimiter, and how many lines that declared the delimiter were removed."""
    first, _, rest = text.partition("\n")
    said = first.strip().strip('"')
    if said.lower().startswith("sep=") and len(said) <= 5:  # Excel's form
        return rest, said[4:] or "\t", 1
    return text, _delimiter(text, expected), 0


def _split(text: str, delimiter: str, path: str, key: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1 + skipped
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                yield line, record
            line = reader.line_num + 1 + skipped
    except csv.Error as problem:
        why = "a quote that is not closed" if "unexpected end" in str(problem) else str(problem)
        if "expected after" in why:
            why += "; between cells there should be commas, semicolons, tabs or bars"
        raise InputError(f"{redacted(path)}:{line}: not CSV ({key}): {why}") from None


def _delimiter(text: str, expected: Iterable[str]) -> str:
    """The delimiter: the one that gives the most expected names in the header, otherwise the most cells."""
    expected = set(expected)

    def score(delimiter: str) -> tuple[int, int, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            records = [record for record in itertools.islice(reader, _LOOKED_AT) if any(record)]
        except csv.Error:
            return 0, 0, 0
        if not records:
            return 0, 0, 0
        known = [len(expected & set(map(column_name, record))) for record in records[:_TITLES]]
        header = records[0 if known[0] else known.index(max(known))]
        alike = sum(len(record) == len(header) for record in records)
        return max(known), alike * (len(header) > 1), len(header)

    scores = {delimiter: score(delimiter) for delimiter in _DELIMITERS}
    return max(_DELIMITERS, key=lambda delimiter: scores[delimiter])


def _from_header(
    empty: GivenTable, records: Iterator[tuple[int, list[str]]], expected: set[str]
) -> Iterator[tuple[int, list[str]]]:
    """The records without titles above the header; R's row names, which have no header, get an empty one."""
    first = list(itertools.islice(records, _TITLES))
    known = [len(expected & set(map(column_name, record))) for _, record in first]
    # A title's only word may be that of an expected column.
    at = next((row for row, number in enumerate(known) if number > 1), 0) if known and not known[0] else 0
    if at:
        empty.notes[f"lines above the header of {empty.path}, left out"] += at
    first = first[at:]
    numbered = [record[0].strip() for _, record in first[1:3]]
    # R numbers rows, which distinguishes them from a decimal comma in each row.
    is_numbered = bool(numbered) and numbered == ["1", "2"][: len(numbered)]
    if is_numbered and all(len(record) == len(first[0][1]) + 1 for _, record in first[1:]):
        first[0] = first[0][0], ["", *first[0][1]]
    return itertools.chain(first, records)


def _table(empty: GivenTable, records: Iterator[tuple[int, list[str]]], expected: set[str]) -> GivenTable:
    path, origin = empty.path, empty.origin
    first_line, header = next(records, (1, []))
    names = [column_name(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    for name, times in Counter(names).items():
        if times > 1 and name and (name in expected or not expected):
            raise InputError(
                f"{path}:{first_line}: the column {name} occurs twice{origin}; the columns are: "
                f"{', '.join(names)}"
            )
    lines: list[int] = []
    rows: list[list[str | None]] = []
    for line, record in records:
        if any(cell.strip() for cell in record[len(names) :]) or len(record) < len(names):
            raise InputError(
                f"{path}:{line}: {len(record)} values{origin}, the first line names {len(names)} columns"
                + _hint(record, len(names))
            )
        lines.append(line)
        cells = [_trimmed(cell) for cell in record[: len(names)]]
        rows.append([None if is_missing(cell) else cell for cell in cells])
    columns: dict[str, list[str | None]] = {}
    for at, name in enumerate(names):
        if name:
            columns.setdefault(name, [row[at] for row in rows])
    return GivenTable(path, empty.key, columns, lines, empty.delimiter, empty.notes)


def _hint(record: Sequence[str], n_columns: int) -> str:
    numeric = sum(cell.strip().lstrip("-").isdigit() for cell in record)
    if len(record) > n_columns and numeric >= 2 * (len(record) - n_columns):
        return "; where commas are decimal, quote the numbers or put semicolons between cells"
    return ""


def _did_you_mean(name: str, columns: Iterable[str]) -> str:
    hint = choices(name, columns)
    return f"; {hint.partition(' possible:')[0]}" if hint.startswith("did you mean") else ""


def _sheet(
    path: str, key: str, data: bytes, notes: Counter[str], expected: set[str]
) -> Iterator[tuple[int, list[str]]]:
    """Row and cells of the sheet of a workbook with the most known columns, otherwise of the first that is
    not empty."""
    import openpyxl  # takes a quarter of a second

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            is_workbook = "xl/workbook.xml" in names
            contents = [
                archive.read(name)
                for name in names
                if name.startswith("xl/worksheets/") and name.endswith(".xml")
            ]
            is_merged = any(b"<mergeCell " in content for content in contents)
            has_formulas = any(b"<f>" in content or b"<f " in content for content in contents)
        if not is_workbook:
            inside = next((name for name in names if name.lower().endswith(ENDINGS)), None)
            right = f"zip://{inside}::{redacted(path)}" if inside else "a .csv or .xlsx table"
            raise InputError(f"{redacted(path)}: is a zip file, not a table ({key}); it should be {right}")
        # openpyxl reports merged cells only for a workbook that is read whole.
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=not is_merged, data_only=True)
        sheets = [(sheet.title, list(_cells(sheet))) for sheet in book.worksheets]
        full = [(title, rows) for title, rows in sheets if rows]
        known = [_known(rows, expected) for _, rows in full]
        title, rows = full[known.index(max(known))] if full else ("", [])
        if has_formulas:
            written = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
            _require_results(f"{redacted(path)}: sheet {title!r}", key, written[title], rows)
    except InputError:
        raise
    except Exception as problem:  # openpyxl raises whatever it meets in a broken file
        raise InputError(f"{redacted(path)}: can't be read as an Excel workbook ({key}): {problem}") from None
    if len(full) > 1:
        notes[f"sheets of {redacted(path)} beside {title!r}, ignored"] += len(full) - 1
    width = max((len(cells) for _, cells in rows), default=0)
    for line, cells in rows:
        yield line, cells + [""] * (width - len(cells))


def _known(rows: Sequence[tuple[int, list[str]]], expected: set[str]) -> int:
    return max((len(expected & set(map(column_name, cells))) for _, cells in rows[:_TITLES]), default=0)


def _require_results(where: str, key: str, sheet: Any, rows: Sequence[tuple[int, list[str]]]) -> None:
    """Raise InputError if there are formulas and no program has saved their results: they would be read as
    empty cells."""
    results = dict(rows)
    first = ""
    for line, row in enumerate(sheet.iter_rows(values_only=True), 1):
        found = results.get(line, [])
        for at, value in enumerate(row):
            if not isinstance(value, str) or not value.startswith("="):
                continue
            if at < len(found) and found[at]:
                return
            first = first or f"row {line}: the formula {value!r} has no result"
    if first:
        raise InputError(
            f"{where}, {first} ({key}); open and save the file in a spreadsheet program, or save it as .csv"
        )


def _cells(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Row and cells; cells that are merged vertically all have the value of the first."""
    for area in list(getattr(sheet, "merged_cells", ())):
        if area.min_col == area.max_col:
            first = sheet.cell(area.min_row, area.min_col)
            sheet.unmerge_cells(str(area))
            for number_ in range(area.min_row, area.max_row + 1):
                cell = sheet.cell(number_, area.min_col)
                cell.value, cell.number_format = first.value, first.number_format
    for number_, row in enumerate(sheet.iter_rows(), 1):
        cells = [_cell_text(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield number_, cells


def _cell_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        has_time = value.time() != dt.time() or "h" in str(cell.number_format).lower()
        return value.isoformat(" ", "seconds") if has_time else value.date().isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
