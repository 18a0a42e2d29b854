"""How much features say, without any label: how many directions they use, and how far apart they lie.

A network that learns without labels can fall asleep: the loss goes down, and all pictures look alike to it. Then both
figures fall.
"""

from __future__ import annotations

import numpy as np

from .neighbours import unit
from .predictions import Array

TINY = 1e-7


def effective_rank(vectors: Array) -> float:
    """RankMe (arXiv 2210.02885): how many directions (N, D) features use, the exponential of the entropy of their
    singular values. From 1, all alike, up to D."""
    singular = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    if not singular.sum() > 0:
        return 1.0
    share = singular / singular.sum() + TINY
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(vectors: Array) -> float:
    """Deviation of the features of unit vectors, in units of what a cloud that fills the sphere evenly has (arXiv
    2011.10566): 0, all alike; 1, even."""
    if not len(vectors):
        return 0.0
    each = unit(vectors).astype(np.float64).std(axis=0)
    return float(each.mean() * np.sqrt(vectors.shape[1]))
