"""The figures of everything that a model says: plain names where that is one thing, else `colour/top1`, `price/mae`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..card import Head, Task
from . import accuracy
from .predictions import Predictions


def figures(found: Mapping[str, Predictions], heads: Sequence[Head]) -> dict[str, float]:
    each = {head.name: _summary(found[head.name], head.task) for head in heads}
    if len(heads) == 1:
        return each[heads[0].name]
    return {f"{head}/{name}": value for head, told in each.items() for name, value in told.items()}


def _summary(p: Predictions, task: Task) -> dict[str, float]:
    """Over known targets; {} where there are none."""
    known = p.targets >= 0 if task == "classify" else ~np.isnan(p.targets).reshape(len(p.ids), -1).all(1)
    rows = np.flatnonzero(known)
    if not len(rows):
        return {}
    p = Predictions(tuple(p.ids[i] for i in rows), p.targets[rows], p.outputs[rows])
    if task == "classify":
        return accuracy.summary(p)
    if task == "number":
        error = p.outputs[:, 0].astype(np.float64) - p.targets
        spread = np.square(p.targets - p.targets.mean()).mean()
        square = np.square(error).mean()
        figures = {"mae": np.abs(error).mean(), "rmse": np.sqrt(square), "r2": 1 - square / spread if spread else 0.0}
        return {name: float(value) for name, value in figures.items()}
    there = ~np.isnan(p.targets)
    x, t = p.outputs.astype(np.float64), np.where(there, p.targets, 0.0)
    loss = np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))
    return {"loss": float(loss[there].mean())}
