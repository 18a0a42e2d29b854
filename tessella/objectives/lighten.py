"""Steps that cost less at the start of a training: smaller pictures, and only some of their patches.

Early on a network learns what a part of the tokens shows as well; the last steps see everything, so that evaluation
meets what it knows (patch dropout: arXiv 2208.07220; growing pictures: arXiv 1806.01746, 2104.00298). What is left out
is drawn on the device, whose generator the trainer seeds from (seed, step, rank, micro-batch): a run that goes on draws
the same, and a step that was cut again because memory ran out draws anew.

Shape suffixes:  B batch  C channels  H,W pixels  N patches  n patches that stay
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BadInput
from ..models.architecture import Backbone, Common, ViTConfig


@dataclass(frozen=True, kw_only=True)
class LightenConfig:
    patch_dropout: float = 0.0  # share of the patches that are left out
    start_size: float = 1.0  # share of the full height and width at first; grows in whole patches
    light_until: float = 0.7  # share of the training after which pictures are whole again

    def __post_init__(self) -> None:
        if not 0 <= self.patch_dropout < 1:
            raise BadInput(f"objective.patch_dropout is {self.patch_dropout}; give a share in [0, 1)")
        if not 0 < self.start_size <= 1:
            raise BadInput(f"objective.start_size is {self.start_size}; give a share in (0, 1]; 1: full size at once")
        if not 0 <= self.light_until <= 1:
            raise BadInput(f"objective.light_until is {self.light_until}; give a share of the training in [0, 1]")


class Light(NamedTuple):
    """What the network gets to see."""

    images: Tensor  # (B, C, H, W), smaller perhaps
    keep: Tensor | None  # (B, n): the patches to process; None: all


def refuse_unfit(cfg: LightenConfig, backbone: Common) -> None:
    """Before the first step."""
    if cfg.patch_dropout and not backbone.chooses:
        kind = type(backbone).__name__.removesuffix("Config")
        what = f"objective.patch_dropout is {cfg.patch_dropout}, but a {kind} needs all patches"
        raise BadInput(f"{what}; set it to 0, or use objective.start_size")


def light(images_BCHW: Tensor, cfg: LightenConfig, backbone: Backbone, progress: float) -> Light:
    """`progress` in [0, 1]: how much of the training lies behind."""
    if progress >= cfg.light_until or images_BCHW.ndim != 4:  # a probe brings features instead of pictures
        return Light(images_BCHW, None)
    if cfg.start_size < 1:
        size = size_at(progress / cfg.light_until, cfg.start_size, _sides(images_BCHW), backbone)
        if size != _sides(images_BCHW):
            images_BCHW = F.interpolate(images_BCHW, size, mode="bilinear", antialias=True)
    return Light(images_BCHW, _kept(images_BCHW, cfg.patch_dropout, backbone) if cfg.patch_dropout else None)


def size_at(share: float, start: float, full: tuple[int, int], backbone: Common) -> tuple[int, int]:
    """(height, width) after this share of the growing. The area grows evenly, because it is what a step costs."""
    factor = (start**2 + (1 - start**2) * share) ** 0.5
    return _tiled(full[0], factor, backbone), _tiled(full[1], factor, backbone)


def _tiled(side: int, factor: float, backbone: Common) -> int:
    """The largest number of pixels up to side * factor that needs no padding; the least at least."""
    least, step = backbone.least, backbone.step
    return min(side, least + max(0, int(side * factor + 1e-6) - least) // step * step)


def _kept(images_BCHW: Tensor, dropout: float, backbone: Backbone) -> Tensor:
    assert isinstance(backbone, ViTConfig), "refuse_unfit has seen to it"
    rows, columns = backbone.grid_of(*backbone.padded(*_sides(images_BCHW)))
    patches = rows * columns
    stay = max(1, round(patches * (1 - dropout)))
    drawn_BN = torch.rand(len(images_BCHW), patches, device=images_BCHW.device)
    keep_Bn = drawn_BN.argsort(1)[:, :stay]
    return keep_Bn


def _sides(images_BCHW: Tensor) -> tuple[int, int]:
    height, width = images_BCHW.shape[-2:]
    return height, width
