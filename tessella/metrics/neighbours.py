"""Nearest neighbours by cosine: the class that they vote for, and how far away they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from .predictions import Array

ROWS = 512  # queries compared with all known vectors at a time
FLOOR = 1e-12  # share of the votes of a class that nobody voted for: its logarithm is to be a number


@dataclass(frozen=True, kw_only=True)
class VoteConfig:
    neighbours: int = 20
    temperature: float | None = 0.07  # a vote weighs exp(cosine / temperature), as in DINO; None: all votes alike

    def __post_init__(self) -> None:
        if self.neighbours < 1 or (self.temperature is not None and not self.temperature > 0):
            raise BadInput(
                f"neighbours is {self.neighbours}, temperature {self.temperature}; give 1 or more, and above 0"
            )


def vote(known: Array, labels: Array, queries: Array, classes: int, cfg: VoteConfig | None = None) -> Array:
    """(N, classes) fp32: the logarithm of each class's share of the votes. `known` (M, D), `labels` (M,) of these."""
    cfg = cfg or VoteConfig()
    out = np.empty((len(queries), classes), np.float32)
    start = 0
    for cosines, places in nearest(known, queries, cfg.neighbours):
        weights = np.ones_like(cosines)
        if cfg.temperature is not None:
            weights = np.exp((cosines - cosines.max(1, keepdims=True)) / cfg.temperature)
        rows = np.arange(len(cosines))[:, None] * classes
        votes = np.bincount((rows + labels[places]).ravel(), weights.ravel(), len(cosines) * classes)
        shares = votes.reshape(-1, classes) / weights.sum(1, keepdims=True)
        out[start : start + len(cosines)] = np.log(np.maximum(shares, FLOOR))
        start += len(cosines)
    return out


def distances(known: Array, queries: Array, neighbours: int, *, itself: bool = False) -> Array:
    """(N,) mean of 1 - cosine to the nearest known vectors. `itself`: query i is known vector i, and does not count."""
    found = [1 - cosines.mean(1) for cosines, _ in nearest(known, queries, neighbours, itself=itself)]
    return np.concatenate(found) if found else np.zeros(0)


def nearest(known: Array, queries: Array, neighbours: int, *, itself: bool = False) -> Iterator[tuple[Array, Array]]:
    """(cosines, rows of `known`), each (n, k), of some queries after the other; in no order within the k."""
    k = min(neighbours, len(known) - itself)
    if k < 1:
        raise BadInput(f"{len(known)} known pictures are too few to have a neighbour; give more")
    bank = unit(known)
    for start in range(0, len(queries), ROWS):
        cosines = unit(queries[start : start + ROWS]) @ bank.T
        if itself:
            own = np.arange(len(cosines))
            cosines[own, start + own] = -np.inf
        places = np.argpartition(cosines, len(known) - k, axis=1)[:, len(known) - k :]
        yield np.take_along_axis(cosines, places, axis=1).astype(np.float64), places


def unit(vectors: Array) -> Array:
    """Of length 1; a vector of zeros stays one."""
    x = vectors.astype(np.float32)
    length = np.sqrt(np.square(x, dtype=np.float64).sum(1, keepdims=True))
    out: Array = (x / np.maximum(length, 1e-12)).astype(np.float32)
    return out
