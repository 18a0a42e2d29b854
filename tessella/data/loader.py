"""Batches in an order that is a pure function of (seed, step): restarts, workers and ranks all see the same samples.

The stream of training is endless: position p is sample `permutation(seed, p // n)[p % n]`. Step s is the positions
[s * batch, (s + 1) * batch), of which rank r takes the r-th contiguous slice.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from ..card import Preprocess
from ..errors import BadInput
from .augment import AugmentConfig, augment
from .decode import decode
from .seeded import generator
from .source import Source
from .transforms import prepare

Batch = dict[str, Any]
Stream = Generator[Batch, None, None]  # an iterator whose close() ends the workers
Key = tuple[int, int]  # (epoch, index of the sample)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a stream of batches is cut and fed."""

    batch: int  # samples of one whole step, over all ranks
    seed: int = 0  # of the order
    workers: int | None = None  # processes; None: default_workers(); 0: in the main process
    prefetch: int = 2  # batches that each worker keeps ready
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise BadInput(f"rank is {self.rank} of {self.ranks}; give 0 <= rank < ranks")
        if self.batch < self.ranks:
            raise BadInput(f"batch is {self.batch} for {self.ranks} ranks; each rank needs a sample per step")
        if self.prefetch < 1:
            raise BadInput(f"prefetch is {self.prefetch}; give 1 or more")
        if self.workers is not None and self.workers < 0:
            raise BadInput(f"workers is {self.workers}; give 0 or more")


class Samples(Protocol):
    """A dataset as the loader sees it: a sample depends on nothing but (epoch, index)."""

    def __len__(self) -> int: ...
    def sample(self, epoch: int, index: int) -> dict[str, Any]: ...
    def collate(self, samples: Sequence[dict[str, Any]]) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """A source's pictures, decoded and brought to the card's size; with `augment` a new random view in every epoch."""

    source: Source
    preprocess: Preprocess
    augment: AugmentConfig | None = None  # None: exactly what evaluation sees
    seed: int = 0  # of the augmentation

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        name = self.source.ids[index]
        data = self.source.read(index)
        if self.augment is None:
            pixels = prepare(data, self.preprocess, name)
        else:
            image = decode(data, self.preprocess.channels, name)
            pixels = augment(image, self.augment, self.preprocess, generator(self.seed, epoch, name))
        label = {} if self.source.labels is None else {"label": int(self.source.labels[index])}
        return {"ids": name, "image": pixels, **label}

    def collate(self, samples: Sequence[dict[str, Any]]) -> Batch:
        shape = (0, self.preprocess.channels, *self.preprocess.size)
        images: list[Tensor] = [s["image"] for s in samples]
        batch: Batch = {"ids": [s["ids"] for s in samples]}
        batch["image"] = torch.stack(images) if images else torch.empty(shape, dtype=torch.uint8)
        if self.source.labels is not None:
            batch["label"] = torch.tensor([s["label"] for s in samples], dtype=torch.int64)
        return batch


def default_workers(ranks: int = 1) -> int:
    """Half of the cores that this process may use, shared by the ranks of this machine; the other half computes."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return max(1, min(8, cores // 2 // max(1, here)))


class Order:
    """Which sample stands at which position of the endless stream."""

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise BadInput("there are no samples to train on; give a folder with pictures")
        self.n = n
        self.seed = seed
        self._known: dict[int, NDArray[np.int64]] = {}  # the last permutations: a batch may span epochs

    def at(self, position: int) -> Key:
        epoch, offset = divmod(position, self.n)
        if epoch not in self._known:
            if len(self._known) >= 2:  # never more than two: a million samples are 8 MB each
                del self._known[min(self._known)]
            self._known[epoch] = generator(self.seed, "order", epoch).permutation(self.n)
        return epoch, int(self._known[epoch][offset])


def share(total: int, rank: int, ranks: int) -> range:
    """Rank's contiguous slice of range(total); slices differ by one at most."""
    return range(rank * total // ranks, (rank + 1) * total // ranks)


class Loader:
    """`batches(start_step)` yields this rank's share of each whole step, forever."""

    def __init__(self, dataset: Samples, cfg: LoaderConfig) -> None:
        self.dataset = dataset
        self.cfg = cfg
        self.workers = default_workers(cfg.ranks) if cfg.workers is None else cfg.workers

    def keys(self, start_step: int) -> Iterator[list[Key]]:
        """What each step of this rank holds, from `start_step` on: no state, so any step can be the first."""
        order = Order(len(self.dataset), self.cfg.seed)
        mine = share(self.cfg.batch, self.cfg.rank, self.cfg.ranks)
        step = start_step
        while True:
            yield [order.at(step * self.cfg.batch + j) for j in mine]
            step += 1

    def batches(self, start_step: int = 0) -> Stream:
        return _feed(self.dataset, lambda: self.keys(start_step), self.workers, self.cfg.prefetch)


def once(dataset: Samples, batch: int, workers: int | None = None, rank: int = 0, ranks: int = 1) -> Stream:
    """One evaluation pass: rank r reads the r-th contiguous slice, in order; over all ranks each sample exactly once.

    `batch` is per rank. Every rank yields the same number of batches, because sharded networks exchange weights in each
    forward; a batch is empty only where there are fewer samples than that.
    """
    if batch < 1 or not 0 <= rank < ranks:
        raise BadInput(f"batch is {batch}, rank {rank} of {ranks}; give batch >= 1 and 0 <= rank < ranks")
    mine = share(len(dataset), rank, ranks)
    largest = -(-len(dataset) // ranks)
    rounds = -(-largest // batch)
    cuts = [share(len(mine), k, rounds) for k in range(rounds)]
    keys = [[(0, mine[i]) for i in cut] for cut in cuts]
    count = default_workers(ranks) if workers is None else workers
    return _feed(dataset, lambda: iter(keys), min(count, len(keys)), 2)


# ---------------------------------------------------------------- processes


@dataclass(frozen=True)
class _Failed:
    """A BadInput on its way out of a worker: torch would bury its one line in two tracebacks."""

    text: str


@dataclass(frozen=True, eq=False)
class _Fetched:
    """What torch indexes: a whole batch of keys at once, so that an error can be a value."""

    dataset: Samples

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, keys: list[Key]) -> Batch | _Failed:
        try:
            return self.dataset.collate([self.dataset.sample(epoch, index) for epoch, index in keys])
        except BadInput as error:
            return _Failed(str(error))


@dataclass(frozen=True, eq=False)
class _Keys:
    """A sampler that starts afresh whenever torch iterates it."""

    make: Callable[[], Iterator[list[Key]]]

    def __iter__(self) -> Iterator[list[Key]]:
        return self.make()


_LIVE: weakref.WeakSet[Stream] = weakref.WeakSet()  # streams whose workers may still run


@atexit.register
def _close_streams() -> None:
    """Else Python kills the workers of a stream that nobody closed, and torch reports that as a failure."""
    for stream in list(_LIVE):
        stream.close()


def _feed(dataset: Samples, keys: Callable[[], Iterator[list[Key]]], workers: int, prefetch: int) -> Stream:
    stream = _stream(dataset, keys, workers, prefetch)
    _LIVE.add(stream)
    return stream


def _stream(dataset: Samples, keys: Callable[[], Iterator[list[Key]]], workers: int, prefetch: int) -> Stream:
    fork = "fork" if workers and sys.platform == "linux" else None  # the source's names are then shared, not copied
    feeder: DataLoader[Any] = DataLoader(
        _Fetched(dataset),  # type: ignore[arg-type]  # torch asks for its Dataset class but uses __getitem__ only
        sampler=_Keys(keys),
        batch_size=None,  # each "sample" is a whole batch already
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        multiprocessing_context=fork,
        worker_init_fn=_start_worker if workers else None,
        collate_fn=_as_is,
        generator=torch.Generator(),  # else torch draws a seed from the global generator, and the run's draws shift
    )
    batches = iter(feeder)
    try:
        for batch in batches:
            if isinstance(batch, _Failed):
                raise BadInput(batch.text)
            yield batch
    finally:
        del batches  # ends the workers now, not when the garbage collector comes by


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Signals to the whole group are for the main process: it finishes its step, and needs the batches for that.

    A second SIGTERM is obeyed, because that is how Python ends what is left over when it exits.
    """
    torch.set_num_threads(1)
    if sys.platform == "win32":
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _first_terminate)


def _first_terminate(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
