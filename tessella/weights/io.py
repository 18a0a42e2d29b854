"""Tensors into a network, and into and out of a model folder: completely or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import card as cards
from .. import durable, tensorfile
from ..card import Card
from ..errors import BadInput
from . import native
from .table import rename

WEIGHTS = "model.safetensors"
_SHOWN = 5  # names in an error
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # left by file browsers; no loss


@dataclass(frozen=True)
class Report:
    """What `load_into` did."""

    matched: int  # tensors loaded
    total: int  # tensors that the network has


# -- into a network --------------------------------------------------------------------------------------------------


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, take: bool = False) -> Report:
    """Every tensor of the network, exactly; otherwise a BadInput that names what is wrong, and nothing is changed.

    take: they become the network's own, where type and place permit, and are not copied.
    """
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
    if take:
        module.load_state_dict({n: tensors[n].to(t.device, t.dtype).contiguous() for n, t in here.items()}, assign=True)
        return Report(matched=len(shared), total=len(here))
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
        crc = tensorfile.Crc()
        written = tensorfile.write(place / WEIGHTS, tensors, digest=crc)
        files, crc32 = {WEIGHTS: written.sha256}, {WEIGHTS: crc.hexdigest()}
        cards.write(place, dataclasses.replace(card, files=files, crc32=crc32))

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


def read_model(folder: Path | str, *, quick: bool = False) -> tuple[Card, dict[str, Tensor]]:
    """The card, and the tensors under the network's names in memory; every byte is checked against the card. `quick`:
    by its CRC-32, where it has one; a sha256 takes longer than reading."""
    while True:  # a training may put a newer model in its place while we read: then card and weights are of two models
        durable.recover(folder)
        card = cards.read(folder)
        try:
            found = _read_as(folder, card, quick)
        except BadInput:
            if cards.read(folder).files == card.files:
                raise
            continue
        if cards.read(folder).files == card.files:
            return found


def _read_as(folder: Path | str, card: Card, quick: bool) -> tuple[Card, dict[str, Tensor]]:
    if card.kind != "network" or WEIGHTS not in card.files:
        raise BadInput(f"{folder} is an {card.kind} or lists no {WEIGHTS}; give the folder of a network")
    short = quick and WEIGHTS in card.crc32
    digest: tensorfile.Digest = tensorfile.Crc() if short else hashlib.sha256()
    try:
        tensors = tensorfile.read(Path(folder) / WEIGHTS, digest)
    except BadInput:
        cards.verify(folder, card)  # says it better: the file is not the one that was written
        raise
    right = digest.hexdigest() == (card.crc32 if short else card.files)[WEIGHTS]
    cards.verify(folder, card, {WEIGHTS: card.files[WEIGHTS] if right else digest.hexdigest()})
    return card, rename(tensors, native.from_file(card.architecture, tensors))
