"""A LoRA adapter out of two sets of weights: the difference of each map as two thin matrices, in the folder that PEFT
reads, under the names of whoever's network it shall sit on.

The two matrices are the largest parts of a singular value decomposition, so nothing of that rank is nearer. What they
leave out is measured, and refused above a tolerance. All that differs is in the adapter, or is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import durable, tensorfile
from ..config import encode
from ..config import nearest as nearest_name
from ..errors import BadInput
from . import native
from .layouts import LAYOUTS
from .lora import CLASSES, CONFIG, FILES, PREFIX, aims, find, outputs_of, some
from .table import rename

if TYPE_CHECKING:
    from .opened import Weights

Tensors = dict[str, Tensor]
ROUNDING = 2.0**-23  # of 32 bits: a difference is not known more closely than this share of what it is between
BOTH = {CONFIG, *FILES, "README.md"}  # what a folder may hold that is replaced


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    base: str  # what the adapter says that it was made on: a path, or an id of a hub
    layout: str = (
        "transformers/vit in memory"  # whose names, a key of LAYOUTS: PEFT looks for those that modules have in
    )
    # memory, so "in memory" is for version 5 of transformers, and without it for version 4
    rank: int = 16
    alpha: float | None = None  # None: the rank, so that the product is added as it is
    targets: tuple[str, ...] = ()  # ends of names of maps, as in PEFT's target_modules; (): the linear maps that differ
    save: tuple[str, ...] = ()  # ends of names of modules that are kept whole, such as norms; a new head always is
    tolerance: float = 1e-5  # what may be left out of a map's difference, as a share of it
    lossy: bool = False  # leave out more than that, and say how much

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise BadInput(f"there is no layout {self.layout!r}{nearest_name(self.layout, LAYOUTS)}")
        if self.rank < 1 or (self.alpha is not None and self.alpha <= 0):
            raise BadInput(f"rank is {self.rank}, alpha {self.alpha}; give a rank of 1 or more, and an alpha above 0")


@dataclass(frozen=True)
class Written:
    folder: Path
    maps: int  # that have two thin matrices
    residual: float  # share of the difference that the worst of them leaves out
    worst: str  # its name
    whole: tuple[str, ...]  # modules that are kept as they are

    def __str__(self) -> str:
        left = f"they leave out {self.residual:.2g} of the difference at most ({self.worst})"
        kept = f"; whole: {', '.join(self.whole)}" if self.whole else ""
        return f"{self.folder}: {self.maps} maps as thin matrices, {left}{kept}"


def write_adapter(folder: Path | str, base: Weights, tuned: Weights, settings: LoraSettings) -> Written:
    """What makes `tuned` of `base`, for PEFT and for `lora.merge`."""
    target = Path(folder)
    _refuse_strangers(target)
    before, after = (_theirs(weights, settings.layout) for weights in (base, tuned))
    differs = _differing(before, after, settings.layout)
    heads = {name.rpartition(".")[0] for name in outputs_of(settings.layout) & differs.keys()}
    whole = sorted({m for m in _modules(after) if m in heads or aims(settings.save, m)})
    maps = _maps(after, differs, whole, settings)
    kept = {name: tensor for name, tensor in after.items() if name.rpartition(".")[0] in whole}
    biases = {m for m in maps if f"{m}.bias" in differs}
    lacking = [m for m in maps if biases and f"{m}.bias" not in after]
    if lacking:
        what = f"the biases of {some(sorted(biases))} differ, and PEFT wants one on every map then"
        raise BadInput(f"{what}, also on {some(lacking)}; name other targets")
    covered = {f"{m}.weight" for m in maps} | {f"{m}.bias" for m in biases} | kept.keys()
    left = sorted(differs.keys() - covered)
    if left:
        what = f"{len(left)} more tensors differ that are no maps of targets ({some(left)})"
        raise BadInput(f"{what}; name them in `targets`, or their modules in `save`")
    scale = (settings.alpha or settings.rank) / settings.rank
    tensors = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in kept.items()}
    residuals = {}
    for m in maps:
        delta, noise = _delta(before[f"{m}.weight"], after[f"{m}.weight"])
        down, up, residuals[m] = _thin(delta, noise, settings.rank)
        tensors[f"{PREFIX}{m}.lora_A.weight"], tensors[f"{PREFIX}{m}.lora_B.weight"] = down, up / scale
        if biases and f"{m}.bias" in after:
            tensors[f"{PREFIX}{m}.lora_B.bias"] = _delta(before[f"{m}.bias"], after[f"{m}.bias"])[0].float() / scale
    worst = max(residuals, key=lambda m: residuals[m])
    if residuals[worst] > settings.tolerance and not settings.lossy:
        what = f"rank {settings.rank} leaves out {residuals[worst]:.2g} of the difference of {worst}"
        raise BadInput(f"{what}, more than {settings.tolerance:g}; give a higher rank, or lossy = True")
    config = _config(settings, maps, whole, bool(biases))
    classes = tuned.network.heads[0].classes if tuned.network.heads else ()
    _write(target, tensors, config, classes if heads else ())
    return Written(target, len(maps), residuals[worst], worst, tuple(whole))


# -- what differs ------------------------------------------------------------------------------------------------------


def _theirs(weights: Weights, layout: str) -> Tensors:
    cfg, ours = weights.network.config, weights.classifier_tensors
    flat = rename(ours, native.to_file(encode(cfg), ours))
    try:
        return LAYOUTS[layout].write(flat, cfg)
    except BadInput as error:
        raise BadInput(f"{weights.place} cannot be written as {layout}: {error}") from None


def _differing(before: Tensors, after: Tensors, layout: str) -> Tensors:
    """What is another tensor than it was, by name; the two are of one network, but for the head."""
    heads = outputs_of(layout)
    for name in sorted((before.keys() | after.keys()) - heads):
        here, there = after.get(name), before.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = " and ".join("missing" if t is None else str(tuple(t.shape)) for t in (there, here))
            raise BadInput(f"the two are not of one network: {name} is {shapes}")
    return {
        name: tensor
        for name, tensor in after.items()
        if name not in before or tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }


def _modules(tensors: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in tensors if "." in name))


def _maps(after: Tensors, differs: Tensors, whole: Sequence[str], settings: LoraSettings) -> list[str]:
    """The modules that get two thin matrices: PEFT puts them on all that its list names."""
    linear = [
        name.removesuffix(".weight") for name, t in after.items() if name.endswith(".weight") and t.ndim in (2, 4)
    ]
    free = [m for m in linear if m not in whole]
    found = [m for m in free if (aims(settings.targets, m) if settings.targets else f"{m}.weight" in differs)]
    unknown = [end for end in settings.targets if not any(aims([end], m) for m in linear)]
    if unknown or not found:
        what = f"no linear map of {settings.layout} is called {some(unknown)}" if unknown else "no linear map differs"
        raise BadInput(f"{what}; there are {some(sorted({m.rpartition('.')[2] for m in linear}), 12)}")
    return found


def _delta(before: Tensor, after: Tensor) -> tuple[Tensor, float]:
    """The difference, and how much of it may be rounding: of either tensor."""
    coarse = max(torch.finfo(t.dtype).eps for t in (before, after))
    return after.double() - before.double(), max(coarse, ROUNDING) * after.double().norm().item()


def _thin(delta: Tensor, noise: float, rank: int) -> tuple[Tensor, Tensor, float]:
    """lora_A, lora_B, and the share of the difference that they leave out, beside what is rounding."""
    rows, inside = delta.shape[0], delta.shape[1:]
    u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    root, have = s[:rank].sqrt(), min(rank, len(s))
    down, up = delta.new_zeros(rank, v.shape[1]), delta.new_zeros(rows, rank)
    down[:have], up[:, :have] = root[:, None] * v[:rank], u[:, :rank] * root
    lost = max(0.0, s[rank:].norm().item() - noise)
    share = lost / s.norm().item() if lost else 0.0
    return down.float().view(rank, *inside), up.float().view(rows, rank, *(1 for _ in inside[1:])), share


# -- the folder --------------------------------------------------------------------------------------------------------


def _config(settings: LoraSettings, targets: list[str], whole: list[str], biased: bool) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": settings.base, "revision": None,
        "inference_mode": True, "r": settings.rank, "lora_alpha": settings.alpha or settings.rank, "lora_dropout": 0.0,
        "target_modules": sorted(targets), "modules_to_save": whole or None, "bias": "none", "lora_bias": biased,
        "fan_in_fan_out": False, "init_lora_weights": True, "use_rslora": False, "use_dora": False,
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "layers_pattern": None,
    }  # fmt: skip


def _write(target: Path, tensors: Tensors, config: dict[str, Any], classes: Sequence[str]) -> None:
    tensorfile.refuse_shared(tensors)
    durable.require_space(target, tensorfile.size_of(tensors))

    def write(place: Path) -> None:
        more = {CLASSES: json.dumps(classes, ensure_ascii=False)} if classes else {}
        tensorfile.write(place / FILES[0], tensors, more)
        durable.write_file(place / CONFIG, json.dumps(config, indent=1) + "\n")

    durable.write_folder(target, write)


def _refuse_strangers(folder: Path) -> None:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there - BOTH or (there and find(folder) is None):
        what = f"{folder} holds {some(sorted(there))}, which writing an adapter would remove"
        raise BadInput(f"{what}; name another folder")
