"""Named sizes: data only, and the few lines that read them. Needs no torch.

t16 to h14 are timm's `vit_*_patch*_224`, number for number, and the Swins its `swin_*_patch4_window7_224`. The compact
ones are for training from scratch on few small pictures: a convolutional stem brings what attention would have to
learn, and the mean of the patches learns faster than a class token.
"""

from __future__ import annotations

from typing import NamedTuple

from ..config import nearest
from ..errors import BadInput
from .architecture import Backbone, ClassifierConfig, PoolConfig, ViTConfig
from .size import macs, parameters
from .staged import SwinConfig

PRESETS: dict[str, Backbone] = {
    "vit_n4": ViTConfig(  # 28 to 32 px
        image_size=32,
        patch_size=4,
        embed="stem",
        stem_convs=1,
        width=128,
        depth=4,
        heads=4,
        mlp_ratio=2.0,
        qk_norm=True,
        class_token=False,
    ),
    "vit_n8": ViTConfig(  # 41 to 112 px
        image_size=64,
        patch_size=8,
        embed="stem",
        stem_convs=1,
        width=128,
        depth=5,
        heads=4,
        mlp_ratio=2.0,
        qk_norm=True,
        class_token=False,
    ),
    "vit_m16": ViTConfig(width=256, depth=6, heads=8),
    "vit_t16": ViTConfig(width=192, heads=3),
    "vit_s16": ViTConfig(width=384, heads=6),
    "vit_b32": ViTConfig(patch_size=32),
    "vit_b16": ViTConfig(),
    "vit_l16": ViTConfig(width=1024, depth=24, heads=16),
    "vit_h14": ViTConfig(patch_size=14, width=1280, depth=32, heads=16),
    "swin_t": SwinConfig(),
    "swin_s": SwinConfig(depths=(2, 2, 18, 2)),
    "swin_b": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}


def preset(name: str) -> Backbone:
    """The backbone of this name; an unknown one is a BadInput with the nearest."""
    if name not in PRESETS:
        raise BadInput(f"there is no model {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]


def classifier(backbone: Backbone | str, classes: int) -> ClassifierConfig:
    """A classifier on this backbone, or on the preset of this name, with the pool that its tokens suggest."""
    cfg = preset(backbone) if isinstance(backbone, str) else backbone
    return ClassifierConfig(backbone=cfg, pool=PoolConfig(kind="cls" if cfg.class_token else "mean"), classes=classes)


class Row(NamedTuple):
    """One line of `tessella list`."""

    name: str
    image_size: tuple[int, int]  # pixels
    parameters: int  # with 1000 classes
    gmacs: float  # billions of multiplications for one picture of that size


def describe() -> list[Row]:
    """All presets, as `tessella list` shows them."""
    rows = []
    for name in PRESETS:
        cfg = classifier(name, 1000)
        rows.append(Row(name, cfg.backbone.size, parameters(cfg), macs(cfg) / 1e9))
    return rows
