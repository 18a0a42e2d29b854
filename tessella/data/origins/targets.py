"""Typed targets: boxes, captions, numbers, classes, tags, several labels, masks, each packed into a few arrays.

A column holds one value for every sample. Like `Names`, it is a handful of objects however many samples there are, and
`take` shares what it holds, so workers that are forked share it too. Two columns with equal values have one digest,
however they came to be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..names import Names
from ..source import Reader, Rows

BLOCK = 65_536  # samples hashed at a time


class Boxes(NamedTuple):
    """The objects of one picture; it may have none."""

    corners: NDArray[np.float32]  # (n, 4): left, top, right, bottom in pixels of the upright picture
    classes: NDArray[np.int64]  # (n,)
    crowd: NDArray[np.bool_]  # (n,): a region of many objects, not one of them

    @classmethod
    def of(cls, corners: Any = (), classes: Any = (), crowd: Any = None) -> Boxes:
        """From lists or arrays; `crowd` is False everywhere unless given."""
        at = np.asarray(corners, dtype=np.float32).reshape(-1, 4)
        flags = np.zeros(len(at), dtype=np.bool_) if crowd is None else np.asarray(crowd, dtype=np.bool_)
        boxes = cls(at, np.asarray(classes, dtype=np.int64).reshape(-1), flags.reshape(-1))
        if not len(boxes.corners) == len(boxes.classes) == len(boxes.crowd):
            raise ValueError(f"{len(at)} boxes, {len(boxes.classes)} classes, {len(boxes.crowd)} crowd flags")
        return boxes


class Spans(NamedTuple):
    """Which piece of a packed array belongs to each sample."""

    starts: Rows
    ends: Rows

    @classmethod
    def of(cls, lengths: Iterable[int]) -> Spans:
        counts = np.fromiter(lengths, dtype=np.int64)
        ends = np.cumsum(counts, dtype=np.int64)
        return cls(ends - counts, ends)

    def take(self, rows: Rows) -> Spans:
        return Spans(self.starts[rows], self.ends[rows])

    def of_sample(self, i: int) -> slice:
        return slice(int(self.starts[i]), int(self.ends[i]))

    def flat(self) -> Rows:
        """Where the pieces of all samples lie in the packed array, sample by sample."""
        lengths = self.ends - self.starts
        before = np.cumsum(lengths) - lengths
        flat: Rows = np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(self.starts - before, lengths)
        return flat

    def feed(self, hasher: hashlib._Hash, *packed: NDArray[Any]) -> None:
        """Lengths and values of every sample in order, wherever they lie."""
        for block in range(0, len(self.starts), BLOCK):
            part = Spans(self.starts[block : block + BLOCK], self.ends[block : block + BLOCK])
            _feed(hasher, part.ends - part.starts)
            flat = part.flat()
            for values in packed:
                _feed(hasher, values[flat])


def _feed(hasher: hashlib._Hash, values: NDArray[Any]) -> None:
    hasher.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes())


def _hasher(what: str, names: Sequence[str] = ()) -> hashlib._Hash:
    return hashlib.sha256("\0".join([what, *names, ""]).encode("utf-8", "surrogateescape"))


def digest_of(what: str, names: Sequence[str], values: NDArray[Any]) -> bytes:
    hasher = _hasher(what, names)
    _feed(hasher, values)
    return hasher.digest()


@dataclass(frozen=True, eq=False)
class BoxColumn:
    """The boxes of every sample, and the names of their classes in the order of the numbers."""

    boxes: Boxes  # of all samples, one after another
    spans: Spans
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, boxes: Iterable[Boxes], names: Sequence[str] = ()) -> BoxColumn:
        each = list(boxes)
        packed = (np.concatenate(parts) for parts in zip(Boxes.of(), *each, strict=True))  # an empty one: right dtypes
        return cls(Boxes.of(*packed), Spans.of(len(b.classes) for b in each), tuple(names))

    def __len__(self) -> int:
        return len(self.spans.starts)

    def __getitem__(self, i: int) -> Boxes:
        at, (corners, classes, crowd) = self.spans.of_sample(i), self.boxes
        return Boxes(corners[at].copy(), classes[at].copy(), crowd[at].copy())  # geometry may work in place

    def take(self, rows: Rows) -> BoxColumn:
        return BoxColumn(self.boxes, self.spans.take(rows), self.names)

    def digest(self) -> bytes:
        hasher = _hasher("boxes", self.names)
        self.spans.feed(hasher, *self.boxes)
        return hasher.digest()


@dataclass(frozen=True, eq=False)
class CaptionColumn:
    """The captions of every sample: most often one, none where nothing was written, five in COCO."""

    texts: Names  # of all samples, one after another
    spans: Spans

    @classmethod
    def of(cls, captions: Iterable[str | Sequence[str]]) -> CaptionColumn:
        """One text or several for each sample; an empty text is none."""
        lengths: list[int] = []

        def texts() -> Iterable[str]:
            for value in captions:
                kept = [text for text in ([value] if isinstance(value, str) else value) if text]
                lengths.append(len(kept))
                yield from kept

        return cls(Names.of(texts()), Spans.of(lengths))

    def __len__(self) -> int:
        return len(self.spans.starts)

    def __getitem__(self, i: int) -> tuple[str, ...]:
        return tuple(self.texts[self.spans.of_sample(i)])

    def take(self, rows: Rows) -> CaptionColumn:
        return CaptionColumn(self.texts, self.spans.take(rows))

    def digest(self) -> bytes:
        hasher = _hasher("captions")
        for block in range(0, len(self), BLOCK):
            part = Spans(self.spans.starts[block : block + BLOCK], self.spans.ends[block : block + BLOCK])
            _feed(hasher, part.ends - part.starts)
            for text in self.texts.take(part.flat()):
                piece = text.encode("utf-8", "surrogateescape")
                hasher.update(
                    len(piece).to_bytes(8, "little") + piece
                )  # a text may hold any byte: no separator is safe
        return hasher.digest()


@dataclass(frozen=True, eq=False)
class NumberColumn:
    """A number to predict for every sample; NaN: it has none."""

    numbers: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> float:
        return float(self.numbers[i])

    def take(self, rows: Rows) -> NumberColumn:
        return NumberColumn(self.numbers[rows])

    def digest(self) -> bytes:
        hasher = _hasher("numbers")
        _feed(hasher, np.where(np.isnan(self.numbers), np.nan, self.numbers))  # one NaN, of the many that there are
        return hasher.digest()


@dataclass(frozen=True, eq=False)
class LabelsColumn:
    """Any number of classes for every sample, by number; `names` in the order of the numbers."""

    numbers: NDArray[np.int64]  # of all samples, one after another
    spans: Spans
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, labels: Iterable[Sequence[int]], names: Sequence[str] = ()) -> LabelsColumn:
        each = [np.asarray(value, dtype=np.int64).reshape(-1) for value in labels]
        packed = np.concatenate([np.empty(0, dtype=np.int64), *each])
        return cls(packed, Spans.of(len(value) for value in each), tuple(names))

    def __len__(self) -> int:
        return len(self.spans.starts)

    def __getitem__(self, i: int) -> NDArray[np.int64]:
        return self.numbers[self.spans.of_sample(i)].copy()

    def take(self, rows: Rows) -> LabelsColumn:
        return LabelsColumn(self.numbers, self.spans.take(rows), self.names)

    def digest(self) -> bytes:
        hasher = _hasher("labels", self.names)
        self.spans.feed(hasher, self.numbers)
        return hasher.digest()


@dataclass(frozen=True, eq=False)
class ClassColumn:
    """A class for every sample, by number; -1: unknown."""

    numbers: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> int:
        return int(self.numbers[i])

    def take(self, rows: Rows) -> ClassColumn:
        return ClassColumn(self.numbers[rows], self.names)

    def digest(self) -> bytes:
        return digest_of("class", self.names, self.numbers)


@dataclass(frozen=True, eq=False)
class TagsColumn:
    """For every sample which of all tags it has; one that is unknown is NaN for each of them.

    Few different sets of tags, most often, for many samples: each set is held once.
    """

    numbers: NDArray[np.int64]  # of the tags of all sets, one set after another
    spans: Spans  # of the sets
    sets: NDArray[np.int64]  # which of them each sample has, -1: unknown
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        """(K,)"""
        if self.sets[i] < 0:
            return np.full(len(self.names), np.nan, dtype=np.float32)
        there = np.zeros(len(self.names), dtype=np.float32)
        there[self.numbers[self.spans.of_sample(int(self.sets[i]))]] = 1
        return there

    def take(self, rows: Rows) -> TagsColumn:
        return TagsColumn(self.numbers, self.spans, self.sets[rows], self.names)

    def digest(self) -> bytes:
        hasher = _hasher("tags", self.names)
        _feed(hasher, self.sets >= 0)
        self.spans.take(self.sets[self.sets >= 0]).feed(hasher, self.numbers)
        return hasher.digest()


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskColumn:
    """The mask of every sample as an encoded picture (PNG, most often) whose pixels are numbers of classes.

    What counts as another value is another name or another number of bytes: no mask is read for a digest.
    """

    reader: Reader
    rows: Rows  # where the reader has each mask, -1: this sample has none
    ids: Names  # of the masks
    sizes: NDArray[np.int64]  # bytes of each, -1: not known
    names: tuple[str, ...] = ()  # of the classes
    void: int | None = 255  # value of pixels that count for nothing; None: every value is a class

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> bytes:
        """Encoded, as it lies there; empty where the sample has no mask."""
        row = int(self.rows[i])
        return self.reader.read(row) if row >= 0 else b""

    def take(self, rows: Rows) -> MaskColumn:
        return MaskColumn(
            reader=self.reader,
            rows=self.rows[rows],
            ids=self.ids.take(rows),
            sizes=self.sizes[rows],
            names=self.names,
            void=self.void,
        )

    def digest(self) -> bytes:
        hasher = _hasher("masks", [*self.names, str(self.void)])
        _feed(hasher, self.rows >= 0)
        _feed(hasher, self.sizes)
        self.ids.feed(hasher)
        return hasher.digest()
