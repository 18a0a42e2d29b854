"""Scores of strangeness: the distance is to other pictures, and the limit lets through what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tessella.errors import BadInput
from tessella.metrics.anomaly import AnomalyConfig, scores
from tessella.metrics.predictions import Array


def drawn(n: int, seed: int, shift: float = 0.0) -> Array:
    """Around one direction; `shift` turns away from it."""
    centre = np.zeros(16)
    centre[0], centre[1] = 4.0, shift
    return (centre + np.random.default_rng(seed).normal(size=(n, 16))).astype(np.float32)


def test_against_scikit_learn() -> None:
    known, asked = drawn(80, 0), np.concatenate([drawn(10, 1), drawn(10, 2, 3.0)])
    search = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(known)
    found = scores(known, asked)
    assert np.allclose(found.values, search.kneighbors(asked)[0].mean(1), atol=1e-6) and found.known == 80
    own = search.kneighbors()[0].mean(1)  # without itself
    assert found.limit == pytest.approx(np.quantile(own, 0.95), abs=1e-6)
    with_itself = search.kneighbors(known)[0].mean(1)  # the mutation
    assert found.limit != pytest.approx(np.quantile(with_itself, 0.95), abs=1e-3)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_limit_lets_through_what_it_promises(quantile: float) -> None:
    cfg = AnomalyConfig(quantile=quantile)
    found = scores(drawn(600, 0), drawn(600, 1), cfg)
    assert (found.values <= found.limit).mean() == pytest.approx(quantile, abs=0.05)
    strange = scores(drawn(600, 0), drawn(600, 1, 16.0), cfg)
    assert (strange.values > strange.limit).mean() > 0.9


def test_what_cannot_be() -> None:
    with pytest.raises(BadInput, match="1 good pictures are too few"):
        scores(drawn(1, 0), drawn(3, 1))
    for wrong in ({"neighbours": 0}, {"quantile": 1.0}):
        with pytest.raises(BadInput, match="give 1 or more, and a share"):
            AnomalyConfig(**wrong)  # type: ignore[arg-type]
