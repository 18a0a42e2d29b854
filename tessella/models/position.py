"""Where a patch lies: resampled tables, sin-cos tables, rotary angles. Nobody else in the project resamples positions.

Shape suffixes:  h,w patches of the wanted grid  N = h * w  T all tokens  D width  K head size
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .architecture import RotaryConfig


@functools.lru_cache(maxsize=256)  # arrays, not tensors: those would remember the mode in which they were made
def _bicubic_weights(old: int, new: int, double: bool = False) -> npt.NDArray[Any]:
    """(new, old) weights of one axis: Keys' cubic with a = -0.5, widened when shrinking, as Pillow does.

    Scale and centres are rounded to the table's precision because ATen's are: exact ones lie 3e-6 away in 32 bits.
    """
    rounded = np.float64 if double else np.float32
    scale = np.float64(rounded(old / new))
    stretch = max(scale, np.float64(1))
    centres = ((np.arange(new) + 0.5) * scale).astype(rounded).astype(np.float64)[:, None]
    at = np.arange(old)
    t = np.abs(at - centres + 0.5) / stretch
    weights = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, np.where(t < 2, ((-0.5 * t + 2.5) * t - 4) * t + 2, 0))
    # the window of whole samples, as ATen and Pillow cut it; it drops only what is almost zero
    first, last = np.trunc(centres - 2 * stretch + 0.5), np.trunc(centres + 2 * stretch + 0.5)
    weights = np.where((at >= first) & (at < last), weights, 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), dtype=rounded)


@functools.lru_cache(maxsize=256)
def _plain_weights(old: int, new: int, double: bool = False) -> npt.NDArray[Any]:
    """(new, old) weights of one axis: the cubic with a = -0.75 over four neighbours, the outermost repeated."""
    rounded = np.float64 if double else np.float32
    steps: npt.NDArray[Any] = np.arange(new).astype(rounded)  # ATen counts in the table's precision
    at = (rounded(old / new) * (steps + rounded(0.5)) - rounded(0.5)).astype(np.float64)
    first = np.floor(at)
    weights = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        t = np.abs(at - first - step)
        near, far = (1.25 * t - 2.25) * t * t + 1, ((-0.75 * t + 3.75) * t - 6) * t + 3
        np.add.at(weights, (np.arange(new), np.clip(first + step, 0, old - 1).astype(int)), np.where(t <= 1, near, far))
    return np.asarray(weights, dtype=rounded)


def resample(table: Tensor, h: int, w: int, plain: bool = False) -> Tensor:
    """A (rows, columns, D) table on an (h, w) grid: (h, w, D).

    Equal to `F.interpolate(mode="bicubic", antialias=True)`, but two matrix products: its backward is deterministic and
    it exports as it is. In 32 bits at least, also under autocast. `plain`: as without antialias, which also overshoots
    more.
    """
    rows, columns = table.shape[:2]
    if (rows, columns) == (h, w):
        return table
    device, double = table.device, table.dtype == torch.float64
    weights = _plain_weights if plain else _bicubic_weights
    with torch.autocast(device.type, enabled=False):
        x = table if double else table.float()
        if rows != h:
            down = torch.as_tensor(weights(rows, h, double), device=device)
            x = (down @ x.flatten(1)).view(h, columns, -1)  # (h, columns, D)
        if columns != w:
            across = torch.as_tensor(weights(columns, w, double), device=device)
            x = across @ x  # (h, w, D)
    return x.to(table.dtype)


def sincos(width: int, h: int, w: int, base: float = 10_000.0) -> Tensor:
    """The fixed (h, w, D) table of MAE: sines and cosines of the column, then of the row."""
    omega = base ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y = torch.arange(h, dtype=torch.float64)[:, None, None].expand(h, w, 1) * omega
    x = torch.arange(w, dtype=torch.float64)[None, :, None].expand(h, w, 1) * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=2).float()


class Related(NamedTuple):
    """Where each token lies in the grid, for the tables of relative positions that the blocks hold (BEiT).

    The rows of such a table are the differences of two places, row by row, and three more for tokens without a place:
    from one to a patch, from a patch to one, between two of them.
    """

    at: Tensor  # (B or 1, T): number of the patch, row by row; -1: no place
    grid: tuple[int, int]  # (h, w)

    def rows(self) -> Tensor:
        """(B or 1, T, T): the row for query and key."""
        h, w = self.grid
        query, key = self.at[:, :, None], self.at[:, None, :]
        down, across = query // w - key // w + h - 1, query % w - key % w + w - 1
        count = (2 * h - 1) * (2 * w - 1)
        placeless = torch.where(query < 0, torch.where(key < 0, count + 2, count), count + 1)
        return torch.where((query < 0) | (key < 0), placeless, down * (2 * w - 1) + across)

    def resized(self, table: Tensor, grid: tuple[int, int]) -> Tensor:
        """A (rows, A) table of differences in another grid, for this one; linear between them, as transformers does."""
        if grid == self.grid:
            return table
        (h, w), (rows, columns) = self.grid, (2 * n - 1 for n in grid)
        old = table[:-3].T.reshape(1, -1, rows, columns)
        new = F.interpolate(old.float(), (2 * h - 1, 2 * w - 1), mode="bilinear").to(table.dtype)
        return torch.cat([new[0].flatten(1).T, table[-3:]])


class Place(NamedTuple):
    """What the attention knows of each token's place: the factors that turn queries and keys, and how tokens lie to
    each other. Without either: nothing.

    Tokens without a place (class, registers, prompts) have cos 1 and sin 0, so one rule holds for all tokens. Whoever
    adds, drops or reorders tokens during a walk does the same here.
    """

    cos: Tensor | None = None  # (B or 1, 1, T, K), float32
    sin: Tensor | None = None  # (B or 1, 1, T, K), float32
    related: Related | None = None

    def with_placeless(self, count: int, at: int = 0) -> Place:
        """`count` more tokens without a place, put in before token `at`."""
        if count == 0:
            return self
        cos, sin, related = self.cos, self.sin, self.related
        if cos is not None and sin is not None:
            one = cos.new_ones(cos.shape[0], 1, count, cos.shape[3])
            cos = torch.cat([cos[:, :, :at], one, cos[:, :, at:]], dim=2)
            sin = torch.cat([sin[:, :, :at], torch.zeros_like(one), sin[:, :, at:]], dim=2)
        if related is not None:
            none = related.at.new_full((related.at.shape[0], count), -1)
            related = Related(torch.cat([related.at[:, :at], none, related.at[:, at:]], dim=1), related.grid)
        return Place(cos, sin, related)

    def select(self, index: Tensor) -> Place:
        """The tokens (B, n) of each picture, in that order."""
        cos, sin, related = self.cos, self.sin, self.related
        if cos is not None and sin is not None:
            cos, sin = (t.expand(index.shape[0], -1, -1, -1) for t in (cos, sin))
            where = index[:, None, :, None].expand(-1, 1, -1, cos.shape[3])
            cos, sin = cos.gather(2, where), sin.gather(2, where)
        if related is not None:
            related = Related(related.at.expand(index.shape[0], -1).gather(1, index), related.grid)
        return Place(cos, sin, related)

    def turn(self, x: Tensor) -> Tensor:
        """Queries or keys (B, A, T, K), turned. In 32 bits, returned in the type of x."""
        if self.cos is None or self.sin is None:
            return x
        a, b = x.chunk(2, dim=-1)
        return (x * self.cos + torch.cat([-b, a], dim=-1) * self.sin).to(x.dtype)


def related(h: int, w: int, device: torch.device) -> Related:
    """The places of h * w patches."""
    return Related(torch.arange(h * w, device=device)[None], (h, w))


def rotary(cfg: RotaryConfig, head_size: int, h: int, w: int, device: torch.device) -> Place:
    """The place of h * w patches. Features turn in pairs (i, i + K / 2), the first half of the pairs by the row."""
    count = head_size // 4
    frequency = cfg.base ** -(torch.arange(count, device=device, dtype=torch.float32) / count)
    rows, columns = (_places(cfg, n, axis, device)[:, None] * frequency for axis, n in enumerate((h, w)))
    both = [rows[:, None].expand(h, w, count), columns[None].expand(h, w, count)]
    angles = torch.cat(both * 2, dim=2).flatten(0, 1)[None, None]  # (1, 1, N, K)
    return Place(angles.cos(), angles.sin())


def _places(cfg: RotaryConfig, count: int, axis: int, device: torch.device) -> Tensor:
    """(count,) angles at frequency 1 along one axis."""
    at = torch.arange(count, device=device, dtype=torch.float32)
    if cfg.reference is None:
        return ((at + 0.5) / count * 2 - 1) * (2 * math.pi)
    full = cfg.reference if isinstance(cfg.reference, int) else cfg.reference[axis]
    return (at + cfg.offset) / count * full
