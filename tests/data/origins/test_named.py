"""Files that tables name: each is one sample with what its own row says, wherever it lies and however it is called."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.origins import columns, named
from tessella.data.origins.listing import Listing
from tessella.data.origins.table import open_table
from tessella.data.source import DataConfig
from tessella.errors import BadInput


def pictures(root: Path, *names: str) -> Path:
    """Files whose bytes are their names: tables do not decode."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def opened(path: str | Path, **cfg: Any) -> Listing:
    return open_table(str(path), DataConfig(path=str(path), **cfg))


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


def test_files_that_are_not_there_are_holes(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "3.jpg")
    (tmp_path / "folder.jpg").mkdir()
    names = ["1.jpg", "gone.jpg", "3.jpg", "folder.jpg", ""]
    listing = opened(as_csv(tmp_path / "t.csv", [{"file": n, "label": "ab"[i % 2]} for i, n in enumerate(names)]))
    assert listing.ids == names[:4] and listing.sizes.tolist() == [5, -1, 5, -1]
    assert said(listing.notes, "2 of 4 files are not there: gone.jpg, folder.jpg")
    assert said(listing.notes, "1 rows name no picture")
    for row in (1, 3):
        with pytest.raises(BadInput, match=r"gone\.jpg|folder\.jpg"):
            listing.reader.read(row)
    assert listing.reader.read(2) == b"3.jpg"


UNTIDY = st.lists(
    st.tuples(
        st.sampled_from(["1.jpg", "./1.jpg", "2.jpg", "link.jpg", "sub//3.jpg", "gone.jpg", ""]),
        st.sampled_from(["a", "b", "c", ""]),
        st.sampled_from(["train", "val", ""]),
        st.sampled_from(["one", "two", ""]),
    ),
    min_size=1,
    max_size=10,
)


def slowly(rows: list[tuple[str, str, str, str]]) -> dict[str, list[Any]]:
    """What any untidy rows mean, one row at a time: {file: [label, part, captions, its bytes]}."""
    same = {"./1.jpg": "1.jpg", "sub//3.jpg": "sub/3.jpg"}
    out: dict[str, list[Any]] = {}
    for file, label, part, caption in rows:
        name = same.get(file, file)
        if name in ("2.jpg", "link.jpg"):  # one file: it is called as in the first row
            name = next((n for n in out if n in ("2.jpg", "link.jpg")), name)
        if name:
            content = {"link.jpg": b"2.jpg", "gone.jpg": None}.get(name, name.encode())
            out.setdefault(name, [label, part, (), content])[2] += (caption,) if caption else ()
    return out


def check(root: Path, rows: list[tuple[str, str, str, str]]) -> None:
    """A table of these rows against the slow way."""
    want = slowly(rows)
    path = as_csv(root / "t.csv", [dict(zip(("file", "label", "split", "text"), row, strict=True)) for row in rows])
    if not {*want} - {"gone.jpg"}:
        with pytest.raises(BadInput, match=r"no row names a picture|none of the \d+ files"):
            opened(path)
        return
    listing = opened(path)
    assert list(listing.ids) == list(want)
    parts = any(part for _, _, part, _ in rows)
    for i, (label, part, captions, content) in enumerate(want.values()):
        assert [*listing.names, ""][listing.label[i]] == label
        assert not parts or [*listing.splits, ""][listing.split[i]] == part
        assert listing.targets["caption"][i] == captions
        assert listing.sizes[i] == (-1 if content is None else len(content))
        if content is not None:
            assert listing.reader.read(i) == content
    dropped = len([file for file, *_ in rows if not file])
    assert said(listing.notes, f"{dropped:,} rows name no picture") == (dropped > 0)
    again = len(rows) - dropped - len(want)
    assert said(listing.notes, f"{again:,} rows name a file that an earlier row names") == (again > 0)


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = pictures(tmp_path_factory.mktemp("untidy"), "1.jpg", "2.jpg", "sub/3.jpg")
    os.link(root / "2.jpg", root / "link.jpg")
    return root


@settings(max_examples=150, deadline=None)
@given(rows=UNTIDY)
def test_untidy_rows_keep_what_is_theirs(untidy: Path, rows: list[tuple[str, str, str, str]]) -> None:
    check(untidy, rows)


SHIFT: Callable[..., Any] = lambda self, keep: TAKE(self, np.roll(keep, 1))  # noqa: E731
TAKE, ONCE = columns.Told.take, named._once


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (columns.Told, "take", SHIFT),
        (columns.Told, "take", lambda self, keep: self),
        (named, "_once", lambda keys: (ONCE(keys)[0][::-1], ONCE(keys)[1])),
        (named, "_once", lambda keys: (np.arange(len(keys)), np.arange(len(keys)))),
        (named, "_merged", lambda told, ids, keep, place: told.take(keep)),
        (named, "_spellings", lambda name: iter(["1.jpg"])),
    ],
)
def test_what_would_move_a_value_is_seen(
    untidy: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, wrong: Callable[..., Any]
) -> None:
    rows = [("", "c", "val", ""), ("1.jpg", "a", "train", "one"), ("gone.jpg", "b", "val", "two")]
    rows += [("2.jpg", "c", "train", ""), ("./1.jpg", "a", "train", "two"), ("sub//3.jpg", "b", "val", "one")]
    check(untidy, rows)
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        check(untidy, rows)


def test_none_of_the_files_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "data/images/007.jpg")
    as_csv(tmp_path / "data/t.csv", [{"file": "pictures/007", "label": "a"}])
    with pytest.raises(BadInput, match=r"none of the 1 files.*there is images/007\.jpg: write the paths like this"):
        opened(tmp_path / "data/t.csv")
    as_csv(tmp_path / "data/t.csv", [{"file": "data/images/007.jpg", "label": "a"}])
    as_csv(tmp_path / "web.csv", [{"image": "https://example.org/1.jpg"}])
    with pytest.raises(BadInput, match="nothing is fetched from the web"):
        opened(tmp_path / "web.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="seen from the current folder"):
        opened("data/t.csv")


def test_paths_of_all_sorts(tmp_path: Path) -> None:
    pictures(tmp_path / "in", "a/1.jpg", "cafe\u0301.jpg")
    pictures(tmp_path, "out.jpg", "in2/3.jpg")
    given = ["a\\1.jpg", "café.jpg", "../out.jpg", str(tmp_path / "in2/3.jpg")]
    listing = opened(as_csv(tmp_path / "in/t.csv", [{"file": n, "label": str(i)} for i, n in enumerate(given)]))
    assert listing.ids == ["a/1.jpg", "cafe\u0301.jpg", "../out.jpg", (tmp_path / "in2/3.jpg").as_posix()]
    assert [listing.reader.read(i).decode() for i in range(4)] == ["a/1.jpg", "cafe\u0301.jpg", "out.jpg", "in2/3.jpg"]
    assert said(listing.notes, "2 files are there under another spelling")
    assert said(listing.notes, "2 files lie outside of the folder")
    with pytest.raises(BadInput, match="is no path"):
        opened(as_jsonl(tmp_path / "t.jsonl", [{"file": "a\0b"}]))
    with pytest.raises(BadInput, match=r"is no path.*--data.image"):
        opened(as_jsonl(tmp_path / "t.jsonl", [{"file": 7}]))
    (tmp_path / "t.jsonl").write_text('{"file": "\\ud800"}')
    with pytest.raises(BadInput, match="no text"):
        opened(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("files", "names", "want"),
    [
        (["train/1.jpg", "train/2.jpg"], ["1", "2"], "train/NAME.jpg"),
        (["images/1.png", "images/2.png", "masks/9.png"], ["1.png", "2.png"], "images/NAME"),
        (["1.v2.JPG", "2.v2.JPG"], ["1.v2", "2.v2"], "NAME.JPG"),
        (["a/b/1.jpg", "a/b/2.jpg", "c/1.jpg"], ["b/1.jpg", "b/2.jpg"], "a/NAME"),
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["1", "2"], "a/NAME.jpg"),
        (["a/1.jpg", "b/1.jpg"], ["1"], None),
        (["a/1.jpg", "a/2.png"], ["1", "2"], None),
        (["a/1.txt", "a/2.txt"], ["1", "2"], None),
    ],
)
def test_folder_and_suffix_that_are_left_out(
    tmp_path: Path, files: list[str], names: list[str], want: str | None
) -> None:
    pictures(tmp_path, *files)
    path = as_csv(tmp_path / "t.csv", [{"file": name, "label": name} for name in names])
    if want is None:
        with pytest.raises(BadInput, match="none of the"):
            opened(path)
        return
    listing = opened(path)
    ids = [want.replace("NAME", name) for name in names]
    assert listing.ids == ids and [listing.reader.read(i).decode() for i in range(len(ids))] == ids
    assert [listing.names[c] for c in listing.label] == names
    assert said(listing.notes, f"the files are found as {want}")
