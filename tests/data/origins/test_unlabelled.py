"""Pictures without labels: all of them are found, wherever they lie, and classes that are there only judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import commands
import numpy as np
import pytest

from tessella.data.origins.open import open_data, open_unlabelled
from tessella.data.source import NOTHING_HELD, DataConfig
from tessella.errors import BadInput


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.photos(tmp_path_factory.mktemp("data") / "photos", each=6)


def opened(path: Path, **more: object) -> tuple[list[str], list[str], tuple[str, ...]]:
    splits = open_unlabelled(DataConfig(path=str(path), **more))  # type: ignore[arg-type]
    return list(splits.train.ids), list(splits.val.ids) if splits.val is not None else [], splits.classes


def test_loose_pictures_have_no_class(photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    with pytest.raises(BadInput, match="no class folders"):
        open_data(DataConfig(path=str(flat)))
    splits = open_unlabelled(DataConfig(path=str(flat)))
    assert splits.val is not None and len(splits.train) + len(splits.val) == 18 and not splits.classes
    assert splits.train.labels is None and splits.val.labels is None
    assert any("4 of 18 pictures held out" in note for note in splits.notes)


def test_classes_are_kept_and_loose_pictures_count(photos: Path, tmp_path: Path) -> None:
    place = shutil.copytree(photos, tmp_path / "photos")
    first = next(iter(sorted(place.rglob("*.png"))))
    shutil.copy(first, place / "loose.png")
    splits = open_unlabelled(DataConfig(path=str(place)))
    assert splits.val is not None and len(splits.train) + len(splits.val) == 19 and len(splits.classes) == 3
    for source in (splits.train, splits.val):
        assert source.labels is not None
        for name, label in zip(source.ids, source.labels.tolist(), strict=True):
            assert label == (-1 if "/" not in name else splits.classes.index(name.split("/")[0]))
    assert len(open_data(DataConfig(path=str(place))).train) + 6 > 0
    labelled = open_data(DataConfig(path=str(photos)))
    assert labelled.classes == splits.classes


def test_parts_are_told_apart(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "parts"
    shutil.copytree(photos, place / "train")
    shutil.copytree(photos, place / "val")
    train, val, classes = opened(place)
    assert all(name.startswith("train/") for name in train) and all(name.startswith("val/") for name in val)
    assert len(train) == len(val) == 18 and len(classes) == 3
    flat = tmp_path / "flat parts"
    for part in ("train", "val"):
        (flat / part).mkdir(parents=True)
        for i, path in enumerate(sorted(photos.rglob("*.png"))):
            shutil.copy(path, flat / part / f"{i}.png")
    train, val, classes = opened(flat)
    assert len(train) == len(val) == 18 and not classes


def test_another_folder_judges(photos: Path, tmp_path: Path) -> None:
    other = commands.photos(tmp_path / "other", each=3, seed=5, classes=commands.SHAPES[1:4])
    splits = open_unlabelled(DataConfig(path=str(photos), validation=str(other)))
    assert splits.val is not None and len(splits.train) == 18 and len(splits.val) == 9
    assert NOTHING_HELD not in splits.notes and splits.val.labels is not None
    names = [splits.classes[i] if i >= 0 else None for i in splits.val.labels.tolist()]
    folders = [name.split("/")[0] for name in splits.val.ids]
    assert names == [f if f in splits.classes else None for f in folders] and None in names


def test_an_archive_is_read_the_same(photos: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", photos))
    ours, theirs = (open_unlabelled(DataConfig(path=str(p))) for p in (packed, photos))
    assert ours.val is not None and theirs.val is not None
    for a, b in ((ours.train, theirs.train), (ours.val, theirs.val)):
        assert sorted(a.ids) == sorted(b.ids) and a.labels is not None and b.labels is not None
        assert np.array_equal(a.labels[np.argsort(list(a.ids))], b.labels[np.argsort(list(b.ids))])
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    loose = open_unlabelled(DataConfig(path=shutil.make_archive(str(tmp_path / "flat"), "tar", flat)))
    assert loose.val is not None and len(loose.train) + len(loose.val) == 18 and loose.train.labels is None


def test_what_cannot_be_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no pictures below"):
        opened(tmp_path / "empty")
    with pytest.raises(BadInput, match="learns without labels"):
        opened(photos, targets=("price",))
    assert not opened(photos, val_share=0.0)[1]
