"""Mean and deviation of the pictures themselves, where nobody measured them yet: many channels, many bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...card import Preprocess
from ...errors import BadInput
from ..pixels.transforms import prepare
from ..source import Source

LOOKS = 128  # pictures, spread evenly over the source
LEAST = 1e-3  # deviation; a channel that never changes must not be divided by nothing


def measured(source: Source, preprocess: Preprocess) -> Preprocess:
    """The same with mean and deviation per channel of some pictures, as they reach the network; unreadable ones are
    left to the loader to name."""
    total = np.zeros((2, preprocess.channels))
    pixels, reason = 0, ""
    for i in range(0, len(source), max(1, len(source) // LOOKS)):
        try:
            picture = prepare(source.read(i), preprocess, source.ids[i])
        except BadInput as error:
            reason = reason or str(error)
            continue
        values = picture.numpy().astype(np.float64).reshape(preprocess.channels, -1) / _white(preprocess)
        total += np.stack([values.sum(1), (values**2).sum(1)])
        pixels += values.shape[1]
    if not pixels:
        raise BadInput(f"none of the first pictures can be read, so their mean is not known ({reason})")
    mean = total[0] / pixels
    deviation = np.sqrt(np.maximum(total[1] / pixels - mean**2, LEAST**2))
    return replace(preprocess, mean=_rounded(mean), std=_rounded(deviation))


def _white(preprocess: Preprocess) -> float:
    """The value that stands for 1."""
    return {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}[preprocess.depth]


def _rounded(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
