"""Several labels a picture, each there or not: mean average precision, F1, the loss.

`targets` (N, K) hold 1, 0, or NaN where nobody knows; `outputs` (N, K) are logits. Means are over labels of which there
is something to say: at least one positive sample for average precision, one of each kind for AUROC, and for F1 at least
one sample that has the label or is said to have it.
"""

from __future__ import annotations

import numpy as np

from .predictions import Predictions
from .ranking import Score, columns, mean


def over_labels(score: Score, p: Predictions) -> float | None:
    """The mean of a figure of ranking over labels, each on the samples of which it is known."""

    def one(targets: np.ndarray, outputs: np.ndarray) -> float | None:
        held = ~np.isnan(targets)
        return score(outputs[held], targets[held] > 0.5)

    return mean(one(t, o) for t, o in zip(columns(p.targets), columns(p.outputs), strict=True))


def macro_f1(p: Predictions) -> float | None:
    """A label is said where its probability is above one half."""
    held = ~np.isnan(p.targets)
    there, said = held & (p.targets > 0.5), held & (p.outputs > 0)
    hits, both = (there & said).sum(0), there.sum(0) + said.sum(0)
    return float((2 * hits[both > 0] / both[both > 0]).mean()) if both.any() else None


def binary_cross_entropy(p: Predictions) -> float | None:
    """Mean over all pairs of sample and label that are known, in nats."""
    held = ~np.isnan(p.targets)
    if not held.any():
        return None
    targets, x = p.targets[held].astype(np.float64), p.outputs[held].astype(np.float64)
    return float((np.logaddexp(0, x) - targets * x).mean())
