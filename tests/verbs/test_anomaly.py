"""`evaluate --anomaly`: scores and limit are those of slow loops over features; small faults count by their patch."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from commands import SHAPES, World
from sklearn.neighbors import NearestNeighbors

import tessella as ts
from tessella.data.pixels.transforms import prepare
from tessella.errors import BadInput
from tessella.verbs.anomaly import AnomalyConfig
from tessella.verbs.labelled import Reading

Array = np.ndarray[Any, np.dtype[Any]]
QUICK = Reading(workers=0, device="cpu")
OTHERS = tuple(SHAPES[2:5])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an inspection line keeps it: train/good, and faults in test/ alone."""
    data, place = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("line") / "parts"
    commands.photos(data / "train", each=20, seed=5, classes=OTHERS)
    commands.photos(data / "test", each=7, seed=6, classes=OTHERS)
    shutil.copytree(data / "train" / OTHERS[0], place / "train" / "good")
    shutil.copytree(data / "test" / OTHERS[0], place / "test" / "good")
    shutil.copytree(data / "test" / OTHERS[1], place / "test" / "scratch")
    return place


def test_whole_pictures_unlike_the_good_ones(world: World, parts: Path) -> None:
    done = commands.run("evaluate", world.run, parts, "--anomaly", "good", "--whole", "--workers", "0", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    usual, asked = (ts.load(world.run).embed(sorted((parts / part).rglob("*.png"))) for part in ("train/good", "test"))
    search = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(usual)
    values = dict(zip(
        sorted(f.relative_to(parts).as_posix() for f in (parts / "test").rglob("*.png")),
        search.kneighbors(asked)[0].mean(1), strict=True,
    ))  # fmt: skip
    limit = np.quantile(search.kneighbors()[0].mean(1), 0.95)
    assert told["limit"] == pytest.approx(limit, abs=1e-5) and told["known"] == 20
    assert {row["id"]: row["score"] for row in told["pictures"]} == pytest.approx(values, abs=1e-5)
    for row in told["pictures"]:
        assert row["class"] == row["id"].split("/")[1] and row["flagged"] == (row["score"] > told["limit"])
    faults = [row["flagged"] for row in told["pictures"] if row["class"] == "scratch"]
    alarms = [row["flagged"] for row in told["pictures"] if row["class"] == "good"]
    assert told["found"] == np.mean(faults) and told["false_alarms"] == np.mean(alarms) and len(alarms) == 7
    pairs = [(a["score"] > b["score"]) + 0.5 * (a["score"] == b["score"]) for a in told["pictures"]
             for b in told["pictures"] if a["class"] == "scratch" and b["class"] == "good"]  # fmt: skip
    assert told["auroc"] == pytest.approx(np.mean(pairs))
    text = commands.run("evaluate", world.run, parts, "--anomaly", "good", "--whole", "--workers", "0").out
    assert f"AUROC {told['auroc']:.4f}" in text and "14 pictures against 20 of good" in text


def test_without_parts_a_fifth_of_the_good_ones_is_judged(world: World) -> None:
    found = ts.anomalies(world.run, world.photos, AnomalyConfig(good="circle"), reading=QUICK)
    names = [name.split("/")[0] for name in found.ids]
    assert names.count("circle") == 3 and names.count("square") == names.count("triangle") == 14
    assert found.found.known == 11


def by_hand(run: Path, folder: Path) -> Array:
    """(N, patches, width): unit vectors after the only block."""
    model = ts.load(run)
    pixels = torch.stack([prepare(f.read_bytes(), model.preprocess) for f in sorted(folder.rglob("*.png"))])
    with torch.no_grad():
        tokens = model.network.backbone(model.finish({"image": pixels})["image"], layers=(0,))
    found = tokens.layers[0].flatten(2).transpose(1, 2).numpy().astype(np.float64)
    return found / np.sqrt((found**2).sum(-1, keepdims=True))


def strangest(asked: Array, bank: Array) -> Array:
    return np.array([max(min(1 - patch @ known for known in bank) for patch in one) for one in asked])


def test_one_strange_patch_is_enough(world: World, parts: Path) -> None:
    found = ts.anomalies(world.run, parts, AnomalyConfig(good="good"), reading=QUICK)
    usual, asked = by_hand(world.run, parts / "train"), by_hand(world.run, parts / "test")
    order = np.argsort(found.ids)
    assert np.allclose(found.found.values[order], strangest(asked, usual.reshape(-1, 32)), atol=1e-5)
    fold = np.arange(20) % 10
    own = [strangest(usual[fold == i], usual[fold != i].reshape(-1, 32)) for i in range(10)]
    assert found.found.limit == pytest.approx(np.quantile(np.concatenate(own), 0.95), abs=1e-5)
    assert found.found.known == 20
    with_itself = strangest(usual, usual.reshape(-1, 32))  # the mutation: everybody is near to himself
    assert np.quantile(with_itself, 0.95) < 1e-6 < found.found.limit
    means = 1 - (asked @ usual.reshape(-1, 32).T).max(2).mean(1)  # and the mean of the patches instead of the worst
    assert not np.allclose(found.found.values[order], means, atol=1e-3)


def test_fewer_patches_are_drawn_by_the_seed_alone(world: World, parts: Path) -> None:
    few = AnomalyConfig(good="good", patches=60)  # 3 of each of 20
    whole, one = (ts.anomalies(world.run, parts, cfg, reading=QUICK) for cfg in (AnomalyConfig(good="good"), few))
    again = ts.anomalies(world.run, parts, few, reading=replace(QUICK, batch=3, workers=1))
    assert np.allclose(one.found.values, again.found.values, atol=1e-5)
    assert one.found.limit == pytest.approx(again.found.limit, abs=1e-5)
    assert (one.found.values >= whole.found.values - 1e-6).all() and one.found.values.mean() > whole.found.values.mean()
    other = ts.anomalies(world.run, parts, replace(few, seed=1), reading=QUICK)
    assert not np.allclose(other.found.values, one.found.values, atol=1e-5)


def test_of_new_good_ones_the_rest_is_flagged(world: World, tmp_path: Path) -> None:
    """About: 60 pictures of the same kind, none of them seen."""
    commands.photos(tmp_path / "p" / "train", each=60, seed=7, classes=OTHERS[:1])
    commands.photos(tmp_path / "p" / "test", each=60, seed=8, classes=OTHERS[:1])
    cfg = AnomalyConfig(good=OTHERS[0], quantile=0.8, by="whole")
    for how in (cfg, replace(cfg, by="patches")):
        found = ts.anomalies(world.run, tmp_path / "p", how, reading=QUICK)
        assert found.metrics == {"false_alarms": pytest.approx(0.2, abs=0.2)}, "nothing else can be said"


def test_what_cannot_be_learned(world: World, parts: Path, tmp_path: Path) -> None:
    def refused(at: Path, cfg: AnomalyConfig, words: str, reading: Reading = QUICK) -> None:
        with pytest.raises(BadInput, match=words) as caught:
            ts.anomalies(world.run, at, cfg, reading=reading)
        assert "\n" not in str(caught.value)

    refused(parts, AnomalyConfig(good="god"), "has no class 'god' .*; did you mean 'good'")
    refused(parts, AnomalyConfig(good="scratch"), "0 pictures of 'scratch' are too few")
    refused(parts, AnomalyConfig(good="good"), "leave --flips out", replace(QUICK, flips=True))
    shutil.copytree(parts / "train", tmp_path / "p" / "train")
    shutil.copytree(parts / "test" / "scratch", tmp_path / "p" / "train" / "scratch")
    refused(tmp_path / "p", AnomalyConfig(good="good"), "learned from train/ and judged in test/")
    for wrong in ({"neighbours": 0}, {"patches": 0}, {"quantile": 1.0}):
        with pytest.raises(BadInput, match="give 1 or more, and a share"):
            AnomalyConfig(good="good", **wrong)  # type: ignore[arg-type]
