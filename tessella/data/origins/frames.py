"""In which pixels boxes were drawn: those of the upright picture, or those that its file stores lying on its side.

An annotation says how large its picture was. Where that is the size of the upright picture, boxes are upright; where it
is the size as stored, and only then, the picture's EXIF turn is applied to them. Where both are the same (a square,
half a turn, a mirror image) or nothing is told, boxes count as upright: today's tools show pictures upright.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ..names import Names
from ..pixels.decode import header
from ..pixels.geometry import upright_boxes, upright_size
from ..pixels.sniff import Header
from ..source import Reader
from .tally import Tally
from .targets import Boxes

REACH = 1.0  # pixels that a box may reach out of its picture before that is said: COCO's own do by rounding
LOOKED_AT = 32  # pictures whose size is compared when a listing is made: all of them would be read for it


@dataclass(frozen=True, eq=False)
class SizeColumn:
    """(height, width) of every picture as its annotations tell it; (0, 0): not told."""

    sizes: NDArray[np.int64]  # (n, 2)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> tuple[int, int]:
        height, width = self.sizes[i].tolist()
        return height, width

    def take(self, rows: NDArray[np.int64]) -> SizeColumn:
        return SizeColumn(self.sizes[rows])

    def digest(self) -> bytes:
        return hashlib.sha256(b"sizes\0" + self.sizes.astype("<i8").tobytes()).digest()


def turn_of(told: tuple[int, int], head: Header, name: str = "the picture") -> int:
    """The EXIF turn that annotations drawn on a picture of this (height, width) have still to be given: 1 is none."""
    upright = head.height, head.width
    stored = upright_size(upright, head.turn)  # the swap is its own way back
    if 0 in told or told == upright:
        return 1
    if told == stored:
        return head.turn
    raise BadInput(
        f"{name} is {head.width} x {head.height} pixels, but its boxes were drawn on {told[1]} x {told[0]}; "
        "mend the size that is told, or put the picture back that they were drawn on"
    )


def upright(boxes: Boxes, told: tuple[int, int], head: Header, name: str = "the picture") -> Boxes:
    """Boxes in pixels of the upright picture, whatever they were drawn on."""
    turn = turn_of(told, head, name)
    return boxes if turn == 1 else boxes._replace(corners=upright_boxes(boxes.corners, turn, told))


def clipped(
    corners: NDArray[np.float64], sizes: NDArray[np.int64], keys: Sequence[str], tally: Tally
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """((n, 4) corners clipped to pictures of these (n, 2) sizes, which of them are boxes at all)."""
    limits = np.where(sizes > 0, sizes, np.inf)[:, [1, 0, 1, 0]]
    inside = np.clip(corners, 0, limits).astype(np.float32)
    flat = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    away = ~flat & (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    wide = ~flat & ~away & (np.abs(inside - corners) > REACH).any(axis=1)
    for which, what in (
        (flat, "boxes left out: their width or height is not above 0"),
        (away, "boxes left out: nothing of them is inside their picture"),
        (wide, "boxes reach out of their picture and are clipped to it"),
    ):
        if which.any():
            tally.add(what, keys[int(np.argmax(which))], int(which.sum()))
    return inside, np.flatnonzero(~flat & ~away)


def compared(reader: Reader, ids: Names, sizes: SizeColumn) -> list[str]:
    """Notes on a few pictures, evenly spread, whose size is not the one told, or whose boxes will be turned."""
    odd, turned = [], []
    rows = np.unique(np.linspace(0, len(ids) - 1, LOOKED_AT).astype(np.int64)).tolist() if len(ids) else []
    for row in rows:
        try:
            turn = turn_of(sizes[row], header(reader.read(row), ids[row]), ids[row])
        except BadInput as error:
            odd.append(str(error))  # or a picture that cannot be read at all: the same list of what is wrong
        else:
            turned += [ids[row]] if turn != 1 else []
    notes = [f"{len(odd):,} of {len(rows):,} pictures looked at are not what is told of them: {odd[0]}"] if odd else []
    if turned:
        told = f"{len(turned):,} of {len(rows):,} pictures looked at were annotated as stored, not upright"
        notes.append(f"{told}: their boxes are turned with them (first: {turned[0]})")
    return notes
