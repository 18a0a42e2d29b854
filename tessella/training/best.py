"""The best evaluation so far by a named figure: its weights ship, and a run that gets no better may end early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
from . import distributed

HIGHER = frozenset({"accuracy", "top1", "top5", "balanced_accuracy", "macro_f1", "auroc", "map", "r2"})
HIGHER |= {"knn", "linear", "rank", "spread"}  # of features: see metrics/watched.py
LOWER = frozenset({"loss", "ece", "mae", "rmse"})


def figure(name: str) -> str:
    """Of one head among several: `colour/top1`."""
    return name.rpartition("/")[2]


class Best:
    """Nothing at all where `name` is empty. Equal is not better: the earlier one stays."""

    def __init__(self, name: str, patience: int):
        self.name, self.patience = name, patience
        self.step: int | None = None  # of the best evaluation
        self.metrics: dict[str, float] = {}
        self.since = 0  # evaluations that were no better
        self.tensors: dict[str, Tensor] = {}  # the model's; sharded where the model is

    def offer(self, metrics: Mapping[str, float], step: int, model: nn.Module) -> None:
        """An evaluation of `model` as it is now."""
        if not self.name:
            return
        if self.name not in metrics and self.step is None:
            known = ", ".join(sorted(metrics))
            raise BadInput(f"train.best is {self.name!r}, but the evaluation gives {known}; name one of these")
        if self._better(metrics.get(self.name, math.nan)):  # missing: it was not finite this time
            self.step, self.metrics, self.since = step, dict(metrics), 0
            self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        else:
            self.since += 1

    def _better(self, value: float) -> bool:
        if self.step is None or math.isnan(value):
            return self.step is None
        best = self.metrics[self.name]
        return math.isnan(best) or (value > best if figure(self.name) in HIGHER else value < best)

    @property
    def exhausted(self) -> bool:
        return 0 < self.patience <= self.since

    def row(self) -> dict[str, float]:
        """For the log."""
        return {} if self.step is None else {f"best/{self.name}": self.metrics[self.name], "best/step": self.step}

    def story(self) -> str:
        what = f"{self.name} has not improved over {self.since} evaluations"
        return f"{what}; the best, {self.metrics[self.name]:.4g} at step {(self.step or 0) + 1}, is what ships"

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "step": self.step, "metrics": self.metrics, "since": self.since}

    def restore(self, facts: Mapping[str, Any], saved: dict[str, Tensor], model: nn.Module) -> None:
        """With `saved`, whole tensors, laid out as those of the model are. Where nobody asks for the best any more, or
        for that of another figure, the search begins anew."""
        if self.name and facts["name"] == self.name:
            self.step, self.metrics, self.since = facts["step"], dict(facts["metrics"]), facts["since"]
            self.tensors = {n: distributed.like(saved[n], t.detach()) for n, t in model.state_dict().items()}
