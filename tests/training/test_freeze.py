"""What is frozen stays as it is, bit by bit, and costs no backward pass; what thaws learns from its step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from toys import Toy, toy_batches

from tessella.errors import BadInput
from tessella.training import Job, TrainConfig, distributed, train
from tessella.training.depths import depths
from tessella.training.freeze import Freeze
from tessella.training.trainer import Trainer

CFG: dict[str, Any] = {"steps": 8, "batch": 12, "warmup": 2, "lr": 1e-2, "weight_decay": 0.5, "ema": 0.5}
CFG |= {"precision": "fp32", "log_every": 1, "device": "cpu"}
RULES = ("adamw", "sgd", "lion", "muon")


def run(
    folder: Path | None = None, shard: str = "ddp", **more: Any
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """(losses, weights before, weights and average after)"""
    torch.manual_seed(0)
    objective = Toy()
    shipped: dict[str, Tensor] = {}
    before = {name: p.detach().clone() for name, p in objective.net.named_parameters()}
    cfg = TrainConfig(**CFG | {"shard": shard} | more)
    ship = lambda tensors, metrics, step: shipped.update(tensors)  # noqa: E731
    done = train(cfg, objective, toy_batches(), Job(folder=folder, ship=ship, quiet=True))
    return [row["loss"] for row in done.history if "loss" in row], before, shipped


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[int]:
    """Depths in which something has changed; in the others nothing has, by a bit."""
    places = {name.removeprefix("net."): depth.own for name, depth in depths(Toy()).items()}
    assert before.keys() == after.keys() == places.keys()
    return {places[name] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("freeze", "learn"), [(0, {0, 1, 2, 3, 4}), (2, {2, 3, 4}), ("backbone", {4})])
def test_frozen_depths_do_not_move(freeze: Any, learn: set[int], rule: str) -> None:
    _, before, after = run(freeze=freeze, optimizer=rule)
    assert moved(before, after) == learn


def test_a_gradient_alone_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: parameters that keep their gradient decay and move."""
    monkeypatch.setattr(Freeze, "at", lambda self, step: False)
    _, before, after = run(freeze="backbone")
    assert moved(before, after) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("freeze", "passed"), [(0, 3), (2, 2), (3, 1), ("backbone", 0)])
def test_frozen_blocks_are_not_gone_back_through(freeze: Any, passed: int) -> None:
    torch.manual_seed(0)
    objective = Toy()
    Trainer(TrainConfig(**CFG | {"freeze": freeze}), objective, Job(quiet=True), torch.device("cpu"))
    seen = []
    for block in objective.net.blocks:
        block.fc.register_full_backward_hook(lambda module, inner, outer: seen.append(module))
    losses, _ = objective(next(toy_batches()(0)), 0.0)
    torch.stack(list(losses.values())).sum().backward()
    assert len(seen) == passed


def test_depths_thaw_from_the_top_in_equal_shares() -> None:
    freeze = Freeze(Toy(), TrainConfig(steps=100, freeze="backbone", thaw=0.8))
    counts = [freeze.depths_at(step) for step in range(100)]
    assert counts == [4] * 20 + [3] * 20 + [2] * 20 + [1] * 20 + [0] * 20
    assert {Freeze(Toy(), TrainConfig(steps=100, freeze=3)).depths_at(step) for step in range(100)} == {3}


def thawing(folder: str | None = None, shard: str = "ddp", steps: int = 8) -> Any:
    return run(Path(folder) if folder else None, shard, steps=steps, freeze="backbone", thaw=0.5, save_every=1)[0]


def test_thawing_moves_everything_and_resumes_exactly(tmp_path: Path) -> None:
    """Killed after every step of a run that thaws a depth with each of its first steps."""
    settings: dict[str, Any] = {"freeze": "backbone", "thaw": 0.5, "save_every": 1}
    undisturbed, before, after = run(**settings)
    assert moved(before, after) == {0, 1, 2, 3, 4}

    class Dies(Exception):
        pass

    def die(tensors: Any, metrics: Any, step: int) -> None:
        raise Dies

    for _ in range(7):
        torch.manual_seed(0)
        with pytest.raises(Dies):
            cfg = TrainConfig(**CFG | settings)
            train(cfg, Toy(), toy_batches(), Job(folder=tmp_path, ship=die, quiet=True))
    losses, _, resumed = run(tmp_path, **settings)
    assert losses == undisturbed[7:] and all(torch.equal(after[k], resumed[k]) for k in after)


def frozen_in_ranks(shard: str) -> tuple[list[float], list[float]]:
    with distributed.processes(torch.device("cpu")):
        thawed = thawing() if shard == "ddp" else []
        return run(shard=shard, freeze=2, optimizer="muon")[0], thawed


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_ranks_freeze_as_one(shard: str, tmp_path: Path) -> None:
    frozen, thawed = run_ranks(2, frozen_in_ranks, shard, out=tmp_path)[0]
    assert frozen == pytest.approx(run(freeze=2, optimizer="muon")[0], rel=1e-4)
    assert thawed == (pytest.approx(thawing(), rel=1e-4) if shard == "ddp" else [])
    assert frozen != pytest.approx(run(optimizer="muon")[0], rel=1e-4)


def refused_in_ranks() -> str:
    try:
        thawing(shard="fsdp")
    except BadInput as error:
        return str(error)
    return ""


def test_what_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.freeze is 5, but this network can freeze 4 depths; give no more"):
        run(freeze=5)
    for wrong in ({"freeze": -1}, {"freeze": 1, "thaw": 1.0}, {"thaw": 0.5}):
        with pytest.raises(BadInput, match=r"train\.(freeze|thaw) is .*; give "):
            TrainConfig(**wrong)  # type: ignore[arg-type]
    assert "train.thaw is 0.5, but shards" in run_ranks(2, refused_in_ranks, out=tmp_path)[0]
