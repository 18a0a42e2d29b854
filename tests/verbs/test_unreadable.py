"""Pictures that cannot be read: listed, counted, never replaced; too many stop a run, and the user's files stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import commands
import pytest
from commands import TINY, World, words

import tessella as ts
from tessella.errors import BadInput
from tessella.verbs.evaluate import Reading

WORKERS = ("0", "2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    commands.photos(folder / "train", each=14)
    commands.photos(folder / "val", each=4, seed=1)
    return folder


@pytest.fixture
def spoiled(whole: Path, tmp_path: Path) -> Path:
    """The same pictures, three of train's and one of val's broken in different ways."""
    folder = tmp_path / "photos"
    shutil.copytree(whole, folder)
    train, val = (sorted((folder / part).rglob("*.png")) for part in ("train", "val"))
    train[0].write_bytes(train[0].read_bytes()[:-40])
    train[5].write_bytes(b"")
    train[9].write_text("<html>404</html>")
    val[0].write_bytes(b"\0" * 100)
    return folder


def rows(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_run_lists_them_and_goes_on(workers: str, spoiled: Path, tmp_path: Path) -> None:
    before = commands.hash_of(spoiled)
    steps = {"train.steps": 14, "train.log_every": 1, "data.max_bad": 0.2, "data.workers": workers}
    done = commands.run("train", "photos", *words(TINY | steps), place=tmp_path)
    assert done.code == 0, done.err
    found = rows(tmp_path / "runs" / "photos-1")
    assert len({(row["split"], row["id"]) for row in found}) == len(found) == 4
    assert sorted(row["split"] for row in found) == ["train", "train", "train", "val"]
    assert any("HTML" in row["reason"] for row in found) and any("0 bytes" in row["reason"] for row in found)
    assert "3 quarantined" in done.err and "used" in done.err, "the account of an epoch"
    assert commands.hash_of(spoiled) == before


def test_the_others_stand_where_they_stood(spoiled: Path, whole: Path) -> None:
    """The same order as with whole files: only the broken ones are missing."""
    from tessella.card import Preprocess
    from tessella.data.loading.loader import Loader, LoaderConfig
    from tessella.data.loading.pictures import Pictures
    from tessella.data.loading.quarantine import Quarantine
    from tessella.data.origins.open import open_data
    from tessella.data.source import DataConfig

    seen = Preprocess(size=(28, 28), mean=(0.5,) * 3, std=(0.5,) * 3)
    streams = []
    for folder in (whole, spoiled):
        train = open_data(DataConfig(path=str(folder))).train
        bad = Quarantine(None, len(train), 1.0)
        streams.append(Loader(Pictures(train, seen), LoaderConfig(batch=7, workers=0), bad).batches(0))
    broken: set[str] = set()
    for _ in range(20):
        there, holed = (next(stream)["ids"] for stream in streams)
        broken = set(bad.reasons)
        assert [name for name in there if name not in broken] == holed
    assert len(broken) == 3


def test_too_many_stop_the_run_and_nothing_is_left(spoiled: Path, tmp_path: Path) -> None:
    done = commands.run("train", "photos", *words(TINY), "--max-bad", "0.01", place=tmp_path)
    assert done.code == 2 and "--max-bad" in done.err and "cannot be read" in done.err.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*/model"))


def test_a_resumed_run_knows_them(spoiled: Path, tmp_path: Path) -> None:
    steps = TINY | {"train.steps": 6, "train.save_every": 3, "data.max_bad": 0.2, "data.workers": 0}
    assert commands.run("train", "photos", *words(steps), place=tmp_path).code == 0
    run = tmp_path / "runs" / "photos-1"
    before = rows(run)
    more = ("--train.steps", "14", "--allow-change", "train.steps")
    assert commands.run("train", "--resume", run, *more, place=tmp_path).code == 0
    after = rows(run)
    assert after[: len(before)] == before and len({r["id"] for r in after}) == len(after)


def test_evaluate_counts_them(world: World, spoiled: Path, whole: Path) -> None:
    quick = {"batch": 8, "workers": 0, "device": "cpu"}
    before = ts.evaluate(world.run, whole, reading=Reading(**quick))
    holed = ts.evaluate(world.run, spoiled, reading=Reading(**quick, max_bad=0.2))
    assert len(holed.unreadable) == 1 and len(holed.predictions.ids) == len(before.predictions.ids) - 1
    with pytest.raises(BadInput, match="--max-bad"):
        ts.evaluate(world.run, spoiled, reading=Reading(**quick))


def test_predict_answers_the_others(world: World, spoiled: Path, tmp_path: Path) -> None:
    part = spoiled / "train"
    total = len(list(part.rglob("*.png")))
    done = commands.run("predict", world.run, part, "--json", "--max-bad", "0.5", place=tmp_path)
    found = json.loads(done.out)
    assert done.code == 0 and len(found) == total and sum("error" in row for row in found) == 3
    strict = commands.run("predict", world.run, part, place=tmp_path)
    assert strict.code == 2 and len(strict.out.splitlines()) == total - 3
    assert f"3 of {total} pictures cannot be read" in strict.err
