"""Does learning without labels work? Figures of the features, as they are now, at every evaluation of a run.

Some training pictures are the bank, some held-out ones the questions. Where there are classes, the nearest neighbours
in the bank vote for one (kNN), and a linear probe is fitted on it: neither has any part in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..data.source import Source, Splits
from ..errors import BadInput
from ..metrics.features import effective_rank, spread
from ..metrics.linear import ProbeConfig
from ..metrics.linear import probe as linear
from ..metrics.neighbours import VoteConfig, vote
from ..metrics.predictions import Array
from ..training.trainer import Infer

BANK, ASKED = 4000, 2000  # pictures at most: enough to tell a point of kNN from chance, a few seconds of looking
FIGURES = ("knn", "linear", "rank", "spread")
PENALTY = 1e-3  # of the probe while a run goes on; `evaluate --probe linear` looks for the best
Vectors = Callable[[Infer, Source], tuple[tuple[str, ...], Array]]  # ids of what could be read, and (N, D)


def some(source: Source, most: int) -> Source:
    """Every so-manieth picture: the same ones each time, of all classes."""
    rows = np.arange(len(source)) if len(source) <= most else np.linspace(0, len(source) - 1, most).astype(np.int64)
    return replace(source.take(rows), targets={})


def watching(splits: Splits, vectors: Vectors) -> Callable[[Infer], dict[str, float]]:
    """What the trainer calls; on all ranks together, all get the same figures."""
    assert splits.val is not None
    bank, asked, classes = some(splits.train, BANK), some(splits.val, ASKED), len(splits.classes)

    def evaluate(infer: Infer) -> dict[str, float]:
        ids, found = vectors(infer, asked)
        if not ids:
            raise BadInput("there is no held-out picture to look at: none could be read; see the list of bad files")
        told = {"rank": effective_rank(found), "spread": spread(found)}
        if classes < 2 or asked.labels is None or bank.labels is None:
            return told
        known, around = vectors(infer, bank)
        return judged((labels_of(bank, known), around), (labels_of(asked, ids), found), classes) | told

    return evaluate


def pictures(splits: Splits) -> int:
    """That an evaluation looks at."""
    held = 0 if splits.val is None else min(ASKED, len(splits.val))
    return held + (min(BANK, len(splits.train)) if held and len(splits.classes) > 1 else 0)


def judged(known: tuple[Array, Array], asked: tuple[Array, Array], classes: int) -> dict[str, float]:
    """kNN and linear probe, fitted on (labels, vectors) and asked about others; -1 counts nothing."""
    (labels, around), (truth, found) = ((y[y >= 0], x[y >= 0]) for y, x in (known, asked))
    if len(np.unique(labels)) < 2 or not len(truth):
        return {}
    cfg = VoteConfig(neighbours=min(VoteConfig().neighbours, len(labels)))
    voted = vote(around, labels, found, classes, cfg).argmax(1)
    fitted = linear(around, labels, classes, ProbeConfig(penalties=(PENALTY,)))
    answered = fitted(found).argmax(1)
    return {"knn": float((voted == truth).mean()), "linear": float((answered == truth).mean())}


def labels_of(source: Source, ids: tuple[str, ...]) -> Array:
    assert source.labels is not None
    place = {name: row for row, name in enumerate(source.ids)}
    return source.labels[[place[name] for name in ids]]
