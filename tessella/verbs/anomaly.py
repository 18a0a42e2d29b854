"""`evaluate --anomaly GOOD`: which pictures are unlike the good ones, for inspection: no fault needs to be known.

Good ones of the training part are what is usual; judged are the good ones held out, and all of other classes. The
distance of a whole picture is the mean of 1 - cosine to its nearest known ones (arXiv 2002.10445); by patches it is
that of its strangest patch to the nearest patch of any known picture (PatchCore, arXiv 2106.08265, without its search
for a small bank: ours is drawn at random). The limit is a quantile of the distances of known pictures to others: of new
good ones about the rest is flagged by mistake, whatever the faults look like.
"""

from __future__ import annotations

import json as _json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import nearest
from ..data.origins.folder import TRAIN, VALIDATION, parts_in
from ..data.origins.open import open_splits
from ..data.source import Source, split
from ..errors import BadInput, readable
from ..metrics.neighbours import distances
from ..metrics.predictions import Array
from ..metrics.ranking import auroc, average_precision
from ..models.classifier import Classifier
from ..runtime.model import Model
from .labelled import Reading, features, how_read, opened

SHOWN = 10  # strangest pictures that are printed
HELD_OUT = 0.2  # share of the good ones to judge, where the data has no part for that
FEWEST = 4  # good pictures below which nothing is usual
FOLDS = 10  # parts of the good ones, each compared with all others: few would make the limit too lax
DEPTHS = (6, 8)  # twelfths of the network after which patches are compared


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    """What is usual, and how far from it is too far."""

    good: str  # the class
    by: Literal["patches", "whole"] = "patches"  # a fault may be small: its one patch is enough
    quantile: float = 0.95  # share of the good ones that are to pass
    neighbours: int = 5  # of a whole picture
    patches: int = 20_000  # of good ones to compare with, drawn at random
    seed: int = 0  # of these

    def __post_init__(self) -> None:
        if min(self.neighbours, self.patches) < 1 or not 0 < self.quantile < 1:
            what = f"neighbours is {self.neighbours}, patches {self.patches}, quantile {self.quantile}"
            raise BadInput(f"{what}; give 1 or more, and a share")


@dataclass(frozen=True, eq=False)
class Scores:
    values: Array  # (N,) distances; larger is stranger
    limit: float  # above it: flagged
    known: int  # pictures that they were compared with


@dataclass(frozen=True, eq=False)
class Anomalies:
    good: str  # the class of what is usual
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Array  # (N,) class numbers, -1 unknown
    found: Scores
    notes: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """AUROC and average precision of telling other classes from the good one, and the shares beyond the limit."""
        known = self.labels >= 0
        values, strange = self.found.values[known], self.labels[known] != self.classes.index(self.good)
        flagged = values > self.found.limit
        told = {
            "auroc": auroc(values, strange),
            "average_precision": average_precision(values, strange) if not strange.all() else None,
            "found": _mean(flagged[strange]),
            "false_alarms": _mean(flagged[~strange]),
        }
        return {name: value for name, value in told.items() if value is not None}

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain(), indent=1))
            return
        for line in self.lines():
            print(readable(line))

    def plain(self) -> dict[str, Any]:
        names = [*self.classes, None]
        each = zip(self.ids, self.labels.tolist(), self.found.values.tolist(), strict=True)
        return {
            "good": self.good,
            "known": self.found.known,
            "limit": self.found.limit,
            **self.metrics,
            "pictures": [
                {"id": name, "class": names[label], "score": value, "flagged": value > self.found.limit}
                for name, label, value in each
            ],
            "unreadable": self.unreadable,
        }

    def lines(self) -> Iterator[str]:
        yield from self.notes
        limit, order = self.found.limit, np.argsort(-self.found.values, kind="stable")
        yield f"  {'class':<24} {'pictures':>9} {'flagged':>9} {'median score':>13}"
        for number, name in enumerate(self.classes):
            mine = self.found.values[self.labels == number]
            if len(mine):
                share = f"{100 * float((mine > limit).mean()):.1f} %"
                yield f"  {name:<24} {len(mine):>9,} {share:>9} {float(np.median(mine)):>13.4f}"
        yield "  strangest: " + ", ".join(f"{self.ids[i]} {self.found.values[i]:.3f}" for i in order[:SHOWN])
        m = self.metrics
        shown = (("AUROC", "auroc", 1), ("found %", "found", 100), ("false alarms %", "false_alarms", 100))
        told = [f"{name} {by * m[key]:.{1 if by > 1 else 4}f}" for name, key, by in shown if key in m]
        compared = f"{len(self.ids):,} pictures against {self.found.known:,} of {self.good}"
        yield " · ".join([compared, *told, f"limit {limit:.4f}"])
        if self.unreadable:
            named = ", ".join(list(self.unreadable)[:5])
            yield f"{len(self.unreadable):,} more cannot be read and do not count: {named}"


def anomalies(
    source: str | Path,
    data: str | Path,
    cfg: AnomalyConfig,
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Anomalies:
    """`cfg.good` is the class of what is usual; pictures without a label are scored too."""
    reading = reading or Reading()
    if reading.flips and cfg.by == "patches":
        raise BadInput("patches of a picture and of its mirror image are of other places; leave --flips out")
    how = how_read(Path(source), str(data), settings or {})
    parts, classes, notes = open_splits(how)
    if cfg.good not in classes:
        raise BadInput(f"{how.path} has no class {cfg.good!r} to learn from{nearest(cfg.good, classes)}")
    known, asked = _divided(parts, classes.index(cfg.good))
    model = opened(source, like, reading, headless=True)
    if len(known) < FEWEST:
        raise BadInput(f"{len(known)} pictures of {cfg.good!r} are too few to say what is usual; give 20 or more")
    found = (_by_patches if cfg.by == "patches" else _by_whole)(model, known, asked, reading, cfg)
    assert asked.labels is not None
    return Anomalies(
        good=cfg.good,
        classes=classes,
        ids=found.ids,
        labels=asked.labels[found.rows],
        found=found.scores,
        notes=tuple(notes),
        unreadable=found.unreadable,
    )


class _Found(NamedTuple):
    scores: Scores
    ids: tuple[str, ...]  # of what was asked, as for the next
    rows: Array
    unreadable: dict[str, str]


def _by_whole(model: Model, known: Source, asked: Source, reading: Reading, cfg: AnomalyConfig) -> _Found:
    embed = model.classifier.embed
    usual, others = (features(model, part, reading, embed) for part in (known, asked))
    own = distances(usual.vectors, usual.vectors, cfg.neighbours, itself=True)
    values = distances(usual.vectors, others.vectors, cfg.neighbours)
    scores = Scores(values, float(np.quantile(own, cfg.quantile)), len(usual.ids))
    return _Found(scores, others.ids, others.rows, usual.unreadable | others.unreadable)


def _by_patches(model: Model, known: Source, asked: Source, reading: Reading, cfg: AnomalyConfig) -> _Found:
    """For the limit each part of the known pictures is compared with the other parts: by itself each is the nearest."""
    network, rng = model.classifier, np.random.default_rng(cfg.seed)
    each = -(-cfg.patches // len(known))

    def some(images: Tensor) -> Tensor:
        """(B, n, D): so many of the patches of each picture."""
        vectors = patches_of(network, images)
        chosen = [rng.permutation(vectors.shape[1])[:each] for _ in vectors]
        return torch.stack(
            [one[torch.from_numpy(rows).to(one.device)] for one, rows in zip(vectors, chosen, strict=True)]
        )

    usual = features(model, known, reading, some)
    bank = torch.from_numpy(usual.vectors).to(model.device)
    fold = np.arange(len(bank)) % FOLDS
    own = [
        features(model, known.take(usual.rows[fold == i]), reading, _strangest(network, bank[fold != i].flatten(0, 1)))
        for i in np.unique(fold)
    ]
    others = features(model, asked, reading, _strangest(network, bank.flatten(0, 1)))
    limit = float(np.quantile(np.concatenate([part.vectors for part in own]), cfg.quantile))
    scores = Scores(others.vectors.astype(np.float64), limit, len(bank))
    return _Found(scores, others.ids, others.rows, usual.unreadable | others.unreadable)


def _strangest(network: Classifier, bank: Tensor) -> Callable[[Tensor], Tensor]:
    """(B,): how far the patch that is furthest from all of the bank is from its nearest there."""

    def function(images: Tensor) -> Tensor:
        each = patches_of(network, images)  # one picture at a time: the cosines of a batch would take a gigabyte
        return torch.stack([1 - (patches @ bank.T).amax(dim=1).amin() for patches in each])

    return function


def patches_of(network: Classifier, images: Tensor) -> Tensor:
    """(B, N, D) unit vectors of the patches, from the middle of the network: the last layers know the object, not the
    place (DeiT-tiny, scratches on Fashion-MNIST: see docs/verbs/evaluate.md)."""
    count = network.cfg.backbone.maps
    layers = sorted({max(0, count * part // 12 - 1) for part in DEPTHS})
    maps = network.backbone(images, layers=layers).layers
    full = maps[0].shape[2:]  # of stages each map is half as large as the one before
    maps = tuple(m if m.shape[2:] == full else F.interpolate(m, full, mode="bilinear") for m in maps)
    return F.normalize(torch.cat(maps, dim=1).flatten(2).transpose(1, 2).float(), dim=2)


def _divided(parts: Mapping[str, Source], good: int) -> tuple[Source, Source]:
    """What is usual, and what is judged: the parts of the data, or a fifth of the good ones with all others."""
    train, val = (next(iter(parts_in(parts, kind)), None) for kind in (TRAIN, VALIDATION))
    if train is not None and val is not None:
        return parts[train].take(_of(parts[train], good)), parts[val]
    if len(parts) > 1 or train is not None or val is not None:
        raise BadInput(f"the data has {', '.join(parts)}; good pictures are learned from train/ and judged in test/")
    whole = next(iter(parts.values()))
    known, held_out = split(whole.take(_of(whole, good)), HELD_OUT, 0)
    judged = np.ones(len(whole), bool)
    judged[_of(whole, good)] = np.isin(whole.rows[_of(whole, good)], held_out.rows)
    return known, whole.take(np.flatnonzero(judged))


def _of(source: Source, good: int) -> Array:
    assert source.labels is not None
    return np.flatnonzero(source.labels == good)


def _mean(flags: Array) -> float | None:
    return float(flags.mean()) if len(flags) else None
