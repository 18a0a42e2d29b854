"""Votes of neighbours: those of a slow loop, and of scikit-learn where all votes weigh alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from tessella.errors import BadInput
from tessella.metrics import neighbours
from tessella.metrics.neighbours import VoteConfig, distances, vote
from tessella.metrics.predictions import Array


def drawn(seed: int, known: int, queries: int = 9, width: int = 5, classes: int = 3) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, known)
    centres = rng.normal(size=(classes, width))
    bank = (centres[labels] + rng.normal(size=(known, width))).astype(np.float32)
    return bank, labels, (centres[rng.integers(0, classes, queries)] + rng.normal(size=(queries, width))).astype("f4")


def cosine(a: Array, b: Array) -> float:
    return float(a.astype(float) @ b.astype(float) / math.sqrt(float(a.astype(float) @ a) * float(b.astype(float) @ b)))


def slow(bank: Array, labels: Array, query: Array, classes: int, k: int, temperature: float) -> list[float]:
    ranked = sorted(((cosine(query, known), label) for known, label in zip(bank, labels, strict=True)), reverse=True)
    votes = [0.0] * classes
    for near, label in ranked[:k]:
        votes[label] += math.exp(near / temperature)
    return [v / sum(votes) for v in votes]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.07, 0.5]))
def test_against_a_slow_loop(seed: int, known: int, k: int, temperature: float) -> None:
    bank, labels, queries = drawn(seed, known)
    found = np.exp(vote(bank, labels, queries, 3, VoteConfig(neighbours=k, temperature=temperature)))
    expected = [slow(bank, labels, q, 3, k, temperature) for q in queries]
    assert np.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_votes_are_those_of_scikit_learn(k: int) -> None:
    bank, labels, queries = drawn(0, 200, 100)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(bank, labels).predict_proba(queries)
    equal = np.exp(vote(bank, labels, queries, 3, VoteConfig(neighbours=k, temperature=None)))
    assert np.allclose(equal, theirs, atol=1e-6)
    weighted = np.exp(vote(bank, labels, queries, 3, VoteConfig(neighbours=k)))
    assert k == 1 or not np.allclose(weighted, theirs, atol=1e-2), "the mutation: weights that are left out are seen"


def test_lengths_do_not_matter() -> None:
    bank, labels, queries = drawn(1, 50)
    rng = np.random.default_rng(0)
    scaled = bank * rng.uniform(0.1, 10, (50, 1)).astype(np.float32)
    assert np.allclose(vote(scaled, labels, queries * 7, 3), vote(bank, labels, queries, 3), atol=1e-4)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels, queries = drawn(2, 60, 50)
    whole, far = vote(bank, labels, queries, 3), distances(bank, bank, 4, itself=True)
    monkeypatch.setattr(neighbours, "ROWS", 7)
    assert np.allclose(vote(bank, labels, queries, 3), whole, atol=1e-5)
    assert np.allclose(distances(bank, bank, 4, itself=True), far, atol=1e-6)


def test_distance_is_to_others() -> None:
    bank, _, queries = drawn(3, 30)
    expected = [np.mean(sorted(1 - cosine(q, known) for known in bank)[:4]) for q in queries]
    assert np.allclose(distances(bank, queries, 4), expected, atol=1e-6)
    own = [np.mean(sorted(1 - cosine(q, other) for j, other in enumerate(bank) if j != i)[:4])
           for i, q in enumerate(bank)]  # fmt: skip
    assert np.allclose(distances(bank, bank, 4, itself=True), own, atol=1e-6)
    assert not np.allclose(distances(bank, bank, 4), own, atol=1e-3), "the mutation: everybody is near to himself"


def test_what_cannot_be() -> None:
    with pytest.raises(BadInput, match="too few"):
        distances(np.ones((1, 3), np.float32), np.ones((1, 3), np.float32), 1, itself=True)
    for wrong in ({"neighbours": 0}, {"temperature": 0.0}):
        with pytest.raises(BadInput, match="give 1 or more, and above 0"):
            VoteConfig(**wrong)  # type: ignore[arg-type]
    zero = vote(np.ones((2, 3), np.float32), np.array([0, 1]), np.zeros((1, 3), np.float32), 2)
    assert np.isfinite(zero).all()
