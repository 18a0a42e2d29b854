"""Shapes of objects as COCO writes them, polygons and run lengths, to bitmaps: equal to its own tools, pixel by pixel.

Run lengths go down the columns. A polygon is drawn on a grid five times as fine, and a pixel's column changes sides
where the line crosses the middle of a pixel; so bitmaps of polygons drawn elsewhere (Pillow, OpenCV) differ at the rim.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names

Bitmap = NDArray[np.bool_]  # (H, W)
Size = tuple[int, int]  # height, width
FINE = 5  # steps of a polygon's grid within a pixel
PIXEL_CAP = 178_956_970  # pixels of one bitmap: as of a picture


@dataclass(frozen=True, eq=False)
class Outlines:
    """The shapes of one picture's objects, in the order of its boxes."""

    size: Size  # the picture as its annotations were drawn; (0, 0): not told
    shapes: tuple[Any, ...]  # of each object: polygons [[x, y, x, y, ...], ...], {"size", "counts"}, or None
    name: str = "the picture"

    def __len__(self) -> int:
        return len(self.shapes)

    def bitmaps(self, size: Size | None = None) -> NDArray[np.bool_]:
        """(n, H, W); an object without a shape has none of its pixels set."""
        height, width = size or self.size
        if height < 1 or width < 1 or height * width > PIXEL_CAP:
            raise BadInput(
                f"{self.name}: masks of {height} x {width} pixels cannot be drawn; mend the sizes told of it"
            )
        out = np.zeros((len(self.shapes), height, width), dtype=np.bool_)
        for i, shape in enumerate(self.shapes):
            try:
                if shape is not None:
                    out[i] = bitmap(shape, (height, width))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                told = " ".join(str(error).split()) or type(error).__name__
                raise BadInput(f"{self.name}: the shape of object {i} is damaged ({told}); mend or remove it") from None
        return out


class OutlineColumn:
    """Outlines of every picture, kept as text until asked for: COCO's 860,000 shapes are one piece of memory."""

    def __init__(self, texts: Names, sizes: NDArray[np.int64], ids: Names) -> None:
        self._texts, self._sizes, self._ids = texts, sizes, ids  # (n, 2) of height, width

    @classmethod
    def of(cls, shapes: Sequence[Sequence[Any]], sizes: NDArray[np.int64], ids: Names) -> OutlineColumn:
        return cls(Names.of(json.dumps(list(s), separators=(",", ":")) for s in shapes), sizes, ids)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, i: int) -> Outlines:
        height, width = self._sizes[i].tolist()
        return Outlines((height, width), tuple(json.loads(self._texts[i])), self._ids[i])

    def take(self, rows: NDArray[np.int64]) -> OutlineColumn:
        return OutlineColumn(self._texts.take(rows), self._sizes[rows], self._ids.take(rows))

    def digest(self) -> bytes:
        hasher = hashlib.sha256(b"outlines\0" + self._sizes.astype("<i8").tobytes())
        self._texts.feed(hasher)
        return hasher.digest()


def bitmap(shape: Any, size: Size) -> Bitmap:
    """One object's pixels. ValueError where the shape is none."""
    if isinstance(shape, dict):
        told = shape["size"]
        if list(told) != list(size):
            raise ValueError(f"its run lengths are of {told}, the picture is {list(size)}")
        counts = shape["counts"]
        return of_runs(packed(counts) if isinstance(counts, str) else counts, size)
    out = np.zeros(size, dtype=np.bool_)
    for polygon in shape:
        out |= of_polygon(polygon, size)
    return out


def of_runs(counts: Sequence[int] | NDArray[np.int64], size: Size) -> Bitmap:
    """Lengths of runs down the columns, the first of them off."""
    lengths = np.asarray(counts, dtype=np.int64)
    height, width = size
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"its runs cover {int(lengths.sum()):,} pixels of {height * width:,}")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T


def packed(text: str) -> list[int]:
    """COCO's text of run lengths: five bits a letter, the lowest first; from the fourth on, each is what it is more
    than the one two before."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{letter!r} does not belong into run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:  # the sign
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its run lengths are cut off")
    return counts


def of_polygon(corners: Sequence[float], size: Size) -> Bitmap:
    """The inside of x, y, x, y, ... by even and odd crossings."""
    points = np.asarray(corners, dtype=np.float64)
    if points.ndim != 1 or len(points) % 2 or len(points) < 6 or not np.isfinite(points).all():
        raise ValueError(f"a polygon is x, y of at least three corners, not {len(points)} numbers")
    height, width = size
    if np.abs(points).max() > 64 * (height + width):  # drawing costs what the line is long
        raise ValueError("a polygon that leads far out of the picture")
    u, v = _line(np.trunc(FINE * points.reshape(-1, 2) + 0.5).astype(np.int64))
    change = np.flatnonzero(u[1:] != u[:-1]) + 1
    left, top = np.minimum(u[change], u[change - 1]), np.minimum(v[change], v[change - 1])
    left = np.where(u[change] < u[change - 1], u[change], u[change] - 1)
    x = (left + 0.5) / FINE - 0.5
    kept = (x == np.floor(x)) & (x >= 0) & (x <= width - 1)  # only at the middle of a column of pixels
    y = np.ceil(np.clip((top[kept] + 0.5) / FINE - 0.5, 0, height)).astype(np.int64)
    at = np.sort(x[kept].astype(np.int64) * height + y)
    return of_runs(np.diff(at, prepend=0, append=height * width), size)  # two crossings at one place: a run of none


def _line(points: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All grid points of the closed line through these, one a step along its longer axis."""
    xs, ys = [], []
    for (x, y), (x_next, y_next) in zip(points, np.roll(points, -1, axis=0), strict=True):
        wide, high = abs(x_next - x), abs(y_next - y)
        steps = np.arange(max(wide, high) + 1)
        flat = wide >= high
        start, end = ((x, y), (x_next, y_next))
        flipped = start[0] > end[0] if flat else start[1] > end[1]
        if flipped:  # always drawn the same way, so that two shapes that share a side agree about it
            start, end = end, start
        if flat:
            slope = (end[1] - start[1]) / wide if wide else 0.0
            u, v = start[0] + steps, np.trunc(start[1] + slope * steps + 0.5).astype(np.int64)
        else:
            slope = (end[0] - start[0]) / high
            u, v = np.trunc(start[0] + slope * steps + 0.5).astype(np.int64), start[1] + steps
        xs.append(u[::-1] if flipped else u)
        ys.append(v[::-1] if flipped else v)
    return np.concatenate(xs), np.concatenate(ys)
