"""Packed targets give back what was put in, for any picking of rows; the digest sees every change and only changes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.names import Names
from tessella.data.origins.targets import (
    BoxColumn,
    Boxes,
    CaptionColumn,
    LabelsColumn,
    MaskColumn,
    NumberColumn,
)
from tessella.data.source import Column, Source


@dataclass(frozen=True)
class Words:
    """A reader whose bytes are the names."""

    names: Names

    def read(self, row: int) -> bytes:
        return self.names[row].encode()


def masks(values: list[str]) -> MaskColumn:
    ids = Names.of(values)
    rows = np.array([i if v else -1 for i, v in enumerate(values)], dtype=np.int64)
    return MaskColumn(reader=Words(ids), rows=rows, ids=ids, sizes=np.array([len(v) for v in values]), names=("a",))


def boxes(values: list[list[tuple[float, int, bool]]]) -> BoxColumn:
    each = [Boxes.of([(x, 0, x + 2, 3) for x, _, _ in v], [c for _, c, _ in v], [k for *_, k in v]) for v in values]
    return BoxColumn.of(each, ["cat", "dog"])


FLOAT = st.floats(0, 999, width=32)
BOX = st.tuples(FLOAT, st.integers(0, 1), st.booleans())
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
KINDS: dict[str, tuple[Callable[[list[Any]], Column], st.SearchStrategy[Any]]] = {
    "boxes": (boxes, st.lists(BOX, max_size=3)),
    "captions": (CaptionColumn.of, st.lists(TEXT.filter(bool), max_size=3).map(tuple)),
    "numbers": (lambda v: NumberColumn(np.array(v, dtype=np.float64)), st.floats(allow_nan=True)),
    "labels": (lambda v: LabelsColumn.of(v, ["x", "y"]), st.lists(st.integers(0, 9), max_size=3)),
    "masks": (masks, TEXT),
}


def plain(value: Any) -> Any:
    """A value that compares with ==."""
    if isinstance(value, Boxes):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return repr(value)  # NaN is equal to itself, -0.0 is not 0.0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_values_come_back_in_any_order(kind: str, data: st.DataObject) -> None:
    make, one = KINDS[kind]
    values = data.draw(st.lists(one, min_size=1, max_size=8))
    column = make(values)
    assert len(column) == len(values)
    single = [make([v])[0] for v in values]
    assert [plain(column[i]) for i in range(len(values))] == [plain(v) for v in single]
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=12))
    taken = column.take(np.array(rows, dtype=np.int64))
    assert [plain(taken[i]) for i in range(len(rows))] == [plain(single[r]) for r in rows]
    again = pickle.loads(pickle.dumps(taken))
    assert [plain(again[i]) for i in range(len(rows))] == [plain(single[r]) for r in rows]
    assert taken.digest() == again.digest() == make([values[r] for r in rows]).digest(), "equal values, equal digest"
    twice = taken.take(np.arange(len(rows))[::-1])
    assert [plain(twice[i]) for i in range(len(rows))] == [plain(single[r]) for r in rows[::-1]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_digest_tells_values_apart(kind: str, data: st.DataObject) -> None:
    make, one = KINDS[kind]
    a, b = (data.draw(st.lists(one, max_size=5)) for _ in "ab")
    same = [plain(make([v])[0]) for v in a] == [plain(make([v])[0]) for v in b]
    assert (make(a).digest() == make(b).digest()) == same


def test_where_the_borders_of_ragged_values_lie_counts() -> None:
    assert CaptionColumn.of([["a", "b"], []]).digest() != CaptionColumn.of([["a"], ["b"]]).digest()
    assert CaptionColumn.of(["a\0b"]).digest() != CaptionColumn.of([["a", "b"]]).digest()
    assert LabelsColumn.of([[1, 2], []]).digest() != LabelsColumn.of([[1], [2]]).digest()
    assert CaptionColumn.of(["one", "", ["x", ""]])[1] == () and CaptionColumn.of(["one", ["x", "y"]])[1] == ("x", "y")


def test_names_of_classes_belong_to_the_value() -> None:
    assert LabelsColumn.of([[0]], ["a"]).digest() != LabelsColumn.of([[0]], ["b"]).digest()
    assert BoxColumn.of([Boxes.of()], ["a"]).digest() != BoxColumn.of([Boxes.of()], ["b"]).digest()
    assert masks(["x"]).digest() != replace(masks(["x"]), void=None).digest()
    assert masks(["x"]).digest() != replace(masks(["x"]), sizes=np.array([7])).digest()


def test_types_shapes_and_no_boxes_at_all() -> None:
    column = BoxColumn.of([Boxes.of(), Boxes.of([[1, 2, 3, 4]], [1])])
    for i, n in enumerate((0, 1)):
        corners, classes, crowd = column[i]
        assert (corners.shape, classes.shape, crowd.shape) == ((n, 4), (n,), (n,))
        assert (corners.dtype, classes.dtype, crowd.dtype) == (np.float32, np.int64, np.bool_)
    assert len(BoxColumn.of([])) == len(LabelsColumn.of([])) == len(CaptionColumn.of([])) == 0
    assert not BoxColumn.of([Boxes.of()] * 3)[2].classes.size
    with pytest.raises(ValueError, match="1 boxes, 2 classes"):
        Boxes.of([[1, 2, 3, 4]], [1, 2])


def test_a_value_can_be_changed_without_changing_the_column() -> None:
    column, several = boxes([[(1.0, 0, False)]]), LabelsColumn.of([[3]])
    column[0].corners[:] = -1
    several[0][:] = -1
    assert column[0].corners.tolist() == [[1, 0, 3, 3]] and several[0].tolist() == [3]


def test_taking_rows_copies_no_values() -> None:
    column = boxes([[(float(i), 0, False)] * 10 for i in range(100)])
    assert column.take(np.arange(50)).boxes is column.boxes


def test_a_sample_without_a_mask_has_no_bytes() -> None:
    column = masks(["x.png", "", "z"])
    assert [column[i] for i in range(3)] == [b"x.png", b"", b"z"]
    assert column.take(np.array([2, 1]))[1] == b""


def test_columns_follow_their_source() -> None:
    """What a source takes, its targets take: no value moves to another picture."""
    ids = Names.of("abcdef")
    source = Source(
        reader=Words(ids),
        ids=ids,
        sizes=np.ones(6, np.int64),
        rows=np.arange(6),
        targets={"caption": CaptionColumn.of(ids), "number": NumberColumn(np.arange(6.0))},
    )
    part = source.take(np.array([4, 1, 5])).take(np.array([2, 0]))
    assert [part.targets["caption"][i] for i in range(2)] == [("f",), ("e",)] == [(n,) for n in part.ids]
    assert [part.targets["number"][i] for i in range(2)] == [5.0, 4.0]
    shifted = replace(source, targets={**source.targets, "number": NumberColumn(np.roll(np.arange(6.0), 1))})
    assert shifted.fingerprint() != source.fingerprint()
