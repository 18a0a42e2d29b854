"""Two data sets as one: pictures that were learned before, or a share of them, and new ones with new classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import BadInput
from ..names import Names, in_order
from ..source import Reader, Source, Splits, relabelled, split


@dataclass(frozen=True)
class Both:
    """Rows below `first_rows` are the first reader's."""

    first: Reader
    second: Reader
    first_rows: int

    def read(self, row: int) -> bytes:
        return self.first.read(row) if row < self.first_rows else self.second.read(row - self.first_rows)


def joined(before: Splits, after: Splits, name: str, replay: float, seed: int) -> Splits:
    """`replay`: share of each class of `before` that is seen again. Classes are those of both, by name; `name` stands
    before the names of the new pictures, so that two of one name are told apart."""
    for what, part in (("learned before", before), ("added", after)):
        if part.train.labels is None or len(part.classes) < 1 or part.targets:
            raise BadInput(f"the pictures {what} have no classes of their own; both data sets need class folders")
    classes = in_order({*before.classes, *after.classes})[0]
    old = before.train if replay == 1 else _share(before.train, replay, seed)
    train = _joined(old, after.train, name, classes)
    if before.val is None or after.val is None:
        val = before.val or after.val
        held = None if val is None else relabelled(val, classes)
    else:
        held = _joined(before.val, after.val, name, classes)
    fresh = [c for c in classes if c not in before.classes]
    told = f"{len(old):,} of {len(before.train):,} pictures that were learned before, and {len(after.train):,} new ones"
    shown = ", ".join(fresh[:5]) + (", ..." if len(fresh) > 5 else "")
    notes = [*before.notes, *after.notes, told, f"new classes: {shown}" if fresh else "no class is new"]
    return Splits(train, held, classes, notes)


def _share(source: Source, share: float, seed: int) -> Source:
    """Of each class as many; none of them where it is 0."""
    return source.take(np.zeros(0, dtype=np.int64)) if share == 0 else split(source, share, seed)[1]


def _joined(first: Source, second: Source, name: str, classes: tuple[str, ...]) -> Source:
    a, b = relabelled(first, classes), relabelled(second, classes)
    assert a.labels is not None and b.labels is not None
    offset = int(a.rows.max()) + 1 if len(a) else 0
    return Source(
        reader=Both(a.reader, b.reader, offset),
        ids=Names.of([*a.ids, *(f"{name}/{other}" for other in b.ids)]),
        sizes=np.concatenate([a.sizes, b.sizes]),
        rows=np.concatenate([a.rows, b.rows + offset]),
        labels=np.concatenate([a.labels, b.labels]),
        classes=classes,
        seal=f"{a.seal} {b.seal}",
    )
