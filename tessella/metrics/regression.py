"""How far numbers are off, in their own unit: mean absolute error, root mean square, share of variance explained.

`targets` (N,), NaN where nobody knows; `outputs` (N, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictions import Predictions


@dataclass(frozen=True)
class Errors:
    mae: float
    rmse: float
    r2: float | None  # None: all targets are equal, so there is nothing to explain


def errors(p: Predictions) -> Errors | None:
    """None: no target is known."""
    held = ~np.isnan(p.targets)
    targets = p.targets[held].astype(np.float64)
    if not len(targets):
        return None
    off = p.outputs.reshape(len(held), -1)[held, 0].astype(np.float64) - targets
    around = float(((targets - targets.mean()) ** 2).sum())
    mean_square = float((off * off).mean())
    r2 = 1 - float((off * off).sum()) / around if len(targets) > 1 and np.ptp(targets) else None
    return Errors(float(np.abs(off).mean()), mean_square**0.5, r2)
