"""The linear probe finds scikit-learn's minimum, chooses its penalty on what it has not fitted, and answers as well."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tessella.errors import BadInput
from tessella.metrics.linear import ProbeConfig, fit, parts, probe
from tessella.metrics.predictions import Array


def drawn(n: int = 300, width: int = 12, noise: float = 1.3, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Features of very different size and place; half to fit, half to judge."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, width))
    labels = rng.integers(0, 4, 2 * n)
    x = (centres[labels] + noise * rng.normal(size=(2 * n, width))) * 10.0 ** rng.integers(-3, 3, width) + 5
    return x[:n].astype(np.float32), labels[:n], x[n:].astype(np.float32), labels[n:]


def cost(x: Array, labels: Array, weight: Array, bias: Array, penalty: float) -> float:
    logits = x @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]
    return float(losses.mean() + penalty / 2 * (weight**2).sum())


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_the_minimum_is_that_of_scikit_learn(penalty: float) -> None:
    x, labels, *_ = drawn()
    inputs = StandardScaler().fit_transform(x.astype(np.float64))
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000).fit(inputs, labels)
    weight, bias = fit(inputs, labels, 4, penalty)
    least = cost(inputs, labels, theirs.coef_, theirs.intercept_, penalty)
    assert cost(inputs, labels, weight, bias, penalty) == pytest.approx(least, abs=1e-8)
    assert np.allclose(weight, theirs.coef_, atol=2e-3)
    assert cost(inputs, labels, weight * 1.05, bias, penalty) > least + 1e-6, "the mutation: a little off"
    other = fit(inputs, labels, 4, penalty * 2)
    assert cost(inputs, labels, *other, penalty) > least + 1e-7, "and the penalty counted twice"


def test_the_probe_answers_as_well_as_theirs() -> None:
    x, labels, others, truth = drawn()
    found = probe(x, labels, 4)
    scaler = StandardScaler().fit(x.astype(np.float64))
    theirs = LogisticRegression(C=1 / (found.penalty * len(x)), tol=1e-8, max_iter=5000)
    theirs.fit(scaler.transform(x), labels)
    assert np.allclose(found(others), theirs.decision_function(scaler.transform(others)), atol=2e-2)
    accuracy = (found(others).argmax(1) == truth).mean()
    assert accuracy == pytest.approx(theirs.score(scaler.transform(others), truth), abs=0.01) and accuracy > 0.7


def test_the_penalty_is_the_best_on_what_was_held_out() -> None:
    x, labels, *_ = drawn(n=60, width=50, noise=4.0, seed=3)  # few samples, many features: it matters
    cfg = ProbeConfig()
    found = probe(x, labels, 4, cfg)
    kept, held = parts(labels, cfg)
    assert not set(kept) & set(held) and len(kept) + len(held) == 60
    assert all((labels[held] == k).sum() == round(0.2 * (labels == k).sum()) for k in range(4))
    for penalty, loss in found.tried.items():
        alone = probe(x[kept], labels[kept], 4, ProbeConfig(penalties=(penalty,)))
        logits = alone(x[held]).astype(float)
        assert loss == pytest.approx(cost(logits, labels[held], np.eye(4), np.zeros(4), 0), rel=3e-3)
    assert set(found.tried) == set(cfg.penalties) and found.penalty == min(found.tried, key=lambda p: found.tried[p])
    assert found.tried[1e-5] > found.tried[found.penalty] + 0.1, "the mutation: hardly any penalty"


def test_an_absent_class_is_never_answered() -> None:
    x, labels, others, _ = drawn()
    found = probe(x[labels != 2], labels[labels != 2], 4)
    said = found(others)
    assert 2 not in said.argmax(1) and np.isfinite(said[:, [0, 1, 3]]).all() and (said[:, 2] == -np.inf).all()


def test_few_samples_and_dead_features() -> None:
    x = np.array([[1.0, 5.0], [2.0, 5.0]], np.float32)
    found = probe(x, np.array([0, 1]), 2)
    assert found(x).argmax(1).tolist() == [0, 1] and found.tried == {}
    with pytest.raises(BadInput, match="give some above 0"):
        ProbeConfig(penalties=())
