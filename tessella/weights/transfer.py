"""Weights of one network as the start of another: what is loaded, resized, put in order, new, and left out.

The two may differ in picture size, patch size, channels, classes and what stands between the blocks and the classes.
Positions are resampled; patch weights go to another size by least squares (FlexiViT, Beyer 2022), and are summed over
channels or repeated (as timm's adapt_input_conv does); the rows of a head go by the names of their classes, never by
their numbers. Whatever else differs makes these the weights of another network, and that is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..card import Head
from ..errors import BadInput
from ..models.architecture import Backbone, ClassifierConfig, ViTConfig
from ..models.classifier import Classifier
from ..models.position import related, resample
from ..models.staged import SwinConfig

Tensors = dict[str, Tensor]
FREE = {"image_size", "channels", "drop_path", "remat", "indivisible", "position_resize"} | {
    f"{part}_dropout" for part in ("position", "projection", "mlp", "attention")
}  # what may differ between two backbones that share their weights
ALIKE = {"conv", "linear"}  # ways to embed patches: the same weights, the same values
RELATIVE = ".relative_position_bias_table"
HEADS, POOL = ("head.", "head_dist."), "pool."
IDLE = ("head", "pool.", "backbone.mask_token", "backbone.pre_logits.", "backbone.decoder")  # others' leavings
_SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Network:
    """An architecture, and what its outputs are called, in their order; () where nobody knows."""

    config: ClassifierConfig
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor."""

    loaded: int  # as they were
    resized: tuple[str, ...] = ()  # each with its sizes before and after
    head: str = "new"
    new: tuple[str, ...] = ()  # what starts as drawn, beside the head
    left: tuple[str, ...] = ()  # what the new network has no place for

    def __str__(self) -> str:
        told = [f"loaded {self.loaded} tensors", *(f"resized {what}" for what in self.resized), f"head {self.head}"]
        told += [f"new: {', '.join(self.new)}"] if self.new else []
        told += [f"left out: {', '.join(self.left)}"] if self.left else []
        return "; ".join(told)


def transfer(tensors: Mapping[str, Tensor], source: Network, target: Network) -> tuple[Tensors, Transfer]:
    """`tensors` by the source's names in memory; returned are those that the target starts with: all but the new."""
    differs = difference(source.config, target.config, FREE | _patches_free(source.config, target.config))
    if differs is not None:
        raise BadInput(f"{differs}; leave it out, or --weights")
    _refuse_incomplete(tensors, source.config)
    wanted = _shapes(target.config)
    out: Tensors = {}
    resized: list[str] = []
    for name in wanted.keys() & tensors.keys() - set(_heads(wanted)):
        out[name] = _fitted(name, tensors[name].float(), source.config.backbone, target.config.backbone)
        if out[name].shape != wanted[name]:
            what = f"{name} is {tuple(out[name].shape)} here and {tuple(wanted[name])} in the network"
            raise BadInput(f"these weights are of another network: {what}")
        if out[name].shape != tensors[name].shape:
            resized.append(_change(name, source.config.backbone, target.config.backbone))
    loaded = len(out) - len(resized)
    rows, told = _rows(tensors, source, target)
    if rows is not None:
        out |= _head(tensors, rows, source, target)
    new = sorted(n for n in wanted.keys() - out.keys() - set(_heads(wanted)))
    return out, Transfer(loaded, tuple(sorted(set(resized))), told, _grouped(new), _left(tensors, wanted))


# -- refusals --------------------------------------------------------------------------------------------------------


def difference(source: ClassifierConfig, target: ClassifierConfig, free: Collection[str] = FREE) -> str | None:
    """The first setting in which two backbones differ that cannot share their weights, or would compute otherwise."""
    if type(source.backbone) is not type(target.backbone):
        want, have = (type(cfg.backbone).__name__.removesuffix("Config") for cfg in (target, source))
        return f"model.backbone is a {want}, but the weights are of a {have}"
    for field in fields(source.backbone):
        have, want = getattr(source.backbone, field.name), getattr(target.backbone, field.name)
        if field.name in free or have == want or (field.name == "embed" and {have, want} == ALIKE):
            continue
        if field.name == "layer_scale" and None not in (have, want):
            continue  # the factor to start with: the weights have their own
        return f"model.backbone.{field.name} is {want!r}, but the weights are of a network with {have!r}"
    return None


def _patches_free(source: ClassifierConfig, target: ClassifierConfig) -> set[str]:
    """The size of patches may change where one matrix sees the whole of a patch, and no other patch does."""
    both = (source.backbone, target.backbone)
    plain = all(isinstance(b, ViTConfig) and b.embed in ALIKE and b.stride is None for b in both)
    return {"patch_size"} if plain else set()


def _side(backbone: Backbone) -> int:
    """Of a patch, pixels; 0 where patches cannot be of another size."""
    return backbone.patch_size if isinstance(backbone, ViTConfig) and backbone.embed in ALIKE else 0


def _refuse_incomplete(tensors: Mapping[str, Tensor], config: ClassifierConfig) -> None:
    wanted = _shapes(config)
    missing = [name for name in wanted if name not in tensors and not name.startswith(HEADS)]
    extra = [name for name in tensors if name not in wanted and not name.startswith(IDLE)]
    shapes = [
        f"{_shown(n)} {tuple(tensors[n].shape)} instead of {tuple(wanted[n])}"
        for n in wanted
        if n in tensors and tensors[n].shape != wanted[n]
    ]
    odd = [f"{_shown(n)} of {t.dtype}" for n, t in tensors.items() if n in wanted and not t.is_floating_point()]
    odd += [_shown(n) for n, t in tensors.items() if n in wanted and not bool(torch.isfinite(t).all())]
    kinds = (
        ("missing", list(map(_shown, missing))),
        ("that it has no place for", list(map(_shown, extra))),
        ("of another shape", shapes),
        ("that are no finite numbers", odd),
    )
    faults = [
        f"{len(found)} {what} ({', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''})"
        for what, found in kinds
        if found
    ]
    if faults:
        looked = config.backbone.looks
        raise BadInput(f"these are no weights of such a network ({looked}): tensors {'; '.join(faults)}")


# -- tensors ---------------------------------------------------------------------------------------------------------


def _shapes(config: ClassifierConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Classifier(config).state_dict().items()}


def _fitted(name: str, tensor: Tensor, source: Backbone, target: Backbone) -> Tensor:
    if name == f"backbone.{source.first_weight}":
        if isinstance(target, ViTConfig) and _side(source) != _side(target):
            tensor = patches(tensor, target.patch_size)
        return channels(tensor, target.channels) if source.channels != target.channels else tensor
    if isinstance(source, ViTConfig) and isinstance(target, ViTConfig) and source.grid != target.grid:
        if name == "backbone.pos_embed":
            return positions(tensor, source, target.grid)
        if name.endswith(RELATIVE):
            return related(*target.grid, tensor.device).resized(tensor, source.grid)
    if isinstance(source, SwinConfig) and isinstance(target, SwinConfig) and name.endswith(RELATIVE):
        return offsets(tensor, *(cfg.tile(_stage(name)) for cfg in (source, target)))
    return tensor


def _stage(name: str) -> int:
    return int(name.removeprefix("backbone.layers.").partition(".")[0])


def offsets(table: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """(R, A) of windows of a Swin, for windows that have become smaller or larger: those keep their size, save where a
    map of smaller pictures has no room for them."""
    rows, columns, down, across = (2 * n - 1 for n in (*before, *after))
    return resample(table.view(rows, columns, -1), down, across).flatten(0, 1)


def positions(table: Tensor, source: ViTConfig, grid: tuple[int, int]) -> Tensor:
    """(1, P + N, D) on another grid; the P rows of the prefix stay as they are."""
    rows, columns = source.grid
    prefix = table.shape[1] - rows * columns
    patches = table[0, prefix:].view(rows, columns, -1)
    new = resample(patches, *grid, plain=source.position_resize == "plain")
    return torch.cat([table[:, :prefix], new.flatten(0, 1)[None]], dim=1)


def channels(weight: Tensor, wanted: int) -> Tensor:
    """(D, C, p, p) for another number of channels. One: the sum, so that a grey picture gives what it gave as colour.
    More: repeated in turn, and scaled so that channels which are alike add up to what they did. Where filters are
    standardised (hybrids), the sums are scaled anew, each by its own factor, and grey gives only about what it gave."""
    have = weight.shape[1]
    if wanted == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, -(-wanted // have), 1, 1)[:, :wanted] * (have / wanted)


def patches(weight: Tensor, size: int) -> Tensor:
    """(D, C, p, p) for patches of `size` pixels: what a patch gave, its copy of that size gives as nearly as it can,
    and exactly where it is larger. Resizing a side is a matrix R of (size, p), so the weights are multiplied by R's
    pseudo-inverse on both sides."""
    one = torch.eye(weight.shape[-1], dtype=torch.float64)
    back: Tensor = torch.linalg.pinv(resample(one[:, None], size, 1)[:, 0])  # (p, size)
    return (back.T @ weight.double() @ back).float()


# -- heads -----------------------------------------------------------------------------------------------------------


def outputs(heads: tuple[Head, ...], named: bool) -> list[tuple[str, ...]]:
    """What each output of a network means. `named`: also by its head; a number has no other name. Where both networks
    have one head its name says nothing more than its classes do: it is often just "label"."""
    return [
        (head.name if named or head.task == "number" else "", head.task, name)
        for head in heads
        for name in (("",) if head.task == "number" else head.classes)
    ]


def _rows(tensors: Mapping[str, Tensor], source: Network, target: Network) -> tuple[list[int | None] | None, str]:
    """For each output of the target the row of the source's head that means the same, and how to say it; None: all
    new. A head is kept when one of the two names all that the other does: fewer classes, or some more."""
    named = len(source.heads) > 1 or len(target.heads) > 1
    have, want = outputs(source.heads, named), outputs(target.heads, named)
    before = f" instead of {source.config.classes}" if "head.weight" in tensors else ""
    new = f"new: {target.config.classes} outputs{before}"
    if not before or source.config.pool != target.config.pool:
        return None, new
    if not have:
        return None, f"{new}, which have no names"
    if not (set(want) <= set(have) or set(have) <= set(want)):
        return None, new
    if have == want:
        return list(range(len(have))), f"kept: {len(have)} outputs"
    at = {name: i for i, name in enumerate(have)}
    rows = [at.get(name) for name in want]
    fresh = rows.count(None)
    return rows, f"kept by name: {len(want) - fresh} of {len(have)} outputs" + (f", {fresh} new" if fresh else "")


def _head(tensors: Mapping[str, Tensor], rows: list[int | None], source: Network, target: Network) -> Tensors:
    """The heads' tensors with their rows in the target's order; a new row is zeros, whose class starts undecided."""
    factor, shift = _units(rows, source, target)
    out = {}
    for name in (name for name in tensors if name.startswith(HEADS)):
        held = tensors[name].float()
        picked = torch.stack([torch.zeros_like(held[0]) if row is None else held[row] for row in rows])
        out[name] = picked * factor[:, None] if picked.ndim == 2 else picked * factor + shift
    return out


def _units(rows: list[int | None], source: Network, target: Network) -> tuple[Tensor, Tensor]:
    """What each row is multiplied by, and what is added, so that a number says the same in the target's unit."""
    have, want = ([h for h in heads for _ in range(h.outputs)] for heads in (source.heads, target.heads))
    factor, shift = torch.ones(len(rows)), torch.zeros(len(rows))
    for i, row in enumerate(rows):
        if row is not None and want[i].task == "number":
            factor[i] = have[row].scale / want[i].scale
            shift[i] = (have[row].mean - want[i].mean) / want[i].scale
    return factor, shift


def _heads(names: Mapping[str, object]) -> list[str]:
    return [name for name in names if name.startswith(HEADS)]


# -- what is said ----------------------------------------------------------------------------------------------------


def _shown(name: str) -> str:
    """As the file has it."""
    return name.removeprefix("backbone.").removeprefix("pool.")


def _change(name: str, source: Backbone, target: Backbone) -> str:
    if name == "backbone.pos_embed" or name.endswith(RELATIVE):
        sides = [cfg.grid for cfg in (source, target) if isinstance(cfg, ViTConfig)]
        sides += [cfg.tile(_stage(name)) for cfg in (source, target) if isinstance(cfg, SwinConfig)]
        before, after = ("x".join(map(str, each)) for each in sides)
        what = "relative positions" if name.endswith(RELATIVE) else "positions"
        return f"{what} {before} to {after}"
    patch, colours = (_side(source), _side(target)), (source.channels, target.channels)
    told = [f"{a} to {b} {unit}" for (a, b), unit in ((patch, "px"), (colours, "channels")) if a != b]
    return f"patches {', '.join(told)}"


def _grouped(names: list[str]) -> tuple[str, ...]:
    """The first piece of each name: a pool is one thing, whatever it is made of."""
    return tuple(dict.fromkeys(_shown(name).split(".")[0] for name in names))


def _left(tensors: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> tuple[str, ...]:
    return _grouped(sorted(name for name in tensors if name not in wanted))
