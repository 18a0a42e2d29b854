"""From a `Run` (plain settings) to objects: data, objective, evaluation. The only room that sees a whole run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import __version__, parallel
from .card import TARGET, Card, Head, Preprocess, Resize
from .config import encode, flatten
from .data.checks.statistics import measured
from .data.loading.kept import Kept, gathered, joined
from .data.loading.loader import Loader, LoaderConfig, Stream, default_workers, once
from .data.loading.pictures import Pictures
from .data.loading.quarantine import Quarantine, tell
from .data.origins.targets import ClassColumn
from .data.pixels.finish import Finish
from .data.source import DataConfig, Source, Splits
from .errors import BadInput, TessellaError
from .metrics.heads import figures, names
from .metrics.kept import keep
from .metrics.predictions import Predictions, fill
from .models.architecture import Backbone, ClassifierConfig
from .models.classifier import Classifier
from .models.size import macs
from .objectives.classify import Classify, ClassifyConfig, HeadConfig
from .objectives.objective import Batch, Objective
from .training import Job, TrainConfig, choose
from .training.batch import move
from .training.optim import MOMENTUM
from .training.seeds import reseed
from .training.trainer import Infer
from .weights.io import load_into, write_model

QUARANTINE = "quarantine.jsonl"  # in the run folder: pictures that cannot be read, each with the reason
PREDICTIONS = "predictions.npz"  # in the run folder: what the model that ships says of every held-out picture
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that most photo models use
FREE = (
    "name",
    "folder",
    "weights",
    "licence",
    "memory",
    "data.path",
    "data.validation",
    "data.workers",
    "data.cache",
    "data.max_bad",
    "train.device",
    "train.log_every",
    "train.keep",
    "train.save_every",
    "train.sinks",
)


ClassWeights = Literal["none", "balanced", "effective"]
RATES = {"adamw": 1.0, "muon": 1.0, "sgd": 50.0, "lion": 0.2}  # of update rules, in units of AdamW's
BEARS = {"muon": 0.3}  # of a rate that a recipe has for Muon AdamW bears this much: compact had 1.4e-3 with it
LOOKED_AT = 32  # pictures at a time, where each is seen once
MIXES = 20  # passes from which on mixed pictures gain: 2 points at 34, nothing at 12, 3 lost at 1 (docs/log.md)
MEASURED = "measured on some of the training pictures"
EFFECTIVE = 0.999  # beta of the effective number of samples (arXiv 1901.05555)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run = this tree = one JSON file."""

    name: str = ""  # of the run folder; empty: from the data's name, with a number
    folder: str = "runs"  # where run folders are made
    epochs: float = 30.0  # passes over the training pictures; train.steps follows from it unless given
    warmup_epochs: float | None = None  # passes of warm-up; train.warmup follows from it; None: the recipe's steps
    size: int = 0  # side of the picture that the model sees, pixels; 0: the architecture's own
    weights: str = ""  # what it starts from: a model or run folder, a weights file, a known name; empty: random numbers
    weights_sha256: str = ""  # of that file; a value that is given must be this one
    weights_like: str = ""  # the known name as which a bare file is read; empty: its architecture says enough
    licence: str | None = None  # of the trained weights; None: that of the weights it starts from, if they say so
    features: Literal["each", "once"] = "each"  # once: a frozen network sees each picture one time, and the head learns
    memory: str = ""  # that the run stays below, such as 8GB; auto: what is there; empty: nothing is measured
    class_weights: ClassWeights = "none"  # rare classes weigh more in the loss: objective.weights follow from it
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    objective: ClassifyConfig = field(default_factory=ClassifyConfig)
    data: DataConfig
    preprocess: Preprocess | None = None  # None: from the architecture
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and self.size >= 0):
            raise BadInput(f"epochs is {self.epochs:g}, size {self.size}; give epochs > 0 and size >= 0")
        if not 0 <= (self.warmup_epochs or 0.0) < self.epochs:
            what = f"warmup_epochs is {self.warmup_epochs:g}"
            raise BadInput(f"{what}; give 0 or more, and fewer than epochs, {self.epochs:g}")
        if self.features == "once":
            for key, off, value in (
                ("data.augment", None, self.data.augment),
                ("data.mix", None, self.data.mix),
                ("train.shard", "ddp", self.train.shard),
                ("objective.patch_dropout", 0.0, self.objective.patch_dropout),
                ("objective.start_size", 1.0, self.objective.start_size),
            ):
                if value != off:
                    what = f'features = "once" keeps what the network makes of each picture, so {key} must be {off}'
                    raise BadInput(f'{what}; set it, or features to "each"')


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
    outputs = sum(head.outputs for head in splits.heads)
    if given.get("model.classes") and run.model.classes != outputs:
        what = f"model.classes is {run.model.classes}, but the data has {outputs} classes"
        raise BadInput(f"{what}; leave it out, it follows from the data")
    model, preprocess = _sized(run, outputs)
    preprocess = _normalised(preprocess, splits.train, given, reasons)
    objective = _weighted(run, splits, choose_)
    batch = choose_("train.batch", _batch(t.batch, n), f"{n} training pictures", t.batch)
    passes = f"{run.epochs:g} passes over {n} pictures" + " (with repeats)" * (run.data.repeats > 1)
    steps = choose_("train.steps", max(1, math.ceil(run.epochs * n / batch)), passes, t.steps)
    t = _paced(run, recipe or t, choose_, batch, steps)
    every = math.ceil(max(n / batch, steps / 20))
    evaluate = choose_("train.evaluate_every", every, "once a pass, at most 20 times", t.evaluate_every)
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
    data = replace(run.data, workers=workers, mix=mix)
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


def _weighted(run: Run, splits: Splits, choose_: Callable[..., Any]) -> ClassifyConfig:
    """With a weight for each class: of the only head, or of each that says a class."""
    objective, kind = run.objective, run.class_weights
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


def _batch(wanted: int, pictures: int) -> int:
    """Small sets get small batches, so that a pass has at least eight updates; a multiple of the number of ranks."""
    world = parallel.world()
    fit = wanted
    while fit > 8 and fit * 8 > pictures:
        fit //= 2
    return max(world, fit // world * world)


@dataclass(frozen=True)
class Built:
    """A run, ready to be trained."""

    objective: Objective
    batches: Callable[[int], Iterator[Batch]]
    job: Job


def objects(
    run: Run, splits: Splits, folder: Path, allow: tuple[str, ...] = (), start: Mapping[str, Tensor] | None = None
) -> Built:
    """Weights drawn from `train.seed` where `start` has none, loaders, evaluation, and what writes the model folder."""
    if run.preprocess is None:
        raise BadInput("run.preprocess is not settled; call build.derive first")
    if run.train.best and run.train.best not in names(splits.heads):
        known = ", ".join(names(splits.heads))
        raise BadInput(f"train.best is {run.train.best!r}, but the evaluation gives {known}; name one of these")
    reseed(run.train.seed, -1)
    objective = _objective(run, splits.heads)
    if start:
        load_into(objective.model, {**objective.model.state_dict(), **start})
    bad = _quarantine(run, splits.train, folder, "train")
    loader = loader_of(run, splits, bad, parallel.rank(), parallel.world())

    def ship(tensors: dict[str, Tensor], metrics: dict[str, float], step: int) -> None:
        write_model(folder / "model", tensors, _card(run, splits.heads, metrics, step))

    job = Job(
        folder=folder,
        identity=identity(run, splits),
        allow=allow,
        finish=Finish(run.preprocess) if run.features == "each" else None,
        evaluate=_evaluation(run, splits, folder, objective) if splits.val is not None else None,
        ship=ship,
        feed=loader,
    )
    if run.features == "each":
        return Built(objective, loader.batches, job)
    _freeze_all_but_heads(objective.model)

    def batches(start_step: int) -> Iterator[Batch]:
        """Seen when training starts, not before: only then has the network its weights, or those of a saved state."""
        kept = _seen(run, splits.train, objective, bad)
        return Loader(kept, replace(loader.cfg, workers=0), bad).batches(start_step)

    return Built(objective, batches, job)


def _freeze_all_but_heads(network: nn.Module) -> None:
    assert isinstance(network, Classifier)
    network.requires_grad_(False)
    for head in (network.head, network.head_dist):
        head.requires_grad_(True)


def _seen(run: Run, source: Source, objective: Objective, bad: Quarantine) -> Kept:
    """What the network makes of each picture, as in evaluation: all ranks look at some, and know all."""
    assert run.preprocess is not None
    network, device = objective.model, torch.device(choose.device(run.train.device)[0])
    assert isinstance(network, Classifier)
    finish, training = Finish(run.preprocess).to(device), network.training
    precision = choose.precision(run.train.precision, device.type)[0]
    pictures, rank, world = Pictures(source, run.preprocess), parallel.rank(), parallel.world()

    def see(batch: Batch) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network.features(finish(move(batch, device))["image"]).float().cpu()

    if parallel.is_main():
        tell(f"looking at {len(source):,} pictures, each once")
    network.eval()
    mine = gathered(once(pictures, LOOKED_AT, run.data.workers, rank, world, bad), see)
    network.train(training)
    return Kept(source, joined(parallel.gather_objects(mine)))


def loader_of(run: Run, splits: Splits, quarantine: Quarantine, rank: int = 0, ranks: int = 1) -> Loader:
    """The training pictures, augmented, mixed and in order: what they are follows from the run alone."""
    assert run.preprocess is not None
    pictures = Pictures(splits.train, run.preprocess, run.data.augment, run.train.seed, run.data.mix)
    cut = LoaderConfig(
        batch=run.train.batch,
        seed=run.train.seed,
        balance=run.data.balance,
        repeats=run.data.repeats,
        workers=run.data.workers,
        pin=torch.device(choose.device(run.train.device)[0]).type == "cuda",
        rank=rank,
        ranks=ranks,
    )
    return Loader(pictures, cut, quarantine)


def _quarantine(run: Run, source: Source, folder: Path, part: str) -> Quarantine:
    """All parts and ranks share one list in the run folder."""
    return Quarantine(folder / QUARANTINE, len(source), run.data.max_bad, part)


def _evaluation(run: Run, splits: Splits, folder: Path, objective: Objective) -> Callable[[Infer], dict[str, float]]:
    assert run.preprocess is not None and splits.val is not None
    held_out, rank, world = Pictures(splits.val, run.preprocess), parallel.rank(), parallel.world()
    bad, batch = _quarantine(run, splits.val, folder, "val"), max(1, run.train.batch // world)
    source, heads = splits.val, splits.heads
    kept: list[Kept] = []

    def batches() -> Stream:
        if run.features == "each":
            return once(held_out, batch, run.data.workers, rank, world, bad)
        if not kept:
            kept.append(_seen(run, source, objective, bad))
        return once(kept[0], batch, 0, rank, world, bad)

    def evaluate(infer: Infer) -> dict[str, float]:
        found = fill(infer, batches(), heads)
        told = figures(found, heads)
        if parallel.is_main():  # with `train.best` the last look of a run is at what ships
            _keep(folder, found)
        return told

    return evaluate


def _keep(folder: Path, found: dict[str, Predictions]) -> None:
    """For the report. A disk that has no room for it costs no training."""
    try:
        keep(folder / PREDICTIONS, found)
    except TessellaError as error:
        tell(f"the predictions are not kept ({error}); the run goes on, its report will lack them")


def _objective(run: Run, heads: tuple[Head, ...]) -> Objective:
    match run.objective:
        case ClassifyConfig():
            return Classify(run.objective, Classifier(run.model), heads)


def identity(run: Run, splits: Splits) -> dict[str, Any]:
    """What must be the same when a run goes on: every setting that changes results, the data, the classes."""
    data = {
        "data.train": splits.train.fingerprint(),
        "data.val": splits.val.fingerprint() if splits.val is not None else None,
    }
    return settings(run) | data | outputs_of(splits)


def outputs_of(splits: Splits) -> dict[str, Any]:
    """What the outputs of the network mean."""
    if not splits.targets:
        return {"classes": list(splits.classes)}
    return {f"target {head.name}": [head.task, *head.classes] for head in splits.targets}


def settings(run: Run) -> dict[str, Any]:
    """What must not change between stop and resume, without the data."""
    return {k: v for k, v in flatten(encode(run)).items() if k not in FREE}


def _card(run: Run, heads: tuple[Head, ...], metrics: dict[str, float], step: int) -> Card:
    assert run.preprocess is not None
    origin = {"weights": Path(run.weights).name, "weights_sha256": run.weights_sha256} if run.weights else {}
    return Card(
        architecture=encode(run.model),
        heads=heads,
        preprocess={"image": run.preprocess},
        licence=run.licence,
        metrics=metrics,
        provenance={
            "tessella": __version__,
            "torch": torch.__version__,
            "run": run.name,
            "step": step,
            "seed": run.train.seed,
            **origin,
        },
    )
