"""Parts and classes by name, from what any origin listed: nothing shifted, nothing dropped in silence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.names import Names
from tessella.data.origins.folder import open_folder
from tessella.data.origins.listing import Listing, as_it_lies, by_path, settle, settle_known
from tessella.data.source import DataConfig
from tessella.errors import BadInput


@dataclass(frozen=True)
class Words:
    """A reader whose bytes are the names."""

    names: Names

    def read(self, row: int) -> bytes:
        return self.names[row].encode()


def listed(*paths: str) -> Listing:
    ids = Names.of(paths)
    places = by_path(ids)
    return Listing(where="x.zip", reader=Words(ids), ids=ids, sizes=np.ones(len(ids), np.int64), **places._asdict())


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


CFG = DataConfig(path="x.zip", val_share=0)


def test_classes_and_parts_from_paths() -> None:
    splits = settle(listed("train/dog/1", "train/cat/1", "val/cat/2", "val/cat/3", "test/dog/9", "README"), CFG)
    assert splits.classes == ("cat", "dog") and splits.train.ids == ["train/dog/1", "train/cat/1"]
    assert splits.train.labels.tolist() == [1, 0] and splits.val.labels.tolist() == [0, 0]
    assert splits.val.read(1) == b"val/cat/3"
    assert said(splits.notes, "'dog'", "missing") and said(splits.notes, "1 pictures not used: test")
    assert said(splits.notes, "1 pictures not used: outside")


def test_parts_that_are_not_used_are_counted_also_where_validation_is_made() -> None:
    names = [f"train/{c}/{i}" for c in "ab" for i in range(5)] + ["dev/a/1", "dev/b/2", "loose"]
    splits = settle(listed(*names), replace(CFG, val_share=0.2))
    assert len(splits.train) + len(splits.val) == 10
    assert said(splits.notes, "3 pictures not used: outside of all parts")
    table = replace(
        listed(*(f"{c}/{i}" for c in "ab" for i in range(6))), split=np.array([0, 0, 0, 0, 1, 1] * 2, np.int8)
    )
    splits = settle(replace(table, splits=("train", "dev")), replace(CFG, val_share=0.2))
    assert len(splits.train) + len(splits.val) == 8 and said(splits.notes, "4 pictures not used: dev")


def test_why_there_are_no_pictures_is_told() -> None:
    with pytest.raises(BadInput, match=r"holds no pictures.*1 files left out"):
        settle(replace(listed(), notes=["1 files left out (.zip 1)"]), CFG)


def test_parts_may_begin_with_a_capital() -> None:
    splits = settle(listed("top/Train/a/1", "top/Train/b/2", "top/TEST/a/3", "top/TEST/b/4"), CFG)
    assert splits.classes == ("a", "b") and splits.train.ids == ["top/Train/a/1", "top/Train/b/2"]
    assert splits.val is not None and splits.val.ids == ["top/TEST/a/3", "top/TEST/b/4"]


def test_a_folder_around_everything_is_looked_through() -> None:
    for top in ("", "photos/", "a/b/"):
        splits = settle(listed(*(f"{top}{name}" for name in ("x/1", "x/2", "y/1", "y/deep/2"))), CFG)
        assert splits.classes == ("x", "y") and len(splits.train) == 4 and splits.val is None


def test_what_is_wrong_is_said_in_one_line() -> None:
    for listing, words in (
        (listed("1", "2"), "no classes"),
        (listed("a/1", "a/2"), "no classes|one class only"),
        (listed("val/a/1", "test/b/2"), "no train"),
        (listed("train/a/1", "train/b/1", "val/c/1"), "unknown class 'c'"),
        (listed(), "no pictures"),
    ):
        with pytest.raises(BadInput, match=words) as caught:
            settle(listing, CFG)
        assert "\n" not in str(caught.value)


def test_ordered_classes_keep_their_place() -> None:
    listing = replace(listed("b/1", "b/2", "a/1"), names=("a", "b"), ordered=True)
    listing = replace(listing, names=("a", "b", "z"), label=np.array([1, 1, 0]))
    splits = settle(listing, CFG)
    assert splits.classes == ("a", "b", "z") and said(splits.notes, "'z'", "no pictures")
    swapped = settle(replace(listing, names=("b", "a", "z"), label=np.array([0, 0, 1])), CFG)
    assert swapped.classes == ("b", "a", "z") and swapped.train.labels.tolist() == [0, 0, 1]


def test_pictures_without_a_label_are_counted() -> None:
    splits = settle(listed("a/1", "b/1", "loose"), CFG)
    assert len(splits.train) == 2 and said(splits.notes, "1 pictures without a label")


def test_labels_follow_a_networks_classes() -> None:
    source, notes = settle_known(listed("test/b/1", "test/a/2", "train/a/1"), ["z", "b", "a"])
    assert source.labels.tolist() == [1, 2] and said(notes, "test part") and said(notes, "'z'", "missing")
    with pytest.raises(BadInput, match="unknown class 'b'"):
        settle_known(listed("a/1", "b/1"), ["a", "c"])


def test_all_parts_as_they_lie() -> None:
    parts, classes, _ = as_it_lies(listed("train/a/1", "val/b/1", "test/c/1", "odd"))
    assert classes == ("a", "b", "c") and {k: len(v) for k, v in parts.items()} == {
        "test": 1, "train": 1, "val": 1, "outside": 1
    }  # fmt: skip


NAME = st.sampled_from(["train", "val", "test", "Train", "VAL", "a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAME, NAME, st.integers(0, 9)), min_size=1, max_size=12, unique=True))
def test_as_folders_of_the_same_names(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, int]]
) -> None:
    """The paths of an archive mean what the same folders mean, wherever both are taken."""
    root = tmp_path_factory.mktemp("same")
    paths = [f"{a}/{b}/{n}.jpg" for a, b, n in files]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    try:
        want = open_folder(root, val_share=0)
    except BadInput:
        return
    tops = {Path(p).parts[0] for p in paths}
    if len(tops) == 1 and not {top.lower() for top in tops} & {"train", "val", "test"}:
        return  # a folder around everything: archives look through it
    got = settle(listed(*paths), CFG)
    assert got.classes == want.classes
    for ours, theirs in ((got.train, want.train), (got.val, want.val)):
        pairs = [dict(zip(s.ids, s.labels.tolist(), strict=True)) if s is not None else {} for s in (ours, theirs)]
        assert pairs[0] == pairs[1]
