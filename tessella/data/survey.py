"""How large the pictures of a source are, from the headers of a few of them."""

from __future__ import annotations

import io
import statistics

from PIL import Image

from ..errors import BadInput
from .decode import FORMATS
from .source import Source


def median_side(source: Source, looks: int = 64) -> int:
    """The median of the longer sides, in pixels; pictures that cannot be read are left to the loader to name."""
    n = len(source)
    sides = []
    for i in range(0, n, max(1, n // looks)):
        try:
            with Image.open(io.BytesIO(source.read(i)), formats=FORMATS) as image:
                sides.append(max(image.size))
        except (OSError, ValueError, Image.DecompressionBombError, BadInput):
            continue
    return int(statistics.median(sides)) if sides else 0
