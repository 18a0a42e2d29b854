"""From columns that somebody asked to be learned to what a run reads: heads from the rows of training, targets by name.

A single class is what a `label` is, and goes the way of all classes. Of several heads a row may lack some: they are
unknown there, and rows that know nothing are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...card import TARGET, Head, leaves
from ...errors import BadInput
from ..source import Column, DataConfig, Opened, Source, Splits, split
from .cells import CellsColumn, Gathered, head_of, kind_of, told, typed
from .folder import TRAIN, VALIDATION
from .listing import Listing, inside, part_of, settle, settle_known, unused
from .targets import BoxColumn, ClassColumn, LabelsColumn, NumberColumn, TagsColumn


class Asked(NamedTuple):
    """One column, and how it is called in messages."""

    column: CellsColumn
    what: str


def settle_asked(listing: Listing, cfg: DataConfig) -> Splits:
    """As `settle`, for the targets that the settings name."""
    asked = _asked(listing, cfg.targets)
    train_part, val_part = part_of(listing, TRAIN), part_of(listing, VALIDATION)
    if listing.splits and train_part is None:
        raise BadInput(f"{listing.where} has {', '.join(listing.splits)} but no train part; name one of them train")
    chosen = np.ones(len(listing.ids), dtype=bool) if train_part is None else inside(listing, train_part)
    heads, notes = [], []
    for name, (column, what) in asked.items():
        kind, why = (cfg.kinds[name], "as you say") if name in cfg.kinds else kind_of(column, what)
        fit = column.take(np.flatnonzero(chosen))
        heads.append(head_of(name, kind, fit, what))
        other = "number" if kind == "classify" else "classify"
        cure = "" if name in cfg.kinds else f"; if not: --data.kinds.{name} {other}"
        notes.append(told(heads[-1], fit, why + cure))
    listing = replace(listing, notes=[*listing.notes, *notes])
    if [head.task for head in heads] == ["classify"]:
        splits = settle(_labelled(listing, heads[0], asked[heads[0].name].column), cfg)
        return splits._replace(targets=(replace(heads[0], classes=splits.classes),))
    train, notes = _source(listing, asked, heads, chosen, train_part or listing.where)
    notes = [*listing.notes, *notes]
    notes += unused(listing, {train_part, val_part if cfg.validation is None else None})
    if cfg.validation is not None:
        return Splits(train, None, (), notes, tuple(heads))  # the caller opens the other address
    if val_part is None:
        return _held_out(train, cfg, tuple(heads), notes)
    val, said = _source(listing, asked, heads, inside(listing, val_part), val_part)
    return Splits(train, val, (), notes + said, tuple(heads))


def settle_for(listing: Listing, heads: Sequence[Head]) -> Opened:
    """For a network with these heads: the validation part where there is one, else all; classes by name."""
    asked = _asked(listing, [head.name for head in heads])
    if [head.task for head in heads] == ["classify"]:
        return settle_known(_labelled(listing, heads[0], asked[heads[0].name].column), heads[0].classes)
    part = part_of(listing, VALIDATION)
    chosen = np.ones(len(listing.ids), dtype=bool) if part is None else inside(listing, part)
    source, notes = _source(listing, asked, heads, chosen, part or listing.where)
    where = [f"evaluating on the {part} part of {listing.where}"] if part is not None else []
    return Opened(source, [*where, *listing.notes, *notes])


def _asked(listing: Listing, names: Sequence[str]) -> dict[str, Asked]:
    if not len(listing.ids):
        raise BadInput(f"{listing.where} holds no pictures; {'; '.join(listing.notes) or 'name some'}")
    out = {}
    for name in names:
        column = listing.targets.get(f"{TARGET}{name}", listing.targets.get(name))
        if not isinstance(column, (CellsColumn, BoxColumn, LabelsColumn)):
            raise BadInput(no_table(listing.where, names))
        cells = column if isinstance(column, CellsColumn) else _shown(column)
        out[name] = Asked(cells, f"{listing.where}: column {name!r}")
    return out


def _shown(column: BoxColumn | LabelsColumn) -> CellsColumn:
    """What is to be seen in each picture, wherever it is, as tags: of the annotations of a data set without a table."""
    numbers = column.boxes.classes if isinstance(column, BoxColumn) else column.numbers
    gathered = Gathered()
    each = (sorted(set(numbers[column.spans.of_sample(i)].tolist())) for i in range(len(column)))
    gathered.add([[column.names[number] for number in of_one] for of_one in each], str)
    return gathered.column()


def no_table(where: str, names: Sequence[str]) -> str:
    """--targets, and nothing that has columns."""
    columns = f"column {names[0]!r}" if len(names) == 1 else f"columns {', '.join(map(repr, names))}"
    return f"{where} is no table, so it has no {columns}; give a .csv, .tsv, .jsonl or .parquet, or leave --targets out"


def _labelled(listing: Listing, head: Head, column: CellsColumn) -> Listing:
    """A column that says one class for each picture is the label."""
    known = head_of(head.name, "classify", column, listing.where)  # all names that there are, in training or not
    labels, _ = typed(known, column, listing.where)
    assert isinstance(labels, ClassColumn)
    rest = {name: target for name, target in listing.targets.items() if not name.startswith(TARGET)}
    return replace(listing, label=labels.numbers, names=known.classes, ordered=False, targets=rest)


def _source(
    listing: Listing, asked: dict[str, Asked], heads: Sequence[Head], chosen: NDArray[np.bool_], part: str
) -> tuple[Source, list[str]]:
    """The chosen rows of which anything is known. An unknown class is an error, an unknown tag is said."""
    rows, notes = np.flatnonzero(chosen), []
    columns: dict[str, Column] = {}
    for head, leaf in zip(heads, leaves(heads).values(), strict=True):
        column, what = asked[head.name]
        columns[leaf], strange = typed(head, column.take(rows), what)
        for name, n in strange.items():
            if head.task == "classify":
                known = ", ".join(head.classes[:10]) + (", ..." if len(head.classes) > 10 else "")
                told = f"{part} has {n:,} rows of an unknown {head.name} {name!r}; rename or remove it"
                raise BadInput(f"{told} (the {len(head.classes)} are {known})")
            notes.append(f"{part}: {n:,} rows have the tag {name!r} of {head.name}, which training lacks: not judged")
    known_rows = np.any([_known(column) for column in columns.values()], axis=0)
    if not known_rows.any():
        raise BadInput(f"{part} has no row with a target; fill the columns {', '.join(asked)}")
    if (bare := int((~known_rows).sum())) > 0:
        notes.append(f"{part}: {bare:,} pictures without any target left out")
    everything = Source(
        reader=listing.reader,
        ids=listing.ids,
        sizes=listing.sizes,
        rows=np.arange(len(listing.ids), dtype=np.int64),
        chunks=listing.chunks,
        seal=listing.seal,
    )
    kept = np.flatnonzero(known_rows)
    targets = {name: column.take(kept) for name, column in columns.items()}
    return replace(everything.take(rows[kept]), targets=targets), notes


def _known(column: Column) -> NDArray[np.bool_]:
    match column:
        case ClassColumn():
            return column.numbers >= 0
        case TagsColumn():
            return column.sets >= 0
        case NumberColumn():
            return ~np.isnan(column.numbers)
        case _:
            raise AssertionError("`typed` makes no other")


def _held_out(everything: Source, cfg: DataConfig, heads: tuple[Head, ...], notes: list[str]) -> Splits:
    """A share by hash; of the first class among the heads the same share of each."""
    if not cfg.val_share:
        return Splits(everything, None, (), [*notes, "no validation pictures: val_share is 0"], heads)
    classes = [(name, column) for name, column in everything.targets.items() if isinstance(column, ClassColumn)]
    strata = classes[0][1].numbers if classes else None
    train, val = split(everything, cfg.val_share, cfg.seed, strata)
    if not len(val):
        return Splits(everything, None, (), [*notes, "no validation pictures: there is one only"], heads)
    alike = f", the same share of each {classes[0][0].removeprefix(TARGET)}" if classes else ""
    notes = [*notes, f"no validation part: {len(val):,} of {len(everything):,} pictures held out{alike}"]
    return Splits(train, val, (), notes, heads)
