"""Effective rank and spread: by their formulas, and at the ends that everybody knows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tessella.metrics.features import effective_rank, spread


def cloud(n: int = 400, d: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_rank_by_its_formula() -> None:
    z = cloud() * np.linspace(1, 0.01, 12)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(z.T @ z), 0))  # not by the same decomposition
    share = values / values.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert effective_rank(z) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(z**3) != pytest.approx(expected, rel=1e-2)


def test_ends() -> None:
    assert effective_rank(cloud(2000)) == pytest.approx(12, rel=0.01) and spread(cloud(2000)) == pytest.approx(
        1, abs=0.03
    )
    alike = np.ones((50, 12)) + 1e-6 * cloud(50)
    assert effective_rank(alike) == pytest.approx(1, abs=0.01) and spread(alike) < 1e-4
    line = cloud(200, 1) * np.ones((1, 12))
    assert effective_rank(line) == pytest.approx(1, abs=0.01)
    assert (
        effective_rank(np.zeros((5, 3))) == 1.0 and spread(np.zeros((5, 3))) == 0.0 and spread(np.zeros((0, 3))) == 0.0
    )


def test_neither_sees_a_turn_or_a_scale() -> None:
    z = cloud() * np.linspace(1, 0.1, 12)
    turn = np.linalg.qr(cloud(12, 12, 1))[0]
    assert effective_rank(7 * z @ turn) == pytest.approx(effective_rank(z), rel=1e-6)
    assert spread(7 * z) == pytest.approx(spread(z), rel=1e-6)
