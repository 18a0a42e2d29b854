"""Tables to listings: CSV, JSONL and Parquet say the same, every row keeps its own label, and what is odd is said."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessella.data.names import Names
from tessella.data.origins import columns
from tessella.data.origins.folder import open_folder
from tessella.data.origins.listing import Listing, by_path, settle, settle_known
from tessella.data.origins.table import expand, open_table, part_of, table_in
from tessella.data.source import DataConfig, Splits
from tessella.errors import BadInput

Row = dict[str, Any]


def pictures(root: Path, *names: str) -> Path:
    """Files whose bytes are their names: tables do not decode."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def as_csv(path: Path, rows: list[Row], quoting: int = csv.QUOTE_MINIMAL, delimiter: str = ",") -> Path:
    fields = list(dict.fromkeys(k for row in rows for k in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, quoting=quoting, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows), "utf-8")
    return path


def as_json(path: Path, rows: list[Row]) -> Path:
    path.write_text(json.dumps(rows, indent=len(rows) % 2), "utf-8")
    return path


def as_parquet(path: Path, rows: list[Row], row_group_size: int = 4) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


def as_arrow_csv(path: Path, rows: list[Row]) -> Path:
    pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "plain.csv": as_csv,
    "quoted.csv": lambda p, r: as_csv(p, r, csv.QUOTE_ALL),
    "semicolons.csv": lambda p, r: as_csv(p, r, delimiter=";"),
    "tabs.tsv": lambda p, r: as_csv(p, r, delimiter="\t"),
    "arrow.csv": as_arrow_csv,
    "lines.jsonl": as_jsonl,
    "list.json": as_json,
    "groups.parquet": as_parquet,
}


def opened(path: str | Path, **cfg: Any) -> Listing:
    return open_table(str(path), DataConfig(path=str(path), **cfg))


def facts(listing: Listing) -> list[Row]:
    """What a listing says of every sample, by name."""
    out = []
    for i, name in enumerate(listing.ids):
        label, split = (None if v is None else int(v[i]) for v in (listing.label, listing.split))
        fact: Row = {"file": name, "size": int(listing.sizes[i]), "bytes": listing.reader.read(i)}
        fact["label"] = listing.names[label] if label is not None and label >= 0 else ""
        fact["split"] = listing.splits[split] if split is not None and split >= 0 else ""
        fact["caption"] = listing.targets["caption"][i] if "caption" in listing.targets else ()
        fact["number"] = repr(listing.targets["number"][i]) if "number" in listing.targets else "nan"
        out.append(fact)
    return out


def said(notes: list[str], *words: str) -> bool:
    return any(all(w in note for w in words) for note in notes)


# ------------------------------------------------------------------------------------ every kind of table says the same

FILES = ["cat/1.jpg", "dog/1.jpg", "a, b.jpg", 'q"uote.jpg', "ünï/猫.jpg", "new\nline.jpg", "semi;colon|.jpg", " x.jpg"]
WORDS = st.one_of(
    st.sampled_from(
        ["cat", "dog", "a,b", 'q"', '"', "two\nlines", "tail ", " lead", "猫", "7", "10", "007", "NA", "a;b"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0.", exclude_categories=["Cs"]), min_size=1, max_size=6),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "file": st.sampled_from(FILES),
            "label": st.one_of(st.just(""), WORDS),
            "split": st.sampled_from(["train", "val", "test", "Train", ""]),
            "caption": st.one_of(st.just(""), WORDS),
            "score": st.floats(allow_nan=False, allow_infinity=False),
        }
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row["file"],
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("shelf"), *FILES)


def expected(rows: list[Row]) -> list[Row]:
    """What the rows say, written down here once more."""
    parts = {"train", "val", "test"} & {row["split"].lower() for row in rows}
    return [
        {
            "file": row["file"],
            "size": len(row["file"].encode()),
            "bytes": row["file"].encode(),
            "label": row["label"],
            "split": row["split"].lower() if parts else "",
            "caption": (row["caption"],) if row["caption"] else (),
            "number": repr(row["score"]),
        }
        for row in rows
    ]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_any_rows_say_the_same_in_every_kind_of_table(shelf: Path, rows: list[Row]) -> None:
    want = expected(rows)
    seen = []
    for name, write in WRITERS.items():
        listing = opened(write(shelf / name, rows))
        assert facts(listing) == want, name
        seen.append((listing.names, listing.ordered, listing.splits, [n for n in listing.notes if "classes" in n]))
    assert all(one == seen[0] for one in seen)
    names, ordered = seen[0][:2]
    assert set(names) == {row["label"] for row in rows} - {""}
    whole = all(set(name) <= set("0123456789") for name in names)
    assert list(names) == sorted(names, key=lambda name: (int(name) if whole else 0, name)) and whole >= ordered


@pytest.mark.parametrize("name", WRITERS)
def test_a_shift_by_one_row_is_seen(shelf: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The bar above would fall if labels slipped."""
    rows = [{"file": f, "label": f"l{i}", "split": "train", "caption": "", "score": i} for i, f in enumerate(FILES)]
    path = WRITERS[name](shelf / name, rows)
    assert [f["label"] for f in facts(opened(path))] == [row["label"] for row in rows]
    add = columns.Numbered.add
    monkeypatch.setattr(columns.Numbered, "add", lambda self, texts: add(self, [*texts[1:], *texts[:1]]))
    assert [f["label"] for f in facts(opened(path))] != [row["label"] for row in rows]


def test_many_rows_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessella.data.origins.lines.ROWS", 7)
    monkeypatch.setattr("tessella.data.origins.parquet.ROWS", 7)
    pictures(tmp_path, *(f"{i}.jpg" for i in range(50)))
    rows = [{"file": f"{i}.jpg", "label": f"n{i % 13}", "split": "train", "score": i / 2} for i in range(50)]
    for name, write in WRITERS.items():
        listing = opened(write(tmp_path / name, rows))
        assert [(f["file"], f["label"], f["number"]) for f in facts(listing)] == [
            (row["file"], row["label"], repr(row["score"])) for row in rows
        ]


# ------------------------------------------------------------------------- a folder, its table, a listing of its paths


def told(splits: Splits) -> list[Any]:
    sides = [splits.train, splits.val]
    return [splits.classes, *({n: int(c) for n, c in zip(s.ids, s.labels, strict=True)} if s else {} for s in sides)]


@pytest.mark.parametrize("parts", [("",), ("train/", "val/"), ("train/", "test/")])
@pytest.mark.parametrize("kind", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_a_folder_its_table_and_its_paths_settle_alike(tmp_path: Path, parts: tuple[str, ...], kind: str) -> None:
    names = [f"{part}{c}/{i}.jpg" for part in parts for c, n in (("dog", 9), ("cat", 4), ("b", 7)) for i in range(n)]
    pictures(tmp_path, *names)
    rows = [{"file_name": n, "class": n.split("/")[-2], "split": n.split("/")[0]} for n in names[::-1]]
    if parts == ("",):
        rows = [{k: row[k] for k in ("file_name", "class")} for row in rows]
    write = {".csv": as_csv, ".jsonl": as_jsonl, ".parquet": as_parquet}[os.path.splitext(kind)[1]]
    cfg = DataConfig(path=str(tmp_path), seed=3)
    want = told(open_folder(tmp_path, seed=3))
    table = opened(write(tmp_path / kind, rows))
    ids = Names.of(names)
    places = by_path(names)._asdict()
    paths = Listing(where="zip", reader=table.reader, ids=ids, sizes=np.ones(len(ids), np.int64), **places)
    assert told(settle(table, cfg)) == told(settle(paths, cfg)) == want
    shifted = replace(table, label=np.roll(table.label, 1))
    assert told(settle(shifted, cfg)) != want
    source, _ = settle_known(table, ["cat", "dog", "b"])
    assert {n.split("/")[-2] for n, c in zip(source.ids, source.labels, strict=True) if c == 1} == {"dog"}


# ---------------------------------------------------------------------------------------------- which column is which


def test_columns_by_name_and_by_option(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg")
    for file, label, split in (
        ("image", "label", "split"),
        ("Filename", "CLASS", "Partition"),
        ("image path", "category", "subset"),
        (" file-name", "target", "SPLIT"),
    ):
        rows = [{file: "1.jpg", label: "x", split: "train"}, {file: "2.jpg", label: "y", split: "val"}]
        got = facts(opened(as_csv(tmp_path / "t.csv", rows)))
        assert [(f["file"], f["label"], f["split"]) for f in got] == [("1.jpg", "x", "train"), ("2.jpg", "y", "val")]
    rows = [{"id": 1, "who": "1.jpg", "kind": "x", "label": "no", "use": "train"}]
    listing = opened(as_csv(tmp_path / "t.csv", rows), image="who", label="Kind", split="use")
    assert facts(listing)[0] | {"file": "1.jpg", "label": "x", "split": "train"} == facts(listing)[0]


@pytest.mark.parametrize(
    ("header", "cfg", "words"),
    [
        ("id,kind", {}, "no column is called image.*'id', 'kind'.*--data.image"),
        ("cat/1.jpg,cat", {}, "'cat/1.jpg', 'cat'"),
        ("file,path,label", {}, "'file', 'path' could each be the image.*--data.image file"),
        ("file,label,class", {}, "'label', 'class' could each be the label.*--data.label label"),
        ("file,label", {"label": "lable"}, "no column 'lable': did you mean 'label'.*--data.label"),
        ("file,label", {"split": "zzz"}, "no column 'zzz': its columns are 'file', 'label'"),
        ("file,label,label", {}, "could each be|several columns"),
        ("file,base64", {}, "pictures inside CSV"),
    ],
)
def test_columns_in_doubt_are_named(tmp_path: Path, header: str, cfg: dict[str, str], words: str) -> None:
    pictures(tmp_path, "1.jpg")
    (tmp_path / "t.csv").write_text(header + "\n" + "1.jpg" + ",x" * header.count(",") + "\n")
    with pytest.raises(BadInput, match=words) as caught:
        opened(tmp_path / "t.csv", **cfg)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- cells of all kinds


def test_numbers_are_names_in_the_order_of_numbers(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(12)]
    pictures(tmp_path, *names)
    for write, values in (
        (as_csv, [str(i) for i in range(12)]),
        (as_jsonl, list(range(12))),
        (as_parquet, [float(i) for i in range(12)]),
    ):
        path = tmp_path / {as_csv: "t.csv", as_jsonl: "t.jsonl", as_parquet: "t.parquet"}[write]
        rows = [{"file": n, "label": v} for n, v in zip(names, values, strict=True)]
        listing = opened(write(path, rows[::-1]))
        splits = settle(listing, DataConfig(path="t", val_share=0))
        assert splits.classes == tuple(str(i) for i in range(12))
        assert splits.train.labels.tolist() == list(range(12))[::-1]


def test_a_number_that_train_lacks_is_unknown(tmp_path: Path) -> None:
    pictures(tmp_path, *"1234")
    rows = [{"file": str(i), "label": i, "split": "val" if i == 4 else "train"} for i in range(1, 5)]
    with pytest.raises(BadInput, match="unknown class '4'"):
        settle(opened(as_csv(tmp_path / "t.csv", rows)), DataConfig(path="t"))


def test_empty_cells_are_no_labels(tmp_path: Path) -> None:
    pictures(tmp_path, *"1234")
    for write, gap, name in ((as_csv, "", "t.csv"), (as_jsonl, None, "t.jsonl"), (as_parquet, None, "t.parquet")):
        rows = [{"file": f, "label": v} for f, v in zip("1234", [1.0, gap, 2.0, gap], strict=True)]
        rows = [row | {"label": "12"[i // 2] if row["label"] else gap} for i, row in enumerate(rows)]
        splits = settle(opened(write(tmp_path / name, rows)), DataConfig(path="t", val_share=0))
        assert splits.classes == ("1", "2") and splits.train.ids == ["1", "3"]
        assert said(splits.notes, "2 pictures without a label left out")


def test_what_is_odd_about_cells_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, *"123456")
    for column, values, words in (
        (
            "label",
            ["cat", "Cat", "cat ", "dog", "dog", "dog"],
            ("case or space", "'cat' (1)", "'Cat' (1)", "'cat ' (1)"),
        ),
        ("label", ["0.5", "0.25", "1.5", "", "1", "2.5"], ("fractions", "to predict")),
        ("labels", ["cat", "dog", "", "dog", "x", "y"], ("'labels'", "it is the class")),
        ("score", ["good", "bad", "", "x", "y", "z"], ("'score'", "no numbers")),
        ("fold", ["0", "1", "2", "3", "4", "0"], ("'fold' is not used", "train")),
    ):
        listing = opened(
            as_csv(tmp_path / "t.csv", [{"file": f, column: v} for f, v in zip("123456", values, strict=True)])
        )
        assert said(listing.notes, *words), listing.notes
    with pytest.raises(BadInput, match=r"'high' in row 2.*no number"):
        rows = [{"file": "1", "score": "3"}, {"file": "2", "score": "high"}]
        opened(as_csv(tmp_path / "t.csv", rows))


def test_several_labels(tmp_path: Path) -> None:
    pictures(tmp_path, *"1234")
    want = [["cat", "dog"], ["dog"], [], ["a b", "cat"]]
    tables = {
        "t.csv": as_csv(
            tmp_path / "t.csv", [{"file": f, "labels": ";".join(v)} for f, v in zip("1234", want, strict=True)]
        ),
        "u.csv": as_csv(
            tmp_path / "u.csv", [{"file": f, "tags": " | ".join(v)} for f, v in zip("1234", want, strict=True)]
        ),
        "t.jsonl": as_jsonl(
            tmp_path / "t.jsonl", [{"file": f, "labels": v} for f, v in zip("1234", want, strict=True)]
        ),
        "t.parquet": as_parquet(
            tmp_path / "t.parquet", [{"file": f, "label": v} for f, v in zip("1234", want, strict=True)]
        ),
    }
    for path in tables.values():
        listing = opened(path)
        column = listing.targets["labels"]
        assert listing.label is None and column.names == ("a b", "cat", "dog")
        assert [sorted(column.names[c] for c in column[i]) for i in range(4)] == want
    digests = {opened(path).targets["labels"].take(np.array([1, 2])).digest() for path in tables}
    assert len(digests) == 1


def test_a_picture_with_several_captions_is_one_sample(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = [{"image": f"{i % 3 + 1}.jpg", "caption": f"text {i}"} for i in range(7)]
    listing = opened(as_csv(tmp_path / "t.csv", rows))
    assert listing.ids == ["1.jpg", "2.jpg", "3.jpg"]
    captions = listing.targets["caption"]
    assert [captions[i] for i in range(3)] == [
        ("text 0", "text 3", "text 6"),
        ("text 1", "text 4"),
        ("text 2", "text 5"),
    ]
    assert said(listing.notes, "4 rows name a file that an earlier row names", "all their captions")
    lists = [{"image": "1.jpg", "caption": ["a", "b"]}, {"image": "2.jpg", "caption": []}]
    assert opened(as_jsonl(tmp_path / "t.jsonl", lists)).targets["caption"][0] == ("a", "b")


def test_a_file_in_two_rows_is_one_sample(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    os.symlink(tmp_path / "2.jpg", tmp_path / "other.jpg")
    rows = [("1.jpg", "a", "train"), ("2.jpg", "b", "train"), ("./1.jpg", "b", "train"), ("other.jpg", "b", "val")]
    rows += [(str(tmp_path / "1.jpg"), "a", "train"), ("3.jpg", "b", "val")]
    listing = opened(as_csv(tmp_path / "t.csv", [dict(zip(("file", "label", "split"), r, strict=True)) for r in rows]))
    got = [(f["file"], f["label"], f["split"]) for f in facts(listing)]
    assert got == [("1.jpg", "a", "train"), ("2.jpg", "b", "train"), ("3.jpg", "b", "val")]
    assert said(listing.notes, "3 rows", "1 of them lie in two classes", "1 of them lie in two parts")


# ----------------------------------------------------------------------------------------------------- text as it comes


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_tables_that_are_no_utf8(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "naïve.jpg")
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:
            file.write(b"raw")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tmp_path / "t.csv").write_bytes("file,label\ncafé.jpg,chênes\nnaïve.jpg,x\n".encode("latin-1"))
    listing = opened(tmp_path / "t.csv")
    assert listing.names == ("chênes", "x") and said(listing.notes, "not UTF-8", "Latin-1")
    assert [listing.reader.read(i) for i in range(2)] == [b"raw", "naïve.jpg".encode()]
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "t.csv").write_bytes("file,label\n1.jpg,chênes\nnaïve.jpg,x\n".encode(encoding))
        listing = opened(tmp_path / "t.csv")
        assert listing.names == ("chênes", "x") and listing.ids == ["1.jpg", "naïve.jpg"] and not listing.notes
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"file": "1.jpg"}\n\n  \r\n{"file": "na\xc3\xafve.jpg"}')
    assert opened(tmp_path / "t.jsonl").ids == ["1.jpg", "naïve.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", 'file,label\n1.jpg,"ca"t\n', "line 2.*mend the quotes"),
        ("t.csv", 'file,label\n1.jpg,"cat\n', "mend the quotes"),
        ("t.csv", "file,label\n1.jpg,a,b\n", "has 3 cells, the first line has 2"),
        ("t.csv", "file,label\n1.jpg\n", "has 1 cells"),
        ("t.csv", "file,label\n", "no rows"),
        ("t.csv", "\n\n", "is empty"),
        ("t.jsonl", '{"file": "1.jpg"}\n{"file": \n', "line 2: no JSON"),
        ("t.jsonl", "[1]\n", "line 1: b.* is no object"),
        ("t.jsonl", "", "no column|no rows"),
        ("t.json", '{"images": [], "annotations": []}', "list of objects.*COCO"),
        ("t.json", '[{"file": "1.jpg"}', "no JSON"),
        ("t.json", '[{"file": "1.jpg", "base64": ""}]', "read from JSONL"),
        ("t.parquet", "PAR1 no more", "cannot be read as Parquet"),
    ],
)
def test_tables_that_are_broken(tmp_path: Path, name: str, text: str, words: str) -> None:
    pictures(tmp_path, "1.jpg")
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=words) as caught:
        opened(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_spaces_after_commas_and_blank_lines(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "t.csv").write_text("\nfile, label\n\n1.jpg, cat\n\r\n2.jpg, dog\n\n")
    assert opened(tmp_path / "t.csv").names == ("cat", "dog")


# -------------------------------------------------------------------------------------------------- addresses of tables


def test_addresses_of_several_tables(tmp_path: Path) -> None:
    for name in ("a-00.csv", "a-01.csv", "a-10.csv", "b{1}.csv"):
        (tmp_path / name).write_text("file\n")
    for address, want in (
        ("a-{00..01}.csv", ["a-00.csv", "a-01.csv"]),
        ("a-*.csv", ["a-00.csv", "a-01.csv", "a-10.csv"]),
        ("a-{10,00}.csv", ["a-10.csv", "a-00.csv"]),
        ("{a-*,a-0?}.csv", ["a-00.csv", "a-01.csv", "a-10.csv"]),
        ("b{1}.csv", ["b{1}.csv"]),
    ):
        assert [os.path.basename(p) for p in expand(str(tmp_path / address))] == want
    for bad, words in (("none-*.csv", "no such file"), ("../*", "is no table|no such file")):
        with pytest.raises(BadInput, match=words):
            expand(str(tmp_path / bad))


def test_parts_by_the_names_of_files() -> None:
    for path, want in (
        ("x/train-00000-of-00002.parquet", "train"),
        ("x/mnist_test.csv", "test"),
        ("x/validation/0000.parquet", "validation"),
        ("x/train_and_val.csv", ""),
        ("x/training.csv", "training"),
        ("x/constrained.csv", ""),
    ):
        assert part_of(path) == want


def test_the_table_of_a_folder(tmp_path: Path) -> None:
    assert table_in(str(tmp_path)) is None
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "odd.csv").write_text("file,label\n1.jpg,a\n")
    assert table_in(str(tmp_path)) == str(tmp_path / "odd.csv")
    (tmp_path / "more.csv").write_text("file,label\n1.jpg,a\n")
    assert table_in(str(tmp_path)) is None
    (tmp_path / "train.csv").write_text("file,label\n1.jpg,a\n2.jpg,b\n")
    (tmp_path / "val.csv").write_text("label,file\nb,3.jpg\n")
    (tmp_path / "test.csv").write_text("file\n3.jpg\n")
    address = table_in(str(tmp_path))
    assert address == str(tmp_path / "{train.csv,val.csv}")
    splits = settle(opened(address), DataConfig(path=address))
    assert splits.train.ids == ["1.jpg", "2.jpg"] and splits.val.ids == ["3.jpg"] and splits.val.labels.tolist() == [1]
    (tmp_path / "Metadata.jsonl").write_text('{"file_name": "1.jpg"}\n')
    assert table_in(str(tmp_path)) == str(tmp_path / "Metadata.jsonl")
    (tmp_path / "metadata.csv").write_text("file\n")
    with pytest.raises(BadInput, match=r"Metadata\.jsonl and metadata\.csv|metadata\.csv and"):
        table_in(str(tmp_path))


def test_a_table_beside_class_folders(tmp_path: Path) -> None:
    """Folders say the classes, unless a table that is called for it says them."""
    for root, folders in ((tmp_path / "flat", ("cat", "dog")), (tmp_path / "parts", ("train/cat", "train/dog"))):
        pictures(root, *(f"{folder}/1.jpg" for folder in folders))
        for name in ("statistics.csv", "train.csv"):
            (root / name).write_text("file,label\ncat/1.jpg,a\n")
            assert table_in(str(root)) is None
        (root / "metadata.csv").write_text("file,text\ncat/1.jpg,a\n")
        assert table_in(str(root)) is None
        (root / "metadata.csv").write_text("file,Class\ncat/1.jpg,a\n")
        assert table_in(str(root)) == str(root / "metadata.csv")
    (tmp_path / "par{q}[1]").mkdir()
    for part in ("test", "train"):
        as_parquet(tmp_path / f"par{{q}}[1]/{part}-0.parquet", [{"image": part.encode(), "label": part}])
    listing = opened(table_in(str(tmp_path / "par{q}[1]")))
    assert listing.splits == ("test", "train") and listing.reader.read(1) == b"train"
    pictures(tmp_path / "shards", "index.csv", "0.tar", "1.tar")
    assert table_in(str(tmp_path / "shards")) is None
    pictures(tmp_path / "loose", "images/1.jpg")
    (tmp_path / "loose/annotations.csv").write_text("file,label\nimages/1.jpg,a\n")
    assert table_in(str(tmp_path / "loose")) == str(tmp_path / "loose/annotations.csv")


def test_a_table_in_each_part(tmp_path: Path) -> None:
    for part, label in (("train", "a"), ("train", "b"), ("validation", "b")):
        pictures(tmp_path, f"{part}/{label}.jpg")
    as_csv(tmp_path / "train/metadata.csv", [{"file_name": f"{c}.jpg", "label": c} for c in "ab"])
    as_csv(tmp_path / "validation/metadata.csv", [{"file_name": "b.jpg", "label": "b"}])
    address = table_in(str(tmp_path))
    listing = opened(address)
    assert listing.ids == ["train/a.jpg", "train/b.jpg", "validation/b.jpg"] and listing.splits == (
        "train",
        "validation",
    )
    assert facts(listing)[2]["bytes"] == b"validation/b.jpg" and facts(listing)[2]["label"] == "b"


def test_a_table_with_other_columns_is_said(tmp_path: Path) -> None:
    pictures(tmp_path, *"12")
    as_csv(tmp_path / "a.csv", [{"file": "1", "label": "x"}])
    as_csv(tmp_path / "b.csv", [{"file": "2", "caption": "y"}])
    listing = opened(tmp_path / "[ab].csv")
    assert said(listing.notes, "b.csv has no column for the label") and said(
        listing.notes, "has a column for the caption"
    )
    assert [(f["label"], f["caption"]) for f in facts(listing)] == [("x", ()), ("", ("y",))]
    as_parquet(tmp_path / "c.parquet", [{"image": b"1"}])
    with pytest.raises(BadInput, match="some tables hold pictures"):
        opened(tmp_path / "{a.csv,c.parquet}")


def test_nothing_is_written(tmp_path: Path) -> None:
    pictures(tmp_path, *"12")
    path = as_csv(tmp_path / "t.csv", [{"file": "1", "label": "x"}])
    before = sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [tmp_path, *tmp_path.rglob("*")])
    facts(opened(path))
    assert before == sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [tmp_path, *tmp_path.rglob("*")])
