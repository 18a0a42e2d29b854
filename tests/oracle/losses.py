"""The losses of one head as their papers write them, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def binary(x: float, target: float) -> float:
    return -target * math.log(sigmoid(x)) - (1 - target) * math.log(sigmoid(-x))


def focal(x: float, present: bool, gamma: float, alpha: float | None) -> float:
    """arXiv 1708.02002, equation 5: -alpha_t (1 - p_t)^gamma log p_t"""
    p_t = sigmoid(x) if present else sigmoid(-x)
    alpha_t = 1.0 if alpha is None else (alpha if present else 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


def asymmetric(x: float, present: bool, gamma: float, gamma_present: float, margin: float) -> float:
    """arXiv 2009.14119, equations 4, 5 and 7"""
    p = sigmoid(x)
    if present:
        return -((1 - p) ** gamma_present) * math.log(p)
    p_m = max(p - margin, 0.0)
    return -(p_m**gamma) * math.log(1 - p_m)


def squared(value: float, target: float) -> float:
    return (value - target) ** 2


def absolute(value: float, target: float) -> float:
    return abs(value - target)


def huber(value: float, target: float, delta: float) -> float:
    error = abs(value - target)
    return error**2 / 2 if error <= delta else delta * (error - delta / 2)


def masked_mean(losses: Sequence[Sequence[float]], shares: Sequence[Sequence[float]]) -> float:
    """Over what is known, however that is spread over samples and tags; 0 where nothing is."""
    total = mass = 0.0
    for row, share in zip(losses, shares, strict=True):
        for loss, s in zip(row, share, strict=True):
            total += s * loss if s else 0.0
            mass += s
    return total / mass if mass else 0.0
