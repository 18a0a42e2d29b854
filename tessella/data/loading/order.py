"""Which sample stands at which position of the endless stream: a pure function of (seed, position).

The stream of training is endless: position p lies in epoch p // length, and any position is found without walking to
it. So a run can start anywhere, and workers and ranks need not agree on anything but the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from .seeded import generator

Numbers = NDArray[Any]  # int32 where that is wide enough, else int64
K = TypeVar("K")
V = TypeVar("V")


class Key(NamedTuple):
    """What stands at a position."""

    epoch: int
    sample: int  # its index
    turn: int = 0  # the how-manieth time in this epoch: each has draws of its own


class Rows(NamedTuple):
    """A stretch of one epoch."""

    samples: Numbers
    turns: Numbers


class Epochs(Protocol):
    """How the samples are laid out in each epoch."""

    length: int  # positions of an epoch, always the same

    def rows(self, epoch: int, start: int, stop: int) -> Rows: ...


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """How samples are laid out in an epoch."""

    seed: int = 0
    balance: Literal["none", "classes", "root"] = "none"  # classes as often as each other, or by the root of their size
    repeats: int = 1  # times that a sample comes within a few positions, each time with other draws
    window: int = 16  # chunks (shards, row groups) whose samples are mixed with each other, and read at one time

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.window < 1:
            raise BadInput(f"repeats is {self.repeats}, window {self.window}; give 1 or more")


class Order:
    """Positions to keys."""

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs
        self.length = epochs.length

    def at(self, position: int) -> Key:
        return self.keys(position, position + 1)[0]

    def keys(self, start: int, stop: int) -> list[Key]:
        """What stands at the positions [start, stop)."""
        out: list[Key] = []
        while start < stop:
            epoch, offset = divmod(start, self.length)
            end = min(self.length, offset + stop - start)
            rows = self.epochs.rows(epoch, offset, end)
            out += [Key(epoch, i, t) for i, t in zip(rows.samples.tolist(), rows.turns.tolist(), strict=True)]
            start += end - offset
        return out


def make_order(
    n: int, cfg: OrderConfig, labels: NDArray[np.int64] | None = None, chunks: NDArray[np.int64] | None = None
) -> Order:
    """Balanced sampling draws from all over the data: chunks are then not kept together."""
    if n < 1:
        raise BadInput("there are no samples to train on; give a folder with pictures")
    epochs: Epochs
    if cfg.balance != "none":
        if labels is None:
            raise BadInput(f"balance is {cfg.balance!r}, but the pictures have no class labels; leave balance out")
        epochs = Balanced(labels, cfg.balance, cfg.seed)
    else:
        epochs = Shuffled(n, cfg.seed) if chunks is None else Chunked(chunks, cfg.seed, cfg.window)
    return Order(epochs if cfg.repeats == 1 else Repeated(epochs, cfg.repeats))


# ---------------------------------------------------------------- layouts


class Shuffled:
    """A permutation of all samples in every epoch."""

    def __init__(self, n: int, seed: int) -> None:
        self.length = n
        self.seed = seed
        self._known = _Recent(self._epoch)

    def rows(self, epoch: int, start: int, stop: int) -> Rows:
        return _first(self._known.get(epoch)[start:stop])

    def _epoch(self, epoch: int) -> Numbers:
        return _permuted(_counting(self.length), self.seed, "order", epoch)


class Chunked:
    """Chunks in a new order, in windows of `window` chunks; the samples of a window shuffled with each other.

    Only the window that is asked for is laid out: memory follows its size, not that of the data.
    """

    def __init__(self, chunks: NDArray[np.int64], seed: int, window: int) -> None:
        self.length = len(chunks)
        self.seed, self.window = seed, window
        self._members = np.argsort(chunks, kind="stable").astype(_small(self.length))
        cuts = np.flatnonzero(np.diff(chunks[self._members])) + 1
        self._starts = np.concatenate([[0], cuts, [self.length]])
        self._plans = _Recent(self._plan)
        self._windows = _Recent(self._window)

    def rows(self, epoch: int, start: int, stop: int) -> Rows:
        _, ends = self._plans.get(epoch)
        parts = []
        while start < stop:
            number = int(np.searchsorted(ends, start, side="right"))
            first = int(ends[number - 1]) if number else 0
            parts.append(self._windows.get((epoch, number))[start - first : stop - first])
            start = min(stop, int(ends[number]))
        return _first(np.concatenate(parts) if parts else self._members[:0])

    def _plan(self, epoch: int) -> tuple[Numbers, Numbers]:
        """(chunks in this epoch's order, where each window ends)"""
        order = _permuted(_counting(len(self._starts) - 1), self.seed, "chunks", epoch)
        sizes = np.diff(self._starts)[order]
        ends = np.cumsum(np.add.reduceat(sizes, np.arange(0, len(sizes), self.window)))
        return order, ends

    def _window(self, which: tuple[int, int]) -> Numbers:
        epoch, number = which
        order, _ = self._plans.get(epoch)
        chunks = order[number * self.window : (number + 1) * self.window]
        members = np.concatenate([self._members[self._starts[c] : self._starts[c + 1]] for c in chunks])
        return _permuted(members, self.seed, "window", epoch, number)


class Balanced:
    """As many positions as there are samples, shared out by class; a class that has more than its samples starts again.

    Of a class with fewer positions than samples, each epoch draws others.
    """

    def __init__(self, labels: NDArray[np.int64], how: Literal["classes", "root"], seed: int) -> None:
        self.length, self.seed = len(labels), seed
        _, self._labels, self._counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(self._counts) < 1 << 15:
            self._labels = self._labels.astype(np.int16)  # which numpy sorts eight times as fast
        weights = np.ones(len(self._counts)) if how == "classes" else np.sqrt(self._counts)
        self.quota = _shared_out(self.length, weights)  # positions of each class
        self._known = _Recent(self._epoch)

    def rows(self, epoch: int, start: int, stop: int) -> Rows:
        known = self._known.get(epoch)
        return Rows(known.samples[start:stop], known.turns[start:stop])

    def _epoch(self, epoch: int) -> Rows:
        mixed = _permuted(_counting(self.length), self.seed, "balance", epoch)
        members = mixed[np.argsort(self._labels[mixed], kind="stable")]  # class by class, shuffled within each
        first, counts = np.cumsum(self._counts) - self._counts, self._counts
        place = np.arange(self.length) - np.repeat(np.cumsum(self.quota) - self.quota, self.quota)
        index = members[np.repeat(first, self.quota) + place % np.repeat(counts, self.quota)]
        turn = (place // np.repeat(counts, self.quota)).astype(np.int32)
        where = _permuted(_counting(self.length), self.seed, "order", epoch)
        return Rows(index[where], turn[where])


class Repeated:
    """Each sample `repeats` times, two samples in alternation: a b a b a b.

    Neighbours are what mixing pairs: a picture mixed with itself would be no mixture.
    """

    def __init__(self, epochs: Epochs, repeats: int) -> None:
        self.epochs, self.repeats = epochs, repeats
        self.length = epochs.length * repeats

    def rows(self, epoch: int, start: int, stop: int) -> Rows:
        r = self.repeats
        offset = np.arange(start, stop)
        block, within = np.divmod(offset, 2 * r)
        sample, turn = 2 * block + within % 2, within // 2
        alone = offset >= (self.epochs.length // 2) * 2 * r  # the last of an odd number has nobody to alternate with
        sample, turn = np.where(alone, 2 * block, sample), np.where(alone, within, turn)
        if not len(sample):
            return self.epochs.rows(epoch, 0, 0)
        low = int(sample.min())
        rows = self.epochs.rows(epoch, low, int(sample.max()) + 1)
        return Rows(rows.samples[sample - low], rows.turns[sample - low] * r + turn)


# ---------------------------------------------------------------- parts


class _Recent(Generic[K, V]):
    """The two results made last: a batch may span two epochs, and a million samples are 4 MB each."""

    def __init__(self, make: Callable[[K], V]) -> None:
        self.make = make
        self.kept: dict[K, V] = {}

    def get(self, key: K) -> V:
        if key not in self.kept:
            if len(self.kept) >= 2:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = self.make(key)
        return self.kept[key]


def _small(n: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if n <= np.iinfo(np.int32).max else np.int64


def _counting(n: int) -> Numbers:
    return np.arange(n, dtype=_small(n))


def _permuted(values: Numbers, *key: int | str) -> Numbers:
    """The same permutation for every width of integer: it is drawn by position."""
    out: Numbers = generator(*key).permutation(values)
    return out


def _first(index: Numbers) -> Rows:
    return Rows(index, np.zeros(len(index), dtype=np.int32))


def _shared_out(total: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers in proportion to `weights` that add up to `total`: what is left goes to the largest remainders."""
    exact = total * weights / weights.sum()
    parts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    for i in np.argsort(parts - exact, kind="stable")[: total - int(parts.sum())]:
        parts[i] += 1
    return parts
