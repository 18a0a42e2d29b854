"""Several heads: each gets its own outputs and targets, in order; numbers come in their own unit; gaps do not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tessella.card import Head, leaves, slices
from tessella.metrics.heads import figures, names
from tessella.metrics.predictions import fill, known

COLOUR = Head(name="colour", task="classify", classes=("blue", "green", "red"))
PRICE = Head(name="price", task="number", mean=100.0, scale=20.0)
TAGS = Head(name="tags", task="tags", classes=("old", "used"))
HEADS = (COLOUR, PRICE, TAGS)
NAN = float("nan")


def batches() -> list[dict[str, Any]]:
    """Two of two samples; the network says what lies in `image`."""
    said = [[9.0, 0, 0, 0.5, 4, -4], [0, 9, 0, -1.0, -4, 4], [0, 0, 9, 2.0, 4, 4], [9, 0, 0, 0.0, -4, -4]]
    one = {"ids": list("abcd"), "image": torch.tensor(said)}
    one |= {"target/colour": torch.tensor([0, -1, 2, 1]), "target/price": torch.tensor([110.0, 85.0, NAN, 100.0])}
    one |= {"target/tags": torch.tensor([[1.0, 0.0], [0.0, 1.0], [NAN, NAN], [0.0, NAN]])}
    return [{k: v[i : i + 2] for k, v in one.items()} for i in (0, 2)]


def test_outputs_lie_side_by_side() -> None:
    assert slices(HEADS) == {"colour": slice(0, 3), "price": slice(3, 4), "tags": slice(4, 6)}
    assert leaves(HEADS) == {name: f"target/{name}" for name in ("colour", "price", "tags")}
    assert leaves((PRICE,)) == {"price": "label"} and slices((PRICE,)) == {"price": slice(0, 1)}


def test_each_head_has_its_own_answers() -> None:
    found = fill(lambda batch: batch["image"], batches(), HEADS)
    assert list(found) == ["colour", "price", "tags"] and all(p.ids == tuple("abcd") for p in found.values())
    assert found["colour"].outputs.argmax(1).tolist() == [0, 1, 2, 0]
    assert found["price"].outputs.tolist() == [[110.0], [80.0], [140.0], [100.0]], "in the unit of the targets"
    assert found["price"].outputs.dtype == np.float32
    assert (found["tags"].outputs > 0).tolist() == [[True, False], [False, True], [True, True], [False, False]]
    assert found["colour"].targets.tolist() == [0, -1, 2, 1]


def test_figures_leave_gaps_out() -> None:
    found = fill(lambda batch: batch["image"], batches(), HEADS)
    told = figures(found, HEADS)
    assert told["colour/top1"] == pytest.approx(2 / 3), "a, c right, d wrong, b unknown"
    assert told["price/mae"] == pytest.approx(5 / 3) and told["price/rmse"] == pytest.approx((25 / 3) ** 0.5)
    assert told["tags/loss"] == pytest.approx(np.log1p(np.exp(-4)), rel=1e-5)
    assert all(np.isfinite(value) for value in told.values())


def test_figures_have_the_names_that_are_known_before() -> None:
    found = fill(lambda batch: batch["image"], batches(), HEADS)
    assert set(figures(found, HEADS)) <= set(names(HEADS)) and "colour/top1" in names(HEADS)
    for head in HEADS:
        assert set(figures(found, (head,))) <= set(names((head,))), head.name
    assert names((PRICE,)) == ["mae", "rmse", "r2"] == list(figures(found, (PRICE,)))


def test_known_are_those_of_which_something_is() -> None:
    found = fill(lambda batch: batch["image"], batches(), HEADS)
    assert {name: known(p).ids for name, p in found.items()} == {
        "colour": tuple("acd"),
        "price": tuple("abd"),
        "tags": tuple("abd"),
    }


def test_another_order_of_heads_is_seen() -> None:
    """The mutation: heads in another order than the outputs read each other's answers."""
    turned = (PRICE, COLOUR, TAGS)
    told = figures(fill(lambda batch: batch["image"], batches(), turned), turned)
    assert told["colour/top1"] != pytest.approx(2 / 3) and told["price/mae"] > 50


def test_one_head_is_named_plainly() -> None:
    batch = {"ids": ["a", "b"], "image": torch.tensor([[0.0], [1.0]]), "label": torch.tensor([90.0, 120.0])}
    found = fill(lambda batch: batch["image"], [batch], (PRICE,))
    assert set(figures(found, (PRICE,))) >= {"mae", "rmse", "r2"} and found["price"].outputs.tolist() == [
        [100.0],
        [120.0],
    ]
