"""One number that makes a network as sure as it is right: logits divided by it (Guo et al. 2017, arXiv 1706.04599).

No order of outputs changes, so neither does any answer. With b = 1/T the mean cross-entropy is convex: its first
derivative is the mean of (expected logit - target's logit), its second the mean variance of the logits. Newton's
method, kept inside a bracket that every step narrows, finds the one zero.
"""

from __future__ import annotations

import numpy as np

from ..errors import BadInput
from .predictions import Predictions, known
from .probability import blocks, shifted

LIMITS = (0.02, 50.0)  # a best temperature outside is none: see the messages
PRECISE = 1e-10  # relative


def temperature(p: Predictions) -> float:
    """Under which the targets are likeliest. BadInput where the likeliest is infinitely sure, or unsure."""
    p = known(p)
    n, (low, high) = len(p.ids), (1 / LIMITS[1], 1 / LIMITS[0])
    if not n or not np.isfinite(p.outputs).all():
        raise BadInput("a temperature needs pictures of known class, and outputs that are finite; look at the model")
    if _slopes(p, high)[0] <= 0:
        raise BadInput(
            f"all {n:,} pictures are answered right, so being sure costs nothing; calibrate on more pictures"
        )
    if _slopes(p, low)[0] >= 0:
        what = f"on these {n:,} pictures the model is no better than chance"
        raise BadInput(f"{what}; do labels and model belong together?")
    b = 1.0
    while True:
        slope, bend = _slopes(p, b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / bend if bend > 0 else high
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - b) <= PRECISE * b:
            return 1 / following
        b = following


def _slopes(p: Predictions, b: float) -> tuple[float, float]:
    """First and second derivative of the mean cross-entropy of b * logits."""
    first = second = 0.0
    for rows in blocks(len(p.ids)):
        x = shifted(p.outputs[rows])
        weights = np.exp(b * x)
        weights /= weights.sum(1, keepdims=True)
        expected = (weights * x).sum(1)
        first += float((expected - x[np.arange(len(x)), p.targets[rows]]).sum())
        second += float((weights * (x - expected[:, None]) ** 2).sum())
    return first / len(p.ids), second / len(p.ids)
