"""From a `Run` (plain settings) to objects: data, objective, evaluation. The only room that sees a whole run."""

from .built import (
    PREDICTIONS,
    QUARANTINE,
    Built,
    identity,
    loader_of,
    looked_at,
    objects,
    open_splits,
    outputs_of,
    settings,
)
from .derived import MIXES, Choices, backbone_of, class_weights, default_preprocess, derive, heads_of
from .run import FREE, Run

__all__ = [
    "FREE",
    "MIXES",
    "PREDICTIONS",
    "QUARANTINE",
    "Built",
    "Choices",
    "Run",
    "backbone_of",
    "class_weights",
    "default_preprocess",
    "derive",
    "heads_of",
    "identity",
    "loader_of",
    "looked_at",
    "objects",
    "open_splits",
    "outputs_of",
    "settings",
]
