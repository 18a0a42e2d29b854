"""`evaluate`: how right a model is on labelled pictures."""

from __future__ import annotations

import json as _json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import decode, override, read_plain
from ..data.loading.loader import once
from ..data.loading.pictures import Pictures
from ..data.loading.quarantine import Quarantine
from ..data.origins.open import open_labelled
from ..data.source import DataConfig
from ..errors import BadInput, readable
from ..metrics.confusion import by_class, confusion
from ..metrics.heads import figures
from ..metrics.predictions import Predictions, fill
from ..runtime.load import load
from ..training import choose


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the pictures are read; changes speed, never results."""

    batch: int = 64
    workers: int | None = None
    device: str = "auto"
    max_bad: float = 0.01  # share of unreadable pictures above which there is no result

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.workers is not None and self.workers < 0):
            raise BadInput(f"batch is {self.batch}, workers {self.workers}; give batch >= 1 and workers >= 0")


@dataclass(frozen=True)
class Evaluation:
    metrics: dict[str, float]
    classes: dict[str, float | None]  # top-1 of each; None: no picture of it
    predictions: Predictions
    notes: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)  # id -> reason

    def tell(self, json: bool = False) -> None:
        if json:
            told = {"pictures": len(self.predictions.ids), **self.metrics, "per_class": self.classes}
            print(_json.dumps(told | {"unreadable": self.unreadable}, indent=1))
            return
        for note in self.notes:
            print(readable(note))
        for name, value in self.classes.items():
            print(f"  {readable(name):<24} " + ("no picture" if value is None else f"{100 * value:6.1f} %"))
        m = self.metrics
        figures = f"top-1 {100 * m['top1']:.2f} % · top-5 {100 * m['top5']:.2f} % · loss {m['loss']:.4f}"
        print(f"{len(self.predictions.ids)} pictures · {figures}")
        if self.unreadable:
            named = readable(", ".join(list(self.unreadable)[:5]))
            print(f"{len(self.unreadable):,} more cannot be read and do not count: {named}")


def evaluate(
    source: str | Path,
    data: str | Path,
    *,
    like: str | None = None,
    reading: Reading | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Classes of the data are matched to the model's by name; an unknown one is an error. `settings` are those of the
    data, by dotted name ({"data.label": "species"}); what a run was trained with holds unless another is given."""
    reading = reading or Reading()
    how = _how(Path(source), str(data), settings or {})
    model = load(source, like, choose.device(reading.device)[0])
    labelled = open_labelled(how.path, model.classes, how)
    pictures = Pictures(labelled.source, model.preprocess)
    bad = Quarantine(None, len(labelled.source), reading.max_bad, "given")

    @torch.no_grad()
    def infer(batch: dict[str, Any]) -> Any:
        images = model.finish({"image": batch["image"].to(model.device)})["image"]
        return model(images)

    heads = model.card.heads
    every = fill(infer, once(pictures, reading.batch, reading.workers, quarantine=bad), heads)
    found = every[heads[0].name]
    classes = {c: row.recall for c, row in zip(model.classes, by_class(confusion(found)), strict=True)}
    return Evaluation(figures(every, heads), classes, found, tuple(labelled.notes), bad.reasons)


COLUMNS = ("kind", "image", "label", "split", "cache")  # what says how data is read, not which


def _how(source: Path, data: str, settings: Mapping[str, Any]) -> DataConfig:
    for key in settings:
        if key not in {f"data.{name}" for name in COLUMNS}:
            known = ", ".join(f"data.{name}" for name in COLUMNS)
            raise BadInput(f"{key} is no setting of evaluate; there are {known}")
    start = DataConfig(path=data)
    if (source / "run.json").is_file():
        trained = decode(DataConfig, read_plain(source / "run.json")["run"]["data"], f"{source / 'run.json'}: run.data")
        same = {name: getattr(trained, name) for name in ("image", "label", "split", "cache")}
        start = replace(start, **same)
    return override(start, [{key.removeprefix("data."): value for key, value in settings.items()}])[0]
