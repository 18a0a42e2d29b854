"""Polygons and run lengths against COCO's own tools, bit by bit."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.names import Names
from tessella.data.origins import outlines
from tessella.data.origins.outlines import OutlineColumn, Outlines, bitmap, of_polygon, of_runs, packed
from tessella.errors import BadInput

oracle = pytest.importorskip("pycocotools.mask")
SIZES = st.tuples(st.integers(1, 23), st.integers(1, 23))


def drawn(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    return oracle.decode(oracle.merge(oracle.frPyObjects(polygons, *size))).astype(bool)


@settings(max_examples=300, deadline=None)
@given(SIZES, st.lists(st.tuples(st.floats(-8, 30), st.floats(-8, 30)), min_size=3, max_size=9))
def test_any_polygon_is_drawn_as_by_the_oracle(size: tuple[int, int], points: list[tuple[float, float]]) -> None:
    corners = [number for point in points for number in point]
    assert np.array_equal(of_polygon(corners, size), drawn([corners], size))


@settings(max_examples=100, deadline=None)
@given(SIZES, st.randoms(use_true_random=False))
def test_run_lengths_packed_and_plain(size: tuple[int, int], random: Any) -> None:
    share = random.random()
    truth = np.array([random.random() < share for _ in range(size[0] * size[1])]).reshape(size)
    told = oracle.encode(np.asfortranarray(truth.astype(np.uint8)))
    text = told["counts"].decode()
    assert np.array_equal(bitmap({"size": list(size), "counts": text}, size), truth)
    flat = truth.T.ravel()
    runs = np.diff(np.flatnonzero(np.r_[True, flat[1:] != flat[:-1], True]))
    counts = [0] * bool(flat[0]) + runs.tolist()
    assert packed(text) == counts and np.array_equal(of_runs(counts, size), truth)


def test_long_runs_and_a_large_picture() -> None:
    truth = np.zeros((700, 900), bool)
    truth[100:650, 3:880] = True
    truth[::7, ::5] ^= True
    text = oracle.encode(np.asfortranarray(truth.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(bitmap({"size": [700, 900], "counts": text}, (700, 900)), truth)


def test_the_bars_see_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of four, rows for columns, or no difference to the one before: each must be seen."""
    corners = [1.2, 1.1, 17.3, 4.4, 9.9, 15.6]
    want = drawn([corners], (20, 19))
    assert np.array_equal(of_polygon(corners, (20, 19)), want)
    monkeypatch.setattr(outlines, "FINE", 4)
    assert not np.array_equal(of_polygon(corners, (20, 19)), want)
    text = oracle.encode(np.asfortranarray(want.astype(np.uint8)))["counts"].decode()
    plain = packed(text)
    assert not np.array_equal(of_runs(plain, (19, 20)).T, want)
    assert [n - (plain[i - 2] if i > 2 else 0) for i, n in enumerate(plain)] != plain


def test_several_polygons_of_one_object_unite() -> None:
    parts = [[1, 1, 9, 1, 9, 9, 1, 9], [5, 5, 14, 5, 14, 14, 5, 14], [-5.0, 2, 30, 3, 8, 40]]
    assert np.array_equal(bitmap(parts, (16, 17)), drawn(parts, (16, 17)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"size": [4, 5], "counts": [21]}, "21 pixels of 20"),
        ({"size": [4, 5], "counts": [30, -10]}, "20 pixels of 20|20"),
        ({"size": [5, 4], "counts": [20]}, "picture is"),
        ({"size": [4, 5], "counts": "P"}, "cut off"),
        ({"size": [4, 5], "counts": "\u2603"}, "does not belong"),
        ({"size": [4, 5]}, "counts"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three corners"),
        ([[1, 2, 3, 4, 5, 1e12]], "far out"),
        ([["a", 1, 2, 3, 4, 5]], "convert"),
        (7, "iterable"),
    ],
)
def test_damaged_shapes_are_named(shape: Any, words: str) -> None:
    with pytest.raises(BadInput, match=f"x.jpg: the shape of object 1 is damaged.*({words})") as caught:
        Outlines((4, 5), (None, shape), "x.jpg").bitmaps()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(0, 0), (-1, 5), (10**9, 10**9)])
def test_sizes_that_cannot_be_drawn(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="cannot be drawn"):
        Outlines(size, ([[1, 2, 3, 4, 5, 6]],), "x.jpg").bitmaps()


def test_column_keeps_takes_and_digests() -> None:
    shapes = [[[[1, 1, 4, 1, 4, 4.5]], None], [], [{"size": [6, 6], "counts": [0, 36]}]]
    sizes = np.array([[6, 7], [1, 1], [6, 6]])
    column = OutlineColumn.of(shapes, sizes, Names.of(["a", "b", "c"]))
    assert len(column) == 3 and len(column[0]) == 2 and len(column[1]) == 0
    assert column[0].bitmaps().shape == (2, 6, 7) and not column[0].bitmaps()[1].any()
    assert column[2].bitmaps().all() and column[1].bitmaps().shape == (0, 1, 1)
    assert json.dumps(list(column[0].shapes)) == json.dumps(shapes[0])
    part = pickle.loads(pickle.dumps(column.take(np.array([2, 0]))))
    assert part[1].name == "a" and part[0].size == (6, 6)
    others = [
        column.take(np.array([0, 1])),
        OutlineColumn.of(shapes, sizes + 1, Names.of(["a", "b", "c"])),
        OutlineColumn.of([shapes[0], [None], shapes[2]], sizes, Names.of(["a", "b", "c"])),
    ]
    assert len({c.digest() for c in [column, *others]}) == 4
