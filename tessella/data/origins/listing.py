"""From what was found at an address to what a run reads: parts by name, classes by name, everything odd said.

An origin (an archive, a table, shards) only lists what it holds; splitting and naming are done here, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names, in_order
from ..source import Column, DataConfig, Opened, Reader, Source, Splits, apart, held_out
from .folder import TRAIN, VALIDATION, parts_in

LAYOUT = "expected a class for each picture: cat/1.jpg, or train/cat/1.jpg beside val/cat/2.jpg, or a label"


@dataclass(frozen=True, eq=False, kw_only=True)
class Listing:
    """All that was found at an address, in a fixed order."""

    where: str  # the address, for messages
    reader: Reader
    ids: Names
    sizes: NDArray[np.int64]  # bytes, -1: not known
    label: NDArray[np.int64] | None = None  # index into names, -1: this one has none; None: there are no labels
    names: tuple[str, ...] = ()  # classes as found
    ordered: bool = False  # the order of `names` is the data set's own; else classes are sorted
    split: NDArray[np.int8] | None = None  # index into splits, -1: outside of all parts
    splits: tuple[str, ...] = ()  # names of the parts as found: "train", "valid", ...
    targets: Mapping[str, Column] = field(default_factory=dict)
    chunks: NDArray[np.int64] | None = None
    seal: str = ""  # see Source
    notes: list[str] = field(default_factory=list)


class Places(NamedTuple):
    """What the paths of files say: fields as in `Listing`."""

    label: NDArray[np.int64]
    names: tuple[str, ...]
    split: NDArray[np.int8] | None
    splits: tuple[str, ...]


def by_path(ids: Sequence[str]) -> Places:
    """Classes and parts from cat/1.jpg or train/cat/1.jpg; a folder that holds everything is looked through."""
    known = set(TRAIN + VALIDATION)
    depth = _shared_depth(ids)
    firsts, nested = set(), set()
    for folders in _folders(ids, depth):
        firsts.add(folders[0] if folders else "")
        if len(folders) > 1 and folders[0].lower() in known:
            nested.add(folders[0])
    parts = sorted(nested) if parts_in(nested, TRAIN) or (nested and firsts <= nested) else []
    number = {name: i for i, name in enumerate(parts)}
    split = None
    if parts:
        split = np.fromiter((number.get(f[0], -1) if f else -1 for f in _folders(ids, depth)), np.int8, len(ids))
    at = 1 if parts else 0
    found: dict[str, int] = {}  # class -> number, in the order of appearance
    label = np.full(len(ids), -1, dtype=np.int64)
    for i, folders in enumerate(_folders(ids, depth)):
        if len(folders) > at and (not parts or folders[0] in number):
            label[i] = found.setdefault(folders[at], len(found))
    names = sorted(found)
    order = {name: i for i, name in enumerate(names)}
    place = np.array([*(order[name] for name in found), -1], dtype=np.int64)  # the last is for -1
    return Places(place[label], tuple(names), split, tuple(parts))


def _folders(ids: Sequence[str], depth: int) -> Iterator[list[str]]:
    """The folders of each below the shared ones; read anew each time, because a million lists are much memory."""
    return (name.split("/")[depth:-1] for name in ids)


def _shared_depth(ids: Sequence[str]) -> int:
    """How many folders hold everything and are no part; there is always one left below them."""
    first = next(_folders(ids, 0), [])
    shared = next((i for i, name in enumerate(first) if name.lower() in TRAIN + VALIDATION), len(first))
    for folders in _folders(ids, 0):
        shared = min(shared, len(folders) - 1)
        while shared > 0 and folders[:shared] != first[:shared]:
            shared -= 1
        if shared <= 0:
            return 0
    return shared


def settle(listing: Listing, cfg: DataConfig) -> Splits:
    """Train by its name or all there is; validation by its name or a share of train. Classes are those of train."""
    where, label = listing.where, _labels(listing)
    train_part = part_of(listing, TRAIN)
    val_part = part_of(listing, VALIDATION)
    notes = list(listing.notes)
    if listing.splits and train_part is None:
        raise BadInput(f"{where} has {', '.join(listing.splits)} but no train part; name one of them train")
    chosen = np.ones(len(label), dtype=bool) if train_part is None else inside(listing, train_part)
    counts = np.bincount(label[chosen & (label >= 0)], minlength=len(listing.names))
    present = [name for name, n in zip(listing.names, counts, strict=True) if n or listing.ordered]
    classes = tuple(present) if listing.ordered else in_order(present)[0]
    if len(classes) < 2:
        raise BadInput(f"{where} has one class only ({', '.join(classes) or 'none'}); {_why(listing)}")
    train = _take(listing, np.flatnonzero(chosen & (label >= 0)), label, classes)
    if not len(train):
        raise BadInput(f"{where} has no labelled pictures to train on; {_why(listing)}")
    empty = [name for name, n in zip(listing.names, counts, strict=True) if not n and name in classes]
    notes += [f"class {name!r} has no pictures" for name in empty]
    if (bare := int((chosen & (label < 0)).sum())) > 0:
        notes.append(f"{bare:,} pictures without a label left out")
    notes += unused(listing, {train_part, val_part if cfg.validation is None else None})
    if cfg.validation is not None:
        return Splits(train, None, classes, notes)  # the caller opens the other address
    if val_part is None:
        return held_out(train, cfg.val_share, cfg.seed, notes)
    val, said = _known(listing, np.flatnonzero(inside(listing, val_part)), label, classes, val_part)
    return Splits(train, val, classes, notes + said)


def settle_all(listing: Listing, cfg: DataConfig) -> Splits:
    """For learning without labels: all of train, or all there is, with a label or without."""
    if not len(listing.ids):
        raise BadInput(f"{listing.where} holds no pictures; {_why(listing)}")
    train_part, val_part = part_of(listing, TRAIN), part_of(listing, VALIDATION)
    names = listing.names if listing.ordered else in_order(listing.names)[0]
    classes = names if len(names) > 1 else ()
    nobody = np.full(len(listing.ids), -1, dtype=np.int64)
    label = nobody if listing.label is None or not classes else listing.label

    def of(chosen: NDArray[np.bool_]) -> Source:
        found = _take(listing, np.flatnonzero(chosen), label, names)
        return found if classes else replace(found, labels=None, classes=())

    everything = np.ones(len(listing.ids), dtype=bool)
    chosen = everything if train_part is None else inside(listing, train_part)
    notes = [
        *listing.notes,
        *unused(listing, {train_part, val_part} if train_part is not None else set(listing.splits)),
    ]
    train = of(chosen)
    if not len(train):
        raise BadInput(f"{listing.where} has no pictures to train on; {_why(listing)}")
    if train_part is not None and val_part is not None:
        return Splits(train, of(inside(listing, val_part)), classes, notes)
    return apart(train, cfg.val_share, cfg.seed, notes)


def settle_known(listing: Listing, classes: Sequence[str]) -> Opened:
    """For a network with these classes: the validation part where there is one, else all; labels by name."""
    label, part = _labels(listing), part_of(listing, VALIDATION)
    chosen = np.ones(len(label), dtype=bool) if part is None else inside(listing, part)
    told = [f"evaluating on the {part} part of {listing.where}"] if part is not None else []
    source, notes = _known(listing, np.flatnonzero(chosen), label, tuple(classes), part or listing.where)
    return Opened(source, [*told, *listing.notes, *notes])


def as_it_lies(listing: Listing) -> tuple[dict[str, Source], tuple[str, ...], list[str]]:
    """Every part by its name ("all" where there is none), with the classes of all; nothing is refused."""
    names = listing.names if listing.ordered else in_order(listing.names)[0]
    label = listing.label if listing.label is not None else np.full(len(listing.ids), -1, dtype=np.int64)
    parts = {"all": np.arange(len(label))}
    if listing.split is not None:
        parts = {name: np.flatnonzero(listing.split == i) for i, name in enumerate(listing.splits)}
        if (listing.split < 0).any():
            parts["outside"] = np.flatnonzero(listing.split < 0)
    bare = int((label < 0).sum()) if listing.label is not None else 0
    notes = [f"{bare:,} pictures have no label"] if bare else []
    known = {name: _take(listing, rows, label, names) for name, rows in parts.items()}
    return known, names, [*listing.notes, *notes]


def _labels(listing: Listing) -> NDArray[np.int64]:
    if not len(listing.ids):
        raise BadInput(f"{listing.where} holds no pictures; {_why(listing)}")
    if listing.label is None or (listing.label < 0).all():
        raise BadInput(f"{listing.where} has pictures but no classes; {_why(listing)}")
    return listing.label


def _why(listing: Listing) -> str:
    """What was found on the way often says what is wrong."""
    return "; ".join([*listing.notes, LAYOUT])


def part_of(listing: Listing, known: tuple[str, ...]) -> str | None:
    return next(iter(parts_in(listing.splits, known)), None)


def inside(listing: Listing, part: str) -> NDArray[np.bool_]:
    assert listing.split is not None
    return np.asarray(listing.split == listing.splits.index(part))


def unused(listing: Listing, used: set[str | None]) -> list[str]:
    if listing.split is None:
        return []
    left = [(name, int(inside(listing, name).sum())) for name in listing.splits if name not in used]
    left += [("outside of all parts", int((listing.split < 0).sum()))]
    return [f"{n:,} pictures not used: {name}" for name, n in left if n]


def _known(
    listing: Listing, rows: NDArray[np.int64], label: NDArray[np.int64], classes: tuple[str, ...], part: str
) -> Opened:
    """Labels by name from given classes: a missing one is said, an unknown one is an error."""
    counts = np.bincount(label[rows][label[rows] >= 0], minlength=len(listing.names))
    for name, n in zip(listing.names, counts, strict=True):
        if n and name not in classes:
            known = f"the {len(classes)} classes are {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
            raise BadInput(f"{part} has {n:,} pictures of an unknown class {name!r}; rename or remove it ({known})")
    kept = rows[label[rows] >= 0]
    if not len(kept):
        raise BadInput(f"{part} has no labelled pictures; {LAYOUT}")
    present = {name for name, n in zip(listing.names, counts, strict=True) if n}
    notes = [f"{part}: class {name!r} is missing" for name in classes if name not in present]
    if len(kept) < len(rows):
        notes.append(f"{part}: {len(rows) - len(kept):,} pictures without a label left out")
    return Opened(_take(listing, kept, label, classes), notes)


def _take(listing: Listing, rows: NDArray[np.int64], label: NDArray[np.int64], classes: tuple[str, ...]) -> Source:
    """These rows as a source; label numbers become positions in `classes`."""
    index = {name: i for i, name in enumerate(classes)}
    where = np.array([*(index.get(name, -1) for name in listing.names), -1], dtype=np.int64)  # the last is for -1
    whole = Source(
        reader=listing.reader,
        ids=listing.ids,
        sizes=listing.sizes,
        rows=np.arange(len(listing.ids), dtype=np.int64),
        labels=where[label],
        classes=classes,
        targets=listing.targets,
        chunks=listing.chunks,
        seal=listing.seal,
    )
    return whole.take(rows)
