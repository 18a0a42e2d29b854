"""Pictures inside tables: the row that is asked for, whatever its file, group or process; broken ones are named."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.origins import parquet
from tessella.data.origins.listing import Listing, settle
from tessella.data.origins.table import open_table
from tessella.data.source import DataConfig
from tessella.errors import BadInput

Row = dict[str, Any]


def opened(path: str | Path, **cfg: Any) -> Listing:
    return open_table(str(path), DataConfig(path=str(path), **cfg))


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


def as_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def as_parquet(path: Path, rows: list[Row], row_group_size: int = 4) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def packed(n: int, names: list[str] | None = None, **extra: Any) -> list[Row]:
    rows: list[Row] = [{"image": {"bytes": f"picture {i}".encode(), "path": None}, "label": i % 3} for i in range(n)]
    for i, name in enumerate(names or []):
        rows[i]["image"]["path"] = name
    return [row | extra for row in rows]


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["zebra", "ant", "cat"], "_type": "ClassLabel"}}


def hf_parquet(path: Path, rows: list[Row], size: int = 4, features: Any = FEATURES) -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    fields = [("image", kind), ("label", pa.int64())]
    fields += [(k, pa.string()) for k in rows[0] if k not in ("image", "label")]
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=size)
    return path


def test_parquet_with_pictures_and_the_names_of_classes(tmp_path: Path) -> None:
    listing = opened(hf_parquet(tmp_path / "train.parquet", packed(10)))
    assert listing.ids == [f"train.parquet#{i}" for i in range(10)]
    assert listing.names == ("zebra", "ant", "cat") and listing.ordered
    assert listing.chunks.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    again = pickle.loads(pickle.dumps(listing.reader))
    for i in (9, 0, 5, 4, 3):
        assert listing.reader.read(i) == again.read(i) == f"picture {i}".encode()
    splits = settle(listing, DataConfig(path="t", val_share=0))
    assert splits.classes == ("zebra", "ant", "cat") and splits.train.labels.tolist() == [i % 3 for i in range(10)]
    named = opened(hf_parquet(tmp_path / "t.parquet", packed(3, ["b.jpg", "a.jpg", "c.jpg"])))
    assert named.ids == ["b.jpg", "a.jpg", "c.jpg"] and named.reader.read(1) == b"picture 1"
    twice = opened(hf_parquet(tmp_path / "t.parquet", packed(3, ["b.jpg", "a.jpg", "b.jpg"])))
    assert twice.ids == ["t.parquet#0", "t.parquet#1", "t.parquet#2"]


def test_parquet_files_as_one(tmp_path: Path) -> None:
    for part, k in (("train", 0), ("train", 1), ("test", 0)):
        rows = packed(5)
        for i, row in enumerate(rows):
            row["image"]["bytes"] = f"{part}{k}{i}".encode()
        hf_parquet(tmp_path / f"{part}-0000{k}-of-00002.parquet", rows, 2)
    listing = opened(tmp_path / "*.parquet")
    assert listing.splits == ("test", "train") and listing.split.tolist() == [0] * 5 + [1] * 10
    assert listing.reader.read(0) == b"test00" and listing.reader.read(14) == b"train14"
    assert listing.chunks.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8]
    splits = settle(listing, DataConfig(path="t"))
    assert len(splits.train) == 10 and len(splits.val) == 5 and splits.val.read(4) == b"test04"
    assert len(opened(tmp_path / "train-{00000..00001}-of-*.parquet").ids) == 10
    other = FEATURES | {"label": {"names": ["ant", "zebra", "cat"], "_type": "ClassLabel"}}
    hf_parquet(tmp_path / "val-00000-of-00001.parquet", packed(2), features=other)
    with pytest.raises(BadInput, match=r"val-00000.*not those of the tables before"):
        opened(tmp_path / "*.parquet")


@pytest.mark.parametrize("column", ["image", "picture_bytes"])
def test_parquet_with_a_column_of_bytes(tmp_path: Path, column: str) -> None:
    rows = [{column: f"b{i}".encode(), "file_name": f"{i}.jpg", "label": "xy"[i % 2]} for i in range(6)]
    listing = opened(as_parquet(tmp_path / "t.parquet", rows), image=None if column == "image" else column)
    assert listing.ids == [f"{i}.jpg" for i in range(6)] and listing.reader.read(5) == b"b5"
    assert listing.names == ("x", "y")


def test_rows_without_bytes(tmp_path: Path) -> None:
    (tmp_path / "there.jpg").write_bytes(b"there.jpg")
    rows = packed(4, [None, "there.jpg", "gone.jpg", None])
    for i in (1, 2, 3):
        rows[i]["image"]["bytes"] = None
    listing = opened(hf_parquet(tmp_path / "t.parquet", rows))
    assert said(listing.notes, "3 rows have no picture's bytes")
    assert [listing.reader.read(i) for i in (0, 1)] == [b"picture 0", b"there.jpg"]
    for i, words in ((2, "gone.jpg"), (3, "row 3 of row group 0 of .* has no picture")):
        with pytest.raises(BadInput, match=words):
            listing.reader.read(i)
    for row in rows:
        row["image"] = {"bytes": None, "path": "there.jpg"}
    listing = opened(hf_parquet(tmp_path / "t.parquet", rows[:1]))
    assert listing.ids == ["there.jpg"] and listing.sizes.tolist() == [9]


def test_only_the_groups_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = pq.ParquetFile.read_row_group

    def counted(self: Any, i: int, **kwargs: Any) -> Any:
        read.append(i)
        return real(self, i, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    listing = opened(hf_parquet(tmp_path / "t.parquet", packed(40)))
    assert not read, "no picture is read when a table is opened"
    for i in (0, 3, 1, 37, 2, 36, 39):
        assert listing.reader.read(i) == f"picture {i}".encode()
    assert read == [0, 9]
    monkeypatch.setattr(parquet, "KEPT", 1)
    for i in (20, 0, 39, 1, 0):
        assert listing.reader.read(i) == f"picture {i}".encode()
    assert read == [0, 9, 5, 0, 9, 0], "no more than may be kept is kept"


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    kept=st.sampled_from([1, 800, 3000, 10**6]),
    rows=st.lists(st.integers(0, 35), max_size=20),
)
def test_groups_that_are_too_large_are_read_in_parts(
    tmp_path_factory: pytest.TempPathFactory, groups: list[int], kept: int, rows: list[int]
) -> None:
    path = tmp_path_factory.mktemp("large") / "t.parquet"
    schema = pa.schema([("image", pa.binary()), ("label", pa.string())])
    n = sum(groups)
    with pq.ParquetWriter(path, schema, compression="none", data_page_size=30) as writer:
        for g, size in enumerate(groups):
            at = sum(groups[:g])
            each = [{"image": f"picture {i}".encode(), "label": "x"} for i in range(at, at + size)]
            writer.write_table(pa.Table.from_pylist(each, schema), row_group_size=size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "KEPT", kept)
        listing = opened(path)
        reader = pickle.loads(pickle.dumps(listing.reader))
        assert [reader.read(i) for i in range(n)] == [f"picture {i}".encode() for i in range(n)]
        assert all(reader.read(i % n) == f"picture {i % n}".encode() for i in rows)
        assert len(reader._kept) == 1 or reader._bytes <= kept
    counts = np.bincount(listing.chunks)
    assert (np.diff(listing.chunks) >= 0).all() and counts.min() > 0
    assert (counts == 1).all() if kept == 1 else kept < 10**6 or counts.tolist() == groups
    assert said(listing.notes, "row groups hold more than") == (len(counts) > len(groups))


@pytest.mark.parametrize("wrong", ["skip", "ends", "file"])
def test_a_row_in_another_place_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """The bars above would fall if pieces, rows or files were taken for each other."""
    for k in "ab":
        rows = packed(9)
        for i, row in enumerate(rows):
            row["image"]["bytes"] = f"{k}{i}".encode() * 20
        hf_parquet(tmp_path / f"{k}.parquet", rows, 9)
    monkeypatch.setattr(parquet, "KEPT", 16 * 200)
    reader = opened(tmp_path / "[ab].parquet").reader
    want = [f"{k}{i}".encode() * 20 for k in "ab" for i in range(9)]
    assert [reader.read(i) for i in range(18)] == want
    reader = pickle.loads(pickle.dumps(reader))
    if wrong == "ends":
        reader._ends += 1
    elif wrong == "skip":
        reader._pieces = tuple(p._replace(skip=max(0, p.skip - 1)) for p in reader._pieces)
    else:
        reader._files = reader._files[::-1]
    assert [reader.read(i) for i in range(18)] != want


def test_a_fork_reads_on_its_own(tmp_path: Path) -> None:
    reader = opened(hf_parquet(tmp_path / "t.parquet", packed(40))).reader
    reader.read(0)
    reader._lock.acquire()  # as if another thread were reading while the process is forked
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map_async(reader.read, range(40)).get(timeout=60)
    assert got == [f"picture {i}".encode() for i in range(40)]


def test_a_parquet_file_that_broke_later(tmp_path: Path) -> None:
    listing = opened(hf_parquet(tmp_path / "t.parquet", packed(40)))
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:200] = bytes(196)
    when = (tmp_path / "t.parquet").stat()
    (tmp_path / "t.parquet").write_bytes(bytes(data))
    os.utime(tmp_path / "t.parquet", ns=(when.st_atime_ns, when.st_mtime_ns))  # a disk that forgets, not a person
    with pytest.raises(BadInput, match=r"t\.parquet: row group 0 cannot be read") as caught:
        listing.reader.read(0)
    assert "\n" not in str(caught.value)


def test_another_file_in_its_place_is_no_longer_the_data(tmp_path: Path) -> None:
    """Else its pictures would come under the labels of the first."""
    rows = packed(40)
    listing = opened(hf_parquet(tmp_path / "t.parquet", rows))
    turned = [row | {"image": rows[i - 1]["image"]} for i, row in enumerate(rows)]
    hf_parquet(tmp_path / "t.parquet", turned)
    with pytest.raises(BadInput, match="changed on disk"):
        listing.reader.read(0)
    assert opened(tmp_path / "t.parquet").seal != listing.seal, "a resumed run sees it too"
    hf_parquet(tmp_path / "t.parquet", rows)
    assert opened(tmp_path / "t.parquet").seal == listing.seal


def test_numbers_that_no_class_has(tmp_path: Path) -> None:
    rows = packed(3)
    rows[1]["label"] = -1
    listing = opened(hf_parquet(tmp_path / "t.parquet", rows))
    assert listing.label.tolist() == [0, -1, 2]
    rows[1]["label"] = 3
    with pytest.raises(BadInput, match="'label' holds 3, its classes are 3: 'zebra'"):
        opened(hf_parquet(tmp_path / "t.parquet", rows))


def test_jsonl_with_base64(tmp_path: Path) -> None:
    codes = [base64.b64encode(os.urandom(n)).decode() for n in (1, 2, 3, 100)]
    rows = [
        {"image_base64": f"data:image/png;base64,{c}" if i % 2 else c, "label": "ab"[i % 2]}
        for i, c in enumerate(codes)
    ]
    rows += [{"image_base64": "no base64!", "label": "a"}, {"label": "a"}]
    listing = opened(as_jsonl(tmp_path / "t.jsonl", rows))
    reader = pickle.loads(pickle.dumps(listing.reader))
    assert listing.ids == [f"t.jsonl#{i}" for i in range(6)] and listing.sizes.tolist()[:4] == [1, 2, 3, 100]
    assert [reader.read(i) for i in range(4)] == [base64.b64decode(c) for c in codes]
    for i, words in ((4, "no base64"), (5, "no picture")):
        with pytest.raises(BadInput, match=words):
            reader.read(i)
    as_jsonl(tmp_path / "u.jsonl", [row | {"file_name": f"{i}.png"} for i, row in enumerate(rows[:3])])
    both = opened(tmp_path / "[tu].jsonl")
    assert both.ids == [*(f"t.jsonl#{i}" for i in range(6)), *(f"u.jsonl#{i}" for i in range(3))]
    assert both.reader.read(8) == base64.b64decode(codes[2])
    assert opened(tmp_path / "u.jsonl").ids == ["0.png", "1.png", "2.png"]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r'pip install "tessella\[parquet\]"'):
        opened(tmp_path / "t.parquet")
