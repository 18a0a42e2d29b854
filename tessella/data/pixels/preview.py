"""Small pictures for pages: a data URI of a few kilobytes each, or nothing where there is nothing to see."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput
from ..source import Source
from .decode import decode, header

SIDE = 144  # pixels of the longer side of a picture on a page
TINY = 72  # up to here pixels are kept as they are: a JPEG of them would be mud


def preview(source: Source, i: int) -> str:
    """Of one sample, as it lies there."""
    name = source.ids[i]
    try:
        data = source.read(i)
        head = header(data, name)
        if head.channels - head.alpha not in (1, 3) or head.bits > 16 or head.numbers != "uint":
            return ""
        pixels = decode(data, 3, name, least=(SIDE, SIDE))
    except BadInput:
        return ""
    return encoded(pixels)


def encoded(pixels: NDArray[np.uint8], side: int = SIDE) -> str:
    """(height, width), (height, width, 1) or (height, width, 3) bytes."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    held = io.BytesIO()
    if max(image.size) <= TINY:
        image.save(held, "PNG", optimize=True)
        return uri(held, "png")
    image.thumbnail((side, side), reducing_gap=2.0)
    image.save(held, "JPEG", quality=80)
    return uri(held, "jpeg")


def uri(held: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(held.getvalue()).decode()
