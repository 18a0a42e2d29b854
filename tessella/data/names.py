"""A long list of names as one piece of memory: a million paths cost what their letters cost, and forks share them.

A list of str would be a million objects, whose reference counts every worker touches, and so copies page by page.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

BLOCK = 65_536  # names hashed at a time


class Names(Sequence[str]):
    """Immutable; bytes that are no UTF-8 survive as surrogates, as in `os.fsdecode`."""

    __slots__ = ("_blob", "_ends", "_starts")

    def __init__(self, blob: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._blob, self._starts, self._ends = blob, starts, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        if isinstance(names, Names):
            return names
        blob, lengths = bytearray(), []
        for name in names:
            piece = name.encode("utf-8", "surrogateescape")
            blob += piece
            lengths.append(len(piece))
        ends = np.cumsum(np.array(lengths, dtype=np.int64))
        return cls(bytes(blob), ends - np.array(lengths, dtype=np.int64), ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Names: ...
    def __getitem__(self, i: int | slice) -> str | Names:
        if isinstance(i, slice):
            return Names(self._blob, self._starts[i], self._ends[i])
        return self._blob[self._starts[i] : self._ends[i]].decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        for block in range(0, len(self), BLOCK):  # plain ints are several times as fast as numpy's
            starts, ends = self._starts[block : block + BLOCK].tolist(), self._ends[block : block + BLOCK].tolist()
            for start, end in zip(starts, ends, strict=True):
                yield self._blob[start:end].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to lists, and lists have none

    def __repr__(self) -> str:
        return f"Names({list(self[:3])}{'...' if len(self) > 3 else ''}, {len(self):,} of them)"

    def take(self, rows: NDArray[np.int64]) -> Names:
        """The names of these rows, in that order; the letters are shared."""
        return Names(self._blob, self._starts[rows], self._ends[rows])

    def feed(self, hasher: hashlib._Hash) -> None:
        """All names with a zero byte between them."""
        for block in range(0, len(self), BLOCK):
            text = "\0".join(self[block : block + BLOCK])
            hasher.update(("\0" * bool(block) + text).encode("utf-8", "surrogateescape"))


def sided(names: Iterable[str]) -> str | None:
    """The first name with the word left or right in it: of a mirrored picture it is not true any more."""
    for name in names:
        words = re.findall("[A-Z]?[a-z]+|[A-Z]+", name)
        if any(word.lower() in ("left", "right") for word in words):
            return name
    return None


def in_order(names: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Sorted; by value, and True, where all are whole numbers: 10 comes after 9."""
    each = sorted(names)
    if each and all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in each):
        return tuple(sorted(each, key=lambda name: (int(name), name))), True
    return tuple(each), False
