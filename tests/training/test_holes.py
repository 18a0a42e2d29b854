"""Batches with holes: what is learned is the mean over the pictures that could be read, however few and wherever."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn
from toys import Toy, toy_batches

from tessella.training import Job, TrainConfig, train, weigh
from tessella.training.batch import split

HOLES = {f"2-{i}" for i in range(6, 12)} | {"3-0", "3-7", "3-8"} | {f"5-{i}" for i in range(12)} | {"6-1"}
#       all of the second rank's share           a few             all of the step            one


class Scaled(Toy):
    """Means over nothing are NaN, and a parameter stands beside the samples, where a NaN would reach it."""

    def __init__(self) -> None:
        super().__init__(ragged=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch: Any, progress: float) -> Any:
        losses, metrics = super().forward(batch, progress)
        return {"label": losses["label"] * self.scale.exp()[0]}, metrics


def holed(start: int) -> Iterator[Any]:
    for batch in toy_batches()(start):
        keep = [i for i, name in enumerate(batch["ids"]) if name not in HOLES]
        yield {k: v[keep] if isinstance(v, Tensor) else [v[i] for i in keep] for k, v in batch.items()}


def run(shard: str = "ddp", accumulate: int = 2) -> list[float]:
    torch.manual_seed(0)
    cfg = TrainConfig(
        steps=8, batch=12, warmup=2, lr=1e-2, precision="fp32", log_every=1, device="cpu", shard=shard,  # type: ignore[arg-type]
        accumulate=accumulate,
    )  # fmt: skip
    objective = Scaled()
    done = train(cfg, objective, holed, Job(quiet=True))
    return [row["loss"] for row in done.history]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-5) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_holes_are_shared_out_alike(shard: str, tmp_path: Path) -> None:
    alone = run(accumulate=1)
    assert all(map(math.isfinite, alone)) and close(alone, run(accumulate=3))
    for losses in run_ranks(2, run, shard, out=tmp_path):
        assert close(losses, alone)


def test_a_mean_over_nothing_that_counted_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: weights of zero alone do not keep a NaN out, in the loss or in the gradient."""
    nothing = {"image": torch.zeros(0, 3, 2, 2), "label": torch.zeros(0, dtype=torch.int64), "ids": []}

    def gradients(objective: Scaled) -> list[Tensor]:
        with weigh.without_gradient(objective, True):
            losses, _ = objective(nothing, 0.0)
            torch.stack(list(weigh.weighted(losses, {"": 0.0}).values())).sum().backward()
        return [p.grad for p in objective.parameters() if p.grad is not None]

    assert len(list(Scaled().parameters())) == len(gradients(Scaled())) > 3
    assert all(bool((g == 0).all()) for g in gradients(Scaled()))
    monkeypatch.setattr(weigh, "without_gradient", lambda module, now: nullcontext())
    assert not all(bool(torch.isfinite(g).all()) for g in gradients(Scaled()))
    assert bool(torch.isnan(torch.tensor(math.nan) * 0.0)) and float(weigh.weighted(
        {"a": torch.tensor(math.nan)}, {"": 0.0})["a"]) == 0.0  # fmt: skip


def test_a_step_without_pictures_updates_nothing_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    objective = Scaled()
    seen: list[dict[str, Tensor]] = []

    def batches(start: int) -> Iterator[Any]:
        for batch in holed(start):
            seen.append({k: v.clone() for k, v in objective.state_dict().items()})
            yield batch

    cfg = TrainConfig(steps=8, batch=12, precision="fp32", log_every=1, device="cpu")
    done = train(cfg, objective, batches, Job())
    assert [row["step"] for row in done.history] == list(range(8))
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in itertools.pairwise(seen)]
    assert same == [False] * 5 + [True, False]
    assert "step 5: none of its pictures could be read; nothing was updated" in capsys.readouterr().err


def test_a_first_step_without_pictures_is_survived() -> None:
    empty = {"image": torch.zeros(0, 3, 2, 2), "label": torch.zeros(0, dtype=torch.int64), "ids": []}
    cfg = TrainConfig(steps=2, batch=12, precision="fp32", log_every=1, device="cpu")
    done = train(cfg, Scaled(), lambda start: iter([empty, empty]), Job(quiet=True))
    assert [row["step"] for row in done.history] == [0, 1] and "loss" not in done.history[0]


def test_split_gives_every_rank_as_many_parts() -> None:
    batch = {"ids": ["a", "b"], "image": torch.arange(2)}
    assert [part["ids"] for part in split(batch, 4)] == [["a"], ["b"]]
    assert [len(part["ids"]) for part in split(batch, 4, exactly=True)] == [0, 1, 0, 1]
    assert [part["ids"] for part in split({"ids": [], "image": torch.arange(0)}, 4)] == [[]]


def test_who_brings_the_batches_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    class Fed:
        asked: list[float] = []

        def figures(self) -> dict[str, float]:
            return {"quarantined": 3}

        def remarks(self, waiting: float) -> list[str]:
            self.asked.append(waiting)
            return [f"remark {len(self.asked)}"]

    feed = Fed()
    cfg = TrainConfig(steps=4, batch=12, precision="fp32", log_every=2, device="cpu")
    done = train(cfg, Toy(), toy_batches(), Job(feed=feed))
    assert [row["quarantined"] for row in done.history] == [3, 3, 3]
    assert feed.asked[0] == 0.0 and all(0 < share < 1 for share in feed.asked[1:])  # the first is the start of workers
    assert "remark 3" in capsys.readouterr().err
