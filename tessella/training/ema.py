"""A running average of the weights that ship, and a way to look through it for the time of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Keyed by names relative to the model. Works on sharded tensors as well: each rank averages its own shards."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Early on the decay is lower, so that the average is not held back by the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in model.named_parameters():
            self.tensors[name].lerp_(p, 1 - decay)

    @contextmanager
    def worn_by(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        kept: dict[str, Tensor] = {n: p.detach().clone() for n, p in model.named_parameters()}
        self._copy(self.tensors, model)
        try:
            yield
        finally:
            self._copy(kept, model)

    @staticmethod
    @torch.no_grad()
    def _copy(source: dict[str, Tensor], model: nn.Module) -> None:
        for name, p in model.named_parameters():
            p.copy_(source[name])
