"""What to do when a run waits for its pictures: one sentence, from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .workers import Measures

ENOUGH = 0.1  # share of the time spent waiting above which advice is worth a line
LARGE = 2.0  # megapixels from which decoding fewer of them helps more than anything else


@dataclass(frozen=True, kw_only=True)
class Situation:
    """How a run is fed."""

    waiting: float  # share of the run's time
    workers: int
    cores: int  # that this process may use
    measures: Measures
    megapixels: float | None = None  # of the pictures; None: not known


def advice(now: Situation) -> str:
    """Empty where the waiting is not worth a word."""
    if now.waiting <= ENOUGH:
        return ""
    cures = [_by_workers(now)]
    if now.megapixels is not None and now.megapixels >= LARGE:
        cures.append(f"pictures of {now.megapixels:.0f} megapixels: a resized copy of the data helps")
    return f"{now.waiting:.0%} of the time went to waiting for pictures: {'; '.join(cures)}"


def _by_workers(now: Situation) -> str:
    idle = 1 - now.measures.cpu / max(now.measures.wall, 1e-9)  # of the time that workers had something to do
    free = now.workers < now.cores
    if now.cores == 1:
        return "one core both decodes and computes, and there is no other: a machine with more cores helps"
    if now.workers == 0:
        half = max(1, now.cores // 2)
        return f"they are decoded between the steps: --workers {half} of {now.cores} cores would decode beside them"
    if idle > 0.5 and free:  # with every core taken it may as well be the cores that they wait for
        more = min(2 * now.workers, 4 * now.cores)
        why = f"the workers themselves wait for the disk or the network {idle:.0%} of their time"
        return f"{why}: --workers {more}, or a copy on this machine"
    if free:
        needed = math.ceil(now.workers / max(1 - now.waiting, 0.05))
        return f"--workers {min(now.cores, max(needed, now.workers + 1))} of {now.cores} cores"
    rate = now.measures.samples / max(now.measures.wall, 1e-9)
    return (
        f"all {now.cores} cores are taken by {now.workers} workers already, of {rate:,.0f} pictures a second each; "
        "only more cores or less to decode helps"
    )
