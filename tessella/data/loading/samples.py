"""A dataset as the loader sees it, and how one batch is made of it: what cannot be read becomes a hole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from .order import Key
from .quarantine import Bad

Batch = dict[str, Any]


class Spot(NamedTuple):
    """A sample's place."""

    position: int  # in the whole step, over all ranks
    key: Key


class Samples(Protocol):
    """A dataset: a sample depends on nothing but its key."""

    @property
    def labels(self) -> NDArray[np.int64] | None: ...  # by which sampling can be balanced
    @property
    def chunks(self) -> NDArray[np.int64] | None: ...  # samples of one chunk are read together
    @property
    def paired(self) -> bool: ...  # positions 2k and 2k + 1 of a step must be on one rank: they are mixed
    def __len__(self) -> int: ...
    def name(self, sample: int) -> str: ...  # unique; `ids` of a batch are these
    def megapixels(self) -> float | None: ...  # of a typical picture, for advice
    def ready(self) -> None: ...  # what is slow the first time (imports); before processes are forked
    def sample(self, key: Key) -> dict[str, Any]: ...  # BadInput if it cannot be read
    def collate(self, samples: Sequence[dict[str, Any]], spots: Sequence[Spot]) -> Batch: ...  # spots: one a sample


class Task(NamedTuple):
    """A batch to be made."""

    first: int  # position of the first key in its step; the others follow
    keys: list[Key]
    ends: tuple[tuple[int, int], ...] = ()  # (epoch, positions of it) for each epoch whose last positions these are


class Made(NamedTuple):
    """A batch, and what is missing in it."""

    task: Task
    batch: Batch
    bad: dict[int, Bad]  # by place among the task's keys


def make(dataset: Samples, task: Task, skip: Mapping[str, str], begin: Callable[[int], None]) -> Made:
    """`begin(place)` is called before each sample, and with the number of samples before they are put together.
    `skip` says which are not to be tried, and why."""
    samples: list[dict[str, Any]] = []
    spots: list[Spot] = []
    bad: dict[int, Bad] = {}
    for place, key in enumerate(task.keys):
        begin(place)
        name = dataset.name(key.sample) if skip else ""
        if name in skip:
            bad[place] = Bad(name, skip[name], deadly=True)
            continue
        try:
            samples.append(dataset.sample(key))
            spots.append(Spot(task.first + place, key))
        except BadInput as error:
            bad[place] = Bad(dataset.name(key.sample), str(error))
    begin(len(task.keys))
    return Made(task, dataset.collate(samples, spots), bad)
