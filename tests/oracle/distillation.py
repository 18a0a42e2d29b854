"""What a teacher teaches, as the papers write it, one number at a time (arXiv 1503.02531, 2012.12877, 2205.14141)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .classification import log_probability

Numbers = Sequence[float]


def chosen(scores: Numbers, rows: Sequence[int]) -> list[float]:
    """What a teacher says of the classes of its student."""
    return [scores[row] for row in rows]


def soft(outputs: Sequence[Numbers], taught: Sequence[Numbers], temperature: float) -> float:
    """T^2 KL(p || q), p of the teacher and q of the student, both softened; the mean over samples."""
    total = 0.0
    for ours, theirs in zip(outputs, taught, strict=True):
        cool = [score / temperature for score in ours]
        goal = [score / temperature for score in theirs]
        for k in range(len(ours)):
            log_p, log_q = log_probability(goal, k), log_probability(cool, k)
            total += temperature * temperature * math.exp(log_p) * (log_p - log_q)
    return total / len(outputs)


def hard(outputs: Sequence[Numbers], taught: Sequence[Numbers]) -> float:
    """The mean of -log q at the class that the teacher says."""
    total = 0.0
    for ours, theirs in zip(outputs, taught, strict=True):
        best = 0
        for k in range(len(theirs)):
            best = k if theirs[k] > theirs[best] else best
        total -= log_probability(ours, best)
    return total / len(outputs)


def agreement(outputs: Sequence[Numbers], taught: Sequence[Numbers]) -> float:
    same = 0
    for ours, theirs in zip(outputs, taught, strict=True):
        same += list(ours).index(max(ours)) == list(theirs).index(max(theirs))
    return same / len(outputs)


def projected(vector: Numbers, weight: Sequence[Numbers], bias: Numbers) -> list[float]:
    return [b + math.fsum(w * x for w, x in zip(row, vector, strict=True)) for row, b in zip(weight, bias, strict=True)]


def cosine(a: Numbers, b: Numbers) -> float:
    """1 - cos"""
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 - product / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def evened(vector: Numbers) -> list[float]:
    """Mean 0, deviation 1."""
    mean = math.fsum(vector) / len(vector)
    variance = math.fsum((x - mean) ** 2 for x in vector) / len(vector)
    return [(x - mean) / math.sqrt(variance + 1e-5) for x in vector]


def smooth_l1(a: Numbers, b: Numbers, delta: float) -> float:
    """The mean over features; squared near 0, straight beyond delta, of slope 1 there."""
    total = 0.0
    for x, y in zip(evened(a), evened(b), strict=True):
        error = abs(x - y)
        total += error * error / (2 * delta) if error < delta else error - delta / 2
    return total / len(a)


def resized(values: Numbers, places: int) -> list[float]:
    """A line of numbers at another number of places: a triangle over what lies near, wide enough to miss nothing."""
    step = len(values) / places
    reach = max(1.0, step)
    out = []
    for i in range(places):
        weights = [max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * step) / reach) for j in range(len(values))]
        out.append(math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights))
    return out


def resized_map(rows: Sequence[Numbers], height: int, width: int) -> list[list[float]]:
    """First along each row, then along each column."""
    narrow = [resized(row, width) for row in rows]
    columns = [resized([row[x] for row in narrow], height) for x in range(width)]
    return [[column[y] for column in columns] for y in range(height)]
