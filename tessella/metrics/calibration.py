"""Whether 80 % sure means right in 80 of 100 cases: reliability, its mean error (ECE), the Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictions import Array, Predictions, known
from .probability import blocks, log_softmax, shifted

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Samples sorted into bins [low, high) by how sure the network was of its answer; the last holds 1 as well."""

    edges: Array  # (bins + 1,)
    confidence: Array  # (bins,) mean in each; NaN where there is none
    accuracy: Array  # (bins,) share that is right
    count: Array  # (bins,)

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy."""
        held = self.count > 0
        gaps = np.abs(self.confidence[held] - self.accuracy[held])
        return float((gaps * self.count[held]).sum() / self.count.sum())


def reliability(p: Predictions, bins: int = BINS, logs: Array | None = None) -> Reliability:
    """`logs`: log-probabilities (N, K) of the known samples, if somebody has them already."""
    p = known(p)
    logs = log_softmax(p.outputs) if logs is None else logs
    sure = np.exp(logs.max(1).astype(np.float64))
    right = (p.outputs.argmax(1) == p.targets).astype(np.float64)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, "right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # bins of nothing
        confidence = np.bincount(place, sure, bins) / count
        accuracy = np.bincount(place, right, bins) / count
    return Reliability(edges, confidence, accuracy, count)


def brier(p: Predictions) -> float:
    """Mean squared distance of the probabilities to certainty of the truth, summed over classes: 0 to 2."""
    p = known(p)
    total = 0.0
    for rows in blocks(len(p.ids)):
        x = np.exp(shifted(p.outputs[rows]))
        x /= x.sum(1, keepdims=True)
        x[np.arange(len(x)), p.targets[rows]] -= 1
        total += float((x * x).sum())
    return total / len(p.ids)
