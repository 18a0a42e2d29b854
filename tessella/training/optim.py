"""Which rule moves which parameter, and how fast: asked of the towers, never read from names."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..objectives.objective import Stacked, Tower
from . import distributed
from .depths import depths
from .lion import Lion
from .muon import Muon
from .settings import TrainConfig

MOMENTUM = {"sgd": 0.9, "muon": 0.95}  # what is usual
SLOTS: dict[type, set[str]] = {  # what each rule remembers of a parameter
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
    Lion: {"momentum"},
    Muon: {"momentum"},
}


class Place(NamedTuple):
    scale: float  # of the learning rate: inside a tower it falls by `layer_decay` with each block towards the input
    decays: bool  # vectors and what a tower names do not
    matrices: int  # of a block, that lie in it one upon the other; 0: it is no matrix of a block


def placement(objective: nn.Module, layer_decay: float) -> dict[str, Place]:
    """Where every parameter of the objective stands, by name."""
    towers = [m for m in objective.modules() if isinstance(m, Tower) and isinstance(m, nn.Module)]
    spared = {id(tower.get_parameter(name)) for tower in towers for name in tower.no_decay()}
    repeated = {id(p) for tower in towers for unit in tower.units() for p in unit.parameters() if p.ndim == 2}
    found, stacked, out = depths(objective), _stacked(objective), {}
    for name, p in objective.named_parameters():
        scale = layer_decay ** (found[name].last - found[name].own) if name in found else 1.0
        decays = p.ndim > 1 and id(p) not in spared
        out[name] = Place(scale, decays, stacked.get(id(p), 1) if decays and id(p) in repeated else 0)
    return out


def _stacked(objective: nn.Module) -> dict[int, int]:
    """id of a parameter -> how many matrices it is, where it is more than one."""
    parts = [m for m in objective.modules() if isinstance(m, Stacked)]
    return {id(p): n for part in parts for p, n in part.stacked()}


class Optimizers:
    """One optimiser for each rule that is in use, as one: rates are set, steps taken, tensors kept together."""

    def __init__(self, objective: nn.Module, parts: list[torch.optim.Optimizer]):
        self.parts = parts
        self.parameters = dict(objective.named_parameters())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr * group["scale"]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, as `parameter|slot`. Shards stay shards."""
        names = {id(p): name for name, p in self.parameters.items()}
        kept = [(names[id(p)], slots) for part in self.parts for p, slots in part.state.items()]
        return {f"{name}|{slot}": value for name, slots in kept for slot, value in slots.items() if value is not None}

    def fill(self, saved: dict[str, Tensor]) -> None:
        """What `tensors` gave, whole again, before the first step. What another rule remembered is of no use: where the
        rule of a parameter has changed, it begins anew."""
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key, value in saved.items():
            name, slot = key.rsplit("|", 1)
            p = self.parameters[name]
            rule = owner[id(p)]
            if slot in SLOTS[type(rule)]:
                rule.state[p][slot] = distributed.like(value, p.detach()) if value.ndim else value.to(p.device)


def make_optimizer(objective: nn.Module, cfg: TrainConfig, bf16: bool = False) -> Optimizers:
    """Each group carries its `scale`. `bf16`: the training multiplies so; then Muon's products do too. What does not
    learn, or not yet, is there too: without a gradient every rule passes over it."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    places = placement(objective, cfg.layer_decay)
    for name, p in objective.named_parameters():
        place = places[name]
        rule = cfg.optimizer if cfg.optimizer != "muon" or place.matrices else "adamw"  # the rest of muon's parameters
        scale = place.scale * (cfg.matrix_scale if rule == "muon" else 1.0)
        group = {"params": [], "scale": scale, "weight_decay": cfg.weight_decay if place.decays else 0.0}
        if rule == "muon":
            group["matrices"] = place.matrices
        groups.setdefault((rule, *(group[k] for k in group if k != "params")), group)["params"].append(p)
    rules = list(dict.fromkeys(key[0] for key in groups))
    return Optimizers(objective, [_rule(r, [g for k, g in groups.items() if k[0] == r], cfg, bf16) for r in rules])


def _rule(rule: str, groups: list[dict[str, Any]], cfg: TrainConfig, bf16: bool) -> torch.optim.Optimizer:
    momentum = MOMENTUM.get(rule, 0.0) if cfg.momentum is None else cfg.momentum
    match rule:
        case "sgd":
            return torch.optim.SGD(groups, lr=cfg.lr, momentum=momentum, nesterov=momentum > 0)
        case "lion":
            return Lion(groups, cfg.lr, cfg.betas)
        case "muon":
            return Muon(groups, cfg.lr, momentum, torch.bfloat16 if bf16 else torch.float32)
        case _:
            return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, fused=True)
