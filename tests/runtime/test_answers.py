"""What each head says, from outputs side by side: classes and tags with probabilities, numbers in their unit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tessella.card import Head
from tessella.runtime.answers import answers
from tessella.runtime.model import Prediction

COLOUR = Head(name="colour", task="classify", classes=("blue", "green", "red"))
PRICE = Head(name="price", task="number", mean=100.0, scale=20.0)
TAGS = Head(name="tags", task="tags", classes=("old", "rare", "used"))
HEADS = (COLOUR, PRICE, TAGS)
OUTPUTS = np.array([[0.0, 1.0, 2.0, -0.5, 1.0, -3.0, 2.0], [3.0, 3.0, 0.0, 1.0, -1.0, -1.0, -1.0]], np.float32)


def test_each_head_says_its_own() -> None:
    first, second = answers(HEADS, OUTPUTS, top=2)
    total = 1 + math.e + math.e**2
    assert first["colour"].names == ("red", "green")
    assert first["colour"].probabilities == pytest.approx((math.e**2 / total, math.e / total))
    assert first["price"].number == 90.0 and second["price"].number == 120.0
    assert first["tags"].names == ("used", "old")
    assert first["tags"].probabilities == pytest.approx((1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))))
    assert second["tags"].names == () and second["colour"].names == ("blue", "green"), "of equal ones the first"


def test_another_order_reads_other_outputs() -> None:
    """The mutation: heads that are listed in another order than they were trained in."""
    turned = answers((PRICE, COLOUR, TAGS), OUTPUTS, top=2)
    assert turned[0]["price"].number == 100.0 and turned[0]["colour"].names != ("red", "green")


def test_a_temperature_moves_no_answer() -> None:
    cold = Head(name="colour", task="classify", classes=COLOUR.classes, temperature=0.5)
    one, other = (answers((h,), OUTPUTS[:, :3], 3)[0]["colour"] for h in (COLOUR, cold))
    assert one.names == other.names and other.probabilities[0] > one.probabilities[0]
    assert other.probabilities == pytest.approx(answers((COLOUR,), 2 * OUTPUTS[:, :3], 3)[0]["colour"].probabilities)


def test_huge_outputs() -> None:
    huge = np.array([[1e4, -1e4, 0.0, 0.0, 1e4, -1e4, 0.0]], np.float32)
    said = answers(HEADS, huge, 5)[0]
    assert said["colour"].probabilities == (1.0, 0.0, 0.0) and said["tags"].probabilities == (1.0, 0.5)


def test_in_words_and_in_json() -> None:
    first, second = answers(HEADS, OUTPUTS, top=1)
    told = [
        str(Prediction(n, s["colour"].names, s["colour"].probabilities, s)) for n, s in (("a", first), ("b", second))
    ]
    assert told[0] == "a: colour red 66.5 % · price 90 · tags used 88.1 %, old 73.1 %"
    assert told[1].endswith("price 120 · tags none")
    assert str(Prediction("a", (), (), {"price": first["price"]})) == "a: 90", "one head needs no name"
    assert first["price"].plain() == {"number": 90.0}
    assert list(first["tags"].plain()) == ["tags", "probabilities"] and first["colour"].plain()["classes"] == ["red"]
