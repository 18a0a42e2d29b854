"""Which patches of a picture are hidden from a network that learns to fill them in.

Blocks are those of BEiT, iBOT and DINOv2 (arXiv 2106.08254): boxes of random area and aspect that may overlap.
"inverse" draws boxes to *keep*, as data2vec 2.0 does (2212.07525); "random" is MAE's (2111.06377). All draws come from
the generator that is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..loading.seeded import generator

Mask = NDArray[np.bool_]  # (h, w) of patches; True: hidden
TRIES = 10  # boxes drawn in a row that cover nothing new, before giving up


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How many patches are hidden, and in what shapes."""

    kind: Literal["block", "random", "inverse"] = "block"
    share: tuple[float, float] = (0.4, 0.4)  # of the patches; drawn evenly between the two (DINOv2: 0.1 to 0.5)
    probability: float = 1.0  # that a picture is masked at all (DINOv2: 0.5)
    smallest: int = 4  # patches of a box, at least (BEiT: 16)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)  # height over width of a box
    exact: bool = True  # exactly the share, single patches making up what boxes leave; False: at most

    def __post_init__(self) -> None:
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise BadInput(f"mask.share is {list(self.share)}; give shares with 0 <= low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"mask.ratio is {list(self.ratio)}; give height / width with 0 < low <= high")
        if not 0 <= self.probability <= 1 or self.smallest < 1:
            what = f"mask has probability {self.probability:g} and smallest {self.smallest}"
            raise BadInput(f"{what}; give a probability in [0, 1] and a box of 1 patch or more")


def mask_of(cfg: MaskConfig, grid: tuple[int, int], seed: int, epoch: int, name: str) -> Mask:
    """The mask of one sample in one epoch."""
    return mask(grid, cfg, generator(seed, "mask", epoch, name))


def mask(grid: tuple[int, int], cfg: MaskConfig, rng: np.random.Generator) -> Mask:
    """(h, w), True where a patch is hidden."""
    masked, share = rng.random(2).tolist()
    total = grid[0] * grid[1]
    count = round(total * (cfg.share[0] + (cfg.share[1] - cfg.share[0]) * share))
    if masked >= cfg.probability:
        return np.zeros(grid, np.bool_)
    if cfg.kind == "random":
        return random_mask(grid, count, rng)
    if cfg.kind == "block":
        return block_mask(grid, count, cfg, rng)
    shown = block_mask(grid, total - count, cfg, rng)
    if not cfg.exact:  # at most `count` hidden means at least the rest shown
        _complete(shown, total - count, rng)
    return ~shown


def block_mask(grid: tuple[int, int], count: int, cfg: MaskConfig, rng: np.random.Generator) -> Mask:
    """Boxes until `count` patches are covered, or no box finds room."""
    height, width = grid
    out = np.zeros(grid, np.bool_)
    left = count
    tries = 0
    while left > 0 and tries < TRIES:
        tries += 1
        area, aspect, y, x = rng.random(4).tolist()
        least = min(cfg.smallest, left)
        area = least + (left - least) * area
        ratio = math.exp(math.log(cfg.ratio[0]) + math.log(cfg.ratio[1] / cfg.ratio[0]) * aspect)
        h, w = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if h > height or w > width:
            continue
        top, start = int(y * (height - h + 1)), int(x * (width - w + 1))
        box = out[top : top + h, start : start + w]
        new = h * w - int(box.sum())
        if 0 < new <= left:
            box[...] = True
            left -= new
            tries = 0
    if cfg.exact:
        _complete(out, count, rng)
    return out


def _complete(out: Mask, count: int, rng: np.random.Generator) -> None:
    """Single patches on top, of equal chance, until `count` are covered."""
    missing = count - int(out.sum())
    if missing > 0:
        free = np.flatnonzero(~out)
        out.ravel()[rng.choice(free, missing, replace=False)] = True


def random_mask(grid: tuple[int, int], count: int, rng: np.random.Generator) -> Mask:
    out = np.zeros(grid[0] * grid[1], np.bool_)
    out[rng.permutation(len(out))[:count]] = True
    return out.reshape(grid)


def kept(hidden: Mask) -> NDArray[np.int64]:
    """(n,) numbers of the patches that are seen, row by row in rising order: `keep` of the backbone's forward. With
    `exact` and one share they are as many for each sample."""
    return np.flatnonzero(~hidden.ravel()).astype(np.int64)
