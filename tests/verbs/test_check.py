"""`check` from the command line: exit codes, a JSON whose shape is kept, odd names, pictures that stay as they were."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
from commands import World
from PIL import Image

import tessella as ts
from tessella.errors import BadInput
from tessella.verbs.check import CheckConfig, check

KEYS = {
    "": "balance classes data format labels model near notes pairs parts same seconds shared summary tessella",
    "part": "bytes classes formats height missing odd pictures readable unlabelled unreadable width wrong_suffix",
    "odd": "alpha channels deep float frames grey inks long plain rotated tiny",
    "same": "classes conflict kind leak parts pictures score",
    "pair": "first kind score second",
    "picture": "class id part",
    "shared": "of part pictures with",
    "balance": "option part ratio remedy weights why",
    "labels": "agreement doubtful left_out pictures",
    "doubtful": "belief class id part perhaps",
    "finding": "count level text what",
    "unreadable": "holds id reason",
}


def keys(found: dict[str, Any], name: str) -> bool:
    return set(found) == set(KEYS[name].split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts; a leak into test, a conflict, a broken file, a loop, hidden files, a name that is no UTF-8."""
    root = tmp_path_factory.mktemp("check")
    photos = root / "photos"
    for seed, part in enumerate(("train", "val", "test")):
        commands.photos(photos / part, each=6, seed=seed)
    circle = photos / "train" / "circle"
    shutil.rmtree(photos / "val" / "circle")
    shutil.copy(circle / "00.png", photos / "test" / "circle" / "leak.png")
    Image.open(circle / "01.png").convert("RGB").resize((90, 90)).save(
        photos / "train" / "square" / "again.jpg", quality=70
    )
    (circle / "broken.png").write_bytes((circle / "02.png").read_bytes()[:200])
    (circle / ".hidden.png").write_bytes(b"mine")
    (circle / "loop").symlink_to(photos / "train", target_is_directory=True)
    (circle / os.fsdecode(b"caf\xe9.png")).write_bytes((circle / "03.png").read_bytes())
    (circle / "notes.txt").write_text("mine")
    return root


@pytest.fixture(scope="module")
def said(place: Path) -> dict[str, Any]:
    done = commands.run("check", "photos", "--json", "--max-bad", "0.5", place=place)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_shape_is_kept(said: dict[str, Any]) -> None:
    """A key more is a change to docs/verbs/check.md; a key less is another `format`."""
    assert said["format"] == 1 and keys(said, "")
    assert next(iter(said["parts"])) == "train" and set(said["parts"]) == {"train", "val", "test"}
    for part in said["parts"].values():
        assert keys(part, "part") and keys(part["odd"], "odd")
        assert all(keys(bad, "unreadable") for bad in part["unreadable"])
        assert part["pictures"] == part["readable"] + len(part["unreadable"])
    assert all(keys(same, "same") and all(keys(p, "picture") for p in same["pictures"]) for same in said["same"])
    assert all(keys(pair, "pair") and keys(pair["first"], "picture") for pair in said["pairs"])
    assert all(keys(both, "shared") for both in said["shared"]) and keys(said["balance"], "balance")
    assert all(keys(found, "finding") for found in said["summary"])
    page = (Path(__file__).resolve().parents[2] / "docs" / "verbs" / "check.md").read_text()
    told = {word for name in KEYS for word in KEYS[name].split() if name != "finding"}
    assert {word for word in told if f"`{word}`" not in page} == set()


def test_what_is_found(said: dict[str, Any]) -> None:
    train = said["parts"]["train"]
    assert [bad["id"] for bad in train["unreadable"]] == ["train/circle/broken.png"]
    assert said["parts"]["val"]["missing"] == ["circle"] and not train["missing"]
    sets = {frozenset(p["id"] for p in same["pictures"]): same for same in said["same"]}
    leak = sets[frozenset({"train/circle/00.png", "test/circle/leak.png"})]
    assert leak["leak"] and leak["kind"] == "bytes" and leak["parts"] == ["train", "test"] and not leak["conflict"]
    conflict = sets[frozenset({"train/circle/01.png", "train/square/again.jpg"})]
    assert conflict["conflict"] and conflict["kind"] == "photograph" and conflict["classes"] == ["circle", "square"]
    shared = {(both["part"], both["with"]): both["pictures"] for both in said["shared"]}
    assert shared == {("test", "train"): 1, ("val", "train"): 0, ("val", "test"): 0} or shared == {
        ("val", "train"): 0,
        ("test", "train"): 1,
        ("test", "val"): 0,
    }
    what = {found["what"] for found in said["summary"]}
    assert {"unreadable", "leak", "conflict", "duplicates", "missing"} <= what
    assert any("hidden" in note for note in said["notes"]) and any("links" in note for note in said["notes"])
    assert said["labels"] is None and said["near"] is None and said["model"] is None


def test_names_that_are_no_utf8(said: dict[str, Any], place: Path) -> None:
    odd = {p["id"] for same in said["same"] for p in same["pictures"] if "caf" in p["id"]}
    assert odd == {os.fsdecode(b"train/circle/caf\xe9.png")}
    for name in odd:
        assert (place / "photos" / name).exists(), "the name leads back to the file"
    table = commands.run("check", "photos", "--max-bad", "0.5", "--html", "page.html", place=place)
    assert table.code == 0 and "caf\\udce9.png" in table.out + (place / "page.html").read_text(encoding="utf-8")


def test_exit_codes(place: Path) -> None:
    strict = commands.run("check", "photos", "--max-bad", "0", place=place)
    assert strict.code == 2 and "--max-bad 0" in strict.err and "broken.png" in strict.out, "the report comes first"
    assert len(strict.err.strip().splitlines()) == 1
    for words, why in (
        (["check", "nowhere"], "not there"),
        (["check", "photos", "--html", "nowhere/page.html"], "--html"),
        (["check", "photos", "--model", "nowhere"], "check the path"),
        (["check", "photos", "--device", "teapot"], "teapot"),
    ):
        done = commands.run(*words, place=place)
        assert done.code == 2 and why in done.err and "Traceback" not in done.err, done.err
    (place / "void").mkdir(exist_ok=True)
    assert commands.run("check", "void", place=place).code == 2


def state_of(folder: Path) -> list[tuple[bytes, int, int, bytes]]:
    """As `commands.hash_of`, for names that are no UTF-8."""
    every = sorted([folder, *folder.rglob("*")], key=os.fsencode)
    return [
        (os.fsencode(p), p.lstat().st_mode, p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in every
    ]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_pictures_are_as_before(workers: str, place: Path) -> None:
    before = state_of(place / "photos")
    words = ["photos", "--workers", workers, "--html", "page.html", "--max-bad", "1"]
    assert commands.run("check", *words, place=place).code == 0
    assert state_of(place / "photos") == before


def test_workers_change_nothing(place: Path) -> None:
    one, two = (check(place / "photos", CheckConfig(workers=n)).plain for n in (0, 2))
    assert one | {"seconds": 0} == two | {"seconds": 0}


def test_with_a_model(world: World, tmp_path: Path) -> None:
    """Embeddings through the loader: the same from a folder and from an archive, and equal to the model's own."""
    photos = tmp_path / "photos"
    shutil.copytree(world.photos, photos)
    first = sorted(photos.rglob("*.png"))[0]
    (first.parent / "broken.png").write_bytes(first.read_bytes()[:99])
    found = check(photos, CheckConfig(model=str(world.run), device="cpu", workers=0)).plain
    labels = found["labels"]
    assert keys(labels, "labels") and labels["pictures"] == found["parts"]["all"]["readable"]
    assert all(keys(d, "doubtful") for d in labels["doubtful"]) and found["near"] is not None
    believed = [d["belief"] for d in labels["doubtful"]]
    assert believed == sorted(believed) and all(d["class"] != d["perhaps"] for d in labels["doubtful"])
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.relative_to(photos))
    packed = check(tmp_path / "photos.zip", CheckConfig(model=str(world.run), device="cpu", workers=0)).plain
    assert packed["labels"] == labels and len(packed["same"]) == len(found["same"])


def test_embeddings_are_the_models_own(world: World) -> None:
    import torch

    from tessella.data.pixels.transforms import prepare
    from tessella.verbs.check import embeddings

    model = ts.load(world.run)
    files = sorted(world.photos.rglob("*.png"))[:5]
    pixels = torch.stack([prepare(f.read_bytes(), model.preprocess, f.name) for f in files])
    with torch.no_grad():
        pooled, deep = embeddings(model.network, model.finish({"image": pixels})["image"])
    assert np.allclose(pooled, model.embed(files), atol=1e-5)
    assert deep.shape[1] > pooled.shape[1] and np.allclose(deep[:, : pooled.shape[1]], pooled)


def test_in_python(place: Path) -> None:
    found = ts.check(place / "photos")
    with pytest.raises(BadInput, match="cannot be read"):
        found.judge(0.0)
    found.judge(0.5)
