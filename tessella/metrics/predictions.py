"""What a model said of a data set: names, targets, outputs. One pass fills it; every metric is a function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import parallel
from ..errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]
_NONE: Array = np.zeros(0)


@dataclass(frozen=True)
class Predictions:
    ids: tuple[str, ...]  # N
    targets: Array  # (N,) class numbers
    outputs: Array  # (N, K) fp32 logits


def fill(infer: Callable[[dict[str, Any]], Any], batches: Iterable[dict[str, Any]]) -> Predictions:
    """Runs on all ranks together, the same number of batches on each (a batch may be empty, where pictures could not be
    read or there are too few): each brings its own samples, all get the whole, in rank order."""
    ids: list[str] = []
    targets: list[Array] = []
    outputs: list[Array] = []
    for batch in batches:
        if not batch["ids"] and not parallel.active():  # several ranks exchange weights in every forward
            continue
        ids += batch["ids"]
        targets.append(batch["label"].cpu().numpy())
        outputs.append(torch.as_tensor(infer(batch)).detach().float().cpu().numpy())
    here = (ids, np.concatenate(targets), np.concatenate(outputs)) if outputs else ([], _NONE, _NONE)
    parts = [part for part in parallel.gather_objects(here) if part[0]]  # shapes of nothing do not matter
    if not parts:
        raise BadInput("there is no picture to judge the model by: none could be read; see the list of bad files")
    return Predictions(
        tuple(name for part in parts for name in part[0]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
    )
