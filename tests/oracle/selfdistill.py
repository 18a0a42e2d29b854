"""Self-distillation as its papers write it, one number at a time.

DINO: arXiv 2104.14294, equations 1, 2, 4 and algorithm 1. Sinkhorn: SwAV, arXiv 2006.09882, appendix A. iBOT: arXiv
2111.07832, equation 2. KoLeo: DINOv2, arXiv 2304.07193, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .classification import log_probability

Row = Sequence[float]


def answer(scores: Row, temperature: float, centre: Row | None = None) -> list[float]:
    off = [0.0] * len(scores) if centre is None else centre
    sharp = [(s - c) / temperature for s, c in zip(scores, off, strict=True)]
    return [math.exp(log_probability(sharp, k)) for k in range(len(sharp))]


def cross_entropy(target: Row, scores: Row, temperature: float) -> float:
    sharp = [s / temperature for s in scores]
    return -math.fsum(target[k] * log_probability(sharp, k) for k in range(len(sharp)))


def views(targets: Sequence[Sequence[Row]], scores: Sequence[Sequence[Row]], temperature: float) -> float:
    """targets: what the teacher says of each large view of each sample; scores: the student's, of all its views."""
    losses = []
    for taught, said in zip(targets, scores, strict=True):
        for g, target in enumerate(taught):
            for v, row in enumerate(said):
                if v != g:
                    losses.append(cross_entropy(target, row, temperature))
    return math.fsum(losses) / len(losses)


def moved(centre: Row, scores: Sequence[Row], momentum: float) -> list[float]:
    """The centre after a step in which the teacher had these scores."""
    return [
        momentum * c + (1 - momentum) * math.fsum(row[k] for row in scores) / len(scores) for k, c in enumerate(centre)
    ]


def sinkhorn(scores: Sequence[Row], temperature: float, rounds: int = 3) -> list[list[float]]:
    """As SwAV's listing: Q is prototypes by samples; at last each sample's column is a distribution."""
    samples, prototypes = len(scores), len(scores[0])
    q = [[math.exp(row[k] / temperature) for row in scores] for k in range(prototypes)]
    total = math.fsum(x for row in q for x in row)
    q = [[x / total for x in row] for row in q]
    for _ in range(rounds):
        sums = [math.fsum(row) for row in q]
        q = [[x / (sums[k] * prototypes) for x in row] for k, row in enumerate(q)]
        columns = [math.fsum(row[n] for row in q) for n in range(samples)]
        q = [[x / (columns[n] * samples) for n, x in enumerate(row)] for row in q]
    return [[q[k][n] * samples for k in range(prototypes)] for n in range(samples)]


def patches(
    targets: Sequence[Sequence[Row]],
    scores: Sequence[Sequence[Row]],
    hidden: Sequence[Sequence[bool]],
    temperature: float,
) -> float:
    """Of all patches of some pictures, of which some are hidden."""
    pictures = []
    for taught, said, which in zip(targets, scores, hidden, strict=True):
        losses = [cross_entropy(taught[p], said[p], temperature) for p, there in enumerate(which) if there]
        if losses:
            pictures.append(math.fsum(losses) / len(losses))
    return math.fsum(pictures) / len(pictures) if pictures else 0.0


def koleo(features: Sequence[Row]) -> float:
    """Of one view of some samples."""
    lengths = [math.sqrt(math.fsum(x * x for x in row)) for row in features]
    unit = [[x / length for x in row] for row, length in zip(features, lengths, strict=True)]
    losses = []
    for i, row in enumerate(unit):
        nearest = min(math.dist(row, other) for j, other in enumerate(unit) if j != i)
        losses.append(-math.log(nearest + 1e-8))
    return math.fsum(losses) / len(losses)


def entropy(answers: Row) -> float:
    return -math.fsum(p * math.log(p) for p in answers if p > 0)


def information(answers: Sequence[Row]) -> float:
    """How much an answer says about which of these it is, in shares of the most that an answer could say."""
    mean = [math.fsum(row[k] for row in answers) / len(answers) for k in range(len(answers[0]))]
    each = math.fsum(entropy(row) for row in answers) / len(answers)
    return (entropy(mean) - each) / math.log(len(mean))
