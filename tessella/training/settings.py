"""What a training is told: every `train.*` setting with its unit and reason, and the values that mean nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import BadInput
from .best import HIGHER, LOWER, figure
from .sinks import SinkName


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    steps: int = 1000  # updates
    batch: int = 64  # samples of one update, over all ranks and micro-batches
    accumulate: int = 1  # micro-batches that each rank cuts its share into

    # how fast, and when
    lr: float = 1e-3  # peak
    min_lr: float = 1e-6  # at the end
    warmup: int = 50  # steps
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # wsd: constant, then a fall
    cooldown: float = 0.2  # wsd: share of the run that falls
    cooldown_shape: Literal["sqrt", "linear"] = "sqrt"  # wsd: as 1 - sqrt(t) (arXiv 2405.18392), or straight

    # what an update is
    optimizer: Literal["adamw", "sgd", "lion", "muon"] = "adamw"  # muon: matrices of blocks; AdamW the rest
    momentum: float | None = None  # of sgd (0.9 unless given) and muon (0.95)
    matrix_scale: float = 1.0  # muon: learning rate of the matrices, in units of lr
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    layer_decay: float = 1.0  # < 1: blocks near the input learn more slowly
    clip: float | None = 1.0  # largest gradient norm
    freeze: int | Literal["backbone"] = 0  # depths that stay as they are: 1 the embedding, 2 also the first block, ...
    thaw: float = 0.0  # share of the run by which the frozen depths learn again, from the top; 0: never

    # what ships
    ema: float | None = None  # decay of the average that is evaluated and shipped
    best: str = ""  # figure of the evaluation, such as top1, by which the best weights ship; empty: the last
    patience: int = 0  # evaluations without a better one after which the run ends early; 0: never

    # on what
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    shard: Literal["ddp", "fsdp"] = "ddp"  # how several processes share the work
    device: str = "auto"
    seed: int = 0

    # when it tells, and what it keeps
    log_every: int = 10  # steps
    evaluate_every: int = 0  # steps; 0: at the end only
    save_every: int = 500  # steps; the last step is always saved
    keep: int = 2  # states kept
    sinks: tuple[SinkName, ...] = ()  # where rows go beside log.jsonl

    def __post_init__(self) -> None:
        refuse_values(vars(self))


def refuse_values(train: Mapping[str, Any]) -> None:
    """Numbers of a TrainConfig that mean nothing. Written so that NaN is refused as well."""
    for key in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
        _require(train[key] >= 1, key, train, "1 or more")
    for key in ("warmup", "evaluate_every", "patience"):
        _require(train[key] >= 0, key, train, "0 or more")
    for key in ("lr", "min_lr", "weight_decay", "matrix_scale"):
        _require(0 <= train[key] < math.inf, key, train, "a finite number, 0 or more")
    _require(train["min_lr"] <= train["lr"], "min_lr", train, f"at most train.lr, {train['lr']:g}")
    _require(0 < train["layer_decay"] <= 1, "layer_decay", train, "a number above 0, up to 1")
    _require(all(0 <= beta < 1 for beta in train["betas"]), "betas", train, "two numbers from 0 to below 1")
    _require(train["momentum"] is None or 0 <= train["momentum"] < 1, "momentum", train, "a number from 0 to below 1")
    _require(0 < train["cooldown"] <= 1, "cooldown", train, "a share above 0, up to 1")
    _require(train["freeze"] == "backbone" or train["freeze"] >= 0, "freeze", train, "a number of depths, or backbone")
    _require(0 <= train["thaw"] < 1, "thaw", train, "a share of the run below 1, or 0 for never")
    _require(not train["thaw"] or train["freeze"], "thaw", train, "also what to --train.freeze first")
    known = f"one of {', '.join(sorted(HIGHER | LOWER))}; of one head among several as HEAD/FIGURE"
    _require(train["best"] == "" or figure(train["best"]) in HIGHER | LOWER, "best", train, known)
    _require(not train["patience"] or train["best"], "patience", train, "also the figure, as --train.best top1")
    _require(train["clip"] is None or train["clip"] > 0, "clip", train, "a norm above 0, or none")
    _require(train["ema"] is None or 0 <= train["ema"] < 1, "ema", train, "a decay from 0 to below 1, or none")


def _require(good: bool, key: str, train: Mapping[str, Any], expected: str) -> None:
    if not good:
        raise BadInput(f"train.{key} is {train[key]}; give {expected}")
