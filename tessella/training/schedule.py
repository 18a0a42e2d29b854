"""The learning rate as a pure function of the step: a linear warm-up, then one of three ways down to a floor."""

from __future__ import annotations

import math

from .settings import TrainConfig


def learning_rate(step: int, cfg: TrainConfig) -> float:
    """Step 0 already moves (lr / warmup); the last step ends near the floor, where the schedule goes there."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    match cfg.schedule:
        case "cosine":
            left = 0.5 * (1 + math.cos(math.pi * _part(step, cfg.warmup, cfg.steps)))
        case "wsd":  # nothing before the fall depends on `steps`: a longer run goes on from any state before it
            fallen = _part(step, max(cfg.warmup, round(cfg.steps * (1 - cfg.cooldown))), cfg.steps)
            left = 1 - (math.sqrt(fallen) if cfg.cooldown_shape == "sqrt" else fallen)
        case "constant":
            left = 1.0
    return cfg.min_lr + (cfg.lr - cfg.min_lr) * left


def _part(step: int, start: int, end: int) -> float:
    """How much of the way from start to end is done, 0 to 1."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))
