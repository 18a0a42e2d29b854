"""How unlike everything known a picture is, and from where on that is unusual: nobody has to know what is wrong.

The distance of a picture is the mean of 1 - cosine to its nearest known ones (k nearest neighbours in the embedding,
arXiv 2002.10445). The limit is a quantile of the distances of the known pictures, each to the others: of new good ones
about the rest is flagged by mistake, whatever the faults look like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from .neighbours import distances
from .predictions import Array


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    neighbours: int = 5
    quantile: float = 0.95  # share of known pictures that are to pass

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not 0 < self.quantile < 1:
            raise BadInput(f"neighbours is {self.neighbours}, quantile {self.quantile}; give 1 or more, and a share")


@dataclass(frozen=True, eq=False)
class Scores:
    values: Array  # (N,) distances; larger is stranger
    limit: float  # above it: flagged
    known: int  # pictures that they were compared with


def scores(known: Array, asked: Array, cfg: AnomalyConfig | None = None) -> Scores:
    """`known` (M, D) of good pictures, `asked` (N, D)."""
    cfg = cfg or AnomalyConfig()
    if len(known) < 2:
        raise BadInput(f"{len(known)} good pictures are too few to say what is usual; give 20 or more")
    own = distances(known, known, cfg.neighbours, itself=True)
    return Scores(distances(known, asked, cfg.neighbours), float(np.quantile(own, cfg.quantile)), len(known))
