"""From a settled run to what trains it: data, objective, evaluation, and what writes the model folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__, parallel
from ..card import Card, Head
from ..config import encode, flatten
from ..data.loading.kept import Kept, gathered, joined
from ..data.loading.loader import Loader, LoaderConfig, Stream, once
from ..data.loading.pictures import Pictures
from ..data.loading.quarantine import Quarantine, tell
from ..data.origins.joined import joined as joined_sets
from ..data.origins.open import open_data, open_partly, open_unlabelled, stem
from ..data.pixels.finish import Finish
from ..data.source import DataConfig, Source, Splits
from ..errors import BadInput, TessellaError
from ..metrics.accuracy import top
from ..metrics.heads import figures, names
from ..metrics.kept import keep
from ..metrics.predictions import Array, Predictions, fill
from ..models.architecture import ClassifierConfig, MAEConfig, PainterConfig, ViTConfig
from ..models.build import make
from ..models.classifier import Classifier
from ..models.mae import MaskedAutoencoder
from ..models.painter import Painter
from ..objectives.classify import Classify, ClassifyConfig
from ..objectives.colorize import Colorize, ColorizeConfig
from ..objectives.dino import DINO, DINOConfig
from ..objectives.distill import Distill, DistillConfig, Teacher, matched
from ..objectives.fixmatch import FixMatch, FixMatchConfig
from ..objectives.inpaint import Inpaint, InpaintConfig
from ..objectives.mae import MAE, MaskedConfig
from ..objectives.objective import Batch, Objective
from ..objectives.rotate import Rotate, RotateConfig
from ..objectives.simmim import SimMIM, SimMIMConfig
from ..runtime.load import load
from ..training import Job, choose
from ..training.batch import move
from ..training.seeds import reseed
from ..training.trainer import Infer
from ..weights.io import load_into, write_model
from ..weights.opened import open_weights
from .derived import heads_of
from .run import FREE, Run
from .watched import FIGURES, Vectors, pictures, watching

QUARANTINE = "quarantine.jsonl"  # in the run folder: pictures that cannot be read, each with the reason
PREDICTIONS = "predictions.npz"  # in the run folder: what the model that ships says of every held-out picture
LOOKED_AT = 32  # pictures at a time, where each is seen once


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
    known = names(splits.heads) if run.labelled else FIGURES
    if run.train.best and run.train.best not in known:
        what = f"train.best is {run.train.best!r}, but the evaluation gives {', '.join(known)}"
        raise BadInput(f"{what}; name one of these")
    heads = heads_of(run, splits)
    reseed(run.train.seed, -1)
    objective = _objective(run, heads, start or {})
    bad = _quarantine(run, splits.train, folder, "train")
    loader = loader_of(run, splits, bad, parallel.rank(), parallel.world())

    def ship(tensors: dict[str, Tensor], metrics: dict[str, float], step: int) -> None:
        write_model(folder / "model", tensors, _card(run, heads, metrics, step))

    job = Job(
        folder=folder,
        identity=identity(run, splits),
        allow=allow,
        finish=Finish(run.preprocess) if run.features == "each" else None,
        evaluate=_evaluation(run, splits, folder, objective) if splits.val is not None and len(splits.val) else None,
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
    data, train = run.data, splits.train if run.labelled else replace(splits.train, targets={})
    backbone = run.model.backbone
    grid = backbone.grid_of(*backbone.padded(*run.preprocess.size)) if isinstance(backbone, ViTConfig) else (1, 1)
    pictures = Pictures(train, run.preprocess, data.augment, run.train.seed, data.mix, data.views, grid)
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
    if not run.labelled:
        return watching(splits, _vectors(run, folder))
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
        told = figures(found, heads) | _before_and_added(found[heads[0].name], objective)
        if parallel.is_main():  # with `train.best` the last look of a run is at what ships
            _keep(folder, found)
        return told

    return evaluate


def _before_and_added(p: Predictions, objective: Objective) -> dict[str, float]:
    """Where classes were added: how many of the old ones are still told, and of the new ones already, among all."""
    if not isinstance(objective, Distill) or not objective.cfg.partial or not objective.answers:
        return {}
    old = np.isin(p.targets, objective.teacher.known)
    parts = {"top1_before": old, "top1_added": ~old & (p.targets >= 0)}
    return {n: top(replace(p, targets=np.where(rows, p.targets, -1)), 1) for n, rows in parts.items() if rows.any()}


def _keep(folder: Path, found: dict[str, Predictions]) -> None:
    """For the report. A disk that has no room for it costs no training."""
    try:
        keep(folder / PREDICTIONS, found)
    except TessellaError as error:
        tell(f"the predictions are not kept ({error}); the run goes on, its report will lack them")


def open_splits(run: Run) -> Splits:
    """The data of a run: where its method needs no labels, pictures without one count as well."""
    if isinstance(run.objective, FixMatchConfig):
        return open_partly(run.data)
    if run.data.add and not run.labelled:
        raise BadInput("data.add is for learning more classes, from labels; leave it out")
    return _with_added(run.data) if run.labelled else open_unlabelled(run.data)


def _with_added(cfg: DataConfig) -> Splits:
    """The data sets one after the other; of what was learned before the last one a share is seen again."""
    splits = open_data(cfg)
    for number, address in enumerate(cfg.add, 1):
        own = DataConfig(path=address, val_share=cfg.val_share, seed=cfg.seed, cache=cfg.cache)
        replay = cfg.replay if number == len(cfg.add) else 1.0
        splits = joined_sets(splits, open_data(own), f"{stem(address)}-{number}", replay, cfg.seed)
    return splits


def looked_at(run: Run, splits: Splits) -> int:
    """Pictures of one evaluation."""
    if run.labelled:
        return len(splits.val) if splits.val is not None else 0
    return pictures(splits)


def _vectors(run: Run, folder: Path) -> Vectors:
    """Features of pictures prepared as in evaluation: each rank looks at some, all know all."""
    preprocess, rank, world = run.preprocess, parallel.rank(), parallel.world()
    assert preprocess is not None

    def vectors(infer: Infer, source: Source) -> tuple[tuple[str, ...], Array]:
        batch = max(1, run.train.batch // world)
        bad = Quarantine(folder / QUARANTINE, len(source), run.data.max_bad, "looked at")
        stream = once(Pictures(source, preprocess), batch, run.data.workers, rank, world, bad)
        here = [(b["ids"], infer(b).float().cpu().numpy()) for b in stream if b["ids"] or parallel.active()]
        parts = [part for each in parallel.gather_objects(here) for part in each if part[0]]
        ids = tuple(name for names, _ in parts for name in names)
        return ids, np.concatenate([found for _, found in parts]) if parts else np.zeros((0, 1), np.float32)

    return vectors


def architecture_of(run: Run) -> ClassifierConfig | MAEConfig | PainterConfig:
    """Of what ships: with a decoder where the method needs one."""
    match run.objective:
        case MaskedConfig() as cfg:
            return MAEConfig(
                encoder=_whole_patches(run),
                decoder_width=cfg.decoder_width,
                decoder_depth=cfg.decoder_depth,
                decoder_heads=cfg.decoder_heads,
                decoder_mlp_ratio=cfg.decoder_mlp_ratio,
                pool=_pool(run),
                normalised=cfg.normalise,
            )
        case SimMIMConfig():
            return PainterConfig(encoder=_whole_patches(run), lacks="token", pool=_pool(run))
        case InpaintConfig():
            return PainterConfig(encoder=_whole_patches(run), lacks="pixels", pool=_pool(run))
        case ColorizeConfig():
            return PainterConfig(encoder=_whole_patches(run), lacks="colour", pool=_pool(run))
        case _:
            return run.model


def _objective(run: Run, heads: tuple[Head, ...], start: Mapping[str, Tensor]) -> Objective:
    network = make(architecture_of(run))
    if start:
        load_into(network, {**network.state_dict(), **start})
    match run.objective, network:
        case ClassifyConfig() as cfg, Classifier():
            return Classify(cfg, network, heads)
        case FixMatchConfig() as cfg, Classifier():
            return FixMatch(cfg, network)
        case DistillConfig() as cfg, Classifier():
            return Distill(cfg, network, _teacher(run, cfg, heads), heads)
        case DINOConfig() as cfg, Classifier():
            return DINO(cfg, network)
        case RotateConfig() as cfg, Classifier():
            return Rotate(cfg, network)
        case MaskedConfig() as cfg, MaskedAutoencoder():
            return MAE(cfg, network)
        case SimMIMConfig() as cfg, Painter():
            return SimMIM(cfg, network)
        case InpaintConfig() as cfg, Painter():
            return Inpaint(cfg, network)
        case ColorizeConfig() as cfg, Painter():
            return Colorize(cfg, network)
    raise AssertionError("architecture_of has one for each")


def _teacher(run: Run, cfg: DistillConfig, heads: tuple[Head, ...]) -> Teacher:
    """Opened anew, and never changed; its classes are found by name."""
    assert run.preprocess is not None
    model = load(cfg.teacher, cfg.teacher_like or None, headless=cfg.kind == "features")
    digest = open_weights(cfg.teacher, cfg.teacher_like or None).sha256
    if digest != cfg.teacher_sha256:
        what = f"the teacher {cfg.teacher} has changed since the run started"
        raise BadInput(f"{what}; put the one with sha256 {cfg.teacher_sha256} there, or start a new run")
    network: nn.Module = model.network if cfg.kind != "features" else model.classifier
    rows: tuple[int, ...] = ()
    if cfg.kind != "features":
        if not heads or not model.card.heads:
            raise BadInput(f"the teacher {cfg.teacher} says no class; take --objective.kind features")
        rows = matched(heads[0].classes, model.card.heads[0].classes, cfg.partial)
    return Teacher(network=network, wants=model.preprocess, given=run.preprocess, rows=rows)


def _pool(run: Run) -> Literal["cls", "mean"]:
    return "cls" if run.model.pool.kind == "cls" else "mean"


def _whole_patches(run: Run) -> ViTConfig:
    """What each patch held is said in pixels: a picture has to consist of them."""
    b = run.model.backbone
    if not isinstance(b, ViTConfig):
        kind = type(b).__name__.removesuffix("Config")
        raise BadInput(f"this method says what patches held, and a {kind} merges them; take a ViT, see tessella list")
    height, width = b.size if run.preprocess is None else run.preprocess.size
    if b.padded(height, width) != (height, width):
        raise BadInput(f"pictures of {height} x {width} px are no whole patches of {b.patch_size}; set --size")
    return b


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
        architecture=encode(architecture_of(run)),
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
