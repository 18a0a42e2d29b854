"""What learning without labels sees of a picture: several crops, patches that are hidden, or a turn by quarters.

Crops are DINO's, large and small (arXiv 2104.14294); two large views and no small ones are what SimCLR, MoCo and BYOL
take. The file is decoded once, for the crop that needs the most pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...card import Preprocess
from ...errors import BadInput
from .augment import (
    BOX_DRAWS,
    AugmentConfig,
    crop_box,
    cut,
    least_size,
    mirrored,
    read,
    recolour,
    refuse,
    scaled_window,
)
from .decode import header
from .masks import MasksConfig, hidden

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """How many views of which size, and what is done to each: as in DINO."""

    large: int = 2  # views of the card's size
    large_scale: tuple[float, float] = (0.4, 1.0)  # share of the area that they keep (DINOv2: 0.32; SimCLR: 0.08)
    small: int = 8  # views that the student alone sees
    small_size: int = 96  # pixels; a multiple of the patch (DINOv2: 98)
    small_scale: tuple[float, float] = (0.05, 0.4)  # share of the area that they keep (DINOv2: up to 0.32)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height of every crop
    flip: float = 0.5  # probability of mirroring left-right
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    jittered: float = 0.8  # probability of that
    grey: float = 0.2  # probability of losing all colour
    blur: tuple[float, ...] = (1.0, 0.1)  # probability for each large view; the last one holds for all that follow
    solarise: tuple[float, ...] = (0.0, 0.2)  # the same
    small_blur: float = 0.5  # probability for each small view
    masked: float = 0.0  # probability that some patches of a large view are hidden from the student (iBOT: 0.5)
    hidden: tuple[float, float] = (0.1, 0.5)  # share of these patches, in blocks

    def __post_init__(self) -> None:
        if not 0 <= self.masked <= 1 or not 0 < self.hidden[0] <= self.hidden[1] < 1:
            what = f"crops has masked {self.masked:g} and hidden {list(self.hidden)}"
            raise BadInput(f"{what}; give a probability, and shares with 0 < low <= high < 1")
        if self.large < 1 or self.small < 0 or self.small_size < 1:
            what = f"crops has {self.large} large views and {self.small} small ones of {self.small_size} pixels"
            raise BadInput(f"{what}; give one large view or more, and sizes of 1 pixel or more")
        if not self.blur or not self.solarise:
            raise BadInput("crops.blur or crops.solarise is empty; give a probability for each large view, or just one")
        for k in range(max(len(self.blur), len(self.solarise), self.large)):
            self.large_view(k)  # which refuses what cannot be
        self.small_view()

    def large_view(self, k: int) -> AugmentConfig:
        blur, solarise = self.blur[min(k, len(self.blur) - 1)], self.solarise[min(k, len(self.solarise) - 1)]
        return self._view(self.large_scale, blur, solarise)

    def small_view(self) -> AugmentConfig:
        return self._view(self.small_scale, self.small_blur, 0.0)

    def _view(self, scale: tuple[float, float], blur: float, solarise: float) -> AugmentConfig:
        return AugmentConfig(
            scale=scale,
            ratio=self.ratio,
            flip=self.flip,
            jitter=self.jitter,
            jittered=self.jittered,
            grey=self.grey,
            blur=blur,
            solarise=solarise,
        )


@dataclass(frozen=True, kw_only=True)
class TurnsConfig:
    """A picture is turned by so many quarters, which the network has to say (RotNet, arXiv 1803.07728)."""

    quarters: tuple[int, ...] = (0, 1, 2, 3)  # counter-clockwise; drawn evenly

    def __post_init__(self) -> None:
        if len(set(self.quarters)) < 2 or not set(self.quarters) <= {0, 1, 2, 3}:
            raise BadInput(f"data.views.quarters is {list(self.quarters)}; give two or more of 0, 1, 2, 3")


@dataclass(frozen=True, kw_only=True)
class StrongConfig:
    """The picture once more, changed strongly: its labels are guessed from the other, which is not (FixMatch)."""

    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(policy="randaugment", operations=2, magnitude=15, erase=0.5)
    )


Views = CropsConfig | MasksConfig | TurnsConfig | StrongConfig


def crops(
    data: bytes, cfg: CropsConfig, preprocess: Preprocess, rng: np.random.Generator, name: str = "the picture"
) -> dict[str, Tensor]:
    """Bytes of a file to {"global": (V, C, h, w), "local": (v, C, s, s)}; without "local" where `cfg.small` is 0.

    A collate stacks each leaf over the samples: (B, V, C, h, w).
    """
    import torch

    refuse(cfg.large_view(0), preprocess)
    full = header(data, name)
    size = (full.height, full.width)
    sides = [preprocess.size] * cfg.large + [(cfg.small_size, cfg.small_size)] * cfg.small
    kinds = [cfg.large_view(k) for k in range(cfg.large)] + [cfg.small_view()] * cfg.small
    draws = rng.random((len(kinds), 1 + BOX_DRAWS)).tolist()
    boxes = [crop_box(*size, kind, row[1:]) for kind, row in zip(kinds, draws, strict=True)]
    least = None
    if preprocess.decode == "scaled":
        needs = [least_size(size, box, out) for box, out in zip(boxes, sides, strict=True)]
        least = max(h for h, _ in needs), max(w for _, w in needs)
    image = read(data, preprocess, name, least)
    views = []
    for kind, box, out, row in zip(kinds, boxes, sides, draws, strict=True):
        window = scaled_window(full, image.shape, box)
        view = mirrored(cut(image, window.box, preprocess, out), row[0] < kind.flip, False)
        views.append(recolour(view, kind, rng).contiguous())
    leaves = {"global": torch.stack(views[: cfg.large])}
    if cfg.small:
        leaves["local"] = torch.stack(views[cfg.large :])
    return leaves


def masks_of_crops(cfg: CropsConfig, grid: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """(V, rows, columns) bool: what the student does not see of the large views."""
    import torch

    out = np.zeros((cfg.large, *grid), np.bool_)
    for view, (drawn, share) in zip(out, rng.random((cfg.large, 2)).tolist(), strict=True):
        if drawn < cfg.masked:
            low, high = cfg.hidden
            view[:] = hidden(MasksConfig(kind="block", share=low + share * (high - low)), grid, rng)
    return torch.from_numpy(out)
