"""Why a step is not finite: which files, which block, which weights. Runs only when it has gone wrong already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import parallel
from ..objectives.objective import Batch, Objective
from .batch import cut, size

MOST = 5  # names told; the rest is counted


def diagnose(objective: Objective, micros: list[Batch], progress: float, localise: bool = True) -> str:
    """One line, the same on every rank. `localise`: the forward pass may be run again, sample by sample (not where it
    is a collective)."""
    parts, batch = [], _of_all_ranks([str(name) for micro in micros for name in micro["ids"]])
    bad = [n for n, p in objective.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        parts.append(f"weights are not finite: {_some(bad)}")
    if localise:
        bad_here, blocks_here = _search(objective, micros, progress)
        files, blocks = _of_all_ranks(bad_here), _of_all_ranks(blocks_here)
        if blocks:
            parts.append(f"first in block {blocks[0]!r}")
        parts.append(f"files: {_some(files)}" if files else f"no single file alone; the batch: {_some(batch)}")
    else:
        parts.append(f"files: one of {_some(batch)}")
    grads = [
        n for n, p in objective.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if grads:
        parts.append(f"gradients are not finite in {_some(grads)}")
    return "; ".join(parts)


def _of_all_ranks(names: list[str]) -> list[str]:
    return [name for part in parallel.gather_objects(names) for name in part]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


@torch.no_grad()
def _search(objective: Objective, micros: list[Batch], progress: float) -> tuple[list[str], list[str]]:
    """Names of the samples that alone give a loss that is not finite, and (if any) the first module whose output is
    not."""
    first: list[str] = []
    hooks = [m.register_forward_hook(_watch(name, first)) for name, m in objective.named_modules() if name]
    files = []
    try:
        for micro in micros:
            step = size(micro) if objective.whole_batch else 1
            for i in range(0, size(micro), step):
                losses, _ = objective(cut(micro, i, i + step), progress)
                if not all(bool(torch.isfinite(v).all()) for v in losses.values()):
                    files += [str(name) for name in micro["ids"][i : i + step]]
    finally:
        for hook in hooks:
            hook.remove()
    return files, first


def _watch(name: str, first: list[str]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if not first and any(not bool(torch.isfinite(t).all()) for t in _tensors(output) if t.is_floating_point()):
            first.append(name)

    return hook


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []
