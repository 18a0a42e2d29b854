"""Accuracy and smoothed cross-entropy as their definitions say, one sample and one class at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_of(scores: Sequence[float], target: int) -> int:
    """How many classes come before the target: larger scores, and equal ones with a lower number."""
    before = 0
    for k, score in enumerate(scores):
        if score > scores[target] or (score == scores[target] and k < target):
            before += 1
    return before


def top(outputs: Sequence[Sequence[float]], targets: Sequence[int], k: int) -> float:
    right = 0
    for scores, target in zip(outputs, targets, strict=True):
        right += rank_of(scores, target) < k
    return right / len(targets)


def log_probability(scores: Sequence[float], k: int) -> float:
    largest = max(scores)
    total = math.fsum(math.exp(score - largest) for score in scores)
    return scores[k] - largest - math.log(total)


def cross_entropy(outputs: Sequence[Sequence[float]], targets: Sequence[int], smoothing: float = 0.0) -> float:
    """The target has 1 - smoothing, and every class (the target too) smoothing / K on top."""
    losses = []
    for scores, target in zip(outputs, targets, strict=True):
        loss = 0.0
        for k in range(len(scores)):
            share = smoothing / len(scores) + (1 - smoothing if k == target else 0.0)
            loss -= share * log_probability(scores, k)
        losses.append(loss)
    return math.fsum(losses) / len(losses)
