"""`check`: what is wrong or odd about a data set, before anything is trained on it. Reads only.

Each picture is read and decoded once (`data/checks/inspection.py`); the rest compares what came back. The result is one
plain dict, which docs/verbs/check.md describes; the table, the JSON and the page are three ways to show it.
"""

from __future__ import annotations

import json as _json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__, durable
from ..data.checks.balance import advise
from ..data.checks.duplicates import MatchConfig, nearest, unit
from ..data.checks.inspection import inspect, table
from ..data.checks.noise import doubt
from ..data.checks.overlap import KINDS, Index, Whole, described, files_of, matches, sets_of, shared
from ..data.checks.survey import facts
from ..data.loading.loader import once
from ..data.loading.pictures import Pictures
from ..data.loading.quarantine import Quarantine
from ..data.origins.folder import FolderReader
from ..data.origins.open import open_splits
from ..data.pixels.preview import preview
from ..data.source import DataConfig, Source
from ..errors import BadInput
from ..models.classifier import Classifier
from ..report.check import summary, text
from ..report.check_page import page, shown
from ..runtime.load import load
from ..runtime.model import Model
from ..training import choose

FORMAT = 1  # of the JSON: raised when a reader would misread it, not when a key is added
TRAIN = ("train", "training", "all")  # the part that comes first: others must not overlap with it
CANDIDATE = 0.8  # cosine of two embeddings from which a pair is laid over each other
ALIKE = 0.97  # ... and from which it is told even where that fails
NEIGHBOURS = 5  # such pairs told of one picture


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """How thorough, and on what."""

    model: str | None = None  # also: near-duplicates and doubtful labels, by the embeddings of this model
    like: str | None = None  # architecture of a bare weights file
    device: str = "auto"
    workers: int | None = None  # processes that decode; None: one a core; 0: in the main process
    batch: int = 64  # pictures that the model sees at a time
    match: MatchConfig = field(default_factory=MatchConfig)


@dataclass(frozen=True, eq=False)
class Findings:
    """`plain` is what `--json` prints."""

    plain: dict[str, Any]
    sources: dict[str, Source]

    def tell(self, json: bool = False) -> None:
        if json:
            print(_json.dumps(self.plain, indent=1))  # ASCII: names that are no UTF-8 stay whole, as surrogates
        else:
            print(text(self.plain))

    def write(self, path: str | Path) -> None:
        """One HTML file that needs nothing beside it."""
        at, wanted = Path(path), shown(self.plain)
        refuse(at)
        pictures: dict[tuple[str, str], str] = {}
        for part, source in self.sources.items():
            ids = {name for p, name in wanted if p == part}
            for i, name in enumerate(source.ids):
                if name in ids:
                    pictures[part, name] = preview(source, i)
        durable.write_file(at, page(self.plain, {key: data for key, data in pictures.items() if data}))

    def judge(self, max_bad: float) -> None:
        """BadInput where `train` with this `--max-bad` would stop, and where nothing can be read."""
        for name, part in self.plain["parts"].items():
            bad, total = len(part["unreadable"]), part["pictures"]
            if bad > max_bad * total or (bad and bad == total):
                raise BadInput(
                    f"{bad:,} of {total:,} {name} pictures cannot be read, above --max-bad {max_bad:g}; "
                    "mend or remove those that are listed, or allow more"
                )


def refuse(html: str | Path) -> None:
    """Before an hour of work: a page that cannot be written."""
    at = Path(html)
    if at.is_dir() or not at.absolute().parent.is_dir():
        raise BadInput(f"--html {html} cannot be written; give a file in a folder that is there")


def check(data: str | Path, cfg: CheckConfig | None = None) -> Findings:
    """Looks at every picture of every part that the data has; none is made, and nothing is written."""
    cfg, began = cfg or CheckConfig(), time.monotonic()
    address, device = os.fspath(data), choose.device(cfg.device)[0]
    opened, classes, notes = open_splits(DataConfig(path=address))
    sources = dict(sorted(opened.items(), key=lambda item: item[0] not in TRAIN))
    total = sum(len(source) for source in sources.values())
    if not total:
        raise BadInput(f"{address} holds no pictures ({'; '.join(notes) or 'nothing was found'}); check the address")
    model = load(cfg.model, cfg.like, device) if cfg.model is not None else None  # before an hour of decoding
    whole = looked_at(sources, classes, cfg.workers)
    learned = _learned(whole, cfg, model) if model is not None else None
    near = None if learned is None else learned.near(cfg.match.neighbours)
    match = replace(cfg.match, device=device) if device.startswith("cuda") else cfg.match
    found = matches(whole, _files(whole, address), match, near)
    sets = sets_of(whole, found)
    train = next(iter(sources))
    plain: dict[str, Any] = {
        "format": FORMAT,
        "tessella": __version__,
        "data": address,
        "model": cfg.model,
        "classes": list(classes),
        "notes": notes,
        "parts": {name: facts(part, classes) for name, part in whole.parts.items()},
        "same": list(described(whole, found, sets)),
        "pairs": [
            {"first": whole.named(m.first), "second": whole.named(m.second), "kind": KINDS[m.kind], "score": m.score}
            for m in found
        ],
        "shared": shared(whole, sets),
    }
    plain["balance"] = {"part": train, **advise(plain["parts"][train]["classes"]).plain()}
    plain |= {"labels": None, "near": None} if learned is None else learned.told(whole, sets)
    plain["summary"] = summary(plain)
    plain["seconds"] = round(time.monotonic() - began, 1)
    return Findings(plain, sources)


def looked_at(sources: dict[str, Source], classes: tuple[str, ...], workers: int | None) -> Whole:
    """Every picture read and decoded once."""
    rows = table(sum(len(source) for source in sources.values()))
    parts, start = {}, 0
    for name, source in sources.items():
        parts[name] = inspect(source, workers, name, rows[start : start + len(source)])
        start += len(source)
    return Whole.of(parts, rows, classes)


def _files(whole: Whole, address: str) -> Index | None:
    folders = all(isinstance(part.source.reader, FolderReader) for part in whole.parts.values())
    return files_of(whole, address) if folders and os.path.isdir(address) else None


# ---------------------------------------------------------------- with a model


@dataclass(frozen=True, eq=False)
class Learned:
    """What a model makes of the readable pictures."""

    rows: Index  # of the whole; what the model cannot take is left out
    pooled: NDArray[np.float32]  # (len(rows), width): what the head sees, for likeness
    deep: NDArray[np.float32]  # (len(rows), more): of several layers, for the probe
    left_out: list[dict[str, str]]  # pictures that can be read, but not by this model

    def near(self, neighbours: int, cosine: float = CANDIDATE) -> Index:
        """(P, 2) rows of the whole whose embeddings are alike."""
        own = unit(self.pooled)
        return self.rows[nearest(own, lambda columns: [own[columns]], neighbours, cosine)]

    def told(self, whole: Whole, sets: list[Index]) -> dict[str, Any]:
        """The keys `labels` and `near` of the report."""
        group = np.arange(len(whole.rows), dtype=np.int64)
        for same in sets:
            group[same] = same[0]
        pairs = self.near(NEIGHBOURS, ALIKE)
        pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
        at = np.searchsorted(self.rows, pairs)
        own = unit(self.pooled).numpy()
        cosines = (own[at[:, 0]] * own[at[:, 1]]).sum(axis=1)
        near = [
            {"first": whole.named(int(a)), "second": whole.named(int(b)), "cosine": round(float(c), 4)}
            for c, (a, b) in sorted(zip(cosines.tolist(), pairs.tolist(), strict=True), key=lambda item: -item[0])
        ]
        return {"labels": self._labels(whole, group), "near": near}

    def _labels(self, whole: Whole, group: Index) -> dict[str, Any] | None:
        labels = whole.labels[self.rows]
        use = labels >= 0
        if len(np.unique(labels[use])) < 2:
            return None
        found = doubt(self.deep[use], labels[use], group[self.rows[use]])
        rows = self.rows[use]
        doubtful = [
            {
                **whole.named(int(rows[i])),
                "perhaps": whole.classes[int(found.expected[i])],
                "belief": round(float(found.belief[i]), 4),
            }
            for i in found.ranking.tolist()
            if found.wrong[i]
        ]
        compared = {"pictures": int(use.sum()), "agreement": round(found.agreement, 4), "left_out": self.left_out}
        return {**compared, "doubtful": doubtful}


def _learned(whole: Whole, cfg: CheckConfig, model: Model) -> Learned:
    """Embeddings, through the model's own preprocessing and the loader: archives and tables have no paths."""
    network = model.classifier
    rows: list[int] = []
    pooled: list[NDArray[np.float32]] = []
    deep: list[NDArray[np.float32]] = []
    left_out: list[dict[str, str]] = []
    for number, (name, part) in enumerate(whole.parts.items()):
        good = np.flatnonzero(part.rows["good"]).astype(np.int64)
        source, start = part.source.take(good), int(whole.starts[number])
        refused = Quarantine(None, len(source), 1.0, name)
        position = {picture: int(start + row) for picture, row in zip(source.ids, good, strict=True)}
        stream = once(Pictures(source, model.preprocess), cfg.batch, cfg.workers, quarantine=refused)
        try:
            for batch in stream:
                if not batch["ids"]:
                    continue
                with torch.no_grad():
                    images = model.finish({"image": batch["image"].to(model.device)})["image"]
                    both = embeddings(network, images)
                pooled.append(both[0].float().cpu().numpy())
                deep.append(both[1].float().cpu().numpy())
                rows += [position[picture] for picture in batch["ids"]]
        finally:
            stream.close()
        left_out += [{"part": name, "id": picture, "reason": why} for picture, why in refused.reasons.items()]
    if not pooled:
        why = left_out[0]["reason"] if left_out else "none is readable"
        raise BadInput(f"{cfg.model} can take none of these pictures: {why}")
    return Learned(np.array(rows, dtype=np.int64), np.concatenate(pooled), np.concatenate(deep), left_out)


def embeddings(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, width) that the head sees, and (B, more) of it with the mean patch of several layers, in one pass.

    The probe finds more labels with the layers (flowers128, DeiT-tiny: 79.5 % instead of 77 %), because the last one
    keeps what the model was trained for.
    """
    maps = network.cfg.backbone.maps
    layers = tuple(sorted({maps * part // 12 for part in (5, 7, 9, 10)}))
    tokens = network.backbone(images, layers=layers)
    pooled = network.pool(tokens)
    means = [layer.mean(dim=(2, 3)) for layer in tokens.layers]
    return pooled, torch.cat([pooled, tokens.patches.mean(dim=1), *means], dim=1)
