"""No verb touches the pictures: names, bytes, permissions and modification times are the same before and after."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from commands import TINY, World, hash_of, words

COMMANDS = {
    "train": ["train", "photos", *words(TINY), "--folder", "elsewhere"],
    "train with workers": ["train", "photos", *words(TINY), "--workers", "2", "--folder", "workers"],
    "train, refused": ["train", "photos", *words(TINY), "--train.lrr", "3"],
    "resume": ["train", "--resume", "runs/photos-1"],
    "resume further": ["train", "--resume", "runs/photos-1", "--train.steps", "9", "--allow-change", "train.steps"],
    "check": ["check", "photos", "--html", "elsewhere.html"],
    "check with a model": ["check", "photos", "--model", "runs/photos-1", "--json"],
    "evaluate": ["evaluate", "runs/photos-1", "photos"],
    "predict": ["predict", "runs/photos-1", "photos", "photos/circle/00.png"],
    "list": ["list"],
    "doctor": ["doctor"],
}


@pytest.fixture(scope="module")
def own(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Pictures with everything beside them that a program might want to mend: odd files, links, times long past."""
    place = tmp_path_factory.mktemp("own") / "place"
    shutil.copytree(world.place, place, ignore=shutil.ignore_patterns(".said*"))
    photos = place / "photos"
    (photos / "circle" / "notes.txt").write_text("mine")
    (photos / "circle" / ".hidden").write_text("mine")
    (photos / "circle" / "link.png").symlink_to(photos / "circle" / "00.png")
    for path in photos.rglob("*"):
        os.utime(path, ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789), follow_symlinks=False)
    text = (place / "runs" / "photos-1" / "run.json").read_text()
    (place / "runs" / "photos-1" / "run.json").write_text(text.replace(str(world.photos), str(photos)))
    return World(place, photos, place / "runs" / "photos-1")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_pictures_are_as_before(name: str, own: World) -> None:
    before = hash_of(own.photos)
    allow = ["--allow-change", "data"] if name.startswith("resume") else []  # the link is a new picture
    done = commands.run(*COMMANDS[name], *allow, place=own.place)
    assert done.code == (2 if "refused" in name else 0), done.err
    assert hash_of(own.photos) == before


@pytest.mark.slow  # it unpacks 12,000 pictures
def test_the_demo_leaves_its_pictures_alone(own: World) -> None:
    """Unpacking twice writes once."""
    assert commands.run("demo", "demo", "--only-unpack", place=own.place).code == 0
    before = hash_of(own.place / "demo" / "fashion" / "test")
    train = ["train", "demo/fashion", *words(TINY | {"train.steps": 1, "train.batch": 4, "data.validation": "photos2"})]
    shutil.copytree(own.place / "demo" / "fashion" / "test", own.place / "photos2")
    for path in list((own.place / "photos2").rglob("*.png")):
        if not path.name.endswith("0.png"):
            path.unlink()
    assert commands.run(*train, "--folder", "demo/runs", place=own.place).code == 0
    assert commands.run("demo", "demo", "--only-unpack", place=own.place).code == 0
    assert hash_of(own.place / "demo" / "fashion" / "test") == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": lambda p: (p / "circle" / "00.png").touch(),
    "a byte": lambda p: change_a_byte(p / "circle" / "00.png"),
    "a new file": lambda p: add(p / "circle" / "labels.cache"),
    "a new file at the top": lambda p: add(p / "labels.cache"),
    "gone": lambda p: (p / "circle" / "00.png").unlink(),
    "renamed": lambda p: (p / "circle" / "00.png").rename(p / "circle" / "0.png"),
    "permissions": lambda p: (p / "circle" / "00.png").chmod(0o600),
    "made and removed": lambda p: (add(p / "circle" / "x"), (p / "circle" / "x").unlink()),
}


def add(path: Path) -> None:
    path.write_text("")


def change_a_byte(path: Path) -> None:
    """And the time set back, as a careful vandal would."""
    found, held = path.stat(), path.read_bytes()
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.photos, tmp_path / "p")
    before = hash_of(tmp_path / "p")
    (tmp_path / "p" / "circle" / "01.png").read_bytes()
    assert hash_of(tmp_path / "p") == before, "reading alone is no change"
    CHANGES[change](tmp_path / "p")
    assert hash_of(tmp_path / "p") != before
