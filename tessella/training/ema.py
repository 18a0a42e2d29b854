"""A running average of the weights that ship, and a way to look through other weights for the time of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Keyed by names relative to the model. Works on sharded tensors as well: each rank averages its own shards.
    Buffers are not averaged: the newest go with the averaged weights. What is frozen stays what it is, bit by bit."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.tensors = {n: p.detach().clone() for n, p in model.named_parameters()}

    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        """Anew, with the weights as they are now."""
        for name, p in model.named_parameters():
            self.tensors[name].copy_(p)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Early on the decay is lower, so that the average is not held back by the random start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in model.named_parameters():
            self.tensors[name].lerp_(p, 1 - decay)


@contextmanager
def worn(tensors: dict[str, Tensor], model: nn.Module) -> Iterator[None]:
    """Inside, the model has these, by their names, instead of its own."""
    here = {name: tensor.detach() for name, tensor in model.state_dict().items() if name in tensors}
    kept = {name: tensor.clone() for name, tensor in here.items()}
    _copy(tensors, here)
    try:
        yield
    finally:
        _copy(kept, here)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
