"""Which labels are likely mistakes: a probe on embeddings predicts each label without having seen it.

Kernel ridge regression to one indicator a class. What it would say of a picture had it been trained without it follows
from one fit, in closed form (the hat matrix). Copies of one picture are left out together, else a wrong label would be
confirmed by its own copy. A picture is ranked by how little the probe believes its label, as a probability: by the mere
distance to the next class, pictures that could be anything would crowd out those that are surely something else.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..loading.seeded import generator

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

TEMPERATURES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0)  # tried, from scores to probabilities
BLOCK = 4096  # rows whose kernel is in memory at a time
WORK, FEWEST = 150_000_000, 500  # pictures times landmarks above which there are fewer of these, and how few


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The probe."""

    landmarks: int = 5000  # pictures that the kernel compares with; all of them where there are fewer
    penalties: tuple[float, ...] = (0.2, 0.5, 1.0)  # of the ridge; their mean is steadier than the best of them
    seed: int = 0  # of the landmarks

    def __post_init__(self) -> None:
        if self.landmarks < 2 or not self.penalties or min(self.penalties) <= 0:
            raise BadInput(f"landmarks is {self.landmarks}, penalties {self.penalties}; give 2 or more, and above 0")


@dataclass(frozen=True, eq=False)
class Doubts:
    """For each picture, from a probe that has not seen its label."""

    belief: Floats  # probability of the label that it has
    expected: Index  # the likeliest other class
    wrong: NDArray[np.bool_]  # the probe would have said `expected`
    ranking: Index  # rows, the likeliest mistake first
    agreement: float  # share whose label the probe finds by itself


def doubt(vectors: NDArray[Any], labels: Index, group: Index | None = None, cfg: NoiseConfig | None = None) -> Doubts:
    """`vectors` (N, D), `labels` (N,) of any numbers; rows with the same `group` are copies of one picture."""
    cfg = cfg or NoiseConfig()
    kinds, truth = np.unique(labels, return_inverse=True)
    if len(kinds) < 2 or len(labels) < 4:
        raise BadInput(f"{len(labels)} pictures of {len(kinds)} classes are too few to tell which labels are wrong")
    group = np.arange(len(labels)) if group is None else group
    targets = np.zeros((len(truth), len(kinds)))
    targets[np.arange(len(truth)), truth] = 1.0
    scores = left_out(standard(vectors), targets, group, cfg)
    likely = _calibrated(scores, truth)
    belief = likely[np.arange(len(truth)), truth]
    others = likely.copy()
    others[np.arange(len(truth)), truth] = -1.0
    wrong = others.max(axis=1) > belief
    return Doubts(
        belief=belief,
        expected=kinds[others.argmax(axis=1)],
        wrong=wrong,
        ranking=np.argsort(belief, kind="stable"),
        agreement=float(1 - wrong.mean()),
    )


def standard(vectors: NDArray[Any]) -> Floats:
    """Each column with mean 0 and deviation 1; columns that never change are 0."""
    values = np.asarray(vectors, dtype=np.float64)
    spread = values.std(axis=0)
    out: Floats = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return out


@dataclass(frozen=True, eq=False)
class Kernel:
    """A Gaussian kernel through landmarks (Nystroem): rows become features whose products are about the kernel."""

    vectors: Floats
    marks: Floats
    width: float  # the median squared distance
    turn: Floats  # from values of the kernel to features

    @classmethod
    def of(cls, vectors: Floats, cfg: NoiseConfig) -> Kernel:
        n = len(vectors)
        most = min(cfg.landmarks, max(FEWEST, WORK // max(n, 1)))
        marks = vectors[np.sort(generator(cfg.seed, "landmarks").permutation(n)[:most])]
        within = _squared(marks, marks)
        width = float(np.median(within)) or 1.0
        factor = np.linalg.cholesky(
            np.exp(-within / width) + 1e-6 * np.eye(len(marks))
        )  # copies would make it singular
        return cls(vectors, marks, width, np.linalg.inv(factor).T)

    def turned(self, axes: Floats) -> Kernel:
        return Kernel(self.vectors, self.marks, self.width, self.turn @ axes)

    def features(self, rows: Index | slice) -> Floats:
        out: Floats = np.exp(-_squared(self.vectors[rows], self.marks) / self.width) @ self.turn
        return out


def left_out(vectors: Floats, targets: Floats, group: Index, cfg: NoiseConfig) -> Floats:
    """(N, classes): each row's scores by the ridge regression on all other groups; the mean of the penalties.

    Passes over the rows block by block: memory does not grow with their number.
    """
    kernel, n, mean = Kernel.of(vectors, cfg), len(targets), targets.mean(axis=0)
    targets = targets - mean  # so no offset is needed
    size = kernel.turn.shape[1]
    square, product = np.zeros((size, size)), np.zeros((size, targets.shape[1]))
    for start in range(0, n, BLOCK):
        inputs = kernel.features(slice(start, start + BLOCK))
        square += inputs.T @ inputs
        product += inputs.T @ targets[start : start + BLOCK]
    values, axes = np.linalg.eigh(square)
    values = np.maximum(values, 0.0)
    kernel, product = kernel.turned(axes), axes.T @ product
    out = np.zeros_like(targets)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        inputs = kernel.features(rows)
        for penalty in cfg.penalties:
            scaled = inputs / (values + penalty)
            residual = targets[rows] - scaled @ product
            out[rows] += targets[rows] - residual / np.maximum(1 - (scaled * inputs).sum(axis=1), 1e-9)[:, None]
    for copies in _copies(group):
        inputs, out[copies] = kernel.features(copies), 0.0
        for penalty in cfg.penalties:
            scaled = inputs / (values + penalty)
            hat, residual = scaled @ inputs.T, targets[copies] - scaled @ product
            out[copies] += targets[copies] - np.linalg.solve(np.eye(len(copies)) * (1 + 1e-9) - hat, residual)
    out /= len(cfg.penalties)
    out += mean
    return out


def _calibrated(scores: Floats, truth: Index) -> Floats:
    """Probabilities, at the temperature under which the labels are likeliest."""
    tried = [_softmax(scores / t) for t in TEMPERATURES]
    return max(tried, key=lambda p: float(np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-12)).mean()))


def _softmax(scores: Floats) -> Floats:
    out: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    out /= out.sum(axis=1, keepdims=True)
    return out


def _squared(a: Floats, b: Floats) -> Floats:
    """(N, M) squared distances."""
    out: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * (a @ b.T)
    return np.maximum(out, 0.0, out=out)


def _copies(group: Index) -> list[Index]:
    """Rows of each group that has more than one."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0, True])
    return [order[a:b] for a, b in itertools.pairwise(starts.tolist()) if b - a > 1]
