"""The one contract between what is learned and how it is trained.

The trainer knows `Objective`, `Tower` and `Stacked`, and none of their children.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = dict[str, Any]  # every leaf has leading size B or is a list of length B; "ids" is always there
Losses = dict[str, Tensor]  # name -> scalar: added up and differentiated
Metrics = dict[str, Tensor]  # name -> scalar: only logged


class Objective(nn.Module, ABC):
    """A module around a model that turns a batch into named losses.

    Every loss is a *mean* over the micro-batch that `forward` sees. `counts` says over how many things each one is a
    mean, from the batch alone; the trainer weights the losses of all micro-batches and ranks with it, so that what is
    minimised is the mean over the global batch, however that was cut. `forward` changes no state (buffers move in
    `after_step`), because a step that ran out of memory is run again with smaller micro-batches. What it gathers for
    `after_step` is no state if `before_step` forgets it.
    """

    whole_batch: ClassVar[bool] = (
        False  # needs the rank's whole batch at once (contrast): the trainer refuses to cut it
    )
    calls: ClassVar[tuple[str, ...]] = ()  # methods of `model` beside its forward: shards are gathered there too
    own_average: ClassVar[bool] = False  # keeps a teacher that is itself an average: the trainer refuses its EMA

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What ships. A property: a second registration would save every tensor twice."""

    def before_step(self, progress: float) -> None:
        """Before the first micro-batch of every attempt at a step: forget what a failed attempt has gathered."""

    @abstractmethod
    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """`progress` in [0, 1] is the only clock."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Name of a loss or metric -> how many things (or how much weight) it is a mean over in this batch. What is not
        named counts samples. The same names for every batch, 0 where there is nothing: ranks add them up together."""
        return {}

    def infer(self, batch: Batch) -> Any:
        """The shipped model's raw output, called through the objective so that sharded weights are gathered."""
        return self.model(batch["image"])

    def alarm(self) -> str:
        """Asked after each step that is logged: why going on is of no use, or nothing. All ranks give the same answer,
        because it rests on what `after_step` has moved."""
        return ""

    def after_backward(self, progress: float) -> None:
        """Between the gradients and the update."""

    def after_step(self, progress: float) -> None:
        """After the update: teachers follow, buffers move."""


@runtime_checkable
class Tower(Protocol):
    """A backbone as the trainer sees it: what repeats, how deep a parameter lies, what must not decay."""

    def units(self) -> list[nn.Module]:
        """The repeated blocks, in order: compiled and sharded one by one."""
        ...

    def depth_of(self, name: str) -> int:
        """0 for embeddings, i + 1 for block i, len(units) + 1 for what follows; `name` is relative to the tower."""
        ...

    def no_decay(self) -> frozenset[str]:
        """Names, relative to the tower, of parameters that weight decay must leave alone (tables, tokens)."""
        ...


@runtime_checkable
class Stacked(Protocol):
    """A module with parameters that are several matrices, one upon the other: an optimiser of matrices parts them."""

    def stacked(self) -> list[tuple[Tensor, int]]:
        """Such a parameter and how many matrices its rows are cut into, equally."""
        ...
