"""DINO through the trainer: cutting a batch up, ranks, shards, holes, a stop: none of it is seen in the result."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import run_ranks
from torch import Tensor
from viewed import MODES, VIT, batch, fresh

from tessella import parallel
from tessella.errors import BadInput
from tessella.objectives.dino import DINO
from tessella.training import Job, TrainConfig, distributed, train


def batches(start: int) -> Iterator[dict[str, Any]]:
    """This rank's share of each step's eight samples."""
    each = 8 // parallel.world()
    at = slice(each * parallel.rank(), each * parallel.rank() + each)
    while True:
        yield {k: v[at] for k, v in batch(8, start).items()}
        start += 1


HOLES = {f"1-{i}" for i in range(4, 8)} | {"2-0", "2-7", "3-3"} | {f"4-{i}" for i in range(7)}
#       all of the second rank's share     some              one    all but one


def holed(start: int) -> Iterator[dict[str, Any]]:
    for b in batches(start):
        keep = [i for i, name in enumerate(b["ids"]) if name not in HOLES]
        yield {k: v[keep] if isinstance(v, Tensor) else [v[i] for i in keep] for k, v in b.items()}


def learn(o: DINO, stream: Any = batches, folder: Path | None = None, **more: Any) -> dict[str, list[float]]:
    """Every figure of every step."""
    cfg = {"batch": 8, "steps": 6, "warmup": 2, "lr": 1e-3, "precision": "fp32", "log_every": 1, "device": "cpu"}
    rows = train(TrainConfig(**cfg | more), o, stream, Job(folder=folder, quiet=True)).history
    names = [k for k in rows[-1] if k in ("loss", "views", "patches", "koleo", "entropy", "information")]
    return {name: [row[name] for row in rows] for name in names}


def close(a: dict[str, list[float]], b: dict[str, list[float]], tolerance: float = 1e-5) -> bool:
    if a.keys() != b.keys():
        return False
    return all(x == pytest.approx(b[name], rel=tolerance, abs=1e-6) for name, x in a.items())


@pytest.mark.parametrize("mode", ["mean", "two heads"])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_cut_batch_is_the_same_step(mode: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn(fresh(**MODES[mode]))
    assert close(whole, learn(fresh(**MODES[mode]), accumulate=parts))
    assert max(whole["information"]) > 0.01 and whole["views"][0] != whole["views"][-1]
    if mode == "two heads":  # the mutation: views in which nothing is hidden count as much
        monkeypatch.setattr(DINO, "counts", lambda self, b: {})
        assert not close(whole, learn(fresh(**MODES[mode]), accumulate=parts))


@pytest.mark.parametrize("mode", ["sinkhorn", "koleo"])
def test_what_compares_samples_is_not_cut(mode: str) -> None:
    with pytest.raises(BadInput, match="DINO compares the samples of a batch with each other"):
        learn(fresh(**MODES[mode]), accumulate=2)
    assert not fresh(**MODES["two heads"]).whole_batch
    with pytest.raises(BadInput, match="DINO ships its own teacher"):
        learn(fresh(), ema=0.99)


def test_the_prototypes_stand_still_at_first() -> None:
    o = fresh(frozen=0.5, **MODES["two heads"])
    seen: list[dict[str, Tensor]] = []

    def watched(start: int) -> Iterator[dict[str, Any]]:
        for b in batches(start):
            seen.append({n: p.detach().clone() for n, p in o.student.named_parameters()})
            yield b

    learn(o, watched)
    seen.append({n: p.detach().clone() for n, p in o.student.named_parameters()})
    for name in seen[0]:
        still = [torch.equal(a[name], b[name]) for a, b in itertools.pairwise(seen)]
        assert still == ([True] * 3 + [False] * 3 if name.endswith("prototypes") else [False] * 6), name


def test_going_on_is_as_if_nothing_had_been(tmp_path: Path) -> None:
    def stops(start: int) -> Iterator[dict[str, Any]]:
        for step, b in enumerate(batches(start), start):
            if step == 4:
                return
            yield b

    whole = fresh(**MODES["two heads"])
    learn(whole)
    with pytest.raises(BadInput, match="the batches end"):
        learn(fresh(**MODES["two heads"]), stops, tmp_path, save_every=1)
    again = fresh(**MODES["two heads"])
    learn(again, batches, tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert int(again.pulse.steps) == 6


KINDS: dict[str, tuple[str, str, Any]] = {  # pool, mode, batches
    "mean": ("cls", "mean", batches),
    "hidden": ("mean", "two heads", batches),
    "all, holes": ("attention", "all", holed),
}


def made(pool: str, mode: str) -> DINO:
    return fresh(pool, replace(VIT, class_token=pool == "cls", final_norm=pool != "attention"), **MODES[mode])


class Norms(DINO):
    """Evaluated as it ships."""

    def infer(self, batch: Any) -> Any:
        return super().infer({"image": batch["image"][:, 0]}).norm(dim=1)


def evaluated(shard: Any) -> float:
    """The mean length of features, by the function that evaluators get."""
    told: list[float] = []

    def evaluate(infer: Any) -> dict[str, float]:
        parts = parallel.gather_objects(infer(next(batches(0))).tolist())
        told.append(sum(map(sum, parts)) / sum(map(len, parts)))
        return {}

    o = made("attention", "hidden")
    o.__class__ = Norms
    cfg = TrainConfig(batch=8, steps=2, lr=1e-3, precision="fp32", device="cpu", shard=shard, evaluate_every=1)
    train(cfg, o, batches, Job(quiet=True, evaluate=evaluate))
    return told[-1]


def in_ranks() -> dict[str, Any]:
    with distributed.processes(torch.device("cpu"), 60.0):
        found: dict[str, Any] = {}
        for kind, (pool, mode, stream) in KINDS.items():
            for shard in ("ddp", "fsdp"):
                found[f"{kind}, {shard}"] = learn(made(pool, mode), stream, shard=shard)
        found["norms"] = evaluated("fsdp")
        deaf = SimpleNamespace(
            sum_over_ranks=lambda x: x.clone(),
            gather_with_gradient=lambda x: x,
            active=lambda: False,
            rank=lambda: 0,
            world=lambda: 1,
        )
        with mock.patch("tessella.objectives.dino.parallel", deaf):
            for kind in ("mean", "all, holes"):
                pool, mode, stream = KINDS[kind]
                found[f"{kind}, deaf"] = learn(made(pool, mode), stream)
    return found


def test_two_ranks_are_one(tmp_path: Path) -> None:
    found, other = run_ranks(2, in_ranks, out=tmp_path)
    for kind, (pool, mode, stream) in KINDS.items():
        alone = learn(made(pool, mode), stream)
        for shard in ("ddp", "fsdp"):
            assert close(found[f"{kind}, {shard}"], alone), (kind, shard)
            assert found[f"{kind}, {shard}"] == other[f"{kind}, {shard}"]
        if f"{kind}, deaf" in found:
            assert not close(found[f"{kind}, deaf"], alone), "ranks that hear nothing of each other must be seen"
    assert found["norms"] == pytest.approx(evaluated("ddp"), rel=1e-5)
