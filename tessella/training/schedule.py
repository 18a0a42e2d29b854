"""The learning rate as a pure function of the step: linear warm-up, then half a cosine down to a floor."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, floor: float, warmup: int) -> float:
    """Step 0 already moves (peak / warmup); the last step ends near the floor."""
    if step < warmup:
        return peak * (step + 1) / warmup
    t = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))
