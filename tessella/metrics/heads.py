"""The figures of everything that a model says: plain names where that is one thing, else `colour/top1`, `price/mae`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..card import Head
from .predictions import Predictions
from .summary import FIGURES, summary


def figures(found: Mapping[str, Predictions], heads: Sequence[Head]) -> dict[str, float]:
    each = {head: summary(found[head.name], head.task) for head in heads}
    return {_named(head, name, heads): value for head, told in each.items() for name, value in told.items()}


def names(heads: Sequence[Head]) -> list[str]:
    """What `figures` may be called. Which of them there are depends on the targets."""
    return [_named(head, name, heads) for head in heads for name in FIGURES[head.task]]


def _named(head: Head, name: str, heads: Sequence[Head]) -> str:
    return name if len(heads) == 1 else f"{head.name}/{name}"


def spoken(metrics: Mapping[str, float]) -> list[str]:
    """The first figure of each head, as a person reads it."""
    heads: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        head, _, name = key.rpartition("/")
        heads.setdefault(head, {})[name] = value
    told = {head: _first(m) for head, m in heads.items()}
    return [f"{head}: {line}" if head else line for head, line in told.items() if line]


def _first(m: Mapping[str, float]) -> str:
    loss = f" (loss {m['loss']:.4f})" if "loss" in m else ""
    if "top1_before" in m and "top1_added" in m:
        parts = f"of the classes from before {100 * m['top1_before']:.2f} %, of new ones {100 * m['top1_added']:.2f} %"
        return f"top-1 {100 * m['top1']:.2f} %{loss}; {parts}"
    if "top1" in m:
        return f"top-1 {100 * m['top1']:.2f} %{loss}"
    if "rank" in m:  # of features that were learned without labels
        judged = [
            f"{word} {100 * m[key]:.2f} %" for key, word in (("knn", "kNN"), ("linear", "linear probe")) if key in m
        ]
        return " · ".join([*judged, f"effective rank {m['rank']:.1f}"])
    if "map" in m:
        return f"mAP {100 * m['map']:.2f} %{loss}"
    return f"mean error {m['mae']:.4g}" + (f" (R2 {m['r2']:.3f})" if "r2" in m else "") if "mae" in m else ""
