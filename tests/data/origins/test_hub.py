"""Data sets through the library `datasets`: what it says of every row is what we say; errors come with their cure."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessella.data.origins.folder import open_folder
from tessella.data.origins.hub import open_hub, parsed
from tessella.data.origins.listing import Listing, settle
from tessella.data.origins.table import open_table
from tessella.data.source import DataConfig
from tessella.errors import BadInput


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


FEATURES = datasets.Features(
    {
        "img": datasets.Image(),
        "label": datasets.ClassLabel(names=["zebra", "ant"]),
        "text": datasets.Value("string"),
        "tags": datasets.List(datasets.ClassLabel(names=["x", "y", "z"])),
    }
)


def shelf(root: Path, **parts: int) -> Path:
    root.mkdir(exist_ok=True)
    for part, n in parts.items():
        rows = [
            {
                "img": {"bytes": png(i + len(part)), "path": f"{i}.png"},
                "label": i % 2,
                "text": f"{part} {i}",
                "tags": list(range(i % 4)),
            }
            for i in range(n)
        ]
        datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(str(root / f"{part}-00000-of-00001.parquet"))
    return root


def classes_of(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    return root


def opened(tmp_path: Path, address: str, **cfg: Any) -> Listing:
    return open_hub(address, DataConfig(path=address, cache=str(tmp_path / "cache"), **cfg))


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


def test_every_row_as_the_library_has_it(tmp_path: Path) -> None:
    root = shelf(tmp_path / "shelf", train=7, validation=3, test=2)
    listing = opened(tmp_path, f"hf:{root}")
    whole = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "other"))
    at = 0
    for part, data in whole.items():
        for row in data.cast_column("img", datasets.Image(decode=False)):
            assert listing.reader.read(at) == row["img"]["bytes"] and listing.sizes[at] == len(row["img"]["bytes"])
            assert listing.splits[listing.split[at]] == part
            assert listing.label[at] == row["label"]
            assert listing.targets["caption"][at] == (row["text"],)
            assert listing.targets["labels"][at].tolist() == row["tags"]
            assert listing.ids[at] == f"{part}/{row['img']['path']}"
            at += 1
    assert at == len(listing.ids) == 12
    assert listing.names == ("zebra", "ant") and listing.ordered and listing.targets["labels"].names == ("x", "y", "z")
    splits = settle(listing, DataConfig(path="hf"))
    assert splits.classes == ("zebra", "ant") and (len(splits.train), len(splits.val)) == (7, 3)
    assert splits.val.read(2) == png(2 + len("validation")) and said(splits.notes, "2 pictures not used: test")
    assert (tmp_path / "cache").is_dir(), "what is prepared goes where the config says"


def test_parquet_files_and_the_library_agree(tmp_path: Path) -> None:
    root = shelf(tmp_path / "shelf", train=6, test=4)
    cfg = DataConfig(path="x")
    ours, theirs = open_table(str(root / "*.parquet"), cfg), opened(tmp_path, f"hf:{root}")
    for a, b in zip(settle(ours, cfg)[:2], settle(theirs, cfg)[:2], strict=True):
        assert a.labels.tolist() == b.labels.tolist() and a.classes == b.classes
        assert [a.read(i) for i in range(len(a))] == [b.read(i) for i in range(len(b))]
        assert all(a.targets[kind].digest() == b.targets[kind].digest() for kind in ("caption", "labels"))
    shifted = np.roll(theirs.label, 1)
    assert shifted.tolist() != theirs.label.tolist()


def test_class_folders_through_the_library_are_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{part}/{c}/{i}.png" for part in ("train", "test") for c in "cab" for i in range(2)]
    root = classes_of(tmp_path / "photos", *names)
    monkeypatch.chdir(tmp_path)
    ours, theirs = open_folder(root), settle(opened(tmp_path, "hf:./photos"), DataConfig(path="x"))
    assert ours.classes == theirs.classes
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert dict(zip(a.ids, a.labels, strict=True)) == dict(zip(b.ids, b.labels, strict=True))
        assert dict(a.manifest()) == dict(b.manifest())
        assert all(b.read(i) == (root / name).read_bytes() for i, name in enumerate(b.ids))


def test_a_picture_that_went_away(tmp_path: Path) -> None:
    root = classes_of(tmp_path / "photos", "a/1.png", "b/1.png", "b/2.png")
    opened(tmp_path, f"hf:{root}")
    listing = opened(tmp_path, f"hf:{root}")
    (root / "b/1.png").unlink()
    row = listing.ids.index("b/1.png")
    with pytest.raises(BadInput, match=r"b/1\.png cannot be read"):
        listing.reader.read(row)


def test_rows_without_a_picture(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": png(1), "path": None}}, {"image": None}, {"image": {"bytes": png(3), "path": None}}]
    data = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image()}))
    (tmp_path / "shelf").mkdir()
    data.to_parquet(str(tmp_path / "shelf/train.parquet"))
    listing = opened(tmp_path, f"hf:{tmp_path}/shelf")
    assert listing.ids == ["train#0", "train#1", "train#2"] and listing.label is None
    assert said(listing.notes, "1 rows have no picture") and listing.sizes[1] == -1
    assert listing.reader.read(2) == png(3)
    with pytest.raises(BadInput, match=r"row 1 of .*there is no picture"):
        listing.reader.read(1)


@pytest.mark.parametrize("nested", [True, False])
def test_bytes_that_nobody_called_a_picture(tmp_path: Path, nested: bool) -> None:
    cells = [{"bytes": png(i), "path": f"{i}.png"} if nested else png(i) for i in range(4)]
    rows = [{"image": cell, "label": "ba"[i % 2]} for i, cell in enumerate(cells)]
    (tmp_path / "shelf").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shelf/train.parquet")
    listing = opened(tmp_path, f"hf:{tmp_path}/shelf")
    assert listing.ids == [f"train/{i}.png" if nested else f"train#{i}" for i in range(4)]
    assert [listing.reader.read(i) for i in range(4)] == [png(i) for i in range(4)]
    assert listing.names == ("a", "b") and listing.label.tolist() == [1, 0, 1, 0]


def test_readers_travel_to_workers(tmp_path: Path) -> None:
    listing = opened(tmp_path, f"hf:{shelf(tmp_path / 'shelf', train=5, test=5)}")
    want = [listing.reader.read(i) for i in range(10)]
    packed = pickle.dumps(listing.reader)
    assert len(packed) < 20_000 and [pickle.loads(packed).read(i) for i in range(10)] == want
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(listing.reader.read, range(10)).get(timeout=60) == want


def test_many_rows_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessella.data.origins.hub.ROWS", 3)
    listing = opened(tmp_path, f"hf:{shelf(tmp_path / 'shelf', train=8, test=4)}")
    order = {part: listing.splits.index(part) for part in listing.splits}
    assert [listing.targets["caption"][i][0] for i in range(12)] == [
        *(f"train {i}" for i in range(8)), *(f"test {i}" for i in range(4))
    ]  # fmt: skip
    assert listing.split.tolist() == [order["train"]] * 8 + [order["test"]] * 4
    assert [listing.reader.read(i) for i in (0, 7, 8, 11)] == [png(5), png(12), png(4), png(7)]


def test_columns_can_be_named(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "fine": datasets.ClassLabel(names=["a", "b", "c"]),
            "coarse": datasets.ClassLabel(names=["x", "y"]),
        }
    )
    rows = [{"image": {"bytes": png(i), "path": None}, "fine": i % 3, "coarse": i % 2} for i in range(6)]
    (tmp_path / "shelf").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "shelf/train.parquet"))
    address = f"hf:{tmp_path}/shelf"
    with pytest.raises(BadInput, match=r"'fine', 'coarse' could each be the label.*--data\.label fine"):
        opened(tmp_path, address)
    assert opened(tmp_path, address, label="coarse").names == ("x", "y")
    with pytest.raises(BadInput, match=r"'corse': did you mean 'coarse'"):
        opened(tmp_path, address, label="corse")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf:nobody/nothing", "cannot be reached.*go online.*hf:./folder"),
        ("hf:nobody/nothing:config", "cannot be reached"),
        ("hf:./absent", "there is no folder.*hf:owner/name"),
        ("hf:", "is no name of the Hub"),
        ("hf:a/b/c", "is no name of the Hub"),
        ("hf:https://example.org/x", "is no name of the Hub"),
        ("hf:./shelf:other", "choose one of its configs, default, as in hf:./shelf:default"),
        ("hf:shelf", "is a folder here as well; write hf:./shelf"),
        ("hf:./empty", "holds no data"),
        ("hf:./script", "no code of a data set is run"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shelf(tmp_path / "shelf", train=2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "script").mkdir()
    (tmp_path / "script/script.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    with pytest.raises(BadInput, match=words) as caught:
        opened(tmp_path, address)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs("with:colon")
    assert parsed("hf:ylecun/mnist") == (None, "ylecun/mnist", None)
    assert parsed("hf:owner/name:config-1") == (None, "owner/name", "config-1")
    assert parsed("hf:cifar10:plain_text") == (None, "cifar10", "plain_text")
    assert parsed("hf:./with:colon") == (str(tmp_path / "with:colon"), "", None)
    assert parsed(f"hf:{tmp_path}:two") == (str(tmp_path), "", "two")


def test_the_users_folder_is_only_read(tmp_path: Path) -> None:
    root = shelf(tmp_path / "shelf", train=3)
    before = sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [root, *root.rglob("*")])
    opened(tmp_path, f"hf:{root}").reader.read(0)
    assert before == sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [root, *root.rglob("*")])


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(BadInput, match=r'pip install "tessella\[hf\]"'):
        opened(tmp_path, "hf:owner/name")
