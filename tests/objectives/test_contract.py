"""Every method that learns without labels keeps the contract: it is here because it is one of the union."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from learning import NAMES, STEPS, known, learn, of_a_rank, photos, settled, stopped_halfway, teacher
from ranks import run_ranks

from tessella import build
from tessella.errors import BadInput
from tessella.recipes.compact import compact
from tessella.recipes.methods import METHODS
from tessella.runtime.load import load
from tessella.training import state


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module", params=NAMES)
def done(
    request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[float]]:
    """(method, its finished run, its losses)"""
    folder = tmp_path_factory.mktemp("run") / request.param
    return request.param, folder, learn(request.param, pictures, folder)


Done = tuple[str, Path, list[float]]


def test_every_member_of_the_union_has_a_name() -> None:
    assert {type(method(compact("photos")).objective) for method in METHODS.values()} == known()


def test_it_learns_scenes(pictures: Path, tmp_path: Path, done: Done) -> None:
    """From the worst tenth on: while all pictures still look alike to a network, DINO's loss is low."""
    longer = {"train__steps": 80, "train__save_every": 80, "train__evaluate_every": 0}
    losses = learn(done[0], pictures, tmp_path / "longer", **longer)
    tenths = [sum(losses[i : i + 8]) / 8 for i in range(0, 80, 8)]
    worst = tenths.index(max(tenths))
    assert min(tenths[worst:]) < tenths[worst] - 0.02 * abs(tenths[worst]), tenths


def test_death_leaves_no_trace(pictures: Path, tmp_path: Path, done: Done) -> None:
    name, whole, losses = done
    again = stopped_halfway(whole, tmp_path / "again")
    assert learn(name, pictures, again) == losses[STEPS // 2 :]
    here, there = (state.load(place / "state" / f"step-{STEPS:06d}").tensors for place in (again, whole))
    assert here.keys() == there.keys()
    for part, tensors in here.items():
        assert all(torch.equal(tensor, there[part][key]) for key, tensor in tensors.items()), part


@pytest.fixture(scope="module")
def pair(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    """What two processes saw, of every method."""
    place = tmp_path_factory.mktemp("pair")
    teacher(pictures)
    told: list[dict[str, list[float]]] = run_ranks(
        2, of_a_rank, list(NAMES), str(pictures), str(place / "two"), out=place
    )
    return told


def test_two_processes_learn_what_one_learns(pair: list[dict[str, list[float]]], done: Done) -> None:
    for told in pair:
        assert told[done[0]] == pytest.approx(done[2], rel=1e-4)


def test_pieces_of_a_batch_are_the_batch(pictures: Path, tmp_path: Path, done: Done) -> None:
    name, _, losses = done
    try:
        cut = learn(name, pictures, tmp_path / "cut", train__accumulate=4)
    except BadInput as error:
        assert "compares the samples" in str(error)
        return
    assert cut == pytest.approx(losses, rel=1e-4)


def test_half_precision_is_near(pictures: Path, tmp_path: Path, done: Done) -> None:
    name, _, losses = done
    half = learn(name, pictures, tmp_path / "half", train__precision="bf16")
    assert all(math.isfinite(loss) for loss in half) and half == pytest.approx(losses, rel=0.05)
    assert half != losses


def test_nothing_is_left_undrawn(pictures: Path, tmp_path: Path, done: Done) -> None:
    run, splits = settled(done[0], pictures)
    model = build.objects(run, splits, tmp_path).objective.model
    held = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    for tensor in held.values():
        tensor.fill_(torch.nan)
    model.init_weights()
    assert not [name for name, tensor in held.items() if not tensor.isfinite().all()]


def test_what_ships_opens_again(done: Done) -> None:
    folder = done[1]
    (folder / "run.json").write_text("{}")  # so that it is a run folder
    model = load(folder, headless=True)
    labelled = done[0] in ("fixmatch", "distill")
    figures = {"top1", "loss"} if labelled else {"rank", "spread", "knn", "linear"}
    assert model.classifier.backbone is not None and model.card.metrics.keys() >= figures
