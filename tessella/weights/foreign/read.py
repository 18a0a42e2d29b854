"""Tensors as the files beside them say that they are; whatever of the two does not agree is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...config import encode
from ...errors import BadInput
from ...models.architecture import ClassifierConfig, ViTConfig
from .. import native
from ..guess import shapes_of
from ..layouts import LAYOUTS
from ..recognise import unwrapped
from .told import Told

_SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Found:
    """One reading in which every tensor has its place."""

    config: ClassifierConfig
    tensors: dict[str, Tensor]  # by our names in a file
    left: tuple[str, ...]  # names of theirs that were left out
    layout: str


def read(told: Told, tensors: Mapping[str, Tensor], place: str) -> Found:
    unknown: list[list[str]] = []
    refused: BadInput | None = None
    empty = tuple(name for name, tensor in tensors.items() if not tensor.numel())  # no registers, written down
    for inside in _namings(told, {name: tensor for name, tensor in tensors.items() if name not in empty}):
        for layout in told.layouts:
            table = LAYOUTS[layout]
            strange = [name for name in inside if not table.knows(name)]
            if strange:
                unknown.append(strange)
                continue
            try:
                made = table.read(inside, told.config)
                config = _settled(told, made.tensors)
                kept = {name: t for name, t in made.tensors.items() if not name.startswith(told.idle or ("\0",))}
                _refuse_others(told, config, kept, place)
            except BadInput as error:
                refused = refused or error
                continue
            idle = tuple(sorted(made.tensors.keys() - kept.keys()))
            return Found(config, kept, (*made.left, *idle, *empty), layout)
    if refused is not None:
        raise refused
    least = min(unknown, key=len)
    shown = ", ".join(least[:_SHOWN]) + (", ..." if len(least) > _SHOWN else "")
    what = f"{len(least)} of the {len(tensors)} tensors of {place} have no place in the network of {told.where}"
    raise BadInput(f"{what} ({shown}); give the file itself, with --like NAME")


def _namings(told: Told, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """As they are, as part of the larger network, and without what a training script put before them."""
    yield tensors
    if told.before:
        yield {told.before + name: tensor for name, tensor in tensors.items()}
    for prefix, inside in unwrapped(tensors):
        if prefix:
            yield inside


def _settled(told: Told, tensors: Mapping[str, Tensor]) -> ClassifierConfig:
    """What the files leave open: whether there is a head, a pooler, a projection, and where the last norm stands."""
    cfg, projection = told.config, tensors.get("projection.weight")
    head = tensors.get(native.head_of(encode(cfg)))
    classes = head.shape[0] if head is not None and head.ndim == 2 else 0
    if told.outputs is not None and classes not in (0, told.outputs):
        what = f"{told.where} says {told.outputs} classes, and the head of these weights has {classes}"
        raise BadInput(f"{what}; one of the two files is of another training")
    pool, backbone = cfg.pool, cfg.backbone
    if projection is None and pool.projection:
        pool = replace(pool, projection=0)
    pool = replace(pool, tanh="pre_logits.weight" in tensors)
    if not isinstance(backbone, ViTConfig):
        return replace(cfg, pool=pool, classes=classes)
    if pool.kind != "attention" and "fc_norm.weight" in tensors:
        pool, backbone = replace(pool, norm=True), replace(backbone, final_norm="norm.weight" in tensors)
    elif pool.norm:
        pool, backbone = replace(pool, norm=False), replace(backbone, final_norm="norm.weight" in tensors)
    return replace(cfg, backbone=backbone, pool=pool, classes=classes)


def _refuse_others(told: Told, config: ClassifierConfig, tensors: Mapping[str, Tensor], place: str) -> None:
    wanted = shapes_of(config)
    missing, extra = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    shapes = [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(shape)}"
        for n, shape in wanted.items()
        if n in tensors and tensors[n].shape != shape
    ]
    faults = [
        f"{len(found)} {what} ({', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''})"
        for what, found in (("missing", missing), ("that it has no place for", extra), ("of another shape", shapes))
        if found
    ]
    if faults:
        what = f"{place} is not of the network that {told.where} describes: tensors {'; '.join(faults)}"
        raise BadInput(f"{what}; give the file itself, with --like NAME")
