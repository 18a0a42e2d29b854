"""Which cut of a step fits into memory: found by measuring real steps, smallest first, and not by a formula.

Peaks of a process only rise, so sizes are tried upwards; two of them tell where to go next, because what a step takes
grows evenly with the samples that are in work at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SHARE = 0.9  # of a limit that is planned with: two runs alike differ by some hundredths, and steps to come by more
GOOD = 8  # samples at once from which a device is busy: below it, computing blocks twice is the better way
LEAP = 8  # times the largest size measured: what a smaller one says of a larger one is not believed
NOISE = 4 << 20  # bytes


class Measured(NamedTuple):
    micro: int  # samples at once
    peak: int | None  # bytes; None: memory ran out


def following(measured: Sequence[Measured], usable: int, most: int) -> int | None:
    """The next size to measure; None: no other one would tell more. `most`: samples of a whole step."""
    if not measured:
        return 1
    last, peak = measured[-1]
    if peak is None or peak > usable or last >= most:
        return None
    slope = _slope(measured)
    room = last * LEAP if slope <= 0 else min(last * LEAP, last + int((usable - peak) / slope))
    if len(measured) < 3:
        room = min(room, 2 * last)
    wanted = -(-most // -(-most // max(1, room))) if room < most else most  # parts of a step are alike in size
    return wanted if wanted > last else None


def _slope(measured: Sequence[Measured]) -> float:
    """Bytes a sample, from the two newest that differ by more than chance; 0: not known yet."""
    known = [(m, p) for m, p in measured if p is not None]
    for micro, peak in reversed(known[:-1]):
        if known[-1][1] - peak > NOISE:
            return (known[-1][1] - peak) / (known[-1][0] - micro)
    return 0.0


def largest(measured: Sequence[Measured], usable: int) -> Measured | None:
    fits = [m for m in measured if m.peak is not None and m.peak <= usable]
    return max(fits) if fits else None


Change = Mapping[str, Any]  # dotted key -> value


@dataclass(frozen=True)
class Plan:
    change: Change  # of the settings, beside train.accumulate
    micro: int
    peak: int


class Tried(NamedTuple):
    plan: Plan | None  # None: nothing fits
    least: int | None  # bytes that the smallest step took that could be measured at all


def search(
    measure: Callable[[Change], Sequence[Measured]],
    changes: Sequence[Change],
    usable: int,
    most: int,
    resorts: Sequence[Change] = (),
) -> Tried:
    """The first of `changes` (from nothing to the costliest) that keeps enough samples at once; else the best of them:
    the next one is taken only if it allows four times as many. `resorts` change what is learned: they are tried, one
    after the other, only where nothing else fits at all."""
    best: Plan | None = None
    least: int | None = None
    for change in (*changes, *resorts):
        if change in resorts and best is not None:
            break
        measured = measure(change)
        peaks = [m.peak for m in measured if m.peak is not None]
        least = min([*peaks, *([least] if least is not None else [])], default=None)
        found = largest(measured, usable)
        if found is not None and found.peak is not None and (best is None or found.micro >= 4 * best.micro):
            best = Plan(change, found.micro, found.peak)
        if best is not None and best.micro >= min(GOOD, most):
            break
    return Tried(best, least)
