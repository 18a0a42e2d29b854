"""A finished model in Python: what `train`, `load`, `evaluate` and the command line say of the same pictures agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from commands import TINY, World

import tessella as ts
from tessella.card import Preprocess
from tessella.data.pixels.decode import decode
from tessella.data.pixels.transforms import evaluation_pixels, prepare
from tessella.errors import BadInput
from tessella.runtime import model as runtime_model
from tessella.runtime.load import load
from tessella.verbs.evaluate import Reading
from tessella.verbs.train import Trained


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Trained on train/, held out in val/, averaged weights: the ones that ship are not the ones that learn."""
    place = tmp_path_factory.mktemp("world")
    commands.photos(place / "photos" / "train")
    commands.photos(place / "photos" / "val", each=7, seed=1)
    return World(place, place / "photos", place / "runs" / "photos-1")


@pytest.fixture(scope="module")
def trained(world: World) -> Trained:
    settings = TINY | {"folder": str(world.place / "runs"), "train.ema": 0.8, "train.accumulate": 2, "train.lr": 3e-3}
    return ts.train(world.photos, model="vit_n4", settings=settings)


@pytest.fixture(scope="module")
def model(trained: Trained) -> ts.Model:
    return ts.load(trained.folder)


@pytest.fixture(scope="module")
def files(world: World) -> list[Path]:
    return sorted((world.photos / "val").rglob("*.png"))


def test_train_returns_where_the_run_is(trained: Trained, world: World) -> None:
    assert trained.folder == world.run and {"top1", "top5", "loss", "ece"} <= set(trained.metrics)
    assert {p.name for p in trained.folder.iterdir()} == {
        "run.json", "data.json", "log.jsonl", "predictions.npz", "state", "model", "report.html",
    }  # fmt: skip


def test_every_way_to_load_is_the_same_model(trained: Trained, model: ts.Model, files: list[Path]) -> None:
    expected = model.logits(files)
    again = [load(trained.folder / "model"), trained.load(), ts.load(str(trained.folder))]
    assert all(np.array_equal(m.logits(files), expected) and m.classes == model.classes for m in again)


def test_predict(model: ts.Model, files: list[Path]) -> None:
    found = model.predict(files, top=3)
    logits = model.logits(files)
    for path, prediction, row in zip(files, found, logits, strict=True):
        assert prediction.id == str(path)
        e = np.exp(row.astype(np.float64) - row.max())
        p = e / e.sum()
        assert abs(sum(prediction.probabilities) - 1) < 1e-9
        assert prediction.names == tuple(model.classes[k] for k in np.argsort(-p))
        assert np.allclose(prediction.probabilities, np.sort(p)[::-1], atol=1e-9)
    assert [len(p.names) for p in model.predict(files, top=2)] == [2] * len(files)
    alone = model.predict(files[0], top=99)[0]  # one path, and more names than there are classes
    assert alone.names == found[0].names and alone.probabilities == pytest.approx(found[0].probabilities, abs=1e-5)


def test_shapes_and_types(model: ts.Model, files: list[Path]) -> None:
    logits, features = model.logits(files), model.embed(files)
    assert logits.shape == (21, 3) and logits.dtype == np.float32
    assert features.shape == (21, 32) and features.dtype == np.float32
    weight, bias = (p.detach().numpy() for p in (model.network.head.weight, model.network.head.bias))
    assert np.allclose(features @ weight.T + bias, logits, atol=1e-5)


def test_call_on_a_normalised_tensor(model: ts.Model, files: list[Path]) -> None:
    """Normalised here by hand, from the card."""
    card: Preprocess = model.card.preprocess["image"]
    pixels = torch.stack([evaluation_pixels(decode(f.read_bytes(), 3), card) for f in files]).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (card.mean, card.std))
    out = model(((pixels - mean) / std).float())
    assert torch.allclose(out, torch.from_numpy(model.logits(files)), atol=1e-5)
    assert not out.requires_grad and not model.network.training
    wrong = model(pixels.float())
    assert not torch.allclose(wrong, out, atol=1e-2), "without the normalisation it must differ"


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_how_many_at_a_time_changes_nothing(batch: int, model: ts.Model, files: list[Path]) -> None:
    assert np.allclose(model.logits(files, batch=batch), model.logits(files), atol=1e-5)


def test_order_is_that_of_the_paths(model: ts.Model, files: list[Path]) -> None:
    assert np.allclose(model.logits(files[::-1], batch=4), model.logits(files, batch=4)[::-1], atol=1e-5)
    assert not np.allclose(model.logits(files[::-1]), model.logits(files), atol=1e-3)


def accuracy(model: ts.Model, files: list[Path]) -> tuple[float, float]:
    """Top-1 and cross-entropy, slowly."""
    logits = model.logits(files).astype(np.float64)
    labels = [model.classes.index(f.parent.name) for f in files]
    right = [int(row.argmax()) == label for row, label in zip(logits, labels, strict=True)]
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    return float(np.mean(right)), float(np.mean(losses))


def test_training_evaluation_verb_and_logits_agree(
    trained: Trained, model: ts.Model, files: list[Path], world: World
) -> None:
    top1, loss = accuracy(model, files)
    verb = ts.evaluate(trained.folder, world.photos, reading=Reading(batch=5, workers=0, device="cpu"))
    log = [json.loads(line) for line in (trained.folder / "log.jsonl").read_text().splitlines()]
    last = [row for row in log if "val/loss" in row][-1]
    for found in (trained.metrics, verb.metrics, model.card.metrics):
        assert found["top1"] == top1 and abs(found["loss"] - loss) < 1e-6
    assert last["val/top1"] == top1 and abs(last["val/loss"] - loss) < 1e-6
    assert len(verb.predictions.ids) == 21
    each = {c: np.mean([model.predict(f, top=1)[0].names[0] == c for f in files if f.parent.name == c]) for c in
            model.classes}  # fmt: skip
    assert verb.classes == pytest.approx(each)


def test_weights_that_do_not_ship_are_seen(trained: Trained, files: list[Path]) -> None:
    """The mutation: the learning weights instead of their average give another loss."""
    from tessella.tensorfile import read

    model = load(trained.folder)
    before = accuracy(model, files)[1]
    newest = sorted((trained.folder / "state").iterdir())[-1]
    learning = {k.removeprefix("network."): v for k, v in read(newest / "objective.safetensors").items()}
    model.network.load_state_dict(learning)
    assert abs(accuracy(model, files)[1] - before) > 1e-5


def test_a_weights_file_with_like(trained: Trained, files: list[Path], tmp_path: Path) -> None:
    """Only a preset can be named, so the file is one of a whole preset."""
    from tessella.models.classifier import Classifier
    from tessella.models.presets import classifier
    from tessella.weights.io import write_model

    network = Classifier(classifier("vit_n4", 3))
    card = load(trained.folder).card
    tensors = {k: v.detach() for k, v in network.state_dict().items()}
    from dataclasses import replace

    from tessella.config import encode

    write_model(tmp_path / "m", tensors, replace(card, architecture=encode(network.cfg)))
    bare = load(tmp_path / "m" / "model.safetensors", like="vit_n4")
    assert bare.classes == ("class 0", "class 1", "class 2")
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(bare(x), network.eval()(x), atol=1e-6)
    assert torch.equal(load(tmp_path / "m" / "model.safetensors")(x), bare(x))  # the shapes are of one preset only
    write_model(tmp_path / "m", {k: v for k, v in tensors.items() if k != "backbone.norm.bias"}, card)
    with pytest.raises(BadInput, match="does not say which architecture it is; add --like NAME"):
        load(tmp_path / "m" / "model.safetensors")
    with pytest.raises(BadInput, match="did you mean 'vit_n4'"):
        load(tmp_path / "m" / "model.safetensors", like="vit_n44")


def test_no_picture_and_a_bad_one(model: ts.Model, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no picture was given"):
        model.logits([])
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(BadInput, match=r"a\.png cannot be read as a picture"):
        model.predict([tmp_path / "a.png"])
    with pytest.raises(BadInput, match=r"absent\.png"):
        model.predict([tmp_path / "absent.png"])


def test_only_the_next_batch_is_decoded_ahead(monkeypatch: pytest.MonkeyPatch, files: list[Path]) -> None:
    """A folder of a million pictures must not be held in memory."""
    started: list[str] = []

    def slow(data: bytes, preprocess: Preprocess, name: str) -> object:
        started.append(name)
        return prepare(data, preprocess, name)

    monkeypatch.setattr(runtime_model, "prepare", slow)
    stream = runtime_model.decoded_ahead(files, Preprocess(size=(28, 28), mean=(0.5,) * 3, std=(0.5,) * 3), 4)
    next(stream)
    assert len(started) <= 8
    assert sum(len(names) for names, _ in stream) == len(files) - 4
    assert started.count(str(files[0])) == 1 and len(started) == len(files)


def test_settings_given_as_in_the_tour(world: World, tmp_path: Path) -> None:
    """`ts.train("photos/", model="vit_t16")`, cut down."""
    run = ts.train(
        str(world.photos), model="vit_t16",
        settings={"size": 32, "model.backbone.depth": 1, "model.backbone.width": 24, "train.steps": 2, "train.batch": 4,
                  "model.backbone.heads": 2, "folder": str(tmp_path / "runs"), "data.workers": 0},
    )  # fmt: skip
    m = run.load()
    assert m.card.architecture["backbone"]["width"] == 24 and m.preprocess.size == (32, 32)
    assert [len(p.names) for p in m.predict(world.photos / "val" / "circle" / "00.png")] == [3]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda card: card["heads"][0]["classes"].pop(), "classes for"),
        (lambda card: card.update(heads=[]), "names 0 classes"),
        (lambda card: card.update(preprocess={}), "preprocess.image"),
        (lambda card: card["architecture"]["backbone"].update(width=10**9, heads=1), "cannot be built"),
    ],
)
def test_a_card_edited_against_its_weights_is_refused(trained: Trained, tmp_path: Path, edit: Any, told: str) -> None:
    shutil.copytree(trained.folder / "model", tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    edit(card)
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    with pytest.raises(BadInput, match=told):
        load(tmp_path / "model")
