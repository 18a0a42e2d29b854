"""Boxes and masks follow their picture: one description of what was cut, resized, moved and mirrored.

Coordinates are edges, not centres: a picture of width W spans 0 to W, and a mirrored x is W - x. A `Geometry` is told
in pixels of the upright picture; what a file says in its own, turned coordinates is brought there by `upright_boxes`
and `upright_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...card import Preprocess
from .decode import upright
from .transforms import THIN, before
from .transforms import _resized as resized_size

Floats = NDArray[np.float32]

SHARE = 0.1  # of its area that a box must still have inside the picture
SIDE = 1.0  # pixels of the result that each side of a box must still have


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A window of the upright picture is resized to `scaled`, laid at `offset` of a picture of `size`, and mirrored."""

    window: tuple[int, int, int, int]  # top, left, height, width in pixels of the upright picture
    scaled: tuple[int, int]  # height, width of the window after resizing
    offset: tuple[int, int] = (0, 0)  # top, left of the scaled window in the result; negative: cut off there
    size: tuple[int, int]  # height, width of the result
    flip: bool = False  # left-right, after all else
    vertical: bool = False  # upside down, after all else

    def moved(self, down: int, right: int) -> Geometry:
        return replace(self, offset=(self.offset[0] + down, self.offset[1] + right))

    def mirrored(self, flip: bool, vertical: bool) -> Geometry:
        return replace(self, flip=self.flip ^ flip, vertical=self.vertical ^ vertical)

    def boxes(self, corners: NDArray[Any]) -> Kept:
        """(n, 4) of x1, y1, x2, y2 in the upright picture to those of the result, clipped to it.

        A box stays if at least `SHARE` of its area is inside and both its sides are at least `SIDE` pixels; `rows` says
        which ones did, so that classes and the rest can be taken along: `classes[kept.rows]`.
        """
        flat = np.asarray(corners, np.float64).reshape(-1, 4)
        top, left, height, width = self.window
        scale = self.scaled[1] / width, self.scaled[0] / height
        moved = (flat - [left, top, left, top]) * (scale * 2) + (self.offset[1], self.offset[0]) * 2
        first = [max(0, at) for at in self.offset]  # of the window's pixels that are there
        last = [min(size, at + n) for size, at, n in zip(self.size, self.offset, self.scaled, strict=True)]
        clipped = np.clip(moved, (first[1], first[0]) * 2, (last[1], last[0]) * 2)
        sides = clipped[:, 2:] - clipped[:, :2]
        whole = (moved[:, 2:] - moved[:, :2]).prod(1)
        rows = np.flatnonzero((sides >= SIDE).all(1) & (sides.prod(1) >= SHARE * whole))
        return Kept(self._mirrored(clipped[rows]).astype(np.float32), rows.astype(np.int64))

    def _mirrored(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.flip:
            corners[:, [0, 2]] = self.size[1] - corners[:, [2, 0]]
        if self.vertical:
            corners[:, [1, 3]] = self.size[0] - corners[:, [3, 1]]
        return corners

    def back(self, corners: NDArray[Any]) -> Floats:
        """The other way: (n, 4) found in the result to the upright picture. Not clipped."""
        moved = self._mirrored(np.array(corners, np.float64).reshape(-1, 4))
        top, left, height, width = self.window
        scale = width / self.scaled[1], height / self.scaled[0]
        moved = (moved - (self.offset[1], self.offset[0]) * 2) * (scale * 2) + [left, top, left, top]
        return moved.astype(np.float32)

    def mask(self, values: NDArray[Any], fill: int = 255) -> NDArray[Any]:
        """(H, W) of class numbers in the upright picture to (h, w): each pixel the value below its centre, `fill` where
        there is no picture."""
        top, left, height, width = self.window
        rows, inside_rows = _sources(self.size[0], self.offset[0], self.scaled[0], top, height)
        columns, inside_columns = _sources(self.size[1], self.offset[1], self.scaled[1], left, width)
        out = np.full(self.size, fill, values.dtype)
        picked = values[np.ix_(rows.clip(0, values.shape[0] - 1), columns.clip(0, values.shape[1] - 1))]
        out[np.ix_(inside_rows, inside_columns)] = picked
        return out[:: -1 if self.vertical else 1, :: -1 if self.flip else 1].copy()


class Kept(NamedTuple):
    corners: Floats  # (m, 4)
    rows: NDArray[np.int64]  # (m,) which of the given boxes these are


def _sources(
    size: int, offset: int, scaled: int, start: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Along one axis: which source pixels are looked at, and at which pixels of the result they end up."""
    inside = np.arange(max(0, offset), min(size, offset + scaled))
    return (2 * (inside - offset) + 1) * length // (2 * scaled) + start, inside  # whole numbers: a tie is a tie


def whole(size: tuple[int, int]) -> Geometry:
    """Nothing happened to a picture of this (height, width)."""
    return Geometry(window=(0, 0, *size), scaled=size, size=size)


def evaluation_geometry(size: tuple[int, int], preprocess: Preprocess) -> Geometry:
    """What `transforms.prepare` does to an upright picture of this (height, width)."""
    height, width = size
    top = left = 0
    if preprocess.resize in ("shortest", "squash"):  # of a very long picture only the middle is taken
        limit = THIN * min(size)
        top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    window = (height - 2 * top, width - 2 * left)
    scaled = resized_size(window, preprocess)
    offset = [
        -before(have - want, preprocess) if have >= want else 0 if preprocess.resize == "pad" else (want - have) // 2
        for have, want in zip(scaled, preprocess.size, strict=True)
    ]
    return Geometry(window=(top, left, *window), scaled=scaled, offset=(offset[0], offset[1]), size=preprocess.size)


# ----------------------------------------------------------------------------------------------------- EXIF orientation


def upright_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """(height, width) as stored in the file to that of the upright picture; `turn` is EXIF's 1 to 8."""
    return (size[1], size[0]) if turn >= 5 else size


def upright_boxes(corners: NDArray[Any], turn: int, size: tuple[int, int]) -> Floats:
    """(n, 4) of x1, y1, x2, y2 in pixels as stored to those of the upright picture; `size`: height, width as stored."""
    out = np.array(corners, np.float32).reshape(-1, 4)
    if turn >= 5:
        out = out[:, [1, 0, 3, 2]]
    height, width = upright_size(size, turn)
    if turn in (3, 4, 7, 8):
        out[:, [1, 3]] = height - out[:, [3, 1]]
    if turn in (2, 3, 6, 7):
        out[:, [0, 2]] = width - out[:, [2, 0]]
    return out


def upright_mask(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """(H, W) as stored to upright, as the pixels are turned."""
    return upright(values[:, :, None], turn)[:, :, 0]
