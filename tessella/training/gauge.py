"""Gradient and update, block by block: which part of a network learns, which stands still. Measured where logged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import parallel
from .depths import depths
from .distributed import is_sharded, local

TINY = 1e-12


class Before(NamedTuple):
    """What is known of a step before its update, and is gone after it."""

    gradients: Tensor  # (blocks,) norms, before clipping
    norms: Tensor  # (blocks,) of the weights
    weights: dict[str, Tensor]  # copies


class Gauge:
    """Entry 0 is what embeds, then the blocks, at last what follows them or lies in no tower."""

    def __init__(self, objective: nn.Module):
        self.objective = objective
        found = depths(objective)
        self.blocks = 1 + max((depth.last for depth in found.values()), default=0)
        self.places = {
            name: found[name].own if name in found and found[name].own < found[name].last else self.blocks - 1
            for name, p in objective.named_parameters()
            if p.requires_grad
        }

    @torch.no_grad()
    def before(self) -> Before:
        gradients = {name: local(p.grad) for name, p in self._learning().items() if p.grad is not None}
        weights = {name: local(p).clone() for name, p in self._learning().items()}
        return Before(self._norms(gradients), self._norms(weights), weights)

    @torch.no_grad()
    def after(self, before: Before) -> dict[str, Tensor]:
        """Norms of gradients, and of updates in units of the weights' norms, (blocks,) each."""
        now = self._learning()
        for name, weight in before.weights.items():
            weight.sub_(local(now[name]))  # in place: an update that is done must not fail for want of memory
        return {
            "grad_by_block": before.gradients,
            "update_by_block": self._norms(before.weights) / before.norms.clamp(min=TINY),
        }

    def _learning(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.objective.named_parameters() if name in self.places}

    def _norms(self, tensors: dict[str, Tensor]) -> Tensor:
        """Over all ranks, where each has its shard."""
        device = next(self.objective.parameters()).device
        places = torch.tensor([self.places[name] for name in tensors], dtype=torch.int64, device=device)
        squares = torch.zeros(self.blocks, device=device)
        if tensors:
            norms = torch.stack(torch._foreach_norm(list(tensors.values()))).float()
            squares.index_add_(0, places, norms.square())
        return (parallel.sum_over_ranks(squares) if is_sharded(self.objective) else squares).sqrt()
