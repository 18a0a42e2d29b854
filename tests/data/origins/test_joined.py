"""Old and new pictures as one data set: every picture is read as what it is, and classes go by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import commands
import pytest

from tessella.data.origins.joined import joined
from tessella.data.origins.open import open_data, open_unlabelled
from tessella.data.source import DataConfig, Splits
from tessella.errors import BadInput


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("joined")
    commands.photos(root / "old", each=10, classes=commands.SHAPES[:3])
    commands.photos(root / "new", each=5, seed=3, classes=commands.SHAPES[2:5])
    return root


def splits(path: Path) -> Splits:
    return open_data(DataConfig(path=str(path)))


def test_every_picture_is_what_it_was(place: Path) -> None:
    old, new = splits(place / "old"), splits(place / "new")
    both = joined(old, new, "new", 1.0, 0)
    assert both.classes == tuple(sorted(commands.SHAPES[:5])) and both.val is not None
    for part, sources in ((both.train, (old.train, new.train)), (both.val, (old.val, new.val))):
        assert part.labels is not None and len(part) == sum(len(s) for s in sources if s is not None)
        for i, name in enumerate(part.ids):
            path = place / (name if name.startswith("new/") else f"old/{name}")
            assert part.read(i) == path.read_bytes()
            assert both.classes[part.labels[i]] == path.parent.name
    assert len(set(both.train.ids)) == len(both.train)
    assert any("new classes: " in note for note in both.notes)


def test_a_share_is_seen_again(place: Path) -> None:
    old, new = splits(place / "old"), splits(place / "new")
    for share, each in ((0.5, 4), (0.25, 2), (0.0, 0)):
        both = joined(old, new, "new", share, 0)
        kept = [name.split("/")[0] for name in both.train.ids if not name.startswith("new/")]
        assert {c: kept.count(c) for c in commands.SHAPES[:3]} == dict.fromkeys(commands.SHAPES[:3], each)
    one, other = (joined(old, new, "new", 0.5, seed).train.ids for seed in (0, 1))
    assert one != other, "another seed draws others"


def test_another_order_is_seen_by_the_fingerprint(place: Path) -> None:
    old, new = splits(place / "old"), splits(place / "new")
    prints = {
        joined(a, b, "x", share, 0).train.fingerprint() for a, b in ((old, new), (new, old)) for share in (1.0, 0.5)
    }
    assert len(prints) == 4


def test_what_has_no_classes_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    for i, path in enumerate(sorted((place / "new").rglob("*.png"))):
        shutil.copy(path, tmp_path / "loose" / f"{i}.png")
    loose = open_unlabelled(DataConfig(path=str(tmp_path / "loose")))
    with pytest.raises(BadInput, match="added have no classes"):
        joined(splits(place / "old"), loose, "new", 1.0, 0)
    without = replace(splits(place / "new").train, labels=None)
    with pytest.raises(BadInput, match="learned before have no classes"):
        joined(Splits(without, None, ("a", "b"), []), splits(place / "new"), "new", 1.0, 0)
