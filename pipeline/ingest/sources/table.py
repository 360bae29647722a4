"""A table of images as a source: CSV or Parquet with the columns path, label and, where wanted, split and group."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipeline.errors import DataError, nearest
from pipeline.ingest.sources.base import SPLIT_NAMES, Item, check_labels
from pipeline.progress import Progress

#: Endings, in any case, that make a file a table of images.
SUFFIXES = (".csv", ".parquet")

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")
LAYOUT = "a table of images has the columns path,label[,split,group]"

#: Spaces and tabs: what people leave beside a comma. Line breaks and other blanks inside quotes were meant.
BLANKS = " \t"


class _Rows(NamedTuple):
    """The wanted columns as text, in the table's order, and how to name a row (counted from 0) to a person."""

    table: pa.Table
    place: Callable[[int], str]


class TableSource:
    """The images that a .csv or .parquet file lists. Implements `pipeline.ingest.sources.base.Source`.

    Read are the columns path, label and, where there, split and group; others are ignored.

    Paths are relative to the table's folder or absolute, taken as they are written (`~` too), and are the ids. Labels,
    splits and groups are text (007 stays 007, NA stays NA) without the blanks around them. A path that stands twice is
    refused even with the same label, since which line was meant to be another image cannot be known. Whether the files
    exist is the scan's to say.

    Attributes:
        name: The file's name.
        origin: Its absolute path.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # a link to a table is not followed: its paths are relative to where it was found
        self.name = path.name
        self.origin = str(path.resolve())

    def peek(self) -> list[Item]:
        """Returns the items: a table is read quickly."""
        return self.items()

    def items(self, progress: Progress | None = None) -> list[Item]:
        """Returns the images listed, ordered by id.

        Raises:
            DataError: The table cannot be read, lacks a column, or has a line or a label that cannot be used.
        """
        rows = _load(self._path)
        if rows.table.num_rows == 0:
            raise DataError(f"{self._path} lists no images; {LAYOUT} and a line an image")
        table = _stripped(rows.table)
        for column in REQUIRED:
            self._refuse_empty(column, table.column(column), rows.place)
        splits = self._splits(table.column("split"), rows.place)
        order = pc.sort_indices(table.column("path")).to_pylist()
        ids, labels, groups = (table.column(name).to_pylist() for name in ("path", "label", "group"))
        check_labels(labels, f"{self._path}: label")
        self._refuse_twice(ids, labels, order, rows.place)
        folder = str(self._path.parent)
        return [Item(ids[n], os.path.join(folder, ids[n]), labels[n], splits[n], groups[n] or None) for n in order]

    def _refuse_empty(self, column: str, values: pa.ChunkedArray, place: Callable[[int], str]) -> None:
        row = pc.index(pc.equal(values, ""), True).as_py()
        if row >= 0:
            raise DataError(f"{self._path}, {place(row)}: no {column}; give it one or take the line out")
        row = pc.index(pc.match_substring(values, "\0"), True).as_py()
        if row >= 0:
            raise DataError(f"{self._path}, {place(row)}: a NUL character in the {column}; take it out")

    def _splits(self, values: pa.ChunkedArray, place: Callable[[int], str]) -> list[str | None]:
        known: dict[str, str | None] = {"": None, **SPLIT_NAMES}
        written = values.to_pylist()
        for value in dict.fromkeys(written):
            if value.lower() not in known:
                raise DataError(
                    f"{self._path}, {place(written.index(value))}: unknown split {value!r}: "
                    f"{nearest(value.lower(), SPLIT_NAMES)}; empty leaves it to ingest"
                )
        return [known[value.lower()] for value in written]

    def _refuse_twice(self, ids: list[str], labels: list[str], order: list[int], place: Callable[[int], str]) -> None:
        for one, other in itertools.pairwise(order):
            if ids[one] == ids[other]:
                same = labels[one] == labels[other]
                given = "twice" if same else f"with two labels, {labels[one]!r} and {labels[other]!r}"
                raise DataError(
                    f"{self._path} lists {ids[one]!r} {given} ({place(one)} and {place(other)}); keep the right line"
                )


def _load(path: Path) -> _Rows:
    try:
        if path.suffix.lower() == ".parquet":
            return _load_parquet(path)
        return _load_csv(path, path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"no file {path}; {LAYOUT}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; a table is a file, .csv or .parquet") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from error


def _load_parquet(path: Path) -> _Rows:
    with path.open("rb") as file:  # pyarrow would take a folder for a data set of many files
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            wanted = _find_columns(path, schema.names)
            for name in wanted.values():
                _refuse_type(path, name, schema.field(name).type)
            table = parquet.read(columns=list(wanted.values()))
            columns = {column: table.column(name).cast(pa.string()) for column, name in wanted.items()}
        except (pa.ArrowException, ValueError) as error:  # text that is not UTF-8 is found by the cast
            reason = " ".join(str(error).split())
            raise DataError(f"{path} cannot be read as Parquet ({reason}); write it anew") from error
    return _Rows(pa.table(columns), lambda row: f"row {row + 1}")


def _refuse_type(path: Path, name: str, kind: pa.DataType) -> None:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(test(value) for test in (*text, pa.types.is_integer, pa.types.is_null)):
        raise DataError(f"{path}: column {name!r} holds {kind}; write it as text")


def _load_csv(path: Path, data: bytes) -> _Rows:
    text = _decode(path, data)
    header = next((row for row in _records(path, text)), None)
    if header is None:
        raise DataError(f"{path} is empty; {LAYOUT}, named in its first line")
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header.fields) == 1 and sign in header.fields[0]:
            raise DataError(f"{path} is separated by {name}; save it with commas")
    wanted = _find_columns(path, header.fields)
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            # One block: a row cannot straddle two, and a quote that is never closed is found.
            read_options=pa_csv.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1)),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(wanted.values()),
                column_types={name: pa.string() for name in wanted.values()},
            ),
        )
    except pa.ArrowException as error:
        raise DataError(_explain(path, text, len(header.fields), error)) from error
    columns = {column: table.column(name) for column, name in wanted.items()}
    return _Rows(pa.table(columns), lambda row: f"line {_line_of(path, text, row)}")


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; save the table as CSV in UTF-8") from error


class _Record(NamedTuple):
    line: int  # where it begins, counted from 1
    fields: list[str]


def _records(path: Path, text: str) -> Iterator[_Record]:
    """Yields the lines that are not empty, read slowly: for the header, and to name the line of a mistake."""
    reader = csv.reader(io.StringIO(text, newline=""))
    before = 0
    try:
        for fields in reader:
            if fields:
                yield _Record(before + 1, fields)
            before = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {before + 1}: {error}; is a quote not closed?") from error


def _line_of(path: Path, text: str, row: int) -> int:
    return next(record.line for number, record in enumerate(_records(path, text)) if number == row + 1)


def _explain(path: Path, text: str, width: int, error: Exception) -> str:
    for record in _records(path, text):
        if len(record.fields) != width:
            remedy = "put quotes around a value with a comma in it" if len(record.fields) > width else "fill it up"
            if '"' in ",".join(record.fields) or "\n" in "".join(record.fields):
                remedy = "is a quote not closed?"
            return f"{path}, line {record.line}: {len(record.fields)} values for {width} columns; {remedy}"
    return f"{path} cannot be read as CSV: {' '.join(str(error).split())}; save it anew"


def _find_columns(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns which of the table's names stands for each of our columns that it has."""
    found: dict[str, str] = {}
    for name in names:
        column = name.strip(BLANKS)
        if column in found:
            raise DataError(f"{path} has two columns {column!r}; keep one")
        if column in (*REQUIRED, *OPTIONAL):
            found[column] = name
    missing = next((column for column in REQUIRED if column not in found), None)
    if missing is not None:
        listed = ", ".join(repr(name) for name in names)
        raise DataError(f"{path} has no column {missing!r} but {listed}; {LAYOUT}, named in its first line")
    return found


def _stripped(table: pa.Table) -> pa.Table:
    """Returns the table with all four columns, an absent value as empty text, and no blanks around all but paths."""
    empty = pa.chunked_array([pa.array([""] * table.num_rows, pa.string())])
    columns = {}
    for name in (*REQUIRED, *OPTIONAL):
        values = pc.fill_null(table.column(name), "") if name in table.column_names else empty
        columns[name] = values if name == "path" else pc.utf8_trim(values, BLANKS)
    return pa.table(columns)
