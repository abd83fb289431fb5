"""A Frictionless data package: `datapackage.json` and the CSV tables that it names, read column by column.

Format: specs.frictionlessdata.io, Data Package, Tabular Data Resource, CSV Dialect. A package may come
from anywhere: its paths must stay inside it, or be http(s) URLs.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import textwrap
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.compression import compr
from fsspec.utils import infer_compression
from pyarrow import csv as arrow_csv

from camtrap_batch.catalog.jsonfile import as_utf8, parsing
from camtrap_batch.catalog.numbers import read_degrees
from camtrap_batch.codes import if_else
from camtrap_batch.dates import Dates, Order, read_dates
from camtrap_batch.errors import InputError
from camtrap_batch.images import is_unsafe

DESCRIPTOR = "datapackage.json"

_KEY = "dataset.metadata"
_WEB = ("http://", "https://")
_COMPRESSIONS = {"gz": "gzip", "gzip": "gzip", "bz2": "bz2", "xz": "xz", "zip": "zip"}
_BLOCK = 16 * 2**20  # bytes read at once; a row, with an image's EXIF data as JSON in it, must fit


@contextmanager
def open_package(url: str) -> Iterator[DataPackage]:
    """The package at a path or URL: its `datapackage.json`, the folder that holds it, or a .zip of both.

    Raises InputError if it does not exist or its descriptor is not that of a data package.
    """
    with ExitStack() as opened:
        archive = None
        if _is_zip(url):
            with _told(url, _KEY):
                file = opened.enter_context(fsspec.open(url, "rb"))
                archive = opened.enter_context(zipfile.ZipFile(file))
            where = f"{url}/{_find_in_zip(url, archive)}"
        elif urlsplit(url).path.endswith(".json") or _is_local_file(url):
            where = url
        else:
            where = f"{url.rstrip('/')}/{DESCRIPTOR}"
        base = where.rpartition("/")[0]
        package = DataPackage(url, where, base, {}, archive)
        package.descriptor.update(_decode(package))
        yield package


@dataclass(frozen=True)
class DataPackage:
    """An open package.

    Attributes
    ----------
    url : the path or URL by which it was opened
    where : path or URL of its datapackage.json; inside a zip: the zip's, and the member's
    base : folder that paths in it are relative to
    descriptor : content of datapackage.json
    """

    url: str
    where: str
    base: str
    descriptor: dict[str, Any]
    _archive: zipfile.ZipFile | None

    def files(self, names: Sequence[str]) -> list[str]:
        """Paths or URLs of all files that hold the descriptor and the tables `names`."""
        paths = [self._full(path) for name in names for path in self._paths(name)]
        if self._archive is None:
            return [self.where, *paths]
        return [self.url, *(path for path in paths if path.startswith(_WEB))]

    def table(self, name: str, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
        """Columns of a table as text, null where a cell is blank; those in `optional` may be missing.

        Raises
        ------
        InputError
            There is no such table or column, or it can't be read; with file and line.
        """
        resource = self._resource(name)
        form = _Form.of(resource, f"{self.where}: {name}")
        columns = [*required, *optional]
        header: list[str] = []
        parts, tables = [], []
        for number, path in enumerate(self._paths(name)):
            part = _Part(self, path, form)
            first = part.first_record()
            # A table in several files: later files may repeat the header, or continue without one.
            part.skip = number == 0 or first == header
            if number == 0:
                header = first
                _check_header(part.shown, header, required, columns)
            if first:
                tables.append(part.read(header, columns))
                part.rows = tables[-1].num_rows
                parts.append(part)
        return Table(pa.concat_tables(tables), tuple(parts))

    def header(self, name: str) -> list[str]:
        """Names of all columns of a table. Raises as `table` does."""
        form = _Form.of(self._resource(name), f"{self.where}: {name}")
        return _Part(self, self._paths(name)[0], form).first_record()

    @contextmanager
    def opened(self, path: str, compression: str | None, origin: str) -> Iterator[IO[bytes]]:
        """A file of the package, unpacked; `origin` is whatever names the file, for messages."""
        with _told(self._full(path), origin), ExitStack() as files:
            if self._archive is not None and not path.startswith(_WEB):
                inside = self._full(path).removeprefix(f"{self.url}/")
                file = files.enter_context(self._archive.open(inside))
            else:
                file = files.enter_context(fsspec.open(self._full(path), "rb"))
            if compression is not None:
                file = files.enter_context(compr[compression](file, mode="rb"))
            yield file

    def _full(self, path: str) -> str:
        return path if path.startswith(_WEB) or not self.base else f"{self.base}/{path}"

    def _resource(self, name: str) -> dict[str, Any]:
        resources = self.descriptor.get("resources")
        if not isinstance(resources, list) or not all(isinstance(entry, dict) for entry in resources):
            raise InputError(f"{self.where}: resources: should be a list of objects, one for each table")
        found: list[dict[str, Any]] = [entry for entry in resources if entry.get("name") == name]
        if len(found) != 1:
            names = textwrap.shorten(", ".join(str(entry.get("name")) for entry in resources), 200) or "none"
            how_many = "no resource" if not found else f"{len(found)} resources"
            raise InputError(
                f"{self.where}: resources: {how_many} named {name}; there should be one, there are: {names}"
            )
        return found[0]

    def _paths(self, name: str) -> list[str]:
        resource = self._resource(name)
        where = f"{self.where}: {name}"
        if "path" not in resource and "data" in resource:
            raise InputError(f"{where}: its rows are inline (`data`); they should be in a CSV file (`path`)")
        given = resource.get("path")
        paths = [given] if isinstance(given, str) else given
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise InputError(f"{where}: path: should be a path or a URL, or a list of them")
        for path in paths:
            if not path.startswith(_WEB) and is_unsafe(path):
                raise InputError(
                    f"{where}: path: {path!r} leads out of the package; it should be relative to "
                    f"{DESCRIPTOR} and below it, or an http(s) URL"
                )
        return paths


@dataclass(frozen=True)
class Table:
    """Columns of a table, and where its rows are in the file. Usable while its package is open.

    Attributes
    ----------
    data : text columns
    rows : for each row of `data`, its row in the file, if some rows were left out
    """

    data: pa.Table
    _parts: tuple[_Part, ...]
    rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.data[column]

    @property
    def where(self) -> str:
        return self._parts[0].shown

    def at(self, row: int) -> str:
        """File and line of a row. Reads the file again, so use it only for messages."""
        row = row if self.rows is None else int(self.rows[row])
        for part in self._parts:
            if row < part.rows:
                return part.at(row)
            row -= part.rows
        raise IndexError(row)

    def where_true(self, mask: Any) -> Table:
        """The rows for which the mask, n booleans, is true."""
        mask = np.asarray(mask, bool)
        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        return Table(self.data.filter(pa.array(mask)), self._parts, rows)

    def distinct(self, key: str, notes: Counter[str]) -> Table:
        """Each row once; InputError if a key is blank, or names two rows that differ."""
        keys = self[key]
        if keys.null_count:
            raise InputError(f"{self.at(pc.index(pc.is_null(keys), True).as_py())}: {key}: empty")
        if pc.count_distinct(keys).as_py() == len(self):
            return self
        frame = self.data.to_pandas()
        again = frame[key].duplicated().to_numpy()
        if len(other := np.flatnonzero(again & ~frame.duplicated().to_numpy())):
            first = int(np.flatnonzero(frame[key] == frame[key][other[0]])[0])
            raise InputError(
                f"{self.at(int(other[0]))}: {key}: {frame[key][other[0]]!r} is also at {self.at(first)}, "
                "with other values; an id should name one row"
            )
        notes[f"rows with the {key} of a row before, the same each time"] += int(again.sum())
        return self.where_true(~again)

    def numbers(
        self, column: str, least: float, most: float, what: str, *, whole: bool = False
    ) -> npt.NDArray[np.float64]:
        """A column of numbers; NaN where a cell has none. InputError if a number is not `what` it should
        be."""
        texts = self[column]
        try:
            values = texts.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            values = np.array([_number(cell) for cell in texts.to_pylist()])
        is_given = pc.is_valid(texts).to_numpy()
        can_be = (values >= least) & (values <= most) & ((values == np.floor(values)) | (not whole))
        wrong = np.flatnonzero(is_given & ~can_be)
        if len(wrong):
            row = int(wrong[0])
            raise InputError(f"{self.at(row)}: {column}: {texts[row].as_py()!r} should be {what}")
        return np.asarray(values, np.float64)

    def degrees(self, axis: str) -> npt.NDArray[np.float64]:
        """The column of latitudes or longitudes; NaN where a cell has none. InputError if one is none."""
        found, wrong = read_degrees(self[axis].to_pylist(), axis)
        for row, why in sorted(wrong.items()):
            raise InputError(f"{self.at(row)}: {axis}: {self[axis][row].as_py()!r} {why}")
        return np.array(found, np.float64)

    def dates(self, column: str, notes: Counter[str], order: Order | None = None) -> Dates:
        """A column of dates. Raises InputError like `read_dates`."""
        texts = self[column].combine_chunks()
        return read_dates(texts, lambda row: f"{self.at(row)}: {column}:", notes, order)


@dataclass(frozen=True)
class _Form:
    """How a table is written."""

    delimiter: str
    quote: str
    double_quote: bool
    escape: str | None
    encoding: str
    compression: str | None
    missing: tuple[str, ...]

    @classmethod
    def of(cls, resource: dict[str, Any], where: str) -> _Form:
        dialect = resource.get("dialect") or {}
        if not isinstance(dialect, dict):
            raise InputError(f'{where}: dialect: should be an object, such as {{"delimiter": ";"}}')
        if dialect.get("header") is False or dialect.get("commentChar"):
            raise InputError(f"{where}: dialect: a table without header, or with comments, can't be read")
        is_tsv = resource.get("format") == "tsv"
        usual = {"delimiter": "\t" if is_tsv else ",", "quoteChar": '"', "escapeChar": ""}
        marks = {key: dialect.get(key) or mark for key, mark in usual.items()}
        for key, mark in marks.items():
            if not isinstance(mark, str) or len(mark) > 1 or not mark.isascii():
                raise InputError(f"{where}: dialect.{key}: {mark!r} should be one ASCII character")
        encoding = resource.get("encoding") or "utf-8"
        try:
            encoding = codecs.lookup(encoding).name
        except (LookupError, TypeError):
            raise InputError(f"{where}: encoding: {encoding!r} is not known; utf-8 is usual") from None
        compression = resource.get("compression")
        if compression is not None and compression not in _COMPRESSIONS:
            raise InputError(
                f"{where}: compression: {compression!r} should be one of {', '.join(_COMPRESSIONS)}"
            )
        schema = resource.get("schema")
        missing = schema.get("missingValues") if isinstance(schema, dict) else None
        if not isinstance(missing, list) or not all(isinstance(text, str) for text in missing):
            missing = ["", "NA", "NaN", "nan"]  # Camtrap DP's schemas, which are referred to by URL
        return cls(
            delimiter=marks["delimiter"],
            quote=marks["quoteChar"],
            double_quote=dialect.get("doubleQuote") is not False,
            escape=marks["escapeChar"] or None,
            encoding="utf-8-sig" if encoding in ("utf-8", "ascii") else encoding,
            compression=_COMPRESSIONS.get(compression or ""),
            missing=tuple(missing),
        )


@dataclass
class _Part:
    """One file of a table."""

    package: DataPackage
    path: str
    form: _Form
    skip: bool = True
    rows: int = 0

    @property
    def shown(self) -> str:
        return self.package._full(self.path)

    def at(self, row: int) -> str:
        try:
            line, _ = next(itertools.islice(self._records(), row + self.skip, None))
        except InputError:  # Python's reader has its own limits
            return f"{self.shown}: row {row + 1}"
        return f"{self.shown}:{line}"

    def first_record(self) -> list[str]:
        return [name.strip() for name in next(self._records(), (1, []))[1]]

    def read(self, header: list[str], columns: Sequence[str]) -> pa.Table:
        there = [name for name in columns if name in header]
        numbered = [name if header.count(name) == 1 else f"{at} {name}" for at, name in enumerate(header)]
        wanted = list(dict.fromkeys([*there, numbered[-1]]))
        try:
            with self._opened() as file:
                table = arrow_csv.read_csv(
                    file,
                    read_options=arrow_csv.ReadOptions(
                        column_names=numbered,
                        skip_rows_after_names=int(self.skip),
                        block_size=_BLOCK,
                        encoding="utf8" if self.form.encoding == "utf-8-sig" else self.form.encoding,
                    ),
                    parse_options=arrow_csv.ParseOptions(
                        delimiter=self.form.delimiter,
                        quote_char=self.form.quote,
                        double_quote=self.form.double_quote,
                        escape_char=self.form.escape or False,
                        newlines_in_values=True,
                    ),
                    convert_options=arrow_csv.ConvertOptions(
                        include_columns=wanted,
                        column_types=dict.fromkeys(wanted, pa.string()),
                        null_values=list(self.form.missing),
                        strings_can_be_null=True,
                    ),
                )
        except (pa.ArrowInvalid, UnicodeError) as problem:
            if self._check(len(header)):
                raise self._not_csv(problem) from None
            table = pa.table({name: pa.array([], pa.string()) for name in wanted})
        # Arrow takes a quote that is never closed as one cell, with the rest of the file in it.
        if table.num_rows and "\n" in (table[numbered[-1]][-1].as_py() or ""):
            self._check(len(header))
        nothing = pa.nulls(table.num_rows, pa.string())
        return pa.table({name: _trimmed(table[name]) if name in there else nothing for name in columns})

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        named = infer_compression(urlsplit(self.path).path if self.path.startswith(_WEB) else self.path)
        with self.package.opened(self.path, self.form.compression or named, DESCRIPTOR) as file:
            yield file

    def _check(self, n_columns: int) -> int:
        """Number of records below the header; InputError with the line of the first malformed one."""
        number = 0
        for line, record in self._records():
            if len(record) != n_columns:
                raise InputError(
                    f"{self.shown}:{line}: {len(record)} values, the first line names {n_columns} columns"
                )
            number += 1
        return number - self.skip

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record and the line on which it begins; empty lines are skipped."""
        form = self.form
        line = 1
        with self._opened() as file, io.TextIOWrapper(file, form.encoding, newline="") as text:
            reader = csv.reader(
                text,
                delimiter=form.delimiter,
                quotechar=form.quote,
                doublequote=form.double_quote,
                escapechar=form.escape,
                strict=True,
            )
            try:
                for record in reader:
                    if record:
                        yield line, record
                    line = reader.line_num + 1
            except (csv.Error, UnicodeError) as problem:
                raise self._not_csv(problem, line) from None

    def _not_csv(self, problem: Exception, line: int | None = None) -> InputError:
        at = self.shown if line is None else f"{self.shown}:{line}"
        encoding = self.form.encoding.removesuffix("-sig").upper()
        return InputError(f"{at}: can't be read as CSV in {encoding}: {problem}")


def _check_header(shown: str, header: list[str], required: Sequence[str], columns: Sequence[str]) -> None:
    if lacking := [name for name in required if name not in header]:
        found = textwrap.shorten(", ".join(header), 200) or "none"
        hint = '; if ; is between them, its resource needs: "dialect": {"delimiter": ";"}'
        hint = hint if len(header) == 1 and ";" in found else ""
        raise InputError(
            f"{shown}:1: no column {lacking[0]}; the columns, between commas, are: {found}{hint}"
        )
    if twice := [name for name, number in Counter(header).items() if number > 1 and name in columns]:
        raise InputError(f"{shown}:1: the column {twice[0]} is there twice")


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(column)
    if pc.all(pc.equal(pc.binary_length(trimmed), pc.binary_length(column))).as_py() is not False:
        return column  # nearly always the case; this avoids a second copy
    return if_else(pc.equal(trimmed, ""), None, trimmed)


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")


def _is_local_file(url: str) -> bool:
    return "://" not in url and Path(url).is_file()


def _is_zip(url: str) -> bool:
    return urlsplit(url).path.lower().endswith(".zip") or (_is_local_file(url) and zipfile.is_zipfile(url))


def _find_in_zip(url: str, archive: zipfile.ZipFile) -> str:
    """The member that is the descriptor: people zip either a package's files or the folder that holds
    them."""
    found = [
        name
        for name in archive.namelist()
        if name.rpartition("/")[2] == DESCRIPTOR and "__MACOSX" not in name
    ]
    if len(found) != 1:
        raise InputError(f"{url}: should hold one {DESCRIPTOR}, it holds {len(found)} (dataset.metadata)")
    return found[0]


def _decode(package: DataPackage) -> dict[str, Any]:
    with package.opened(package.where.rpartition("/")[2], None, _KEY) as file:
        data = as_utf8(file.read())
    with parsing(data, package.where):
        content = msgspec.json.decode(data)
    if not isinstance(content, dict):
        raise InputError(f"{package.where}: should be an object with resources (a data package)")
    return content


@contextmanager
def _told(path: str, origin: str) -> Iterator[None]:
    """Turn what goes wrong with a file into InputError; problems with its content are left to the reader."""
    try:
        yield
    except (InputError, pa.ArrowInvalid, UnicodeError, csv.Error):
        raise
    except (FileNotFoundError, KeyError):  # KeyError comes from an archive
        raise InputError(f"{path}: no such file ({origin})") from None
    except (zipfile.BadZipFile, EOFError, zlib.error) as problem:
        raise InputError(f"{path}: damaged or cut off ({origin}): {problem}") from None
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{path}: can't be read ({origin}): {problem}") from None
