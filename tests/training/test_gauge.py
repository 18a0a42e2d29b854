"""Norms of gradients and updates by block: as sums by hand, the same in two processes, nothing where not logged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks import run_ranks
from toys import Toy, toy_batches

from tessella.training import Job, TrainConfig, train
from tessella.training.gauge import Gauge

CFG: dict[str, Any] = {"steps": 4, "batch": 12, "warmup": 2, "lr": 1e-2, "precision": "fp32", "device": "cpu"}


def rows(shard: str = "ddp", **more: Any) -> list[Any]:
    torch.manual_seed(0)
    cfg = TrainConfig(**CFG | {"log_every": 1, "shard": shard} | more)
    return [dict(row) for row in train(cfg, Toy(), toy_batches(), Job(quiet=True)).history]


def test_by_hand() -> None:
    torch.manual_seed(0)
    toy, gauge = Toy(), Gauge(Toy())
    gauge.objective = toy
    for p in toy.parameters():
        p.grad = torch.randn_like(p)
    before = gauge.before()
    old = {name: p.detach().clone() for name, p in toy.named_parameters()}
    torch.optim.SGD(toy.parameters(), lr=0.1).step()
    found = gauge.after(before)
    places = [("net.token", "net.embed"), *(f"net.blocks.{i}." for i in range(3)), "net.head"]
    for place, gradient, update in zip(places, found["grad_by_block"], found["update_by_block"], strict=True):
        own = {n: p for n, p in toy.named_parameters() if n.startswith(place)}
        square = sum(float(p.grad.square().sum()) for p in own.values() if p.grad is not None)
        weight = sum(float(old[n].square().sum()) for n in own)
        assert float(gradient) == pytest.approx(square**0.5, rel=1e-5)
        assert float(update) == pytest.approx(0.1 * (square / weight) ** 0.5, rel=1e-4)


def test_every_logged_row_has_them_and_they_add_up() -> None:
    found = rows(clip=1e-3)
    for row in found:  # the norms are those before clipping
        assert len(row["grad_by_block"]) == len(row["update_by_block"]) == 5
        assert sum(g * g for g in row["grad_by_block"]) ** 0.5 == pytest.approx(row["norm"], rel=1e-4)
        assert all(0 < u < 1 for u in row["update_by_block"])
    frozen = rows(freeze=2)[0]
    assert frozen["grad_by_block"][:2] == frozen["update_by_block"][:2] == [0.0, 0.0] and frozen["grad_by_block"][2] > 0


def test_other_steps_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    before = Gauge.before
    monkeypatch.setattr(Gauge, "before", lambda self: asked.append(1) or before(self))
    rows(log_every=3, steps=8)
    assert len(asked) == 4  # steps 0, 3, 6 and the last


def in_ranks(shard: str) -> list[Any]:
    return [[*row["grad_by_block"], *row["update_by_block"]] for row in rows(shard)]


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_ranks_measure_as_one(shard: str, tmp_path: Any) -> None:
    for found, row in zip(run_ranks(2, in_ranks, shard, out=tmp_path)[0], rows(), strict=True):
        assert found == pytest.approx([*row["grad_by_block"], *row["update_by_block"]], rel=1e-3)
