"""What a head says of a picture, from the network's outputs: a class with its probability, tags, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..card import Head, Task, slices

Array = np.ndarray[Any, np.dtype[Any]]
THERE = 0.5  # probability from which a picture has a tag


@dataclass(frozen=True)
class Answer:
    """Of one head."""

    task: Task
    names: tuple[str, ...] = ()  # of classes, or of the tags that are there; the most likely first
    probabilities: tuple[float, ...] = ()  # of these
    number: float | None = None  # in the unit of the training data

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.number:.6g}"
        told = ", ".join(f"{n} {100 * p:.1f} %" for n, p in zip(self.names, self.probabilities, strict=True))
        return told or "none"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        if self.number is not None:
            return {"number": self.number}
        named = "tags" if self.task == "tags" else "classes"
        return {named: list(self.names), "probabilities": list(self.probabilities)}


def answers(heads: Sequence[Head], outputs: Array, top: int) -> list[dict[str, Answer]]:
    """For each picture, by the names of the heads. outputs: (N, all heads' outputs side by side)."""
    each = [
        _of(head, outputs[:, at].astype(np.float64), top)
        for head, at in zip(heads, slices(heads).values(), strict=True)
    ]
    return [dict(zip([head.name for head in heads], row, strict=True)) for row in zip(*each, strict=True)]


def _of(head: Head, said: Array, top: int) -> list[Answer]:
    if head.task == "number":
        return [Answer("number", number=float(value)) for value in said[:, 0] * head.scale + head.mean]
    if head.task == "tags":
        likely = _sigmoid(said)
        kept = [np.flatnonzero(row >= THERE) for row in likely]
    else:
        likely = _softmax(said / head.temperature)
        kept = [np.arange(len(head.classes))] * len(likely)
    out = []
    for row, there in zip(likely, kept, strict=True):
        best = there[np.argsort(-row[there], kind="stable")][: None if head.task == "tags" else top]
        out.append(Answer(head.task, tuple(head.classes[k] for k in best), tuple(float(row[k]) for k in best)))
    return out


def _softmax(x: Array) -> Array:
    grown = np.exp(x - x.max(1, keepdims=True))
    shares: Array = grown / grown.sum(1, keepdims=True)
    return shares


def _sigmoid(x: Array) -> Array:
    shares: Array = np.exp(-np.logaddexp(0, -x))
    return shares
