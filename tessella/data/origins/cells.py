"""A column of a table that somebody asked to be learned: what kind of thing it says, and its cells as a typed target.

Distinct cells are looked at once, however many rows hold them. An empty cell is unknown; an empty list, or a separator
alone, says that there are no tags.
"""

from __future__ import annotations

import ast
import math
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...card import Head
from ...errors import BadInput
from ..names import in_order
from ..source import Column, Kind, Rows
from .targets import ClassColumn, NumberColumn, Spans, TagsColumn, digest_of

Cell = str | int | float | tuple[str, ...]  # an empty one is none of these
MANY = 20  # different whole numbers up to which they are names of classes
OFTEN = 20  # ... beyond that, rows to each of them from which they still are
SURE = 0.9  # share of rows that hold numbers, from which the others are mistakes
NOTHING = {"nan", "na", "n/a", "null"}  # in a column of numbers: unknown
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
SHOWN = 6  # names in a note


@dataclass(frozen=True, eq=False)
class CellsColumn:
    """As they stand in the table."""

    cells: tuple[Cell, ...]  # the different ones
    numbers: NDArray[np.int64]  # which of them each row holds, -1: none

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> Cell | None:
        return self.cells[self.numbers[i]] if self.numbers[i] >= 0 else None

    def take(self, rows: Rows) -> CellsColumn:
        return CellsColumn(self.cells, self.numbers[rows])

    def digest(self) -> bytes:
        return digest_of("cells", [repr(cell) for cell in self.cells], self.numbers)

    def rows(self) -> NDArray[np.int64]:
        """How many rows hold each of the cells."""
        return np.bincount(self.numbers[self.numbers >= 0], minlength=len(self.cells))

    def first(self, cells: Iterable[int]) -> int:
        """The first row that holds one of these, counted from 1 as in a table."""
        return int(np.flatnonzero(np.isin(self.numbers, list(cells)))[0]) + 1


class Gathered:
    """Collects a column, block by block."""

    def __init__(self) -> None:
        self._index: dict[Cell, int] = {}
        self._numbers = array("q")

    def add(self, cells: Sequence[Any], name: Callable[[Any], str]) -> None:
        """`name`: an odd cell as a text, or an error."""
        for cell in cells:
            one = _plain(cell, name)
            self._numbers.append(-1 if one is None else self._index.setdefault(one, len(self._index)))

    def column(self) -> CellsColumn:
        return CellsColumn(tuple(self._index), np.frombuffer(self._numbers, dtype=np.int64).copy())


def _plain(cell: Any, name: Callable[[Any], str]) -> Cell | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, str):
        return cell.strip() or None
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return cell
    if isinstance(cell, (list, tuple)):
        return tuple(dict.fromkeys(name(one) for one in cell if one not in (None, "")))
    return name(cell) or None


# ---------------------------------------------------------------- what kind


def kind_of(column: CellsColumn, what: str) -> tuple[Kind, str]:
    """(the kind, why), by the values. `what` names the column in messages."""
    if any(isinstance(cell, tuple) or _listed(cell) is not None for cell in column.cells):
        return "tags", "its cells are lists"
    if any(isinstance(cell, str) and re.search("[;|]", cell) for cell in column.cells):
        return "tags", "its cells have ; or | between names"
    rows, values = column.rows(), [_number(cell) for cell in column.cells]
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    good = int(sum(n for n, value in zip(rows.tolist(), values, strict=True) if value is not None))
    known = int(rows.sum())
    if not numbers or good < SURE * known:
        return "classify", "its cells are names"
    fractions = any(not value.is_integer() for value in numbers)
    if fractions or (len(numbers) > MANY and len(numbers) * OFTEN > known):
        _refuse_texts(column, values, what)
        return "number", "its cells have decimals" if fractions else f"its cells are {len(numbers):,} different numbers"
    return "classify", f"its cells are {len(column.cells)} different " + ("numbers" if good == known else "texts")


def _number(cell: Cell) -> float | None:
    """NaN: it says that there is none; None: it is no number."""
    if isinstance(cell, tuple):
        return None
    if isinstance(cell, str):
        if cell.casefold() in NOTHING:
            return math.nan
        return float(cell) if NUMBER.fullmatch(cell) else None
    return float(cell) if math.isfinite(cell) else None


def _listed(cell: Cell) -> tuple[str, ...] | None:
    """A list that is written as text, in JSON or as Python prints it."""
    if not (isinstance(cell, str) and cell[0] == "[" and cell[-1] == "]"):
        return None
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return tuple(dict.fromkeys(str(one) for one in found if one not in (None, "")))


def _refuse_texts(column: CellsColumn, values: Sequence[float | None], what: str) -> None:
    odd = [i for i, (value, n) in enumerate(zip(values, column.rows(), strict=True)) if value is None and n]
    if odd:
        row = column.first(odd)
        told = f"{what} holds {column[row - 1]!r:.40} in row {row:,}, which is no number"
        raise BadInput(f"{told}; mend it, or leave the cell empty")


def _names(cell: Cell) -> tuple[str, ...]:
    """What a cell says of tags."""
    if isinstance(cell, tuple):
        return cell
    if isinstance(cell, str):
        listed = _listed(cell)
        pieces = (piece.strip() for piece in re.split("[;|]", cell))
        return listed if listed is not None else tuple(dict.fromkeys(piece for piece in pieces if piece))
    return (_name(cell),)


def _name(cell: Cell) -> str:
    """What a cell is called as a class; pandas makes 3.0 of 3 where cells are empty."""
    if isinstance(cell, tuple):
        raise BadInput(f"{list(cell)!r:.40} is a list, and a class has one name")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


# ---------------------------------------------------------------- heads


def head_of(name: str, kind: Kind, column: CellsColumn, what: str) -> Head:
    """What is to be learned of these rows, those of training; a column that says one thing only is refused."""
    if not (column.numbers >= 0).any():
        raise BadInput(f"{what} is empty in all rows of training; leave it out of --targets, or fill it")
    there = column.rows() > 0
    cells = [cell for cell, some in zip(column.cells, there, strict=True) if some]
    if kind == "number":
        values = number_column(column, what).numbers
        values = values[~np.isnan(values)]
        if not len(values) or values.min() == values.max():
            raise BadInput(_alone(what, f"{values[0]:g}" if len(values) else "no number"))
        return Head(name=name, task="number", mean=float(values.mean()), scale=float(values.std()))
    try:
        classes = in_order({one for cell in cells for one in (_names(cell) if kind == "tags" else (_name(cell),))})[0]
    except BadInput as error:
        raise BadInput(f"{what}: {error}; say that it holds tags: --data.kinds.{name} tags") from None
    if kind == "classify":
        if len(classes) < 2:
            raise BadInput(_alone(what, repr(classes[0])))
        if len(classes) > MANY and len(classes) == int((column.numbers >= 0).sum()):
            raise BadInput(f"{what} holds another name in every row ({len(classes):,}); no class can be learned of it")
        return Head(name=name, task="classify", classes=classes)
    if not classes or all(set(_names(cell)) == set(classes) for cell in cells):
        raise BadInput(_alone(what, "; ".join(classes) or "no tags"))
    return Head(name=name, task="tags", classes=classes)


def _alone(what: str, value: str) -> str:
    return f"{what} has one value only ({value}): there is nothing to learn; leave it out of --targets"


def typed(head: Head, column: CellsColumn, what: str) -> tuple[Column, dict[str, int]]:
    """The targets of a head, and {class or tag that it does not know: rows}. Of an unknown class the row is unknown."""
    if head.task == "number":
        return number_column(column, what), {}
    index = {name: i for i, name in enumerate(head.classes)}
    rows = column.rows().tolist()
    strange: dict[str, int] = {}
    said = [
        (_names(cell) if head.task == "tags" else (_name(cell),)) if n else ()
        for cell, n in zip(column.cells, rows, strict=True)
    ]
    for names, n in zip(said, rows, strict=True):
        for name in names:
            if n and name not in index:
                strange[name] = strange.get(name, 0) + n
    each = [[index[name] for name in names if name in index] for names in said]
    if head.task == "classify":
        place = np.array([*(one[0] if one else -1 for one in each), -1], dtype=np.int64)  # the last is for -1
        return ClassColumn(place[column.numbers], head.classes), strange
    spans = Spans.of(len(one) for one in each)
    packed = np.array([number for one in each for number in one], dtype=np.int64)
    return TagsColumn(packed, spans, column.numbers, head.classes), strange


def number_column(column: CellsColumn, what: str) -> NumberColumn:
    values = [_number(cell) for cell in column.cells]
    _refuse_texts(column, values, what)
    table = np.array([*(math.nan if value is None else value for value in values), math.nan])  # the last is for -1
    return NumberColumn(table[column.numbers])


def told(head: Head, column: CellsColumn, why: str) -> str:
    """One line for the person who asked for it."""
    unknown = int((column.numbers < 0).sum())
    gaps = f"; {unknown:,} of {len(column):,} are unknown" if unknown else ""
    if head.task == "number":
        return f"{head.name}: a number, {head.mean:.4g} on average, deviating by {head.scale:.4g} ({why}){gaps}"
    names = ", ".join(head.classes[:SHOWN]) + (", ..." if len(head.classes) > SHOWN else "")
    kind = "a class, one" if head.task == "classify" else "tags, any"
    empty = " (write ; where there are none)" if head.task == "tags" and unknown else ""
    return f"{head.name}: {kind} of {len(head.classes)}: {names} ({why}){gaps}{empty}"
