"""The temperature is that of torch's LBFGS and of a grid, moves no answer, and is refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tessella.card import Head
from tessella.errors import BadInput
from tessella.metrics.accuracy import cross_entropy, top
from tessella.metrics.calibration import reliability
from tessella.metrics.predictions import Predictions, answers
from tessella.metrics.temperature import temperature


def drawn(seed: int, n: int = 400, k: int = 6, too_sure: float = 3.0) -> Predictions:
    """Targets are drawn from the probabilities of the logits; those shown are `too_sure` times as large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 1.5
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = np.array([rng.choice(k, p=row) for row in chances])
    return Predictions(tuple(map(str, range(n))), targets, (too_sure * logits).astype(np.float32))


def divided(p: Predictions, by: float) -> Predictions:
    return Predictions(p.ids, p.targets, (p.outputs.astype(np.float64) / by).astype(np.float64))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.5, 1.0, 4.0, 20.0]), st.sampled_from([60, 3000]))
def test_no_other_temperature_is_likelier(seed: int, too_sure: float, n: int) -> None:
    p = drawn(seed, n, too_sure=too_sure)
    found = temperature(p)
    best = minimize_scalar(
        lambda logarithm: cross_entropy(divided(p, np.exp(logarithm))), bounds=(-3.9, 3.9), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert np.log(found) == pytest.approx(best.x, abs=1e-4)
    assert cross_entropy(divided(p, found)) <= best.fun + 1e-12
    assert cross_entropy(divided(p, found * 1.05)) > best.fun + 1e-9, "the mutation: a little off"


def test_against_lbfgs() -> None:
    p = drawn(0)
    x, t = torch.from_numpy(p.outputs).double(), torch.from_numpy(p.targets)
    logarithm = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logarithm], max_iter=60, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(x / logarithm.exp(), t)
        value.backward()
        return value

    optimiser.step(loss)
    assert temperature(p) == pytest.approx(logarithm.exp().item(), rel=1e-6)
    assert temperature(p) == pytest.approx(3.0, rel=0.15), "what the logits were multiplied with"
    assert reliability(divided(p, temperature(p))).ece < reliability(p).ece / 3


def test_no_answer_moves() -> None:
    p = drawn(1)
    head = Head(name="label", task="classify", classes=tuple("abcdef"), temperature=temperature(p))
    cooled = Predictions(p.ids, p.targets, answers(p.outputs, head, slice(0, 6)))
    assert (cooled.outputs.argsort(1) == p.outputs.argsort(1)).all() and cooled.outputs.dtype == np.float32
    assert [top(cooled, k) for k in (1, 3)] == [top(p, k) for k in (1, 3)]
    assert cross_entropy(cooled) < cross_entropy(p) - 0.1
    assert temperature(cooled) == pytest.approx(1.0, abs=1e-6), "found once, nothing is left to find"


def test_who_is_unknown_does_not_count() -> None:
    p = drawn(2)
    half = np.where(np.arange(400) % 2, p.targets, -1)
    kept = Predictions(p.ids[1::2], p.targets[1::2], p.outputs[1::2])
    assert temperature(Predictions(p.ids, half, p.outputs)) == temperature(kept) != temperature(p)


@pytest.mark.parametrize(
    ("targets", "outputs", "words"),
    [
        ([0, 1], [[2.0, 0], [0, 1]], "all 2 pictures are answered right"),
        ([1, 0], [[2.0, 0], [0, 1]], "no better than chance"),
        ([-1, -1], [[2.0, 0], [0, 1]], "pictures of known class"),
        ([0, 1], [[float("nan"), 0], [0, 1]], "finite"),
    ],
)
def test_where_there_is_none(targets: list[int], outputs: list[list[float]], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        temperature(Predictions(("a", "b"), np.array(targets), np.array(outputs, np.float32)))
    assert "\n" not in str(caught.value)
