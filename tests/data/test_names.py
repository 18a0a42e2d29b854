"""Packed names are the strings that went in, whatever was asked of them."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.data import names as module
from tessella.data.names import Names, sided

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.binary(max_size=4).map(
    lambda b: b.decode("utf-8", "surrogateescape")
)


@given(st.lists(TEXT, max_size=30), st.data())
def test_as_a_list(words: list[str], data: st.DataObject) -> None:
    names = Names.of(words)
    assert list(names) == words and names == words and len(names) == len(words)
    assert pickle.loads(pickle.dumps(names)) == words
    assert [names[i] for i in range(len(words))] == words and list(names[1:3]) == words[1:3]
    if words:
        rows = data.draw(st.lists(st.integers(0, len(words) - 1), max_size=10))
        assert names.take(np.array(rows, dtype=np.int64)) == [words[i] for i in rows]


def test_hash_is_that_of_the_joined_names(monkeypatch: object) -> None:
    words = [f"a/{i}" for i in range(10)]
    for block in (3, 10, 64):
        hasher = hashlib.sha256()
        module.BLOCK = block
        try:
            Names.of(words).feed(hasher)
        finally:
            module.BLOCK = 65_536
        assert hasher.hexdigest() == hashlib.sha256("\0".join(words).encode()).hexdigest()


def test_other_names_are_not_equal() -> None:
    assert Names.of(["a", "bc"]) != Names.of(["ab", "c"]) and Names.of(["a"]) != ["a", "a"] and Names.of(["a"]) != "a"


@pytest.mark.parametrize("name", ["left", "Turn Left", "turn-right", "RIGHT_lung", "turnLeft", "left2", "no left turn"])
def test_names_of_sides(name: str) -> None:
    assert sided(["straight", name]) == name


def test_other_names_are_of_no_side() -> None:
    assert sided(["bright", "copyright", "upright", "cleft", "leftover", "Wright", "", "straight", "42"]) is None
