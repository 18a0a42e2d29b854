"""Whose file this is: which layouts its names read as, and which networks of the catalogue its shapes then fit.

What several networks share a file does not say (a DeiT and an AugReg ViT of one size differ in the pictures that they
want, not in a single tensor), and nobody guesses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import encode
from ..errors import BadInput
from ..models.architecture import Backbone, ClassifierConfig, ViTConfig
from . import native
from .catalog import CATALOG
from .guess import Shapes, shapes_of
from .layouts import LAYOUTS

WRAPPED = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "teacher.", "student.", "visual.", "net.")
FREE = ("head.", "head_dist.", "pos_embed")  # differ with classes and picture size
_NUMBER = re.compile(r"(?:^|(?<=\.))(?:(?:blocks|layers?|stages|resblocks|encoderblock)[._]|stage)(\d+)(?=\.)")
_BEFORE = "patch_embed.backbone."  # of a hybrid: stages and blocks of its own
_SHOWN = 5


@dataclass(frozen=True)
class Match:
    """One reading of a file in which every tensor has its place."""

    name: str  # of the catalogue
    layout: str
    prefix: str  # before all names of the file
    architecture: ClassifierConfig  # with the head, the channels and the picture size of these tensors


class Near(NamedTuple):
    """The reading that comes closest where none fits."""

    name: str
    layout: str
    fit: int
    wanted: int
    missing: tuple[str, ...]  # of the network
    extra: tuple[str, ...]
    shapes: tuple[str, ...]  # each with what it is and what it should be


def recognise(tensors: Mapping[str, Tensor], name: str | None = None) -> list[Match]:
    """All networks of the catalogue, or the one of this name, that these tensors are, in whichever layout."""
    out = []
    for reading in _readings(tensors, name):
        found = sized(CATALOG[reading.name].architecture, reading.tensors)
        if _difference(reading.tensors, found) == ((), (), ()):
            out.append(Match(reading.name, reading.layout, reading.prefix, found))
    whole = [match for match in out if match.architecture.classes == CATALOG[match.name].architecture.classes]
    return whole or out  # a head of other classes is somebody's who went on from there


def sized(cfg: ClassifierConfig, read: Mapping[str, Tensor]) -> ClassifierConfig:
    """With the channels, the picture size and the classes of these tensors; of pictures that are not square, and not of
    the configured size, a table of places does not tell the sides."""
    b, head = cfg.backbone, read.get(native.head_of(encode(cfg)))
    weight, places = read.get(b.first_weight), read.get("pos_embed")
    classes = head.shape[0] if head is not None and head.ndim == 2 else 0
    tables = [tensor.shape[0] for name, tensor in read.items() if name.endswith("relative_position_bias_table")]
    if weight is not None and weight.ndim == 4:
        b = replace(b, channels=weight.shape[1])
    if not isinstance(b, ViTConfig):
        return replace(cfg, backbone=b, classes=classes)
    side, (rows, columns) = 0, b.grid
    if places is not None and places.ndim == 3:
        count = places.shape[1] - (b.prefix if b.prefix_position else 0)
        side = math.isqrt(max(0, count)) if count != rows * columns else 0
    elif tables and tables[0] != (2 * rows - 1) * (2 * columns - 1) + 3:
        side = (math.isqrt(max(0, tables[0] - 3)) + 1) // 2
    if side:
        b = replace(b, image_size=b.patch_size + (side - 1) * b.step)
    return replace(cfg, backbone=b, classes=classes)


def nearest(tensors: Mapping[str, Tensor], name: str | None = None) -> Near | None:
    """None where no layout reads these names at all."""
    best: Near | None = None
    for reading in _readings(tensors, name):
        wanted, read = _expected(reading.name), reading.tensors
        fit = sum(n in read and read[n].shape == shape for n, shape in wanted.items())
        if fit and (best is None or fit > best.fit):
            differs = _difference(read, sized(CATALOG[reading.name].architecture, read))
            best = Near(reading.name, reading.layout, fit, len(wanted), *differs)
    return best


class _Reading(NamedTuple):
    name: str  # of the catalogue
    layout: str
    prefix: str
    tensors: dict[str, Tensor]  # by our names, without values


def _readings(tensors: Mapping[str, Tensor], name: str | None) -> Iterator[_Reading]:
    """As each network that has as many blocks and is as wide, in each of its layouts, if a rule knows every name."""
    counted = _blocks(tensors)
    widths = {tensor.shape[0] for tensor in tensors.values() if tensor.ndim == 1}
    likely = {n: e for n, e in CATALOG.items() if _counts(e.architecture.backbone) == counted} if name is None else {}
    if name is None and not likely:
        return
    shapes = {n: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for n, tensor in tensors.items()}
    known_reads: dict[tuple[str, str, int], dict[str, Tensor] | None] = {}  # moves ask for nothing but the heads' size
    for known, entry in (likely if name is None else {name: CATALOG[name]}).items():
        if name is None and entry.architecture.backbone.width not in widths:
            continue
        b = entry.architecture.backbone
        heads = b.size_of_head if isinstance(b, ViTConfig) else 0
        for prefix, inside in unwrapped(shapes):
            for layout in entry.layouts:
                key = layout, prefix, heads
                if key not in known_reads:
                    known_reads[key] = _read(inside, layout, entry.architecture)
                read = known_reads[key]
                if read is not None:
                    yield _Reading(known, layout, prefix, read)


def _blocks(names: Iterable[str]) -> tuple[int, bool]:
    """How many blocks, and whether they stand in stages: then they have two numbers, and what merges has one."""
    numbers = {tuple(_NUMBER.findall(name)) for name in names if _BEFORE not in name}
    most = max(map(len, numbers), default=0)
    return sum(len(found) == most for found in numbers) if most else 0, most > 1


def _counts(b: Backbone) -> tuple[int, bool]:
    return b.depth, b.maps < b.depth


def _read(tensors: dict[str, Tensor], layout: str, architecture: ClassifierConfig) -> dict[str, Tensor] | None:
    if not all(LAYOUTS[layout].knows(name) for name in [*tensors][:: max(1, len(tensors) // 8)]):
        return None
    try:
        return LAYOUTS[layout].read(tensors, architecture).tensors
    except (BadInput, RuntimeError, ValueError, IndexError):  # shapes that its moves cannot take
        return None


def unwrapped(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The names as they are, and without what stands before all of them."""
    prefix, inside = "", tensors
    while True:
        yield prefix, inside
        more = next((w for w in WRAPPED if all(name.startswith(w) for name in inside)), None)
        if more is None:
            return
        prefix, inside = prefix + more, {name.removeprefix(more): tensor for name, tensor in inside.items()}


@lru_cache(maxsize=256)
def _shapes(cfg: ClassifierConfig) -> Shapes:
    return shapes_of(cfg)


@cache
def _expected(name: str) -> Shapes:
    return {
        n: s
        for n, s in _shapes(CATALOG[name].architecture).items()
        if not n.startswith(FREE) and "relative_position" not in n
    }


def _difference(
    read: Mapping[str, Tensor], cfg: ClassifierConfig
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What is missing, what is too much, and what has another shape."""
    wanted = _shapes(cfg)
    missing = tuple(n for n in wanted if n not in read)
    extra = tuple(n for n in read if n not in wanted)
    shapes = tuple(
        f"{n} {tuple(read[n].shape)} instead of {tuple(s)}"
        for n, s in wanted.items()
        if n in read and read[n].shape != s
    )
    return missing, extra, shapes


def told(near: Near) -> str:
    """One line of what is in the way."""
    parts = [f"{near.fit} of {near.wanted} tensors fit {near.name} as {near.layout.partition('/')[0]} writes it"]
    for found, what in ((near.missing, "missing"), (near.extra, "not of it"), (near.shapes, "of another shape")):
        if found:
            more = ", ..." if len(found) > _SHOWN else ""
            parts.append(f"{len(found)} {what} ({', '.join(found[:_SHOWN])}{more})")
    return "; ".join(parts)
