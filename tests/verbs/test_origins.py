"""`train`, `evaluate` and `resume` on whatever holds pictures: the same weights from the same pictures."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import TINY, words
from PIL import Image

import tessella as ts
from tessella.config import flatten, read_plain
from tessella.verbs.evaluate import Reading

READING = Reading(batch=4, workers=0, device="cpu")
QUICK = TINY | {"train.steps": 3, "data.workers": 0, "data.augment": None}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origins") / "photos"
    commands.photos(folder / "train", each=8)
    commands.photos(folder / "val", each=3, seed=1)
    return folder


def archive(photos: Path, kind: str) -> Path:
    return Path(shutil.make_archive("photos", kind, photos.parent, "photos"))


def table(photos: Path) -> Path:
    with open("pairs.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file", "label", "split"])
        for path in sorted(photos.rglob("*.png")):
            out.writerow([path, path.parent.name, path.parent.parent.name])
    return Path("pairs.csv")


def shards(photos: Path) -> str:
    Path("shards").mkdir()
    files = sorted((photos / "train").rglob("*.png"))
    for s in range(4):
        with tarfile.open(f"shards/{s:03}.tar", "w") as out:
            for i, path in enumerate(files[s::4]):
                for suffix, data in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                    info = tarfile.TarInfo(f"{i:04}.{suffix}")
                    info.size = len(data)
                    out.addfile(info, io.BytesIO(data))
    return "shards/{000..003}.tar"


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives(photos: Path, kind: str) -> None:
    """Names are the same in folder and archive, so order and weights are: to the last bit."""
    held = archive(photos, kind)
    one = commands.run("train", photos, *words(QUICK), "--name", "folder")
    other = commands.run("train", held, *words(QUICK), "--name", "archive")
    assert one.code == other.code == 0, other.err
    files = [Path("runs") / name / "model" / "model.safetensors" for name in ("folder", "archive")]
    assert files[0].read_bytes() == files[1].read_bytes()
    held_out = [ts.evaluate(files[0].parent, data, reading=READING).metrics for data in (photos, held)]
    assert held_out[0] == held_out[1]


def test_table_names_and_resume(photos: Path, tmp_path: Path) -> None:
    done = commands.run("train", table(photos), *words(QUICK))
    assert done.code == 0 and "24 training and 9 held-out" in done.err
    more = ("--train.steps", "5", "--allow-change", "train.steps")
    (tmp_path / "else").mkdir()
    again = commands.run("train", "--resume", tmp_path / "runs" / "pairs-1", *more, place=tmp_path / "else")
    assert again.code == 0, again.err


def test_evaluate_reads_the_columns_that_training_read(photos: Path, tmp_path: Path) -> None:
    with open("odd.csv", "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file", "wibble", "other"])
        out.writerows([p, p.parent.name, "same"] for p in sorted((photos / "train").rglob("*.png")))
    assert commands.run("train", "odd.csv", "--data.label", "wibble", *words(QUICK)).code == 0
    done = commands.run("evaluate", "runs/odd-1", "odd.csv", "--json", "--workers", "0", "--device", "cpu")
    assert done.code == 0 and '"pictures": 24' in done.out, done.err
    other = commands.run("evaluate", "runs/odd-1", "odd.csv", "--data.label", "other", "--workers", "0")
    assert other.code == 2 and "unknown class 'same'" in other.err
    wrong = commands.run("evaluate", "runs/odd-1", "odd.csv", "--data.path", "x")
    assert wrong.code == 2 and "no setting of evaluate" in wrong.err


def test_a_name_stays_inside_its_folder(photos: Path) -> None:
    for name in ("../esc", "a/b", ".."):
        done = commands.run("train", photos, *words(QUICK), "--name", name)
        assert done.code == 2 and "no name of a folder" in done.err and not Path("esc").exists()


def test_shards_by_pattern(photos: Path) -> None:
    done = commands.run("train", shards(photos), "--data.validation", photos, *words(QUICK))
    assert done.code == 0 and "24 training and 9 held-out" in done.err, done.err
    assert Path("runs/shards-1/model/model.json").is_file()


def test_four_channels_letterboxed() -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        Path("scans", label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 40 if label == "a" else 255, (20 + 4 * i, 30, 4), dtype=np.uint8)
            if i % 2:
                Image.fromarray(pixels).save(f"scans/{label}/{i}.png")
            else:
                np.save(f"scans/{label}/{i}.npy", pixels)
    few = {k: v for k, v in QUICK.items() if k != "size"}
    done = commands.run("train", "scans/", "--channels", "4", "--size", "32", "--resize", "letterbox", *words(few))
    assert done.code == 0, done.err
    card = read_plain(Path("runs/scans-1/model/model.json"))["preprocess"]["image"]
    assert card["channels"] == 4 and card["resize"] == "letterbox" and len(card["mean"]) == 4
    assert 0.1 < card["mean"][0] < 0.5 and "measured" in done.err, "mean and deviation are those of the pictures"
    found = commands.run("predict", "runs/scans-1", "scans/a/0.npy", "scans/b/1.png")
    assert found.code == 0 and len(found.out.splitlines()) == 2
    Image.new("RGB", (9, 9)).save("colour.png")
    refused = commands.run("predict", "runs/scans-1", "colour.png")
    assert refused.code == 2 and "channels" in refused.err and len(refused.err.splitlines()) == 1


def test_sixteen_bits_reach_the_model() -> None:
    """Two classes that differ below the high byte: 8 bits cannot tell them apart, 16 bits can."""
    rng = np.random.default_rng(0)
    for label, low in (("dim", 0), ("dimmer", 100)):
        Path("deep", label).mkdir(parents=True)
        for i in range(8):
            values = (low + rng.integers(0, 60, (16, 16))).astype(np.uint16)
            Image.fromarray(values).save(f"deep/{label}/{i}.png")
    deep = QUICK | {"train.steps": 30, "train.lr": 0.01, "preprocess.depth": "uint16", "size": 16}
    done = commands.run("train", "deep", "--channels", "1", *words(deep))
    assert done.code == 0, done.err
    told = ts.evaluate("runs/deep-1", "deep", reading=READING)
    assert told.metrics["top1"] == 1.0
    shallow = deep | {"preprocess.depth": "uint8", "name": "shallow"}
    assert commands.run("train", "deep", "--channels", "1", *words(shallow)).code == 0
    blind = ts.evaluate("runs/shallow", "deep", reading=READING)
    assert blind.metrics["top1"] == pytest.approx(0.5), "the mutation: the high byte alone is the same in both"


def test_class_weights_and_balance() -> None:
    commands.photos(Path("uneven"), each=12)
    for path in sorted(Path("uneven/circle").glob("*"))[:9]:
        path.unlink()
    done = commands.run("train", "uneven", *words(QUICK), "--class-weights", "balanced", "--balance", "classes")
    assert done.code == 0, done.err
    settings = flatten(read_plain(Path("runs/uneven-1/run.json"))["run"])
    weights = settings["objective.weights"]
    assert settings["data.balance"] == "classes" and weights[0] > 2 * weights[1] == 2 * weights[2]


@pytest.mark.parametrize("address", ["nowhere.zip", "cifar11", "hf:", "a/{0..3}.tar", "pairs.csv"])
def test_what_is_not_there_is_one_line(address: str) -> None:
    done = commands.run("train", address, *words(QUICK))
    assert done.code == 2 and len(done.err.splitlines()) == 1 and not Path("runs").exists(), done.err
