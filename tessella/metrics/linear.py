"""A linear probe: multinomial logistic regression on frozen features, by L-BFGS in float64.

Features get mean 0 and deviation 1 first, by those that the probe is fitted on. The penalty is chosen on a share held
out of these, then all of them are fitted: what is judged has had no part in either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput
from .predictions import Array

ROUNDS, MEMORY = 300, 20  # of L-BFGS: most iterations, and steps that it remembers


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    penalties: tuple[float, ...] = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)  # half of it times the squared weights, not bias
    held_out: float = 0.2  # share of each class on which the penalty is chosen
    seed: int = 0  # of that share

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0 or not 0 < self.held_out < 1:
            raise BadInput(f"penalties is {self.penalties}, held_out {self.held_out}; give some above 0, and a share")


@dataclass(frozen=True, eq=False)
class Probe:
    mean: Array  # (D,)
    spread: Array  # (D,)
    weight: Array  # (K, D)
    bias: Array  # (K,)
    penalty: float
    tried: dict[float, float]  # penalty -> cross-entropy on the share held out

    def __call__(self, vectors: Array) -> Array:
        """(N, D) features to (N, K) logits, fp32."""
        x = (vectors - self.mean) / self.spread
        out: Array = (x @ self.weight.T + self.bias).astype(np.float32)
        return out


def probe(vectors: Array, labels: Array, classes: int, cfg: ProbeConfig | None = None) -> Probe:
    """`vectors` (N, D), `labels` (N,) from 0 to classes - 1; a class without samples is never answered."""
    cfg = cfg or ProbeConfig()
    kept, held = parts(labels, cfg)
    tried: dict[float, float] = {}
    if len(held) and len(cfg.penalties) > 1:
        mean, spread = _standard(vectors[kept])
        inputs, others = ((vectors[rows] - mean) / spread for rows in (kept, held))
        start = None
        for penalty in sorted(cfg.penalties, reverse=True):  # each from the one before: a short way
            start = fit(inputs, labels[kept], classes, penalty, start)
            logits = torch.from_numpy(others @ start[0].T + start[1])
            tried[penalty] = float(F.cross_entropy(logits, torch.from_numpy(labels[held]).long()))
    best = min(tried, key=lambda penalty: tried[penalty]) if tried else max(cfg.penalties)
    mean, spread = _standard(vectors)
    weight, bias = fit((vectors - mean) / spread, labels, classes, best)
    impossible = np.where(np.bincount(labels, minlength=classes) == 0, -np.inf, bias)  # no loss is made up for it
    return Probe(mean, spread, weight, impossible, best, tried)


def fit(
    inputs: Array, labels: Array, classes: int, penalty: float, start: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """(weight (K, D), bias (K,)) of the least mean cross-entropy plus penalty / 2 times the squared weights."""
    x, t = torch.from_numpy(inputs.astype(np.float64)), torch.from_numpy(labels).long()
    absent = torch.from_numpy(np.bincount(labels, minlength=classes) == 0)
    begin = start or (np.zeros((classes, x.shape[1])), np.zeros(classes))
    weight, bias = (torch.from_numpy(part.copy()).requires_grad_() for part in begin)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=ROUNDS, history_size=MEMORY, tolerance_grad=1e-7, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = (x @ weight.T + bias).masked_fill(absent, -1e30)
        value = F.cross_entropy(logits, t) + penalty / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    low = np.where(absent.numpy(), -1e30, bias.detach().numpy())
    return weight.detach().numpy(), low


def parts(labels: Array, cfg: ProbeConfig) -> tuple[Array, Array]:
    """Rows to fit and rows to choose on: of each class the same share, at least one to fit."""
    order = np.random.default_rng(cfg.seed).permutation(len(labels))
    held = [
        mine[: min(len(mine) - 1, max(1, round(cfg.held_out * len(mine))))]
        for mine in (order[labels[order] == k] for k in np.unique(labels))
    ]
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(held)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _standard(vectors: Array) -> tuple[Array, Array]:
    """Mean and deviation of each feature; one that never changes is divided by 1."""
    x = vectors.astype(np.float64)
    spread = x.std(axis=0)
    return x.mean(axis=0), np.where(spread > 1e-12, spread, 1.0)
