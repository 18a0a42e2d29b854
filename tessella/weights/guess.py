"""Which architecture a bare weights file is of: what names and shapes say for certain, and never what they do not.

Shapes cannot tell the number of heads: it is taken from the preset of the same sizes, and where two presets share all
sizes the file is ambiguous.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..config import encode
from ..models.architecture import ClassifierConfig, PoolConfig, ViTConfig
from ..models.classifier import Classifier
from ..models.presets import PRESETS, classifier
from . import native

_BLOCK = re.compile(r"(?:layers\.\d+\.)?blocks\.\d+\.")
Shapes = dict[str, torch.Size]
UNCERTAIN = ("norm_pre.weight",)  # CLIP's: such files do not say which activation and epsilon they were trained with


def candidates(tensors: Mapping[str, Tensor]) -> list[str]:
    """The presets that these tensors, by their names in a file, fit in every shape but the head's."""
    width, depth = _width(tensors), _depth(tensors)
    if not width or any(name in tensors for name in UNCERTAIN):
        return []
    fit = []
    for name, preset in PRESETS.items():
        if (preset.width, preset.depth) == (width, depth):
            wanted = shapes_of(fitted(classifier(preset, 0), tensors))
            body = {n: tensors[n].shape for n in tensors if not n.startswith("head")}
            if {n: s for n, s in wanted.items() if not n.startswith("head")} == body:
                fit.append(name)
    return fit


def fitted(cfg: ClassifierConfig, tensors: Mapping[str, Tensor]) -> ClassifierConfig:
    """The architecture with what the tensors add to it: picture size, channels, classes, tokens, norms and scales."""
    first, head = tensors.get(cfg.backbone.first_weight), tensors.get(native.head_of(encode(cfg)))
    channels = first.shape[1] if first is not None and first.ndim == 4 else cfg.backbone.channels
    b, classes = replace(cfg.backbone, channels=channels), head.shape[0] if head is not None and head.ndim == 2 else 0
    if not isinstance(b, ViTConfig):
        return replace(cfg, backbone=b, classes=classes)
    registers = tensors.get("reg_token")
    b = replace(
        b,
        class_token="cls_token" in tensors or (b.class_token and not _is_square(tensors)),
        distill_token="dist_token" in tensors,
        registers=registers.shape[1] if registers is not None and registers.ndim == 3 else b.registers,
        final_norm=b.final_norm and ("norm.weight" in tensors or "fc_norm.weight" not in tensors),
        layer_scale=(b.layer_scale or 1e-5) if "blocks.0.ls1.gamma" in tensors else None,
    )
    pool: PoolConfig = replace(cfg.pool, norm="fc_norm.weight" in tensors)
    if "attn_pool.latent" in tensors:
        pool = replace(pool, kind="attention")
    elif not b.class_token or (pool.norm and cfg.pool.kind == "cls"):
        pool = replace(pool, kind="mean")
    return replace(cfg, backbone=_with_positions(b, tensors), pool=pool, classes=classes)


def patched(cfg: ClassifierConfig, tensors: Mapping[str, Tensor]) -> ClassifierConfig:
    """The architecture with the patches of these tensors: what is wanted may have others (FlexiViT)."""
    b, weight = cfg.backbone, tensors.get("patch_embed.proj.weight")
    if (
        not isinstance(b, ViTConfig)
        or weight is None
        or weight.ndim != 4
        or b.embed in ("stem", "resnet")
        or b.stride is not None
    ):
        return cfg
    side = weight.shape[-1]
    if weight.shape[-2] != side or side == b.patch_size:
        return cfg
    height, width = (n if n % side == 0 else side * count for n, count in zip(b.size, b.grid, strict=True))
    return replace(cfg, backbone=replace(b, patch_size=side, image_size=(height, width)))


def _with_positions(backbone: ViTConfig, tensors: Mapping[str, Tensor]) -> ViTConfig:
    """The picture size from the number of rows of the table; of pictures that are not square it says nothing."""
    table = tensors.get("pos_embed")
    if backbone.position != "learned" or table is None or table.ndim != 3:
        return backbone
    rows, columns = backbone.grid
    for prefixed in (True, False):  # with a row for each prefix token, and without: a square is one of the two at most
        count = table.shape[1] - backbone.prefix * prefixed
        if count == rows * columns:
            return replace(backbone, prefix_position=prefixed)
        side = math.isqrt(max(0, count))
        if side and side * side == count:
            size = backbone.patch_size + (side - 1) * backbone.step
            return replace(backbone, image_size=size, prefix_position=prefixed)
    return backbone


def _is_square(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the table of positions has a row for each patch and none for a class token: then there is none."""
    table = tensors.get("pos_embed")
    rows = table.shape[1] if table is not None and table.ndim == 3 else 0
    return math.isqrt(rows) ** 2 == rows > 0


def shapes_of(cfg: ClassifierConfig) -> Shapes:
    """Name in a file -> shape, of every tensor of this network; nothing is allocated."""
    with torch.device("meta"):
        found = Classifier(cfg).state_dict()
    table = native.to_file(encode(cfg), found)
    return {table[name]: tensor.shape for name, tensor in found.items()}


def _width(tensors: Mapping[str, Tensor]) -> int:
    weight = tensors.get("patch_embed.proj.weight")
    return weight.shape[0] if weight is not None and weight.ndim == 4 else 0


def _depth(tensors: Mapping[str, Tensor]) -> int:
    """Blocks, also those of several stages."""
    blocks = {found[0] for name in tensors if (found := _BLOCK.match(name))}
    return len(blocks)
