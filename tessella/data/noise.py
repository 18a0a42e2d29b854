"""Which labels are likely mistakes: a linear probe on embeddings predicts each label without having seen it.

Ridge regression to one indicator a class, in closed form, over folds. Copies of one picture are in one fold, else a
wrong label would be confirmed by its own copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .seeded import generator

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    folds: int = 5
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, times pictures; the best is taken
    seed: int = 0  # of the folds

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise BadInput(f"folds is {self.folds}; give 2 or more")


@dataclass(frozen=True, eq=False)
class Doubts:
    """For each picture, from a probe that has not seen its label."""

    margin: Floats  # score of its label minus the best other; below 0 the probe would have said otherwise
    expected: Index  # the best other class
    ranking: Index  # rows, the likeliest mistake first
    agreement: float  # share whose label the probe finds by itself


def doubt(vectors: NDArray[Any], labels: Index, group: Index | None = None, cfg: NoiseConfig | None = None) -> Doubts:
    """`vectors` (N, D), `labels` (N,) of any numbers; rows with the same `group` are copies of one picture."""
    cfg = cfg or NoiseConfig()
    kinds, truth = np.unique(labels, return_inverse=True)
    if len(kinds) < 2 or len(labels) < 2 * cfg.folds:
        raise BadInput(f"{len(labels)} pictures of {len(kinds)} classes are too few to tell which labels are wrong")
    fold = folds(np.arange(len(labels)) if group is None else group, cfg)
    scores = _best(standard(vectors), truth, len(kinds), fold, cfg)
    own = scores[np.arange(len(truth)), truth]
    others = scores.copy()
    others[np.arange(len(truth)), truth] = -np.inf
    margin = own - others.max(axis=1)
    return Doubts(margin, kinds[others.argmax(axis=1)], np.argsort(margin, kind="stable"), float((margin > 0).mean()))


def folds(group: Index, cfg: NoiseConfig) -> Index:
    """(N,) number of the fold of each row; equal groups, equal folds."""
    kinds, place = np.unique(group, return_inverse=True)
    order = generator(cfg.seed, "folds").permutation(len(kinds))
    out: Index = (order % cfg.folds)[place]
    return out


def standard(vectors: NDArray[Any]) -> Floats:
    """Each column with mean 0 and deviation 1; columns that never change are 0."""
    values = np.asarray(vectors, dtype=np.float64)
    spread = values.std(axis=0)
    out: Floats = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return out


def _best(features: Floats, truth: Index, classes: int, fold: Index, cfg: NoiseConfig) -> Floats:
    """(N, classes) out-of-fold scores under the penalty that finds most labels."""
    tried = [ridge(features, truth, classes, fold, penalty) for penalty in cfg.penalties]
    return max(tried, key=lambda scores: float((scores.argmax(axis=1) == truth).mean()))


def ridge(features: Floats, truth: Index, classes: int, fold: Index, penalty: float) -> Floats:
    """(N, classes): each row's scores by the regression on the rows of the other folds."""
    n, width = features.shape
    wide = np.concatenate([features, np.ones((n, 1))], axis=1)
    targets = np.zeros((n, classes))
    targets[np.arange(n), truth] = 1.0
    held = np.full(width + 1, penalty * n)
    held[-1] = 0.0  # the offset is free
    square, product = wide.T @ wide, wide.T @ targets
    out = np.zeros((n, classes))
    for k in np.unique(fold):
        inside = fold == k
        part = wide[inside]
        matrix = square - part.T @ part + np.diag(held)
        solved = np.linalg.lstsq(matrix, product - part.T @ targets[inside], rcond=None)[0]
        out[inside] = part @ solved
    return out
