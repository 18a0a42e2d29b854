"""How well scores sort the right samples before the others: area under the ROC curve, average precision.

Equal scores are one step of the curve, whatever their order: a pair of equal ones counts half. Where one side is empty
there is nothing to sort, and the answer is None. Each costs one sort of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .predictions import Array

Score = Callable[[Array, Array], float | None]
COLUMNS = 64  # laid out one after the other at a time: the steps between numbers of a column are slow


def auroc(scores: Array, positive: Array) -> float | None:
    """The share of pairs of a positive and a negative sample in which the positive one has the larger score."""
    own, n = scores[positive], len(scores)
    if not 0 < len(own) < n or np.isnan(scores).any():
        return None
    line = np.sort(scores)
    twice_ranks = (np.searchsorted(line, own, "left") + np.searchsorted(line, own, "right") + 1).sum()
    wins = float(twice_ranks) / 2 - len(own) * (len(own) + 1) / 2
    return wins / (len(own) * (n - len(own)))


def average_precision(scores: Array, positive: Array) -> float | None:
    """The mean over positive samples of the precision among all that score at least as high."""
    own = np.sort(scores[positive])
    if not len(own) or np.isnan(scores).any():
        return None
    line = np.sort(scores)
    right = len(own) - np.searchsorted(own, own, "left")
    drawn = len(line) - np.searchsorted(line, own, "left")
    return float((right / drawn).mean())


def one_against_rest(score: Score, scores: Array, targets: Array) -> float | None:
    """The mean over classes of which there are samples and counter-samples; `scores` (N, K), `targets` (N,)."""
    return mean(score(column, targets == k) for k, column in enumerate(columns(scores)))


def columns(scores: Array) -> Iterator[Array]:
    for start in range(0, scores.shape[1], COLUMNS):
        yield from np.ascontiguousarray(scores[:, start : start + COLUMNS].T)


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
