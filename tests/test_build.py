"""From settings to objects: what was given stays, what follows has a reason, and what may change is listed."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import commands
import pytest
import torch

from tessella import build, parallel
from tessella.build import Run, derive, identity
from tessella.build.derived import fitting_batch
from tessella.config import encode, flatten
from tessella.data.origins.open import open_data
from tessella.data.pixels.mix import MixConfig
from tessella.data.source import DataConfig, Splits
from tessella.errors import BadInput
from tessella.models.presets import classifier
from tessella.objectives.distill import DistillConfig
from tessella.recipes.compact import compact
from tessella.training import TrainConfig


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def splits(photos: Path) -> Splits:
    return open_data(DataConfig(path=str(photos)))


def run(photos: Path, **train: object) -> Run:
    cfg = {"batch": 64, "lr": 1e-3, "warmup": 100, "device": "cpu", **train}
    return Run(epochs=10, size=28, model=classifier("vit_n4", 0), data=DataConfig(path=str(photos)),
               train=TrainConfig(**cfg))  # fmt: skip


def test_what_follows_from_the_data(photos: Path, splits: Splits) -> None:
    found = derive(run(photos), {}, splits)
    t = found.run.train
    assert t.batch == 8 and t.steps == math.ceil(10 * 33 / 8) == 42  # eight updates a pass would need 4; 8 is the least
    assert t.lr == pytest.approx(1e-3 * math.sqrt(8 / 64)) and t.warmup == 4 and t.evaluate_every == 5
    assert t.precision in ("fp32", "bf16") and t.compile in ("on", "off")
    assert found.run.model.classes == 3 and found.run.model.backbone.size == (28, 28)
    assert found.run.preprocess is not None and found.run.preprocess.size == (28, 28)
    changed = {k for k, v in flatten(encode(found.run)).items() if flatten(encode(run(photos))).get(k) != v}
    told = set(found.reasons) | {"model.classes", "model.backbone.image_size"}
    assert {k for k in changed if not k.startswith("preprocess")} <= told
    assert all(why for _, why in found.reasons.values())


@pytest.mark.parametrize(("rule", "factor", "momentum"), [("sgd", 50, 0.9), ("lion", 0.2, None), ("muon", 1, 0.95)])
def test_a_rule_that_is_chosen_gets_its_rate(
    rule: str, factor: float, momentum: float | None, photos: Path, splits: Splits
) -> None:
    start = run(photos, optimizer=rule, weight_decay=0.1)
    t = derive(start, {"train.optimizer": "given"}, splits, run(photos).train).run.train
    usual = derive(run(photos), {}, splits).run.train.lr
    assert t.lr == pytest.approx(usual * factor) and t.weight_decay == pytest.approx(0.1 / factor)
    assert t.momentum == momentum
    own = derive(start, {}, splits, start.train).run.train  # the recipe's own rule: its rate is meant for it
    assert own.lr == pytest.approx(usual) and own.weight_decay == 0.1
    given = dict.fromkeys(("train.optimizer", "train.lr", "train.weight_decay"), "given")
    assert derive(start, given, splits).run.train.lr == 1e-3


@pytest.mark.parametrize(("rule", "factor"), [("muon", 1.0), ("adamw", 0.3), ("sgd", 15.0), ("lion", 0.06)])
def test_a_rate_made_for_muon_is_too_much_for_others(rule: str, factor: float, photos: Path, splits: Splits) -> None:
    start = compact(str(photos))
    own = derive(start, {}, splits, start.train)
    chosen = derive(replace(start, train=replace(start.train, optimizer=rule)), {}, splits, start.train)
    assert chosen.run.train.lr == pytest.approx(own.run.train.lr * factor)
    assert chosen.run.train.weight_decay == pytest.approx(0.05 / factor)
    assert ("times 0.3 for adamw" in chosen.reasons["train.lr"][1]) == (rule == "adamw")


@pytest.mark.parametrize(("epochs", "mixes"), [(build.MIXES - 1, False), (build.MIXES, True)])
def test_few_passes_are_not_mixed(epochs: int, mixes: bool, photos: Path, splits: Splits) -> None:
    start = replace(run(photos), epochs=epochs)
    start = replace(start, data=replace(start.data, mix=MixConfig()))
    found = derive(start, {}, splits)
    assert (found.run.data.mix is not None) == mixes and ("data.mix" in found.reasons) != mixes
    assert derive(start, {"data.mix.mixup": "given"}, splits).run.data.mix == MixConfig()


def test_a_batch_that_is_given_gets_its_rate(photos: Path, splits: Splits) -> None:
    start = run(photos)
    smaller = replace(start, train=replace(start.train, batch=16))
    found = derive(smaller, {"train.batch": "given"}, splits, start.train)
    assert found.run.train.batch == 16 and found.run.train.lr == pytest.approx(1e-3 * math.sqrt(16 / 64))
    assert "0.001 at batch 64" in found.reasons["train.lr"][1]


def test_the_best_is_by_a_figure_that_there_is(photos: Path, splits: Splits, tmp_path: Path) -> None:
    settled = derive(run(photos, best="mae"), {}, splits).run
    with pytest.raises(BadInput, match=r"train.best is .mae., but the evaluation gives top1, top5, loss, .*; name one"):
        build.objects(settled, splits, tmp_path)
    build.objects(replace(settled, train=replace(settled.train, best="auroc")), splits, tmp_path)


def test_warm_up_in_passes(photos: Path, splits: Splits) -> None:
    found = derive(replace(run(photos), warmup_epochs=2.5), {}, splits)
    assert found.run.train.warmup == round(0.25 * 42) and "2.5 of 10 passes" in found.reasons["train.warmup"][1]
    assert derive(replace(run(photos), warmup_epochs=0.0), {}, splits).run.train.warmup == 0
    for wrong in (-1.0, 10.0):
        with pytest.raises(BadInput, match=r"warmup_epochs is .* fewer than epochs, 10"):
            replace(run(photos), warmup_epochs=wrong)


def test_what_was_given_is_never_touched(photos: Path, splits: Splits) -> None:
    given = {
        "steps": 7,
        "batch": 33,
        "lr": 0.5,
        "warmup": 6,
        "evaluate_every": 3,
        "precision": "fp32",
        "compile": "off",
    }
    found = derive(run(photos, **given), dict.fromkeys((f"train.{k}" for k in given), "given"), splits)
    assert {k: getattr(found.run.train, k) for k in given} == given
    assert not {k for k in found.reasons if k.removeprefix("train.") in given}


def test_a_passing_file_counts_as_given(photos: Path, splits: Splits) -> None:
    assert derive(run(photos, batch=12), {"train.batch": "my.toml"}, splits).run.train.batch == 12


@pytest.mark.parametrize(("wanted", "pictures", "batch"), [(64, 10_000, 64), (64, 400, 32), (64, 65, 8), (64, 5, 8)])
def test_small_sets_get_small_batches(wanted: int, pictures: int, batch: int) -> None:
    assert fitting_batch(wanted, pictures) == batch


def test_a_batch_that_cannot_be_shared(photos: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world", lambda: 3)
    assert derive(run(photos), {}, splits).run.train.batch % 3 == 0
    with pytest.raises(BadInput, match=r"train\.batch 8 cannot be shared by 3 processes"):
        derive(run(photos, batch=8), {"train.batch": "given"}, splits)


def test_grey_pictures_get_a_grey_mean(photos: Path, splits: Splits) -> None:
    start = run(photos)
    grey = replace(start, model=replace(start.model, backbone=replace(start.model.backbone, channels=1)))
    p = derive(grey, {}, splits).run.preprocess
    assert p is not None and len(p.mean) == len(p.std) == p.channels == 1
    assert p.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_the_weights_follow_from_the_seed_alone(photos: Path, splits: Splits, tmp_path: Path) -> None:
    settled = derive(run(photos), {}, splits).run

    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(7)  # what was drawn before is of no account
        one = replace(settled, train=replace(settled.train, seed=seed))
        return dict(build.objects(one, splits, tmp_path).objective.state_dict())

    a, b, c = weights(0), weights(0), weights(1)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_objects_need_a_settled_run(photos: Path, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="derive"):
        build.objects(run(photos), splits, tmp_path)


def test_identity_is_all_but_what_is_free(photos: Path, splits: Splits) -> None:
    settled = derive(run(photos), {}, splits).run
    known = set(flatten(encode(settled)))
    assert set(build.FREE) - {"objective.teacher"} <= known, "a free key that does not exist"
    assert "teacher" in {field.name for field in fields(DistillConfig)}
    assert set(identity(settled, splits)) == known - set(build.FREE) | {"data.train", "data.val", "classes"}


@pytest.mark.parametrize("name", ["one more", "renamed", "another size"])
def test_other_data_is_another_identity(name: str, tmp_path: Path) -> None:
    photos = commands.photos(tmp_path / "photos", each=5)
    settled = derive(run(photos), {}, open_data(DataConfig(path=str(photos)))).run
    before = identity(settled, open_data(settled.data))
    assert identity(settled, open_data(settled.data)) == before
    file = photos / "circle" / "00.png"
    match name:
        case "one more":
            (photos / "circle" / "99.png").write_bytes(file.read_bytes())
        case "renamed":
            file.rename(photos / "circle" / "98.png")
        case _:
            file.write_bytes(file.read_bytes() + b"\0")
    assert identity(settled, open_data(settled.data)) != before
