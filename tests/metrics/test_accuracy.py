"""The metrics are those of slow loops, also where scores are equal, huge or few."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracle import classification as oracle
from ranks import run_ranks

from tessella.card import Head
from tessella.errors import BadInput
from tessella.metrics.accuracy import cross_entropy, top, wilson
from tessella.metrics.confusion import by_class, confusion
from tessella.metrics.predictions import Predictions, fill

HEADS = (Head(name="label", task="classify", classes=("a", "b", "c")),)


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    n, k = draw(st.integers(1, 12)), draw(st.integers(2, 7))
    few = st.sampled_from([-2.0, 0.0, 0.5, 1.0])  # many equal ones
    any_ = st.floats(-80, 80, width=32)
    outputs = draw(arrays(np.float32, (n, k), elements=draw(st.sampled_from([few, any_]))))
    return Predictions(
        tuple(str(i) for i in range(n)), draw(arrays(np.int64, n, elements=st.integers(0, k - 1))), outputs
    )


@settings(max_examples=80, deadline=None)
@given(predictions(), st.integers(1, 9))
def test_against_slow_loops(p: Predictions, k: int) -> None:
    outputs, targets = p.outputs.tolist(), p.targets.tolist()
    assert top(p, k) == oracle.top(outputs, targets, k)
    assert math.isclose(cross_entropy(p), oracle.cross_entropy(outputs, targets), rel_tol=1e-9, abs_tol=1e-9)
    each = by_class(confusion(p))
    for number in range(p.outputs.shape[1]):
        mine = [i for i, t in enumerate(targets) if t == number]
        expected = oracle.top([outputs[i] for i in mine], [number] * len(mine), 1) if mine else None
        assert each[number].recall == expected


def test_huge_scores_do_not_overflow() -> None:
    p = Predictions(("a", "b"), np.array([0, 1]), np.array([[3e38, -3e38], [0.0, 1e4]], np.float32))
    assert cross_entropy(p) == 0.0


def test_an_output_that_is_no_number_is_not_right() -> None:
    nan = float("nan")
    p = Predictions(("a", "b", "c"), np.array([0, 0, 1]), np.array([[nan, 0], [1, nan], [nan, nan]], np.float32))
    assert top(p, 1) == 0.0


def test_who_is_not_known_does_not_count() -> None:
    p = Predictions(("a", "b", "c"), np.array([0, -1, 1]), np.array([[1, 0], [5, 0], [1, 0]], np.float32))
    kept = Predictions(("a", "c"), p.targets[[0, 2]], p.outputs[[0, 2]])
    assert top(p, 1) == top(kept, 1) == 0.5 and cross_entropy(p) == cross_entropy(kept)
    counted = Predictions(p.ids, np.array([0, 1, 1]), p.outputs)  # the mutation: the last class instead of nobody
    assert top(counted, 1) != 0.5 and cross_entropy(counted) != cross_entropy(kept)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (3, 4), (180, 204), (1, 1), (8_400, 10_000)])
def test_the_interval_of_a_share(right: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    plain = 1.96 * math.sqrt(right / n * (1 - right / n) / n)  # the mutation: nothing at all where all are right
    assert (right / n - plain, right / n + plain) != pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_tie_is_not_luck() -> None:
    """A network that says the same of everything is right where the target is the first class, and nowhere else."""
    p = Predictions(("a", "b", "c"), np.array([0, 1, 2]), np.zeros((3, 3), np.float32))
    assert [top(p, k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1.0]


def test_the_wrong_formula_is_seen() -> None:
    """The mutation: forgetting the logarithm of the sum, or counting a tie as right, is far from the oracle."""
    rng = np.random.default_rng(0)
    p = Predictions(tuple("abcdef"), rng.integers(0, 4, 6), rng.integers(0, 3, (6, 4)).astype(np.float32))
    wrong = float(-p.outputs[np.arange(6), p.targets].mean())
    assert abs(wrong - oracle.cross_entropy(p.outputs.tolist(), p.targets.tolist())) > 0.1
    p = Predictions(("a", "b"), np.array([1, 1]), np.array([[2, 2], [0, 1]], np.float32))
    lucky = float((p.outputs[np.arange(2), p.targets] == p.outputs.max(1)).mean())
    assert lucky != oracle.top(p.outputs.tolist(), p.targets.tolist(), 1)


def batches(start: int, stop: int, size: int) -> list[dict[str, Any]]:
    """Sample i has label i % 3 and scores that follow from i; the last batches may be empty."""
    out = []
    for first in range(start, start + size * -(-7 // size), size):
        mine = range(min(first, stop), min(first + size, stop))
        image = torch.tensor([[i * 7 % 5, i % 4, i % 2] for i in mine], dtype=torch.float32).reshape(-1, 3)
        label = torch.tensor([i % 3 for i in mine], dtype=torch.int64)
        out.append({"ids": [str(i) for i in mine], "image": image, "label": label})
    return out


def found(first: int, last: int) -> dict[str, Any]:
    p = fill(lambda batch: batch["image"], batches(first, last, 2), HEADS)["label"]
    return {"ids": list(p.ids), "targets": torch.from_numpy(p.targets), "outputs": torch.from_numpy(p.outputs)}


def of_rank() -> dict[str, Any]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    mine = found(0, 4) if dist.get_rank() == 0 else found(4, 11)
    dist.destroy_process_group()
    return mine


def test_one_pass_keeps_order_and_bytes() -> None:
    whole = found(0, 7)
    assert whole["ids"] == [str(i) for i in range(7)]
    assert whole["targets"].tolist() == [i % 3 for i in range(7)]
    assert whole["outputs"].tolist() == [[i * 7 % 5, i % 4, i % 2] for i in range(7)]


def test_two_ranks_with_unequal_shares_see_the_whole(tmp_path: Path) -> None:
    one, other = run_ranks(2, of_rank, out=tmp_path)
    assert one["ids"] == other["ids"] == [str(i) for i in range(11)]
    assert torch.equal(one["outputs"], other["outputs"])
    assert one["targets"].tolist() == [i % 3 for i in range(11)]


def test_nothing_to_see_is_an_error() -> None:
    nothing = {"ids": [], "label": torch.zeros(0, dtype=torch.int64), "image": torch.zeros(0, 2)}
    for batches in ([], [nothing]):
        with pytest.raises(BadInput, match="no picture"):
            fill(lambda batch: batch["image"], batches, HEADS)


def test_empty_batches_need_no_network() -> None:
    """Some networks refuse a batch of nothing; in one process nobody waits for them."""
    one = {"ids": ["a"], "label": torch.tensor([1]), "image": torch.ones(1, 2)}
    nothing = {k: v[:0] for k, v in one.items()}

    def infer(batch: dict[str, Any]) -> torch.Tensor:
        assert len(batch["ids"])
        return batch["image"]

    assert fill(infer, [nothing, one, nothing], HEADS)["label"].ids == ("a",)
