"""The few collectives that objectives, metrics and training share. In one process each of them is the identity."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def world() -> int:
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if active():
        dist.barrier()


@torch.no_grad()
def sum_over_ranks(x: Tensor) -> Tensor:
    """A new tensor, the same on every rank; no gradient flows."""
    x = x.detach().clone()
    if active():
        dist.all_reduce(x)
    return x


def mean_over_ranks(x: Tensor) -> Tensor:
    return sum_over_ranks(x) / world()


class _Gather(torch.autograd.Function):
    """(n, ...) on each rank -> (world * n, ...) on all; backward sums over ranks and keeps the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        first = rank() * ctx.rows
        return grad[first : first + ctx.rows]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Rows of all ranks, in rank order; every rank must hold the same number. The gradient of the *sum* over ranks."""
    if not active():
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def gather_objects(x: T) -> list[T]:
    """One plain value a rank, in rank order, on every rank. For text and numbers; nothing from outside is unpickled."""
    if not active():
        return [x]
    out: list[Any] = [None] * world()
    dist.all_gather_object(out, x)
    return out
