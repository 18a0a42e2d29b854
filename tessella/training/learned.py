"""All that a training has learned: weights, optimiser, average, best. What of it is looked at, ships, and is saved."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..objectives.objective import Objective
from . import distributed
from .best import Best
from .ema import Average, worn
from .optim import Optimizers
from .state import Snapshot


@dataclass
class Learned:
    objective: Objective
    optimizer: Optimizers
    average: Average | None
    best: Best

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are evaluated."""
        return nullcontext() if self.average is None else worn(self.average.tensors, self.objective.model)

    def chosen(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that ship."""
        return worn(self.best.tensors, self.objective.model) if self.best.tensors else self.averaged()

    def shipped(self) -> dict[str, Tensor]:
        """Whole, on the main rank; only inside `chosen`. A collective."""
        return distributed.whole(dict(self.objective.model.state_dict()))

    def snapshot(self, step: int, facts: dict[str, Any]) -> Snapshot:
        """Everything, after so many steps. A collective."""
        tensors = {"objective": dict(self.objective.state_dict()), "optimizer": self.optimizer.tensors()}
        if self.average is not None:
            tensors["average"] = self.average.tensors
        if self.best.tensors:
            tensors["best"] = self.best.tensors
        whole = {stem: distributed.whole(part) for stem, part in tensors.items()}
        return Snapshot(step, whole, facts | {"best": self.best.facts()})

    def fill(self, saved: Snapshot) -> None:
        distributed.fill(dict(self.objective.state_dict()), saved.tensors["objective"], "objective")
        if self.average is not None and "average" in saved.tensors:
            distributed.fill(self.average.tensors, saved.tensors["average"], "average")
        elif self.average is not None:  # nobody wanted one until now
            self.average.begin(self.objective.model)
        if "best" in saved.tensors:
            self.best.restore(saved.facts["best"], saved.tensors["best"], self.objective.model)
        self.optimizer.fill(saved.tensors["optimizer"])
