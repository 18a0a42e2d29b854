"""Memory ran out in the middle of a step: what may be done again, and how, so that the result is the same.

Until the update nothing has changed, because `forward` changes no state: gradients are made anew from smaller pieces of
the same batch. From the update on, tensors change in place. They count their changes (`_version`), so it is known, not
hoped, that an action failed before it had changed anything; then it runs once more with the caches empty. Else the run
stops: the newest state on disk is whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import parallel
from ..errors import BadInput
from ..objectives.objective import Batch
from . import memory
from .batch import split

SHORT = (MemoryError, OSError, RuntimeError)  # what a lack of memory comes as; torch.OutOfMemoryError is one of them


class Shortage:
    """How often a step is cut when memory runs out. With single samples it is tried once more: what took the memory may
    have been somebody else."""

    def __init__(self, whole_batch: bool) -> None:
        self.whole_batch = whole_batch
        self.last_try = False

    def over(self) -> None:
        """A step, or a piece of an evaluation, went well."""
        self.last_try = False

    def more_parts(self, parts: int, samples: int, error: BaseException) -> tuple[int, str]:
        """(parts that the batch is cut into next, what to tell); a BadInput where nothing can be done."""
        here = f"out of memory with micro-batches of {-(-samples // parts)}"
        if self.whole_batch:
            cure = "this objective needs its batch whole: use smaller chunks inside it, or a smaller --train.batch"
            raise BadInput(f"{here}; {cure}") from error
        if parallel.active():  # the others wait in an exchange of gradients, and cannot be told
            cure = f"start again with --train.accumulate {2 * parts}, or let --memory choose"
            raise BadInput(f"{here} on rank {parallel.rank()}; {cure}") from error
        if parts >= samples and self.last_try:
            cure = "use a smaller model, smaller pictures, or --model.backbone.remat true"
            said = " ".join(str(error).split())[:120]
            raise BadInput(f"out of memory with a single sample ({said}); {cure}") from error
        if parts >= samples:
            self.last_try = True
            return parts, "out of memory with a single sample: the caches are emptied, and it is tried once more"
        more = min(2 * parts, samples)
        return more, f"{here}: going on with {-(-samples // more)}, the global batch stays {samples}"


def in_place(action: Callable[[], object], moved: Callable[[], int], device: torch.device) -> None:
    """Runs an action that changes tensors in place. `moved`: their changes so far."""
    before = moved()
    try:
        action()
    except SHORT as error:
        if not memory.is_out_of_memory(error):
            raise
        what = "out of memory in the middle of an update, which cannot be done again"
        cure = "go on from the newest state with --resume; with --memory less is used from the start"
        if moved() != before:
            raise BadInput(f"{what}; {cure}") from error
        memory.release(device, error)
        action()


def update(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """`optimizer.step()`. Fused ones do not count changes of the weights, but of their counters of steps; one without
    counters is believed to have changed something."""
    known = set(optimizer.state)
    blind = any(group.get("fused") for group in optimizer.param_groups) and not any(
        "step" in kept for kept in optimizer.state.values()
    )
    asked = itertools.count() if blind else itertools.repeat(0)

    def step() -> None:
        for p in optimizer.state.keys() - known:  # half made by an attempt that failed
            del optimizer.state[p]
        optimizer.step()

    in_place(step, lambda: next(asked) + changes([*_weights(optimizer), *_state(optimizer)]), device)


def changes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor._version for tensor in tensors)


@torch.no_grad()
def allocate(optimizer: torch.optim.Optimizer) -> None:
    """The state that an optimiser makes in its first step, made before it: else the first update could fail half-way,
    and the memory that a plan or a trial measures would be too little."""
    if optimizer.state:
        return
    for p in _weights(optimizer):
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    for group in optimizer.param_groups:
        group["lr"], group["lr_before"] = 0.0, group["lr"]
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = group.pop("lr_before")
    for tensor in _state(optimizer):
        tensor.zero_()
    optimizer.zero_grad(set_to_none=True)


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]


def in_pieces(infer: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """What `infer` says of a batch, from no more samples at a time than a step of training has in memory."""
    return join([infer(piece) for piece in split(batch, parts, exactly=parallel.active())])


def join(pieces: list[Any]) -> Any:
    """The inverse of cutting a batch, for whatever a network returns."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(pieces)
    if isinstance(first, dict):
        return {key: join([piece[key] for piece in pieces]) for key in first}
    if isinstance(first, tuple):
        joined = [join(list(parts)) for parts in zip(*pieces, strict=True)]
        return type(first)(*joined) if type(first) is not tuple else tuple(joined)
    return [value for piece in pieces for value in piece] if isinstance(first, list) else first
