"""Pictures inside Parquet files: read a row group at a time, a few of which each process keeps; never a whole file.

Rows of one group lie together, so an order that stays near (`chunks`) reads each group once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import BadInput
from .columns import Header, Held
from .pinned import Pinned

KEPT = 256 << 20  # bytes of pictures that a process keeps, of the row groups read last; one is kept in any case
ROWS = 65_536  # of the small columns at a time
WINDOW = 16  # pieces that an order mixes with each other (order.py): each process holds all of them
BUFFER = 1 << 20  # bytes read at a time from a row group that is too large to be kept
SEALED, LOOKS = 16_384, 256  # bytes looked at in a place, places in a file: all of it up to 4 MB
OPEN = 16  # most files that a process has open


def pyarrow(path: str) -> Any:
    """The library, which is optional."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f'{path} is read with pyarrow; pip install "tessella[parquet]"') from None
    return pyarrow


def opened(path: str, buffer: int = 0) -> Any:
    """A `ParquetFile`; its rows are not read. `buffer`: bytes to read at a time; 0: the part of a group at once."""
    library = pyarrow(path)
    try:
        return library.parquet.ParquetFile(path, buffer_size=buffer)
    except (OSError, library.ArrowException) as error:
        raise BadInput(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]:.120}); restore it") from None


class ParquetTable:
    """One file: its columns, and the cells of those that hold no pictures."""

    def __init__(self, path: str) -> None:
        file = opened(path)
        schema, meta = file.schema_arrow, file.metadata
        self.path, self.rows, self.notes = path, meta.num_rows, list[str]()
        self.groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self._nested = {f.name for f in schema if _struct(f.type) is not None}
        binary = {f.name for f in schema if _binary(f.type) or _binary(_struct(f.type))}
        full = {name: self._filled(meta, name) for name in binary}
        self.header = Header(
            path=path,
            columns=tuple(schema.names),
            pictures=frozenset(name for name in binary if full[name] or name not in self._nested),
            known=class_names(features(schema.metadata)),
            lists=frozenset(f.name for f in schema if re.match(r"(large_|fixed_size_)?list", str(f.type))),
        )
        self._lacking: dict[str, int] = {name: self.rows - n for name, n in full.items()}

    def _filled(self, meta: Any, name: str) -> int:
        """Rows of a column of bytes that are not null, where the file says so, else all."""
        leaf = f"{name}.bytes" if name in self._nested else name
        groups = map(meta.row_group, range(meta.num_row_groups))
        chunks = [c for g in groups for c in map(g.column, range(g.num_columns)) if c.path_in_schema == leaf]
        known = [c.statistics.null_count for c in chunks if c.statistics is not None and c.statistics.has_null_count]
        return int(meta.num_rows) - int(sum(known))

    def bytes_of(self, column: str) -> list[int]:
        """Bytes of the pictures of each row group, as they are in memory."""
        meta, out = opened(self.path).metadata, list[int]()
        for group in map(meta.row_group, range(meta.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            out.append(sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column))
        return out

    def lacking(self, column: str) -> int:
        """Rows without a picture's bytes."""
        return self._lacking[column]

    def blocks(self, roles: Mapping[str, str]) -> Iterator[dict[str, Sequence[Any]]]:
        """Cells by role; of a column with pictures only the names of their files ("name"), where it has them."""
        wanted = {role: column for role, column in roles.items() if column not in self.header.pictures}
        inside = [column for column in roles.values() if column in self.header.pictures and column in self._nested]
        leaves = {role: f"{c}.path" if c in self._nested else c for role, c in wanted.items()}
        if inside and "name" not in wanted:
            leaves["name"] = f"{inside[0]}.path"
        file, done = opened(self.path), 0
        if leaves:
            for batch in file.iter_batches(ROWS, columns=sorted({*leaves.values()}), use_threads=False):
                done += batch.num_rows
                cells = {leaf: _cells(batch, leaf) for leaf in set(leaves.values())}
                yield {role: cells[leaf] for role, leaf in leaves.items()}
        while done < self.rows and not leaves:
            n = min(ROWS, self.rows - done)
            done += n
            yield {"name": [None] * n}


def _cells(batch: Any, leaf: str) -> list[Any]:
    if leaf in batch.schema.names:
        return list(batch.column(leaf).to_pylist())
    column, inner = leaf.rsplit(".", 1)
    return [None if cell is None else cell.get(inner) for cell in batch.column(column).to_pylist()]


def _struct(kind: Any) -> Any:
    """The type of `bytes` in a struct {bytes, path}, as Hugging Face writes pictures; else None."""
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)} if "struct" in str(kind) else {}
    return fields.get("bytes") if {*fields} == {"bytes", "path"} else None


def _binary(kind: Any) -> bool:
    return str(kind) in {"binary", "large_binary", "binary_view"} or str(kind).startswith("fixed_size_binary")


def features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """What Hugging Face wrote of the columns into the schema of a file; empty where it did not."""
    try:
        found = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names of the classes of each column that holds their numbers, one or a list of them."""
    out = {}
    for column, feature in found.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            out[column] = tuple(str(name) for name in inner["names"])
    return out


class Piece(NamedTuple):
    """Rows that are read at once: a row group, or a part of one that is too large to be kept."""

    file: int
    group: int  # of the file
    skip: int  # rows of the group before it
    rows: int
    whole: bool  # it is all of its group


def pieces_of(file: int, rows: Sequence[int], sizes: Sequence[int]) -> Iterator[Piece]:
    """`rows` and `sizes` (bytes) of the groups of a file."""
    for group, (n, size) in enumerate(zip(rows, sizes, strict=True)):
        each = n if size <= KEPT // WINDOW else max(1, n * (KEPT // WINDOW) // size)
        for skip in range(0, n, each or 1):
            yield Piece(file, group, skip, min(each, n - skip), each == n)


def together(tables: Sequence[ParquetTable], columns: Sequence[str]) -> Held:
    """The pictures of these files in these columns, one after another."""
    files = list(zip(tables, columns, strict=True))
    pieces = [p for i, (t, column) in enumerate(files) for p in pieces_of(i, t.groups, t.bytes_of(column))]
    lacking = sum(table.lacking(column) for table, column in files)
    notes = [f"{lacking:,} rows have no picture's bytes"] if lacking else []
    if cut := len({(p.file, p.group) for p in pieces if p.skip}):
        why = f"more than {KEPT // WINDOW >> 20} MB and are read in parts, each from the start of its group"
        notes.append(f"{cut:,} row groups hold {why}: faster when written with smaller ones (row_group_size=100)")
    chunks = np.repeat(np.arange(len(pieces), dtype=np.int64), [piece.rows for piece in pieces])
    pinned = [Pinned.of(table.path) for table, _ in files]
    reader = ParquetReader([(pin, column) for pin, (_, column) in zip(pinned, files, strict=True)], pieces)
    return Held(reader, np.full(len(chunks), -1, dtype=np.int64), chunks, notes, "".join(map(sealed, pinned)))


def sealed(file: Pinned) -> str:
    """A hash of some of its bytes, the end with all about the columns among them: sizes of pictures are not known, and
    rows of the same names in another order must not pass for the same data."""
    hasher = hashlib.sha256(str(file.size).encode())
    end = min(file.size, SEALED)
    for at in np.linspace(0, max(0, file.size - end), LOOKS, dtype=np.int64).tolist():
        hasher.update(file.pread(end, at))
    return hasher.hexdigest()


class ParquetReader:
    """Row after row of several files, as if they were one. Pickles as addresses; opens in each process anew."""

    def __init__(self, files: Sequence[tuple[Pinned, str]], pieces: Sequence[Piece]) -> None:
        self._files, self._pieces = tuple(files), tuple(pieces)  # (file, column); in the order of the rows
        self._ends = np.cumsum([piece.rows for piece in pieces], dtype=np.int64)
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetReader, (self._files, self._pieces)

    def _forget(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()  # number of the piece -> its column
        self._bytes = 0  # of all that is kept
        self._open: OrderedDict[int, Any] = OrderedDict()  # file -> ParquetFile

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self._ends, row, side="right"))
        piece = self._pieces[number]
        at = row - int(self._ends[number]) + piece.rows
        if self._pid != os.getpid():
            self._forget()  # after a fork: another's lock may be held, and files share their place
        with self._lock:
            cell = self._column(number)[at].as_py()
        path = self._files[piece.file][0].path
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and cell.get("path"):
            return _beside(path, cell["path"])
        if not data:
            where = f"row {piece.skip + at:,} of row group {piece.group} of {path}"
            raise BadInput(f"{where} has no picture; mend the row or remove it")
        return bytes(data)

    def _column(self, number: int) -> Any:
        """The pictures of this piece, decoded from Parquet, not from JPEG."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        piece = self._pieces[number]
        file, column = self._files[piece.file]
        path = file.path
        file.check()
        try:
            found = self._read(piece, path, column)
        except (OSError, pyarrow(path).ArrowException) as error:
            told = str(error).splitlines()[0][:120]
            raise BadInput(f"{path}: row group {piece.group} cannot be read ({told}); restore the file") from None
        self._kept[number] = found
        self._bytes += found.nbytes
        while len(self._kept) > 1 and self._bytes > KEPT:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def _read(self, piece: Piece, path: str, column: str) -> Any:
        if not piece.whole:  # rows of a group can be found from its start only
            batches = opened(path, BUFFER).iter_batches(piece.rows, [piece.group], [column], use_threads=False)
            return _cut((batch.column(0) for batch in batches), piece.skip, piece.rows, pyarrow(path))
        if piece.file not in self._open:
            self._open[piece.file] = opened(path)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
        return self._open[piece.file].read_row_group(piece.group, columns=[column], use_threads=False).column(column)


def _cut(batches: Iterable[Any], skip: int, rows: int, library: Any) -> Any:
    """These rows of what comes in batches; the next batch is not asked for."""
    parts: list[Any] = []
    done = got = 0
    for batch in batches:
        if done + len(batch) > skip:
            parts.append(batch.slice(max(0, skip - done), rows - got))
            got += len(parts[-1])
        done += len(batch)
        if done >= skip + rows:
            break
    return library.chunked_array(parts)


def _beside(table: str, name: str) -> bytes:
    """A picture that the table only names."""
    try:
        with open(os.path.join(os.path.dirname(table), name), "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise BadInput(f"{name!r}, named in {table}, cannot be read ({error}); restore it") from None
