"""Data sets of the Hugging Face Hub, and local folders in their forms, through the library `datasets`.

Only data is read: a data set that is a script is refused. What was fetched stays in the cache, so the second time needs
no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..source import DataConfig
from .columns import Cells, Header, Texts, choose
from .listing import Listing
from .parquet import class_names
from .table import unique

ROWS = 16_384  # read at a time
NAME = r"[\w.-]+(/[\w.-]+)?"


def open_hub(address: str, cfg: DataConfig) -> Listing:
    """hf:owner/name, hf:owner/name:config, or hf:./folder, with all its parts."""
    folder, name, config = parsed(address)
    parts = _loaded(address, folder or name, config, cfg.cache)
    header = _header(address, next(iter(parts.values())))
    roles, notes = choose(header, cfg)
    picture = roles.get("image")
    if picture not in header.pictures:
        raise BadInput(f"{address}: column {picture!r} holds no pictures; open the table itself, or its Parquet files")
    roles["split"] = "name of the part"  # the data set's own parts, whatever a column says
    cells, names, lost = Cells(address, cfg.label), Texts(), 0
    cells.expect(header, roles)
    rest = {r: c for r, c in roles.items() if r not in ("image", "name", "split")}
    sizes: list[NDArray[np.int64]] = []
    for part, data in parts.items():
        for start in range(0, len(data), ROWS):
            paths, lengths = _pictures(data, picture, start)
            lost += int((lengths < 0).sum())
            names.add((_short(path, folder, part) for path in paths), address)
            sizes.append(lengths)
            cells.add({**_cells(data, rest, start), "split": [part] * len(paths)})
    if not cells.rows:
        raise BadInput(f"{address} has no rows; choose another config or data set")
    told = cells.told()
    notes += [f"{lost:,} rows have no picture, or name a file that is not there"] if lost else []
    told = replace(told, notes=[*notes, *told.notes])
    ids = unique(names.names(), [(part, len(data)) for part, data in parts.items()])
    return told.listing(address, HubReader(address, picture, list(parts.values())), ids, np.concatenate(sizes))


def parsed(address: str) -> tuple[str | None, str, str | None]:
    """(local folder, name on the Hub, config); one of the first two."""
    rest = address.removeprefix("hf:")
    if rest.startswith((".", "/", "~")):
        folder = os.path.expanduser(rest)
        config = None
        if not os.path.isdir(folder) and ":" in rest:
            folder, _, config = folder.rpartition(":")
        if not os.path.isdir(folder):
            raise BadInput(f"{address}: there is no folder {folder}; give one, or a name of the Hub as hf:owner/name")
        return os.path.abspath(folder), "", config
    name, _, config = rest.partition(":")
    if not re.fullmatch(NAME, name) or set(config) & set("/\\:"):
        raise BadInput(f"{address}: {name!r} is no name of the Hub; give hf:owner/name, or a folder as hf:./folder")
    if os.path.exists(name):  # the library would take the folder, in silence
        raise BadInput(f"{address}: {name} is a folder here as well; write hf:./{name}, or start from another folder")
    return None, name, config or None


def _loaded(address: str, place: str, config: str | None, cache: str | None) -> dict[str, Any]:
    """The parts by name, their pictures not decoded."""
    try:
        import datasets
    except ImportError:
        raise BadInput(f'{address} is read with the library datasets; pip install "tessella[hf]"') from None
    try:
        found = datasets.load_dataset(place, config, cache_dir=cache)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise BadInput(_cure(address, error)) from None
    parts = {}
    for part, data in found.items():
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        parts[str(part)] = data
    if not parts:
        raise BadInput(f"{address} is empty; choose another config or data set")
    return parts


def _cure(address: str, error: Exception) -> str:
    told = str(error)
    line = told.strip().splitlines()[0][:200] if told.strip() else type(error).__name__
    name = ":".join(address.split(":")[:2])
    if isinstance(error, ConnectionError):
        return f"{address}: the Hub cannot be reached, nor is this in the cache; go online, or give a copy: hf:./folder"
    if configs := re.search(r"(?:Available|available configs): \[(.*?)\]", told):
        known = configs[1].replace("'", "")
        return f"{address}: choose one of its configs, {known}, as in {name}:{known.split(',')[0]}"
    if "scripts are no longer supported" in told:
        return f"{address} is a script, and no code of a data set is run here; give its Parquet files instead"
    if "doesn't contain any data files" in told or "any data file at" in told:
        return f"{address} holds no data; give a folder with Parquet files, or with pictures in class folders"
    if isinstance(error, FileNotFoundError):
        return f"{address}: not on the Hub, or private ({line}); mend the name, or log in with: hf auth login"
    return f"{address} cannot be loaded ({line}); look at its page on the Hub, or give another data set"


def _header(address: str, data: Any) -> Header:
    found: Mapping[str, Any] = data.features.to_dict()
    kinds = {c: f.get("_type") if isinstance(f, dict) else "List" for c, f in found.items()}
    binary = {c for c, f in found.items() if _binary(f) or (isinstance(f, dict) and _binary(f.get("bytes")))}
    return Header(
        path=address,
        columns=tuple(found),
        pictures=frozenset({c for c, kind in kinds.items() if kind == "Image"} | binary),
        known=class_names(found),
        lists=frozenset(c for c, kind in kinds.items() if kind in {"List", "LargeList", "Sequence"}),
    )


def _binary(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "Value" and "binary" in str(feature.get("dtype"))


def _cells(data: Any, roles: Mapping[str, str], start: int) -> dict[str, Sequence[Any]]:
    if not roles:
        return {}
    table = data.select_columns(sorted({*roles.values()})).with_format("arrow")[start : start + ROWS]
    return {role: table.column(column).to_pylist() for role, column in roles.items()}


def _pictures(data: Any, column: str, start: int) -> tuple[list[str | None], NDArray[np.int64]]:
    """(paths, bytes) of some rows; of the bytes only their lengths are looked at. -1: there is no picture."""
    try:
        import pyarrow.compute
    except ImportError:
        raise BadInput('data sets of the Hub are read with pyarrow; pip install "tessella[hf]"') from None
    cells = data.select_columns([column]).with_format("arrow")[start : start + ROWS].column(column)
    inside = [cells.type.field(i).name for i in range(cells.type.num_fields)]
    paths = pyarrow.compute.struct_field(cells, "path").to_pylist() if "path" in inside else [None] * len(cells)
    held = pyarrow.compute.struct_field(cells, "bytes") if inside else cells
    lengths = pyarrow.compute.binary_length(held).to_pylist()
    return paths, np.array([n or _size(path) for n, path in zip(lengths, paths, strict=True)], dtype=np.int64)


def _size(path: str | None) -> int:
    try:
        return os.stat(path).st_size if path else -1
    except OSError:
        return -1


def _short(path: str | None, folder: str | None, part: str) -> str:
    """A name that holds on other machines too: below the folder, or below the part."""
    if not path:
        return ""
    if folder is not None and path.startswith(folder + os.sep):
        return path[len(folder) + 1 :].replace(os.sep, "/")
    return f"{part}/{os.path.basename(path)}"


class HubReader:
    """Rows of all parts, one part after another, from the memory-mapped files of the cache."""

    def __init__(self, address: str, column: str, parts: Sequence[Any]) -> None:
        self._address, self._column = address, column
        self._parts = [data.select_columns([column]).with_format("arrow") for data in parts]
        self._ends = np.cumsum([len(data) for data in parts])

    def read(self, row: int) -> bytes:
        which = int(np.searchsorted(self._ends, row, side="right"))
        at = row - int(self._ends[which - 1]) if which else row
        cell = self._parts[which][at].column(self._column)[0].as_py()
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data:
            return bytes(data)
        try:
            with open(path or "", "rb") as file:
                return file.read()
        except OSError as error:
            what = f"{path} cannot be read ({error.strerror})" if path else "there is no picture"
            raise BadInput(f"row {row:,} of {self._address}: {what}; restore it or remove the row") from None
