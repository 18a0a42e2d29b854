"""What a default does to the names of classes: a mirrored picture of the left is one of the right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, World

from tessella.verbs.train import Asked, settle

QUICK: dict[str, Any] = TINY | {"train.device": "cpu"}


@pytest.mark.parametrize(
    ("name", "settings", "warned"),
    [
        ("turn left", {}, True),
        ("turn left", {"data.augment.flip": 0.0}, False),
        ("turn left", {"data.augment.flip": 0.5}, False),  # somebody has thought of it
        ("turn left", {"data.augment": None}, False),
        ("leftover", {}, False),
    ],
)
def test_names_that_say_a_side(name: str, settings: dict[str, Any], warned: bool, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.photos, tmp_path / "signs")
    next(p for p in (tmp_path / "signs").iterdir() if p.is_dir()).rename(tmp_path / "signs" / name)
    plain = {key: value for key, value in QUICK.items() if not key.startswith("data.augment")}
    notes = settle(Asked(tmp_path / "signs", settings=plain | settings)).notes
    told = [note for note in notes if "'turn left' says a side, and 50 % of the pictures are mirrored" in note]
    assert len(told) == len(notes) == int(warned)


def test_a_size_of_the_architecture_is_not_chosen_over(world: World) -> None:
    plain = {key: value for key, value in QUICK.items() if key != "size"}
    for given, side in (({}, 28), ({"model.backbone.image_size": 32}, 32), ({"size": 36}, 36)):
        choices = settle(Asked(world.photos, settings=plain | given)).choices
        assert choices.run.preprocess is not None and choices.run.preprocess.size == (side, side)
        assert ("size" in choices.reasons) == (not given)
