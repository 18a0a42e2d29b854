"""How deep each parameter lies in its tower. The one place that asks `depth_of`; nobody parses parameter names."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..objectives.objective import Tower


class Depth(NamedTuple):
    own: int  # 0 for embeddings, i + 1 for block i
    last: int  # that of what follows the blocks


def depths(module: nn.Module) -> dict[str, Depth]:
    """By name; what lies outside every tower is left out. Of towers inside one another the inner one is asked."""
    out = {}
    for prefix, tower in module.named_modules():
        if isinstance(tower, Tower):
            last = len(tower.units()) + 1
            for name, _ in module.get_submodule(prefix).named_parameters():
                out[f"{prefix}.{name}" if prefix else name] = Depth(tower.depth_of(name), last)
    return out
