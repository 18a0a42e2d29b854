"""Tensors out of anyone's weights file, into a network, and into and out of a model folder. No file can run code here.

A file that is truncated, hostile or of an unknown kind is a BadInput; a network is loaded completely or not at all.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import card as cards
from .. import durable, tensorfile
from ..card import Card
from ..errors import BadInput
from . import native
from .table import rename

WEIGHTS = "model.safetensors"
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # keys under which training scripts put the weights
_SHOWN = 5  # names in an error
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # left by file browsers; no loss


@dataclass(frozen=True)
class Report:
    """What `load_into` did."""

    matched: int  # tensors loaded
    total: int  # tensors that the network has


# -- any file --------------------------------------------------------------------------------------------------------


def _print(note: str) -> None:
    print(note, file=sys.stderr)


def read_tensors(path: Path | str, note: Callable[[str], None] = _print) -> dict[str, Tensor]:
    """A safetensors file, or what torch.save wrote as long as it is tensors in plain containers.

    Says in a `note` what it took the tensors out of, and left behind.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path} is not a file; give a .safetensors, .pth, .pt or .bin file")
    if path.suffix == ".safetensors":
        return tensorfile.read(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _pick(path, _unpickled(path), note)
    raise BadInput(f"{path} is not a weights file by its name; give a .safetensors, .pth, .pt or .bin file")


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats and storages: nothing that the user can mend
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file decides what is raised here, so any kind of it means the same
        raise BadInput(
            f"{path} is damaged or holds more than tensors ({type(error).__name__}; nothing in it was run); "
            "get it again, or have its tensors exported as safetensors"
        ) from None


def _pick(path: Path, found: Any, note: Callable[[str], None]) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds a {type(found).__name__}; expected tensors by name")
    if not _is_flat(found):
        inside = [key for key in _WRAPPERS if isinstance(found.get(key), dict) and _is_flat(found[key])]
        if len(inside) != 1:
            keys = _some(repr(key) for key in found) or "nothing"
            raise BadInput(f"{path} holds {keys}; expected tensors by name, also under one of {', '.join(_WRAPPERS)}")
        left = _some(repr(key) for key in found if key != inside[0]) or "nothing"
        note(f"{path}: took the tensors under {inside[0]!r} and left {left}")
        found = found[inside[0]]
    return {name: tensor.detach() for name, tensor in found.items()}


def _is_flat(found: dict[Any, Any]) -> bool:
    return bool(found) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())


# -- into a network --------------------------------------------------------------------------------------------------


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> Report:
    """Every tensor of the network, exactly; otherwise a BadInput that names what is wrong, and nothing is changed."""
    here = dict(module.state_dict())
    missing, extra = sorted(here.keys() - tensors.keys()), sorted(tensors.keys() - here.keys())
    shared = [name for name in here if name in tensors]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(here[name].shape)}"
        for name in shared
        if tensors[name].shape != here[name].shape
    ]
    faults = [
        f"{len(found)} {what} ({', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''})"
        for what, found in (("missing", missing), ("extra", extra), ("of another shape", shapes))
        if found
    ]
    if faults:
        fit = f"{len(shared) - len(shapes)} of the network's {len(here)} tensors fit"
        raise BadInput(f"these weights are of another network: {fit}; {'; '.join(faults)}; nothing was loaded")
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(tensors[name])
    return Report(matched=len(shared), total=len(here))


# -- a model folder --------------------------------------------------------------------------------------------------


def write_model(folder: Path | str, tensors: Mapping[str, Tensor], card: Card) -> None:
    """`model.json` and `model.safetensors`, whole or not at all. `tensors` have the network's names in memory."""
    target = Path(folder)
    _refuse_strangers(target)
    tensors = rename(tensors, native.to_file(card.architecture, tensors))
    tensorfile.refuse_shared(tensors)
    durable.require_space(target, tensorfile.size_of(tensors))

    def write(place: Path) -> None:
        written = tensorfile.write(place / WEIGHTS, tensors)
        cards.write(place, dataclasses.replace(card, files={WEIGHTS: written.sha256}))

    durable.write_folder(target, write)


def _refuse_strangers(folder: Path) -> None:
    """A model folder is replaced as a whole, so it must hold nothing but a model."""
    if not folder.is_dir():
        return
    there = set(os.listdir(folder)) - LITTER
    ours = {cards.NAME, WEIGHTS} if cards.NAME in there else set()
    if there - ours:
        raise BadInput(f"{folder} holds {_some(there - ours)}, which writing a model would remove; name another folder")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def read_model(folder: Path | str) -> tuple[Card, dict[str, Tensor]]:
    """The card, and the tensors under the network's names in memory; every byte is checked against the card."""
    while True:  # a training may put a newer model in its place while we read: then card and weights are of two models
        durable.recover(folder)
        card = cards.read(folder)
        try:
            found = _read_as(folder, card)
        except BadInput:
            if cards.read(folder).files == card.files:
                raise
            continue
        if cards.read(folder).files == card.files:
            return found


def _read_as(folder: Path | str, card: Card) -> tuple[Card, dict[str, Tensor]]:
    if card.kind != "network" or WEIGHTS not in card.files:
        raise BadInput(f"{folder} is an {card.kind} or lists no {WEIGHTS}; give the folder of a network")
    cards.verify(folder, card)
    tensors = tensorfile.read(Path(folder) / WEIGHTS)
    return card, rename(tensors, native.from_file(card.architecture, tensors))
