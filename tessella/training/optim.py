"""Parameter groups and AdamW. Depth and decay are asked of the towers; nobody parses parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..objectives.objective import Tower


def placement(objective: nn.Module, layer_decay: float) -> dict[str, tuple[float, bool]]:
    """Parameter name -> (learning-rate scale, decays). Vectors and what a tower names do not decay; inside a tower the
    rate falls by `layer_decay` with each block towards the input."""
    out = {name: (1.0, p.ndim > 1) for name, p in objective.named_parameters()}
    for prefix, module in objective.named_modules():
        if not isinstance(module, Tower):
            continue
        last, spared = len(module.units()) + 1, module.no_decay()
        for name, p in objective.get_submodule(prefix).named_parameters():
            full = f"{prefix}.{name}" if prefix else name
            out[full] = (layer_decay ** (last - module.depth_of(name)), p.ndim > 1 and name not in spared)
    return out


def make_optimizer(
    objective: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], layer_decay: float
) -> torch.optim.AdamW:
    """Each group carries its `scale`; the trainer sets lr = schedule * scale before every step."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    places = placement(objective, layer_decay)
    for name, p in objective.named_parameters():
        if not p.requires_grad:
            continue
        scale, decays = places[name]
        decay = weight_decay if decays else 0.0
        group = groups.setdefault((scale, decays), {"params": [], "scale": scale, "weight_decay": decay})
        group["params"].append(p)
    return torch.optim.AdamW(list(groups.values()), lr=lr, betas=betas, fused=True)
