"""What a model said of a data set: names, targets, outputs. One pass fills it; every metric is a function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .. import parallel
from ..card import Head, leaves, slices
from ..errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Predictions:
    """One head's. What a target is depends on its task; of an unknown one nothing is counted."""

    ids: tuple[str, ...]  # N
    targets: Array  # classify: (N,) class numbers, -1 unknown; tags: (N, K) 0 or 1; number: (N,); NaN unknown
    outputs: Array  # fp32: (N, K) logits; number: (N, 1) in the unit of its targets


def known(p: Predictions) -> Predictions:
    """The samples whose target somebody knows, of tags any part of it."""
    whole = p.targets.dtype.kind in "iu"
    held = np.asarray(p.targets >= 0 if whole else ~np.isnan(p.targets.reshape(len(p.ids), -1)).all(1))
    if held.all():
        return p
    ids = tuple(name for name, there in zip(p.ids, held, strict=True) if there)
    return Predictions(ids, p.targets[held], p.outputs[held])


def at_temperature(p: Predictions, temperature: float, before: float = 1.0) -> Predictions:
    """The same answers of a class, as sure as their head is at another temperature."""
    return p if temperature == before else replace(p, outputs=p.outputs * np.float32(before / temperature))


def fill(
    infer: Callable[[dict[str, Any]], Any], batches: Iterable[dict[str, Any]], heads: Sequence[Head]
) -> dict[str, Predictions]:
    """By the heads' names. Runs on all ranks together, the same number of batches on each (a batch may be empty, where
    pictures could not be read or there are too few): each brings its own samples, all get the whole, in rank order."""
    ids: list[str] = []
    outputs: list[Array] = []
    targets: dict[str, list[Array]] = {head.name: [] for head in heads}
    for batch in batches:
        if not batch["ids"] and not parallel.active():  # several ranks exchange weights in every forward
            continue
        ids += batch["ids"]
        outputs.append(torch.as_tensor(infer(batch)).detach().float().cpu().numpy())
        for name, leaf in leaves(heads).items():
            targets[name].append(batch[leaf].cpu().numpy())
    here = (ids, np.concatenate(outputs), {n: np.concatenate(t) for n, t in targets.items()}) if ids else None
    parts = [part for part in parallel.gather_objects(here) if part is not None]
    if not parts:
        raise BadInput("there is no picture to judge the model by: none could be read; see the list of bad files")
    names = tuple(name for part in parts for name in part[0])
    whole = np.concatenate([part[1] for part in parts])
    return {
        head.name: Predictions(names, np.concatenate([part[2][head.name] for part in parts]), answers(whole, head, at))
        for head, at in zip(heads, slices(heads).values(), strict=True)
    }


def answers(outputs: Array, head: Head, at: slice) -> Array:
    """What one head says: logits at its temperature, or a number in the unit of its targets."""
    mine = outputs[:, at]
    if head.task == "number":
        return (mine.astype(np.float64) * head.scale + head.mean).astype(np.float32)
    return mine if head.temperature == 1 else mine / np.float32(head.temperature)
