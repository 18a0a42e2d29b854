"""`evaluate --calibrate`: a temperature lands in the card, and probabilities follow; weights and answers stay."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from commands import World

import tessella as ts
from tessella import card as cards
from tessella.card import Head
from tessella.durable import sha256_file
from tessella.errors import BadInput
from tessella.metrics.calibration import reliability
from tessella.metrics.kept import kept
from tessella.metrics.predictions import Predictions, at_temperature
from tessella.metrics.temperature import temperature
from tessella.verbs.calibrate import _heads, calibrate
from tessella.verbs.evaluate import Evaluation, Reading
from tessella.verbs.report import gather
from tessella.weights.io import write_model

QUICK = Reading(workers=0, device="cpu")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.photos(tmp_path_factory.mktemp("held") / "p", each=12, seed=5)


@pytest.fixture
def run(world: World, held_out: Path, tmp_path: Path) -> Path:
    """A copy whose head is better than chance, and far too sure."""
    shutil.copytree(world.run, tmp_path / "run")
    model = ts.load(tmp_path / "run")
    files = sorted(f for folder in (world.photos, held_out) for f in folder.rglob("*.png"))
    inputs = model.embed(files).astype(np.float64)
    inputs -= inputs.mean(0)
    truth = np.eye(3)[[model.classes.index(f.parent.name) for f in files]] - 1 / 3
    spread = inputs.T @ inputs
    solved = np.linalg.solve(spread + 0.1 * np.trace(spread) / 32 * np.eye(32), inputs.T @ truth)
    tensors = dict(model.network.state_dict())
    tensors["head.weight"] = torch.from_numpy(60 * solved.T).float()
    tensors["head.bias"] = -tensors["head.weight"] @ torch.from_numpy(model.embed(files).mean(0))
    write_model(tmp_path / "run" / "model", tensors, model.card)
    return tmp_path / "run"


def test_predictions_become_as_sure_as_they_are_right(run: Path, held_out: Path) -> None:
    files = sorted(held_out.rglob("*.png"))
    before, weights = ts.load(run), sha256_file(run / "model" / "model.safetensors")
    found = ts.evaluate(run, held_out, reading=QUICK)
    done = calibrate(run, held_out, reading=QUICK)
    after, again = ts.load(run), ts.evaluate(run, held_out, reading=QUICK)
    t = after.card.heads[0].temperature
    assert t == done.found[0].temperature == pytest.approx(temperature(found.predictions)) and t != 1
    assert sha256_file(run / "model" / "model.safetensors") == weights
    assert again.metrics["top1"] == found.metrics["top1"] and again.metrics["loss"] < found.metrics["loss"]
    assert done.found[0].loss == pytest.approx((found.metrics["loss"], again.metrics["loss"]), abs=1e-6)
    assert done.found[0].ece == pytest.approx((found.metrics["ece"], again.metrics["ece"]), abs=1e-6)
    assert done.evaluation.metrics == pytest.approx(again.metrics, abs=1e-6)
    assert np.allclose(after.logits(files), before.logits(files)), "logits are the network's own"
    chances = np.exp(before.logits(files).astype(np.float64) / t)
    chances /= chances.sum(1, keepdims=True)
    said = after.predict(files)
    assert [p.names for p in said] == [p.names for p in before.predict(files)]
    assert np.allclose([p.probabilities for p in said], -np.sort(-chances), atol=1e-5)
    assert not np.allclose([p.probabilities for p in before.predict(files)], -np.sort(-chances), atol=1e-3)


def test_a_page_divides_by_it_once(run: Path, held_out: Path, tmp_path: Path) -> None:
    """Of what was just calibrated, of other pictures later on, and of what the run has kept from its training."""
    done = calibrate(run, held_out, reading=QUICK)
    again = ts.evaluate(run, held_out, reading=QUICK)
    t = done.found[0].temperature
    for found in (done.evaluation, again):
        found.write(tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert f"calibration error is <b>{100 * again.metrics['ece']:.1f} %</b>" in html
        assert f"divided by {t:.3g}, the temperature" in html
    twice = at_temperature(again.predictions, t)
    assert abs(reliability(twice).ece - again.metrics["ece"]) > 0.001, "the mutation: divided twice"
    held = kept(run / "predictions.npz")["label"].outputs
    assert np.allclose(gather(run).found["label"].outputs, held / t, rtol=1e-5) and not np.isclose(t, 1, rtol=1e-3)


def test_of_a_model_folder_nobody_knows_what_it_has_seen(run: Path, held_out: Path) -> None:
    done = commands.run("evaluate", run / "model", held_out, "--calibrate", "--workers", "0")
    assert done.code == 0 and "whether it was trained on them is not known" in done.out, done.err
    assert "it was not trained on" not in done.out
    assert json.loads(commands.run("evaluate", run / "model", held_out, "--json").out)["trained_on"] is None


def test_a_second_time_changes_nothing(run: Path, held_out: Path) -> None:
    first = calibrate(run, held_out, reading=QUICK).found[0]
    second = calibrate(run, held_out, reading=QUICK).found[0]
    assert second.temperature == pytest.approx(first.temperature, rel=1e-5)
    assert second.loss == pytest.approx((first.loss[1], first.loss[1]), abs=1e-6)


def test_only_what_was_not_learned_counts(run: Path, world: World) -> None:
    """Of the run's own pictures only those that it held out."""
    found = ts.evaluate(run, world.photos, reading=QUICK)
    rows = np.array([name not in found.learned for name in found.predictions.ids])
    p = found.predictions
    alone = replace(p, ids=tuple(np.array(p.ids)[rows].tolist()), targets=p.targets[rows], outputs=p.outputs[rows])
    done = calibrate(run, world.photos, reading=QUICK).found[0]
    assert done.pictures == rows.sum() == 9 and done.temperature == pytest.approx(temperature(alone))
    assert done.temperature != pytest.approx(temperature(p), rel=1e-3), "the mutation: all of them"


def test_the_command(run: Path, held_out: Path) -> None:
    done = commands.run("evaluate", run, held_out, "--calibrate", "--workers", "0")
    assert done.code == 0, done.err
    assert (
        "calibrated on 36 pictures it was not trained on: temperature" in done.out and "no answer changes" in done.out
    )
    told = json.loads(commands.run("evaluate", run, held_out, "--calibrate", "--workers", "0", "--json").out)
    kept = json.loads((run / "model" / "model.json").read_text())
    assert told["temperature"] == kept["heads"][0]["temperature"] == told["calibration"][0]["temperature"]
    assert kept["provenance"]["calibration"][0]["pictures"] == 36


def test_where_none_is_found_nothing_is_written(run: Path, world: World, held_out: Path, tmp_path: Path) -> None:
    state = commands.hash_of(run)
    learned = [line.rsplit(" (", 1)[0] for line in json.loads((run / "data.json").read_text())["data.train"]]
    for name in learned:
        (tmp_path / "seen" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.photos / name, tmp_path / "seen" / name)
    with pytest.raises(BadInput, match="trained on all of these pictures"):
        calibrate(run, tmp_path / "seen", reading=QUICK)
    for how in (replace(QUICK, size=32), replace(QUICK, flips=True)):
        with pytest.raises(BadInput, match="leave --size and --flips out"):
            calibrate(run, held_out, reading=how)
    with pytest.raises(BadInput, match=r"has no model\.json to keep a temperature in"):
        calibrate(run / "model" / "model.safetensors", held_out, reading=QUICK)
    ts.evaluate(run, held_out, reading=QUICK)
    assert commands.hash_of(run) == state


def test_a_card_that_changes_under_the_hand_is_left_alone(
    run: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a training that goes on."""
    from tessella.verbs import calibrate as verb

    def evaluated(*args: object, **kwargs: object) -> object:
        found = ts.evaluate(*args, **kwargs)  # type: ignore[arg-type]
        card = cards.read(run / "model")
        cards.write(run / "model", replace(card, heads=(replace(card.heads[0], temperature=2.0),)))
        return found

    monkeypatch.setattr(verb, "evaluate", evaluated)
    with pytest.raises(BadInput, match="changed meanwhile"):
        calibrate(run, held_out, reading=QUICK)
    assert cards.read(run / "model").heads[0].temperature == 2.0


def test_of_several_heads_the_one_without_a_temperature_is_named() -> None:
    heads = tuple(Head(name=name, task="classify", classes=("a", "b")) for name in ("kind", "colour"))
    targets, right = np.array([0, 1, 0, 1]), np.array([[2, 0], [0, 2], [2, 0], [0, 2]], np.float32)
    found = {"kind": Predictions(tuple("abcd"), targets, right * [[1], [1], [1], [-1]]),
             "colour": Predictions(tuple("abcd"), targets, right)}  # fmt: skip
    with pytest.raises(BadInput, match=r"^head colour: all 4 pictures are answered right"):
        _heads(Evaluation({}, heads, found))
    with pytest.raises(BadInput, match=r"^all 4 pictures are answered right"):
        _heads(Evaluation({}, heads[1:], found))
