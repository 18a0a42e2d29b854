"""Each loss by its share of the whole step, so that the sum over micro-batches and ranks is the mean over all of it.

A mean over nothing is no number, and none times zero is none either: where a share is zero, what was computed over
nothing must not reach a weight. Pictures that cannot be read make such micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import parallel
from ..objectives.objective import Batch, Objective
from .batch import size
from .distributed import is_sharded

Counts = dict[str, float]


class Counted(NamedTuple):
    """How many things each loss is a mean over."""

    here: list[Counts]  # in every micro-batch of this rank
    totals: Counts  # in the whole step, over all ranks
    stop: bool  # some rank was asked to stop: told in the same exchange, so that all of them stop at the same step


def count(objective: Objective, micros: list[Batch], stop: bool, device: torch.device) -> Counted:
    """A collective. The empty name counts samples."""
    here = [{"": float(size(m)), **objective.counts(m)} for m in micros]
    names = sorted(here[0])
    local = [float(stop), *(sum(c[name] for c in here) for name in names)]
    if parallel.active():
        kind = torch.float32 if device.type == "mps" else torch.float64
        local = parallel.sum_over_ranks(torch.tensor(local, dtype=kind, device=device)).tolist()
    return Counted(here, dict(zip(names, local[1:], strict=True)), local[0] > 0)


def shares(counts: Counts, totals: Counts) -> Counts:
    """Gradients are averaged over ranks, so a rank's share is of the mean, not of the sum."""
    return {n: c * parallel.world() / totals[n] if totals[n] else 0.0 for n, c in counts.items()}


def weighted(values: dict[str, Tensor], share: Counts) -> dict[str, Tensor]:
    """What `counts` does not name counts samples, which is the share of the empty name."""
    return {name: _part(value, share.get(name, share[""])) for name, value in values.items()}


def _part(value: Tensor, share: float) -> Tensor:
    return value * share if share else torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0) * 0.0


@contextmanager
def without_gradient(module: nn.Module, now: bool) -> Iterator[None]:
    """In the block a backward pass gives every parameter a gradient of zero: that of a micro-batch without a sample. It
    must run all the same, because gradients are exchanged in it."""
    held: dict[int, Tensor] = {}
    hooks: list[Any] = []

    def watch(*_: Any) -> None:
        for p in module.parameters():
            if p.requires_grad and id(p) not in held:
                held[id(p)] = p
                hooks.append(p.register_hook(torch.zeros_like))  # type: ignore[no-untyped-call]

    if now:
        watch()
        hooks += [
            m.register_forward_pre_hook(watch) for m in module.modules() if is_sharded(m)
        ]  # whole only in forward
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
