"""Every position of the stream is accounted for: used or quarantined, and nothing else stood in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import TessellaError
from .samples import Made


@dataclass(frozen=True)
class Account:
    """What became of one epoch, as far as this process has read it."""

    epoch: int  # from 0
    used: int
    quarantined: int
    whole: bool  # every position of the epoch: one rank, from its first position on

    def __str__(self) -> str:
        part = "files" if self.whole else "files of this process's part"
        total = self.used + self.quarantined
        return f"epoch {self.epoch + 1}: {self.used:,} used + {self.quarantined:,} quarantined = {total:,} {part}"


class Ledger:
    """Counts what was delivered, by epoch, and compares it at the end of each with what the order says."""

    def __init__(self, length: int) -> None:
        self.length = length  # positions of an epoch
        self.used = self.quarantined = 0  # in all
        self.last: Account | None = None  # the epoch that ended last
        self._open: dict[int, Counter[str]] = {}

    def add(self, made: Made, name: Callable[[int], str]) -> list[Account]:
        """The epochs that end with this batch. Raises TessellaError when it does not hold exactly what it should."""
        keys, bad = made.task.keys, made.bad
        wanted = [name(key.sample) for place, key in enumerate(keys) if place not in bad]
        if made.batch["ids"] != wanted:
            raise TessellaError(f"a batch holds {_some(made.batch['ids'])}, but its positions are {_some(wanted)}")
        for epoch, count in Counter(key.epoch for key in keys).items():
            missing = sum(keys[place].epoch == epoch for place in bad)
            self._open.setdefault(epoch, Counter()).update(used=count - missing, quarantined=missing)
        self.used += len(wanted)
        self.quarantined += len(bad)
        return [self._close(epoch, positions) for epoch, positions in made.task.ends]

    def _close(self, epoch: int, positions: int) -> Account:
        counts = self._open.pop(epoch, Counter())
        used, quarantined = counts["used"], counts["quarantined"]
        if used + quarantined != positions:
            raise TessellaError(f"epoch {epoch + 1}: {used:,} used + {quarantined:,} quarantined is not {positions:,}")
        self.last = Account(epoch, used, quarantined, positions == self.length)
        return self.last


def _some(names: list[str]) -> str:
    return f"{len(names)} samples ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
