"""What the columns of a table mean: which holds the picture, the class, the part, and what the cells say of each row.

Rows come in blocks, {role: cells}, from any kind of table; the result is the fields of a `Listing`, packed.
"""

from __future__ import annotations

import difflib
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...card import TARGET
from ...errors import BadInput
from ..names import Names, in_order
from ..source import Column, DataConfig, Reader, Rows
from .cells import Gathered
from .folder import TRAIN, VALIDATION
from .listing import Listing
from .targets import CaptionColumn, LabelsColumn, NumberColumn, Spans

ROLES: dict[str, tuple[str, ...]] = {  # what columns are called, compared without case, "-" and " " as "_"
    "image": tuple(
        "image file file_name filename path filepath file_path image_path img_path image_file image_name "
        "image_filename img picture photo".split()
    ),
    "base64": tuple("image_base64 base64 b64 image_b64 img_base64 img_b64".split()),
    "label": tuple("label class category target class_name label_name category_name".split()),
    "labels": tuple("labels classes categories targets tags".split()),
    "number": tuple("number value score rating regression".split()),
    "caption": tuple("caption text captions texts description".split()),
    "split": tuple("split partition subset fold".split()),
}
OPTIONS = {"image": "--data.image", "label": "--data.label", "split": "--data.split"}
LEARNED = ("label", "labels", "number", "caption")  # roles that are not looked for where somebody names the targets
PARTS = 127  # most names of parts: they are numbered in int8
Block = Mapping[str, Sequence[Any]]  # role -> the cells of some rows


class Held(NamedTuple):
    """The pictures that tables hold themselves, in the order of the rows."""

    reader: Reader
    sizes: NDArray[np.int64]  # bytes, -1: not known
    chunks: NDArray[np.int64] | None  # row group of each
    notes: list[str]
    seal: str = ""  # see Source


@dataclass(frozen=True, kw_only=True)
class Header:
    """The columns of one table, with what their types say."""

    path: str  # of the table, for messages
    columns: tuple[str, ...]
    pictures: frozenset[str] = frozenset()  # columns that hold the bytes of pictures
    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # class names of columns that hold numbers
    lists: frozenset[str] = frozenset()  # columns whose cells are lists


def key(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def choose(header: Header, cfg: DataConfig) -> tuple[dict[str, str], list[str]]:
    """({role: column}, notes). Named by the config, else by its name, else by its type; a doubt is an error."""
    found: dict[str, str] = {}
    notes: list[str] = []
    for role, given in (("image", cfg.image), ("label", cfg.label), ("split", cfg.split)):
        if given is not None:
            found[role] = _given(header, role, given)
    _asked(header, cfg, found)
    for role, known in ROLES.items():
        if cfg.targets and role in LEARNED:
            continue
        named = [c for c in header.columns if key(c) in known and c not in found.values()]
        if role == "image" and role not in found:
            named = [c for c in named if c in header.pictures] or (named or sorted(header.pictures))
        elif role == "label" and not named:
            free = [c for c in header.known if c not in found.values() and key(c) not in ROLES["labels"]]
            named = [] if any(key(c) in ROLES["labels"] for c in header.columns) else free
        if role in found or not named:
            continue
        if len(named) > 1 and role in OPTIONS:
            raise BadInput(
                f"{header.path}: columns {_list(named)} could each be the {role}; say which: {OPTIONS[role]} {named[0]}"
            )
        named.sort(key=lambda c: known.index(key(c)) if key(c) in known else 0)
        notes += [f"column {other!r} is not used: {named[0]!r} is the {role}" for other in named[1:]]
        found[role] = named[0]
    if not cfg.targets and not {"label", "labels"} & {*found}:
        usual = ", ".join(ROLES["label"][:3])
        notes.append(f"no column is called {usual} or alike: {OPTIONS['label']} says which of {_list(header.columns)}")
    if found.get("label") in header.lists:
        found.setdefault("labels", found.pop("label"))
    if "image" in found and found["image"] in header.pictures:
        names = [c for c in header.columns if key(c) in ROLES["image"] and c not in {*found.values(), *header.pictures}]
        found |= {"name": names[0]} if len(names) == 1 else {}  # bytes in one column, their file's name in another
    if "image" not in found and "base64" not in found:
        raise BadInput(
            f"{header.path}: no column is called {', '.join(ROLES['image'][:5])} or alike, its columns are "
            f"{_list(header.columns)}; say which names the picture: {OPTIONS['image']} COLUMN"
        )
    return found, notes


def _asked(header: Header, cfg: DataConfig, found: dict[str, str]) -> None:
    """The columns that somebody named as what is to be learned."""
    for name in cfg.targets:
        column = _given(header, "targets", name)
        if column in header.pictures or key(column) in (*ROLES["image"], *ROLES["base64"]):
            raise BadInput(f"{header.path}: column {column!r} holds the pictures, and is no target; mend --targets")
        if column in found.values():
            what = next(role for role, other in found.items() if other == column)
            what = "two targets" if what.startswith(TARGET) else f"the {what} and a target"
            raise BadInput(f"{header.path}: column {column!r} is {what}; give each column one meaning")
        found[f"{TARGET}{name}"] = column


def _given(header: Header, role: str, given: str) -> str:
    exact = [c for c in header.columns if c == given] or [c for c in header.columns if key(c) == key(given)]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise BadInput(f"{header.path}: {len(exact)} columns are called {given!r}; rename all but one")
    near = difflib.get_close_matches(given, header.columns, 1)
    hint = f"did you mean {near[0]!r}? its" if near else "its"
    cure = "name one of them" if role == "targets" else f"mend {OPTIONS[role]}"
    raise BadInput(f"{header.path} has no column {given!r}: {hint} columns are {_list(header.columns)}; {cure}")


def _list(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(c) for c in columns[:12])
    return f"{shown}, ... ({len(columns)} of them)" if len(columns) > 12 else shown or "none at all"


# ---------------------------------------------------------------- cells


def text(cell: Any, where: str = "a cell") -> str:
    """A cell as a name; empty, null and NaN are "". 3 and 3.0 are "3", because pandas makes floats of gaps."""
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    if isinstance(cell, (list, dict, tuple)):
        raise BadInput(f"{where} holds {cell!r:.40}, expected one text or number; name another column")
    return str(cell)


class Texts:
    """Packs texts as they come."""

    def __init__(self) -> None:
        self._blob, self._lengths = bytearray(), array("q")

    def add(self, texts: Iterable[str], where: str) -> None:
        try:
            for one in texts:
                piece = one.encode("utf-8", "surrogateescape")
                self._blob += piece
                self._lengths.append(len(piece))
        except UnicodeEncodeError as error:
            raise BadInput(f"{where}: {error.object!r:.60} is no text (half a surrogate pair); mend it") from None

    def names(self) -> Names:
        spans = Spans.of(self._lengths)
        return Names(bytes(self._blob), spans.starts, spans.ends)


class Numbered:
    """Numbers texts as they come; the empty one is -1."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {"": -1}
        self.numbers = array("q")

    def add(self, texts: Sequence[str]) -> None:
        for new in dict.fromkeys(texts):
            self.index.setdefault(new, len(self.index) - 1)
        self.numbers.extend([self.index[one] for one in texts])

    def sorted(self, known: Sequence[str] = ()) -> tuple[NDArray[np.int64], tuple[str, ...], bool]:
        """(numbers, names, whether their order means something); `known`: the names in an order of their own."""
        self.index.pop("", None)
        names, ordered = (tuple(known), True) if known else in_order(self.index)
        place = {name: i for i, name in enumerate(names)}
        where = np.array([*(place[name] for name in self.index), -1], dtype=np.int64)
        return where[np.frombuffer(self.numbers, dtype=np.int64)], names, ordered


# ---------------------------------------------------------------- rows


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the cells said of each row: fields as in `Listing`."""

    rows: int
    label: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    ordered: bool = False
    split: NDArray[np.int8] | None = None
    splits: tuple[str, ...] = ()
    targets: Mapping[str, Column] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def listing(
        self, where: str, reader: Reader, ids: Names, sizes: NDArray[np.int64], chunks: NDArray[np.int64] | None = None
    ) -> Listing:
        """With the pictures of the rows."""
        return Listing(
            where=where,
            reader=reader,
            ids=ids,
            sizes=sizes,
            label=self.label,
            names=self.names,
            ordered=self.ordered,
            split=self.split,
            splits=self.splits,
            targets=self.targets,
            chunks=chunks,
            notes=self.notes,
        )

    def take(self, keep: Rows) -> Told:
        return replace(
            self,
            rows=len(keep),
            label=None if self.label is None else self.label[keep],
            split=None if self.split is None else self.split[keep],
            targets={name: column.take(keep) for name, column in self.targets.items()},
        )


class Cells:
    """Collects the cells of all rows, role by role, a block at a time."""

    def __init__(self, where: str, given: str | None = None) -> None:
        """`given`: the column of the class, where the user has named it."""
        self._where, self._given, self.rows, self.notes = where, given, 0, list[str]()
        self._label, self._labels, self._split = Numbered(), Numbered(), Numbered()
        self._lengths, self._lists = array("q"), False  # of the labels of each row; some came as a list
        self._numbers, self._odd = array("d"), list[str]()
        self._captions, self._counts = Texts(), array("q")
        self._targets = dict[str, Gathered]()
        self._known: dict[str, tuple[str, ...]] = {}
        self._roles: dict[str, str] = {}  # role -> column, of all tables

    def expect(self, header: Header, roles: Mapping[str, str]) -> None:
        """The next blocks are from this table."""
        for role, column in roles.items():
            names = header.known.get(column)
            classed = role in {"label", "labels"} or role.startswith(TARGET)
            if classed and names is not None and self._known.setdefault(role, names) != names:
                raise BadInput(f"{header.path}: its classes are not those of the tables before it; open it alone")
        lost = sorted({*self._roles} - {*roles} - {"name"}) if self.rows else []
        new = sorted({*roles} - {*self._roles} - {"name"}) if self.rows else []
        self.notes += [f"{header.path} has no column for the {role}, other tables have" for role in lost]
        self.notes += [f"{header.path} has a column for the {role}, other tables have none" for role in new]
        for role in new:
            self._add(role, [None] * self.rows, "")
        self._roles = {**roles, **self._roles}

    def add(self, block: Block) -> None:
        n = len(next(iter(block.values())))
        for role, column in self._roles.items():
            self._add(role, block.get(role, [None] * n), f"{self._where}: column {column!r}")
        self.rows += n

    def _add(self, role: str, cells: Sequence[Any], where: str) -> None:
        if role == "label":
            self._label.add(self._named(cells, "label", where))
        elif role == "labels":
            for cell in cells:
                self._several(cell, where)
        elif role == "split":
            self._split.add([text(cell, where).strip().lower() for cell in cells])
        elif role.startswith(TARGET):
            if role in self._known:  # by number, one or a list of them
                cells = [self._named(c, role, where) if isinstance(c, list) else c for c in cells]
                cells = [c if isinstance(c, list) else self._named([c], role, where)[0] for c in cells]
            self._targets.setdefault(role, Gathered()).add(cells, lambda c: text(c, where))
        elif role == "number":
            for cell in cells:
                self._number(cell, where)
        elif role == "caption":
            each = [[one for one in (c if isinstance(c, list) else [c]) if one not in (None, "")] for c in cells]
            self._captions.add((text(one, where) for captions in each for one in captions), where)
            self._counts.extend([len(captions) for captions in each])

    def _named(self, cells: Sequence[Any], role: str, where: str) -> list[str]:
        known = self._known.get(role)
        if known is None:
            return [text(cell, where) for cell in cells]
        out = []
        for cell in cells:
            if isinstance(cell, str):
                name = cell
                bad = cell not in known
            else:
                number = -1 if cell is None else int(cell)
                bad = not -1 <= number < len(known)
                name = known[number] if 0 <= number < len(known) else ""
            if bad:
                raise BadInput(f"{where} holds {cell!r}, its classes are {len(known)}: {_list(known)}; mend the table")
            out.append(name)
        return out

    def _several(self, cell: Any, where: str) -> None:
        if isinstance(cell, str):
            each: list[Any] = [piece for one in re.split("[;|]", cell) if (piece := one.strip())]
        elif isinstance(cell, list):
            each, self._lists = [one for one in cell if one not in (None, "")], True
        else:
            each = [] if cell is None else [cell]
        names = list(dict.fromkeys(name for name in self._named(each, "labels", where) if name))
        self._labels.add(names)
        self._lengths.append(len(names))

    def _number(self, cell: Any, where: str) -> None:
        try:
            value = float("nan" if cell is None or cell == "" else cell)
            ok = not math.isinf(value) and "_" not in str(cell)  # 1_000 is a number for Python only
        except (TypeError, ValueError):
            value, ok = math.nan, False
        if not ok:
            self._odd.append(f"{where} holds {cell!r:.40} in row {len(self._numbers) + 1:,}")
        self._numbers.append(value if ok else math.nan)

    # ------------------------------------------------------------ the end

    def told(self) -> Told:
        notes, targets = self.notes, dict[str, Column]({role: one.column() for role, one in self._targets.items()})
        label, names, ordered = self._classes(targets)
        split, splits = self._parts()
        if ordered and "label" not in self._known and label is not None and split is not None:
            train = [i for i, name in enumerate(splits) if name in TRAIN]
            inside = np.isin(np.arange(len(names)), label[np.isin(split, train)])
            ordered = bool(inside.all())  # a class that train lacks must be found unknown, not kept as an empty one
        if "number" in self._roles:
            self._scores(targets)
        if "caption" in self._roles:
            targets["caption"] = CaptionColumn(self._captions.names(), Spans.of(self._counts))
        if label is not None:
            notes += alike(names, label)
        fields = dict(label=label, names=names, ordered=ordered, split=split, splits=splits)
        return Told(rows=self.rows, targets=targets, notes=notes, **fields)  # type: ignore[arg-type]

    def _classes(self, targets: dict[str, Column]) -> tuple[NDArray[np.int64] | None, tuple[str, ...], bool]:
        if "labels" in self._roles:
            numbers, names, ordered = self._labels.sorted(self._known.get("labels", ()))
            if "label" not in self._roles and not self._lists and max(self._lengths, default=0) < 2:
                label = np.full(self.rows, -1, dtype=np.int64)
                label[np.frombuffer(self._lengths, dtype=np.int64) > 0] = numbers
                column = self._roles["labels"]
                self.notes.append(f"column {column!r} holds no more than one name in a row: it is the class")
                if sum("," in name for name in names) > len(names) / 2:
                    self.notes.append(f"names in column {column!r} hold commas: several labels are separated by ; or |")
                return label, names, ordered
            targets["labels"] = LabelsColumn(numbers, Spans.of(self._lengths), names)
            self.notes += alike(names, numbers)
        if "label" not in self._roles:
            return None, (), False
        label, names, ordered = self._label.sorted(self._known.get("label", ()))
        if not (self._given or self._known.get("label") or "number" in self._roles) and _measured(names):
            values = np.array([float(name) for name in names] + [math.nan])
            targets["number"] = NumberColumn(values[label])
            column = self._roles["label"]
            self.notes.append(f"column {column!r} holds numbers with fractions: numbers to predict, not classes")
            return None, (), False
        return label, names, ordered

    def _parts(self) -> tuple[NDArray[np.int8] | None, tuple[str, ...]]:
        if "split" not in self._roles:
            return None, ()
        numbers, names, _ = self._split.sorted()
        column = self._roles["split"]
        if len(names) > PARTS or not set(names) & {*TRAIN, *VALIDATION}:
            told = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "nothing"
            self.notes.append(f"column {column!r} is not used: it holds {told}, and no part is called train or val")
            return None, ()
        return numbers.astype(np.int8), names

    def _scores(self, targets: dict[str, Column]) -> None:
        numbers = np.frombuffer(self._numbers, dtype=np.float64).copy()
        if self._odd and np.isnan(numbers).all():
            self.notes.append(f"column {self._roles['number']!r} holds no numbers: it is not used")
        elif self._odd:
            more = f" ({len(self._odd):,} rows are like this)" if len(self._odd) > 1 else ""
            raise BadInput(f"{self._odd[0]}{more}, which is no number; mend it or leave the cell empty")
        else:
            targets["number"] = NumberColumn(numbers)


def _measured(names: Sequence[str]) -> bool:
    """Numbers of which most have a fraction."""
    if not names or not all(re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]{1,2})?", name) for name in names):
        return False
    return sum(not float(name).is_integer() for name in names) * 2 > len(names)


def alike(names: Sequence[str], numbers: NDArray[np.int64]) -> list[str]:
    """A warning for classes whose names differ by case or space only."""
    counts = Counter(numbers.tolist())
    groups: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(" ".join(name.casefold().split()), []).append(f"{name!r} ({counts[i]:,})")
    same = [group for group in groups.values() if len(group) > 1]
    return [f"classes that differ by case or space only: {', '.join(group)}" for group in same[:5]]
