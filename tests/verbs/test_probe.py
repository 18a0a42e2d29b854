"""`evaluate --probe`: the same figures as from the features in one's own hands, with any classes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from commands import SHAPES, World
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import tessella as ts
from tessella.config import encode
from tessella.errors import BadInput
from tessella.models.classifier import Classifier
from tessella.models.presets import classifier
from tessella.verbs.anomaly import AnomalyConfig
from tessella.verbs.asked import Asked
from tessella.verbs.evaluate import Reading
from tessella.weights import native
from tessella.weights.table import rename

QUICK = Reading(workers=0, device="cpu")
OTHERS = tuple(SHAPES[2:5])  # only one of them is a class of the model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data") / "p"
    commands.photos(place / "train", each=20, seed=5, classes=OTHERS)
    commands.photos(place / "test", each=7, seed=6, classes=OTHERS)
    return place


def by_hand(run: Path, folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features, class numbers and names, by `embed` of the files."""
    files = sorted(folder.rglob("*.png"))
    names = [f.relative_to(folder.parent).as_posix() for f in files]
    return ts.load(run).embed(files), np.array([OTHERS.index(f.parent.name) for f in files]), names


def test_neighbours_of_the_features(world: World, data: Path) -> None:
    found = ts.probe(world.run, data, "knn", reading=QUICK)
    assert found.heads[0].classes == tuple(sorted(OTHERS)) and len(found.predictions.ids) == 21
    x, labels, _ = by_hand(world.run, data / "train")
    others, truth, names = by_hand(world.run, data / "test")
    search = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.07))
    expected = search.fit(x, labels).predict_proba(others)
    outputs = found.predictions.outputs[np.argsort(found.predictions.ids)]
    assert sorted(found.predictions.ids) == names
    columns = [found.heads[0].classes.index(name) for name in OTHERS]
    assert np.allclose(np.exp(outputs)[:, columns], expected, atol=1e-4)
    assert found.metrics["top1"] == (expected.argmax(1) == truth).mean()
    raw = search.fit(x[::-1], labels).predict_proba(others)  # the mutation: labels of other pictures
    assert not np.allclose(np.exp(outputs)[:, columns], raw, atol=1e-2)


def test_the_linear_probe_is_logistic_regression(world: World, data: Path) -> None:
    found = ts.probe(world.run, data, "linear", reading=QUICK)
    x, labels, _ = by_hand(world.run, data / "train")
    others, truth, _ = by_hand(world.run, data / "test")
    scaler = StandardScaler().fit(x.astype(np.float64))
    penalty = found.about["probe"]["penalty"]
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=9999).fit(scaler.transform(x), labels)
    columns = [found.heads[0].classes.index(name) for name in OTHERS]
    outputs = found.predictions.outputs[np.argsort(found.predictions.ids)][:, columns]
    assert np.allclose(outputs, theirs.decision_function(scaler.transform(others)), atol=0.05)
    assert found.metrics["top1"] == pytest.approx(theirs.score(scaler.transform(others), truth), abs=1 / 20)
    assert "60 training pictures" in found.notes[-1] and "logistic regression" in found.notes[-1]


def test_no_head_is_needed(data: Path, tmp_path: Path) -> None:
    """Weights from training without labels have none; the features are those of the same file with one."""
    torch.manual_seed(0)
    cfg = classifier("vit_n4", 3)
    network = Classifier(cfg)
    named = rename(network.state_dict(), native.to_file(encode(cfg), network.state_dict()))
    torch.save(named, tmp_path / "with.pth")
    torch.save({k: v for k, v in named.items() if not k.startswith("head.")}, tmp_path / "without.pth")
    one, other = (
        ts.probe(tmp_path / f"{name}.pth", data, "knn", like="vit_n4", reading=QUICK).predictions.outputs
        for name in ("with", "without")
    )
    assert np.allclose(one, other, atol=1e-5)
    usual = AnomalyConfig(good=OTHERS[0], by="whole")
    assert len(ts.anomalies(tmp_path / "without.pth", data, usual, like="vit_n4", reading=QUICK).ids) == 21
    with pytest.raises(BadInput, match=r"has no head\.weight, so there are no classes"):
        ts.evaluate(tmp_path / "without.pth", data, like="vit_n4", reading=QUICK)


def test_of_a_run_its_own_part_is_held_out(world: World) -> None:
    """Were it another, the probe would be judged on what the network learned."""
    found = ts.probe(world.run, world.photos, reading=QUICK)
    held = json.loads((world.run / "data.json").read_text())["data.val"]
    assert sorted(found.predictions.ids) == sorted(line.rsplit(" (", 1)[0] for line in held)


def test_size_and_flips_reach_the_features(world: World, data: Path) -> None:
    plain = ts.probe(world.run, data, "knn", reading=QUICK).predictions.outputs
    for how in (replace(QUICK, size=56), replace(QUICK, flips=True)):
        assert not np.allclose(ts.probe(world.run, data, "knn", reading=how).predictions.outputs, plain, atol=1e-3)
    again = ts.probe(world.run, data, "knn", reading=replace(QUICK, batch=5, workers=1)).predictions.outputs
    assert np.allclose(again, plain, atol=1e-3)


def test_pictures_that_cannot_be_read_do_not_count(world: World, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "p")
    for part in ("train", "test"):
        (tmp_path / "p" / part / OTHERS[0] / "aa.png").write_bytes(b"\x89PNG broken")
    found = ts.probe(world.run, tmp_path / "p", "knn", reading=replace(QUICK, max_bad=0.2))
    assert sorted(found.unreadable) == [f"{part}/{OTHERS[0]}/aa.png" for part in ("test", "train")]
    assert np.allclose(found.predictions.outputs, ts.probe(world.run, data, "knn", reading=QUICK).predictions.outputs)


def test_questions_that_cannot_be_asked(world: World, data: Path) -> None:
    with pytest.raises(BadInput, match="there is no probe 'kn'; did you mean 'knn'"):
        ts.probe(world.run, data, "kn", reading=QUICK)
    with pytest.raises(BadInput, match=r"a\.html: a probe has answers and no page"):
        Asked(probe="knn", out="a.html")
    with pytest.raises(BadInput, match=r"a\.html: a probe has answers and no page"):
        ts.probe(world.run, data, reading=QUICK).write("a.html")
    with pytest.raises(BadInput, match="--probe and --calibrate are different questions"):
        Asked(probe="knn", calibrate=True)
    with pytest.raises(BadInput, match="--whole says how --anomaly compares"):
        Asked(whole=True)
