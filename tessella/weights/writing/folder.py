"""A model written as another library's folder: whole or not at all, and read back before it counts as written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ... import durable, tensorfile
from ...card import Card
from ...config import decode, encode
from ...errors import BadInput, TessellaError
from ...models.architecture import Backbone, ClassifierConfig, MAEConfig
from ...models.presets import classifier
from .. import native
from ..files import read_tensors
from ..layouts import LAYOUTS
from ..table import rename
from . import open_clip, plain, timm, transformers
from .abroad import Abroad
from .readme import readme

Library = Literal["timm", "transformers", "open_clip", "meta", "microsoft", "big_vision"]
LIBRARIES: tuple[str, ...] = get_args(Library)


def describe(card: Card, library: Library) -> Abroad:
    """What that folder would be, before anything is written; what it cannot be is a BadInput."""
    cfg = architecture(card)
    match library:
        case "timm":
            return timm.describe(cfg, card)
        case "transformers":
            return transformers.describe(cfg, card)
        case "open_clip":
            return open_clip.describe(cfg, card)
        case "meta" | "microsoft" | "big_vision":
            return plain.describe(library, cfg, card)


def architecture(card: Card) -> ClassifierConfig:
    """As a classifier; a backbone alone is one without a head."""
    cfg = decode(ClassifierConfig | MAEConfig | Backbone, card.architecture, "architecture")
    if isinstance(cfg, MAEConfig):
        raise BadInput("a masked autoencoder with its decoder stays in our own folder; convert its encoder")
    return cfg if isinstance(cfg, ClassifierConfig) else classifier(cfg, 0)


def write_abroad(folder: Path | str, tensors: Mapping[str, Tensor], card: Card, library: Library) -> Abroad:
    """`tensors` by the network's names in memory. A folder that holds anything is refused."""
    target, cfg, told = Path(folder), architecture(card), describe(card, library)
    refuse_taken(target)
    if card.architecture["type"] != ClassifierConfig.__name__:
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    ours = rename(tensors, native.to_file(encode(cfg), tensors))
    theirs = LAYOUTS[told.layout].write(ours, cfg)
    theirs |= {n: torch.zeros(s, dtype=torch.float32 if s else torch.int64) for n, s in told.zeros.items()}
    durable.require_space(target, tensorfile.size_of(theirs))

    def write(place: Path) -> None:
        _write(place / told.weights, theirs)
        _refuse_other(LAYOUTS[told.layout].read(read_tensors(place / told.weights), cfg).tensors, ours, told)
        for name, plain_data in told.files.items():
            _json(place / name, plain_data)
        durable.write_file(place / "README.md", readme(card, library, told))

    durable.write_folder(target, write)
    return told


def refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there already, and a conversion replaces nothing; name another folder")


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    match path.suffix:
        case ".safetensors":
            tensorfile.write(path, {name: tensor.contiguous() for name, tensor in tensors.items()})
        case ".npz":
            arrays: dict[str, Any] = {name.replace(".", "/"): tensor.numpy() for name, tensor in tensors.items()}
            np.savez(path, **arrays)
        case _:
            raise TessellaError(f"{path.name} is of no kind that weights are written in")


def _refuse_other(back: Mapping[str, Tensor], ours: Mapping[str, Tensor], told: Abroad) -> None:
    """Every tensor comes back as it went, bit for bit: else the table is wrong, and that is our fault."""
    wrong = sorted(name for name in ours.keys() | back.keys() if not _same(back.get(name), ours.get(name)))
    if wrong:
        raise TessellaError(f"{told.layout} does not bring back {', '.join(wrong[:5])} as written; report this")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _json(path: Path, data: Mapping[str, Any]) -> None:
    durable.write_file(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
