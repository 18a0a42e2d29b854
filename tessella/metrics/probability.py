"""Logits to log-probabilities, some rows at a time: 50,000 x 1,000 in float64 would be 400 MB for each step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .predictions import Array

ROWS = 2048


def blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, n, ROWS))


def log_softmax(outputs: Array) -> Array:
    """(N, K) fp32, computed in float64. Rounded as the outputs are: the last bit of a sum must break no tie."""
    out = np.empty(outputs.shape, np.float32)
    for rows in blocks(len(outputs)):
        x = shifted(outputs[rows])
        out[rows] = x - np.log(np.exp(x).sum(1, keepdims=True))
    return out


def shifted(outputs: Array) -> Array:
    """(N, K) float64 whose largest of each row is 0: no exponential of it overflows."""
    x = outputs.astype(np.float64)
    out: Array = x - x.max(1, keepdims=True)
    return out
