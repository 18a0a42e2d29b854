"""YOLO's text files: shares of the upright picture to pixels; names out of data.yaml as a YAML reader reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessella.data.origins import yolo as module
from tessella.data.origins.listing import Listing
from tessella.data.origins.yolo import names_of, open_yolo
from tessella.data.source import DataConfig
from tessella.errors import BadInput

CFG = DataConfig(path="x")


def picture(path: Path, width: int = 40, height: int = 20, turn: int = 1, padding: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (width, height), "red").save(path, exif=exif, **({"comment": b"x" * padding} if padding else {}))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def boxes_of(listing: Listing, name: str) -> list[tuple[str, list[float]]]:
    found = listing.targets["boxes"][list(listing.ids).index(name)]
    return list(zip([listing.names[c] for c in found.classes], found.corners.tolist(), strict=True))


def said(listing: Listing, *words: str) -> bool:
    return any(all(w in note for w in words) for note in listing.notes)


@pytest.mark.parametrize(
    ("image", "label", "part"),
    [
        ("images/train/a.jpg", "labels/train/a.txt", "train"),
        ("train/images/a.jpg", "train/labels/a.txt", "train"),
        ("images/a.jpg", "labels/a.txt", ""),
        ("images/images/a.jpg", "images/labels/a.txt", ""),
        ("a.jpg", "a.txt", ""),
        ("valid/a.png", "valid/a.txt", "valid"),
    ],
)
def test_layouts(tmp_path: Path, image: str, label: str, part: str) -> None:
    picture(tmp_path / image)
    write(tmp_path / label, "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.3 0.2 0.3 0.9\n")
    write(tmp_path / "data.yaml", "names: [cat, dog]")
    for address in (tmp_path, tmp_path / "data.yaml"):
        listing = open_yolo(str(address), CFG)
        assert list(listing.ids) == [image] and listing.names == ("cat", "dog") and listing.notes == []
        (dog, inside), (cat, around) = boxes_of(listing, image)
        assert (dog, cat) == ("dog", "cat") and inside == [15, 5, 25, 15] and np.allclose(around, [4, 4, 12, 18])
        assert listing.splits == ((part,) if part else ()) and listing.targets["size"][0] == (20, 40)
        masks = listing.targets["outlines"][0].bitmaps()
        assert not masks[0].any() and 40 < masks[1].sum() < 75
        assert listing.reader.read(0) == (tmp_path / image).read_bytes()


def test_shares_are_of_the_upright_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", turn=6)
    picture(tmp_path / "b.jpg", padding=60_000)
    write(tmp_path / "a.txt", "0 0.5 0.5 1 0.5")
    write(tmp_path / "b.txt", "0 0.5 0.5 1 0.5")
    listing = open_yolo(str(tmp_path), CFG)
    assert boxes_of(listing, "a.jpg") == [("0", [0, 10, 20, 30])]
    assert boxes_of(listing, "b.jpg") == [("0", [0, 5, 40, 15])]
    assert said(listing, "called by their numbers")


def test_a_header_behind_a_long_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD", 40)
    picture(tmp_path / "b.jpg", padding=5_000)
    write(tmp_path / "b.txt", "0 0.5 0.5 1 0.5")
    assert open_yolo(str(tmp_path), CFG).targets["size"][0] == (20, 40)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 16)] * 2, *[st.integers(1, 16)] * 2), max_size=6))
def test_whatever_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    root = tmp_path_factory.mktemp("yolo")
    picture(root / "a.png", 32, 64)
    lines = [f"{c} {(x + w / 2) / 32} {(y + h / 2) / 64} {w / 32} {h / 64}" for c, x, y, w, h in rows]
    write(root / "a.txt", "\n".join(lines))
    write(root / "classes.txt", "a\nb\nc\n")
    want = [("abc"[c], [x, y, x + w, y + h]) for c, x, y, w, h in rows]
    assert boxes_of(open_yolo(str(root), CFG), "a.png") == want
    corners = [(name, [x - (right - x) / 2, y, right, bottom]) for name, (x, y, right, bottom) in want]
    assert not rows or boxes_of(open_yolo(str(root), CFG), "a.png") != corners  # a centre taken for a corner


def test_every_fault_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a", "empty", "bare"):
        picture(tmp_path / f"{name}.png")
    write(tmp_path / "torn.png", "no picture")
    lines = """0 .5 .5 .1 .1;x .5 .5 .1 .1;0 .5 .5 .1;0 .5 .5 .1 .1 .9;-1 .5 .5 .1 .1;.5 .5 .5 .1 .1;0 20 10 4 4
        ;0 .5 .5 0 .1;7 .5 .5 .1 .1;0 1.2 .5 .1 .1;0 nan .5 .1 .1;0 1 .5 .4 .1"""
    write(tmp_path / "a.txt", lines.replace("\n", "").replace(";", "\n"))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "gone.txt", "0 .5 .5 .1 .1")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    listing = open_yolo(str(tmp_path), CFG)
    assert list(listing.ids) == ["a.png", "bare.png", "empty.png"]
    assert [name for name, _ in boxes_of(listing, "a.png")] == ["cat", "7", "cat"] and boxes_of(
        listing, "bare.png"
    ) == []
    for words in (
        ("6 lines left out: they are neither", "a.txt, line 2"),
        ("1 lines left out: their numbers are pixels", "line 7"),
        ("1 boxes left out: their width or height", "line 8"),
        ("1 boxes left out: nothing of them", "line 10"),
        ("1 boxes reach out", "line 12"),
        ("1 objects of a class that has no name", "line 9"),
        ("1 texts left out: they have no picture", "gone.txt"),
        ("2 pictures have no .txt", "bare.png"),
        ("1 pictures left out: they cannot be read", "torn.png"),
    ):
        assert said(listing, *words), (words, listing.notes)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    picture(tmp_path / "only/a.png")
    write(tmp_path / "texts/a.txt", "0 .5 .5 .1 .1")
    for below in ("nowhere", "only", "texts"):
        with pytest.raises(BadInput, match="expected images/train/1"):
            open_yolo(str(tmp_path / below), CFG)
    picture(tmp_path / "big/a.png")
    write(tmp_path / "big/a.txt", "100000000000 .5 .5 .1 .1")
    with pytest.raises(BadInput, match="object of class 100,000,000,000"):
        open_yolo(str(tmp_path / "big"), CFG)


# ---------------------------------------------------------------------------------------------------------- data.yaml

YAMLS = [
    "nc: 2\nnames: ['cat', \"big dog\"]\ntrain: ../train/images\n",
    'names:\n  0: person\n  1: traffic light  # two words\n  2: "it\'s"\n\n# Download script\ndownload: x\n',
    "names:\n- a\n- 'b: c'\n-  d e\nnc: 3\n",
    "path: x\nnames: [\n  'a', # first\n  'b, c',\n  d\n]\nval: y\n",
    "names: {0: a, 1: 'b', 2: c d}\n",
    "names:\n  2: c\n  0: a\n  1: b\n",
    "names:\n    - 'don''t'\n    - \"tab\\tbed\"\n",
    "names: ['wind-turbine', 'drüben', '7up', R2-D2]\n",
]


@pytest.mark.parametrize("text", YAMLS)
def test_names_as_a_yaml_reader_reads_them(text: str) -> None:
    told = pytest.importorskip("yaml").safe_load(text)["names"]
    want = [told[i] for i in range(len(told))]
    assert names_of(text) == want


@pytest.mark.parametrize(
    "text", ["nc: 3\n", "names:\n", "names: 7\n", "names:\n  1: a\n  2: b\n", "names:\n  a: 0\n", "names: []"]
)
def test_names_that_cannot_be_used(text: str) -> None:
    with pytest.raises(BadInput, match=r"^data\.yaml.*names: \[cat, dog\]") as caught:
        names_of(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab ä-_.7,:'\"[]{}#", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=5),
    st.booleans(),
)
def test_names_that_a_yaml_writer_wrote(names: list[str], flow: bool) -> None:
    yaml = pytest.importorskip("yaml")
    text = yaml.safe_dump({"names": names}, allow_unicode=True, width=10_000)
    if flow:
        text = "names: " + yaml.safe_dump(names, default_flow_style=True, allow_unicode=True, width=10_000)
    assert names_of(text + "\nval: x\n") == names
