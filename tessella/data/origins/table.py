"""Tables of pictures: CSV, TSV, JSON, JSONL, Parquet. A row names a picture's file or holds its bytes, beside targets.

Paths are relative to the folder of the table, or absolute, and may lead anywhere: a table is the user's own, as is what
it names; pictures outside of the table's folder are counted and said. A file that is not there stays in the list as a
hole: reading it raises, so that it is accounted for.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import BadInput
from ..names import Names
from ..source import DataConfig
from . import lines, parquet
from .columns import ROLES, Cells, Header, Texts, Told, choose, key
from .folder import TRAIN, VALIDATION
from .lines import CsvTable, JsonlTable
from .listing import Listing
from .named import beside
from .parquet import ParquetTable

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
USUAL = ("metadata", "labels")  # what a table beside its pictures is called
Table = CsvTable | JsonlTable | ParquetTable
Roles = Mapping[str, str]  # role -> column


def open_table(address: str, cfg: DataConfig) -> Listing:
    """A table, or several of them as one: data/train-*.parquet, {train,val}.csv."""
    paths = expand(address)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    tables = [table_of(path) for path in paths]
    chosen, notes = _chosen(address, tables, cfg)
    inside = _inside(tables[0].header, chosen[0])
    parts = [part_of(path) for path in paths] if len(paths) > 1 else [""]
    cells, names, counts = Cells(address, cfg.label), Texts(), list[int]()
    for table, roles, part in zip(tables, chosen, parts, strict=True):
        by_file = any(parts) and "split" not in roles  # no column says the part: the files' own names do
        cells.expect(table.header, {**roles, "split": "name of the file"} if by_file else roles)
        folder = "" if inside else os.path.relpath(os.path.dirname(os.path.abspath(table.path)), root)
        counts.append(cells.rows)
        for block in table.blocks(roles):
            n = len(next(iter(block.values())))
            found = block.get("name" if inside else "image") or [None] * n
            names.add(_paths(found, table.path, folder), table.path)
            cells.add({**block, "split": [part] * n} if by_file else block)
        counts[-1] = cells.rows - counts[-1]
    if not cells.rows:
        raise BadInput(f"{address} has no rows; give a table with a row for each picture")
    told = cells.told()
    told = replace(told, notes=[*notes, *(note for table in tables for note in table.notes), *told.notes])
    if not inside:
        return beside(address, root, names.names(), told)
    short = [os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/") for path in paths]
    ids = unique(names.names(), list(zip(short, counts, strict=True)))
    return _held(address, tables, chosen, told, ids)


def table_in(folder: str, targets: Sequence[str] = ()) -> str | None:
    """The address of the table that a folder of pictures comes with, by the names that are usual; None: no such table.

    metadata.csv or labels.csv (or .tsv, .jsonl, .parquet), train.csv beside val.csv, train/metadata.csv beside
    val/metadata.csv, Parquet files alone, or the only table that there is. Beside class folders only metadata or labels
    count, and only with a column for the class or one of the `targets`: another table is a by-product.
    """
    here, classed = _tables_of(folder), _has_classes(folder)
    for stem in USUAL:
        found = [name for name in here if os.path.splitext(name)[0].lower() == stem]
        if len(found) > 1:
            raise BadInput(f"{folder} has {' and '.join(found)}; give the one that is meant as the address")
        if found and (not classed or _labelled(os.path.join(folder, found[0]), targets)):
            return os.path.join(folder, found[0])
    if classed:
        return None
    for kind in KINDS:
        by_part = {os.path.splitext(name)[0].lower(): name for name in here if name.lower().endswith(kind)}
        parts = [by_part[part] for part in (*TRAIN, *VALIDATION) if part in by_part]
        if parts and os.path.splitext(parts[0])[0].lower() in TRAIN:
            return _braces(folder, _alike(folder, parts))
    for name in (stem + kind for stem, kind in itertools.product(USUAL, KINDS)):
        parts = [part for part in (*TRAIN, *VALIDATION) if os.path.isfile(os.path.join(folder, part, name))]
        if parts and parts[0] in TRAIN:
            return os.path.join(_braces(folder, parts), name)
    if len(here) > 1 and all(name.lower().endswith(".parquet") for name in here):
        return os.path.join(glob.escape(folder), "*.parquet")
    return os.path.join(folder, here[0]) if len(here) == 1 and not _has_shards(folder) else None


def _has_classes(folder: str) -> bool:
    """Folders in train/, or two or more that are no parts: as far as names say, pictures lie in class folders."""
    names = _folders_of(folder)
    trains = [os.path.join(folder, name) for name in TRAIN if name in names]
    return any(_folders_of(train) for train in trains) or len(names - {*TRAIN, *VALIDATION}) > 1


def _has_shards(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(e.name.lower().endswith(".tar") for e in entries)


def _folders_of(folder: str) -> set[str]:
    with os.scandir(folder) as entries:
        return {e.name for e in entries if e.name[0] != "." and e.is_dir()}


def _labelled(path: str, targets: Sequence[str]) -> bool:
    wanted = {*ROLES["label"], *ROLES["labels"], *(key(name) for name in targets)}
    return any(key(column) in wanted for column in table_of(path).header.columns)


def _tables_of(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(KINDS) and e.name[0] != "." and e.is_file())


def _alike(folder: str, names: list[str]) -> list[str]:
    """The first table and those with the same columns: Kaggle's test.csv has no labels, and is left out."""
    headers = [set(table_of(os.path.join(folder, name)).header.columns) for name in names]
    return [name for name, columns in zip(names, headers, strict=True) if columns == headers[0]]


def _braces(folder: str, names: list[str]) -> str:
    return os.path.join(folder, names[0] if len(names) == 1 else "{" + ",".join(names) + "}")


# ---------------------------------------------------------------- addresses


def expand(address: str) -> list[str]:
    """The tables that an address stands for: itself, or with {a,b} and {000..099}, then with * and ? and **, sorted."""
    found: list[str] = []
    for one in [address] if os.path.exists(address) else _alternatives(address):
        found += [one] if os.path.exists(one) else sorted(glob.glob(one, recursive=True))
    paths = list(dict.fromkeys(found))
    if not paths:
        raise BadInput(f"{address}: there is no such file; give a table ({', '.join(KINDS)}) that exists")
    for path in paths:
        if not path.lower().endswith((*KINDS, ".json")) or os.path.isdir(path):
            raise BadInput(f"{path} is no table; give files that end in {', '.join(KINDS)}")
    return paths


def _alternatives(address: str) -> list[str]:
    match = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", address)
    if not match:
        return [address]
    each = match[1].split(",")
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        each = [f"{n:0{width}}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    return [out for one in each for out in _alternatives(address[: match.start()] + one + address[match.end() :])]


def part_of(path: str) -> str:
    """The part that a file is of, by its name (train-00000-of-00004.parquet, mnist_test.csv) or its folder's; or ""."""
    folder, name = os.path.split(os.path.abspath(path))
    for place in (os.path.splitext(name)[0], os.path.basename(folder)):
        words = {word for word in re.split(r"[^a-z]+", place.lower()) if word in (*TRAIN, *VALIDATION)}
        if len(words) == 1:
            return words.pop()
    return ""


# ---------------------------------------------------------------- tables


def table_of(path: str) -> Table:
    kind = os.path.splitext(path)[1].lower()
    if kind == ".parquet":
        return ParquetTable(path)
    return JsonlTable(path) if kind in (".jsonl", ".json") else CsvTable(path)


def _chosen(address: str, tables: Sequence[Table], cfg: DataConfig) -> tuple[list[dict[str, str]], list[str]]:
    """The roles of each table's columns; all hold their pictures, or none does."""
    each = [choose(table.header, cfg) for table in tables]
    chosen = [roles for roles, _ in each]
    kinds = {(_inside(t.header, roles), type(t)) for t, roles in zip(tables, chosen, strict=True)}
    if len({inside for inside, _ in kinds}) > 1 or (len(kinds) > 1 and any(inside for inside, _ in kinds)):
        raise BadInput(f"{address}: some tables hold pictures, others name files or are of another kind; open one kind")
    return chosen, list(dict.fromkeys(note for _, notes in each for note in notes))


def _inside(header: Header, roles: Roles) -> bool:
    return roles.get("image") in header.pictures or "base64" in roles


def _paths(cells: Sequence[Any], table: str, folder: str) -> Iterator[str]:
    """The paths that cells hold, text or the struct that Hugging Face writes, seen from the folder of all tables."""
    for cell in cells:
        path = cell.get("path") if isinstance(cell, dict) else cell
        if path is None:
            path = ""
        elif not isinstance(path, str) or "\0" in path:
            raise BadInput(f"{table}: {path!r:.60} is no path; name the column that holds paths: --data.image COLUMN")
        yield os.path.join(folder, path) if folder not in ("", ".") and path else path


def unique(names: Names, counts: Sequence[tuple[str, int]]) -> Names:
    """Names of pictures inside tables: those of their files where all differ, else file#row. `counts`: its rows."""
    if "" not in (different := set(names)) and len(different) == len(names):
        return names
    return Names.of(f"{file}#{row}" for file, n in counts for row in range(n))


def _held(address: str, tables: Sequence[Table], chosen: Sequence[Roles], told: Told, ids: Names) -> Listing:
    files = [table for table in tables if isinstance(table, ParquetTable)]
    texts = [table for table in tables if isinstance(table, JsonlTable)]
    if files:
        held = parquet.together(files, [roles["image"] for roles in chosen])
    else:
        held = lines.together([table.held(roles["base64"]) for table, roles in zip(texts, chosen, strict=True)])
    told = replace(told, notes=[*told.notes, *held.notes])
    return replace(told.listing(address, held.reader, ids, held.sizes, held.chunks), seal=held.seal)
