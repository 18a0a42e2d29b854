"""Pictures inside Parquet files: read a row group at a time, a few of which each process keeps; never a whole file.

Rows of one group lie together, so an order that stays near (`chunks`) reads each group once.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .columns import Header, Held

KEPT = 256 * 2**20  # bytes of decoded row groups that a process keeps beside the one it reads
ROWS = 65_536  # of the small columns at a time


def pyarrow(path: str) -> Any:
    """The library, which is optional."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f'{path} is read with pyarrow; pip install "tessella[parquet]"') from None
    return pyarrow


def opened(path: str) -> Any:
    """A `ParquetFile`; its rows are not read."""
    library = pyarrow(path)
    try:
        return library.parquet.ParquetFile(path)
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

    def largest(self, column: str) -> int:
        """Bytes of the pictures of the largest row group, decoded."""
        meta = opened(self.path).metadata
        most = 0
        for group in map(meta.row_group, range(meta.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            mine = [int(c.total_uncompressed_size) for c in chunks if c.path_in_schema.split(".")[0] == column]
            most = max(most, sum(mine))
        return most

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


def together(tables: Sequence[ParquetTable], columns: Sequence[str]) -> Held:
    """The pictures of these files in these columns, one after another."""
    files = list(zip(tables, columns, strict=True))
    reader = ParquetReader([(table.path, column) for table, column in files], [table.groups for table in tables])
    lacking = sum(table.lacking(column) for table, column in files)
    notes = [f"{lacking:,} rows have no picture's bytes"] if lacking else []
    if (most := max(table.largest(column) for table, column in files)) > KEPT:
        notes.append(f"row groups hold up to {most / 1e9:.1f} GB, and each worker holds one: write smaller groups")
    chunks = reader.chunks()
    return Held(reader, np.full(len(chunks), -1, dtype=np.int64), chunks, notes)


class ParquetReader:
    """Row after row of several files, as if they were one. Pickles as addresses; opens in each process anew."""

    def __init__(self, files: Sequence[tuple[str, str]], groups: Sequence[Sequence[int]]) -> None:
        self._files, self._groups = tuple(files), tuple(tuple(rows) for rows in groups)  # (path, column); rows of each
        self._home = np.repeat(np.arange(len(files)), [len(rows) for rows in groups])  # file of each group
        counts = np.array([n for rows in groups for n in rows], dtype=np.int64)
        self._starts: NDArray[np.int64] = np.cumsum(counts) - counts
        self._first = np.searchsorted(self._home, np.arange(len(files)))  # number of each file's first group
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetReader, (self._files, self._groups)

    def _forget(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()  # group -> its column
        self._open: OrderedDict[int, Any] = OrderedDict()  # file -> ParquetFile

    def chunks(self) -> NDArray[np.int64]:
        """The row group of each row."""
        return np.repeat(np.arange(len(self._starts), dtype=np.int64), [n for rows in self._groups for n in rows])

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if self._pid != os.getpid():
            self._forget()  # after a fork: another's lock may be held, and files share their place
        with self._lock:
            cell = self._column(group)[row - int(self._starts[group])].as_py()
        path = self._files[self._home[group]][0]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and cell.get("path"):
            return _beside(path, cell["path"])
        if not data:
            raise BadInput(f"row {row - self._start(group):,} of {path} has no picture; mend the row or remove it")
        return bytes(data)

    def _start(self, group: int) -> int:
        """First row of the file of this group."""
        return int(self._starts[self._first[self._home[group]]])

    def _column(self, group: int) -> Any:
        """The pictures of this group, decoded from Parquet, not from JPEG."""
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        home = int(self._home[group])
        path, column = self._files[home]
        try:
            if home not in self._open:
                self._open[home] = opened(path)
                if len(self._open) > 16:
                    self._open.popitem(last=False)[1].close()
            table = self._open[home].read_row_group(group - int(self._first[home]), columns=[column], use_threads=False)
        except (OSError, pyarrow(path).ArrowException) as error:
            told = str(error).splitlines()[0][:120]
            raise BadInput(
                f"{path}: row group {group - self._first[home]} cannot be read ({told}); restore it"
            ) from None
        self._kept[group] = table.column(column)
        while len(self._kept) > 1 and sum(c.nbytes for c in self._kept.values()) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[group]


def _beside(table: str, name: str) -> bytes:
    """A picture that the table only names."""
    try:
        with open(os.path.join(os.path.dirname(table), name), "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise BadInput(f"{name!r}, named in {table}, cannot be read ({error}); restore it") from None
