"""Folders to sources: classes by name, nothing dropped in silence, nothing read twice, nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tessella.config import decode, encode
from tessella.data.names import Names
from tessella.data.origins.folder import FolderReader, open_folder, open_labelled, open_pictures
from tessella.data.origins.open import open_data, open_splits
from tessella.data.source import DataConfig, Source, split
from tessella.errors import BadInput


def fill(root: Path, **counts: int) -> Path:
    """`fill(root, cat=3)`; two underscores are a slash. Contents are only names here: sources do not decode."""
    for place, n in counts.items():
        folder = root / place.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            (folder / f"{i:03}.jpg").write_bytes(f"{place}{i}".encode() * (i + 1))
    return root


def state(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in [root, *root.rglob("*")])


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


def test_one_folder_per_class(tmp_path: Path) -> None:
    fill(tmp_path, dog=10, cat=20)
    before = state(tmp_path)
    data = open_folder(tmp_path)
    assert data.classes == ("cat", "dog") and data.val is not None
    assert (len(data.train), len(data.val)) == (24, 6)
    assert np.bincount(data.train.labels).tolist() == [16, 8] and np.bincount(data.val.labels).tolist() == [4, 2]
    assert not set(data.train.ids) & set(data.val.ids)
    for source in (data.train, data.val):
        for i, (name, label) in enumerate(zip(source.ids, source.labels, strict=True)):
            assert name.split("/")[0] == data.classes[label]
            assert source.read(i) == (tmp_path / name).read_bytes()
    assert said(data.notes, "6 of 30")
    assert state(tmp_path) == before


def test_split_is_seeded_and_keeps_its_choice_when_files_come(tmp_path: Path) -> None:
    fill(tmp_path, a=50, b=50)
    held = {seed: set(open_folder(tmp_path, seed=seed).val.ids) for seed in (0, 0, 1)}
    assert held[0] == set(open_folder(tmp_path, seed=0).val.ids) != held[1]
    fill(tmp_path, a=51, b=50)
    assert len(held[0] ^ set(open_folder(tmp_path).val.ids)) <= 2


def test_split_never_takes_a_whole_class(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, a=1, b=2, c=30), val_share=0.9)
    assert np.bincount(data.train.labels).tolist() == [1, 1, 3]
    assert said(data.notes, "'a'", "one picture")
    assert open_folder(tmp_path, val_share=0).val is None


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_train_and_validation_folders(tmp_path: Path, name: str) -> None:
    data = open_folder(fill(tmp_path, train__cat=2, train__dog=3, **{f"{name}__dog": 4, f"{name}__cat": 1}))
    assert data.train.ids[0] == "train/cat/000.jpg" and data.val.ids[0] == f"{name}/cat/000.jpg"
    assert np.bincount(data.val.labels).tolist() == [1, 4]
    assert not data.notes


def test_parts_may_begin_with_a_capital(tmp_path: Path) -> None:
    """Else Train and Test would be two classes, and nothing would look wrong."""
    fill(tmp_path, Train__cat=4, Train__dog=4, Test__cat=2, Test__dog=1)
    splits = open_folder(tmp_path)
    assert splits.classes == ("cat", "dog") and len(splits.train) == 8
    assert splits.val is not None and splits.val.ids[0] == "Test/cat/000.jpg" and len(splits.val) == 3
    assert len(open_labelled(tmp_path, ("cat", "dog")).source) == 3
    assert set(open_splits(DataConfig(path=str(tmp_path)))[0]) == {"Train", "Test"}


def test_val_wins_over_test_and_says_so(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, train__a=2, train__b=2, val__a=1, val__b=1, test__a=9, test__b=9, extra__x=1))
    assert len(data.val) == 2
    assert said(data.notes, "test/", "not used") and said(data.notes, "extra")


def test_class_missing_in_validation_shifts_nothing(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, train__a=2, train__b=2, train__c=2, val__a=1, val__c=3))
    assert data.val.labels.tolist() == [0, 2, 2, 2] and data.val.classes == ("a", "b", "c")
    assert said(data.notes, "'b'", "missing")


def test_class_unknown_in_validation_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'horse'"):
        open_folder(fill(tmp_path, train__a=2, train__b=2, val__a=1, val__horse=1))


def test_empty_folder_that_is_no_class_is_only_noted(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, train__a=2, train__b=2, val__a=1, val__b=1, val__horse=0))
    assert said(data.notes, "'horse'", "empty")


def test_empty_class_is_named_and_keeps_its_place(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, a=5, b=0, c=5))
    assert data.classes == ("a", "b", "c") and set(data.train.labels) == {0, 2}
    assert said(data.notes, "'b'", "no pictures")


def test_separate_validation_folder(tmp_path: Path) -> None:
    fill(tmp_path / "one", a=2, b=2)
    fill(tmp_path / "two", b=1)
    data = open_folder(tmp_path / "one", validation=tmp_path / "two")
    assert data.val.ids == ["b/000.jpg"] and data.val.labels.tolist() == [1]
    assert data.val.read(0) == (tmp_path / "two/b/000.jpg").read_bytes()
    assert said(open_folder(tmp_path / "one", validation=tmp_path / "one").notes, "itself")


def test_separate_validation_folder_may_have_parts_itself(tmp_path: Path) -> None:
    train, other = fill(tmp_path / "t", cat=3, dog=3), fill(tmp_path / "o", train__cat=2, val__dog=2)
    for given in (str(other), str(other / "val")):
        splits = open_folder(train, validation=given)
        assert splits.val is not None and splits.val.labels is not None and splits.val.labels.tolist() == [1, 1]
    both = fill(tmp_path / "b", train__cat=2, train__dog=2, val__cat=1)
    splits = open_folder(both, validation=both)
    assert splits.val is not None and len(splits.val) == 1 and not said(splits.notes, "flatter")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({".": 3}, "pictures but no class folders"),
        ({".": 0}, "no folders"),
        ({"a": 0, "b": 0}, "no pictures"),
        ({"photos__cat": 3, "photos__dog": 3}, "one class folder only"),
        ({"train": 3, "val": 3}, "no class folders in"),
        ({"val__a": 3, "test__a": 3}, "no train/"),
    ],
)
def test_wrong_layout_says_what_is_expected(tmp_path: Path, counts: dict[str, int], words: str) -> None:
    with pytest.raises(BadInput, match="one folder per class") as caught:
        open_folder(fill(tmp_path, **counts))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        open_folder(tmp_path / "nowhere")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = open_folder(fill(tmp_path, bus=5, plane=5, train=5))
    assert data.classes == ("bus", "plane", "train")


def test_other_hidden_and_loose_files_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    for name in ("a/readme.txt", "a/x.JPG", "a/x.odd", "a/._x.jpg", "loose.jpg", ".DS_Store", "b/.cache/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    data = open_folder(tmp_path, val_share=0)
    assert data.train.ids == ["a/000.jpg", "a/001.jpg", "a/x.JPG", "b/000.jpg", "b/001.jpg"]
    assert said(data.notes, "2 files", ".odd 1", ".txt 1") and said(data.notes, "2 hidden")
    assert said(data.notes, "1 files outside")


def test_links_in_a_loop_are_read_once(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2, a__deep=1)
    os.symlink(tmp_path, tmp_path / "a/deep/up")
    os.symlink(tmp_path / "b", tmp_path / "a/other")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "a/gone.jpg")
    os.symlink(tmp_path / "b/000.jpg", tmp_path / "b/same.jpg")
    data = open_folder(tmp_path, val_share=0)
    assert data.train.ids == ["a/000.jpg", "a/001.jpg", "a/deep/000.jpg", "b/000.jpg", "b/001.jpg"]
    assert said(data.notes, "2 links") and said(data.notes, "1 files or folders that cannot be read")
    os.symlink(tmp_path / "b", tmp_path / "c")
    with pytest.raises(BadInput, match="'c' is a link to 'b'"):
        open_folder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_pipes_are_left_out_and_not_waited_for(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to waits for ever."""
    root = fill(tmp_path, cat=4, dog=4)
    for name in ("p.jpg", "q"):  # by its suffix; by its first bytes
        os.mkfifo(root / "cat" / name)
    splits = open_folder(root)
    assert len(splits.train) + len(splits.val) == 8
    assert "train: 2 pipes, sockets or devices left out" in splits.notes


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    odd = os.fsencode(tmp_path) + b"/a/caf\xe9.jpg"
    try:
        with open(odd, "wb") as file:
            file.write(b"bytes")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    source = open_folder(tmp_path, val_share=0).train
    i = source.ids.index("a/caf\udce9.jpg")
    assert source.read(i) == b"bytes" and len(source.fingerprint()) == 64
    assert open_folder(tmp_path, val_share=0.5).val is not None


def test_fingerprint_sees_names_sizes_labels_and_order(tmp_path: Path) -> None:
    source = open_folder(fill(tmp_path, a=3, b=3), val_share=0).train
    assert source.fingerprint() == open_folder(tmp_path, val_share=0).train.fingerprint()
    assert source.manifest()[1] == ("a/001.jpg", 4)
    changed = [
        replace(source, ids=Names.of(["a/zzz.jpg", *source.ids[1:]])),
        replace(source, sizes=source.sizes + 1),
        replace(source, labels=1 - source.labels),
        source.take(np.arange(6)[::-1]),
        source.take(np.arange(5)),
    ]
    assert len({s.fingerprint() for s in [source, *changed]}) == 6


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, a=5, b=5, a__x=2, a__y=2)
    want = open_folder(tmp_path, val_share=0).train.ids
    real = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with real(path) as entries:
                self.entries = list(entries)[::-1]

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(self.entries)

        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert open_folder(tmp_path, val_share=0).train.ids == want


def test_labelled_folder_follows_the_networks_classes(tmp_path: Path) -> None:
    fill(tmp_path, dog=2, cat=1)
    source, notes = open_labelled(tmp_path, ["zebra", "dog", "cat"])
    assert source.classes == ("zebra", "dog", "cat")
    by_folder = {name.split("/")[0]: int(c) for name, c in zip(source.ids, source.labels, strict=True)}
    assert by_folder == {"cat": 2, "dog": 1}
    assert said(notes, "'zebra'", "missing")
    with pytest.raises(BadInput, match="'dog'"):
        open_labelled(tmp_path, ["zebra", "cat"])


def test_labelled_folder_with_splits_uses_its_validation_part(tmp_path: Path) -> None:
    fill(tmp_path, train__a=5, train__b=5, test__a=1, test__b=2)
    source, notes = open_labelled(tmp_path, ["a", "b"])
    assert source.ids == ["test/a/000.jpg", "test/b/000.jpg", "test/b/001.jpg"] and said(notes, "test/")


def test_pictures_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, b=2, b__c=1)
    (tmp_path / "odd.dat").write_bytes(b"named by the user")
    monkeypatch.chdir(tmp_path)
    source, _ = open_pictures(["odd.dat", "b", tmp_path / "b/001.jpg"])
    assert source.ids == ["odd.dat", "b/000.jpg", "b/001.jpg", "b/c/000.jpg", (tmp_path / "b/001.jpg").as_posix()]
    assert source.labels is None and source.read(0) == b"named by the user" and source.read(4) == source.read(2)
    for bad in (["nope.jpg"], [], [fill(tmp_path / "empty")]):
        if bad and isinstance(bad[0], Path):
            bad[0].mkdir()
        with pytest.raises(BadInput):
            open_pictures(bad)


def test_file_that_went_away(tmp_path: Path) -> None:
    source = open_folder(fill(tmp_path, a=2, b=2), val_share=0).train
    (tmp_path / "a/000.jpg").unlink()
    with pytest.raises(BadInput, match=r"a/000\.jpg"):
        source.read(0)


def test_config_goes_round(tmp_path: Path) -> None:
    cfg = DataConfig(path=str(fill(tmp_path, a=5, b=5)), augment=None)
    assert decode(DataConfig, encode(cfg)) == cfg
    assert decode(DataConfig, encode(DataConfig(path="x"))) == DataConfig(path="x")
    assert len(open_data(cfg).val) == 2
    for bad in ({"val_share": 1.0}, {"workers": -1}):
        with pytest.raises(BadInput):
            DataConfig(path="x", **bad)


def test_split_without_labels() -> None:
    names = Names.of(str(i) for i in range(10))
    rows = np.arange(10)
    source = Source(reader=FolderReader("", names), ids=names, sizes=np.ones(10, np.int64), rows=rows)
    train, val = split(source, 0.3, 0)
    assert sorted([*train.ids, *val.ids]) == sorted(source.ids) and len(val) == 3


def test_a_picture_under_another_suffix_is_used(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    for name, data in (("a/noname", b"\xff\xd8\xff\xe0"), ("b/x.jpg_large", b"\x89PNG\r\n\x1a\n"), ("b/x.dat", b"zz")):
        (tmp_path / name).write_bytes(data)
    data = open_folder(tmp_path, val_share=0)
    assert {"a/noname", "b/x.jpg_large"} < set(data.train.ids) and "b/x.dat" not in data.train.ids
    assert said(data.notes, "2 files", "hold pictures") and said(data.notes, "1 files", ".dat 1")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_under_two_names_is_one_sample(tmp_path: Path, link: Callable[..., None]) -> None:
    fill(tmp_path, a=3, b=3)
    link(tmp_path / "a/001.jpg", tmp_path / "a/zzz.jpg")
    link(tmp_path / "a/002.jpg", tmp_path / "b/zzz.jpg")
    data = open_folder(tmp_path, val_share=0)
    assert len(data.train) == 6 and not any("zzz" in name for name in data.train.ids)
    assert said(data.notes, "2 files are others", "b/zzz.jpg is a/002.jpg", "1 of them lie in two classes")


def test_links_to_files_elsewhere_are_samples(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", blobs=4)
    for i, name in enumerate(("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(store / f"blobs/00{i}.jpg", tmp_path / "photos" / name)
    data = open_folder(tmp_path / "photos", val_share=0)
    assert len(data.train) == 4 and not said(data.notes, "second name")


def test_every_part_is_seen_as_it_lies(tmp_path: Path) -> None:
    fill(tmp_path, train__a=2, train__b=2, val__a=1, test__a=1, test__odd=3)
    parts, classes, notes = open_splits(DataConfig(path=str(tmp_path)))
    assert {name: len(s) for name, s in parts.items()} == {"train": 4, "val": 1, "test": 4}
    assert classes == ("a", "b", "odd") and parts["test"].labels.tolist() == [0, 2, 2, 2]
    assert said(notes, "val", "'b'", "missing") and not said(notes, "not used")
