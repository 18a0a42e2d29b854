"""`evaluate` and `demo`: labels go by the names of the folders, whichever of them are there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import commands
import pytest
from commands import World

import tessella as ts
from tessella.errors import BadInput
from tessella.verbs.evaluate import Reading

QUICK = Reading(workers=0, device="cpu")


def slow_accuracy(model: ts.Model, folder: Path) -> tuple[float, dict[str, float]]:
    """By the names of predictions and folders alone."""
    files = sorted(folder.rglob("*.png"))
    right = {f: model.predict(f, top=1)[0].names[0] == f.parent.name for f in files}
    names = {f.parent.name for f in files}
    each = {n: [ok for f, ok in right.items() if f.parent.name == n] for n in names}
    return sum(right.values()) / len(files), {n: sum(v) / len(v) for n, v in each.items()}


@pytest.mark.parametrize("left_out", ["circle", "square", "triangle"])
def test_an_absent_class_moves_no_label(left_out: str, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.photos, tmp_path / "some")
    shutil.rmtree(tmp_path / "some" / left_out)
    found = ts.evaluate(world.run, tmp_path / "some", reading=QUICK)
    accuracy, each = slow_accuracy(ts.load(world.run), tmp_path / "some")
    assert found.metrics["top1"] == pytest.approx(accuracy)
    assert found.classes == pytest.approx(each | {left_out: None})
    assert any(left_out in note and "missing" in note for note in found.notes)
    assert set(found.predictions.targets.tolist()) == {i for i, c in enumerate(found.classes) if c != left_out}


def test_swapped_folders_are_swapped_labels(world: World, tmp_path: Path) -> None:
    """The mutation: were labels taken by position, this would change nothing."""
    shutil.copytree(world.photos, tmp_path / "p")
    (tmp_path / "p" / "circle").rename(tmp_path / "p" / "x")
    (tmp_path / "p" / "square").rename(tmp_path / "p" / "circle")
    (tmp_path / "p" / "x").rename(tmp_path / "p" / "square")
    swapped = ts.evaluate(world.run, tmp_path / "p", reading=QUICK).metrics["loss"]
    assert abs(swapped - ts.evaluate(world.run, world.photos, reading=QUICK).metrics["loss"]) > 1e-6


def test_the_held_out_part_is_used(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.photos, tmp_path / "p" / "train")
    commands.photos(tmp_path / "p" / "val", each=2, seed=3)
    found = ts.evaluate(world.run, tmp_path / "p", reading=QUICK)
    assert len(found.predictions.ids) == 6 and found.notes[0].startswith("evaluating on val/")


@pytest.mark.parametrize("how", [{"batch": 1}, {"batch": 7}, {"workers": 2}, {"batch": 5, "workers": 1}])
def test_how_it_is_read_changes_nothing(how: dict[str, int], world: World) -> None:
    one = ts.evaluate(world.run, world.photos, reading=QUICK)
    other = ts.evaluate(world.run, world.photos, reading=Reading(device="cpu", **{"workers": 0, **how}))
    assert one.predictions.ids == other.predictions.ids
    assert one.metrics == pytest.approx(other.metrics, abs=1e-6)


@pytest.mark.parametrize("how", [{"batch": 0}, {"workers": -1}])
def test_what_cannot_be(how: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="batch >= 1 and workers >= 0"):
        Reading(**how)


def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    """On a few pictures in place of the bundled ones."""

    def before() -> None:
        from tessella.verbs import demo

        def few(folder: Path) -> Path:
            commands.photos(folder / "train", each=4)
            return commands.photos(folder / "test", each=2, seed=1).parent

        demo.unpack = few  # type: ignore[assignment]

    done = commands.run("demo", "d", before=before)
    assert done.code == 0, done.err
    told = dict(line.split(maxsplit=1) for line in done.out.splitlines() if len(line.split()) > 1)
    assert told["pictures"] == "d/fashion" and told["run"] == "d/runs/fashion-1"
    assert re.search(r"^trained in \d+ s", done.out, re.MULTILINE)
    assert re.search(r"^6 pictures · top-1 [\d.]+ %", done.out, re.MULTILINE)
    assert (tmp_path / told["model"] / "model.safetensors").is_file()
    assert json.loads((tmp_path / told["log"]).read_text().splitlines()[0])["step"] == 0


def test_predict_says_what_it_left_out(world: World, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    first = sorted(world.photos.rglob("*.png"))[0]
    (tmp_path / "mixed" / "a.png").write_bytes(first.read_bytes())
    (tmp_path / "mixed" / "b.odd").write_bytes(b"x")
    done = commands.run("predict", world.run, tmp_path / "mixed", place=tmp_path)
    assert done.code == 0 and len(done.out.splitlines()) == 1 and ".odd 1" in done.err
