"""Boxes, masks and outlines follow their picture: from what an annotation says to the pixels of one view."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput
from ..origins.frames import turn_of, upright
from ..origins.outlines import Outlines
from ..origins.targets import Boxes
from ..pixels.geometry import Geometry, upright_mask, upright_size
from ..pixels.sniff import Header

VOID = 255  # in masks: pixels that count for nothing, and what is outside of the picture
PLACED = frozenset({"boxes", "mask", "outlines", "size"})  # targets that lie in the picture


def follow(values: Mapping[str, Any], geometry: Geometry, head: Header, name: str) -> dict[str, Any]:
    """All targets of one sample, those that lie in the picture in pixels of its view.

    `boxes` becomes a dict of tensors: corners (n, 4) float32, classes (n,) int64, crowd (n,) bool; those that the view
    has cut off are gone. `mask` becomes (h, w) uint8, `outlines` (n, h, w) bool for the boxes that are left. `size`,
    that of the picture the annotations were drawn on, has done its work.
    """
    told = values.get("size", (0, 0))
    out = {key: value for key, value in values.items() if key not in PLACED}
    kept: NDArray[np.int64] | None = None
    if "boxes" in values:
        boxes: Boxes = upright(values["boxes"], told, head, name)
        corners, kept = geometry.boxes(boxes.corners)
        parts = {"corners": corners, "classes": boxes.classes[kept], "crowd": boxes.crowd[kept]}
        out["boxes"] = {key: torch.from_numpy(np.ascontiguousarray(part)) for key, part in parts.items()}
    if "mask" in values:
        out["mask"] = torch.from_numpy(_mask(values["mask"], geometry, head, name))
    if "outlines" in values:
        out["outlines"] = torch.from_numpy(_outlines(values["outlines"], geometry, head, kept))
    return out


def _mask(data: bytes, geometry: Geometry, head: Header, name: str) -> NDArray[np.uint8]:
    if not data:
        return np.full(geometry.size, VOID, np.uint8)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "BMP", "GIF", "TIFF")) as picture:
            if picture.mode not in ("L", "P", "1"):  # of a palette the numbers count, not the colours
                raise BadInput(
                    f"the mask of {name} is in colour ({picture.mode}); give one whose pixels are class numbers"
                )
            values = np.asarray(picture.convert("L") if picture.mode == "1" else picture).astype(np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"the mask of {name} cannot be read ({error}); mend or remove it") from None
    size = head.height, head.width
    if values.shape != size:
        if values.shape != upright_size(size, head.turn):
            there, here = (f"{w} x {h}" for h, w in (values.shape, size))
            raise BadInput(f"the mask of {name} has {there} pixels and the picture {here}; mend one of them")
        values = upright_mask(values, head.turn)
    return np.ascontiguousarray(geometry.mask(values, VOID))


def _outlines(shapes: Outlines, geometry: Geometry, head: Header, kept: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    size = shapes.size if 0 not in shapes.size else (head.height, head.width)
    turn = turn_of(shapes.size, head, shapes.name)
    maps = shapes.bitmaps(size)
    maps = maps if kept is None else maps[kept]
    out = np.zeros((len(maps), *geometry.size), np.bool_)
    for i, bitmap in enumerate(maps):
        out[i] = geometry.mask(bitmap if turn == 1 else upright_mask(bitmap, turn), 0)
    return out
