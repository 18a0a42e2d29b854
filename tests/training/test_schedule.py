"""The learning rate of each step, against torch's schedulers."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from tessella.errors import BadInput
from tessella.training import TrainConfig
from tessella.training.schedule import learning_rate

PEAK, FLOOR, STEPS, WARMUP = 0.5, 0.01, 100, 10


def ours(schedule: Any, **more: Any) -> list[float]:
    cfg = TrainConfig(steps=STEPS, lr=PEAK, min_lr=FLOOR, warmup=WARMUP, schedule=schedule, **more)
    return [learning_rate(step, cfg) for step in range(STEPS)]


def theirs(schedule: str) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    warmup = torchs.LinearLR(optimizer, 1 / WARMUP, 1.0, WARMUP - 1)
    steady = torchs.ConstantLR(optimizer, 1.0, 1)
    match schedule:
        case "cosine":
            parts, ends = [warmup, torchs.CosineAnnealingLR(optimizer, STEPS - WARMUP, FLOOR)], [WARMUP]
        case "wsd":
            fall = torchs.LinearLR(optimizer, 1.0, FLOOR / PEAK, 30)
            parts, ends = [warmup, steady, fall], [WARMUP, STEPS - 30]
        case _:
            parts, ends = [warmup, steady], [WARMUP]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own scheduler calls itself in a way that it warns of
        chain = torchs.SequentialLR(optimizer, parts, ends)
        rates = []
        for _ in range(STEPS):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            chain.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "more"),
    [("cosine", {}), ("wsd", {"cooldown": 0.3, "cooldown_shape": "linear"}), ("constant", {})],
)
def test_as_torchs(schedule: str, more: dict[str, Any]) -> None:
    assert ours(schedule, **more) == pytest.approx(theirs(schedule), rel=1e-6)
    others = [ours("cosine"), ours("wsd", cooldown=0.4, cooldown_shape="linear"), ours("wsd", cooldown=0.3)]
    assert sum(rates == pytest.approx(theirs(schedule), rel=1e-3) for rates in others) == (schedule == "cosine")


def test_the_root_falls_fast_at_first() -> None:
    """1 - sqrt(t): after a quarter of the fall half of the rate is left."""
    rates = ours("wsd", cooldown=0.4)
    assert rates[WARMUP:61] == [PEAK] * 51
    assert rates[70] == pytest.approx(FLOOR + (PEAK - FLOOR) * 0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[60:])) and rates[-1] > FLOOR


def test_before_the_fall_the_length_of_the_run_does_not_matter() -> None:
    """So a run may be made longer from any state before it."""
    short, long = ours("wsd")[:80], TrainConfig(steps=3 * STEPS, lr=PEAK, min_lr=FLOOR, warmup=WARMUP, schedule="wsd")
    assert short == [learning_rate(step, long) for step in range(80)]
    assert ours("cosine")[50] != learning_rate(50, TrainConfig(steps=3 * STEPS, lr=PEAK, min_lr=FLOOR, warmup=WARMUP))


def test_edges() -> None:
    for schedule in ("cosine", "wsd", "constant"):
        for steps, warmup, cooldown in ((1, 0, 1.0), (1, 1, 0.2), (2, 2, 1.0), (5, 0, 0.01)):
            cfg = TrainConfig(steps=steps, warmup=warmup, schedule=schedule, cooldown=cooldown)  # type: ignore[arg-type]
            rates = [learning_rate(step, cfg) for step in range(steps)]
            assert all(math.isfinite(r) and cfg.min_lr <= r <= cfg.lr for r in rates)
            assert rates[0] == cfg.lr or warmup > 1


def test_a_floor_above_the_peak_is_refused() -> None:
    """The rate would rise to it, whatever somebody asked for."""
    with pytest.raises(BadInput, match=r"train\.min_lr is 1e-06; give at most train\.lr, 1e-07"):
        TrainConfig(lr=1e-7)
    assert learning_rate(99, TrainConfig(lr=1e-7, min_lr=1e-7, steps=100)) == 1e-7
