"""What to do about classes of unequal size: nothing, weights in the loss, or another sampling; a rule and its reasons.

The thresholds are a rule of thumb, said aloud so that it can be argued with: below 3 : 1 training hardly notices; up to
10 : 1 weights mend the loss without repeating any picture; beyond, weights make single steps noisy, so rare classes
are drawn more often, by the root of their number, or equally often where they have pictures enough to bear it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

EVEN = 3.0  # largest : smallest up to which nothing is advised
MILD = 10.0  # ... up to which weights are
ENOUGH = 100  # pictures of the smallest class from which it may be shown as often as the largest
SCARCE = 10  # pictures below which no sampler helps

Remedy = Literal["nothing", "weights", "root", "classes"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to type, and why."""

    remedy: Remedy
    option: str  # for `tessella train`; empty: none
    why: str
    ratio: float  # largest : smallest class that has pictures
    weights: dict[str, float]  # by class, mean 1 over the pictures; what "weights" would use; empty classes left out

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def advise(counts: Mapping[str, int]) -> Advice:
    """From the number of training pictures of each class."""
    present = {name: n for name, n in counts.items() if n > 0}
    if len(present) < 2:
        return Advice(remedy="nothing", option="", why="fewer than two classes have pictures", ratio=1.0, weights={})
    (largest, most), (smallest, least) = max(present.items(), key=_size), min(present.items(), key=_size)
    ratio = most / least
    weights = {name: sum(present.values()) / (len(present) * n) for name, n in present.items()}
    told = f"{largest!r} has {most:,} pictures, {smallest!r} {least:,} ({ratio:.1f} : 1)"
    remedy: Remedy
    if ratio < EVEN:
        remedy, why, option = "nothing", f"{told}: below {EVEN:g} : 1", ""
    elif ratio < MILD:
        remedy, why = "weights", f"{told}: the loss can make up for that without repeating a picture"
        option = "--class-weights balanced"
    elif least >= ENOUGH:
        remedy, option = "classes", "--data.balance classes"
        why = f"{told}: each class is drawn as often, and {least:,} pictures bear being seen {_times(most, least)}"
    else:
        remedy, option = "root", "--data.balance root"
        why = f"{told}: drawn by the root of their number; equally often would repeat {least:,} pictures"
        why += f" {_times(most, least)}, and they would be learned by heart"
    if least < SCARCE:
        few = [name for name, n in present.items() if n < SCARCE]
        why += f"; {len(few)} of the classes have fewer than {SCARCE} pictures: collect more of them first"
    return Advice(remedy=remedy, option=option, why=why, ratio=ratio, weights=weights)


def _size(item: tuple[str, int]) -> int:
    return item[1]


def _times(most: int, least: int) -> str:
    return f"{most / least:.0f} times for once of the largest class"
