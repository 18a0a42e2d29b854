"""The figures of one head, by its task: what a log row, a card and `evaluate` say. What cannot be said is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..card import Task
from . import regression, tags
from .accuracy import cross_entropy, top
from .calibration import reliability
from .confusion import balanced_accuracy, confusion, macro_f1
from .predictions import Predictions, known
from .probability import log_softmax
from .ranking import auroc, average_precision, one_against_rest

FIGURES: dict[Task, tuple[str, ...]] = {  # what `summary` may give
    "classify": ("top1", "top5", "loss", "balanced_accuracy", "macro_f1", "auroc", "ece"),
    "tags": ("map", "macro_f1", "auroc", "loss"),
    "number": ("mae", "rmse", "r2"),
    "detect": (),
    "segment": (),
}


def summary(p: Predictions, task: Task) -> dict[str, float]:
    """Finite numbers only: an AUROC of one class alone, or an R2 of equal targets, is no figure and has no key."""
    match task:
        case "classify":
            found = _classify(known(p))
        case "tags":
            found = {
                "map": tags.over_labels(average_precision, p),
                "macro_f1": tags.macro_f1(p),
                "auroc": tags.over_labels(auroc, p),
                "loss": tags.binary_cross_entropy(p),
            }
        case "number":
            off = regression.errors(p)
            found = {} if off is None else {"mae": off.mae, "rmse": off.rmse, "r2": off.r2}
        case "detect" | "segment":
            found = {}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _classify(p: Predictions) -> Mapping[str, float | None]:
    if not len(p.ids):
        return {}
    table, logs = confusion(p), log_softmax(p.outputs)
    return {
        "top1": top(p, 1),
        "top5": top(p, 5),
        "loss": cross_entropy(p),
        "balanced_accuracy": balanced_accuracy(table),
        "macro_f1": macro_f1(table),
        "auroc": one_against_rest(auroc, logs, p.targets),
        "ece": reliability(p, logs=logs).ece,
    }
