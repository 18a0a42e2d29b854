"""The figures of everything that a model says: plain names where that is one thing, else `colour/top1`, `price/mae`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..card import Head
from .predictions import Predictions
from .summary import summary


def figures(found: Mapping[str, Predictions], heads: Sequence[Head]) -> dict[str, float]:
    each = {head.name: summary(found[head.name], head.task) for head in heads}
    if len(heads) == 1:
        return each[heads[0].name]
    return {f"{head}/{name}": value for head, told in each.items() for name, value in told.items()}
