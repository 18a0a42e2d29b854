"""A model in front of pictures: opened, and asked once about each. What judging, calibrating and probing share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import decode, override, read_plain
from ..data.loading.loader import once
from ..data.loading.pictures import Pictures
from ..data.loading.quarantine import Quarantine
from ..data.origins.open import absolute
from ..data.source import DataConfig, Source
from ..errors import BadInput
from ..runtime.load import load
from ..runtime.model import Model
from ..training import choose


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the pictures are read and shown to the network; only `size` and `flips` change results."""

    batch: int = 64
    workers: int | None = None
    device: str = "auto"
    max_bad: float = 0.01  # share of unreadable pictures above which there is no result
    size: int | None = None  # side of what the network sees, pixels; None: as its card says
    flips: bool = False  # the mean of what it says of a picture and of its mirror image

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.workers is not None and self.workers < 0):
            raise BadInput(f"batch is {self.batch}, workers {self.workers}; give batch >= 1 and workers >= 0")


def opened(source: str | Path, like: str | None, reading: Reading, headless: bool = False) -> Model:
    """`headless`: only features are wanted."""
    model = load(source, like, choose.device(reading.device)[0], headless)
    return model if reading.size is None else at_size(model, reading.size)


def at_size(model: Model, side: int) -> Model:
    """The same network before pictures of another size; its positions are resampled."""
    backbone = model.classifier.cfg.backbone
    if not backbone.tiles(side):
        least, step = backbone.least, backbone.step
        below = least + max(0, side - least) // step * step
        raise BadInput(
            f"size {side} is not tiled by this model's patches of {least} px; give {below} or {below + step}"
        )
    image = replace(model.preprocess, size=(side, side))
    card = replace(model.card, preprocess={**model.card.preprocess, "image": image})
    return Model(model.network, card, model.device)


def says(
    model: Model, reading: Reading, function: Callable[[Tensor], Tensor] | None = None
) -> Callable[[dict[str, Any]], Tensor]:
    """From a batch to what the network, or a function of normalised pictures (B, C, H, W), says of it."""
    function = function or model.network

    @torch.no_grad()
    def infer(batch: dict[str, Any]) -> Tensor:
        images = model.finish({"image": batch["image"].to(model.device)})["image"]
        said: Tensor = function(images)
        return (said + function(images.flip(-1))) / 2 if reading.flips else said

    return infer


@dataclass(frozen=True, eq=False)
class Features:
    """What a function of the network says of the pictures of a source that can be read."""

    ids: tuple[str, ...]
    rows: NDArray[np.int64]  # of the source
    vectors: NDArray[np.float32]  # (N, ...)
    unreadable: dict[str, str]  # id -> reason


def features(model: Model, source: Source, reading: Reading, function: Callable[[Tensor], Tensor]) -> Features:
    """One pass, in the order of the source."""
    bad = Quarantine(None, len(source), reading.max_bad, "given")
    infer = says(model, reading, function)
    ids: list[str] = []
    parts: list[NDArray[np.float32]] = []
    for batch in once(Pictures(replace(source, targets={}), model.preprocess), reading.batch, reading.workers,
                      quarantine=bad):  # fmt: skip
        if batch["ids"]:
            ids += batch["ids"]
            parts.append(infer(batch).float().cpu().numpy())
    if not parts:
        raise BadInput("there is no picture to look at: none could be read; see the list of bad files")
    place = {name: row for row, name in enumerate(source.ids)}
    rows = np.array([place[name] for name in ids], dtype=np.int64)
    return Features(tuple(ids), rows, np.concatenate(parts), bad.reasons)


COLUMNS = ("kind", "image", "label", "split", "cache")  # what says how data is read, not which

KEPT = ("kind", "image", "label", "split", "cache", "val_share", "seed")  # of a run: so the same pictures are held out


def how_read(source: Path, data: str, settings: Mapping[str, Any]) -> DataConfig:
    """The settings of the data: what a run was trained with holds unless another is given, by dotted name."""
    for key in settings:
        if key not in {f"data.{name}" for name in COLUMNS}:
            known = ", ".join(f"data.{name}" for name in COLUMNS)
            raise BadInput(f"{key} is no setting of evaluate; there are {known}")
    start, trained = DataConfig(path=data), _trained_with(source)
    if trained is not None:
        start = replace(start, **{name: getattr(trained, name) for name in KEPT})
    return override(start, [{key.removeprefix("data."): value for key, value in settings.items()}])[0]


def trained_on(run: Path, source: Source, address: str) -> frozenset[str] | None:
    """Names of the pictures that this run learned from, told by name and size. None: nobody knows, as of a model
    without its run, or of other data whose sizes are not known."""
    trained = _trained_with(run)
    if trained is None or not (run / "data.json").is_file():
        return None
    learned = set(read_plain(run / "data.json").get("data.train", ()))
    same, there = absolute(trained.path) == absolute(address), list(source.manifest())
    if not same and all(size < 0 for _, size in there):  # a name alone tells nothing
        return None
    return frozenset(n for n, size in there if (same or size >= 0) and f"{n} ({size} bytes)" in learned)


def _trained_with(run: Path) -> DataConfig | None:
    if not (run / "run.json").is_file():
        return None
    found: DataConfig = decode(DataConfig, read_plain(run / "run.json")["run"]["data"], f"{run / 'run.json'}: run.data")
    return found
