"""The same pictures, whatever they come in, are the same training: classes, labels, bytes, held-out part by rule."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessella.data.origins.open import absolute, is_local, open_data, open_labelled, open_splits, origin, stem
from tessella.data.source import DataConfig, Source
from tessella.errors import BadInput

PARTS = {"train": {"cat": 3, "dog": 4, "emu": 2}, "val": {"cat": 2, "emu": 1}}


def picture(name: str) -> bytes:
    held = io.BytesIO()
    colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
    Image.new("RGB", (6, 5), colour).save(held, "PNG")
    return held.getvalue()


FILES = [
    (part, label, f"{part}/{label}/{i}.png", picture(f"{part}{label}{i}"))
    for part, classes in PARTS.items()
    for label, n in classes.items()
    for i in range(n)
]


def folder(root: Path) -> str:
    for _, _, name, data in FILES:
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(data)
    return str(root / "photos")


def zipped(root: Path) -> str:
    with zipfile.ZipFile(root / "photos.zip", "w") as out:
        for _, _, name, data in FILES:
            out.writestr(f"photos/{name}", data)
    return str(root / "photos.zip")


def member(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def tarred(root: Path, mode: str = "w", suffix: str = ".tar") -> str:
    with tarfile.open(root / f"photos{suffix}", mode) as out:  # type: ignore[call-overload]
        for _, _, name, data in FILES:
            member(out, name, data)
    return str(root / f"photos{suffix}")


def squeezed(root: Path) -> str:
    return tarred(root, "w:gz", ".tar.gz")


def table(root: Path) -> str:
    folder(root)
    with open(root / "photos" / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "split"])
        out.writerows([name, label, part] for part, label, name, _ in FILES)
    return str(root / "photos" / "pairs.csv")


def lines(root: Path) -> str:
    folder(root)
    rows = [{"path": name, "label": label, "split": part} for part, label, name, _ in FILES]
    (root / "photos" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root / "photos" / "pairs.jsonl")


def parquet(root: Path) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    columns = {"image": [data for *_, data in FILES], "label": [f[1] for f in FILES], "split": [f[0] for f in FILES]}
    pyarrow.parquet.write_table(pa.table(columns), root / "table.parquet", row_group_size=4)
    return str(root / "table.parquet")


WHOLE: list[Callable[[Path], str]] = [folder, zipped, tarred, squeezed, table, lines, parquet]


def content(source: Source | None) -> list[tuple[str, str]]:
    """(class, bytes) of all samples, in an order that does not depend on names."""
    assert source is not None and source.labels is not None
    return sorted((source.classes[c], source.read(i).hex()) for i, c in enumerate(source.labels))


def wanted(part: str) -> list[tuple[str, str]]:
    return sorted((label, data.hex()) for p, label, _, data in FILES if p == part)


@pytest.mark.parametrize("make", WHOLE)
def test_every_origin_gives_the_same_parts(make: Callable[[Path], str], tmp_path: Path) -> None:
    splits = open_data(DataConfig(path=make(tmp_path)))
    assert splits.classes == ("cat", "dog", "emu")
    assert content(splits.train) == wanted("train") and content(splits.val) == wanted("val")
    assert any("val" in note and "'dog'" in note and "missing" in note for note in splits.notes)


@pytest.mark.parametrize("make", WHOLE)
def test_every_origin_can_be_evaluated_and_looked_at(make: Callable[[Path], str], tmp_path: Path) -> None:
    address = make(tmp_path)
    source, notes = open_labelled(address, ["emu", "zebra", "dog", "cat"])
    assert content(source) == wanted("val") and source.classes == ("emu", "zebra", "dog", "cat")
    assert any("zebra" in note for note in notes)
    parts, classes, _ = open_splits(DataConfig(path=address))
    assert {name: len(s) for name, s in parts.items()} == {"train": 9, "val": 3} and classes == ("cat", "dog", "emu")
    with pytest.raises(BadInput, match="'emu'"):
        open_labelled(address, ["cat", "dog"])


@pytest.mark.parametrize("make", WHOLE)
def test_another_address_to_validate_on(make: Callable[[Path], str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    splits = open_data(DataConfig(path=zipped(tmp_path / "a"), validation=make(tmp_path / "b")))
    assert content(splits.train) == wanted("train") and content(splits.val) == wanted("val")


def shards(root: Path) -> str:
    """Shards of the training part alone, with .cls beside each picture."""
    (root / "shards").mkdir()
    train = [f for f in FILES if f[0] == "train"]
    for s in range(3):
        with tarfile.open(root / "shards" / f"{s:03}.tar", "w") as out:
            for i, (_, label, _, data) in enumerate(train[s::3]):
                member(out, f"{s}{i}.png", data)
                member(out, f"{s}{i}.cls", label.encode())
    return str(root / "shards" / "{000..002}.tar")


def test_shards(tmp_path: Path) -> None:
    address = shards(tmp_path)
    for path in (address, str(tmp_path / "shards" / "*.tar"), str(tmp_path / "shards")):
        splits = open_data(DataConfig(path=path, val_share=0))
        assert content(splits.train) == wanted("train") and splits.train.chunks is not None
        assert len(np.unique(splits.train.chunks)) == 3
    one = open_data(DataConfig(path=str(tmp_path / "shards" / "000.tar"), val_share=0))
    assert len(one.train) == 3
    held = open_data(DataConfig(path=address, val_share=0.4))
    assert held.val is not None and len(held.val) + len(held.train) == 9


def test_validating_on_the_training_pictures_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the address is written; the validation part of the same archive is no such thing."""
    shards(tmp_path)
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / "shards"), "shards", "shards/"):
        notes = open_data(DataConfig(path=str(tmp_path / "shards"), validation=given)).notes
        assert any("will flatter" in note for note in notes)
    notes = open_data(DataConfig(path=zipped(tmp_path), validation="photos.zip")).notes
    assert not any("will flatter" in note for note in notes)


def test_a_table_beside_loose_pictures(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    rows = []
    for part, label, name, data in FILES:
        flat = name.replace("/", "_")
        (tmp_path / "flat" / flat).write_bytes(data)
        rows.append(f"{flat},{label},{part}\n")
    (tmp_path / "flat" / "metadata.csv").write_text("file_name,label,split\n" + "".join(rows))
    splits = open_data(DataConfig(path=str(tmp_path / "flat")))
    assert content(splits.train) == wanted("train") and content(splits.val) == wanted("val")


def test_addresses() -> None:
    for address, kind in (
        ("hf:ylecun/mnist", "hub"),
        ("cifar10", "set"),
        ("CIFAR10", "set"),
        ("a/{000..099}.tar", "shards"),
        ("s3://bucket/a.tar", "shards"),
        ("data/train-*.parquet", "table"),
    ):
        assert origin(address) == kind
    names = {
        "photos/": "photos",
        "a/photos.zip": "photos",
        "b/photos.tar.gz": "photos",
        "shards/{000..099}.tar": "shards",
        "hf:ylecun/mnist": "mnist",
        "cifar10": "cifar10",
        "/": "run",
    }
    assert {a: stem(a) for a in names} == names
    assert absolute("cifar10") == "cifar10" and absolute("hf:a/b") == "hf:a/b" and absolute("s3://b/x") == "s3://b/x"
    assert Path(absolute("photos")).is_absolute() and is_local("photos") and not is_local("hf:a/b")
    for wrong in ("cifar11", "nowhere/"):
        with pytest.raises(BadInput, match="is not there"):
            origin(wrong)


def test_a_local_folder_named_like_a_set_wins(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    assert origin("cifar10") == "folder" and Path(absolute("cifar10")).is_absolute()


def test_a_file_that_holds_no_data(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="holds no data set") as caught:
        origin("notes.txt")
    assert "\n" not in str(caught.value)
