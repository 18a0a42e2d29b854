"""Each rule moves the weights as its paper says, takes up where it was stopped, and does in two processes what it does
in one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import updates
from ranks import run_ranks
from torch import Tensor, nn
from toys import Toy, toy_batches

from tessella.models.architecture import ClassifierConfig, ViTConfig
from tessella.models.classifier import Classifier
from tessella.training import Job, TrainConfig, distributed, lion, muon, state, train
from tessella.training.optim import SLOTS, make_optimizer, placement

RULES = ("adamw", "sgd", "lion", "muon")
RATES = {"adamw": 1e-2, "sgd": 1e-1, "lion": 2e-3, "muon": 1e-2}
KINDS: dict[str, set[type]] = {"adamw": {torch.optim.AdamW}, "sgd": {torch.optim.SGD}, "lion": {lion.Lion}}
KINDS |= {"muon": {muon.Muon, torch.optim.AdamW}}
CFG: dict[str, Any] = {"batch": 12, "warmup": 2, "precision": "fp32", "log_every": 1, "device": "cpu"}
SHAPES = [(8, 8), (12, 5), (5, 12)]


def gradients(shape: tuple[int, ...], count: int = 3) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=g) for _ in range(count)]


def stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, grads: list[Tensor]) -> Tensor:
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


def group(parameter: nn.Parameter, matrices: int = 1) -> dict[str, Any]:
    return {"params": [parameter], "weight_decay": 0.1, "matrices": matrices}


def muon_moves(shape: tuple[int, int], matrices: int = 1, products: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(start, after three steps)"""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(start.clone())
    return start, stepped(muon.Muon([group(weight, matrices)], 0.1, 0.9, products), weight, gradients(shape))


def far(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_makes_singular_values_equal(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    start, ours = muon_moves(shape)
    expected = updates.muon(start, gradients(shape), 0.1, 0.1, 0.9)
    assert far(ours, expected) < 1e-4
    monkeypatch.setattr(muon, "B", -4.7)
    assert far(muon_moves(shape)[1], expected) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    start, ours = muon_moves(shape, products=torch.bfloat16)
    weight = nn.Parameter(start.clone())
    theirs = torch.optim.Muon([weight], 0.1, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    step = 0.1 * 0.2 * math.sqrt(max(shape))
    assert far(ours, stepped(theirs, weight, gradients(shape))) < 0.05 * step  # both round to 8 bits


def test_muon_parts_what_lies_in_one_parameter() -> None:
    start, ours = muon_moves((24, 8), matrices=3)
    thirds = [[g.chunk(3)[i] for g in gradients((24, 8))] for i in range(3)]
    expected = [updates.muon(start.chunk(3)[i], thirds[i], 0.1, 0.1, 0.9) for i in range(3)]
    assert far(ours, torch.cat(expected)) < 1e-4
    assert far(muon_moves((24, 8))[1], torch.cat(expected)) > 1e-2  # the mutation: taken as one


def test_lion_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    start, grads = torch.randn(7, generator=torch.Generator().manual_seed(0)), gradients((7,), 6)
    grads[0][2] = 0.0  # no direction: only the decay moves it
    expected = torch.tensor(updates.lion(start, grads, 0.01, 0.1, (0.9, 0.99))[-1])

    def moved(betas: tuple[float, float]) -> Tensor:
        weight = nn.Parameter(start.clone())
        return stepped(lion.Lion([group(weight)], 0.01, betas), weight, grads)

    assert far(moved((0.9, 0.99)), expected) < 1e-6
    assert far(moved((0.99, 0.9)), expected) > 1e-3


@pytest.mark.parametrize(("mlp", "fc1"), [("gelu", 1), ("swiglu", 2)])
def test_muon_gets_the_matrices_of_blocks_and_nothing_else(mlp: Any, fc1: int) -> None:
    cfg = ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, mlp=mlp, embed="stem")
    network = Classifier(ClassifierConfig(backbone=cfg, classes=3))
    named = {name: place.matrices for name, place in placement(network, 1.0).items() if place.matrices}
    counts = {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": fc1, "mlp.fc2": 1}
    assert named == {f"backbone.blocks.{i}.{part}.weight": n for i in (0, 1) for part, n in counts.items()}
    parts = make_optimizer(network, TrainConfig(optimizer="muon", matrix_scale=2.0, layer_decay=0.5)).parts
    assert {type(p).__name__ for p in parts} == {"Muon", "AdamW"}
    assert sum(len(g["params"]) for p in parts for g in p.param_groups) == len(list(network.parameters()))
    scales = {g["scale"] for p in parts if isinstance(p, muon.Muon) for g in p.param_groups}
    assert scales == {2 * 0.5**2, 2 * 0.5}


def run(
    rule: str, folder: Path | None = None, steps: int = 8, dropout: float = 0.0, **more: Any
) -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(0)
    objective = Toy(dropout=dropout)
    cfg: dict[str, Any] = CFG | {"optimizer": rule, "lr": RATES[rule], "steps": steps} | more
    done = train(TrainConfig(**cfg), objective, toy_batches(), Job(folder=folder, quiet=True))
    return [row["loss"] for row in done.history if "loss" in row], dict(objective.net.state_dict())


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_learns(rule: str) -> None:
    losses, _ = run(rule, steps=60)
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_goes_on_bit_by_bit(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"ema": 0.9, "layer_decay": 0.8, "min_lr": RATES[rule], "dropout": 0.1}
    undisturbed = run(rule, **settings)
    run(rule, tmp_path / "a", steps=5, **settings)
    losses, weights = run(rule, tmp_path / "a", **settings)
    assert losses == undisturbed[0][5:]
    assert all(torch.equal(weights[k], undisturbed[1][k]) for k in weights)
    run(rule, tmp_path / "b", steps=5, **settings)
    monkeypatch.setattr("tessella.training.optim.Optimizers.fill", lambda self, saved: None)
    assert run(rule, tmp_path / "b", **settings)[0] != undisturbed[0][5:]  # the mutation: it forgets


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw"), ("sgd", "lion"), ("lion", "sgd")])
def test_another_rule_begins_anew(before: str, after: str, tmp_path: Path) -> None:
    """Somebody who allows the change gets it: what the old rule remembered is of no use to the new one."""
    run(before, tmp_path, steps=4)
    losses, _ = run(after, tmp_path, steps=6, save_every=5)
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    kept = state.load(state.latest(tmp_path / "state") or tmp_path).tensors["optimizer"]
    slots = {key.rsplit("|", 1)[1] for key in kept}
    assert slots == set().union(*(SLOTS[kind] for kind in KINDS[after]))


def test_an_average_that_is_new_begins_with_the_weights(tmp_path: Path) -> None:
    run("sgd", tmp_path, steps=4)
    saved = state.load(state.latest(tmp_path / "state") or tmp_path).tensors["objective"]
    run("sgd", tmp_path, steps=5, ema=0.999, lr=0.0, min_lr=0.0)  # nothing moves: it stays what it began with
    average = state.load(state.latest(tmp_path / "state") or tmp_path).tensors["average"]
    assert average and all(torch.equal(average[name], saved[f"net.{name}"]) for name in average)


def test_a_lack_of_memory_in_muon_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices take the memory; until they are all there, nothing has changed."""
    undisturbed, calls, orthogonalise = run("muon")[0], [0], muon.orthogonalise

    def short(x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 4:
            raise torch.OutOfMemoryError("simulated")
        return orthogonalise(x)

    monkeypatch.setattr(muon, "orthogonalise", short)
    assert run("muon")[0] == undisturbed and calls[0] > 8


def all_rules(shard: str, folder: str) -> list[list[float]]:
    with distributed.processes(torch.device("cpu")):
        return [run(rule, Path(folder) / rule, shard=shard)[0] for rule in RULES]


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_ranks_move_as_one(shard: str, tmp_path: Path) -> None:
    together = run_ranks(2, all_rules, shard, str(tmp_path), out=tmp_path)[0]
    for rule, losses in zip(RULES, together, strict=True):
        alone = run(rule)[0]
        assert losses == pytest.approx(alone, rel=1e-4), rule
        assert len(run(rule, tmp_path / rule, steps=10)[0]) == 2  # what two saved, one goes on with
