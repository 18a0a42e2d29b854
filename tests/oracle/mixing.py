"""Mixed pictures and soft labels as their definitions say, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .classification import log_probability


def mixup(own: Sequence[int], other: Sequence[int], weight: float) -> list[int]:
    return [math.floor(weight * a + (1 - weight) * b + 0.5) for a, b in zip(own, other, strict=True)]


def cutmix(
    own: Sequence[Sequence[int]], other: Sequence[Sequence[int]], box: tuple[int, int, int, int]
) -> tuple[list[list[int]], float]:
    """The picture, and the share of its pixels that are its own."""
    top, left, height, width = box
    rows, kept, total = [], 0, 0
    for y in range(len(own)):
        row = []
        for x in range(len(own[0])):
            inside = top <= y < top + height and left <= x < left + width
            row.append(other[y][x] if inside else own[y][x])
            kept += not inside
            total += 1
        rows.append(row)
    return rows, kept / total


def soft_cross_entropy(
    outputs: Sequence[Sequence[float]],
    own: Sequence[int],
    other: Sequence[int],
    weights: Sequence[float],
    smoothing: float,
) -> float:
    """Each target is a whole distribution: one-hot vectors added up by weight, then smoothed."""
    losses = []
    for scores, a, b, weight in zip(outputs, own, other, weights, strict=True):
        classes = len(scores)
        target = [smoothing / classes] * classes
        target[a] += (1 - smoothing) * weight
        target[b] += (1 - smoothing) * (1 - weight)
        losses.append(-math.fsum(target[k] * log_probability(scores, k) for k in range(classes)))
    return math.fsum(losses) / len(losses)
