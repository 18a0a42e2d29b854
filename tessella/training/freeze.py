"""Which depths of the towers are left as they are at a step: a pure function of the step, so resuming needs no memory.

What is frozen gets no gradient. So nothing is computed for it in the backward pass, and optimisers pass over it, decay
included.
"""

from __future__ import annotations

from torch import nn

from ..errors import BadInput
from .depths import Depth, depths
from .settings import TrainConfig


class Freeze:
    """Of the parameters that learn when this is made, `train.freeze` depths from the input; what follows the blocks
    learns always. With `train.thaw` they come back one after the other, the uppermost first, in equal shares."""

    def __init__(self, objective: nn.Module, cfg: TrainConfig):
        self.cfg, self.objective = cfg, objective
        found, learning = depths(objective), {n for n, p in objective.named_parameters() if p.requires_grad}
        self.depths: dict[str, Depth] = {name: depth for name, depth in found.items() if name in learning}
        last = max((depth.last for depth in self.depths.values()), default=0)
        self.most = last if cfg.freeze == "backbone" else cfg.freeze
        if self.most > last or (cfg.freeze and not last):  # there may be no tower at all
            raise BadInput(f"train.freeze is {cfg.freeze}, but this network can freeze {last} depths; give no more")
        self.now = 0  # depths that are frozen

    def depths_at(self, step: int) -> int:
        if not self.cfg.thaw:
            return self.most
        return max(0, self.most - int(self.most * step / (self.cfg.thaw * self.cfg.steps)))

    def at(self, step: int) -> bool:
        """Sets which parameters learn at this step; whether that has changed."""
        now = self.depths_at(step)
        if now == self.now:
            return False
        self.now = now
        parameters = dict(self.objective.named_parameters())
        for name, depth in self.depths.items():
            parameters[name].requires_grad_(depth.own >= min(now, depth.last))
        return True
