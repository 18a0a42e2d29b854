"""Which patches of a picture are hidden from a network that has to say what they held.

Of every picture as many are hidden, so that what is left can be put together in one tensor. Random patches hide most
for their number; blocks (BEiT, arXiv 2106.08254) leave no neighbour to copy from; a grid (MAE's ablation, arXiv
2111.06377) leaves every second patch in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput

Hidden = NDArray[np.bool_]
TRIES = 20  # blocks that may change nothing before single patches fill up
LEAST = 4  # patches of a block
SLIM = 0.3  # least height over width of a block, and the other way


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    kind: Literal["random", "block", "grid"] = "random"
    share: float = 0.75  # of the patches, that is hidden
    unit: int = 1  # patches to a side that are hidden together, where random (SimMIM: 32 pixels)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise BadInput(f"data.views.share is {self.share:g}; give a share of the patches above 0 and below 1")
        if self.unit < 1 or (self.unit > 1 and self.kind != "random"):
            raise BadInput(f"data.views.unit is {self.unit} with {self.kind} masks; give 1, or more with random ones")
        if self.kind == "grid" and abs(1 - 1 / self.pace**2 - self.share) > 1e-6:
            raise BadInput(f"data.views.share is {self.share:g}; a grid leaves a quarter or a ninth: 0.75 or 8/9")

    @property
    def pace(self) -> int:
        """Of a grid: from one patch that is left to the next."""
        return max(1, round(1 / math.sqrt(1 - self.share)))

    def count(self, grid: tuple[int, int]) -> int:
        """How many patches of such a grid are hidden."""
        patches = grid[0] * grid[1]
        if self.kind == "grid":
            if grid[0] % self.pace or grid[1] % self.pace:
                what = f"a picture of {grid[0]} x {grid[1]} patches is no grid of {self.pace} by {self.pace} of them"
                raise BadInput(f"{what}; choose another --size, or data.views.kind random")
            return patches - patches // self.pace**2
        count = round(self.share * patches)
        if not 0 < count < patches:
            what = f"data.views.share {self.share:g} hides {count} of {patches} patches"
            raise BadInput(f"{what}; give another share, or a larger --size")
        return count


def hidden(cfg: MasksConfig, grid: tuple[int, int], rng: np.random.Generator) -> Hidden:
    """(rows, columns): True where a patch is hidden."""
    count = cfg.count(grid)
    match cfg.kind:
        case "random":
            return _random(grid, count, cfg.unit, rng)
        case "block":
            return _blocks(grid, count, rng)
        case "grid":
            return _grid(grid, cfg.pace, rng)


def _random(grid: tuple[int, int], count: int, unit: int, rng: np.random.Generator) -> Hidden:
    """Unit after unit in random order; of the last one only as many patches as are wanted."""
    down, across = -(-grid[0] // unit), -(-grid[1] // unit)
    rank = rng.permutation(down * across).reshape(down, across)
    each = rank.repeat(unit, 0).repeat(unit, 1)[: grid[0], : grid[1]]
    return _first(each + rng.random(each.shape) * (unit > 1), count)


def _blocks(grid: tuple[int, int], count: int, rng: np.random.Generator) -> Hidden:
    """Rectangles of random size, shape and place, until there are enough; the last one is only a part of one."""
    out, left, idle = np.zeros(grid, np.bool_), count, 0
    while left and idle < TRIES:
        area = rng.uniform(min(LEAST, left), left)
        shape = math.exp(rng.uniform(math.log(SLIM), -math.log(SLIM)))
        h, w = min(grid[0], _side(area * shape)), min(grid[1], _side(area / shape))
        top, start = rng.integers(0, grid[0] - h + 1), rng.integers(0, grid[1] - w + 1)
        new = np.zeros(grid, np.bool_)
        new[top : top + h, start : start + w] = True
        new &= ~out
        idle = 0 if new.any() else idle + 1
        out |= new if new.sum() <= left else new & _first(np.where(new, rng.random(grid), np.inf), left)
        left = count - int(out.sum())
    return out | _first(np.where(out, np.inf, rng.random(grid)), left) if left else out


def _grid(grid: tuple[int, int], pace: int, rng: np.random.Generator) -> Hidden:
    out = np.ones(grid, np.bool_)
    top, start = rng.integers(0, pace, 2)
    out[top::pace, start::pace] = False
    return out


def _first(order: NDArray[np.float64], count: int) -> Hidden:
    """The `count` places with the lowest numbers."""
    out = np.zeros(order.size, np.bool_)
    out[order.ravel().argsort(kind="stable")[:count]] = True
    return out.reshape(order.shape)


def _side(area: float) -> int:
    """Of a square."""
    return max(1, round(math.sqrt(area)))
