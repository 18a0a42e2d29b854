"""What follows from data and machine: every value that nobody gave, each with its reason."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import parallel
from ..card import TARGET, Head, Preprocess, Resize
from ..data.checks.statistics import measured
from ..data.loading.loader import default_workers
from ..data.origins.targets import ClassColumn
from ..data.pixels.views import CropsConfig, TurnsConfig
from ..data.source import Source, Splits
from ..errors import BadInput
from ..models.architecture import Backbone, ClassifierConfig, ViTConfig
from ..models.size import macs
from ..objectives.classify import ClassifyConfig, HeadConfig
from ..objectives.distill import DistillConfig
from ..objectives.mae import MaskedConfig
from ..objectives.rotate import TURNS
from ..training import TrainConfig, choose
from ..training.optim import MOMENTUM
from ..weights.opened import open_weights
from .run import ClassWeights, Method, Run

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that most photo models use
RATES = {"adamw": 1.0, "muon": 1.0, "sgd": 50.0, "lion": 0.2}  # of update rules, in units of AdamW's
BEARS = {"muon": 0.3}  # of a rate that a recipe has for Muon AdamW bears this much: compact had 1.4e-3 with it
MIXES = 20  # passes from which on mixed pictures gain: 2 points at 34, nothing at 12, 3 lost at 1 (docs/log.md)
MEASURED = "measured on some of the training pictures"
EFFECTIVE = 0.999  # beta of the effective number of samples (arXiv 1901.05555)


@dataclass(frozen=True)
class Choices:
    """A run with every value settled, and why the program chose what it chose: dotted key -> (value, reason)."""

    run: Run
    reasons: dict[str, tuple[Any, str]]


def derive(run: Run, given: dict[str, str], splits: Splits, recipe: TrainConfig | None = None) -> Choices:
    """Fills in what follows from data and machine. A value that somebody gave is never touched. `recipe`: what its rate
    is made for, where somebody gave another batch or rule of update."""
    reasons: dict[str, tuple[Any, str]] = {}

    def choose_(key: str, value: Any, why: str, now: Any) -> Any:
        if key in given:
            return now
        reasons[key] = (value, why)
        return value

    t, n = run.train, len(splits.train) * run.data.repeats
    outputs = sum(head.outputs for head in heads_of(run, splits))
    if given.get("model.classes") and run.model.classes != outputs:
        what = f"model.classes is {run.model.classes}, but {'the data' if run.labelled else 'the method'} has {outputs}"
        raise BadInput(f"{what}; leave it out, it follows from the data")
    model, preprocess = _sized(run, outputs)
    preprocess = _normalised(preprocess, splits.train, given, reasons)
    objective = _fitted(run, splits, model, choose_)
    batch = choose_("train.batch", fitting_batch(t.batch, n), f"{n} training pictures", t.batch)
    passes = f"{run.epochs:g} passes over {n} pictures" + " (with repeats)" * (run.data.repeats > 1)
    steps = choose_("train.steps", max(1, math.ceil(run.epochs * n / batch)), passes, t.steps)
    t = _paced(run, recipe or t, choose_, batch, steps)
    looks = 20 if run.labelled else 10  # features are read of training pictures, too
    every = math.ceil(max(n / batch, steps / looks))
    evaluate = choose_("train.evaluate_every", every, f"once a pass, at most {looks} times", t.evaluate_every)
    device = torch.device(choose.device(t.device)[0]).type
    precision, compiling = t.precision, t.compile
    if precision == "auto":
        precision = choose_("train.precision", *choose.precision(precision, device), precision)
    seen = 3.0 * steps * batch if run.features == "each" else float(n)  # forward once, backward twice
    work = macs(model) * seen
    if compiling == "auto":
        compiling = choose_("train.compile", *choose.compiling(compiling, device, work), compiling)
    workers = choose_("data.workers", default_workers(parallel.world()), f"{os.cpu_count()} cores", run.data.workers)
    train = replace(
        t,
        batch=batch,
        steps=steps,
        evaluate_every=evaluate,
        precision=precision,
        compile=compiling,
    )
    if train.batch % parallel.world():
        raise BadInput(f"train.batch {train.batch} cannot be shared by {parallel.world()} processes; give a multiple")
    if run.data.balance != "none" and splits.train.chunks is not None:
        reasons["data.balance"] = (run.data.balance, "draws from all shards at once, so reads are far apart: slower")
    mix, passed = run.data.mix, steps * batch / n
    if mix is not None and passed < MIXES and not any(key.startswith("data.mix") for key in given):
        mix = choose_("data.mix", None, f"{passed:.2g} passes: pictures are mixed from {MIXES} on", mix)
    data = replace(run.data, workers=workers, mix=mix, views=_viewed(run, preprocess, model.backbone, choose_))
    settled = replace(run, model=model, objective=objective, preprocess=preprocess, train=train, data=data)
    return Choices(settled, reasons)


def _factor(own: str, chosen: str) -> float:
    """By how much the rate changes with the rule of update: none, where that is the recipe's own."""
    return 1.0 if own == chosen else RATES[chosen] / RATES[own] * BEARS.get(own, 1.0)


def _paced(run: Run, recipe: TrainConfig, choose_: Callable[..., Any], batch: int, steps: int) -> TrainConfig:
    """Learning rate, decay, momentum and warm-up, which follow from batch, steps and rule of update."""
    t, factor = run.train, _factor(recipe.optimizer, run.train.optimizer)
    other = f", times {factor:g} for {t.optimizer}" if factor != 1 else ""
    why = f"the recipe's {recipe.lr:g} at batch {recipe.batch}, by square root{other}"
    lr = choose_("train.lr", recipe.lr * factor * math.sqrt(batch / recipe.batch), why, t.lr)
    decay, momentum, warmup = t.weight_decay, t.momentum, t.warmup
    if other:
        why = f"the recipe's {decay:g}, over {factor:g}, to go with rates of {t.optimizer}"
        decay = choose_("train.weight_decay", decay / factor, why, decay)
    if momentum is None and t.optimizer in MOMENTUM:
        momentum = choose_("train.momentum", MOMENTUM[t.optimizer], f"usual for {t.optimizer}", momentum)
    if run.warmup_epochs is None:
        warmup = choose_("train.warmup", min(warmup, max(1, steps // 10)), "at most a tenth of the run", warmup)
    else:
        why = f"{run.warmup_epochs:g} of {run.epochs:g} passes"
        warmup = choose_("train.warmup", round(run.warmup_epochs / run.epochs * steps), why, warmup)
    if warmup >= steps > 1:
        what = f"train.warmup is {warmup}, and the run has {steps} steps only"
        raise BadInput(f"{what}; give fewer, or more --train.steps")
    return replace(t, lr=lr, weight_decay=decay, momentum=momentum, warmup=warmup)


def _normalised(
    preprocess: Preprocess, train: Source, given: dict[str, str], reasons: dict[str, tuple[Any, str]]
) -> Preprocess:
    """With mean and deviation of the pictures themselves, where those of photos cannot be meant."""
    unusual = preprocess.channels not in (1, 3) or preprocess.depth != "uint8"
    if not unusual or {"preprocess.mean", "preprocess.std"} & given.keys():
        return preprocess
    found = measured(train, preprocess)
    reasons |= {"preprocess.mean": (list(found.mean), MEASURED), "preprocess.std": (list(found.std), MEASURED)}
    return found


def heads_of(run: Run, splits: Splits) -> tuple[Head, ...]:
    """What the network that ships says of a picture: what the data says, or what the method asks; often nothing."""
    if run.labelled:
        return splits.heads
    if isinstance(run.data.views, TurnsConfig):
        return (Head(name="turn", task="classify", classes=tuple(TURNS[q] for q in run.data.views.quarters)),)
    return ()


def _fitted(run: Run, splits: Splits, model: ClassifierConfig, choose_: Callable[..., Any]) -> Method:
    """With what follows from the data, or from the size of the network."""
    match run.objective:
        case ClassifyConfig():
            return _weighted(run, run.objective, splits, choose_)
        case DistillConfig():
            return _taught(run.objective)
        case MaskedConfig():
            return _decoder(run.objective, model.backbone, choose_)
        case _:
            return run.objective


def _taught(cfg: DistillConfig) -> DistillConfig:
    """With the teacher's digest: a run that goes on has the same one."""
    if not cfg.teacher:
        raise BadInput("--method distill learns from a teacher, and none was named; add --teacher MODEL")
    found = open_weights(cfg.teacher, cfg.teacher_like or None).sha256
    if cfg.teacher_sha256 not in ("", found):
        what = f"{cfg.teacher} has the sha256 {found}, not {cfg.teacher_sha256}"
        raise BadInput(f"{what}; get it again, or leave objective.teacher_sha256 out")
    return replace(cfg, teacher_sha256=found)


def _decoder(cfg: MaskedConfig, encoder: Backbone, choose_: Callable[..., Any]) -> MaskedConfig:
    """Of MAE: width and depth are two thirds of the encoder's, as its authors have it for ViT-B."""
    if not isinstance(encoder, ViTConfig):
        kind = type(encoder).__name__.removesuffix("Config")
        raise BadInput(f"a masked autoencoder leaves patches out, and a {kind} needs all of them; take a ViT")
    why = "two thirds of the encoder's, as in MAE with ViT-B"
    width = cfg.decoder_width or min(512, max(32, round(encoder.width * 2 / 3 / 32) * 32))
    depth = cfg.decoder_depth or min(8, max(1, encoder.depth * 2 // 3))
    heads = cfg.decoder_heads or max(1, width // 32)

    def settled(name: str, value: int, because: str) -> int:
        given: int = getattr(cfg, name)
        return given or int(choose_(f"objective.{name}", value, because, value))

    return replace(
        cfg,
        decoder_width=settled("decoder_width", width, why),
        decoder_depth=settled("decoder_depth", depth, why),
        decoder_heads=settled("decoder_heads", heads, "32 features each"),
    )


def _viewed(run: Run, preprocess: Preprocess, backbone: Backbone, choose_: Callable[..., Any]) -> Any:
    """Small crops in the proportion of DINO's, in whole patches."""
    views, (height, width) = run.data.views, preprocess.size
    if isinstance(views, TurnsConfig) and height != width:
        raise BadInput(f"a picture of {height} x {width} px cannot be turned by a quarter; give a square --size")
    if not isinstance(views, CropsConfig):
        return views
    side, least, step = min(height, width), backbone.least, backbone.step
    small = max(least, min(side, least + max(0, round(side * 96 / 224) - least) // step * step))
    why = "three sevenths of the large views, in whole patches"
    return replace(views, small_size=choose_("data.views.small_size", small, why, views.small_size))


def _weighted(run: Run, objective: ClassifyConfig, splits: Splits, choose_: Callable[..., Any]) -> ClassifyConfig:
    """With a weight for each class: of the only head, or of each that says a class."""
    kind = run.class_weights
    if kind == "none":
        return objective
    named = {name.removeprefix(TARGET): c for name, c in splits.train.targets.items() if isinstance(c, ClassColumn)}
    if splits.train.labels is None and not named:
        raise BadInput(f"class_weights is {kind!r}, and no target is a class; leave it out")
    if splits.train.labels is not None:
        weights = class_weights(splits.train.labels, len(splits.classes), kind)
        return replace(objective, weights=choose_("objective.weights", weights, f"{kind}, by class", objective.weights))
    heads = dict(objective.heads)
    for name, column in named.items():
        own = heads.get(name, HeadConfig())
        weights = class_weights(column.numbers[column.numbers >= 0], len(column.names), kind)
        key = f"objective.heads.{name}.weights"
        heads[name] = replace(own, weights=choose_(key, weights, f"{kind}, by class", own.weights))
    return replace(objective, heads=heads)


def class_weights(labels: NDArray[np.int64], classes: int, kind: ClassWeights) -> tuple[float, ...]:
    """One for each class, their mean over the samples is 1; a class without pictures weighs 1."""
    counts: NDArray[np.float64] = np.bincount(labels, minlength=classes).astype(np.float64)
    there = counts > 0
    held = np.where(there, counts, 1.0)
    rare = 1 / held if kind == "balanced" else (1 - EFFECTIVE) / (1 - EFFECTIVE**held)
    mean = float((rare * counts).sum() / counts.sum())
    return tuple(round(float(w), 6) for w in np.where(there, rare / mean, 1.0))


def _sized(run: Run, classes: int) -> tuple[ClassifierConfig, Preprocess]:
    preprocess = run.preprocess or default_preprocess(run)
    return replace(run.model, backbone=backbone_of(run), classes=classes), preprocess


def backbone_of(run: Run) -> Backbone:
    """At the size that was asked for."""
    return replace(run.model.backbone, image_size=run.size) if run.size else run.model.backbone


def default_preprocess(run: Run, resize: Resize = "shortest") -> Preprocess:
    """What the architecture takes: its size, its channels; small pictures whole, large ones without their rim. Large
    JPEGs are decoded at a fraction of their size: a network that learned from such pixels meets them again."""
    backbone = backbone_of(run)
    grey = tuple((sum(v) / 3,) * backbone.channels for v in IMAGENET)
    mean, std = IMAGENET if backbone.channels == 3 else grey
    crop = 1.0 if max(backbone.size) <= 112 or resize not in ("shortest", "squash") else 0.875
    return Preprocess(
        size=backbone.size,
        resize=resize,
        crop=crop,
        mean=mean,
        std=std,
        channels=backbone.channels,
        decode="scaled",
    )


def fitting_batch(wanted: int, pictures: int) -> int:
    """Small sets get small batches, so that a pass has at least eight updates; a multiple of the number of ranks."""
    world = parallel.world()
    fit = wanted
    while fit > 8 and fit * 8 > pictures:
        fit //= 2
    return max(world, fit // world * world)
