"""Tables that are text, row by row: CSV and TSV in the dialects that spreadsheets write, JSON with an object a row.

A row that does not fit is an error: a cell too many may well be a label in the wrong place.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import csv
import itertools
import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..source import Reader
from .columns import Header, Held
from .pinned import Pinned

ROWS = 65_536  # read at a time

# ---------------------------------------------------------------- CSV, TSV


class CsvTable:
    """One file: its dialect by its first line, its encoding by all of it."""

    def __init__(self, path: str) -> None:
        self.path, self.notes = path, list[str]()
        self._encoding = self._encoded()
        with self._open() as file:
            first = next((line for line in file if line.strip()), "")
        bare = re.sub(r'"[^"]*"', "", first)
        usual = "\t" if path.lower().endswith(".tsv") else ","
        self._delimiter = max(",;\t|", key=lambda d: (bare.count(d), d == usual))
        self._spaced = 0 < bare.count(self._delimiter) == bare.count(f"{self._delimiter} ")  # file, label
        with self._open() as file:
            columns: list[str] = next((row for row in self._reader(file) if row), [])
        if not columns:
            raise BadInput(f"{path} is empty; its first line names the columns, such as file,label")
        self.header = Header(path=path, columns=tuple(column.strip() for column in columns))

    def _open(self) -> TextIO:
        return open(self.path, newline="", encoding=self._encoding)

    def _reader(self, file: TextIO) -> Any:
        return csv.reader(file, strict=True, delimiter=self._delimiter, skipinitialspace=self._spaced)

    def _encoded(self) -> str:
        decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            with open(self.path, "rb") as file:
                start = file.read(2)
                if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                    return "utf-16"
                piece = start + file.read(2**20)
                while piece:
                    decoder.decode(piece)
                    done += len(piece)
                    piece = file.read(2**20)
                decoder.decode(b"", final=True)
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read ({error.strerror}); give a table that exists") from None
        except UnicodeDecodeError:
            self.notes.append(f"{self.path} is not UTF-8: read as Latin-1; look at its names, or save it as UTF-8")
            return "latin-1"
        return "utf-8-sig"

    def blocks(self, roles: Mapping[str, str]) -> Iterator[dict[str, Sequence[Any]]]:
        if "base64" in roles:
            raise BadInput(
                f"{self.path}: pictures inside CSV are not read; write JSONL or Parquet, or name their files"
            )
        columns = self.header.columns
        doubled = [column for column in roles.values() if columns.count(column) > 1]
        if doubled:
            raise BadInput(f"{self.path}: several columns are called {doubled[0]!r}; rename all but one")
        at = {role: columns.index(column) for role, column in roles.items()}
        with self._open() as file:
            reader = self._reader(file)
            try:
                for row in reader:
                    if row:
                        break  # the header
                while rows := [row for row in itertools.islice(reader, ROWS) if row]:
                    for row in rows:
                        if len(row) != len(columns):
                            raise self._ragged(row)
                    cells = list(zip(*rows, strict=True))
                    yield {role: cells[i] for role, i in at.items()}
            except csv.Error as error:
                where = f"{self.path}, line {reader.line_num:,}"
                raise BadInput(f"{where}: {error}; mend the quotes (a quote within quotes is doubled)") from None

    def _ragged(self, row: list[str]) -> BadInput:
        told = f"{len(row)} cells, the first line has {len(self.header.columns)}"
        return BadInput(f"{self.path}: the row {','.join(row)!r:.80} has {told}; quote cells that hold a delimiter")


# ---------------------------------------------------------------- JSONL


class JsonlTable:
    """One file, an object a line (.jsonl) or a list of objects (.json). Pictures in base64 are read only from a column
    that is called so, and only line by line."""

    def __init__(self, path: str) -> None:
        self.path, self.notes = path, list[str]()
        self._starts, self._sizes = array("q"), array("q")  # of the rows, in bytes: of the line; of the picture
        kinds: dict[tuple[str, ...], None] = {}
        lists: set[str] = set()
        for _, row in self._rows():
            kinds.setdefault(tuple(row))
            if list in map(type, row.values()):
                lists.update(name for name, cell in row.items() if isinstance(cell, list))
        columns = tuple(dict.fromkeys(name for kind in kinds for name in kind))
        self.header = Header(path=path, columns=columns, lists=frozenset(lists))

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(byte at which its line begins, row)."""
        start = 0
        try:
            with open(self.path, "rb") as file:
                if self.path.lower().endswith(".json"):
                    yield from enumerate(_objects(file.read(), self.path))
                    return
                for number, line in enumerate(file, 1):
                    content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if not content.isspace() and content:
                        yield start, _object(content, self.path, number)
                    start += len(line)
        except OSError as error:
            raise BadInput(f"{self.path} cannot be read ({error.strerror}); give a table that exists") from None

    def blocks(self, roles: Mapping[str, str]) -> Iterator[dict[str, Sequence[Any]]]:
        inside = roles.get("base64")
        if inside is not None and self.path.lower().endswith(".json"):
            raise BadInput(f"{self.path}: pictures in base64 are read from JSONL; write one object a line, as .jsonl")
        wanted = {role: column for role, column in roles.items() if role != "base64"}
        if inside is not None and "image" in wanted:
            wanted["name"] = wanted.pop("image")
        rows = self._cells(list(wanted.values()), inside)
        while part := list(itertools.islice(rows, ROWS)):
            yield dict(zip(wanted, zip(*part, strict=True), strict=True)) or {"name": [None] * len(part)}

    def _cells(self, columns: Sequence[str], inside: str | None) -> Iterator[list[Any]]:
        """The cells of these columns, row by row; of a picture only its place and its size are kept."""
        for start, row in self._rows():
            if inside is not None:
                self._starts.append(start)
                self._sizes.append(_length(row.get(inside)))
            get = row.get
            yield [get(column) for column in columns]

    def held(self, column: str) -> Held:
        """The pictures in this column; once all blocks were read."""
        starts = np.array(self._starts, dtype=np.int64)
        return Held(Base64Reader(Pinned.of(self.path), starts, column), np.array(self._sizes, dtype=np.int64), None, [])


def _object(line: bytes, path: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except ValueError as error:
        told = f"{path}, line {number:,}: no JSON ({error})"
        raise BadInput(f"{told}; write one object a line, in UTF-8") from None
    if not isinstance(row, dict):
        raise BadInput(f"{path}, line {number:,}: {line!r:.40} is no object; write {{...}} on each line")
    return row


def _objects(data: bytes, path: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(data.removeprefix(codecs.BOM_UTF8).decode())
    except ValueError as error:
        raise BadInput(f"{path}: no JSON ({error}); write a list of objects, in UTF-8") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{path}: as a table it must be a list of objects; of COCO, give the folder that it lies in")
    return rows


def _length(cell: Any) -> int:
    """Bytes that base64 stands for."""
    code = cell.rpartition(",")[2] if isinstance(cell, str) else ""  # data:image/png;base64,...
    return len(code) * 3 // 4 - code[-2:].count("=")


@dataclass(frozen=True)
class Base64Reader:
    """Pictures in base64 in the lines of a JSONL file."""

    file: Pinned
    starts: NDArray[np.int64]  # byte at which the line of each begins
    column: str

    def read(self, row: int) -> bytes:
        where = f"row {row:,} of {self.file.name}"
        self.file.check()
        try:
            with open(self.file.path, "rb") as file:
                file.seek(int(self.starts[row]))
                line = file.readline().removeprefix(codecs.BOM_UTF8)
        except OSError as error:
            raise BadInput(f"{where} cannot be read ({error.strerror}); restore the file") from None
        cell = _object(line, self.file.name, row + 1).get(self.column)
        try:
            data = base64.b64decode(str(cell or "").rpartition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput(f"{where}: {self.column!r} is no base64 ({error}); mend the row") from None
        if not data:
            raise BadInput(f"{where} has no picture in {self.column!r}; mend the row or remove it")
        return data


@dataclass(frozen=True)
class InTurn:
    """Several readers as one, the rows of each after those of the one before it."""

    readers: tuple[Reader, ...]
    ends: NDArray[np.int64]

    def read(self, row: int) -> bytes:
        which = int(np.searchsorted(self.ends, row, side="right"))
        return self.readers[which].read(row - int(self.ends[which - 1]) if which else row)


def together(each: Sequence[Held]) -> Held:
    """The pictures of several tables, one after another."""
    sizes = np.concatenate([held.sizes for held in each])
    return Held(InTurn(tuple(h.reader for h in each), np.cumsum([len(h.sizes) for h in each])), sizes, None, [])
