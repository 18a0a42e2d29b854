"""What a configuration may not ask of an objective, or of the number of processes: said before the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import parallel
from ..errors import BadInput
from ..objectives.objective import Objective


def refuse_values(train: Mapping[str, Any]) -> None:
    """Numbers of a TrainConfig that mean nothing. Written so that NaN is refused as well."""
    for key in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
        _require(train[key] >= 1, key, train, "1 or more")
    for key in ("warmup", "evaluate_every"):
        _require(train[key] >= 0, key, train, "0 or more")
    for key in ("lr", "min_lr", "weight_decay"):
        _require(0 <= train[key] < math.inf, key, train, "a finite number, 0 or more")
    _require(0 < train["layer_decay"] <= 1, "layer_decay", train, "a number above 0, up to 1")
    _require(all(0 <= beta < 1 for beta in train["betas"]), "betas", train, "two numbers from 0 to below 1")
    _require(train["clip"] is None or train["clip"] > 0, "clip", train, "a norm above 0, or none")
    _require(train["ema"] is None or 0 <= train["ema"] < 1, "ema", train, "a decay from 0 to below 1, or none")


def _require(good: bool, key: str, train: Mapping[str, Any], expected: str) -> None:
    if not good:
        raise BadInput(f"train.{key} is {train[key]}; give {expected}")


def refuse(objective: Objective, batch: int, accumulate: int, ema: float | None) -> None:
    name, world = type(objective).__name__, parallel.world()
    if objective.whole_batch and accumulate > 1:
        raise BadInput(
            f"train.accumulate is {accumulate}, but {name} compares the samples of a batch with each other, "
            "and a cut batch is another loss; use accumulate = 1 and chunks inside the objective"
        )
    if objective.whole_batch and batch % world:  # collectives of uneven size abort or hang
        raise BadInput(
            f"train.batch is {batch} for {world} processes, but {name} compares the samples of all of them; "
            f"use a multiple of {world}"
        )
    if objective.own_average and ema is not None:
        raise BadInput(f"train.ema is {ema}, but {name} ships its own teacher, an average; leave ema out")
    if accumulate > batch // world:  # a rank with fewer micro-batches than another would be waited for
        raise BadInput(
            f"train.accumulate is {accumulate}, but a process has {batch // world} samples a step only; "
            f"use at most {max(1, batch // world)}"
        )
