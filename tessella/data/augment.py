"""Random views of a training picture at the size that the card asks for; every draw comes from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..card import Preprocess
from ..errors import BadInput
from .decode import Pixels
from .transforms import evaluation_pixels

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 10  # crops drawn before giving up and taking the largest central one


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Light augmentation: a random crop, perhaps mirrored."""

    crop: Literal["resized", "pad", "none"] = "resized"  # "pad" shifts by a few pixels: for small or centred pictures
    scale: tuple[float, float] = (0.35, 1.0)  # share of the area that a resized crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height of a resized crop
    padding: int = 2  # pixels of black on each side before a pad crop
    flip: float = 0.5  # probability of mirroring left-right; 0 where sides mean something (digits, text)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise BadInput(f"augment.scale is {list(self.scale)}; give shares of the area with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"augment.ratio is {list(self.ratio)}; give width / height with 0 < low <= high")
        if self.padding < 0 or not 0 <= self.flip <= 1:
            raise BadInput(f"augment has padding {self.padding} and flip {self.flip}; padding >= 0 and flip in [0, 1]")


def augment(image: Pixels, cfg: AugmentConfig, preprocess: Preprocess, rng: np.random.Generator) -> Tensor:
    """(H, W, C) decoded to a random (C, h, w) view; every draw comes from `rng`."""
    flip = bool(rng.random() < cfg.flip)  # drawn first: the crop below takes as many numbers as it needs
    if cfg.crop == "resized":
        view = _resized_crop(image, cfg, preprocess, rng)
    else:
        view = evaluation_pixels(image, preprocess)
        if cfg.crop == "pad" and cfg.padding:
            view = _pad_crop(view, cfg.padding, rng)
    return view.flip(-1) if flip else view.contiguous()


def _resized_crop(image: Pixels, cfg: AugmentConfig, preprocess: Preprocess, rng: np.random.Generator) -> Tensor:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    top, left, height, width = crop_box(image.shape[0], image.shape[1], cfg, rng)
    window = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1)
    mode = InterpolationMode(preprocess.interpolation)
    resized: Tensor = functional.resize(window, list(preprocess.size), interpolation=mode, antialias=True)
    return resized


def crop_box(height: int, width: int, cfg: AugmentConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width): area and aspect drawn as in the Inception papers; aspect uniform in its logarithm."""
    areas = height * width * rng.uniform(*cfg.scale, TRIES)
    ratios = np.exp(rng.uniform(math.log(cfg.ratio[0]), math.log(cfg.ratio[1]), TRIES))
    where = rng.random(2)
    for area, ratio in zip(areas, ratios, strict=True):
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(where[0] * (height - h + 1)), int(where[1] * (width - w + 1)), h, w
    w = min(width, max(1, round(height * cfg.ratio[1])))  # nothing fitted: a very long or tiny picture
    h = min(height, max(1, round(width / cfg.ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def _pad_crop(view: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional

    h, w = view.shape[-2:]
    top, left = (int(v) for v in rng.integers(0, 2 * padding + 1, 2))
    padded: Tensor = functional.pad(view, [padding] * 4, fill=0)
    return padded[:, top : top + h, left : left + w]
