"""What may be done to any batch, whatever is in it: count its samples, cut it, move it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import TessellaError
from ..objectives.objective import Batch


def size(batch: Batch) -> int:
    return len(batch["ids"])


def check(batch: Batch) -> None:
    """Every leaf has one entry a sample; a leaf that has not would be cut wrongly."""
    if "ids" not in batch:
        raise TessellaError("the batch has no 'ids'; add a list with one name a sample")
    n = size(batch)
    for key, leaf in batch.items():
        if len(leaf) != n:
            raise TessellaError(f"batch[{key!r}] has {len(leaf)} entries for {n} samples; give one entry a sample")


def cut(batch: Batch, start: int, stop: int) -> Batch:
    return {key: leaf[start:stop] for key, leaf in batch.items()}


def split(batch: Batch, parts: int, exactly: bool = False) -> list[Batch]:
    """In order, sizes as equal as can be. `exactly`: this many, though some be empty, because other ranks have as many
    and unreadable pictures left fewer samples here; else none is empty, unless the batch is."""
    n = size(batch)
    parts = parts if exactly else max(1, min(parts, n))
    return [cut(batch, i * n // parts, (i + 1) * n // parts) for i in range(parts)]


def move(leaf: Any, device: torch.device) -> Any:
    """Tensors to the device, inside dicts and lists too; text and numbers stay."""
    if isinstance(leaf, Tensor):
        return leaf.to(device, non_blocking=True)
    if isinstance(leaf, dict):
        return {k: move(v, device) for k, v in leaf.items()}
    return [move(v, device) for v in leaf] if isinstance(leaf, list) else leaf
