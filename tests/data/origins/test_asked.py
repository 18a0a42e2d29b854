"""Columns that somebody names: of what kind each is, what its cells mean, which rows know nothing, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tessella.card import Head
from tessella.data.loading.order import Key
from tessella.data.loading.pictures import Pictures
from tessella.data.loading.samples import Spot
from tessella.data.origins.cells import CellsColumn, Gathered, head_of, kind_of, typed
from tessella.data.origins.columns import text
from tessella.data.origins.open import open_data, open_for
from tessella.data.source import DataConfig, Splits
from tessella.errors import BadInput


def column(*cells: Any) -> CellsColumn:
    gathered = Gathered()
    gathered.add(cells, text)
    return gathered.column()


@pytest.mark.parametrize(
    ("cells", "kind", "why"),
    [
        (["red", "blue", "", None], "classify", "names"),
        (["1", "2", "1", "0"], "classify", "3 different numbers"),
        ([True, False, True], "classify", "names"),
        (["1.5", "2", ""], "number", "decimals"),
        ([1.0, 2.0, math.nan, 1.0], "classify", "2 different numbers"),
        ([1.25, 2.0], "number", "decimals"),
        (list(range(21)), "number", "21 different numbers"),
        (list(range(21)) * 20, "classify", "21 different numbers"),
        (list(range(21)) * 19, "number", "21 different numbers"),
        (["NA", "3.5", "n/a", "2e-3", "-1"], "number", "decimals"),
        (["old;used", "old"], "tags", "; or |"),
        (["old | used", ""], "tags", "; or |"),
        ([";", "a"], "tags", "; or |"),
        (['["old", "used"]', "[]"], "tags", "lists"),
        (["['old']"], "tags", "lists"),
        ([["old"], [], None], "tags", "lists"),
        (["[draft", "x]"], "classify", "names"),
        (["1", "2", "many"], "classify", "names"),
    ],
)
def test_the_kind_follows_from_the_values(cells: list[Any], kind: str, why: str) -> None:
    found, said = kind_of(column(*cells), "it")
    assert found == kind and why in said


def test_a_mistake_among_numbers_is_named() -> None:
    cells = [f"{i / 4}" for i in range(40)] + ["four"] + ["1.5"]
    with pytest.raises(BadInput, match=r"^it holds 'four' in row 41, which is no number; mend it, or leave"):
        kind_of(column(*cells), "it")
    with pytest.raises(BadInput, match="'four' in row 41"):
        head_of("price", "number", column(*cells), "it")
    assert head_of("price", "classify", column(*cells), "it").task == "classify", "as somebody says"


NUMBERS = ["1", "2.5", "", "na", "4e0"]


def test_what_cells_mean() -> None:
    number = head_of("n", "number", column(*NUMBERS), "it")
    assert (number.mean, number.scale) == pytest.approx((2.5, np.std([1, 2.5, 4])))
    values, _ = typed(number, column(*NUMBERS), "it")
    assert np.array([values[i] for i in range(5)]) == pytest.approx([1, 2.5, math.nan, math.nan, 4], nan_ok=True)
    tags = head_of("t", "tags", column("b; a", ";", "", "a|a", "[]", None), "it")
    assert tags.classes == ("a", "b")
    values, _ = typed(tags, column("b; a", ";", "", "a|a", "[]", None), "it")
    rows = [values[i].tolist() for i in range(6)]
    assert rows[:2] == [[1, 1], [0, 0]] and rows[3:5] == [[1, 0], [0, 0]]
    assert all(np.isnan(rows[i]).all() for i in (2, 5)), "empty is unknown, a separator alone is none"
    colour = head_of("c", "classify", column("10", "9", "", 9.0), "it")
    assert colour.classes == ("9", "10"), "by value, and 9.0 is 9"
    values, strange = typed(colour, column("9", "10", "11", "", 9), "it")
    assert [values[i] for i in range(5)] == [0, 1, -1, -1, 0] and strange == {"11": 1}


def test_typed_columns_are_told_apart() -> None:
    """`take` and another order of the cells change nothing but the rows; another value is another digest."""
    for head in (
        Head(name="c", task="classify", classes=("a", "b")),
        Head(name="t", task="tags", classes=("a", "b")),
    ):
        one, _ = typed(head, column("a", "b", "", "b"), "it")
        two, _ = typed(head, column("b", "a", "b", "", "b"), "it")
        moved = two.take(np.array([1, 2, 3, 4]))
        assert one.digest() == moved.digest() and len(moved) == 4
        assert (
            np.array_equal(one[1], moved[1])
            and one.digest() != typed(head, column("a", "b", "a", "b"), "it")[0].digest()
        )
        assert one.digest() != two.digest()


@pytest.mark.parametrize(
    ("kind", "cells", "told"),
    [
        ("classify", ["", None, " "], "is empty in all rows"),
        ("number", ["", "na"], r"one value only \(no number\)"),
        ("classify", ["red", "red", ""], r"one value only \('red'\)"),
        ("number", ["3", "3.0", ""], r"one value only \(3\)"),
        ("tags", [";", ""], r"one value only \(no tags\)"),
        ("tags", ["a;b", "b;a"], r"one value only \(a; b\)"),
        ("classify", [f"text {i}" for i in range(21)], r"another name in every row \(21\)"),
        ("number", ["1", "two"], "'two' in row 2, which is no number"),
        ("number", ["1_000", "2"], "'1_000' in row 1"),
        (
            "classify",
            [["a", "b"], ["c"]],
            r"is a list, and a class has one name; say that it holds tags: --data\.kinds\.x",
        ),
    ],
)
def test_what_cannot_be_learned(kind: Any, cells: list[Any], told: str) -> None:
    with pytest.raises(BadInput, match=rf"^it[ :][^\n]*{told}"):
        head_of("x", kind, column(*cells), "it")


# ---------------------------------------------------------------- tables

ROWS = [
    ("red", "1.5", "old;used", "train"),
    ("blue", "", ";", "train"),
    ("", "3.5", "", "train"),
    ("red", "2.5", "old", "train"),
    ("", "", "", "train"),
    ("blue", "9.5", "used;rare", "val"),
    ("", "", "", "val"),
]


def table(
    root: Path, rows: list[tuple[str, ...]] = ROWS, name: str = "t.csv", columns: str = "colour,price,tags,split"
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(len(rows)):
        (root / f"{i}.png").write_bytes(bytes([i]))
    lines = [f"file,{columns}", *(f"{i}.png,{','.join(row)}" for i, row in enumerate(rows))]
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def opened(address: Path, *targets: str, **more: Any) -> Splits:
    return open_data(DataConfig(path=str(address), targets=targets, **more))


def test_a_table_with_parts(tmp_path: Path) -> None:
    splits = opened(table(tmp_path), "colour", "price", "tags")
    assert splits.val is not None and splits.train.labels is None and splits.classes == ()
    assert list(splits.train.ids) == ["0.png", "1.png", "2.png", "3.png"] and list(splits.val.ids) == ["5.png"]
    colour, price, tags = splits.heads
    assert (colour.task, colour.classes) == ("classify", ("blue", "red"))
    assert price.mean == pytest.approx(2.5) and price.scale == pytest.approx(np.std([1.5, 3.5, 2.5])), "of train alone"
    assert (tags.task, tags.classes) == ("tags", ("old", "used"))
    got = {name: [c[i] for i in range(4)] for name, c in splits.train.targets.items()}
    assert got["target/colour"] == [1, 0, -1, 1]
    assert got["target/price"] == pytest.approx([1.5, math.nan, 3.5, 2.5], nan_ok=True)
    assert np.array_equal(got["target/tags"], [[1, 1], [0, 0], [np.nan] * 2, [1, 0]], equal_nan=True)
    assert splits.val.targets["target/tags"][0].tolist() == [0, 1], "a tag that training lacks is not judged"
    said = "\n".join(splits.notes)
    assert "colour: a class, one of 2: blue, red (its cells are names; if not: --data.kinds.colour number)" in said
    assert "price: a number, 2.5 on average, deviating by 0.8165 (its cells have decimals" in said
    assert "tags: tags, any of 2: old, used" in said and "2 of 5 are unknown (write ; where there are none)" in said
    assert "train: 1 pictures without any target left out" in said
    assert "val: 1 rows have the tag 'rare' of tags, which training lacks: not judged" in said


def test_one_target_of_each_kind(tmp_path: Path) -> None:
    """A class alone is a label as ever; a number or tags alone are the batch's `label`."""
    at = table(tmp_path)
    colour = opened(at, "colour")
    assert colour.classes == ("blue", "red") and [h.name for h in colour.heads] == ["colour"]
    plain = open_data(DataConfig(path=str(at), label="colour"))
    assert colour.train.labels.tolist() == plain.train.labels.tolist() and colour.classes == plain.classes
    assert list(colour.train.ids) == list(plain.train.ids) and list(colour.val.ids) == list(plain.val.ids)
    price = opened(at, "price")
    assert list(price.train.targets) == ["label"] and len(price.train) == 3 and price.train.labels is None
    tags = opened(at, "tags")
    assert list(tags.train.targets) == ["label"] and len(tags.train) == 3


def test_a_kind_that_somebody_says(tmp_path: Path) -> None:
    splits = opened(table(tmp_path, ROWS[:4]), "price", "tags", kinds={"price": "classify", "tags": "classify"})
    assert splits.heads[0].classes == ("1.5", "2.5", "3.5") and splits.heads[1].classes == (";", "old", "old;used")
    assert "as you say" in "\n".join(splits.notes)


def test_a_batch_holds_every_target(tmp_path: Path) -> None:
    from PIL import Image

    from tessella.card import Preprocess
    from tessella.data.pixels.mix import MixConfig

    at = table(tmp_path)
    for i in range(7):
        Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    image = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    train = opened(at, "colour", "price", "tags").train
    made = Pictures(train, image)
    keys = [Key(0, i) for i in range(4)]
    batch = made.collate([made.sample(k) for k in keys], [Spot(i, k) for i, k in enumerate(keys)])
    assert {k for k in batch} == {"ids", "image", "target/colour", "target/price", "target/tags"}
    assert [str(batch[f"target/{n}"].dtype) for n in ("colour", "price", "tags")] == [
        "torch.int64",
        *["torch.float32"] * 2,
    ]
    assert batch["target/tags"].shape == (4, 2)
    empty = made.collate([], [])
    assert [tuple(empty[f"target/{n}"].shape) for n in ("colour", "price", "tags")] == [(0,), (0,), (0, 2)]
    blended = Pictures(train, image, mix=MixConfig())
    mixed = blended.collate([blended.sample(k) for k in keys], [Spot(i, k) for i, k in enumerate(keys)])
    assert mixed["mix_target/colour"].tolist() == [0, 1, 1, -1], "the partner's"
    assert mixed["mix_target/tags"].shape == (4, 2) and "mix_label" not in mixed


def test_the_same_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    rows = [("abc"[i % 3 if i % 9 else 2], f"{i / 7:.3f}") for i in range(90)]
    at = table(tmp_path, rows, columns="colour,price")
    splits = opened(at, "price", "colour")
    held = [splits.heads[1].classes[splits.val.targets["target/colour"][i]] for i in range(len(splits.val))]
    counts = {c: sum(row[0] == c for row in rows) for c in "abc"}
    assert {c: held.count(c) for c in "abc"} == {c: round(0.2 * n) for c, n in counts.items()}
    assert any("the same share of each colour" in note for note in splits.notes)
    alone = opened(at, "price")
    assert len(alone.val) == 18 and not set(alone.val.ids) & set(alone.train.ids)
    moved = opened(table(tmp_path / "more", [*rows, ("a", "0.5")], columns="colour,price"), "price")
    assert len(set(alone.val.ids) ^ set(moved.val.ids)) <= 2, "a new file moves few"
    assert opened(at, "price", val_share=0.0).val is None


def test_other_tables_say_the_same(tmp_path: Path) -> None:
    csv = opened(table(tmp_path), "colour", "price", "tags")
    lists = {"old;used": ["old", "used"], ";": [], "": None, "old": ["old"], "used;rare": ["used", "rare"]}
    rows = [
        {"file": f"{i}.png", "colour": c or None, "price": float(p) if p else None, "tags": lists[t], "split": s}
        for i, (c, p, t, s) in enumerate(ROWS)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        other = opened(tmp_path / name, "colour", "price", "tags")
        assert other.heads == csv.heads
        assert other.train.fingerprint() == csv.train.fingerprint()


def test_a_label_among_several(tmp_path: Path) -> None:
    splits = opened(table(tmp_path, columns="label,number,labels,split"), "label", "number", "labels")
    assert list(splits.train.targets) == ["target/label", "target/number", "target/labels"]
    assert [h.task for h in splits.heads] == ["classify", "number", "tags"]


def test_what_is_evaluated(tmp_path: Path) -> None:
    heads = opened(table(tmp_path), "colour", "price", "tags").heads
    cfg = DataConfig(path="x")
    source, notes = open_for(tmp_path / "t.csv", heads, cfg)
    assert list(source.ids) == ["5.png"] and notes[0].startswith("evaluating on the val part")
    turned = tuple(Head(name=h.name, task=h.task, classes=h.classes[::-1]) for h in heads if h.task != "number")
    other, _ = open_for(tmp_path / "t.csv", turned, cfg)
    assert other.targets["target/colour"][0] == 1 - source.targets["target/colour"][0], "by name, not by place"
    lone, _ = open_for(tmp_path / "t.csv", (Head(name="colour", task="classify", classes=("red", "blue")),), cfg)
    assert lone.labels is not None and lone.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("targets", "more", "told"),
    [
        (["colr"], {}, r"no column 'colr': did you mean 'colour'\? its columns are .*; name one of them"),
        (["colour", "colour"], {}, "names 'colour' twice"),
        (["colour", "Colour"], {}, "column 'colour' is two targets; give each column one meaning"),
        (["file"], {}, "column 'file' holds the pictures, and is no target"),
        (["colour", ""], {}, "twice or nothing"),
        (["colour"], {"label": "price"}, "data.label is 'price' and data.targets are given too"),
        (["colour"], {"kinds": {"colr": "tags"}}, "data.kinds has 'colr', which is no target; did you mean 'colour'?"),
        (
            ["colour", "price"],
            {"kinds": {"colour": "number"}},
            "column 'colour' holds 'red' in row 1, which is no number",
        ),
        (["val", "price"], {}, "names 'val', which is what validation is called in a log; rename the column"),
        (["split", "price"], {"split": "split"}, "column 'split' is the split and a target"),
    ],
)
def test_what_is_refused(targets: list[str], more: dict[str, Any], told: str, tmp_path: Path) -> None:
    at = table(tmp_path)
    with pytest.raises(BadInput) as caught:
        opened(at, *targets, **more)
    assert "\n" not in str(caught.value)
    assert caught.match(told if ".*" in told else told.replace("?", r"\?"))


def test_an_unknown_class_is_an_error(tmp_path: Path) -> None:
    rows = [*ROWS, ("green", "1.0", "old", "val")]
    with pytest.raises(
        BadInput, match=r"val has 1 rows of an unknown colour 'green'; rename .* \(the 2 are blue, red\)"
    ):
        opened(table(tmp_path, rows), "colour", "price")
    with pytest.raises(BadInput, match="val has 1 pictures of an unknown class 'green'"):
        opened(table(tmp_path, rows), "colour")


def test_pictures_without_a_table(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "p" / name / "0.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"p is no table, so it has no columns 'colour', 'price'; give a \.csv"):
        opened(tmp_path / "p", "colour", "price")
    (tmp_path / "p" / "metadata.csv").write_text("file,colour\ncat/0.png,red\ndog/0.png,blue\n")
    assert opened(tmp_path / "p", "colour", val_share=0.0).classes == ("blue", "red"), "the table beside class folders"
    assert open_data(DataConfig(path=str(tmp_path / "p"), val_share=0.0)).classes == ("cat", "dog")


def test_classes_that_a_table_knows_by_number(tmp_path: Path) -> None:
    """Parquet of Hugging Face: names in the schema, numbers in the cells, one or a list of them."""
    names = {"label": ["zebra", "ant"], "tags": ["x", "y", "z"]}
    label = {"names": names["label"], "_type": "ClassLabel"}
    tags = {"feature": {"names": names["tags"], "_type": "ClassLabel"}, "_type": "List"}
    rows = [{"file": f"{i}.png", "label": i % 2, "tags": list(range(i % 4)), "n": i / 3} for i in range(8)]
    whole = pa.Table.from_pylist(rows)
    meta = {"huggingface": json.dumps({"info": {"features": {"label": label, "tags": tags}}})}
    pq.write_table(whole.replace_schema_metadata(meta), tmp_path / "t.parquet")
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]))
    splits = opened(tmp_path / "t.parquet", "label", "tags", "n", val_share=0.0)
    assert [(h.task, h.classes) for h in splits.heads] == [
        ("classify", ("ant", "zebra")),
        ("tags", ("x", "y", "z")),
        ("number", ()),
    ]
    assert [splits.train.targets["target/label"][i] for i in range(3)] == [1, 0, 1]
    assert [splits.train.targets["target/tags"][i].tolist() for i in (0, 1, 3)] == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]


def test_what_boxes_show_as_tags(tmp_path: Path) -> None:
    """COCO has no table, but says what is to be seen: `--targets boxes` learns whether, not where."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 8} for i in range(4)]
    seen = [(0, 1), (0, 1), (0, 2), (1, 2), (3, 1)]
    boxes = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 4, 4], "iscrowd": 0} for n, (i, c) in enumerate(seen)
    ]
    told = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "car"}]}
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(told))
    for i in range(4):
        (tmp_path / "train" / f"{i}.jpg").write_bytes(bytes([i]))
    splits = opened(tmp_path, "boxes", kind="coco", val_share=0.0)
    assert [(h.name, h.task, h.classes) for h in splits.heads] == [("boxes", "tags", ("car", "dog"))]
    rows = {name: splits.train.targets["label"][i].tolist() for i, name in enumerate(splits.train.ids)}
    assert rows == {"train/0.jpg": [1, 1], "train/1.jpg": [1, 0], "train/2.jpg": [0, 0], "train/3.jpg": [0, 1]}
