"""Which class is taken for which, and what follows from that table alone: precision, recall, F1.

Macro figures are means over classes, each counting alike. As in scikit-learn, balanced accuracy is over the classes
that occur, macro F1 over those that occur or were answered: a class that is in neither says nothing of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .predictions import Array, Predictions, known


def confusion(p: Predictions) -> Array:
    """(K, K) counts: rows are the truth, columns the answers."""
    p = known(p)
    k = p.outputs.shape[1]
    pairs = p.targets.astype(np.int64) * k + p.outputs.argmax(1)
    table: Array = np.bincount(pairs, minlength=k * k).reshape(k, k)
    return table


@dataclass(frozen=True)
class ClassFigures:
    """One class. None: there is nothing to divide by."""

    precision: float | None  # of its answers, how many are right
    recall: float | None  # of its samples, how many are found
    f1: float | None
    support: int  # samples of it


def by_class(table: Array) -> list[ClassFigures]:
    hits, there, said = table.diagonal(), table.sum(1), table.sum(0)
    return [
        ClassFigures(_share(h, s), _share(h, t), _share(2 * h, t + s), t)
        for h, t, s in zip(hits.tolist(), there.tolist(), said.tolist(), strict=True)
    ]


def balanced_accuracy(table: Array) -> float:
    """Mean recall."""
    there = table.sum(1)
    return float((table.diagonal()[there > 0] / there[there > 0]).mean())


def macro_f1(table: Array) -> float:
    both = table.sum(1) + table.sum(0)
    return float((2 * table.diagonal()[both > 0] / both[both > 0]).mean())


class Mistaken(NamedTuple):
    truth: int
    answer: int
    times: int


def worst_pairs(table: Array, most: int = 10) -> list[Mistaken]:
    """The mistakes that are made most often; of equal ones the lower class numbers come first."""
    off = table.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    found = ((int(i) // len(off), int(i) % len(off)) for i in order)
    return [Mistaken(t, a, int(off[t, a])) for t, a in found if off[t, a]]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
