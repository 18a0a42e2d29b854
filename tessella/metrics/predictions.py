"""What a model said of a data set: names, targets, outputs. One pass fills it; every metric is a function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import parallel

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Predictions:
    ids: tuple[str, ...]  # N
    targets: Array  # (N,) class numbers
    outputs: Array  # (N, K) fp32 logits


def fill(infer: Callable[[dict[str, Any]], Any], batches: Iterable[dict[str, Any]]) -> Predictions:
    """Runs on all ranks together, the same number of batches on each (a batch may be empty): each brings its own
    samples, all get the whole, in rank order."""
    ids: list[str] = []
    targets: list[Array] = []
    outputs: list[Array] = []
    for batch in batches:
        ids += batch["ids"]
        targets.append(batch["label"].cpu().numpy())
        outputs.append(torch.as_tensor(infer(batch)).detach().float().cpu().numpy())
    parts = parallel.gather_objects((ids, np.concatenate(targets), np.concatenate(outputs)))
    return Predictions(
        tuple(name for part in parts for name in part[0]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )
