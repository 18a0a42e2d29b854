"""How often the right class is among the first k, the cross-entropy, and how far chance may have moved a share.

Pure functions of `Predictions` of one class a sample; samples whose class nobody knows (-1) do not count.
"""

from __future__ import annotations

import math

import numpy as np

from .predictions import Predictions, known
from .probability import blocks, shifted

Z95 = 1.959963984540054  # deviations of the normal distribution that hold 95 %


def top(p: Predictions, k: int) -> float:
    """Share of samples whose target is among the k largest outputs; of equal ones the lower number comes first."""
    p = known(p)
    numbers, places = np.arange(p.outputs.shape[1]), np.empty(len(p.ids), np.int64)
    for rows in blocks(len(p.ids)):
        outputs, targets = p.outputs[rows], p.targets[rows, None]
        own = np.take_along_axis(outputs, targets, axis=1)
        before = ~(outputs <= own)  # so that an output that is not a number puts the target last
        places[rows] = (before | ((outputs == own) & (numbers < targets))).sum(1)
    return float((places < k).mean())


def cross_entropy(p: Predictions) -> float:
    """Mean negative log-probability of the target, in nats."""
    p = known(p)
    total = 0.0
    for rows in blocks(len(p.ids)):
        x = shifted(p.outputs[rows])
        total += float((np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), p.targets[rows]]).sum())
    return total / len(p.ids)


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share that was counted on n samples (Wilson 1927): right also near 0 and 1, where the usual
    plus-minus is not."""
    middle = share + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    below = 1 + Z95**2 / n
    return max(0.0, (middle - spread) / below), min(1.0, (middle + spread) / below)
