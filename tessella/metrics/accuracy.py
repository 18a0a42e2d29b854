"""How often the right class is among the first k, and the cross-entropy. Pure functions of `Predictions`."""

from __future__ import annotations

import numpy as np

from .predictions import Predictions


def top(p: Predictions, k: int) -> float:
    """Share of samples whose target is among the k largest outputs; of equal ones the lower number comes first."""
    k = min(k, p.outputs.shape[1])
    first = np.argsort(-p.outputs, axis=1, kind="stable")[:, :k]
    return float((first == p.targets[:, None]).any(1).mean())


def cross_entropy(p: Predictions) -> float:
    """Mean negative log-probability of the target, in nats."""
    x = p.outputs.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    log_sum = np.log(np.exp(x).sum(1))
    return float((log_sum - x[np.arange(len(x)), p.targets]).mean())


def per_class(p: Predictions, classes: tuple[str, ...]) -> dict[str, float | None]:
    """Top-1 of each class; None where no sample of it was there."""
    right = p.outputs.argmax(1) == p.targets
    return {c: float(right[p.targets == i].mean()) if (p.targets == i).any() else None for i, c in enumerate(classes)}


def summary(p: Predictions) -> dict[str, float]:
    return {"top1": top(p, 1), "top5": top(p, 5), "loss": cross_entropy(p)}
