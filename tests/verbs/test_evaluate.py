"""`evaluate` and `demo`: labels go by the names of the folders, whichever of them are there."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import World
from PIL import Image

import tessella as ts
from tessella.card import Head
from tessella.errors import BadInput
from tessella.metrics.heads import figures
from tessella.metrics.kept import kept
from tessella.metrics.predictions import Predictions
from tessella.verbs.evaluate import Evaluation, Reading

QUICK = Reading(workers=0, device="cpu")


@pytest.fixture(scope="module")
def held_out(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.photos(tmp_path_factory.mktemp("held") / "p", each=6, seed=5)


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


def test_what_was_learned_is_told(world: World, held_out: Path, tmp_path: Path) -> None:
    """By name and size: of a run its own pictures, wherever they lie by now, and nobody else's."""
    learned = set(json.loads((world.run / "data.json").read_text())["data.train"])
    found = ts.evaluate(world.run, world.photos, reading=QUICK)
    names = {f"{name} ({(world.photos / name).stat().st_size} bytes)" for name in found.learned}
    assert names == learned and len(learned) == 33, "the other 9 were held out"
    assert any("trained on 33 of these 42" in line for line in found.lines())
    shutil.copytree(world.photos, tmp_path / "moved")
    assert ts.evaluate(world.run, tmp_path / "moved", reading=QUICK).learned == found.learned
    assert ts.evaluate(world.run / "model", world.photos, reading=QUICK).learned is None, "nobody knows"
    other = ts.evaluate(world.run, held_out, reading=QUICK)
    assert other.learned == frozenset() and not any("trained on" in line for line in other.lines())


def test_flips_are_the_mean_of_both(world: World, held_out: Path, tmp_path: Path) -> None:
    mirrored = tmp_path / "mirrored"
    for file in held_out.rglob("*.png"):
        (mirrored / file.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored / file.parent.name / file.name)
    one, other = (ts.evaluate(world.run, at, reading=QUICK).predictions.outputs for at in (held_out, mirrored))
    both = ts.evaluate(world.run, held_out, reading=replace(QUICK, flips=True)).predictions.outputs
    assert np.allclose(both, (one + other) / 2, atol=1e-5)
    assert not np.allclose(both, one, atol=1e-4), "the mutation: without the mirror image"


def test_another_size_is_another_size(world: World, held_out: Path) -> None:
    """As a model whose card says so."""
    model = ts.load(world.run)
    card = replace(model.card, preprocess={"image": replace(model.preprocess, size=(56, 56))})
    expected = ts.Model(model.network, card).logits(sorted(held_out.rglob("*.png")))
    large = ts.evaluate(world.run, held_out, reading=replace(QUICK, size=56)).predictions
    assert np.allclose(large.outputs[np.argsort(large.ids)], expected, atol=1e-5)
    assert not np.allclose(
        large.outputs, ts.evaluate(world.run, held_out, reading=QUICK).predictions.outputs, atol=1e-3
    )


@pytest.mark.parametrize(("size", "words"), [(30, "give 28 or 32"), (3, "give 4 or 8"), (0, "give 4 or 8")])
def test_a_size_that_patches_do_not_tile(size: int, words: str, world: World, held_out: Path) -> None:
    with pytest.raises(BadInput, match=f"size {size} is not tiled by .* patches of 4 px; {words}") as caught:
        ts.evaluate(world.run, held_out, reading=replace(QUICK, size=size))
    assert "\n" not in str(caught.value)


def test_what_is_printed_and_what_is_json_agree(world: World, held_out: Path) -> None:
    found = ts.evaluate(world.run, held_out, reading=QUICK)
    told = json.loads(json.dumps(found.plain()))
    truth = [Path(name).parent.name for name in found.predictions.ids]
    answers = [found.heads[0].classes[k] for k in found.predictions.outputs.argmax(1)]
    for name, row in told["per_class"].items():
        hits = sum(t == a == name for t, a in zip(truth, answers, strict=True))
        said, there = answers.count(name), truth.count(name)
        assert row["support"] == there == 6 and row["recall"] == hits / there
        assert row["precision"] == (hits / said if said else None) and row["f1"] == 2 * hits / (said + there)
    pairs = Counter((t, a) for t, a in zip(truth, answers, strict=True) if t != a)
    assert {(p["class"], p["for"]): p["times"] for p in told["taken_for"]} == pairs
    low, high = told["top1_interval"]
    assert 0 < low < found.metrics["top1"] < high < 1 and sum(b["pictures"] for b in told["reliability"]) == 18
    text = "\n".join(found.lines())
    (worst, answer), times = pairs.most_common(1)[0]
    assert f"{worst} taken for {answer}: {times} of 6" in text
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in text and f"macro F1 {100 * told['macro_f1']:.2f} %" in text


def test_answers_in_files(world: World, held_out: Path, tmp_path: Path) -> None:
    found = ts.evaluate(world.run, held_out, reading=QUICK)
    done = commands.run("evaluate", world.run, held_out, "--workers", "0", "--out", tmp_path / "a.csv")
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert [row["id"] for row in rows] == list(found.predictions.ids)
    assert [row["truth"] for row in rows] == [Path(row["id"]).parent.name for row in rows]
    for row in rows:
        said = ts.load(world.run).predict(held_out / row["id"], top=1)[0]
        assert row["answer"] == said.names[0]
        assert float(row["probability"]) == pytest.approx(said.probabilities[0], abs=1e-5)
    found.write(tmp_path / "a.npz")
    again = kept(tmp_path / "a.npz")["label"]
    assert again.ids == found.predictions.ids and np.array_equal(again.outputs, found.predictions.outputs)


@pytest.mark.parametrize("out", ["a.txt", "a", "absent/a.csv"])
def test_a_file_that_cannot_be_written_is_refused_first(out: str, world: World) -> None:
    done = commands.run("evaluate", world.run, "absent-data", "--out", out)
    assert done.code == 2 and f"--out {out}" in done.err and len(done.err.splitlines()) == 1


def test_several_heads(tmp_path: Path) -> None:
    """Of each head its own lines, figures and columns."""
    ids, rng = ("a", "b", "c"), np.random.default_rng(0)
    heads = (
        Head(name="colour", task="classify", classes=("red", "blue")),
        Head(name="price", task="number"),
        Head(name="tags", task="tags", classes=("old", "used")),
    )
    nan = float("nan")
    found = {
        "colour": Predictions(ids, np.array([0, 1, -1]), np.array([[2, 0], [2, 0], [0, 2]], np.float32)),
        "price": Predictions(ids, np.array([10, 20, nan], np.float32), np.array([[11], [18], [5]], np.float32)),
        "tags": Predictions(ids, np.array([[1, 0], [0, 1], [1, 1]], np.float32),
                            rng.normal(size=(3, 2)).astype(np.float32)),
    }  # fmt: skip
    whole = Evaluation(figures(found, heads), heads, found)
    text = list(whole.lines())
    assert [line for line in text if line.endswith(":")] == ["colour:", "price:", "tags:"]
    assert "2 pictures · off by 1.5 · root mean square 1.581 · R2 0.9" in text
    assert whole.plain()["colour/top1"] == 0.5 and whole.plain()["heads"]["colour"]["per_class"]["red"]["recall"] == 1
    whole.write(tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["colour/truth"] for row in rows] == ["red", "blue", ""]
    assert [row["price/truth"] for row in rows] == ["10", "20", ""] and rows[1]["price/answer"] == "18"
    assert [row["tags/truth"] for row in rows] == ["old", "used", "old;used"]


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
