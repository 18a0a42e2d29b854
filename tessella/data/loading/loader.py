"""Batches in an order that is a pure function of (seed, step): restarts, workers and ranks all see the same samples.

Step s is the positions [s * batch, (s + 1) * batch) of the endless stream that `order.py` describes, of which rank r
takes the r-th contiguous slice. A sample that cannot be read leaves a hole in its batch and moves no other.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import BadInput
from ..pixels import mix
from .advice import ENOUGH, Situation, advice
from .ledger import Account, Ledger
from .order import Key, OrderConfig, make_order
from .quarantine import Quarantine
from .samples import Batch, Made, Samples, Task
from .workers import PATIENCE, Workers


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How a stream of batches is cut and fed."""

    batch: int  # samples of one whole step, over all ranks
    seed: int = 0  # of the order
    balance: Literal["none", "classes", "root"] = "none"  # see OrderConfig, as for the next two
    repeats: int = 1
    window: int = 16
    workers: int | None = None  # processes; None: default_workers(); 0: in the main process
    prefetch: int = 2  # batches that each worker keeps ready
    patience: float = PATIENCE  # seconds that one picture may take before its worker is killed; 0: for ever
    pin: bool = False  # batches come in page-locked memory, from which a GPU copies them while it computes
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
        if not self.patience >= 0:
            raise BadInput(f"patience is {self.patience}; give seconds, or 0 to wait for ever")


def cores_here(ranks: int = 1) -> int:
    """Cores that this process may use: the ranks of this machine share them."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", ranks))))


def default_workers(ranks: int = 1) -> int:
    """Half of the cores; the other half computes."""
    return max(1, min(8, cores_here(ranks) // 2))


def share(total: int, rank: int, ranks: int) -> range:
    """Rank's contiguous slice of range(total); slices differ by one at most."""
    return range(rank * total // ranks, (rank + 1) * total // ranks)


class Loader:
    """`batches(start_step)` yields this rank's share of each whole step, forever.

    Without a quarantine the first picture that cannot be read ends the stream with a BadInput.
    """

    def __init__(self, dataset: Samples, cfg: LoaderConfig, quarantine: Quarantine | None = None) -> None:
        if dataset.paired:
            mix.refuse(cfg.batch, cfg.ranks)
        self.dataset, self.cfg, self.quarantine = dataset, cfg, quarantine
        self.workers = default_workers(cfg.ranks) if cfg.workers is None else cfg.workers
        kind = OrderConfig(seed=cfg.seed, balance=cfg.balance, repeats=cfg.repeats, window=cfg.window)
        self.order = make_order(len(dataset), kind, dataset.labels, dataset.chunks)
        self._newest: weakref.ref[Stream] | None = None  # whoever reads it owns it, and its workers end with it
        self._advised = False
        self._missing = 0  # files, as last told

    def keys(self, start_step: int) -> Iterator[list[Key]]:
        """What each step of this rank holds, from `start_step` on: no state, so any step can be the first."""
        return (task.keys for task in self._tasks(start_step))

    def batches(self, start_step: int = 0) -> Stream:
        workers = Workers(self.dataset, self.workers, self.cfg.prefetch, self.cfg.patience)
        stream = Stream(workers, self._tasks(start_step), Ledger(self.order.length), self.quarantine, self.cfg.pin)
        self._newest = weakref.ref(stream)
        return stream

    @property
    def stream(self) -> Stream | None:
        """The newest, while somebody reads it."""
        return self._newest() if self._newest is not None else None

    def _tasks(self, start_step: int) -> Iterator[Task]:
        batch, mine = self.cfg.batch, share(self.cfg.batch, self.cfg.rank, self.cfg.ranks)
        step = start_step
        while True:
            first = step * batch + mine.start
            keys = self.order.keys(first, first + len(mine))
            yield Task(mine.start, keys, tuple(self._ends(start_step, step, mine)))
            step += 1

    def _ends(self, start_step: int, step: int, mine: range) -> Iterator[tuple[int, int]]:
        """(epoch, this rank's positions of it since `start_step`) for each epoch that ends in `step`."""
        batch, length = self.cfg.batch, self.order.length

        def passed(position: int) -> int:
            """How many positions before this one are this rank's."""
            steps, rest = divmod(position, batch)
            return steps * len(mine) + min(max(rest - mine.start, 0), len(mine))

        for epoch in range(step * batch // length, (step + 1) * batch // length):
            begun = max(passed(epoch * length), start_step * len(mine))
            yield epoch, passed((epoch + 1) * length) - begun

    # -- what a log may tell ------------------------------------------------------------------------------------------

    def figures(self) -> dict[str, float]:
        """Beside the losses of a step."""
        return {} if self.quarantine is None else {"quarantined": len(self.quarantine)}

    def remarks(self, waiting: float) -> list[str]:
        """What is new since the last call. `waiting`: the share of the time since then spent waiting for batches."""
        stream = self.stream
        if stream is None:
            return []
        told = []
        for account in stream.ended:
            if account.quarantined != self._missing:  # else it is no news
                self._missing = account.quarantined
                told.append(str(account))
        stream.ended.clear()
        workers, cores = stream.workers, cores_here(self.cfg.ranks)
        fallen = workers.count > 0 and not workers.hands  # they died, and that was said
        if waiting <= ENOUGH or self._advised or fallen:
            return told
        self._advised = True
        now = Situation(
            waiting=waiting,
            workers=len(workers.hands),
            cores=cores,
            measures=workers.measures,
            megapixels=self.dataset.megapixels(),
        )
        return [*told, advice(now)]


def once(
    dataset: Samples,
    batch: int,
    workers: int | None = None,
    rank: int = 0,
    ranks: int = 1,
    quarantine: Quarantine | None = None,
) -> Stream:
    """One evaluation pass: rank r reads the r-th contiguous slice, in order; over all ranks each sample exactly once.

    `batch` is per rank. Every rank yields the same number of batches, because sharded networks exchange weights in each
    forward; a batch may be empty. Afterwards `ledger` of the stream says how many were used and how many not.
    """
    if batch < 1 or not 0 <= rank < ranks:
        raise BadInput(f"batch is {batch}, rank {rank} of {ranks}; give batch >= 1 and 0 <= rank < ranks")
    mine = share(len(dataset), rank, ranks)
    largest = -(-len(dataset) // ranks)
    rounds = -(-largest // batch)
    tasks = []
    for k in range(rounds):
        cut = share(len(mine), k, rounds)
        ends = ((0, len(mine)),) if k + 1 == rounds else ()
        tasks.append(Task(0, [Key(0, mine[i]) for i in cut], ends))
    count = default_workers(ranks) if workers is None else workers
    return Stream(Workers(dataset, min(count, len(tasks))), tasks, Ledger(len(dataset)), quarantine)


# ---------------------------------------------------------------- streams


_LIVE: weakref.WeakSet[Stream] = weakref.WeakSet()  # streams whose workers may still run


@atexit.register
def _close_streams() -> None:
    """Else Python kills the workers of a stream that nobody closed."""
    for stream in list(_LIVE):
        stream.close()


class Stream(Iterator[Batch]):
    """Batches, with the account of what they hold. `close()` ends the workers."""

    def __init__(
        self,
        workers: Workers,
        tasks: Iterable[Task],
        ledger: Ledger,
        quarantine: Quarantine | None = None,
        pin: bool = False,
    ) -> None:
        self.workers, self.ledger, self.quarantine = workers, ledger, quarantine
        self.ended: list[Account] = []  # epochs that ended since somebody emptied this list
        self._name = workers.dataset.name
        if quarantine is not None:
            workers.deadly |= quarantine.deadly
        self._made = _pinned(workers.made(tasks)) if pin else workers.made(tasks)
        _LIVE.add(self)

    def __next__(self) -> Batch:
        made = next(self._made)
        try:
            self._book(made)
        except BaseException:
            self.close()
            raise
        return made.batch

    def _book(self, made: Made) -> None:
        for bad in made.bad.values():
            if self.quarantine is None:
                raise BadInput(bad.reason)
            self.quarantine.add(bad)
        ended = self.ledger.add(made, self._name)
        if ended and self.quarantine is not None:  # what other ranks found counts as well
            self.quarantine.refresh()
            self.quarantine.check()
        self.ended += ended

    def close(self) -> None:
        self._made.close()


def _pinned(stream: Generator[Made, None, None]) -> Generator[Made, None, None]:
    """One batch ahead, in a thread: copying to page-locked memory would else be time in which the GPU waits."""
    device = torch.cuda.current_device()

    def following() -> Made | None:
        torch.cuda.set_device(device)  # each thread has its own, and starts with the first
        made = next(stream, None)
        return made and made._replace(batch=_pin(made.batch))

    with ThreadPoolExecutor(1, thread_name_prefix="pin") as pool:
        ahead = pool.submit(following)
        try:
            while (made := ahead.result()) is not None:
                ahead = pool.submit(following)
                yield made
        finally:
            wait([ahead])  # a generator cannot be closed while it runs
            stream.close()


def _pin(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.pin_memory()
    if isinstance(leaf, dict):
        return {k: _pin(v) for k, v in leaf.items()}
    return [_pin(v) for v in leaf] if isinstance(leaf, list) else leaf
