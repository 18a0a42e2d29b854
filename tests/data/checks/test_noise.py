"""Doubtful labels: the closed form against leaving each picture out for real, and planted mistakes found."""

from __future__ import annotations

import numpy as np
import pytest

from tessella.data.checks.noise import NoiseConfig, doubt, left_out, standard
from tessella.errors import BadInput

EXACT = NoiseConfig(penalties=(0.5,))


def clouds(n: int = 240, classes: int = 3, apart: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    return rng.normal(size=(n, 8)) + apart * rng.normal(size=(classes, 8))[truth], truth


def flipped(truth: np.ndarray, share: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(truth), round(share * len(truth)), replace=False)
    labels = truth.copy()
    labels[rows] = (labels[rows] + rng.integers(1, 3, len(rows))) % 3
    return labels, np.isin(np.arange(len(truth)), rows)


def kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / width)


def test_leaving_out_is_what_it_says() -> None:
    """The closed form equals a fit without the picture, and for copies without all of them."""
    vectors, truth = clouds(40)
    group = np.arange(40)
    group[[3, 7, 11]] = 3
    inputs, targets = standard(vectors), np.eye(3)[truth]
    found = left_out(inputs, targets, group, EXACT)
    width = float(np.median(((inputs[:, None] - inputs[None]) ** 2).sum(-1)))
    mean = targets.mean(axis=0)
    for i in (0, 3, 7, 20):
        others = group != group[i]
        # The features are those of all pictures, so only the targets are really held back: same kernel, same ridge.
        matrix = kernel(inputs[others], inputs[others], width) + 0.5 * np.eye(int(others.sum()))
        weights = np.linalg.solve(matrix, targets[others] - mean)
        slow = mean + kernel(inputs[i : i + 1], inputs[others], width)[0] @ weights
        assert np.abs(found[i] - slow).max() < 1e-4


def test_without_leaving_out_mistakes_are_believed() -> None:
    """The mutation: a probe that has seen the label confirms it."""
    vectors, truth = clouds()
    labels, wrong = flipped(truth, 0.05)
    honest = doubt(vectors, labels)
    together = doubt(np.concatenate([vectors] * 2), np.concatenate([labels] * 2))  # every picture has a copy ...
    apart = doubt(np.concatenate([vectors] * 2), np.concatenate([labels] * 2), np.tile(np.arange(len(labels)), 2))
    worst = round(0.1 * len(labels))
    assert wrong[honest.ranking[:worst]].sum() == wrong.sum()
    assert apart.belief[: len(labels)][wrong].max() < 0.5, "... which is left out with it"
    assert together.belief[: len(labels)][wrong].mean() > 2 * apart.belief[: len(labels)][wrong].mean()


def test_beside_scikit_learn() -> None:
    """The same pictures are doubted as by its kernel ridge under its own cross-validation."""
    sklearn = pytest.importorskip("sklearn.kernel_ridge")
    selection = pytest.importorskip("sklearn.model_selection")
    vectors, truth = clouds(300, apart=1.2)
    labels, wrong = flipped(truth, 0.05)
    inputs = standard(vectors)
    width = float(np.median(((inputs[:, None] - inputs[None]) ** 2).sum(-1)))
    theirs = selection.cross_val_predict(
        sklearn.KernelRidge(alpha=0.5, kernel="rbf", gamma=1 / width), inputs, np.eye(3)[labels] - 1 / 3, cv=20
    )
    ours = left_out(inputs, np.eye(3)[labels], np.arange(300), EXACT)
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.97
    margin = theirs[np.arange(300), labels] - np.where(np.eye(3)[labels] > 0, -9, theirs).max(1)
    found, peer = (
        wrong[order[:30]].sum() / wrong.sum() for order in (doubt(vectors, labels).ranking, margin.argsort())
    )
    assert found >= peer - 0.07 and found > 0.7


def test_fewer_landmarks_say_about_the_same() -> None:
    vectors, truth = clouds(600)
    labels, _ = flipped(truth, 0.05)
    whole, part = doubt(vectors, labels), doubt(vectors, labels, cfg=NoiseConfig(landmarks=150))
    assert np.corrcoef(whole.belief, part.belief)[0, 1] > 0.97
    assert abs(whole.agreement - part.agreement) < 0.03


def test_what_is_told() -> None:
    vectors, truth = clouds()
    labels, wrong = flipped(truth + 10, 0.0)[0], 5  # labels need not start at 0
    labels = truth + 10
    labels[wrong] = 10 + (truth[wrong] + 1) % 3
    found = doubt(vectors, labels)
    assert found.ranking[0] == wrong and found.expected[wrong] == truth[wrong] + 10 and found.wrong[wrong]
    assert (np.diff(found.belief[found.ranking]) >= 0).all() and 0 < found.belief.min() and found.belief.max() < 1
    assert found.agreement == 1 - found.wrong.mean()
    again = doubt(vectors, labels)
    assert np.array_equal(again.belief, found.belief)


@pytest.mark.parametrize("labels", [np.zeros(20, np.int64), np.array([0, 1, 0])])
def test_too_little_to_tell(labels: np.ndarray) -> None:
    with pytest.raises(BadInput, match="too few"):
        doubt(np.random.default_rng(0).normal(size=(len(labels), 3)), labels)


def test_odd_embeddings() -> None:
    """Columns that never change, and pictures that are all alike."""
    vectors, truth = clouds(60)
    vectors[:, 2] = 7.0
    assert np.isfinite(doubt(vectors, truth).belief).all()
    assert np.isfinite(doubt(np.ones((60, 4)), truth).belief).all()
    with pytest.raises(BadInput, match="landmarks"):
        NoiseConfig(landmarks=1)
